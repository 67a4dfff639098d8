"""The picture of the figure on weight decay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from implicit_bias.figures.own.weight_decay_judged import ADAM, CURVE, LAW, MOMENTUM, PLAIN, READ, WORDS, ends
from implicit_bias.plotting.labels import titled
from implicit_bias.plotting.style import DOTTED, GREY, legend_below, log_axis, norm_look, optimizer_look, panels

# What is off by less is noise of the last digits.
LEAST_READ = 1e-8


def drawing(table: pd.DataFrame, followed: float) -> Drawing:
    """Top: gaps against the decay, by norm; bottom: over the law. Right: certificates, and the optimum read off the loss."""
    figure, axes = panels(2, 4, height=4.1)
    rows = ends(table)
    shown = rows.loc[rows["method"].isin(MOMENTUM), "over"]
    limits = min(0.75, 0.95 * shown.min()), max(1.3, 1.05 * shown.max())
    for place, norm in enumerate(WORDS):
        mine = rows[rows["norm"] == norm]
        _gaps(axes[0, place], mine, norm)
        _over(axes[1, place], mine, norm)
        axes[1, place].set_ylim(*limits)
        titled(axes[1, place], ("the same, over the law",))
    axes[0, 0].set_ylabel("relative margin gap")
    axes[1, 0].set_ylabel("gap / law")
    _certificates(axes[0, 3], table[table["part"] == CURVE], followed)
    _read(axes[1, 3], table[table["part"] == READ])
    lines = [
        Line2D([], [], color="black", lw=1.2, label=r"law $wd\,\kappa/\gamma^*$"),
        Line2D([], [], color="black", lw=1.0, ls=DOTTED, label="best point of the ball"),
    ]
    right = [
        Line2D([], [], color=GREY, lw=1.5, label="read off the loss"),
        Line2D([], [], color=GREY, lw=0.7, label="the margin"),
    ]
    methods = [_handle(method) for pair in zip(PLAIN, MOMENTUM, strict=True) for method in pair]
    legend_below(figure, [*lines, *methods, _handle(ADAM), *right], ncols=6, handlelength=1.8, columnspacing=1.2)
    return figure


def _handle(method: str) -> Line2D:
    look = optimizer_look(method)
    label = "AdamW" if method == ADAM else look.label
    return Line2D([], [], color=look.color, ls=look.line, marker=look.marker, ms=4, label=label, **_face(method))


def _face(method: str) -> dict[str, Any]:
    """Markers of methods with momentum are open, so that those beneath are seen."""
    return {"mfc": "none"} if method in MOMENTUM else {}


def _gaps(axis: Axes, rows: pd.DataFrame, norm: str) -> None:
    color = norm_look(norm).color
    by_decay = rows.groupby("weight_decay")
    law, path = by_decay["predicted"].mean(), by_decay["path"].mean()
    axis.plot(law.index, law, color=color, lw=1.2)
    axis.plot(path.index, path, color=color, lw=1.2, ls=DOTTED)
    for method, mine in rows.groupby("method", sort=False):
        look, gap = optimizer_look(str(method)), mine.groupby("weight_decay")["gap"].mean()
        size = 6 if method in MOMENTUM else 3.4
        axis.plot(gap.index, gap, look.marker, color=look.color, ms=size, mew=0.8, **_face(str(method)))
    axis.set_title(f"{norm_look(norm).label} margin")
    axis.set_xlim(0.004, 0.4)
    log_axis(axis, "x")
    log_axis(axis, "y")
    axis.tick_params(labelbottom=False)


def _over(axis: Axes, rows: pd.DataFrame, norm: str) -> None:
    color = norm_look(norm).color
    axis.axhspan(1 - LAW, 1 + LAW, color=GREY, alpha=0.15, lw=0)
    axis.axhline(1, color=color, lw=1.2)
    rows = rows[rows["method"].isin(MOMENTUM)]
    for _, mine in rows.groupby("seed"):
        curve = mine.sort_values("weight_decay")
        (method,) = curve["method"].unique()
        axis.plot(curve["weight_decay"], curve["path"] / curve["predicted"], color=color, lw=0.8, ls=DOTTED)
        look = optimizer_look(method)
        axis.plot(curve["weight_decay"], curve["over"], look.marker, color=look.color, ms=3.6, mew=0.8, mfc="none")
    axis.set_xlim(0.004, 0.4)
    log_axis(axis, "x")
    axis.set_xlabel("weight decay $wd$")


def _certificates(axis: Axes, rows: pd.DataFrame, followed: float) -> None:
    rows = rows[rows["step"] > 0]
    for method in (*PLAIN, *MOMENTUM, ADAM):
        mine = rows[rows["method"] == method]
        mean = np.exp(np.log(mine["fw_gap"].clip(lower=1e-16)).groupby(mine["step"]).mean())
        axis.plot(mean.index, mean, **optimizer_look(method).plot())
    axis.set_title(f"$wd$ = {followed:g}")
    axis.set_ylabel("Frank-Wolfe gap")
    axis.set_xlim(10, rows["step"].max())
    log_axis(axis, "x")
    log_axis(axis, "y")
    axis.tick_params(labelbottom=False)


def _read(axis: Axes, rows: pd.DataFrame) -> None:
    for method, mine in rows.groupby("method", sort=False):
        look = optimizer_look(str(method))
        off = mine["read"].abs().groupby(mine["step"]).mean().clip(lower=LEAST_READ)
        gap = mine["gap"].groupby(mine["step"]).mean()
        axis.plot(off.index, off, **look.plot())
        axis.plot(gap.index, gap, color=look.color, lw=0.7)
    axis.set_xlim(10, rows["step"].max())
    axis.set_xlabel("step $t$")
    axis.set_title("no decay")
    axis.set_ylabel("off the optimum")
    log_axis(axis, "x")
    log_axis(axis, "y")
