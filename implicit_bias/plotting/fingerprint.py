"""The fingerprints of runs: kappa against 1/p, a panel a family, a colour an optimizer, the range over seeds as a band."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from implicit_bias.analysis.fingerprints import Identified
from implicit_bias.analysis.identification import curve_labels, labelled
from implicit_bias.analysis.weights import Weights
from implicit_bias.plotting.style import GREY, Look, curve_looks, legend_below, panels

TITLES = {"lp": r"entrywise $\ell_p$", "schatten": "Schatten-$p$"}
TICKS = (1, 1.5, 2, 3, 4, 8, math.inf)
#: Characters of a legend's entry and its line across the picture.
LINE_ROOM, ACROSS = 7, 105
#: Curves that end below this are cut off, where others are near 1.
LEAST_SPAN = 0.1


def fingerprint_picture(found: Identified, runs: Sequence[Weights]) -> Drawing:
    """The picture of an identification: the curve of each run's last record.

    A dot with a bar is the exponent that was found, with its interval; the thin grey line what a maximiser of that margin would
    show.

    Args:
        found: The tables.
        runs: What they are of, in the order of their rows.
    """
    called = curve_labels(runs)
    curves, verdicts = (table.assign(label=labelled(table, runs)) for table in (found.curves, found.verdicts))
    looks = curve_looks({label: run.optimizer or label for label, run in zip(called, runs, strict=True)})
    families = list(dict.fromkeys(verdicts["family"]))
    longest = max(map(len, looks))
    per_line = max(1, min(len(looks) + 1, ACROSS // (longest + LINE_ROOM)))
    height = 2.9 + 0.17 * math.ceil((len(looks) + 1) / per_line)
    figure, axes = panels(1, len(families), height=height, sharey=True)
    for axis, family in zip(axes.flat, families, strict=True):
        _panel(axis, curves[curves["family"] == family], verdicts[verdicts["family"] == family], looks)
        axis.set_title(TITLES[family])
        axis.set_xlabel("$p$, spaced by $1/p$")
    certified = curves["kappa_upper"].notna().any()
    axes.flat[0].set_ylabel(r"$\kappa$ = margin / certified optimum" if certified else r"$\kappa$ = KKT ratio")
    axes.flat[0].set_ylim(_bottom(curves), 1.005)
    ideal = [Line2D([], [], color=GREY, lw=0.7, label="a maximiser of the margin at the peak")] if certified else []
    legend_below(figure, [*(replace(look, line="-").handle() for look in looks.values()), *ideal], ncols=per_line)
    return figure


def _panel(axis: Axes, curves: pd.DataFrame, verdicts: pd.DataFrame, looks: Mapping[str, Look]) -> None:
    for label, look in looks.items():
        mine = _last(curves[curves["label"] == label])
        mesh = np.unique(1 / mine["p"].to_numpy())
        single = [rows.sort_values("p", ascending=False) for _, rows in mine.groupby(["run", "seed"], dropna=False)]
        lines = np.array([np.interp(mesh, 1 / rows["p"], rows["kappa_lower"]) for rows in single])
        ideals = np.array([np.interp(mesh, 1 / rows["p"], rows["resolution"]) for rows in single])
        known = np.isfinite(lines).all(axis=1)
        if not known.any():
            continue
        axis.plot(mesh, lines[known].mean(axis=0), **replace(look, line="-").plot())
        if known.sum() > 1:
            axis.fill_between(mesh, lines[known].min(axis=0), lines[known].max(axis=0), color=look.color, alpha=0.15, lw=0)
        if np.isfinite(ideals[known]).all():
            axis.plot(mesh, ideals[known].mean(axis=0), color=GREY, lw=0.7, zorder=1)
        answers = verdicts[(verdicts["label"] == label) & verdicts["p"].notna()]
        if len(answers):
            u, ends = 1 / answers["p"], (1 / answers["p_high"].max(), 1 / answers["p_low"].min())
            height = answers["kappa"].mean()
            axis.plot([*ends], [height, height], color=look.color, lw=2.4, alpha=0.5, solid_capstyle="butt")
            axis.plot(u.mean(), height, color=look.color, marker=look.marker, ls="", markeredgecolor="white")
    axis.set_xticks([1 / p for p in TICKS], ["∞" if math.isinf(p) else f"{p:g}" for p in TICKS])
    axis.set_xlim(1.02, -0.02)


def _last(curves: pd.DataFrame) -> pd.DataFrame:
    """The rows of each run's last record."""
    if curves["step"].isna().all():
        return curves
    return curves[curves["step"] == curves.groupby(["run", "seed"], dropna=False)["step"].transform("max")]


def _bottom(curves: pd.DataFrame) -> float:
    """Where the vertical axis begins: at the lowest of the last records, with some room."""
    least = _last(curves)["kappa_lower"].min()
    return 0.0 if not math.isfinite(least) else max(0.0, min(1 - LEAST_SPAN, least - 0.03))
