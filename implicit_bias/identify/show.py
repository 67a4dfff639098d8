"""The printed result of an identification: a table of verdicts, and remarks that qualify it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.table import Table

from implicit_bias.analysis.exponents_found import unfinished
from implicit_bias.analysis.fingerprints import Identified
from implicit_bias.analysis.weights import Weights
from implicit_bias.measures.exponents import MAXIMISES, NOT_SEPARATED

MOST_ROWS = 40
NO_VALUE = "-"
HEAD = ("run", "seed", "family", "p", "interval", "kappa", "1-kappa", "apart", "verdict")
NUMBERS = HEAD[3:-1]
#: How far apart in 1/p two exponents are whose difference is shown.
APART = 0.05
LEGEND = (
    "kappa: margin / certified optimum at the best p; 1-kappa: / 2 says that it halves in a decade of steps\n"
    "apart: what kappa of an optimum loses where 1/p is off by .05: how well these data tell exponents apart"
)


def verdict_table(found: Identified, labels: Sequence[str], most_rows: int = MOST_ROWS) -> Table:
    """A row a run and family: the exponent with its interval, kappa, how it grows, what the data tell apart, and the verdict.

    Args:
        found: The tables.
        labels: What the run of each verdict is called.
        most_rows: The others are counted only.
    """
    rows, before = list[tuple[str, ...]](), None
    for label, (_, row) in zip(labels, found.verdicts.head(most_rows).iterrows(), strict=False):
        same, before = (row["run"], row["seed"]) == before, (row["run"], row["seed"])
        rows.append(_texts("" if same else label, row, same, resolution(found.curves, row)))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    told = [place for place, name in enumerate(HEAD) if not _says_nothing(name, [row[place] for row in rows])]
    for name in (HEAD[place] for place in told):
        # Where the terminal is narrow it is names that wrap, never a number.
        table.add_column(name, justify="right" if name in NUMBERS else "left", no_wrap=name != "run", overflow="fold")
    for texts in rows:
        table.add_row(*(texts[place] for place in told), style="bold" if texts[-1] == MAXIMISES else None)
    hidden = len(found.verdicts) - most_rows
    if hidden > 0:
        table.add_row(f"... and {hidden} more", style="dim")
    return table


def _says_nothing(name: str, texts: Sequence[str]) -> bool:
    """Whether a column is left out: how kappa grew is not known of any run, or all that there are have one seed."""
    told = {text for text in texts if text not in ("", NO_VALUE)}
    return (name == "1-kappa" and not told) or (name == "seed" and len(told) == 1 and texts.count("") < len(texts) - 1)


def _texts(label: str, row: pd.Series, same: bool, apart: float) -> tuple[str, ...]:
    """A verdict's row; what is the same as above it, and so is not repeated, is empty."""
    interval = f"[{row['p_low']:.3g}, {row['p_high']:.3g}]" if pd.notna(row["p_low"]) else NO_VALUE
    return (
        label,
        "" if same or pd.isna(row["seed"]) else str(row["seed"]),
        str(row["family"]),
        _number(row["p"], ".3g"),
        interval,
        _number(row["kappa"], ".4f"),
        f"/ {row['trend']:.2f}" if pd.notna(row["trend"]) else NO_VALUE,
        _number(apart, ".1e"),
        str(row["verdict"]),
    )


def resolution(curves: pd.DataFrame, row: pd.Series) -> float:
    """What the ideal fingerprint loses APART from its peak in 1/p, on the side where that is less; nan where there is none."""
    mine = (curves["run"] == row["run"]) & (curves["family"] == row["family"])
    mine &= curves["seed"].isna() if pd.isna(row["seed"]) else curves["seed"] == row["seed"]
    ideal = curves[mine].drop_duplicates("p").sort_values("p", ascending=False)
    if ideal.empty or ideal["resolution"].isna().any():
        return math.nan
    u = 1 / ideal["p"].to_numpy()
    values = ideal["resolution"].to_numpy()
    peak = u[values.argmax()]
    away = [place for place in (peak - APART, peak + APART) if 0 <= place <= 1]
    return float(values.max() - max(np.interp(away, u, values)))


def notes(found: Identified, runs: Sequence[Weights]) -> list[str]:
    """Remarks that qualify the table."""
    lines = []
    last_only = any(len(run.steps) == 1 for run in runs)
    if last_only:
        lines.append("whether kappa grows is not known where only the last parameters are kept (compute with log.weights=all)")
    lines += [f"{one.run}: {one.line('a larger reference_timeout')}" for one in unfinished(found.curves)]
    for run in runs:
        if (found.verdicts[found.verdicts["run"] == run.run]["verdict"] == NOT_SEPARATED).any():
            lines.append(f"{run.run}: {_not_separated(run)}")
    if any(not run.linear for run in runs):
        lines.append(
            "networks: kappa is the largest KKT ratio that was found, 1 at a KKT direction of the norm's margin problem;"
            " a low one, at a loss that is not very small, says nothing against a norm"
        )
    return lines


def _not_separated(run: Weights) -> str:
    """What is not separated, and what may help."""
    where = f" at step {run.steps[-1]}" if run.steps else ""
    samples = f": {run.wrong_samples()} of {len(run.dataset.y)} samples are not classified" if run.linear else ""
    if run.config is not None:
        return f"not separated{where}{samples}; more steps, or another schedule.lr"
    return (
        f"not separated{where}{samples}; its rows must be in the order of the sorted labels, and the data as they were trained on"
    )


def _number(value: Any, form: str) -> str:
    return format(value, form) if pd.notna(value) else NO_VALUE
