"""When a batch is recorded: at log-spaced steps, at levels of the loss, and when a run stops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from implicit_bias.models import Gradient


def record_steps(steps: int, points: int) -> list[int]:
    """Log-spaced steps that contain 0, every power of ten and the last."""
    spaced = np.unique(np.round(np.logspace(0, np.log10(steps), points)).astype(int)) if steps > 1 else [1]
    powers = [10**e for e in range(len(str(steps))) if 10**e <= steps]
    return sorted({0, steps, *powers, *(int(s) for s in spaced)})


class Agenda:
    """Which runs are to be recorded at which step, and which have stopped."""

    def __init__(self, steps: int, points: int, levels: float, stop_log_loss: float, runs: int) -> None:
        self.fixed = set(record_steps(steps, points))
        #: Whether the loss of every step is asked for.
        self.watches_loss = levels > 0 or stop_log_loss > -math.inf
        self.level_width = math.log(10) / levels if levels > 0 else math.inf
        self.stop = stop_log_loss
        self.reached = np.full(runs, -1.0)
        self.going = np.ones(runs, dtype=bool)

    def due(self, t: int, gradient: Gradient) -> np.ndarray | None:
        """The runs to be recorded after step t, or None; a run whose loss is low enough stops after its record."""
        fixed = t in self.fixed
        if not self.watches_loss:
            return self.going if fixed else None
        log_loss = gradient.log_loss.double().cpu().numpy()
        level = np.floor(np.nan_to_num(-log_loss / self.level_width, nan=-1.0))
        crossed = level > self.reached
        self.reached = np.maximum(self.reached, level)
        below = log_loss < self.stop
        due = self.going & (crossed | below | fixed)
        self.going = self.going & ~below
        return due if due.any() else None

    def snapshot(self) -> dict[str, Any]:
        """What it remembers."""
        return {"reached": torch.from_numpy(self.reached.copy()), "going": torch.from_numpy(self.going.copy())}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Remember that."""
        self.reached, self.going = snapshot["reached"].numpy(), snapshot["going"].numpy()
