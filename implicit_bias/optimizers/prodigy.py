"""Prodigy: Adam, or sign descent, whose rate is estimated from how far it has come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from implicit_bias.core.registry import hyper
from implicit_bias.core.scaled import Scaled, average, root_mean_square
from implicit_bias.norms import ParameterNorm
from implicit_bias.optimizers.base import OPTIMIZERS, Blocks, Here, Number, Optimizer, State, Step

FIRST, SECOND_ROOT, SUM = "first_moment", "second_moment_root", "distance_denominator"
NUMERATOR, DISTANCE, START = "distance_numerator", "distance", "start"
#: The block of buffers that are one number a run.
ALL = "all"


@OPTIMIZERS.register
@dataclass(frozen=True)
class Prodigy(Optimizer):
    """Prodigy, Adam with an estimated distance d in its rate (sign descent with ema=false); no margin of its own.

    With a_t = d_t^2 eta_t and b3 = sqrt(beta2): r <- b3 r + (1 - b3) a_t <g_t, theta_0 - theta_{t-1}>, s <- b3 s + (1 - b3)
    a_t g_t, d_{t+1} = max(d_t, r / |s|_1) from d_1 = d0; m and v are Adam's moments of d_t g_t, without bias correction, and
    theta <- theta - eta_t d_t m / sqrt(v), 0/0 := 0 (Mishchenko and Defazio, arXiv 2306.06101, Algorithm 4, with eps = 0).
    Without averages the step is eta_t d_t sign(g_t) with d_{t+1} = max(d_t, <g_t, theta_0 - theta_{t-1}> / |g_t|_1)
    (Bernstein and Newhouse, arXiv 2409.20325, section 4), and on a linear loss with eta = 1 d is d0 times Fibonacci's
    numbers. schedule.lr=auto is 1, the published rate; the published schedule is constant.
    """

    name: ClassVar[str] = "prodigy"
    buffers: ClassVar[tuple[str, ...]] = (FIRST, SECOND_ROOT, SUM)

    beta1: Number = hyper(0.9, help="weight of the past in the average of gradients", ge=0, lt=1)
    beta2: Number = hyper(0.999, help="weight of the past in the average of squared gradients", ge=0, lt=1)
    d0: Number = hyper(1e-6, help="the first distance, which has to be below the true one", gt=0)
    ema: bool = hyper(True, help="false: no averages, steps are signs of the gradient, beta1 and beta2 are not used")

    @classmethod
    def reads_norm(cls) -> bool:
        return False

    @property
    def working_norm(self) -> str:
        return "linf"

    @property
    def rate(self) -> float:
        """The distance is estimated: a rate is a factor of it."""
        return 1.0

    def init(self, gradient: Blocks) -> State:
        one = torch.ones_like(next(iter(gradient.values())).mantissa[:, :1, :1])
        d0 = torch.as_tensor(self.d0, dtype=one.dtype, device=one.device)
        scalars = {NUMERATOR: {ALL: Scaled.zeros(one)}, DISTANCE: {ALL: Scaled(one, d0.log().expand_as(one).clone())}}
        return {**super().init(gradient), **scalars}

    def step_from(self, state: State, here: Here, t: int, norm: ParameterNorm) -> tuple[State, Step]:
        gradient, theta = here.gradient, here.parameters
        start = state[START] if t > 1 else {name: Scaled(w.clone(), torch.zeros_like(w[..., :1])) for name, w in theta.items()}
        beta1, beta2 = (self.beta1, self.beta2) if self.ema else (0.0, 0.0)
        beta3, log_d = beta2**0.5, state[DISTANCE][ALL].log_scale
        log_weight = 2 * log_d + here.log_lr.reshape(-1, 1, 1)
        scaled = {name: g.times(log_d) for name, g in gradient.items()}
        first = {name: average(state[FIRST][name], g, beta1) for name, g in scaled.items()}
        root = {name: root_mean_square(state[SECOND_ROOT][name], g, beta2) for name, g in scaled.items()}
        total = {name: average(state[SUM][name], g.times(log_weight), beta3) for name, g in gradient.items()}
        come = _inner(gradient, {name: start[name].mantissa - w for name, w in theta.items()}).times(log_weight)
        numerator = average(state[NUMERATOR][ALL], come, beta3)
        farther = torch.where(numerator.mantissa > 0, numerator.log_abs() - _log_l1(total), -torch.inf)
        log_next = torch.maximum(log_d, farther)
        direction = {name: log_d.exp() * _ratio(first[name], root[name]) for name in gradient}
        new = {FIRST: first, SECOND_ROOT: root, SUM: total, START: start, NUMERATOR: {ALL: numerator}}
        return {**new, DISTANCE: {ALL: Scaled(torch.ones_like(log_next), log_next)}}, Step(direction)


def _ratio(m: Scaled, r: Scaled) -> Tensor:
    """m / r, 0/0 := 0."""
    ratio = m.mantissa * torch.exp(m.log_scale - r.log_scale) / r.mantissa
    return torch.where(m.mantissa == 0, torch.zeros_like(ratio), ratio)


def _unit(blocks: Blocks) -> Tensor:
    """The largest log|x| of all blocks of each run, (R, 1, 1)."""
    return torch.stack([block.top() for block in blocks.values()]).amax(dim=0)


def _inner(g: Blocks, w: Mapping[str, Tensor]) -> Scaled:
    """<g, w>, one number a run."""
    unit = _unit(g)
    parts = [(block.relative_to(unit) * w[name]).sum(dim=(-2, -1), keepdim=True) for name, block in g.items()]
    return Scaled(torch.stack(parts).sum(dim=0), unit)


def _log_l1(g: Blocks) -> Tensor:
    """log |g|_1, (R, 1, 1)."""
    unit = _unit(g)
    parts = [block.relative_to(unit).abs().sum(dim=(-2, -1), keepdim=True) for block in g.values()]
    return torch.stack(parts).sum(dim=0).log() + unit
