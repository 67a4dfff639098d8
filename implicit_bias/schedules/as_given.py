"""No step sizes: those of an optimizer that brings its own."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from implicit_bias.schedules.base import SCHEDULES, Schedule


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
