"""What a person sees: a progress bar while runs are computed, and the table of what came out."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

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
# Own-norm alignment below which a network's steps were too large for statements about flows: with rates 6 to 17 times too large
# an independent reproduction met .53 and less, with small ones .78 and more.
LOW_ALIGNMENT = 0.6
# Seconds between two lines of progress where there is no bar, at least; and the part of the time that has passed.
LINE_EVERY, LINE_SHARE = 10.0, 0.1
# From this size on a ratio is written as other numbers are.
LARGE_RATIO = 100.0
# Of float32.
ROUNDING_UNIT = 2.0**-24


class Progress:
    """A bar on stderr with rate, time left and the ratio in the optimizer's own norm; without a terminal, lines now and then.

    Used as a context manager; it is a :class:`implicit_bias.sweep.Progress`.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        columns = (
            TextColumn("{task.fields[cells]}"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:>3.0f}%"),
            _Rate(),
            TimeRemainingColumn(compact=True),
            TimeElapsedColumn(),
            TextColumn("{task.fields[ratio]}"),
        )
        visible = enabled and sys.stderr.isatty()
        self._lines = ProgressLines() if enabled and not visible else None
        self._bar = RichProgress(*columns, console=Console(stderr=True), transient=True, disable=not visible)
        self._task = self._bar.add_task("starting", total=None, ratio="", cells="")

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def status(self, text: str) -> None:
        """Say what is being done."""
        self._bar.update(self._task, description=text)
        if self._lines:
            self._lines.status(text)

    def advance(self, steps: int, total: int, own_ratio: float) -> None:
        """``steps`` of ``total`` are made; the own-norm ratio stands at ``own_ratio`` (nan: unknown)."""
        ratio = "" if math.isnan(own_ratio) else f"ratio {own_ratio:.4f}"
        self._bar.update(self._task, completed=steps, total=total, ratio=ratio)
        if self._lines:
            self._lines.advance(steps, total)

    def cells(self, done: int, total: int) -> None:
        """``done`` of the sweep's ``total`` cells have come to their end; a single run has no use for it."""
        if total > 1:
            text = f"{done:,} of {total:,} cells"
            self._bar.update(self._task, cells=text)
            if self._lines:
                self._lines.cells = text


class ProgressLines:
    """Progress as plain lines on stderr, for log files: none in the first seconds, and the rarer the longer it takes.

    Attributes:
        cells: How many cells are done, in words.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.cells = ""
        self._clock = clock
        self._began = self._said = clock()
        self._text = "starting"
        self._steps = self._total = 0
        self._first: tuple[float, int] | None = None

    def status(self, text: str) -> None:
        """Remember what is being done."""
        self._text = text
        self._say()

    def advance(self, steps: int, total: int) -> None:
        """``steps`` of ``total`` are made."""
        self._first = self._first or (self._clock(), steps)
        self._steps, self._total = steps, total
        self._say()

    def _say(self) -> None:
        now = self._clock()
        if now - self._said < max(LINE_EVERY, LINE_SHARE * (now - self._began)):
            return
        self._said = now
        parts = [self._text, self.cells]
        if self._total:
            parts.append(f"{self._steps / self._total:.0%} of the steps")
            parts.append(self._left(now))
        print(f"{_time(now - self._began)}: {', '.join(filter(None, parts))}", file=sys.stderr, flush=True)

    def _left(self, now: float) -> str:
        """The time left at the pace since the first step that was seen: a run may have begun at a checkpoint."""
        since, first = self._first or (now, self._steps)
        if self._steps <= first or now <= since:
            return ""
        return f"about {_time((self._total - self._steps) * (now - since) / (self._steps - first))} left"


class _Rate(ProgressColumn):
    """Steps a second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f} steps/s")


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
    """A network, a row a norm: margin and soft margin, and how near to a KKT direction alignment and KKT ratio say it is."""
    table = _table("optimizer", "norm", right=("margin", "soft margin", "alignment", "KKT ratio"))
    best = _best(summary["kkt_ratio"])
    for i, (_, row) in enumerate(summary.iterrows()):
        table.add_row(
            str(row["optimizer"]) if i == 0 else "",
            _own(str(row["norm"]), bool(row["own"])),
            _number(row["margin"]),
            _number(row["soft_margin"]),
            _ratio(row["alignment"]),
            _ratio(row["kkt_ratio"], row.name == best),
            style="bold" if row["own"] else None,
        )
    return table


