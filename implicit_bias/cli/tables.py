"""The tables that commands print: one run, a sweep, a comparison."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from implicit_bias.core.words import short_keys

#: A summary with the values of the swept keys of its cell.
Swept = tuple[Mapping[str, Any], pd.DataFrame]

SEED_KEYS = ("seed", "dataset.seed")
MOST_ROWS = 40
# Without a terminal there is no width to ask for; then tables are as wide as they need.
PLAIN_WIDTH = 120
NO_VALUE = "-"
LEGEND = "* the optimizer's own norm   + best ratio"
COMPARISON_LEGEND = "* in its own norm   + best margin under the norm; of several runs the mean"
SWEEP_LEGEND = "ratio: margin / optimum, mean over seeds; least: the worst seed's; proven: margin / certified upper bound"
# From this size on a ratio is written as other numbers are.
LARGE_RATIO = 100.0


def results_table(summary: pd.DataFrame) -> Table:
    """One run, a row a norm: the margin reached, the optimum, their ratio, and the interval proven to hold the optimum.

    Args:
        summary: The columns of ``summary.csv``.
    """
    if "soft_margin" in summary:
        return _network_table(summary)
    table = _table("optimizer", "norm", right=("margin", "optimum", "ratio", "certified optimum"))
    best = _best(summary["ratio"])
    for i, (_, row) in enumerate(summary.iterrows()):
        table.add_row(
            str(row["optimizer"]) if i == 0 else "",
            _own(str(row["norm"]), bool(row["own"])),
            _number(row["margin"]),
            _optimum(row),
            _ratio(row["ratio"], row.name == best),
            # No optimum is negative: W = 0 has a margin of 0.
            f"[{_number(max(row['margin'], 0))}, {_number(row['upper_bound'])}]" if _known(row["upper_bound"]) else NO_VALUE,
            style="bold" if row["own"] else None,
        )
    return table


def _network_table(summary: pd.DataFrame) -> Table:
    """A network, a row a norm: margin and soft margin, how near to a KKT direction alignment and KKT ratio say it is; where an
    optimum is known by formula, that and the ratio to it, too."""
    known = summary["max_margin"].notna().any()
    more = {"optimum": ("max_margin", _number), "ratio": ("ratio", _ratio)} if known else {}
    table = _table("optimizer", "norm", right=("margin", "soft margin", "alignment", "KKT ratio", *more))
    best = _best(summary["kkt_ratio"])
    for i, (_, row) in enumerate(summary.iterrows()):
        table.add_row(
            str(row["optimizer"]) if i == 0 else "",
            _own(str(row["norm"]), bool(row["own"])),
            _number(row["margin"]),
            _number(row["soft_margin"]),
            _ratio(row["alignment"]),
            _ratio(row["kkt_ratio"], row.name == best),
            *(text(row[column]) for column, text in more.values()),
            style="bold" if row["own"] else None,
        )
    return table


def sweep_table(cells: Sequence[Swept], most_rows: int = MOST_ROWS) -> Table:
    """A sweep, aggregated over seeds: mean and smallest ratio of every combination of the other swept keys, under every norm.

    Where that is more than ``most_rows`` rows only the optimizers' own norms are shown (of one without its own the first), and
    where it still is, the first of them.
    The last column is the mean of margin / upper bound: at least so much of the optimum is proven to be reached.
    """
    swept = [key for key in dict.fromkeys(key for values, _ in cells for key in values) if key not in SEED_KEYS]
    keys = swept if "optimizer" in swept else ["optimizer", *swept]
    groups = _aggregated(cells, keys)
    if sum(len(rows) for rows in groups.values()) > most_rows:
        groups = {values: rows[rows["own"]] if rows["own"].any() else rows.head(1) for values, rows in groups.items()}
    table = _table(*short_keys(keys), "norm", right=("runs", "margin", "ratio", "least", "proven"))
    left = most_rows
    for values, rows in groups.items():
        best = _best(rows["ratio"]) if len(rows) > 1 else None
        for i, (index, row) in enumerate(rows.head(left).iterrows()):
            table.add_row(
                *(values if i == 0 else [""] * len(values)),
                _own(str(row["norm"]), bool(row["own"])),
                str(int(row["runs"])),
                _number(row["margin"]),
                _ratio(row["ratio"], index == best),
                _ratio(row["least"]),
                _ratio(row["proven"]),
                style="bold" if row["own"] else None,
            )
        left = max(0, left - len(rows))
    hidden = sum(len(rows) for rows in groups.values()) - most_rows
    if hidden > 0:
        table.add_row(f"... and {hidden} more", style="dim")
    return table


def comparison_table(ends: pd.DataFrame) -> Table:
    """Curves side by side, norm by norm: the margin that each ends at, and of the rest what was measured.

    Args:
        ends: What :func:`implicit_bias.analysis.comparison.at_the_end` gives.
    """
    rest = {"optimum": ("max_margin", _number), "ratio": ("ratio", _ratio), "alignment": ("alignment", _ratio)}
    rest["KKT ratio"] = ("kkt_ratio", _ratio)
    rest = {title: of for title, of in rest.items() if ends[of[0]].notna().any()}
    table = _table("norm", "optimizer", right=("runs", "step", "margin", *rest))
    table.columns[1].no_wrap = False  # labels can be long
    for norm, rows in ends.groupby("norm", sort=False):
        for i, (_, row) in enumerate(rows.iterrows()):
            steps = str(row["step"]) if row["first"] == row["step"] else f"{row['first']}-{row['step']}"
            table.add_row(
                str(norm) if i == 0 else "",
                _own(str(row["label"]), bool(row["own"])),
                str(row["runs"]),
                steps,
                _number(row["margin"]) + ("+" if row["best"] else " "),
                *(text(row[column]) for column, text in rest.values()),
                style="bold" if row["own"] else None,
                end_section=i == len(rows) - 1,
            )
    return table


def print_table(table: Table, lines: Sequence[str] = (), legend: str = LEGEND) -> None:
    """Print a table, its legend and then lines to stdout; without colours where that is no terminal."""
    console = Console() if sys.stdout.isatty() else Console(no_color=True, width=PLAIN_WIDTH, highlight=False)
    console.print(table)
    for line in (legend, *lines):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _table(*left: str, right: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for name in left:
        table.add_column(name, no_wrap=True)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _aggregated(cells: Sequence[Swept], keys: Sequence[str]) -> dict[tuple[str, ...], pd.DataFrame]:
    """For each combination of values of ``keys``, a frame with one row a norm: runs, margin, ratio, least, proven."""
    parts: dict[tuple[str, ...], list[pd.DataFrame]] = {}
    for values, summary in cells:
        known = {"optimizer": summary["optimizer"].iloc[0], **values}
        parts.setdefault(tuple(_text(known.get(key)) for key in keys), []).append(summary)
    return {values: _over_seeds(pd.concat(summaries)) for values, summaries in parts.items()}


def _over_seeds(summaries: pd.DataFrame) -> pd.DataFrame:
    with_bound = summaries.assign(proven=summaries["margin"] / summaries["upper_bound"])
    by_norm = with_bound.groupby(["norm", "own"], sort=False)
    aggregates: dict[str, tuple[str, str | Callable[[pd.Series], Any]]] = {
        "runs": ("norm", "size"),
        "margin": ("margin", "mean"),
        "ratio": ("ratio", "mean"),
        "least": ("ratio", "min"),
        "proven": ("proven", "mean"),
    }
    return by_norm.agg(**aggregates).reset_index()


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


def _known(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _number(value: Any) -> str:
    """Four significant digits, the last zeros kept; the files have them all."""
    return f"{value:#.4g}".rstrip(".") if _known(value) else NO_VALUE


def _ratio(value: Any, best: bool | None = None) -> str:
    """A ratio, and in a column where one of them is marked the mark or the place for it."""
    mark = {None: "", False: " ", True: "+"}[best]
    text = f"{value:.4f}" if _known(value) and abs(value) < LARGE_RATIO else _number(value)
    return text + mark


def _optimum(row: pd.Series) -> str:
    """The optimum, or the interval that is proven to hold it."""
    if _known(row["max_margin"]) or not _known(row.get("optimum_lower")):
        return _number(row["max_margin"])
    return f"[{_number(row['optimum_lower'])}, {_number(row['optimum_upper'])}]"


def _own(label: str, own: bool) -> str:
    return f"{label} *" if own else label


def _best(ratios: pd.Series) -> Any:
    """The index of the largest ratio; None where none is positive."""
    return ratios.idxmax() if (ratios > 0).any() else None
