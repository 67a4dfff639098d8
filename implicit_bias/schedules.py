"""Step sizes. The t-th update uses eta_t, t from 1; everything is kept as log eta_t, so that eta_t = lr / L works at any
depth."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from implicit_bias.errors import BadInput
from implicit_bias.norms import Norm
from implicit_bias.registry import Table, hyper

SCHEDULES = Table("schedule")

LR_HELP = "eta0: a number > 0, or auto = c / B, B = max N_*((e_y - e_c) x_i^T), c = 10 or 6 (1 / B^2 if unnormalised)"
# A step of norm 1 changes a gap by at most B, so the first step, of size c / B, changes gaps by at most c. The gap that is
# left after T steps has a part that falls with c (not enough growth yet) and a part that rises with it (oscillation). The
# second is weak where the direction is a continuous function of the gradient (l2) or moves one entry or one singular pair
# (l1, nuclear); where every entry, row or singular value moves at full size at once and jumps (signs, polar factors), a
# smaller c balances the two. That c should differ follows from this; the values 10 and 6 were measured, on Gaussian mixtures
# of noise 1 and .3.
AUTO_GAP_CHANGE = 10.0
AUTO_GAP_CHANGE_SATURATING = 6.0
# Unnormalised steepest descent moves by eta N_*(g) <= eta B, and is stable for eta below about 2 / B^2.
AUTO_UNNORMALISED = 1.0


@dataclass(frozen=True)
class Schedule(ABC):
    """eta_t as a function of t and of the log loss before the t-th update."""

    name: ClassVar[str]
    #: True when eta_t is divided by the loss; such a schedule is for unnormalised methods, and `lr` in files is eta_t
    # times the loss.
    per_loss: ClassVar[bool] = False

    lr: Any = hyper("auto", help=LR_HELP, gt=0)

    @abstractmethod
    def log_relative(self, t: int) -> Tensor | float:
        """log(eta_t / eta0), the loss left out; broadcasts against (R,)."""

    @cached_property
    def log_lr0(self) -> Tensor:
        """log eta0, of no dimension where all runs share it, else (R,)."""
        return torch.as_tensor(self.lr, dtype=None if isinstance(self.lr, Tensor) else torch.float64).log()

    def log_lr(self, t: int, log_loss: Tensor | None = None) -> Tensor:
        """log eta_t, of no dimension or (R,). Schedules that are ``per_loss`` need ``log_loss`` (R,)."""
        relative = self.log_lr0 + self.log_relative(t)
        if not self.per_loss:
            return relative
        if log_loss is None:
            raise ValueError(f"schedule {self.name} needs the loss")
        return relative - log_loss

    def recorded(self, t: int, like: Tensor) -> Tensor:
        """The `lr` column, shaped as ``like`` (R,): eta_t, or eta_t times the loss under a loss-based schedule (eta_t itself may
        exceed every double).
        """
        return (self.log_lr0 + self.log_relative(t)).exp().to(like).expand_as(like)


@SCHEDULES.register
@dataclass(frozen=True)
class Power(Schedule):
    """Power law eta_t = lr * t^-power, the default (power 0.5: Fan et al., arXiv 2502.04664, Theorem 1)."""

    name: ClassVar[str] = "power"

    power: float = hyper(0.5, help="exponent a in eta0 * t^-a; 0 is constant", ge=0)

    def log_relative(self, t: int) -> Tensor | float:
        return -self.power * math.log(t)


@SCHEDULES.register
@dataclass(frozen=True)
class Constant(Schedule):
    """Constant step size eta_t = lr."""

    name: ClassVar[str] = "constant"

    def log_relative(self, t: int) -> Tensor | float:
        return 0.0


@SCHEDULES.register
@dataclass(frozen=True)
class LossBased(Schedule):
    """Loss-based eta_t = lr / L(theta_{t-1}), for unnormalised methods only (Lyu and Li, arXiv 1906.05890, section 5)."""

    name: ClassVar[str] = "loss_based"
    per_loss: ClassVar[bool] = True

    def log_relative(self, t: int) -> Tensor | float:
        return 0.0


def auto_lr(unit_step: Tensor, norm: Norm, normalised: bool) -> Tensor:
    """eta0 in units of the data, one rule for every method, norm and dataset.

    Args:
        unit_step: B = max_ic N_*((e_y - e_c) x_i^T) of each run: a step of norm 1 changes gaps by at most B.
        norm: The method's own norm.
        normalised: Whether the method's steps have norm eta_t (c / B), or eta_t N_*(gradient) (1 / B^2).

    Raises:
        BadInput: all features are zero, so there is no such unit.
    """
    if bool((unit_step <= 0).any()):
        raise BadInput("schedule.lr=auto: every feature of the data is zero, so steps have no natural size; give a number > 0")
    if not normalised:
        return AUTO_UNNORMALISED / unit_step**2
    return (AUTO_GAP_CHANGE_SATURATING if norm.saturating else AUTO_GAP_CHANGE) / unit_step
