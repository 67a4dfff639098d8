"""What the figures of networks share: a tidy table of their runs, and curves with the spread over seeds as a band."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from implicit_bias.figures.base import Run
from implicit_bias.figures.explorer import DEPTH, STEP, Explorer, Quantity
from implicit_bias.figures.style import Look, log_spaced

COLUMNS = ("log_loss", "accuracy", "test_accuracy", "margin")


def tidy(runs: Iterable[Run], methods: Iterable[str], norms: Sequence[str]) -> pd.DataFrame:
    """method, seed, norm, step and COLUMNS of every record after step 0, one method a run; what was not measured is empty."""
    parts = []
    for run, method in zip(runs, methods, strict=True):
        rows = run.trajectory[(run.trajectory["step"] > 0) & run.trajectory["norm"].isin(norms)]
        kept = {column: rows.get(column, np.nan) for column in COLUMNS}
        parts.append(pd.DataFrame({"method": method, "seed": rows["seed"], "norm": rows["norm"], "step": rows["step"], **kept}))
    return pd.concat(parts, ignore_index=True)


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


def over_seeds(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """mean, least and largest of a column over the seeds, by step, where every seed has a record."""
    groups = rows.groupby("step")[column]
    table = groups.agg(["mean", "min", "max", "count"])
    return table[table["count"] == rows["seed"].nunique()]


def band(axis: Axes, rows: pd.DataFrame, column: str, look: Look, spread: bool = True, **keywords: Any) -> None:
    """The mean over seeds as a curve and, where ``spread``, from least to largest as a band."""
    curve = over_seeds(rows, column)
    if len(curve):
        axis.plot(curve.index, curve["mean"], **{**look.plot(log_spaced(curve.index, 6)), **keywords})
    if len(curve) and spread:
        axis.fill_between(curve.index, curve["min"], curve["max"], color=look.color, alpha=0.15, lw=0)


def at_end(table: pd.DataFrame, column: str) -> pd.Series:
    """The column at the last step of every (method, norm, seed)."""
    return table.sort_values("step").groupby(["method", "norm", "seed"])[column].last()


def means(values: pd.Series, norm: str) -> Mapping[str, tuple[float, float]]:
    """Mean and standard deviation over seeds of each method, under a norm, of what :func:`at_end` gives."""
    mine = values.xs(norm, level="norm").groupby("method")
    return {str(m): (float(v.mean()), float(v.std(ddof=0))) for m, v in mine}


def told(measured: Mapping[str, tuple[float, float]], names: Mapping[str, str] | None = None, digits: int = 3) -> str:
    """``Muon 1.98 +- 0.09, NGD ...``, the largest mean first."""
    ordered = sorted(measured, key=lambda m: -measured[m][0])
    words = names or {}
    return ", ".join(f"{words.get(m, m)} {measured[m][0]:.{digits}g} +- {measured[m][1]:.1g}" for m in ordered)


def separated(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows from where every seed has a positive margin to the end."""
    worst = rows.groupby("step")["margin"].min()
    bad = worst.index[worst <= 0]
    return rows[rows["step"] > (bad.max() if len(bad) else 0)]


def log_loss_axis(axis: Axes) -> None:
    """An axis of log10 loss, labelled as such."""
    axis.set_ylabel(r"$\log_{10}$ loss")
