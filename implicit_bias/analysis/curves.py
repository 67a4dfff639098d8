"""What the figures of networks share: a tidy table of their runs, and curves with the spread over seeds as a band."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from implicit_bias.analysis.runs import Run

COLUMNS = ("log_loss", "accuracy", "test_accuracy", "margin")


def tidy(runs: Iterable[Run], methods: Iterable[str], norms: Sequence[str]) -> pd.DataFrame:
    """method, seed, norm, step and COLUMNS of every record after step 0, one method a run; what was not measured is empty."""
    parts = []
    for run, method in zip(runs, methods, strict=True):
        rows = run.trajectory[(run.trajectory["step"] > 0) & run.trajectory["norm"].isin(norms)]
        kept = {column: rows.get(column, np.nan) for column in COLUMNS}
        parts.append(pd.DataFrame({"method": method, "seed": rows["seed"], "norm": rows["norm"], "step": rows["step"], **kept}))
    return pd.concat(parts, ignore_index=True)


def over_seeds(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """mean, least and largest of a column over the seeds, by step, where every seed has a record."""
    groups = rows.groupby("step")[column]
    table = groups.agg(["mean", "min", "max", "count"])
    return table[table["count"] == rows["seed"].nunique()]


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
