"""The l_p norm over units of the l2 norm of a unit's weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from implicit_bias.core.registry import hyper
from implicit_bias.core.scaled import Scaled
from implicit_bias.norms.base import NORMS, Norm, one_hot_largest
from implicit_bias.norms.row import Row
from implicit_bias.norms.vectors import Exponent, conjugate, is_inf, is_one, lp_direction_log, lp_value, project_lp

if TYPE_CHECKING:
    import cvxpy


@NORMS.register
@dataclass(frozen=True)
class Neuron(Norm):
    """Norm (2,p): l_p over units of the l2 norm of all weights of a unit, p in [1, inf] (norm.p).

    N(W) = (sum_r ||W_r||_2^p)^(1/p), N_* the same with q, 1/p + 1/q = 1, direction: row r is W_r / ||W_r||_2 times entry r of
    the l_p direction of the rows' lengths. A unit is a row of a single matrix. In a network with one hidden layer it is a hidden
    unit, with the weights that come in and those that go out (:class:`implicit_bias.norms.units.UnitNorm`); with p the degree
    of a unit it is the norm of Morwani et al., arXiv 2311.07568, whose unit ball is spanned by single units.
    """

    name: ClassVar[str] = "neuron"
    of_units: ClassVar[bool] = True

    p: Exponent = hyper(3.0, help="exponent p over units", ge=1, allow_inf=True)

    @property
    def smooth(self) -> bool:
        return not (is_one(self.p) or is_inf(self.p))

    @property
    def saturating(self) -> bool:
        return is_inf(self.p)

    def value(self, w: Tensor) -> Tensor:
        return lp_value(lp_value(w, 2), self.p)

    def dual(self, g: Tensor) -> Tensor:
        return lp_value(lp_value(g, 2), conjugate(self.p))

    def direction(self, g: Tensor) -> Tensor:
        return self._direction(Row().direction(g), lp_value(g, 2).log())

    def scaled_direction(self, g: Scaled) -> Tensor:
        # Each row in units of its own largest scale, and the rows' lengths in logarithms.
        scales = g.log_scale.expand_as(g.mantissa).masked_fill(g.mantissa == 0, float("-inf"))
        top = scales.amax(dim=-1, keepdim=True)
        top = top.masked_fill(~top.isfinite(), 0.0)
        unit = g.relative_to(top)
        return self._direction(Row().direction(unit), lp_value(unit, 2).log() + top.squeeze(-1))

    def _direction(self, rows: Tensor, log_lengths: Tensor) -> Tensor:
        """The direction from rows of length one (or 0) and the logarithms of their lengths (..., p)."""
        if is_inf(self.p):
            return rows
        if is_one(self.p):
            # The largest of the logarithms, lifted above 0 so that their sizes have its order.
            known = log_lengths.isfinite()
            least = log_lengths.masked_fill(~known, float("inf")).amin(dim=-1, keepdim=True)
            sizes = one_hot_largest(torch.where(known, log_lengths - least + 1, torch.zeros_like(log_lengths)))
        else:
            sizes = lp_direction_log(log_lengths.isfinite().to(rows.dtype), log_lengths, self.p)
        return rows * sizes.unsqueeze(-1)

    def project(self, w: Tensor) -> Tensor:
        return Row().direction(w) * project_lp(lp_value(w, 2), self.p).unsqueeze(-1)

    def expression(self, variable: cvxpy.Expression) -> cvxpy.Expression:
        import cvxpy

        return cvxpy.pnorm(cvxpy.norm(variable, 2, axis=1), self.p, approx=False)