def network_notes(summary: pd.DataFrame, homogeneous: bool) -> list[str]:
    """How far the training of a network came, and what limits the reading of its table."""
    row = summary[summary["own"]].iloc[0]
    test = f", on the test set {row['test_accuracy']:.4f}" if "test_accuracy" in summary else ""
    notes = [f"step {row['step']}: loss 10^{row['log_loss'] / math.log(10):.1f}, accuracy {row['accuracy']:.4f}{test}"]
    if not homogeneous:
        notes.append("the model is not homogeneous: margins are q / N, and are not comparable at different N")
    if row["accuracy"] < 1:
        notes.append("not separated yet: margins are negative, and no KKT ratio is defined; more steps, or a larger schedule.lr")
    elif homogeneous and row["alignment"] < LOW_ALIGNMENT:
        notes.append(
            f"warning: alignment {row['alignment']:.2f} in the own norm: steps were too large for a theory about flows;"
            " try a smaller schedule.lr"
        )
    return notes


def precision_notes(precision: str, summary: pd.DataFrame | None = None, in_double: float | None = None) -> list[str]:
    """What float32 costs. A gap of g is known to g rounding units, and the weights of a gradient are exponentials of gaps.

    Args:
        precision: ``float64``, of which there is nothing to say, or ``float32``.
        summary: Of a single run.
        in_double: The margin in the own norm of its last parameters, computed in float64.
    """
    if precision != "float32":
        return []
    depth = f"{ROUNDING_UNIT:.0e} times the log loss, so that below e^{-1 / ROUNDING_UNIT:,.0f} no digit is right"
    if summary is None or not in_double:
        return [
            f"float32: margins and the intervals proven for them have about 6 digits; gradients are off by up to about {depth}"
        ]
    own = summary[summary["own"]].iloc[0]
    error = max(abs(own["margin"] / in_double - 1), ROUNDING_UNIT)
    return [
        f"float32: the {own['norm']} margin is off by {error:.0e} (float64, same parameters), proofs hold up to that;"
        f" gradients by up to about {ROUNDING_UNIT * max(1.0, abs(own['log_loss'])):.0e} ({depth})"
    ]


def slow_notes(optimizers: Sequence[str]) -> list[str]:
    """How the margin grows under the ``optimizers`` that take constant steps as long as their gradient, on linear models."""
    if not optimizers:
        return []
    names = ", ".join(dict.fromkeys(optimizers))
    return [f"{names}: with a constant step the margin nears its optimum like 1 / log t, with schedule=loss_based polynomially"]


def linear_notes(summary: pd.DataFrame) -> list[str]:
    """What limits the reading of a linear model's table."""
    notes = []
    if "optimum_lower" in summary and (summary["max_margin"].isna() & summary["optimum_lower"].notna()).any():
        notes.append(
            "an interval in the place of an optimum holds it: no more is proven within reference_timeout, or in double precision"
        )
    if summary["accuracy"].iloc[0] < 1:
        # A positive lower end of an optimum is a separator.
        separable = "optimum_lower" in summary and bool((summary["optimum_lower"] > 0).any())
        unless = ", though the classes can be separated" if separable else ""
        advice = "try more steps, another schedule.lr, or columns of like size"
        reason = "" if separable else " (or the classes cannot be separated)"
        notes.append(f"not separated yet{unless}: margins are negative; {advice}{reason}")
    return notes


def sweep_table(cells: Sequence[Swept], most_rows: int = MOST_ROWS) -> Table:
    """A sweep, aggregated over seeds: mean and smallest ratio of every combination of the other swept keys, under every norm.

    Where that is more than ``most_rows`` rows only the optimizers' own norms are shown, and where it still is, the first of them.
    The last column is the mean of margin / upper bound: at least so much of the optimum is proven to be reached.
    """
    swept = [key for key in dict.fromkeys(key for values, _ in cells for key in values) if key not in SEED_KEYS]
    keys = swept if "optimizer" in swept else ["optimizer", *swept]
    groups = _aggregated(cells, keys)
    if sum(len(rows) for rows in groups.values()) > most_rows:
        groups = {values: rows[rows["own"]] for values, rows in groups.items()}
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
        ends: What :func:`implicit_bias.comparison.at_the_end` gives.
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


def _time(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


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
