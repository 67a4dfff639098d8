"""Words and marks inside a panel: names at the ends of lines, lines of theory, and values that somebody published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from implicit_bias.plotting.style import GREY, POINTS_PER_INCH, Look

#: Points.
LABEL_SIZE, TITLE_SIZE = 6.5, 7.5
#: A line of text, in units of its size.
LINE = 1.15


@dataclass(frozen=True)
class End:
    """Where a line ends, and what it is called there."""

    x: float
    y: float
    text: str
    color: str
    weight: str = "normal"


def end_labels(axis: Axes, ends: Sequence[End]) -> None:
    """Names at the right of the panel, each as near its line's end as the others leave room; limits and scales must be set."""
    ends = [end for end in ends if np.isfinite(end.y)]
    if not ends:
        return
    to_axes = axis.transData + axis.transAxes.inverted()
    heights = [float(to_axes.transform((end.x, end.y))[1]) for end in ends]
    box = axis.get_position().height * axis.figure.get_size_inches()[1] * POINTS_PER_INCH  # type: ignore[union-attr]
    for end, height in zip(ends, spread(heights, LINE * LABEL_SIZE / box), strict=True):
        axis.annotate(
            end.text, (1, height), xycoords="axes fraction", xytext=(3, 0), textcoords="offset points", va="center", ha="left",
            size=LABEL_SIZE, color=end.color, weight=end.weight, annotation_clip=False,
        )  # fmt: skip


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Heights at least ``gap`` apart, in the order of the given ones and as near to them as a shift of each cluster allows."""
    order = np.argsort(heights, kind="stable")
    clusters: list[list[float]] = []  # of each its centre, and how many are in it
    for place in order:
        clusters.append([float(heights[place]), 1])
        while len(clusters) > 1 and clusters[-1][0] - clusters[-2][0] < gap * (clusters[-1][1] + clusters[-2][1]) / 2:
            (upper, many), (lower, few) = clusters.pop(), clusters.pop()
            clusters.append([(upper * many + lower * few) / (many + few), many + few])
    placed = [centre + gap * (i - (count - 1) / 2) for centre, count in clusters for i in range(int(count))]
    found = np.empty(len(heights))
    found[order] = placed
    return [float(height) for height in found]


def published(axis: Axes, x: float, y: float, look: Look) -> None:
    """An open marker where a published curve is, as far as it could be read."""
    axis.plot([x], [y], look.marker, mfc="white", mec=look.color, mew=1.1, ms=6, zorder=5, clip_on=False)


def published_handle(label: str = "published, read off the picture") -> Line2D:
    """The entry of a legend for :func:`published`."""
    return Line2D([], [], ls="", marker="o", mfc="white", mec=GREY, mew=1.1, ms=5.5, label=label)


def theory(
    axis: Axes, x: ArrayLike, y: ArrayLike, text: str = "", *, at: float = 0.5, below: bool = False, ha: str = "center"
) -> None:
    """A line of theory in grey, with its name beside it.

    Args:
        at: Where along the line the name stands, from 0 to 1.
        below: Whether it stands under the line.
        ha: What of it stands there: its center, its left or its right end.
    """
    across, up = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    axis.plot(across, up, color=GREY, lw=1.0, zorder=1)
    if text and len(across):
        place = round(at * (len(across) - 1))
        axis.annotate(
            text, (across[place], up[place]), xytext=(0, -3 if below else 3), textcoords="offset points", size=LABEL_SIZE,
            color=GREY, ha=ha, va="top" if below else "bottom",
        )  # fmt: skip


def titled(axes: ArrayLike, titles: Sequence[str], *, letters: bool = False) -> None:
    """What each panel shows, over it; with letters where a caption names them."""
    for i, (axis, title) in enumerate(zip(np.ravel(np.asarray(axes, dtype=object)), titles, strict=True)):
        axis.set_title(f"({chr(ord('a') + i)}) {title}" if letters else title, size=TITLE_SIZE)
