"""Heat maps: a number in every cell, its spread under it, frames around some, the best of every column in bold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

Array = NDArray[np.float64]
#: Blues that stay light enough at the top for frames to show.
COLOURS = LinearSegmentedColormap.from_list("blues", ["#fbfcfd", "#cfe0ee", "#8db8d9", "#3f86bd", "#0b4f88"])
FRAME = "#D55E00"
#: In points; below it letters cannot be read.
SMALLEST = 5.5
#: From this share of the scale on numbers are white.
DARK = 0.67


def three_decimals(value: float) -> str:
    """``0.983``, with a minus sign as long as a digit is wide; nothing for nan."""
    return "" if np.isnan(value) else f"{value:.3f}".replace("-", "\N{MINUS SIGN}")


def heat_map(
    axis: Axes,
    mean: Array,
    spread: Array,
    scale: Normalize,
    framed: Mapping[tuple[int, int], str],
    *,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    told: Callable[[float], str] = three_decimals,
    size: float = 8.0,
) -> AxesImage:
    """Draw the cells, and the words beside and above them.

    Args:
        axis: Has nothing else in it.
        mean: What the colours are of, (rows, columns); nan for an empty cell.
        spread: Written under it in small, likewise.
        scale: From numbers to colours; what is beyond its ends has the colour of the end.
        framed: The colour of the frame around a cell, by row and column.
        rows: What rows are called; empty where the axis beside says it.
        columns: The same of columns.
        told: A number in words.
        size: Of the letters of a number, in points.

    Returns:
        The image, for a colour bar.
    """
    shown = np.clip(mean, scale.vmin, scale.vmax)
    image = axis.imshow(shown, cmap=COLOURS, norm=scale, aspect="auto")
    best = np.where(np.isnan(mean), -np.inf, mean).argmax(axis=0)
    for i, j in np.ndindex(*mean.shape):
        value, apart = float(mean[i, j]), float(spread[i, j])
        dark = np.isfinite(value) and float(scale(shown[i, j])) > DARK
        colour, weight = "white" if dark else "#222222", "bold" if best[j] == i else "normal"
        axis.text(j, i - 0.12, told(value), ha="center", va="center", color=colour, weight=weight, size=size)
        if np.isfinite(apart):
            axis.text(j, i + 0.27, f"±{told(apart)}", ha="center", va="center", color=colour, size=max(0.73 * size, SMALLEST))
    for (i, j), colour in framed.items():
        axis.add_patch(Rectangle((j - 0.47, i - 0.46), 0.94, 0.92, fill=False, ec=colour, lw=1.8, zorder=3))
    if columns:
        axis.set_xticks(range(len(columns)), list(columns))
    if rows:
        axis.set_yticks(range(len(rows)), list(rows))
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.grid(False)
    for side in axis.spines.values():
        side.set_visible(False)
    return image


def colour_bar(figure: Figure, image: AxesImage, axis: Axes, label: str, *, below: bool = False) -> None:
    """The scale beside a heat map, or below it, whose numbers go on below its lower end.

    Args:
        figure: Of the axis.
        image: As :func:`heat_map` gave it.
        axis: The heat map's.
        label: What the numbers are.
    """
    bar = figure.colorbar(image, ax=axis, pad=0.02, aspect=28, extend="min", location="bottom" if below else "right")
    bar.outline.set_visible(False)
    bar.set_label(label)
