"""The picture of the fingerprints: steepest descent above, classes of torch's below, a column a family."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from implicit_bias.figures.own.fingerprints_judged import called, fits
from implicit_bias.figures.own.torch_classes import ADAM_WITHOUT_EPS, OF_LOG, TRUE, TorchClass
from implicit_bias.measures.exponents import FAMILIES, NAMED
from implicit_bias.plotting.fingerprint import TICKS, TITLES
from implicit_bias.plotting.style import DASHED, GREY, legend_below, norm_look, panels

#: Where the vertical axes begin: curves of sharp peaks are cut off below.
BOTTOM = (0.7, 0.35)


def draw(table: pd.DataFrame, classes: Sequence[TorchClass]) -> Drawing:
    """The picture of a table, with those classes that have rows in it."""
    figure, axes = panels(2, len(FAMILIES), height=5.6, sharey="row", sharex=True)
    methods = [str(method) for method in table["method"].unique()]
    for column, family in enumerate(FAMILIES):
        above, below = axes[:, column]
        for method in (m for m in methods if m.startswith(f"nsd {family}")):
            _descent(above, table, method, family)
        shown = [one for one in classes if one is not ADAM_WITHOUT_EPS]
        for one in shown:
            _curve(below, table, called(one, TRUE), family, one.look.color, line=one.look.line, marker=one.look.marker)
            _curve(below, table, called(one, OF_LOG), family, one.look.color, line=DASHED, marker=one.look.marker)
        above.set_title(f"steepest descent in {TITLES[family]}")
        below.set_title(f"classes as shipped, {TITLES[family]}")
        below.set_xlabel("$p$, spaced by $1/p$")
        below.set_xticks([1 / p for p in TICKS], ["∞" if math.isinf(p) else f"{p:g}" for p in TICKS])
        below.set_xlim(1.03, -0.03)
    for row, bottom in enumerate(BOTTOM):
        axes[row, 0].set_ylim(bottom, 1.008)
        axes[row, 0].set_ylabel(r"$\kappa$ = margin / optimum")
    handles = [one.look.handle() for one in shown if one.label in methods]
    legend_below(figure, [*handles, Line2D([], [], color=GREY, ls=DASHED, label="by gradients of log L")], ncols=5)
    return figure


def _descent(axis: Axes, table: pd.DataFrame, method: str, family: str) -> None:
    """One method of steepest descent, with the exponent of its norm as a dotted line."""
    rows = fits(table, method)
    own = float(rows["x"].iloc[0])
    color = exponent_color(family, own)
    axis.axvline(own, color=color, lw=0.8, ls=":", zorder=1)
    _curve(axis, table, method, family, color, marker="o")


def _curve(axis: Axes, table: pd.DataFrame, method: str, family: str, color: str, *, line: object = "-", marker: str) -> None:
    """The mean of a method's curves, the range over seeds of solid ones of classes, and a dot at the exponent that was found."""
    rows = table[(table["part"] == "curve") & (table["method"] == method) & (table["norm"] == family)].dropna(subset="kappa")
    if not len(rows):
        return
    mesh = np.unique(rows["x"])
    lines = np.array([np.interp(mesh, one["x"], one["kappa"]) for _, one in rows.groupby("seed")])
    axis.plot(mesh, lines.mean(axis=0), color=color, ls=line, lw=1.3)
    if line == "-" and not method.startswith("nsd"):  # bands of all curves would hide each other
        axis.fill_between(mesh, lines.min(axis=0), lines.max(axis=0), color=color, alpha=0.13, lw=0)
    fit = fits(table, method)
    fit = fit[fit["norm"] == family]
    axis.plot(fit["found"].mean(), fit["kappa"].mean(), color=color, marker=marker, ls="", mec="white", mew=0.6, zorder=4)


def exponent_color(family: str, u: float) -> str:
    """The colour of the norm at 1/p = u: those of the named norms, and mixtures of them between."""
    named = sorted(NAMED[family].items())
    low = max((place for place, _ in named if place <= u), default=0.0)
    high = min((place for place, _ in named if place >= u), default=1.0)
    share = 0.0 if high == low else (u - low) / (high - low)
    ends = [np.array(to_rgb(norm_look(NAMED[family][place]).color)) for place in (low, high)]
    red, green, blue = ((1 - share) * ends[0] + share * ends[1]).tolist()
    return to_hex((red, green, blue))
