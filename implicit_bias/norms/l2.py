"""The Euclidean (Frobenius) norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from implicit_bias.norms.base import NORMS, Norm, flat, normalised
from implicit_bias.norms.vectors import lp_value, project_lp

if TYPE_CHECKING:
    import cvxpy


@NORMS.register
@dataclass(frozen=True)
class L2(Norm):
    """Euclidean (Frobenius) norm; its steepest descent is normalised gradient descent.

    N(W) = N_*(W) = sqrt(sum W_ij^2), direction = G / ||G||_2.
    """

    name: ClassVar[str] = "l2"
    entrywise: ClassVar[bool] = True
    unitarily_invariant: ClassVar[bool] = True

    @property
    def smooth(self) -> bool:
        return True

    @property
    def strong_convexity(self) -> float:
        return 1.0

    @property
    def dual_norm(self) -> L2:
        return self

    def value(self, w: Tensor) -> Tensor:
        return lp_value(flat(w), 2)

    def dual(self, g: Tensor) -> Tensor:
        return self.value(g)

    def direction(self, g: Tensor) -> Tensor:
        g, size = normalised(g)
        # Largest entry 1, so the norm is at least 1 unless g is 0, where the direction is 0.
        norm = torch.linalg.vector_norm(g, dim=(-2, -1), keepdim=True)
        unit: Tensor = g / norm.masked_fill(size == 0, 1.0)
        return unit

    def project(self, w: Tensor) -> Tensor:
        return project_lp(flat(w), 2).reshape(w.shape)

    def clipped(self, w: Tensor) -> tuple[Tensor, float]:
        return self.value(w).unsqueeze(-1), 1.0

    def expression(self, variable: cvxpy.Expression) -> cvxpy.Expression:
        import cvxpy

        return cvxpy.norm(variable, "fro")
