"""How the trajectories in a figure's table can be looked at one by one: what may be chosen, what is drawn against what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from implicit_bias.plotting.style import Look


@dataclass(frozen=True)
class Quantity:
    """A column that can be put on an axis.

    Attributes:
        column: Its name in the table.
        label: What it is called in words.
        log: Whether its axis is logarithmic at first; a mean over seeds is geometric then, where all are positive.
        spread: The columns of least and largest, of a table that holds means already.
    """

    column: str
    label: str
    log: bool = False
    spread: tuple[str, str] | None = None


STEP = Quantity("step", "step", log=True)
DEPTH = Quantity("depth", "log10(1 / loss)")


@dataclass(frozen=True)
class Level:
    """A horizontal line, such as an optimum.

    Attributes:
        column: The quantity on whose axis it lies.
        value: Where.
        label: What it is called.
        chosen: The values of ``choose`` with which it is drawn.
    """

    column: str
    value: float
    label: str
    chosen: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Explorer:
    """A table of trajectories, and how it is read.

    Attributes:
        rows: One row a record of one run.
        curve: The column that tells the curves of one picture apart.
        looks: The look of each, in the order of the legend; other rows are left out.
        x, y: What can be put on the axes; the first of each is drawn at first.
        choose: For a column what it is called, and its values with their names: one value is drawn at a time.
        at: The column by whose values the seeds are pooled.
        levels: Horizontal lines beside the curves.
    """

    rows: pd.DataFrame
    curve: str
    looks: Mapping[Any, Look]
    x: tuple[Quantity, ...]
    y: tuple[Quantity, ...]
    choose: Mapping[str, tuple[str, Mapping[Any, str]]] = field(default_factory=dict)
    at: str = "step"
    levels: tuple[Level, ...] = ()
