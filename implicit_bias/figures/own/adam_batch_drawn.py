"""The picture of the figure on Adam's batch size."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from implicit_bias.figures.own.adam_batch_judged import CURVE, END, PREDICTED
from implicit_bias.plotting.labels import titled
from implicit_bias.plotting.style import GREY, legend_below, log_axis, norm_look, panels, shade

NORMS = ("linf", "l2")


def drawing(table: pd.DataFrame, samples: Mapping[str, int]) -> Drawing:
    """A row a problem: ratios in both norms against the batch size, and the way there."""
    problems = [name for name in samples if name in set(table["problem"])]
    figure, axes = panels(len(problems), 3, height=0.5 + 2.1 * len(problems), width_ratios=(1, 1, 1.15))
    for row, problem in enumerate(problems):
        mine = table[table["problem"] == problem]
        for axis, norm in zip(axes[row, :2], NORMS, strict=True):
            _by_batch(axis, mine[mine["norm"] == norm], norm)
        _way(axes[row, 2], mine[mine["part"] == CURVE], samples[problem])
        if len(problems) > 1:
            axes[row, 0].set_title(problem, loc="left")
        else:
            titled(axes, (r"$\ell_\infty$ margin, by batch size", r"$\ell_2$ margin, by batch size", "the way to the prediction"))
        _sizes(axes[row, 2], mine, samples[problem])
    handles = [norm_look(norm).handle() for norm in NORMS]
    told = [
        Line2D([], [], color=GREY, lw=1.2, label="predicted"),
        Line2D([], [], color=GREY, ls="", marker="o", label="a run (a shade a data set)"),
    ]
    legend_below(figure, [*told, *handles])
    return figure


def color_of(batch: int, samples: int) -> str:
    """From dark, single samples, to light, all of them."""
    return to_hex(colormaps["viridis"](0.9 * np.log(batch) / np.log(samples)))


def _by_batch(axis: Axes, rows: pd.DataFrame, norm: str) -> None:
    look = norm_look(norm)
    seeds = sorted(rows["seed"].unique())
    for place, seed in enumerate(seeds):
        color = shade(look.color, (place + 1) / (len(seeds) + 1))
        mine = rows[rows["seed"] == seed]
        law = mine[mine["part"] == PREDICTED].sort_values("batch")
        axis.plot(law["batch"], law["predicted"], color=color, lw=1.2)
        ends = mine[mine["part"] == END]
        axis.plot(ends["batch"], ends["ratio"], look.marker, color=color, ms=4.5, mfc="none", mew=1.1)
    axis.axhline(1, color=GREY, lw=0.7, ls=":")
    axis.set_xlim(0.9, rows["batch"].max() * 1.1)
    log_axis(axis, "x")
    axis.set_xlabel("batch size $b$")
    axis.set_ylabel(f"{look.label} margin / optimum")


def _way(axis: Axes, rows: pd.DataFrame, samples: int) -> None:
    """Distance from the prediction, once all seeds are separated."""
    for batch, mine in rows.groupby("batch"):
        off = (mine["ratio"] - mine["predicted"]).abs().groupby(mine["epoch"]).mean()
        separated = (mine["ratio"] > 0).groupby(mine["epoch"]).all()
        shown = off[separated]
        axis.plot(shown.index, shown, color=color_of(int(str(batch)), samples), lw=1.4)
    log_axis(axis, "x")
    log_axis(axis, "y")
    axis.set_xlabel("epoch")
    axis.set_ylabel("off the prediction")


def _sizes(axis: Axes, rows: pd.DataFrame, samples: int) -> None:
    """Which curve is of which batch size, beside the panel."""
    sizes = sorted(rows.loc[rows["part"] == END, "batch"].unique())
    handles = [Line2D([], [], color=color_of(int(b), samples), lw=1.4, label=f"$b={int(b)}$") for b in sizes]
    axis.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=1.2, borderaxespad=0.2)
