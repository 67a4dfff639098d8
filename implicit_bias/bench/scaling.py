"""How the cost of a batch grows with samples, features, classes, runs and steps: a step measured along each, and the slopes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Shape:
    """A linear batch: n = k * per_class samples, k classes, d features, so many runs and steps."""

    per_class: int = 10
    k: int = 10
    d: int = 25
    runs: int = 64
    steps: int = 500


#: The values of each size; the others stay where they are.
AXES: dict[str, tuple[int, ...]] = {
    "per_class": (5, 10, 20, 40),
    "k": (3, 5, 10, 20),
    "d": (12, 25, 50, 100, 200),
    "runs": (1, 4, 16, 64, 256),
    "steps": (125, 250, 500, 1000, 2000),
}
#: How they are called in table and picture.
NAMES = {"per_class": "n", "k": "k", "d": "d", "runs": "runs", "steps": "steps"}
METHODS = ("signgd", "muon")
# The slope is that of the last points, where the fixed cost of a step no longer hides it.
LAST = 3


def scaling_table(seconds: Callable[[str, Shape], float]) -> pd.DataFrame:
    """optimizer, axis, value, seconds (of the whole batch, all steps), slope (of the axis's last points, log-log).

    Args:
        seconds: The time of one batch.
    """
    rows = []
    for name in METHODS:
        for axis, values in AXES.items():
            shapes = [replace(Shape(), **{axis: value}) for value in values]
            times = [seconds(name, shape) for shape in shapes]
            sizes = [value * (shape.k if axis == "per_class" else 1) for value, shape in zip(values, shapes, strict=True)]
            slope = log_slope(sizes[-LAST:], times[-LAST:])
            rows += [
                {"optimizer": name, "axis": NAMES[axis], "value": size, "seconds": time, "slope": slope}
                for size, time in zip(sizes, times, strict=True)
            ]
    return pd.DataFrame(rows)


def log_slope(x: list[int], y: list[float]) -> float:
    """The exponent a of the least-squares fit y = c x^a."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])
