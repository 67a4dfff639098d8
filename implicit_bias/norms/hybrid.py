"""Hybrid norms: matrices under the spectral norm, all other parameters under another, composed by a maximum or in l2."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor

from implicit_bias.core.registry import hyper
from implicit_bias.norms.base import NORMS, Norm, format_number
from implicit_bias.norms.spectral import Spectral

if TYPE_CHECKING:
    import cvxpy


OUTER, REST = ("max", "l2"), ("linf", "l2")


@NORMS.register
@dataclass(frozen=True)
class Hybrid(Norm):
    """Hybrid norm max(r max_k ||W_k||_spectral, ||u||_inf) of hidden matrices W_k and all other parameters u, r = ratio.

    Muon with rate eta on the matrices and Adam or Signum with rate r eta on the rest are steepest descent in it (Gronich and
    Vardi, arXiv 2602.16340). Its dual is (1 / r) sum_k ||G_k||_nuclear + ||h||_1. With outer=l2 the parts are composed in l2
    instead, sqrt(sum_k (r ||W_k||_spectral)^2 + ||u||^2) with the dual sqrt(sum_k (||G_k||_nuclear / r)^2 + ||h||_*^2); with
    rest=l2 the norm of u is its l2 norm (Crawshaw et al., arXiv 2510.09827, section 3). A single matrix, as in a linear model of
    one block, is a W_1 without u: r times the spectral norm. :func:`implicit_bias.norms.over_blocks` makes the norm of a
    parameter set.

    Labels: ``hybrid0.1`` for the maximum with the max-norm, else ``hybrid0.1-l2-linf`` (ratio, outer, rest).
    """

    name: ClassVar[str] = "hybrid"
    unitarily_invariant: ClassVar[bool] = True

    ratio: float = hyper(0.1, help="r, the rate of the rest over the rate of the matrices", gt=0, batch=False)
    outer: Literal["max", "l2"] = hyper("max", help="what composes the parts: their maximum or their l2 norm", choices=OUTER)
    rest: Literal["linf", "l2"] = hyper("linf", help="the norm of all parameters outside the matrices", choices=REST)

    @property
    def label(self) -> str:
        label = f"{self.name}{format_number(self.ratio)}"
        return label if (self.outer, self.rest) == (OUTER[0], REST[0]) else f"{label}-{self.outer}-{self.rest}"

    @classmethod
    def keys_of(cls, suffix: str) -> dict[str, Any] | None:
        found = re.fullmatch(rf"(.+?)(?:-({'|'.join(OUTER)})-({'|'.join(REST)}))?", suffix)
        try:
            return found and {"ratio": float(found[1]), "outer": found[2] or OUTER[0], "rest": found[3] or REST[0]}
        except ValueError:
            return None

    @classmethod
    def label_form(cls) -> str:
        return f"{cls.name}<ratio>[-<outer>-<rest>]"

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

    def clipped(self, w: Tensor) -> tuple[Tensor, float]:
        numbers, factor = Spectral().clipped(w)
        return numbers, self.ratio * factor

    def expression(self, variable: cvxpy.Expression) -> cvxpy.Expression:
        return self.ratio * Spectral().expression(variable)
