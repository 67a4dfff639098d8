"""The tables that commands print: one run, a comparison. That of a sweep is :mod:`implicit_bias.cli.matrix`."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from implicit_bias.cli.grid import Grid, Text, bar
from implicit_bias.cli.wrapping import fitted

# Without a terminal there is no width to ask for; then tables are as wide as they need.
PLAIN_WIDTH = 120
NO_VALUE = "-"
LEGEND = "* the optimizer's own norm"
COMPARISON_LEGEND = "* in its own norm   + best margin under the norm; of several runs the mean"
# From this size on a ratio is written as other numbers are.
LARGE_RATIO = 100.0
# Ratios are written with four digits.
DIGITS_SHOWN = 1e-4


def run_grid(summary: pd.DataFrame, certificate: bool = False) -> Grid:
    """One run, a row a norm: the margin reached, the best possible one, and the share of it that was reached.

    Where the best possible margin is not known, its proven bounds stand in its place: what the run's own certificate says, or the
    interval that holds the optimum; and the share that is reached at least.

    Args:
        summary: The columns of ``summary.csv``.
        certificate: Whether the interval that the run itself proves has a column.
    """
    if "soft_margin" in summary:
        return _network_grid(summary)
    head = ("norm", "margin", "best possible", "share", "", *(("certificate",) if certificate else ()))
    rows = []
    for _, row in summary.iterrows():
        share, about = share_of(row)
        texts = [
            _own(str(row["norm"]), bool(row["own"])),
            _number(row["margin"]),
            _best_possible(row),
            about + _percent(share),
            bar(share) if _known(share) else "",
        ]
        # No optimum is negative: W = 0 has a margin of 0.
        interval = (
            f"[{_number(max(row['margin'], 0))}, {_number(row['upper_bound'])}]" if _known(row["upper_bound"]) else NO_VALUE
        )
        rows.append(_texts([*texts, interval] if certificate else texts, bool(row["own"])))
    return Grid(head, 1, tuple(rows))


def share_of(row: pd.Series) -> tuple[float, str]:
    """The share of the best possible margin that a row of ``summary.csv`` has reached, and what to write before it.

    Where no optimum is known that is ``>= ``, the share of what is proven to be its upper bound; nan where the margin is negative
    or nothing is known.
    """
    if not row["margin"] > 0:
        return math.nan, ""
    if _known(row["ratio"]):
        return float(row["ratio"]), ""
    bounds = [row[key] for key in ("upper_bound", "optimum_upper") if key in row and _known(row[key])]
    return (float(row["margin"] / min(bounds)), ">= ") if bounds else (math.nan, "")


def _network_grid(summary: pd.DataFrame) -> Grid:
    """A network, a row a norm: margin and soft margin, how near to a KKT direction alignment and KKT ratio say it is; where an
    optimum is known by formula, that and the ratio to it, too."""
    formula = summary["max_margin"].notna().any()
    known = {"best possible": ("max_margin", _number), "share": ("ratio", _percent)} if formula else {}
    rows = []
    for _, row in summary.iterrows():
        numbers = [_number(row["margin"]), _number(row["soft_margin"]), _ratio(row["alignment"]), _ratio(row["kkt_ratio"])]
        numbers += [text(row[column]) for column, text in known.values()]
        drawn = row["ratio" if formula else "kkt_ratio"]  # of the column that it stands behind
        texts = [_own(str(row["norm"]), bool(row["own"])), *numbers, bar(drawn) if _known(drawn) else ""]
        rows.append(_texts(texts, bool(row["own"])))
    return Grid(("norm", "margin", "soft margin", "alignment", "KKT ratio", *known, ""), 1, tuple(rows))


def comparison_table(ends: pd.DataFrame) -> Table:
    """Curves side by side, norm by norm: the margin that each ends at, and of the rest what was measured.

    Args:
        ends: What :func:`implicit_bias.analysis.comparison.at_the_end` gives.
    """
    rest = {"optimum": ("max_margin", _number), "ratio": ("ratio", _ratio), "alignment": ("alignment", _ratio)}
    rest["KKT ratio"] = ("kkt_ratio", _ratio)
    rest = {title: of for title, of in rest.items() if ends[of[0]].notna().any()}
    if _said_twice(ends):
        del rest["KKT ratio"]
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


def _said_twice(ends: pd.DataFrame) -> bool:
    """Whether KKT ratios are, to the digits shown, the ratios to the optima, as they are of linear models at the end."""
    known = ends[ends["kkt_ratio"].notna()]
    return len(known) > 0 and bool(((known["ratio"] - known["kkt_ratio"]).abs() < DIGITS_SHOWN).all())


def print_table(table: Table, lines: Sequence[str] = (), legend: str = LEGEND) -> None:
    """Print a table, its legend and then lines to stdout; without colours where that is no terminal."""
    terminal = sys.stdout.isatty()
    console = Console() if terminal else Console(no_color=True, width=PLAIN_WIDTH, highlight=False)
    console.print(table)
    for line in (legend, *lines):
        # Words are never parted, and paths stay whole.
        console.print(fitted(line, console.width) if terminal else line, markup=False, highlight=False, soft_wrap=True)


def _table(*left: str, right: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for name in left:
        table.add_column(name, no_wrap=True)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _texts(texts: Sequence[str], bold: bool) -> tuple[Text, ...]:
    return tuple(Text(text, bold) for text in texts)


def _known(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _number(value: Any) -> str:
    """Four significant digits, the last zeros kept; the files have them all."""
    return f"{value:#.4g}".rstrip(".") if _known(value) else NO_VALUE


def _ratio(value: Any) -> str:
    return f"{value:.4f}" if _known(value) and abs(value) < LARGE_RATIO else _number(value)


def _best_possible(row: pd.Series) -> str:
    """The optimum; the interval that is proven to hold it; or what the run's certificate bounds it by."""
    if _known(row["max_margin"]):
        return _number(row["max_margin"])
    if _known(row.get("optimum_lower")):
        return f"[{_number(row['optimum_lower'])}, {_number(row['optimum_upper'])}]"
    return f"<= {_number(row['upper_bound'])}" if _known(row["upper_bound"]) else NO_VALUE


def _percent(share: float) -> str:
    """A share in percent, four digits."""
    return f"{100 * share:.2f} %" if _known(share) else NO_VALUE


def _own(label: str, own: bool) -> str:
    return f"{label} *" if own else label
