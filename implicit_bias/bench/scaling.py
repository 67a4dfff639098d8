"""How the cost of a batch grows with samples, features, classes and runs: an update measured along each, and the slopes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd

from implicit_bias.bench.linear import Size, batched
from implicit_bias.bench.loops import STEPS
from implicit_bias.bench.timing import LONG, Work, interleaved


@dataclass(frozen=True)
class Shape:
    """A linear batch: n = k * per_class samples, k classes, d features, so many runs."""

    per_class: int = 10
    k: int = 10
    d: int = 25
    runs: int = 64


#: The values of each size; the others stay where they are.
AXES: dict[str, tuple[int, ...]] = {
    "per_class": (5, 10, 20, 40),
    "k": (3, 5, 10, 20),
    "d": (12, 25, 50, 100, 200),
    "runs": (1, 4, 16, 64, 256),
}
#: How they are called in table and picture.
NAMES = {"per_class": "n", "k": "k", "d": "d", "runs": "runs"}
METHODS = ("signgd", "muon")
# The slope is that of the last points, where the fixed cost of a step no longer hides it.
LAST = 3


def growth_table(methods: Collection[str]) -> pd.DataFrame:
    """:func:`scaling_table` as measured here, on one thread, of those of METHODS that are asked for."""

    def seconds(name: str, shapes: Sequence[Shape]) -> list[float]:
        works = {}
        for i, shape in enumerate(shapes):
            data = Size(shape.k, shape.per_class, shape.d).data(shape.runs)
            works[str(i)] = Work(partial(batched, name, data), STEPS, shape.runs).sized(LONG / 2)
        timings = interleaved(works)
        return [timings[str(i)].seconds * shape.runs for i, shape in enumerate(shapes)]

    return scaling_table(seconds, [name for name in METHODS if name in methods])


def scaling_table(seconds: Callable[[str, Sequence[Shape]], list[float]], methods: Collection[str] = METHODS) -> pd.DataFrame:
    """optimizer, axis, value, seconds (of an update of the whole batch), slope (of the axis's last points, log-log).

    Args:
        seconds: The time of an update of batches, which are timed in turn.
        methods: The optimizers.
    """
    rows = []
    for name in methods:
        for axis, values in AXES.items():
            shapes = [replace(Shape(), **{axis: value}) for value in values]
            times = seconds(name, shapes)
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
