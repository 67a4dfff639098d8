"""Dual acceleration: a margin gap of 1 / t^2, in any norm whose half square is strongly convex."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from implicit_bias.core.scaled import Scaled
from implicit_bias.norms import Norm, ParameterNorm
from implicit_bias.optimizers.base import OPTIMIZERS, Blocks, Here, Number, Optimizer, State, Step
from implicit_bias.schedules.base import Schedule

AVERAGE = "pair_average"


@OPTIMIZERS.register
@dataclass(frozen=True)
class DualAcceleration(Optimizer):
    """Dual acceleration; margin of the norm that `norm` names (l2 if none; l_p or Schatten with 1 < p <= 2), gap as 1 / t^2.

    With C_t = sum_ic q_ic grad m_ic, q the weights of the gradient at theta_t, normalised to sum one (with the exponential loss
    of two classes the softmax of -Z theta), and M_t their average,

        M_t = (1 - 2/(t+1)) M_{t-1} + 2/(t+1) C_t,    V_t = (1 - 2/(t+2)) M_t + 2/(t+2) C_t,
        theta_{t+1} = theta_t + lr (t+2)/2 N_*(V_t) direction(V_t),    t from 0, M_0 = V_0 = C_0.

    In l2 this is Algorithm 1 of Ji, Srebro and Telgarsky (arXiv 2107.00595) with its beta_t = t/(t+1) and, for data with |x_i| <=
    1, its step size 1, in the dual form; the rate in other norms is that of Wang, Hu, Muthukumar and Abernethy (2305.17544).
    schedule.lr=auto is 1 / L_N, L_N = max N_*(grad m_ic)^2 / c, c = p - 1 the modulus of strong convexity of N^2 / 2 (l2: 1).
    The schedule is loss_based: lr is eta_t L. N_*(M_t) bounds the maximum margin, and enters the certificate.
    """

    name: ClassVar[str] = "dual_acceleration"
    normalised: ClassVar[bool] = False
    buffers: ClassVar[tuple[str, ...]] = (AVERAGE,)

    def incompatible(self, other: object) -> str | None:
        if isinstance(other, Norm) and not isinstance(other.strong_convexity, Tensor) and other.strong_convexity <= 0:
            return f"optimizer={self.name} needs a norm with a strongly convex half square: l2, or lp or schatten with 1 < p <= 2"
        if getattr(other, "linear", True) is False:  # a model: they are defined beside optimizers, not below
            return f"optimizer={self.name} solves the game of a linear model's margin and is no method for others"
        if isinstance(other, Schedule) and (not other.per_loss or other.backs_off):
            return f"steps of optimizer={self.name} are divided by the loss, and none is taken back"
        return super().incompatible(other)

    @property
    def reads_loss(self) -> bool:
        """True: its steps are made from weights of the pairs, as shares of the loss."""
        return True

    def unit_in(self, norm: Norm, unit_step: Tensor) -> Number:
        return 1 / norm.strong_convexity

    def init(self, gradient: Blocks) -> State:
        return {AVERAGE: {name: Scaled.zeros(g.mantissa) for name, g in gradient.items()}}

    def step_from(self, state: State, here: Here, t: int, norm: ParameterNorm) -> tuple[State, Step]:
        now, share, ahead = here.evaluation.per_weight(), min(1.0, 2 / t), 2 / (t + 1)
        average = {name: (1 - share) * state[AVERAGE][name].mantissa + share * block for name, block in now.items()}
        uphill = {name: -((1 - ahead) * average[name] + ahead * block) for name, block in now.items()}
        log_length = here.log_loss_rate - math.log(ahead) + norm.dual(uphill).log()
        kept = {name: Scaled(block, torch.zeros_like(block[..., :1])) for name, block in average.items()}
        return {AVERAGE: kept}, Step(norm.direction(uphill), log_length, whole=True)

    def pair_average(self, state: Any) -> Mapping[str, Tensor] | None:
        blocks: Blocks = state[AVERAGE]
        if any(bool((block.log_scale == -torch.inf).any()) for block in blocks.values()):
            return None  # before the first step
        return {name: block.mantissa for name, block in blocks.items()}
