"""The row norm (2, inf)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from implicit_bias.core.scaled import Scaled
from implicit_bias.norms.base import NORMS, Norm
from implicit_bias.norms.vectors import lp_value, project_lp

if TYPE_CHECKING:
    import cvxpy


@NORMS.register
@dataclass(frozen=True)
class Row(Norm):
    """Row norm (2,inf), the largest Euclidean norm of a row; its steepest descent normalises every row.

    N(W) = max_r ||W_r||_2, N_*(G) = sum_r ||G_r||_2, direction = every row divided by its norm (a zero row stays zero).
    """

    name: ClassVar[str] = "row"

    @property
    def saturating(self) -> bool:
        return True

    def value(self, w: Tensor) -> Tensor:
        return lp_value(w, 2).amax(dim=-1)

    def dual(self, g: Tensor) -> Tensor:
        return lp_value(g, 2).sum(dim=-1)

    def direction(self, g: Tensor) -> Tensor:
        size = g.abs().amax(dim=-1, keepdim=True)
        unit = g / torch.where(size == 0, torch.ones_like(size), size)
        norm = torch.linalg.vector_norm(unit, dim=-1, keepdim=True)
        return unit / torch.where(size == 0, torch.ones_like(norm), norm)

    def scaled_direction(self, g: Scaled) -> Tensor:
        # Each row in units of its own largest scale: rows far smaller than others keep their direction.
        top = g.log_scale.amax(dim=-1, keepdim=True)
        return self.direction(g.relative_to(torch.where(torch.isfinite(top), top, torch.zeros_like(top))))

    def project(self, w: Tensor) -> Tensor:
        return project_lp(w, 2)

    def clipped(self, w: Tensor) -> tuple[Tensor, float]:
        return lp_value(w, 2), 1.0

    def expression(self, variable: cvxpy.Expression) -> cvxpy.Expression:
        import cvxpy

        return cvxpy.max(cvxpy.norm(variable, 2, axis=1))
