"""The column norm (1, 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from implicit_bias.core.scaled import Scaled
from implicit_bias.norms.base import NORMS, Norm
from implicit_bias.norms.row import Row
from implicit_bias.norms.vectors import lp_value

if TYPE_CHECKING:
    import cvxpy


@NORMS.register
@dataclass(frozen=True)
class Column(Norm):
    """Column norm (1,2), the largest Euclidean norm of a column: the operator norm from l1 to l2, the row norm of the transpose.

    N(W) = max_j ||W_:j||_2, N_*(G) = sum_j ||G_:j||_2, direction = every column divided by its norm (a zero column stays zero).
    Up to a constant it is the modular norm of an embedding (Bernstein and Newhouse, arXiv 2410.21265, section 4).
    """

    name: ClassVar[str] = "column"

    @property
    def saturating(self) -> bool:
        return True

    def value(self, w: Tensor) -> Tensor:
        return Row().value(w.mT)

    def dual(self, g: Tensor) -> Tensor:
        return Row().dual(g.mT)

    def direction(self, g: Tensor) -> Tensor:
        return Row().direction(g.mT).mT

    def scaled_direction(self, g: Scaled) -> Tensor:
        # Each column in units of its own largest scale.
        top = g.log_scale.expand_as(g.mantissa).masked_fill(g.mantissa == 0, float("-inf")).amax(dim=-2, keepdim=True)
        return self.direction(g.relative_to(top.masked_fill(~top.isfinite(), 0.0)))

    def project(self, w: Tensor) -> Tensor:
        return Row().project(w.mT).mT

    def clipped(self, w: Tensor) -> tuple[Tensor, float]:
        return lp_value(w.mT, 2), 1.0

    def expression(self, variable: cvxpy.Expression) -> cvxpy.Expression:
        return Row().expression(variable.T)
