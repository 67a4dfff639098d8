"""Curves of runs, with the spread over seeds as a band."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from implicit_bias.analysis.curves import over_seeds
from implicit_bias.plotting.explorer import DEPTH, STEP, Explorer, Quantity
from implicit_bias.plotting.style import Look, log_spaced


def trajectories(
    table: pd.DataFrame, looks: Mapping[str, Look], choose: Mapping[str, tuple[str, Mapping[Any, str]]] | None = None
) -> Explorer:
    """How a table of :func:`tidy` is explored: one curve a method."""
    depth = -table["log_loss"] / np.log(10)
    quantities = (
        Quantity("margin", "margin"),
        Quantity("depth", DEPTH.label),
        Quantity("accuracy", "training accuracy"),
        Quantity("test_accuracy", "test accuracy"),
    )
    return Explorer(table.assign(depth=depth), "method", looks, (STEP, DEPTH), quantities, choose or {})


def band(axis: Axes, rows: pd.DataFrame, column: str, look: Look, spread: bool = True, **keywords: Any) -> None:
    """The mean over seeds as a curve and, where ``spread``, from least to largest as a band."""
    curve = over_seeds(rows, column)
    if len(curve):
        axis.plot(curve.index, curve["mean"], **{**look.plot(log_spaced(curve.index, 6)), **keywords})
    if len(curve) and spread:
        axis.fill_between(curve.index, curve["min"], curve["max"], color=look.color, alpha=0.15, lw=0)


def log_loss_axis(axis: Axes) -> None:
    """An axis of log10 loss, labelled as such."""
    axis.set_ylabel(r"$\log_{10}$ loss")
