"""When a batch is recorded: at log-spaced steps, at levels of the loss, and when a run stops."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


def record_steps(steps: int, points: int) -> list[int]:
    """Log-spaced steps that contain 0, every power of ten and the last."""
    spaced = np.unique(np.round(np.logspace(0, np.log10(steps), points)).astype(int)) if steps > 1 else [1]
    powers = [10**e for e in range(len(str(steps))) if 10**e <= steps]
    return sorted({0, steps, *powers, *(int(s) for s in spaced)})


class RecordTimes:
    """Which runs are to be recorded at which step, and which have stopped.

    Attributes:
        fixed: The steps at which all runs are recorded that have not stopped.
        watches_loss: Whether the loss is asked for between records, too: every ``cadence`` steps.
        reached, going: The deepest level of each run's loss, (R,), and whether it has not stopped.
    """

    def __init__(self, steps: int, points: int, levels: float, stop_log_loss: float, runs: int, cadence: int = 1) -> None:
        self._ordered = record_steps(steps, points)
        self.fixed = frozenset(self._ordered)
        self.watches_loss = levels > 0 or stop_log_loss > -math.inf
        self.cadence = cadence
        self.level_width = math.log(10) / levels if levels > 0 else math.inf
        self.stop = stop_log_loss
        self.reached = np.full(runs, -1.0)
        self.going = np.ones(runs, dtype=bool)

    def next_after(self, t: int) -> int:
        """The first fixed step after ``t``, which is not the last."""
        return self._ordered[bisect_right(self._ordered, t)]

    def next_loss(self) -> Tensor:
        """The log losses (R,) that nothing is to be recorded above between fixed steps; -inf for a run that has stopped."""
        levels = math.isfinite(self.level_width)
        level = -(self.reached + 1) * self.level_width if levels else np.full_like(self.reached, -math.inf)
        return torch.from_numpy(np.where(self.going, np.maximum(level, self.stop), -math.inf))

    def due(self, t: int, log_loss: Callable[[], Tensor]) -> np.ndarray | None:
        """The runs to be recorded after step t, or None; a run whose loss is low enough stops after its record.

        Args:
            t: The step.
            log_loss: Gives log L, (R,); called where the loss is asked for.
        """
        fixed = t in self.fixed
        if not self.watches_loss or t % self.cadence:
            return self.going if fixed else None
        return self._due_by_loss(fixed, log_loss().double().cpu().numpy())

    def _due_by_loss(self, fixed: bool, log_loss: np.ndarray) -> np.ndarray | None:
        level = np.floor(np.nan_to_num(-log_loss / self.level_width, nan=-1.0))
        crossed = level > self.reached
        self.reached = np.maximum(self.reached, level)
        below = log_loss < self.stop
        due = self.going & (crossed | below | fixed)
        self.going = self.going & ~below
        return due if due.any() else None

    def snapshot(self) -> dict[str, Any]:
        """The state that later record times depend on."""
        return {"reached": torch.from_numpy(self.reached.copy()), "going": torch.from_numpy(self.going.copy())}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Continue from a snapshot."""
        self.reached, self.going = snapshot["reached"].numpy(), snapshot["going"].numpy()
