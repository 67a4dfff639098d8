"""Hybrid norms: matrices under the spectral norm, all other parameters under another, composed by a maximum or in l2."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor

from implicit_bias.core.registry import hyper
from implicit_bias.norms.base import NORMS, Norm, format_number
from implicit_bias.norms.layer_weights import RMS, SUFFIX, LayerWeighted
from implicit_bias.norms.spectral import Spectral

if TYPE_CHECKING:
    import cvxpy


OUTER, REST = ("max", "l2"), ("linf", "l2")


@NORMS.register
@dataclass(frozen=True)
class Hybrid(LayerWeighted):
    """Hybrid norm max(r max_k ||W_k||_spectral, ||u||_inf) of hidden matrices W_k and all other parameters u, r = ratio.

    Muon with rate eta on the matrices and Adam or Signum with rate r eta on the rest are steepest descent in it (Gronich and
    Vardi, arXiv 2602.16340). Its dual is (1 / r) sum_k ||G_k||_nuclear + ||h||_1. With outer=l2 the parts are composed in l2
    instead, sqrt(sum_k (r ||W_k||_spectral)^2 + ||u||^2) with the dual sqrt(sum_k (||G_k||_nuclear / r)^2 + ||h||_*^2); with
    rest=l2 the norm of u is its l2 norm (Crawshaw et al., arXiv 2510.09827, section 3). A single matrix, as in a linear model of
    one block, is a W_1 without u: r times the spectral norm. :func:`implicit_bias.norms.over_blocks` makes the norm of a
    parameter set.

    ``layer_weights=rms`` puts sqrt(columns / rows) ||W_k||_spectral in the place of ||W_k||_spectral, the weights of the modular
    norm; the rest, one vector, has none. ``ratio`` says what mass all matrices have beside it.

    Labels: ``hybrid0.1`` for the maximum with the max-norm, else ``hybrid0.1-l2-linf`` (ratio, outer, rest); with weights
    ``hybrid0.1-rms``, ``hybrid0.1-l2-linf-rms``.
    """

    name: ClassVar[str] = "hybrid"

    ratio: float = hyper(0.1, help="r, the rate of the rest over the rate of the matrices", gt=0, batch=False)
    outer: Literal["max", "l2"] = hyper("max", help="what composes the parts: their maximum or their l2 norm", choices=OUTER)
    rest: Literal["linf", "l2"] = hyper("linf", help="the norm of all parameters outside the matrices", choices=REST)

    @property
    def label(self) -> str:
        label = f"{self.name}{format_number(self.ratio)}"
        parts = "" if (self.outer, self.rest) == (OUTER[0], REST[0]) else f"-{self.outer}-{self.rest}"
        return f"{label}{parts}{self.suffix}"

    @classmethod
    def keys_of(cls, suffix: str) -> dict[str, Any] | None:
        found = re.fullmatch(rf"(.+?)(?:-({'|'.join(OUTER)})-({'|'.join(REST)}))?({SUFFIX})?", suffix)
        if found is None:
            return None
        outer, rest, weights = found[2] or OUTER[0], found[3] or REST[0], RMS if found[4] else None
        try:
            return {"ratio": float(found[1]), "outer": outer, "rest": rest, "layer_weights": weights}
        except ValueError:
            return None

    @classmethod
    def label_form(cls) -> str:
        return f"{cls.name}<ratio>[-<outer>-<rest>][{SUFFIX}]"

    @property
    def saturating(self) -> bool:
        return True

    def of_shape(self, rows: int, columns: int) -> Norm:
        return replace(self.unweighted, ratio=self.ratio * self.weight(rows, columns)) if self.weighted else self

    def value(self, w: Tensor) -> Tensor:
        return self.ratio * self._matrix.value(w)

    def dual(self, g: Tensor) -> Tensor:
        return self._matrix.dual(g) / self.ratio

    def direction(self, g: Tensor) -> Tensor:
        return self._matrix.direction(g) / self.ratio

    def project(self, w: Tensor) -> Tensor:
        return self._matrix.project(self.ratio * w) / self.ratio

    def clipped(self, w: Tensor) -> tuple[Tensor, float]:
        numbers, factor = self._matrix.clipped(w)
        return numbers, self.ratio * factor

    def expression(self, variable: cvxpy.Expression) -> cvxpy.Expression:
        return self.ratio * self._matrix.expression(variable)

    @property
    def _matrix(self) -> Spectral:
        """The norm of a matrix, without the ratio."""
        return Spectral(layer_weights=self.layer_weights)
