"""The picture of the figure on row normalisation."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from implicit_bias.figures.row_norm.row_normalization_judged import ALIGNED, CLOUDS, FEWER, METHODS, ROTATED, RULE
from implicit_bias.figures.row_norm.rules import SIGN_ANGLE
from implicit_bias.plotting.style import DASHDOT, DASHED, DOTTED, GREY, legend_below, optimizer_look, panels

#: What rules are called, and their lines.
RULES = {"mean": ("means", DOTTED), "unit": ("means of length one", DASHDOT), "sign": ("signs of means", "-")}

#: How far beside the others the runs on rotated data are drawn.
BESIDE = 0.085


def drawing(table: pd.DataFrame) -> Drawing:
    """Accuracy and angles by method on isotropic data; accuracy against the alignment, with the rules and after a rotation."""
    figure, axes = panels(1, 3, height=2.75, width_ratios=(1, 1, 1.5))
    clouds = table[table["part"] == CLOUDS]
    _draw_strip(axes[0, 0], clouds, "accuracy", "test accuracy, isotropic")
    _draw_strip(axes[0, 1], clouds, "to_mean", "angle to means (degrees)")
    axes[0, 1].axhline(SIGN_ANGLE, color="black", lw=0.9, ls=DASHED)
    _draw_aligned(axes[0, 2], table)
    looks = [optimizer_look(method) for method in METHODS]
    points = [Line2D([], [], color=look.color, ls="", marker=look.marker, ms=4, label=look.label) for look in looks]
    others = [
        Line2D([], [], color="black", lw=0.9, ls=DASHED, label=r"$\arccos\sqrt{2/\pi}$"),
        *(Line2D([], [], color=GREY, lw=0.9, ls=line, label=f"rule: {words}") for words, line in RULES.values()),
        Line2D([], [], color=GREY, ls="", marker="o", mfc="none", ms=4, label="rotated"),
    ]
    legend_below(figure, [*points, *others], ncols=5)
    return figure


def _draw_strip(axis: Axes, rows: pd.DataFrame, column: str, label: str) -> None:
    """A point a seed for every method, and a bar at the mean."""
    for place, method in enumerate(METHODS):
        look, values = optimizer_look(method), rows.loc[rows["method"] == method, column].to_numpy()
        shift = np.linspace(-0.22, 0.22, len(values)) if len(values) > 1 else np.zeros(len(values))
        axis.plot(place + shift, values, look.marker, color=look.color, ms=3, alpha=0.75, mew=0)
        axis.hlines(values.mean(), place - 0.35, place + 0.35, color="black", lw=1.1)
    axis.set_xticks([])
    axis.set_xlim(-0.6, len(METHODS) - 0.4)
    axis.set_title(label, fontsize=8)


def _draw_aligned(axis: Axes, table: pd.DataFrame) -> None:
    for rule, (_, line) in RULES.items():
        mine = table[(table["part"] == RULE) & (table["method"] == rule)].groupby("x")["accuracy"].mean()
        axis.plot(mine.index, mine, color=GREY, lw=0.9, ls=line)
    for method, shift in zip(FEWER, (-0.02, 0.0, 0.02), strict=True):
        look = optimizer_look(method)
        for part, face in ((ALIGNED, look.color), (ROTATED, "white")):
            rows = table[(table["part"] == part) & (table["method"] == method)]
            found = rows.groupby("x")["accuracy"].agg(["mean", "min", "max"])
            places = found.index.to_numpy() + shift + (0 if part == ALIGNED else BESIDE)
            axis.vlines(places, found["min"], found["max"], color=look.color, lw=1.2)
            axis.plot(places, found["mean"], look.marker, color=look.color, mfc=face, ls="-" if part == ALIGNED else "", lw=1.0)
    axis.set_xlabel(r"alignment $\lambda$ of the noise")
    axis.set_title("test accuracy, aligned covariances", fontsize=8)
