"""A figure's matrix as the page's heat map: numbers, colours, what pointing at a cell says, and where its curve is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.colors import to_hex

from implicit_bias.plotting.heat_map import COLOURS, DARK
from implicit_bias.plotting.matrix import Matrix
from implicit_bias.report.page.text import plain

DARK_INK, LIGHT_INK = "#222222", "#ffffff"


@dataclass(frozen=True)
class Curve:
    """Where a cell's curve can be looked at: a figure's explorer, the label of the choice, and the place chosen."""

    figure: str
    choice: str
    place: int


@dataclass(frozen=True)
class HeatCell:
    """A cell.

    Attributes:
        number: The mean, in words.
        ground, ink: Colours of the cell and of the letters in it.
        framed, best: Whether it has a frame, and whether it is the largest of its column.
        told: What pointing at it says.
        curve: Where its curve is; None where no figure has one.
    """

    number: str
    ground: str
    ink: str
    framed: bool
    best: bool
    told: str
    curve: Curve | None


@dataclass(frozen=True)
class HeatRow:
    """A row: its name, the command that computes its numbers, its cells, and whether a line stands above it."""

    name: str
    command: str
    cells: tuple[HeatCell | None, ...]
    apart: bool


@dataclass(frozen=True)
class Heat:
    """The heat map of a figure; ``scale`` are the colours from the lower end to the upper."""

    columns: tuple[str, ...]
    rows: tuple[HeatRow, ...]
    quantity: str
    about: str
    lowest: str
    scale: tuple[str, ...]


def heat(matrix: Matrix, drawn: Iterable[tuple[str, Mapping[str, Any]]]) -> Heat:
    """The heat map.

    Args:
        matrix: Of the figure.
        drawn: Names of figures, and what their explorers draw; of several with a cell's curve the first counts.
    """
    columns = tuple(map(plain, matrix.columns))
    where = _curves(drawn)
    means = {place: float(np.mean(values)) for place, values in matrix.values.items()}
    best = {j: max((mean for (_, at), mean in means.items() if at == j), default=np.nan) for j in range(len(columns))}

    def cell(i: int, j: int, row: str) -> HeatCell | None:
        if (i, j) not in means:
            return None
        place = min(max((means[i, j] - matrix.lowest) / (1 - matrix.lowest), 0.0), 1.0)
        values = np.asarray(matrix.values[i, j])
        spread = f" ± {values.std(ddof=1):.3f}, {_three(values.min())} to {_three(values.max())}" if len(values) > 1 else ""
        many = f" over {len(values)} data sets" if len(values) > 1 else ""
        return HeatCell(
            number=_three(means[i, j]),
            ground=to_hex(COLOURS(place)),
            ink=LIGHT_INK if place > DARK else DARK_INK,
            framed=(i, j) in matrix.framed,
            best=means[i, j] == best[j],
            told=f"{row} under {columns[j]}: {_three(means[i, j])}{spread}{many}",
            curve=where.get((row, columns[j])),
        )

    rows = tuple(
        HeatRow(row, command, tuple(cell(i, j, row) for j in range(len(columns))), i == matrix.rule)
        for i, (row, command) in enumerate((plain(name), typed) for name, typed in matrix.rows.items())
    )
    scale = tuple(to_hex(COLOURS(place)) for place in np.linspace(0, 1, 5))
    return Heat(columns, rows, matrix.quantity, matrix.about, f"{matrix.lowest:g}", scale)


def _curves(drawn: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[tuple[str, str], Curve]:
    """Where the curve of a method under a norm is, by what the two are called, of figures in which only the norm is chosen."""
    found: dict[tuple[str, str], Curve] = {}
    for figure, data in drawn:
        if [choice["label"] for choice in data["choose"]] != ["norm"]:
            continue
        names = data["choose"][0]["names"]
        for curve in data["curves"]:
            (place,) = curve["at"]
            found.setdefault((curve["label"], names[place]), Curve(figure, "norm", place))
    return found


def _three(value: float) -> str:
    return f"{value:.3f}".replace("-", "\N{MINUS SIGN}")
