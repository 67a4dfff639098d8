"""The table of a sweep: a row a configuration, a column a norm, in a place the mean over seeds and how far they lie apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from implicit_bias.cli.grid import Grid, Text
from implicit_bias.cli.tables import NO_VALUE, share_of
from implicit_bias.core.words import short_keys

#: A summary with the values of the swept keys of its cell.
Swept = tuple[Mapping[str, Any], pd.DataFrame]

SEED_KEYS = ("seed", "dataset.seed")
MOST_ROWS = 40
MARKS = "* the optimizer's own norm   + best under the norm"
#: What the numbers of a matrix are.
SHARE, MARGIN, KKT = "share", "margin", "KKT ratio"
_CAPTIONS = {
    SHARE: "share of the best possible margin in percent",
    MARGIN: "margin",
    KKT: "KKT ratio",
}


def sweep_grid(cells: Sequence[Swept], most_rows: int = MOST_ROWS) -> tuple[Grid, list[str]]:
    """A sweep as a matrix, and the lines that explain it.

    Numbers are shares of the best possible margin in percent, of networks KKT ratios, and where neither is known margins; the
    mean over all runs that differ in seeds alone, and their standard deviation. The best configuration under every norm is bold
    and has a ``+``; a ``*`` says that the norm is the optimizer's own.

    Args:
        cells: Swept keys and summary of each cell.
        most_rows: Configurations to show.
    """
    kind, numbers = _numbers(cells)
    keys = _keys(cells)
    norms = list(dict.fromkeys(numbers["norm"]))
    by_row = {str(row): part.set_index("norm") for row, part in _aggregated(numbers).groupby("row", sort=False)}
    best = _best(by_row)
    runs = {row: int(part["runs"].max()) for row, part in by_row.items()}
    alike = len(set(runs.values())) == 1
    names = {row: numbers.loc[numbers["row"] == row, "values"].iloc[0] for row in by_row}
    rows = []
    for row, part in list(by_row.items())[:most_rows]:
        count = [] if alike else [Text(str(runs[row]))]
        entries = [_entry(part, norm, kind, norm in best and row in best[norm]) for norm in norms]
        rows.append((*map(Text, names[row]), *count, *entries))
    head = (*short_keys(keys), *(() if alike else ("runs",)), *norms)
    said = [_caption(kind, numbers, runs), MARKS]
    hidden = len(by_row) - most_rows
    if hidden > 0:
        said.append(f"... and {hidden} more configurations, in the table of the sweep")
    return Grid(head, len(keys), tuple(rows)), said


def _keys(cells: Sequence[Swept]) -> list[str]:
    """The swept keys that tell configurations apart; the optimizer in any case."""
    swept = [key for key in dict.fromkeys(key for values, _ in cells for key in values) if key not in SEED_KEYS]
    return swept if "optimizer" in swept else ["optimizer", *swept]


def _numbers(cells: Sequence[Swept]) -> tuple[str, pd.DataFrame]:
    """What is shown, and of every cell and norm the number, with the row it belongs to."""
    keys, found = _keys(cells), []
    networks = any("soft_margin" in summary for _, summary in cells)
    for values, summary in cells:
        known = {"optimizer": summary["optimizer"].iloc[0], **values}
        texts = tuple(_text(known.get(key)) for key in keys)
        for _, line in summary.iterrows():
            share, about = (float(line["kkt_ratio"]), "") if networks else share_of(line)
            found.append((texts, line["norm"], bool(line["own"]), share, bool(about), float(line["margin"])))
    frame = pd.DataFrame(found, columns=["values", "norm", "own", "share", "least", "margin"])
    kind = MARGIN if frame["share"].isna().all() else KKT if networks else SHARE
    frame["number"] = frame["margin"] if kind == MARGIN else frame["share"]
    frame["row"] = ["\0".join(texts) for texts in frame["values"]]
    return kind, frame


def _aggregated(numbers: pd.DataFrame) -> pd.DataFrame:
    """A line a configuration and norm: the mean, the standard deviation (nan of a single run), and how many runs."""
    by = numbers.groupby(["row", "norm"], sort=False)
    return by.agg(mean=("number", "mean"), spread=("number", "std"), runs=("number", "size"), own=("own", "any")).reset_index()


def _best(by_row: Mapping[str, pd.DataFrame]) -> dict[str, set[str]]:
    """The rows with the largest mean under each norm; none where there is one configuration, or all have the same."""
    columns: dict[str, dict[str, float]] = {}
    for row, part in by_row.items():
        for norm, mean in part["mean"].items():
            if math.isfinite(mean):
                columns.setdefault(str(norm), {})[row] = mean
    best = {}
    for norm, means in columns.items():
        top = max(means.values())
        rows = {row for row, mean in means.items() if mean >= top - 1e-9 * abs(top)}
        if len(rows) < len(means):
            best[norm] = rows
    return best


def _entry(part: pd.DataFrame, norm: str, kind: str, best: bool) -> Text:
    """A number with its spread and marks; the place for the marks stays."""
    if norm not in part.index:
        return Text("")
    line: Any = part.loc[norm]
    marks = f"{'*' if line['own'] else ''}{'+' if best else ''}"
    return Text(_with_spread(float(line["mean"]), float(line["spread"]), kind), best, marks.ljust(2))


def _with_spread(mean: float, spread: float, kind: str) -> str:
    if not math.isfinite(mean):
        return NO_VALUE
    if kind == MARGIN:
        return f"{mean:.4g}" + (f" ± {spread:.2g}" if math.isfinite(spread) else "")
    digits, unit = (1, 100) if kind == SHARE else (3, 1)
    return f"{unit * mean:.{digits}f}" + (f" ± {unit * spread:.{digits}f}" if math.isfinite(spread) else "")


def _caption(kind: str, numbers: pd.DataFrame, runs: Mapping[str, int]) -> str:
    counts = sorted(set(runs.values()))
    many = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    of = f", mean ± standard deviation of {many} runs" if counts[-1] > 1 else ""
    least = ", at least: no optimum is known" if kind == SHARE and numbers["least"].any() else ""
    return f"{_CAPTIONS[kind]}{least}{of}{_left_out(kind, numbers)}"


def _left_out(kind: str, numbers: pd.DataFrame) -> str:
    """How many runs are not in the means, having no number: they separate nothing yet."""
    if kind == MARGIN or not numbers["share"].isna().any():
        return ""
    without = int((numbers["share"].isna() & (numbers["norm"] == numbers["norm"].iloc[0])).sum())
    runs = int((numbers["norm"] == numbers["norm"].iloc[0]).sum())
    return f"; {without} of {runs} runs separate nothing yet, and are left out" if without else ""


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)
