"""One's own runs as one page: curves to filter and to overlay, lines at the optima, and where each configuration ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from implicit_bias.analysis.comparison import Source, comparison_table, different_problems, different_seeds
from implicit_bias.core.errors import BadInput
from implicit_bias.plotting.explorer import DEPTH, STEP, Explorer, Level, Quantity
from implicit_bias.plotting.style import NORM_LOOKS, curve_looks, norm_look
from implicit_bias.report.page.curves import curves
from implicit_bias.report.page.templating import environment
from implicit_bias.report.page.text import plain

#: Configurations; more of them make the page too large to be sent about.
MOST_CURVES = 300
QUANTITIES = (
    Quantity("relative_gap", "relative gap to the optimum", log=True),
    Quantity("ratio", "margin / optimum"),
    Quantity("margin", "margin"),
    Quantity("log10_loss", "log10 loss"),
    Quantity("alignment", "alignment"),
    Quantity("kkt_ratio", "KKT ratio"),
)
#: Optima that are equal but for the last digits of their solver are one line.
EQUAL = 1e-6
#: What a cell of the table is, best first; a whole table shows one of them.
SHOWN = {"ratio": "margin / optimum", "kkt_ratio": "KKT ratio", "margin": "margin"}


@dataclass(frozen=True)
class Cell:
    """Where a configuration ends under a norm: mean and standard deviation over its runs, in words."""

    mean: str
    spread: str
    own: bool
    best: bool


@dataclass(frozen=True)
class Row:
    """A configuration.

    Attributes:
        label: As in the legend.
        runs: The folders, or the files, of its runs.
        steps: The last step, or the least and the largest.
        loss: log10 of the last mean loss, averaged over runs.
        cells: One a norm; None where it was not measured.
    """

    label: str
    runs: tuple[str, ...]
    steps: str
    loss: str
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class OwnRuns:
    """What the page says: ``shown`` is the quantity in the cells of the table, ``notes`` what a reader should know."""

    command: str
    curves: dict[str, Any]
    norms: tuple[str, ...]
    shown: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def runs(self) -> int:
        """How many runs there are."""
        return sum(len(row.runs) for row in self.rows)


def runs_page(sources: Sequence[Source], command: str) -> str:
    """The page of these runs, one file that needs nothing beside it. Equal inputs give equal bytes.

    Raises:
        BadInput: two tables would be mixed up, there are too many configurations, or no run has a record to draw.
    """
    return environment().get_template("runs.html.j2").render(said=own_runs(sources, command))


def own_runs(sources: Sequence[Source], command: str) -> OwnRuns:
    """What the page says. Raises BadInput as :func:`runs_page`."""
    mini_batches = any(source.share not in (None, 1.0) for source in sources)
    table = comparison_table(sources, epochs=mini_batches)
    count = table["label"].nunique()
    if count > MOST_CURVES:
        raise BadInput(f"runs: {count} configurations; must be at most {MOST_CURVES} in a page")
    norms = _norms(table)
    drawn = curves(_explorer(table, norms, mini_batches))
    if drawn is None:
        raise BadInput("runs: nothing was recorded in any of them; must have a record with a number")
    shown, rows = _rows(table, norms)
    notes = ["The runs are on different data, models or losses: their margins do not compare."] * different_problems(sources)
    notes += ["The curves are of different seeds."] * different_seeds(table)
    return OwnRuns(command, drawn, tuple(plain(norm_look(norm).label) for norm in norms), SHOWN[shown], rows, tuple(notes))


def _norms(table: pd.DataFrame) -> list[str]:
    """All norms in which some run was measured, the best known first."""
    there = [str(norm) for norm in table["norm"].unique()]
    return [*(norm for norm in NORM_LOOKS if norm in there), *(norm for norm in there if norm not in NORM_LOOKS)]


def _explorer(table: pd.DataFrame, norms: Sequence[str], epochs: bool) -> Explorer:
    """The curves; runs count as seeds, so that a run that is there under two names is no third one."""
    base_ten = table["log_loss"] / np.log(10)
    rows = table.assign(seed=table["run"] + " " + table["seed"].astype(str), log10_loss=base_ten, depth=-base_ten)
    labels = rows.drop_duplicates("label").set_index("label")["optimizer"]
    return Explorer(
        rows,
        "label",
        curve_looks({str(label): str(name) for label, name in labels.items()}),
        (STEP, DEPTH, *([Quantity("epoch", "epoch", log=True)] if epochs else [])),
        QUANTITIES,
        {"norm": ("norm", {norm: norm_look(norm).label for norm in norms})},
        levels=tuple(_optima(table, norms)),
    )


def _optima(table: pd.DataFrame, norms: Sequence[str]) -> list[Level]:
    """Under every norm with an optimum a line at one for shares, and one for margins where all runs have that optimum."""
    levels = []
    for norm in norms:
        best = table.loc[table["norm"] == norm, "max_margin"].dropna()
        if best.empty:
            continue
        levels.append(Level("ratio", 1.0, "optimum", (norm,)))
        if best.max() - best.min() <= EQUAL * abs(best.iloc[0]):
            levels.append(Level("margin", float(best.iloc[0]), "optimum", (norm,)))
    return levels


def _rows(table: pd.DataFrame, norms: Sequence[str]) -> tuple[str, tuple[Row, ...]]:
    """The quantity that the table shows, and a row a configuration. Every run counts with its own last step."""
    last = table[table["step"] == table.groupby(["run", "seed"])["step"].transform("max")]
    shown = next((column for column in SHOWN if last[column].notna().any()), "margin")
    by = last.groupby(["label", "norm"], sort=False)
    ends = by.agg(mean=(shown, "mean"), spread=(shown, "std"), own=("own", "any")).reset_index()
    several = ends.groupby("norm")["mean"].transform("count") > 1
    ends["best"] = several & (ends["mean"] == ends.groupby("norm")["mean"].transform("max"))
    cells = {(end.label, end.norm): _cell(end) for end in ends.itertuples()}
    return shown, tuple(
        _row(str(label), rows, [cells.get((label, norm)) for norm in norms]) for label, rows in last.groupby("label", sort=False)
    )


def _cell(end: Any) -> Cell | None:
    if np.isnan(end.mean):
        return None
    spread = "" if np.isnan(end.spread) else f"± {_number(end.spread, 2)}"
    return Cell(_number(end.mean, 4), spread, bool(end.own), bool(end.best))


def _row(label: str, rows: pd.DataFrame, cells: Sequence[Cell | None]) -> Row:
    first, last = int(rows["step"].min()), int(rows["step"].max())
    steps = f"{last:,}" if first == last else f"{first:,} to {last:,}"
    loss = rows.drop_duplicates(["run", "seed"])["log_loss"].mean() / np.log(10)
    runs = tuple(sorted(rows["run"].unique()))
    return Row(plain(label), runs, steps, "" if np.isnan(loss) else _number(loss, 3), tuple(cells))


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}g}".replace("-", "\N{MINUS SIGN}")
