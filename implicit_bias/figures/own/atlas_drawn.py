"""The picture of the atlas: a line a class, a cell a norm."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as Drawing
from matplotlib.patches import Rectangle

from implicit_bias.figures.own.atlas_judged import NORMS, SAME_P, aligned, nearest, own_norms
from implicit_bias.figures.own.torch_classes import OF_LOG, OF_TORCH, TRUE, TorchClass
from implicit_bias.measures.exponents import AT, NEAR
from implicit_bias.plotting.labels import LABEL_SIZE
from implicit_bias.plotting.style import GREY, norm_look, panels

TITLES = {TRUE: "true gradients", OF_LOG: "gradients of log L"}
#: Blues as in the other heat map, that stay light enough for the frames.
COLORS = LinearSegmentedColormap.from_list("ratio", ["#fbfcfd", "#cfe0ee", "#8db8d9", "#3f86bd", "#0b4f88"])
LEAST = 0.3
ROW = 0.185
# From here on numbers are white.
DARK = 0.8
ABOUT = (
    "margin / maximum margin; framed: the norm of the steps on a constant gradient; nearest: the best exponent's norm and share,"
    f"\nbold from {AT:g}, grey below {NEAR:g}; above the line classes of torch, below it those of other packages"
)
NOTHING = "\N{EN DASH}"
INK, FRAME = "#222222", "#D55E00"


def draw(table: pd.DataFrame, classes: Sequence[TorchClass]) -> Drawing:
    """The picture of a table, with those classes that have rows in it."""
    present = set(table["method"])
    shown = [one for one in classes if one.label in present]
    figure, axes = panels(1, 3, height=1.0 + ROW * len(shown), width_ratios=(1, len(NORMS) + 1.4, len(NORMS) + 1.4))
    left, *feeds = axes[0]
    _constant(left, table, shown)
    for axis, feed in zip(feeds, (TRUE, OF_LOG), strict=True):
        _matrix(axis, table[table["gradient"] == feed], table, shown)
        axis.set_xlabel(TITLES[feed], fontsize=8.5)
    for axis in axes[0]:
        axis.xaxis.tick_top()
        axis.xaxis.set_label_position("top")
        axis.tick_params(length=0)
        axis.grid(False)
        axis.set_ylim(len(shown) - 0.5, -0.5)
        axis.axhline(sum(one in OF_TORCH for one in shown) - 0.5, color=INK, lw=0.8)
        for side in axis.spines.values():
            side.set_visible(False)
    figure.supxlabel(ABOUT, size=LABEL_SIZE)
    return figure


def _constant(axis: Axes, table: pd.DataFrame, shown: Sequence[TorchClass]) -> None:
    """The column of the norms that a constant gradient shows."""
    static = table[table["part"] == "static"]
    for i, one in enumerate(shown):
        best = static[static["method"] == one.label].sort_values("alignment").iloc[-1]
        sure = len(aligned(table, one.label)) > 0
        axis.text(
            0, i, exponent_text(best["norm"], best["found"]), ha="center", va="center", size=7.5, color=INK if sure else GREY
        )
    axis.set_xlim(-0.5, 0.5)
    axis.set_xticks([0], ["steps"])
    axis.set_xlabel(" ", fontsize=8.5)
    axis.set_label("words")
    axis.set_yticks(range(len(shown)), [one.label for one in shown])


def _matrix(axis: Axes, rows: pd.DataFrame, table: pd.DataFrame, shown: Sequence[TorchClass]) -> None:
    """The ratios of one kind of gradient, and the exponents that were found."""
    ratios = rows[rows["part"] == "ratio"].pivot_table(index="method", columns="norm", values="ratio", dropna=False)
    means = ratios.reindex(index=[one.label for one in shown], columns=list(NORMS)).to_numpy(float)
    axis.imshow(np.clip(means, LEAST, None), cmap=COLORS, vmin=LEAST, vmax=1, aspect="auto")
    owns = own_norms(table)
    for i, one in enumerate(shown):
        for j, norm in enumerate(NORMS):
            color = "white" if means[i, j] > DARK else INK
            axis.text(j, i, _number(means[i, j]), ha="center", va="center", size=7, color=color)
            if owns.get(one.label) == norm:
                axis.add_patch(Rectangle((j - 0.46, i - 0.43), 0.92, 0.86, fill=False, ec=FRAME, lw=1.3))
        _found(axis, rows, one.label, i)
    axis.set_xlim(-0.5, len(NORMS) + 0.9)
    axis.set_xticks([*range(len(NORMS)), len(NORMS) + 0.2], [*(norm_look(norm).label for norm in NORMS), "nearest"])
    axis.tick_params(axis="x", labelsize=6.5)
    axis.set_yticks([])


def _found(axis: Axes, rows: pd.DataFrame, method: str, i: int) -> None:
    family, u, kappa = nearest(rows, method)
    text = NOTHING if math.isnan(kappa) else f"{exponent_text(family, u)} {_number(kappa)}"
    color, weight = (GREY, "normal") if not kappa >= NEAR else (INK, "bold" if kappa >= AT else "normal")
    axis.text(len(NORMS) + 0.2, i, text, ha="center", va="center", size=7, color=color, weight=weight)


def exponent_text(family: str, u: float) -> str:
    """l_p or S_p with p = 1/u; what is beyond p = 50 cannot be told from inf at this size, and S_2 is l_2."""
    family = "lp" if abs(u - 0.5) <= SAME_P else family
    p = "\\infty" if u < 0.02 else f"{1 / u:.2g}"
    return f"$\\ell_{{{p}}}$" if family == "lp" else f"$S_{{{p}}}$"


def _number(value: float) -> str:
    """A ratio in two digits, .97; not rounded up to 1."""
    if math.isnan(value):
        return NOTHING
    return f"{min(value, 0.994):.2f}".lstrip("0") if value >= 0 else f"\N{MINUS SIGN}{-value:.1f}"
