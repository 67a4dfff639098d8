"""A figure's answer as a matrix of numbers, methods by norms: what a page shows of it, cell by cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Matrix:
    """Numbers over seeds in cells.

    Attributes:
        rows: What the rows are called, in mathtext, with what is typed to compute each.
        columns: What the columns are called, in mathtext.
        values: By row and column a number a seed.
        framed: Cells with a frame, by row and column.
        lowest: The number at the lower end of the colours; the upper end is one.
        quantity: What the numbers are.
        about: A line above: data, steps, what the frames mean.
        rule: The rows from this one on stand apart from those above.
    """

    rows: Mapping[str, str]
    columns: tuple[str, ...]
    values: Mapping[tuple[int, int], tuple[float, ...]]
    framed: frozenset[tuple[int, int]]
    lowest: float
    quantity: str
    about: str
    rule: int | None = None
