"""The spectral norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from implicit_bias.norms.base import NORMS, Norm
from implicit_bias.norms.singular import polar, singular_values

if TYPE_CHECKING:
    import cvxpy


@NORMS.register
@dataclass(frozen=True)
class Spectral(Norm):
    """Spectral norm, the largest singular value; its steepest descent is spectral descent (Muon with momentum).

    N(W) = sigma_1, N_*(G) = sum of singular values, direction = the truncated polar factor U_r V_r^T.
    """

    name: ClassVar[str] = "spectral"
    unitarily_invariant: ClassVar[bool] = True

    @property
    def saturating(self) -> bool:
        return True

    def value(self, w: Tensor) -> Tensor:
        return singular_values(w)[..., 0]

    def dual(self, g: Tensor) -> Tensor:
        return singular_values(g).sum(dim=-1)

    def direction(self, g: Tensor) -> Tensor:
        return polar(g)

    def project(self, w: Tensor) -> Tensor:
        u, s, vh = torch.linalg.svd(w, full_matrices=False)
        nearest: Tensor = (u * s.clamp(max=1).unsqueeze(-2)) @ vh
        return nearest

    def clipped(self, w: Tensor) -> tuple[Tensor, float]:
        return singular_values(w), 1.0

    def expression(self, variable: cvxpy.Expression) -> cvxpy.Expression:
        import cvxpy

        return cvxpy.sigma_max(variable)
