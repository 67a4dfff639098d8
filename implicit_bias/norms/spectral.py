"""The spectral norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from implicit_bias.norms.base import NORMS, Norm
from implicit_bias.norms.layer_weights import RMS, SUFFIX, LayerWeighted
from implicit_bias.norms.singular import polar, singular_values

if TYPE_CHECKING:
    import cvxpy


@NORMS.register
@dataclass(frozen=True)
class Spectral(LayerWeighted):
    """Spectral norm, the largest singular value; its steepest descent is spectral descent (Muon with momentum).

    N(W) = sigma_1, N_*(G) = sum of singular values, direction = the truncated polar factor U_r V_r^T. With ``layer_weights=rms``,
    label ``spectral-rms``, it is the operator norm from the root mean square to the root mean square, s sigma_1 with s =
    sqrt(columns / rows), of dual norm (sum of singular values) / s and direction U_r V_r^T / s.
    """

    name: ClassVar[str] = "spectral"

    @property
    def label(self) -> str:
        return f"{self.name}{self.suffix}"

    @classmethod
    def keys_of(cls, suffix: str) -> dict[str, Any] | None:
        return {"layer_weights": RMS} if suffix == SUFFIX else None

    @classmethod
    def label_form(cls) -> str:
        return f"{cls.name}[{SUFFIX}]"

    def of_shape(self, rows: int, columns: int) -> Norm:
        from implicit_bias.norms.hybrid import Hybrid  # which is made of this one

        return Hybrid(self.weight(rows, columns)) if self.weighted else self

    @property
    def saturating(self) -> bool:
        return True

    def value(self, w: Tensor) -> Tensor:
        return self.times_weight(self.value_of(singular_values(w)), w)

    def dual(self, g: Tensor) -> Tensor:
        return self.times_weight(self.dual_of(singular_values(g)), g, -1)

    @staticmethod
    def value_of(s: Tensor) -> Tensor:
        """N(W) without weights from the singular values of W, (..., min(p, q)), descending."""
        return s[..., 0]

    @staticmethod
    def dual_of(s: Tensor) -> Tensor:
        """N_*(G) without weights from the singular values of G, (..., min(p, q)), descending."""
        return s.sum(dim=-1)

    def direction(self, g: Tensor) -> Tensor:
        return self.times_weight(polar(g), g, -1)

    def project(self, w: Tensor) -> Tensor:
        u, s, vh = torch.linalg.svd(w, full_matrices=False)
        nearest: Tensor = (u * s.clamp(max=1 / self.weight(*w.shape[-2:])).unsqueeze(-2)) @ vh
        return nearest

    def clipped(self, w: Tensor) -> tuple[Tensor, float]:
        return singular_values(w), self.weight(*w.shape[-2:])

    def expression(self, variable: cvxpy.Expression) -> cvxpy.Expression:
        import cvxpy

        size = cvxpy.sigma_max(variable)
        return self.weight(*variable.shape) * size if self.weighted else size
