"""The gap of Frank and Wolfe: how far a run with weight decay is from the best point of the ball that it is held in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from implicit_bias.measures.margins import inner
from implicit_bias.measures.probe import Columns, Probe, Record
from implicit_bias.models import Gradient, Parameters
from implicit_bias.norms import ParameterNorm


@dataclass
class FrankWolfeGap(Probe):
    """The column ``fw_gap`` = (<g, theta> + B N_*(g)) / L, g = grad L, B = 1 / weight_decay, in the optimizer's own norm.

    It is >= 0 for N(theta) <= B, and zero exactly where theta is stationary on the ball N <= B (Jaggi, ICML 2013). What it proves
    of a linear model says :func:`excess_bound`.

    Attributes:
        norm: N, on the parameter set.
        radius: B of each run, a number or (R, 1, 1); inf where there is no ball: the column is empty there.
    """

    name: ClassVar[str] = "fw_gap"

    norm: ParameterNorm
    radius: Tensor | float

    def measure(self, record: Record) -> Columns:
        return {"fw_gap": relative_gap(record.parameters, record.gradient, self.norm, self.radius)}


def relative_gap(parameters: Parameters, gradient: Gradient, norm: ParameterNorm, radius: Tensor | float) -> Tensor:
    """(<g, theta> + B N_*(g)) / L, exact at any depth of the loss.

    Args:
        parameters: theta, one tensor (R, p, q) a block.
        gradient: The loss L and its gradient g there.
        norm: N, on the parameter set.
        radius: B, a number or one a run, (R,) or (R, 1, 1).

    Returns:
        The gaps, (R,); nan where B is infinite.
    """
    c = gradient.per_weight()  # -g in units of the sum of the weights, which is of the order of L
    size = norm.dual(c)
    ball = torch.as_tensor(radius, dtype=size.dtype, device=size.device).flatten().expand_as(size)
    gap = (ball * size - inner(parameters, c)) * (gradient.log_weight - gradient.log_loss).exp()
    return torch.where(ball.isfinite(), gap, torch.full_like(gap, torch.nan))


def excess_bound(gap: Tensor, log_convex: bool) -> Tensor:
    """An upper bound on log L - log L*, L* the least loss of a linear model in the ball.

    gap itself where log L is convex, as of the exponential loss, a sum of exponentials; where L alone is, L* >= L (1 - gap), so
    -log(1 - gap), which says nothing from gap = 1 on.

    Args:
        gap: ``fw_gap``, any shape.
        log_convex: Whether log L is a convex function of theta.

    Returns:
        The bounds, the same shape; inf where there is none.
    """
    if log_convex:
        return gap
    return torch.where(gap < 1, -torch.log1p(-gap.clamp(max=1)), torch.full_like(gap, torch.inf))
