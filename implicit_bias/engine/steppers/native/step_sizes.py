"""The step sizes of a call, as linear.c takes them."""

from __future__ import annotations

import torch
from torch import Tensor

from implicit_bias.engine.steppers.native.layout import Layout, numbers
from implicit_bias.schedules import AUTO_POWER_LINEAR, Constant, LossBased, Power, Schedule

SCHEDULES = frozenset({Power, Constant, LossBased})


class StepSizes:
    """eta_t = eta_0 t^-power of every run.

    Args:
        schedule: One of SCHEDULES.
        layout: Of the runs.
    """

    def __init__(self, schedule: Schedule, layout: Layout) -> None:
        self._layout = layout
        self._lr, self._powers = numbers(schedule.lr).unsqueeze(-1), _powers(schedule)

    def after(self, first: int, last: int) -> Tensor:
        """eta_t for t = first + 1, ..., last: (groups, steps, LANES), one group where all runs share them."""
        # Number by number: torch's power rounds by a number's place in its tensor, and calls may be of any length.
        shrunk = [[t**-power for t in range(first + 1, last + 1)] for power in self._powers]
        sizes = torch.tensor(shrunk, dtype=torch.float64) * self._lr
        if len(sizes) == 1:
            return sizes.unsqueeze(-1).expand(-1, -1, self._layout.lanes).contiguous()
        return self._layout.in_lanes(sizes.unsqueeze(-1))[:, :, 0].contiguous()


def _powers(schedule: Schedule) -> list[float]:
    """The exponents of t in the step sizes, one for all runs or one each."""
    if not isinstance(schedule, Power):
        return [0.0]
    power = AUTO_POWER_LINEAR if isinstance(schedule.power, str) else schedule.power
    return numbers(power).tolist()
