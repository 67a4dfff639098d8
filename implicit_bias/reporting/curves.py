"""A figure's trajectories as the small table of numbers that the page's explorer draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from implicit_bias.figures.explorer import Explorer, Quantity
from implicit_bias.figures.style import Look
from implicit_bias.reporting.text import plain

#: More cannot be seen in a picture, and costs room in the page.
DIGITS = 4
#: Dashes of matplotlib's that go by a name, as lengths in line widths.
NAMED_DASHES: dict[str, Sequence[float]] = {"-": (), "--": (4, 1.6), ":": (1, 1.3), "-.": (4, 1.4, 1, 1.4)}


def curves(explorer: Explorer) -> dict[str, Any] | None:
    """What the page draws, as JSON; None if there is nothing to draw.

    Keys: ``choose`` (label, names of the values), ``x`` and ``y`` (label, log), ``arrays`` (each list of numbers once), and
    ``curves``: the places of its chosen values in ``at``, its look, and for every quantity of x the place of its mean in
    ``arrays``, for every one of y those of mean, least and largest; null where nothing was measured, and least and largest
    null where there is one seed.
    """
    pool = _Pool()
    drawn = [curve for at, rows in _choices(explorer) for curve in _curves_at(explorer, at, rows, pool)]
    if not drawn:
        return None
    # Quantities that no curve has are no choice.
    x, y = _measured(explorer.x, drawn, "x"), _measured(explorer.y, drawn, "y")
    for curve in drawn:
        curve["x"] = [curve["x"][i] for i in x]
        curve["y"] = [curve["y"][i] for i in y]
    return {
        "choose": [{"label": label, "names": [plain(n) for n in names.values()]} for label, names in explorer.choose.values()],
        "x": [_named(explorer.x[i]) for i in x],
        "y": [_named(explorer.y[i]) for i in y],
        "arrays": pool.arrays,
        "curves": drawn,
    }


class _Pool:
    """Lists of numbers, each kept once: steps are those of many curves."""

    def __init__(self) -> None:
        self.arrays: list[list[float | None]] = []
        self._places: dict[tuple[float | None, ...], int] = {}

    def place(self, values: np.ndarray) -> int:
        """The place of these numbers, rounded."""
        key = tuple(_rounded(float(v)) for v in values)
        if key not in self._places:
            self._places[key] = len(self.arrays)
            self.arrays.append(list(key))
        return self._places[key]


def _choices(explorer: Explorer) -> Iterator[tuple[list[int], pd.DataFrame]]:
    """Every combination of chosen values, as their places, with the rows there."""
    parts: list[tuple[list[int], pd.DataFrame]] = [([], explorer.rows)]
    for column, (_, names) in explorer.choose.items():
        parts = [([*at, i], rows[rows[column] == value]) for at, rows in parts for i, value in enumerate(names)]
    return iter(parts)


def _curves_at(explorer: Explorer, at: list[int], rows: pd.DataFrame, pool: _Pool) -> Iterator[dict[str, Any]]:
    for name, look in explorer.looks.items():
        mine = rows[rows[explorer.curve] == name]
        found = [_pooled(mine, quantity, explorer.at) for quantity in explorer.y]
        index = mine[explorer.at].drop_duplicates().sort_values().to_numpy()
        x = [_pooled(mine, quantity, explorer.at)["mean"].reindex(index) for quantity in explorer.x]
        if not any(len(table) for table in found):
            continue
        yield {
            "at": at,
            **_looks(look),
            "x": [pool.place(column.to_numpy(float)) if column.notna().any() else None for column in x],
            "y": [_places(table.reindex(index), pool) if len(table) else None for table in found],
        }


def _pooled(rows: pd.DataFrame, quantity: Quantity, at: str) -> pd.DataFrame:
    """mean, least and largest of a quantity over the seeds by the column ``at``, where every seed has it."""
    if quantity.column not in rows:
        return pd.DataFrame(columns=["mean", "least", "largest"], dtype=float)
    known = rows.dropna(subset=[quantity.column])
    if quantity.spread:
        columns = {quantity.column: "mean", quantity.spread[0]: "least", quantity.spread[1]: "largest"}
        return known.set_index(at)[list(columns)].rename(columns=columns).sort_index()
    values = known[quantity.column].astype(float).groupby(known[at])
    table = values.agg(mean="mean", least="min", largest="max", count="count")
    if quantity.log and (known[quantity.column] > 0).all() and len(known):
        table["mean"] = np.exp(np.log(known[quantity.column].astype(float)).groupby(known[at]).mean())
    seeds = known["seed"].nunique() if "seed" in known else 1
    return table[table["count"] == seeds].drop(columns="count")


def _places(table: pd.DataFrame, pool: _Pool) -> list[int | None]:
    mean, least, largest = (table[c].to_numpy(float) for c in ("mean", "least", "largest"))
    if np.array_equal(least, largest, equal_nan=True):
        return [pool.place(mean), None, None]
    return [pool.place(mean), pool.place(least), pool.place(largest)]


def _measured(quantities: Sequence[Quantity], drawn: Sequence[dict[str, Any]], axis: str) -> list[int]:
    return [i for i in range(len(quantities)) if any(curve[axis][i] is not None for curve in drawn)]


def _named(quantity: Quantity) -> dict[str, Any]:
    return {"label": quantity.label, "log": quantity.log}


def _looks(look: Look) -> dict[str, Any]:
    dashes = NAMED_DASHES[look.line] if isinstance(look.line, str) else look.line[1]
    return {"label": plain(look.label), "color": look.color, "dash": list(dashes)}


def _rounded(value: float) -> float | None:
    """To DIGITS digits, whole numbers as such; None for what JSON has no number for."""
    if not np.isfinite(value):
        return None
    short = float(f"{value:.{DIGITS}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short
