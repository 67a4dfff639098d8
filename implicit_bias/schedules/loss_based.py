"""Steps in inverse proportion to the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from implicit_bias.schedules.base import SCHEDULES, Schedule


@SCHEDULES.register
@dataclass(frozen=True)
class LossBased(Schedule):
    """Loss-based eta_t = lr / L(theta_{t-1}), for unnormalised methods only (Lyu and Li, arXiv 1906.05890, section 5)."""

    name: ClassVar[str] = "loss_based"
    per_loss: ClassVar[bool] = True

    def log_relative(self, t: int) -> Tensor | float:
        return 0.0
