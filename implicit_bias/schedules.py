"""Step sizes. The t-th update uses eta_t, t from 1; everything is kept as log eta_t, so that eta_t = lr / L works at any
depth."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from implicit_bias.core.errors import BadInput
from implicit_bias.core.registry import Table, hyper
from implicit_bias.norms import Norm

SCHEDULES = Table("schedule")

LR_HELP = "eta0: a number > 0, or auto, in units of the data and model (see schedules.py and docs/files.md)"
POWER_HELP = (
    "exponent a in eta0 * t^-a; 0 is constant, auto 0.5 on linear models (0 for the unnormalised gd, momentum_gd and sd), 0.8 on"
    " networks"
)
# A step of norm 1 changes a gap by at most B, so the first step, of size c / B, changes gaps by at most c. The gap that is
# left after T steps has a part that falls with c (not enough growth yet) and a part that rises with it (oscillation). The
# second is weak where the direction is a continuous function of the gradient (l2) or moves one entry or one singular pair
# (l1, nuclear); where every entry, row or singular value moves at full size at once and jumps (signs, polar factors), a
# smaller c balances the two. That c should differ follows from this; the values 10 and 6 were measured, on Gaussian mixtures
# of noise 1 and .3.
AUTO_GAP_CHANGE = 10.0
AUTO_GAP_CHANGE_SATURATING = 6.0
# Unnormalised steepest descent moves by eta N_*(g). Along a step of norm 1 the mean loss has curvature at most C B^2 (C as in
# Loss.curvature), and every step lowers the loss for eta < 2 / (C B^2); where plain steps are stable those of momentum are, too.
# C is 1/4 for cross entropy. Steps that decay, or are divided by the loss, need no C.
AUTO_UNNORMALISED = 1.0
AUTO_POWER_LINEAR, AUTO_POWER_NETWORK = 0.5, 0.8
# Steps that shrink with the gradient need no decay on a linear model; with one their sum, and so the margin, hardly grows.
AUTO_POWER_UNNORMALISED = 0.0
# A network's gaps grow like the L-th power of its norm, and steps must be small beside the norm: the theory holds in the flow
# regime. So eta0 is a share of the norm at which the mean gap can be NETWORK_GAP: with power .8 the steps' sizes add up to 5 t^.2
# eta0, some 30 eta0 at 10,000 steps, enough for minimal gaps of 20 to 30 (losses near 1e-10) at degrees from 2 to 4. A larger
# share reaches that sooner, with a worse margin. As for linear models, saturating norms bear half of what others do. The two
# shares and the gap of 100 were fitted once, to learning rates that an independent reproduction of Gronich and Vardi's figure
# found by hand (squared ReLU and ReLU, l2, linf and spectral).
NETWORK_GAP = 100.0
NETWORK_SHARE = 0.1
NETWORK_SHARE_SATURATING = 0.05


@dataclass(frozen=True)
class Schedule(ABC):
    """eta_t as a function of t and of the log loss before the t-th update."""

    name: ClassVar[str]
    #: True when eta_t is divided by the loss; such a schedule is for unnormalised methods, and `lr` in files is eta_t
    # times the loss.
    per_loss: ClassVar[bool] = False
    #: True when a step that does not lower the loss is taken back, and eta_t has a factor that goes up and down with success.
    backs_off: ClassVar[bool] = False
    #: True when the optimizer keeps the rate that it brings.
    as_given: ClassVar[bool] = False

    lr: Any = hyper("auto", help=LR_HELP, gt=0)

    @property
    def constant(self) -> bool:
        """True when eta_t is the same for every t and whatever the loss."""
        return False

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
    """Power law eta_t = lr * t^-power, the default.

    power=auto is, for a linear model, 0.5 (Fan et al., arXiv 2502.04664, Theorem 1), or 0 for the unnormalised methods (Soudry
    et al., arXiv 1710.10345, Theorem 3; Gunasekar et al., arXiv 1802.08246, Theorem 5); for networks 0.8 (Gronich and Vardi,
    arXiv 2602.16340; the theory asks for a power above 1 - 1/L). The command resolves it before a schedule is made, by
    :func:`auto_power`.
    """

    name: ClassVar[str] = "power"

    power: Any = hyper("auto", help=POWER_HELP, ge=0)

    @property
    def constant(self) -> bool:
        return not isinstance(self.power, str) and bool(torch.as_tensor(self.power == 0).all())

    def log_relative(self, t: int) -> Tensor | float:
        power = AUTO_POWER_LINEAR if isinstance(self.power, str) else self.power
        return -power * math.log(t)


@SCHEDULES.register
@dataclass(frozen=True)
class Constant(Schedule):
    """Constant step size eta_t = lr."""

    name: ClassVar[str] = "constant"

    @property
    def constant(self) -> bool:
        return True

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


@SCHEDULES.register
@dataclass(frozen=True)
class LyuLi(LossBased):
    """Loss-based with back-off and roll-back, eta_t = alpha_t / L(theta_{t-1}), alpha_1 = lr; for unnormalised methods.

    A step that lowers the loss is kept, and alpha grows by the factor ``up``; any other is taken back, parameters and
    buffers, and alpha shrinks by the factor ``down``; it counts as a step (Lyu and Li, arXiv 1906.05890, appendix on the
    loss-based learning rate: up 2^(1/5), down 2^(1/10), alpha_1 = .1, there once an epoch of stochastic steps).
    """

    name: ClassVar[str] = "lyu_li"
    backs_off: ClassVar[bool] = True

    up: float = hyper(2**0.2, help="factor of alpha after a step that lowers the loss", ge=1)
    down: float = hyper(2**0.1, help="divisor of alpha after a step that is taken back", gt=1)

    def adapted(self, log_factor: Tensor, kept: Tensor) -> Tensor:
        """log alpha / lr (R,) after steps that were ``kept`` (R,) or not."""
        up, down = (torch.as_tensor(f, dtype=log_factor.dtype, device=log_factor.device).log() for f in (self.up, self.down))
        return log_factor + torch.where(kept, up, -down)


@SCHEDULES.register
@dataclass(frozen=True)
class AsGiven(Schedule):
    """No rate is written: an optimizer that was written elsewhere keeps the one that it was made with, and its own schedule.

    log eta_t is nan; the ``lr`` column is the rate of the optimizer's first group.
    """

    name: ClassVar[str] = "as_given"
    as_given: ClassVar[bool] = True

    lr: Any = field(default=math.nan, init=False)  # no key: there is nothing to choose

    def log_relative(self, t: int) -> Tensor | float:
        return 0.0


def auto_power(linear: bool, normalised: bool, decay: float = 0.0) -> float:
    """The exponent that ``schedule.power=auto`` stands for, on a linear model or a network, for a method that is normalised
    or not; less by ``decay`` where its steps shrink like t^-decay by themselves."""
    if not linear:
        return max(0.0, AUTO_POWER_NETWORK - decay)
    return max(0.0, AUTO_POWER_LINEAR - decay) if normalised else AUTO_POWER_UNNORMALISED


def auto_lr(unit_step: Tensor, norm: Norm, normalised: bool, curvature: Tensor | float = 0.0) -> Tensor:
    """eta0 in units of the data, one rule for every method, norm and dataset.

    Args:
        unit_step: B = max_ic N_*((e_y - e_c) x_i^T) of each run: a step of norm 1 changes gaps by at most B.
        norm: The method's own norm.
        normalised: Whether the method's steps have norm eta_t (c / B), or eta_t N_*(gradient) (1 / B^2).
        curvature: C of the loss (:meth:`implicit_bias.losses.Loss.curvature`), for unnormalised methods with a constant step:
            that is 1 / B^2 or, where it is less, 1 / (C B^2).

    Raises:
        BadInput: all features are zero, so there is no such unit.
    """
    if bool((unit_step <= 0).any()):
        raise BadInput("schedule.lr=auto: every feature of the data is zero, so steps have no natural size; give a number > 0")
    if not normalised:
        return AUTO_UNNORMALISED / (unit_step**2 * torch.as_tensor(curvature).to(unit_step).clamp(min=1))
    return (AUTO_GAP_CHANGE_SATURATING if norm.saturating else AUTO_GAP_CHANGE) / unit_step


def auto_network_lr(unit_step: Tensor, degree: float, norm: Norm, normalised: bool) -> Tensor:
    """eta0 for networks, one rule for every method, norm, architecture and dataset: c (100 / M)^(1/L).

    Args:
        unit_step: B = M^(1/L) of each run, M the largest mean gap that was found at norm one.
        degree: L.
        norm: The method's own norm.
        normalised: Whether the method's steps have norm eta_t; else they have norm eta_t N_*(gradient), and eta0 = 1 / (L B)^2,
            below the curvature of a gap where gaps are of order one.

    Raises:
        BadInput: no gap can be made positive, so there is no such unit.
    """
    if bool((unit_step <= 0).any()):
        raise BadInput(
            "schedule.lr=auto: no positive mean gap was found from any start, so steps have no natural size; give a number > 0,"
            " such as schedule.lr=0.1"
        )
    if not normalised:
        return 1 / (degree * unit_step) ** 2
    return (NETWORK_SHARE_SATURATING if norm.saturating else NETWORK_SHARE) * NETWORK_GAP ** (1 / degree) / unit_step
