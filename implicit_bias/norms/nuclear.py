"""The nuclear norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from implicit_bias.norms.base import NORMS, Norm
from implicit_bias.norms.singular import rank_one, singular_values
from implicit_bias.norms.vectors import project_simplex_like

if TYPE_CHECKING:
    import cvxpy


@NORMS.register
@dataclass(frozen=True)
class Nuclear(Norm):
    """Nuclear norm, the sum of singular values; its steepest descent is NucGD, rank-one steps.

    N(W) = sum of singular values, N_*(G) = sigma_1, direction = u_1 v_1^T.
    """

    name: ClassVar[str] = "nuclear"
    unitarily_invariant: ClassVar[bool] = True

    def value(self, w: Tensor) -> Tensor:
        return self.value_of(singular_values(w))

    def dual(self, g: Tensor) -> Tensor:
        return self.dual_of(singular_values(g))

    @staticmethod
    def value_of(s: Tensor) -> Tensor:
        """N(W) from the singular values of W, (..., min(p, q)), descending."""
        return s.sum(dim=-1)

    @staticmethod
    def dual_of(s: Tensor) -> Tensor:
        """N_*(G) from the singular values of G, (..., min(p, q)), descending."""
        return s[..., 0]

    def direction(self, g: Tensor) -> Tensor:
        return rank_one(g)

    def project(self, w: Tensor) -> Tensor:
        u, s, vh = torch.linalg.svd(w, full_matrices=False)
        nearest: Tensor = (u * project_simplex_like(s).unsqueeze(-2)) @ vh
        return nearest

    def expression(self, variable: cvxpy.Expression) -> cvxpy.Expression:
        import cvxpy

        return cvxpy.normNuc(variable)
