"""Mean and range over seeds: along an axis, or at the places of a group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from implicit_bias.plotting.style import Look, log_axis


def mean_and_range(axis: Axes, rows: pd.DataFrame, x: str, y: str, look: Look, *, marked: bool = True, every: int = 3) -> None:
    """Geometric or plain mean over seeds as a line, and all seeds between least and largest as a band.

    On a log axis, which has to be set before, the mean is geometric and points where some seed is not positive are left out.
    Points that not all seeds have are left out too: their mean would jump.
    """
    logarithmic = axis.get_yscale() == "log"
    wide = rows.pivot_table(index=x, columns="seed", values=y).dropna()
    if logarithmic:
        wide = wide[(wide > 0).all(axis=1)]
    if wide.empty:
        return
    values = wide.to_numpy(float)
    mean = np.exp(np.log(values).mean(axis=1)) if logarithmic else values.mean(axis=1)
    at = wide.index.to_numpy(float)
    axis.fill_between(at, values.min(axis=1), values.max(axis=1), color=look.color, alpha=0.13, lw=0)
    axis.plot(at, mean, **look.plot(range(0, len(at), every) if marked else None))


def dots(
    axis: Axes,
    groups: Mapping[str, pd.DataFrame],
    order: Sequence[str],
    looks: Mapping[str, Look],
    column: str,
    *,
    filled_where: str = "",
) -> None:
    """Each group at one place of the x axis: for every optimizer of ``order`` the geometric mean over seeds and their range.

    Args:
        filled_where: A column of truth values; a marker is open where one of its rows has a false one.
    """
    width = 0.72
    for place, rows in enumerate(groups.values()):
        for i, name in enumerate(order):
            mine = rows[rows["optimizer"] == name]
            values = mine[column].to_numpy(float)
            values = values[values > 0]
            face = "white" if filled_where and not mine[filled_where].all() else looks[name].color
            if not len(values):
                continue
            at = place + width * ((i + 0.5) / len(order) - 0.5)
            axis.plot([at, at], [values.min(), values.max()], color=looks[name].color, lw=1.1, alpha=0.7)
            axis.plot(at, np.exp(np.log(values).mean()), looks[name].marker, color=looks[name].color, mfc=face, ms=4.2)
    axis.set_xticks(range(len(groups)), list(groups))
    axis.set_xlim(-0.5, len(groups) - 0.5)
    axis.tick_params(axis="x", length=0)
    axis.grid(False, axis="x")


def log_where_drawn(axis: Axes, which: str) -> None:
    """A log axis, if there is anything on it; an empty one has no positive limits."""
    if any(np.isfinite(np.asarray(line.get_ydata(), dtype=float)).any() for line in axis.lines):
        log_axis(axis, which)
