"""The sum norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from implicit_bias.norms.base import NORMS, Norm, flat, one_hot_largest
from implicit_bias.norms.vectors import project_lp

if TYPE_CHECKING:
    import cvxpy


@NORMS.register
@dataclass(frozen=True)
class L1(Norm):
    """Sum norm, the sum of absolute entries; its steepest descent is coordinate descent.

    N(W) = sum |W_ij|, N_*(G) = max |G_ij|, direction = sign(G_ij) at one largest entry (the first), 0 elsewhere.
    """

    name: ClassVar[str] = "l1"
    entrywise: ClassVar[bool] = True

    def value(self, w: Tensor) -> Tensor:
        return w.abs().sum(dim=(-2, -1))

    def dual(self, g: Tensor) -> Tensor:
        return g.abs().amax(dim=(-2, -1))

    def direction(self, g: Tensor) -> Tensor:
        return one_hot_largest(flat(g)).reshape(g.shape)

    def project(self, w: Tensor) -> Tensor:
        return project_lp(flat(w), 1).reshape(w.shape)

    def expression(self, variable: cvxpy.Expression) -> cvxpy.Expression:
        import cvxpy

        return cvxpy.sum(cvxpy.abs(variable))
