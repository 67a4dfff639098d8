"""Steps of one size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from implicit_bias.schedules.base import SCHEDULES, Schedule


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
