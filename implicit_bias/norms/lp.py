"""The entrywise l_p norms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from implicit_bias.core.registry import hyper
from implicit_bias.core.scaled import Scaled
from implicit_bias.norms.base import NORMS, Norm, flat, one_hot_largest
from implicit_bias.norms.vectors import (
    Exponent,
    conjugate,
    is_inf,
    is_one,
    lp_direction_log,
    lp_value,
    project_lp,
    square_convexity,
)

if TYPE_CHECKING:
    import cvxpy


@NORMS.register
@dataclass(frozen=True)
class Lp(Norm):
    """Entrywise l_p norm with any p in [1, inf] (norm.p).

    N(W) = (sum |W_ij|^p)^(1/p), N_* = l_q with 1/p + 1/q = 1, direction = sign(G) |G|^(q-1) / ||G||_q^(q-1).
    """

    name: ClassVar[str] = "lp"
    entrywise: ClassVar[bool] = True

    p: Exponent = hyper(3.0, help="exponent p", ge=1, allow_inf=True)

    @property
    def smooth(self) -> bool:
        return not (is_one(self.p) or is_inf(self.p))

    @property
    def saturating(self) -> bool:
        return is_inf(self.p)

    @property
    def strong_convexity(self) -> float | Tensor:
        return square_convexity(self.p)

    @property
    def dual_norm(self) -> Lp | None:
        return Lp(conjugate(self.p)) if self.smooth else None

    def value(self, w: Tensor) -> Tensor:
        return lp_value(flat(w), self.p)

    def dual(self, g: Tensor) -> Tensor:
        return lp_value(flat(g), conjugate(self.p))

    def direction(self, g: Tensor) -> Tensor:
        return self._direction(g.sign(), g, g.abs().log())

    def scaled_direction(self, g: Scaled) -> Tensor:
        return self._direction(g.mantissa.sign(), g.collapse(), g.log_abs())

    def _direction(self, sign: Tensor, g: Tensor, log_abs: Tensor) -> Tensor:
        if is_inf(self.p):
            return sign
        if is_one(self.p):
            return one_hot_largest(flat(g)).reshape(g.shape)
        return lp_direction_log(flat(sign), flat(log_abs), self.p).reshape(g.shape)

    def project(self, w: Tensor) -> Tensor:
        return project_lp(flat(w), self.p).reshape(w.shape)

    def expression(self, variable: cvxpy.Expression) -> cvxpy.Expression:
        import cvxpy

        return cvxpy.pnorm(cvxpy.vec(variable, order="C"), self.p, approx=False)
