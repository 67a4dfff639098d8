"""The hybrid norm of Muon-Signum and Muon-Adam."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from implicit_bias.norms.base import NORMS, Norm
from implicit_bias.norms.spectral import Spectral
from implicit_bias.registry import hyper

if TYPE_CHECKING:
    import cvxpy


@NORMS.register
@dataclass(frozen=True)
class Hybrid(Norm):
    """Hybrid norm max(r max_k ||W_k||_spectral, ||u||_inf) of hidden matrices W_k and all other parameters u, r = ratio.

    Muon with rate eta on the matrices and Adam or Signum with rate r eta on the rest are steepest descent in it (Gronich and
    Vardi, arXiv 2602.16340). Its dual is (1 / r) sum_k ||G_k||_nuclear + ||h||_1. A single matrix, as in a linear model, is a
    W_1 without u: r times the spectral norm. :func:`implicit_bias.norms.over_blocks` makes the norm of a parameter set.
    """

    name: ClassVar[str] = "hybrid"
    unitarily_invariant: ClassVar[bool] = True

    ratio: float = hyper(0.1, help="r, the rate of the rest over the rate of the matrices", gt=0, batch=False)

    @property
    def saturating(self) -> bool:
        return True

    def value(self, w: Tensor) -> Tensor:
        return self.ratio * Spectral().value(w)

    def dual(self, g: Tensor) -> Tensor:
        return Spectral().dual(g) / self.ratio

    def direction(self, g: Tensor) -> Tensor:
        return Spectral().direction(g) / self.ratio

    def project(self, w: Tensor) -> Tensor:
        return Spectral().project(self.ratio * w) / self.ratio

    def expression(self, variable: cvxpy.Expression) -> cvxpy.Expression:
        return self.ratio * Spectral().expression(variable)
