"""The max-norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from implicit_bias.core.scaled import Scaled
from implicit_bias.norms.base import NORMS, Norm, flat

if TYPE_CHECKING:
    import cvxpy


@NORMS.register
@dataclass(frozen=True)
class Linf(Norm):
    """Max-norm, the largest absolute entry; its steepest descent is sign descent.

    N(W) = max |W_ij|, N_*(G) = sum |G_ij|, direction = sign(G).
    """

    name: ClassVar[str] = "linf"
    entrywise: ClassVar[bool] = True

    @property
    def saturating(self) -> bool:
        return True

    @property
    def separable(self) -> bool:
        return type(self).direction is Linf.direction and type(self).scaled_direction is Linf.scaled_direction

    def value(self, w: Tensor) -> Tensor:
        return w.abs().amax(dim=(-2, -1))

    def dual(self, g: Tensor) -> Tensor:
        return g.abs().sum(dim=(-2, -1))

    def direction(self, g: Tensor) -> Tensor:
        return g.sign()

    def scaled_direction(self, g: Scaled) -> Tensor:
        # The sign of the mantissa is the sign of the entry, however small the entry is.
        return g.mantissa.sign()

    def project(self, w: Tensor) -> Tensor:
        return w.clamp(-1, 1)

    def clipped(self, w: Tensor) -> tuple[Tensor, float]:
        return flat(w).abs(), 1.0

    def expression(self, variable: cvxpy.Expression) -> cvxpy.Expression:
        import cvxpy

        return cvxpy.max(cvxpy.abs(variable))
