"""The picture of the measured speeds: what a batch gains, what an update costs, and how that grows. Every number in a title is
measured."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes

from implicit_bias.plotting.labels import End, end_labels, theory, titled
from implicit_bias.plotting.style import GREY, drawing, log_axis, optimizer_look, panels, saved
from implicit_bias.runtime.processors import processor

#: The batch that titles speak of, and the size whose times are laid out one by one.
BATCH, SIZE = 64, "n=100, k=10, d=25"
#: What an update of a run costs: the column, the runs of its row (None: any, it is a loop's), and its name.
COSTS = (
    ("usual_us", None, "usual loop"),
    ("tight_us", None, "tight loop"),
    ("lean_us", None, "leanest loop"),
    ("batched_us", 1, "one run alone"),
    ("batched_us", BATCH, f"one of {BATCH}"),
    ("steps_us", BATCH, "its steps"),
    ("roofline_us", BATCH, "limit"),
)
#: Colour and marker of each size along which the cost grows.
GROWTH = {"n": ("#0072B2", "s"), "k": ("#D55E00", "v"), "d": ("#009E73", "D"), "runs": ("#7B3294", "o")}


def draw(table: pd.DataFrame, growth: pd.DataFrame) -> dict[str, bytes]:
    """The picture of both tables, as png and pdf."""
    linear = table[table["tight_us"].notna()]
    sizes = list(dict.fromkeys(linear["size"]))[:3]
    with drawing():
        figure, axes = panels(2, 3, height=4.9)
        for axis, size in zip(axes[0], sizes, strict=False):
            _gains(axis, linear[linear["size"] == size])
        titled(axes[0][: len(sizes)], [gain_title(linear[linear["size"] == size]) for size in sizes])
        axes[0, 0].set_ylabel("times as fast as the leanest loop")
        laid_out = linear[linear["size"] == (SIZE if SIZE in sizes else sizes[0])]
        _costs(axes[1, 0], laid_out)
        methods = list(dict.fromkeys(growth["optimizer"]))[:2]
        for axis, method in zip(axes[1, 1:], methods, strict=False):
            _growth(axis, growth[growth["optimizer"] == method])
        titles = [cost_title(laid_out), *(growth_title(growth[growth["optimizer"] == name], name) for name in methods)]
        titled(axes[1][: len(titles)], titles)
        axes[1, 1].set_ylabel("times as long")
        for axis in [*axes[0][len(sizes) :], *axes[1][len(titles) :]]:
            axis.set_visible(False)
        figure.suptitle(f"{processor()}, {os.cpu_count()} cores, torch {torch.__version__}", fontsize=6.5, color=GREY)
        return {kind: saved(figure, kind) for kind in ("png", "pdf")}


def gain_title(rows: pd.DataFrame) -> str:
    """What a batch gains, in two lines."""
    of_batch = rows[rows["runs"] == BATCH]
    if of_batch.empty:
        return "what a batch gains"
    low, high = of_batch["ratio_lean"].min(), of_batch["ratio_lean"].max()
    between = _part(low) if _part(low) == _part(high) else f"{_part(high)} to {_part(low)}"
    return f"a batch of {BATCH} costs a run\n{between} of the leanest loop"


def _part(ratio: float) -> str:
    """One over a ratio, as one says it."""
    return f"1/{ratio:.0f}" if ratio >= 1.5 else f"{1 / ratio:.1f}"


def cost_title(rows: pd.DataFrame) -> str:
    """How far the batch is from the limit, in two lines."""
    of_batch = rows[rows["runs"] == BATCH]
    if of_batch.empty or "steps_us" not in of_batch or of_batch["steps_us"].isna().all():
        return "what an update of a run costs"
    above = of_batch["steps_us"] / of_batch["roofline_us"]
    return f"steps of {BATCH} runs take {above.min():.1f} to {above.max():.1f}\ntimes their arithmetic's least time"


def growth_title(rows: pd.DataFrame, method: str) -> str:
    """The exponents, in two lines."""
    slopes = rows.groupby("axis", sort=False)["slope"].first()
    grows = " ".join(f"{axis}$^{{{slope:.2f}}}$" for axis, slope in slopes.items())
    return f"{optimizer_look(method).label}: time grows as\n{grows}"


def _gains(axis: Axes, rows: pd.DataFrame) -> None:
    """By batch, how many times as fast as the leanest loop: a line an optimizer."""
    ends = []
    for name, curve in rows.groupby("optimizer", sort=False):
        look = optimizer_look(str(name))
        axis.plot(curve["runs"], curve["ratio_lean"], **look.plot(range(len(curve))))
        ends.append(End(curve["runs"].iloc[-1], curve["ratio_lean"].iloc[-1], look.label, look.color))
    axis.axhline(1, color=GREY, lw=0.8, zorder=1)
    axis.set_xlabel(f"runs in the batch ({rows['size'].iloc[0]})", fontsize=7)
    _log(axis, ends)


def _costs(axis: Axes, rows: pd.DataFrame) -> None:
    """What an update of a run costs, from the usual loop down to the limit: a mark an optimizer."""
    names = list(dict.fromkeys(rows["optimizer"]))
    for i, name in enumerate(names):
        look, mine = optimizer_look(str(name)), rows[rows["optimizer"] == name]
        places = []
        for place, (column, runs, _) in enumerate(COSTS):
            found = mine if runs is None else mine[mine["runs"] == runs]
            if column in found and found[column].notna().any():
                places.append((found[column].dropna().iloc[0], place + 0.16 * (i - (len(names) - 1) / 2)))
        axis.plot(*zip(*places, strict=True), ls="", marker=look.marker, color=look.color, ms=3.6, label=look.label)
    axis.set_yticks(range(len(COSTS)), [called for *_, called in COSTS])
    axis.invert_yaxis()
    axis.set_xlabel(f"us an update and run ({rows['size'].iloc[0]})", fontsize=7)
    log_axis(axis, "x")
    axis.legend(fontsize=6, loc="lower right", handletextpad=0.2, borderaxespad=0.2)


def _growth(axis: Axes, rows: pd.DataFrame) -> None:
    """How the time of an update grows with each size, from its least value."""
    ends = []
    for name, curve in rows.groupby("axis", sort=False):
        color, marker = GROWTH[str(name)]
        least = curve["value"].iloc[0]
        x, y = curve["value"] / least, curve["seconds"] / curve["seconds"].iloc[0]
        axis.plot(x, y, color=color, marker=marker, lw=1.2, ms=3.4)
        ends.append(End(x.iloc[-1], y.iloc[-1], f"{name} from {least}", color))
    reach = np.array([1.0, 60.0])
    theory(axis, reach, reach, "slope 1", at=1, ha="right")
    reach = np.array([1.0, 6.0])
    theory(axis, reach, reach**2, "slope 2", at=1, ha="right")
    axis.set_xlabel("times as many", fontsize=7)
    _log(axis, ends)


def _log(axis: Axes, ends: Sequence[End]) -> None:
    log_axis(axis, "x")
    log_axis(axis, "y")
    end_labels(axis, ends)
