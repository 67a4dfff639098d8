"""Decoupled weight decay, for the optimizers whose class begins with it."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass

from torch import Tensor

from implicit_bias.core.errors import BadInput
from implicit_bias.core.registry import hyper
from implicit_bias.optimizers.base import Number, Optimizer, Step
from implicit_bias.schedules.base import Schedule

# eta_1 weight_decay = 1 is the first step of Frank-Wolfe; exp(log(eta_1)) is that up to rounding.
ROUNDING = 1e-12


@dataclass(frozen=True)
class WithWeightDecay(Optimizer):
    """theta <- (1 - eta_t weight_decay) theta - step (Loshchilov and Hutter, arXiv 1711.05101, Algorithm 2, with eta_t for both).

    With normalised steepest descent this is Frank-Wolfe on the ball N(theta) <= 1 / weight_decay, theta <- (1 - a) theta + a v
    with a = eta_t weight_decay and v = -direction / weight_decay (Xie and Li, arXiv 2404.04454): a start inside of the ball never
    leaves it.

    The field is for keywords only, so that the fields of subclasses come before it.
    """

    _: KW_ONLY
    weight_decay: Number = hyper(
        0.0, help="decoupled weight decay: the weights are multiplied by 1 - eta_t weight_decay at each step", ge=0
    )

    @property
    def decays(self) -> bool:
        """Whether any run has a decay other than zero."""
        return isinstance(self.weight_decay, Tensor) or self.weight_decay != 0

    @property
    def radius(self) -> Number | None:
        """1 / weight_decay, where it has a norm of its own or the user names one."""
        return 1 / self.weight_decay if self.decays and (self.own is not None or self.reads_norm()) else None

    def decayed(self, step: Step, log_lr: Tensor) -> Step:
        if not self.decays:
            return step
        eta = log_lr[:, None, None].exp() if log_lr.dim() == 1 else log_lr.exp()
        keep = 1 - eta * self.weight_decay
        return step._replace(keep=keep if step.keep is None else keep * step.keep)

    def check_rate(self, schedule: Schedule) -> None:
        super().check_rate(schedule)
        if isinstance(schedule.lr, str) or not self.decays:
            return  # the data will tell; it is asked again then
        first = math.exp(float(schedule.log_lr(1)))
        if first * self.weight_decay > 1 + ROUNDING:
            raise BadInput(
                f"optimizer.weight_decay={self.weight_decay:g}: times the first step size, {first:g}, must be at most 1; allowed:"
                f" at most {1 / first:g}, or a smaller schedule.lr"
            )

    def incompatible(self, other: object) -> str | None:
        if isinstance(other, Schedule) and self.decays and (other.per_loss or other.backs_off or other.searches):
            return f"its steps grow as the loss falls, and times optimizer.weight_decay={self.weight_decay:g} none may exceed 1"
        return super().incompatible(other)
