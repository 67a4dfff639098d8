"""Any runs in the same plots: a panel a norm, a curve a configuration, the range over its seeds as a band."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from implicit_bias.analysis.comparison import over_runs
from implicit_bias.plotting.keyed import keyed_looks
from implicit_bias.plotting.style import GREY, Look, curve_looks, legend_below, log_axis, log_spaced, norm_look, panels

WORDS = {
    "margin": "margin",
    "relative_gap": "relative gap to the optimum",
    "ratio": "margin / optimum",
    "log_loss": r"$\log_{10}$ loss",
    "alignment": "alignment",
    "kkt_ratio": "KKT ratio",
}
AXES = {"step": "step", "epoch": "epoch", "log_loss": r"$-\log_{10}$ loss"}
MOST_COLUMNS, MOST_FACETS = 3, 4
# Characters of a legend's entry and its line across the picture.
LINE_ROOM, ACROSS = 7, 105
# Decades of loss before which nothing is separated, and a log axis would be long.
LEAST_DEPTH = 0.1
# Margins that end further apart than this are drawn on a log axis.
FAR_APART = 20.0


def overlay(
    table: pd.DataFrame, norms: Sequence[str], quantity: str, x: str = "step", words: Mapping[str, str] | None = None
) -> Drawing:
    """The picture of a comparison.

    Args:
        table: Rows of :func:`implicit_bias.analysis.comparison.comparison_table`; where they have columns ``color``, ``style`` or
            ``facet``, those say which curves have a colour, dashes or a panel in common.
        norms: One panel each; the log loss, which is of no norm, has one panel.
        quantity: The column that is drawn.
        words: What the keys behind ``color``, ``style`` and ``facet`` are called, before values that are numbers.
        x: ``step``, ``epoch``, or ``log_loss`` for decades of loss.
    """
    for column in {"color", "style", "facet"} & set(table.columns):
        table = table.assign(**{column: _with_word((words or {}).get(column, ""), table[column])})
    looks, handles = _looks(table)
    facets = list(dict.fromkeys(table["facet"])) if "facet" in table else [None]
    norms = norms[:1] if quantity == "log_loss" else norms
    columns = min(MOST_FACETS, len(facets)) if len(facets) > 1 else min(MOST_COLUMNS, len(norms))
    # Every norm begins a row of its own where it has several panels.
    empty = [None] * (-len(facets) % columns) if len(facets) > 1 else []
    shown = [(norm, facet) for norm in norms for facet in [*facets, *empty]]
    rows = math.ceil(len(shown) / columns)
    names = [textwrap.fill(str(handle.get_label()), ACROSS - LINE_ROOM) for handle in handles]
    longest = min(ACROSS - LINE_ROOM, max(map(len, names), default=1))
    per_line = min(max(len(names), 1), ACROSS // (longest + LINE_ROOM))
    legend_height = 0.17 * sum(name.count("\n") + 1 for name in names) / per_line
    figure, axes = panels(rows, columns, height=(2.4 if len(shown) > 1 else 3.2) * rows + legend_height)
    for axis in axes.flat[len(shown) :]:
        axis.set_visible(False)
    for place, (axis, (norm, facet)) in enumerate(zip(axes.flat, shown, strict=False)):
        if facet is None and empty:
            axis.set_visible(False)
            continue
        mine = table[table["norm"] == norm]
        _panel(axis, mine if facet is None else mine[mine["facet"] == facet], looks, quantity, x)
        told = [norm_look(norm).label] if quantity != "log_loss" else []
        axis.set_title(", ".join(told if facet is None else [*told, str(facet)]))
        if place % columns == 0:
            axis.set_ylabel(WORDS[quantity])
        if place + columns >= len(shown) - len(empty):
            axis.set_xlabel(AXES[x])
    for handle, name in zip(handles, names, strict=True):
        handle.set_label(name)
    if handles:
        legend_below(figure, handles, ncols=per_line)
    return figure


def _with_word(word: str, values: pd.Series) -> pd.Series:
    """Values of a key with its name before those that say nothing alone."""
    numbers = pd.to_numeric(values, errors="coerce").notna() | values.isin(["true", "false", "null"])
    told: pd.Series = values.where(~numbers | (word == ""), f"{word} " + values.astype(str))
    return told


def _looks(table: pd.DataFrame) -> tuple[Mapping[str, Look], list[Line2D]]:
    """The look of every curve by its label, and the entries of the legend: a curve each, or the values of the keys."""
    curves = table.drop_duplicates("label")
    if not {"color", "style", "facet"} & set(table.columns):
        looks = curve_looks({str(label): str(name) for label, name in curves.set_index("label")["optimizer"].items()})
        return looks, [look.handle() for look in looks.values()]
    color = curves.get("color", curves["optimizer"])
    keyed = keyed_looks(pd.DataFrame({"label": curves["label"], "color": color, "style": curves.get("style", "")}))
    return keyed.looks, keyed.handles


def _panel(axis: Axes, rows: pd.DataFrame, looks: Mapping[str, Look], quantity: str, x: str) -> None:
    ends = []
    for label, look in looks.items():
        mine = rows[(rows["label"] == label) & (rows["step"] > 0)]
        curve = over_runs(mine, quantity, x)
        if quantity == "log_loss":
            curve = curve.assign(**{key: curve[key] / math.log(10) for key in ("mean", "min", "max")})
        if x == "log_loss":
            curve = curve.assign(x=-curve["x"] / math.log(10))
            curve = curve[curve["x"] > LEAST_DEPTH].sort_values("x")
        if curve.empty:
            continue
        axis.plot(curve["x"], curve["mean"], **look.plot(log_spaced(curve["x"], 6)))
        if mine.groupby(["run", "seed"]).ngroups > 1:
            axis.fill_between(curve["x"], curve["min"], curve["max"], color=look.color, alpha=0.15, lw=0)
        ends.append(float(curve["mean"].iloc[-1]))
    if not ends:
        return
    log_axis(axis, "x")
    _scale(axis, quantity, ends)
    if quantity == "margin":
        _optimum(axis, rows["max_margin"].dropna().to_numpy())
    elif quantity == "ratio":
        _optimum(axis, np.ones(1))


def _scale(axis: Axes, quantity: str, ends: Sequence[float]) -> None:
    """A log axis for gaps, and margins that end far apart; else from zero up, without what came before separation."""
    least, largest = min(ends), max(ends)
    if quantity == "relative_gap" or (quantity == "margin" and 0 < least < largest / FAR_APART):
        if quantity == "margin":
            axis.set_ylim(bottom=least / 10)
        log_axis(axis, "y")
    elif quantity in ("margin", "ratio"):
        axis.set_ylim(bottom=min(0.0, 1.1 * least))
    elif quantity in ("alignment", "kkt_ratio"):
        axis.set_ylim(min(0.0, 1.1 * least), 1.02)


def _optimum(axis: Axes, best: np.ndarray) -> None:
    """A line at the maximum margin, where all runs have the same one; the axis goes up to it."""
    if len(best) and np.ptp(best) <= 1e-6 * abs(best[0]):
        axis.set_ylim(top=max(axis.get_ylim()[1], 1.06 * best[0]))
        axis.axhline(best[0], color=GREY, lw=0.8, ls=":")
        axis.annotate("optimum", (0.01, best[0]), xycoords=("axes fraction", "data"), va="bottom", size=6, color=GREY)
