"""A power of the step's number: the default."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from implicit_bias.core.registry import hyper
from implicit_bias.schedules.automatic import AUTO_POWER_LINEAR
from implicit_bias.schedules.base import SCHEDULES, Schedule

POWER_HELP = (
    "exponent a in eta0 * t^-a; 0 is constant, auto 0.5 on linear models (0 for the unnormalised gd, mirror, momentum_gd and sd),"
    " 0.8 on networks"
)


@SCHEDULES.register
@dataclass(frozen=True)
class Power(Schedule):
    """Power law eta_t = lr * t^-power, the default.

    power=auto is, for a linear model, 0.5 (Fan et al., arXiv 2502.04664, Theorem 1), or 0 for the unnormalised methods (Soudry
    et al., arXiv 1710.10345, Theorem 3; Gunasekar et al., arXiv 1802.08246, Theorem 5); for networks 0.8 (Gronich and Vardi,
    arXiv 2602.16340; the theory asks for a power above 1 - 1/L). The command resolves it before a schedule is made, by
    :func:`implicit_bias.schedules.automatic.auto_power`.
    """

    name: ClassVar[str] = "power"

    power: Any = hyper("auto", help=POWER_HELP, ge=0)

    @property
    def constant(self) -> bool:
        return not isinstance(self.power, str) and bool(torch.as_tensor(self.power == 0).all())

    def log_relative(self, t: int) -> Tensor | float:
        power = AUTO_POWER_LINEAR if isinstance(self.power, str) else self.power
        return -power * math.log(t)
