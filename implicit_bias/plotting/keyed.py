"""Looks of curves by the values of two keys: one key's values are colours, the other's dashes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D

from implicit_bias.plotting.style import FREE_COLORS, GREY, LINES, NORM_LOOKS, OPTIMIZER_LOOKS, VARIANT_MARKERS, Look

#: Okabe and Ito's colours, without black.
PALETTE = tuple(dict.fromkeys((*(look.color for look in NORM_LOOKS.values()), *FREE_COLORS)))
#: Of numbers from small to large; what is beyond is nearly black, or too light to be seen on white.
NUMBERS, DARKEST, LIGHTEST = "viridis", 0.15, 0.85


@dataclass(frozen=True)
class Keyed:
    """How the curves of a picture look.

    Attributes:
        looks: By label.
        colors: By value of the key of colours; empty where there is one value.
        lines: The same of dashes.
    """

    looks: dict[str, Look]
    colors: dict[str, str]
    lines: dict[str, Look]

    @property
    def handles(self) -> list[Line2D]:
        """Entries of the legend: the colours, then the dashes in grey."""
        colors = [Line2D([], [], color=color, label=value) for value, color in self.colors.items()]
        return [*colors, *(look.handle() for value, look in self.lines.items() if value)]


def keyed_looks(curves: pd.DataFrame) -> Keyed:
    """Looks of curves.

    Args:
        curves: A row a label, with the columns ``label``, ``color`` and ``style``, values of keys in words.
    """
    colors = colours_of(list(dict.fromkeys(curves["color"])))
    styles = list(dict.fromkeys(curves["style"]))
    lines = {
        value: Look(value, GREY, VARIANT_MARKERS[i % len(VARIANT_MARKERS)], LINES[i % len(LINES)])
        for i, value in enumerate(styles)
    }
    looks = {
        label: Look(label, colors[color], lines[style].marker, lines[style].line)
        for label, color, style in zip(*(curves[column].astype(str) for column in ("label", "color", "style")), strict=True)
    }
    return Keyed(looks, colors if len(colors) > 1 else {}, lines if len(lines) > 1 else {})


def colours_of(values: Sequence[str]) -> dict[str, str]:
    """A colour a value: optimizers have their own, numbers go from dark to light, others take the palette in turn."""
    numbers = sorted((value for value in values if _number(value) is not None), key=lambda value: _number(value) or 0.0)
    places = np.linspace(DARKEST, LIGHTEST, len(numbers)) if len(numbers) > 1 else [0.5] * len(numbers)
    found = {value: to_hex(colormaps[NUMBERS](place)) for value, place in zip(numbers, places, strict=True)}
    found |= {value: OPTIMIZER_LOOKS[value].color for value in values if value in OPTIMIZER_LOOKS}
    free = cycle([color for color in (FREE_COLORS if numbers else PALETTE) if color not in found.values()])
    return {value: found[value] if value in found else next(free) for value in values}


def _number(value: str) -> float | None:
    """The number at the end of a value in words, as in ``lr 0.1``."""
    try:
        return float(value.rsplit(" ", 1)[-1])
    except ValueError:
        return None
