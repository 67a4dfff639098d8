"""A figure's trajectories as the small table of numbers that the page's explorer draws."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from implicit_bias.plotting.explorer import Explorer, Quantity
from implicit_bias.plotting.style import Look
from implicit_bias.report.page.text import plain

#: More cannot be seen in a picture, and costs room in the page.
DIGITS = 4
#: Dashes of matplotlib's that go by a name, as lengths in line widths.
NAMED_DASHES: dict[str, Sequence[float]] = {"-": (), "--": (4, 1.6), ":": (1, 1.3), "-.": (4, 1.4, 1, 1.4)}

Key = tuple[Any, ...]


def curves(explorer: Explorer) -> dict[str, Any] | None:
    """What the page draws, as JSON; None if there is nothing to draw.

    Keys: ``choose`` (label, names of the values), ``x`` and ``y`` (label, log), ``arrays`` (each list of numbers once),
    ``levels`` (the places of the chosen values in ``at``, that of the quantity in ``y``, value and label), and ``curves``: the
    places of its chosen values in ``at``, its look, and for every quantity of x the place of its mean in ``arrays``, for every
    one of y those of mean, least and largest; null where nothing was measured, and least and largest null where there is one
    seed.
    """
    pool = _Pool()
    drawn = list(_curves(explorer, pool))
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
        "levels": list(_levels(explorer, [explorer.y[i].column for i in y])),
        "curves": drawn,
    }


class _Pool:
    """Lists of numbers, each kept once: steps are those of many curves."""

    def __init__(self) -> None:
        self.arrays: list[list[float | None]] = []
        self._places: dict[tuple[float | None, ...], int] = {}

    def place(self, values: pd.Series) -> int:
        """The place of these numbers, rounded."""
        key = tuple(_rounded(value) for value in values.to_list())
        if key not in self._places:
            self._places[key] = len(self.arrays)
            self.arrays.append(list(key))
        return self._places[key]


def _curves(explorer: Explorer, pool: _Pool) -> Iterator[dict[str, Any]]:
    """Every curve of every combination of chosen values, in the order of the choices and of the legend."""
    x = [_pooled(explorer, quantity) for quantity in explorer.x]
    y = [_pooled(explorer, quantity) for quantity in explorer.y]
    for choice in product(*(enumerate(names) for _, names in explorer.choose.values())):
        for name, look in explorer.looks.items():
            key = (*(value for _, value in choice), name)
            measured = [groups[key].index for groups in y if key in groups]
            if measured:
                at = reduce(pd.Index.union, measured)
                yield {
                    "at": [place for place, _ in choice],
                    **_looks(look),
                    "x": [pool.place(groups[key]["mean"].reindex(at)) if key in groups else None for groups in x],
                    "y": [_places(groups[key].reindex(at), pool) if key in groups else None for groups in y],
                }


def _levels(explorer: Explorer, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The horizontal lines on the axes of the quantities that are drawn."""
    places = [list(names) for _, names in explorer.choose.values()]
    for level in explorer.levels:
        if level.column in columns:
            at = [values.index(value) for values, value in zip(places, level.chosen, strict=True)]
            yield {"at": at, "y": columns.index(level.column), "value": _rounded(level.value), "label": level.label}


def _pooled(explorer: Explorer, quantity: Quantity) -> Mapping[Key, pd.DataFrame]:
    """mean, least and largest of a quantity over the seeds by the column ``at``, for each (chosen values, curve).

    Where some seed has no record there is none. The mean of what is drawn on a log axis is geometric where all are positive.
    """
    rows = explorer.rows
    if quantity.column not in rows:
        return {}
    rows = rows.dropna(subset=[quantity.column])
    keys = [*explorer.choose, explorer.curve]
    value = rows[quantity.column].astype(float)
    low, high = quantity.spread or (quantity.column, quantity.column)
    frame = rows[keys].assign(
        at=rows[explorer.at],
        mean=value,
        least=rows[low].astype(float),
        largest=rows[high].astype(float),
        log=np.log(value.where(value > 0)),
        seed=rows.get("seed", 0),
    )
    frame["seeds"] = frame.groupby(keys)["seed"].transform("nunique")
    by = frame.groupby([*keys, "at"])
    table = by.agg({"mean": "mean", "least": "min", "largest": "max", "log": ["mean", "count"], "seeds": ["first", "count"]})
    table.columns = ["mean", "least", "largest", "log", "positive", "seeds", "count"]
    table = table[table["count"] == table["seeds"]]
    if quantity.log:
        positive = (table["positive"] == table["count"]).groupby(level=keys).transform("all")
        table["mean"] = np.exp(table["log"]).where(positive, table["mean"])
    table = table[["mean", "least", "largest"]]
    places = table.groupby(level=keys).indices
    at = table.index.get_level_values("at")
    return {
        key if isinstance(key, tuple) else (key,): table.iloc[rows].set_axis(at[rows])  # a tuple of one is pandas's scalar
        for key, rows in places.items()
    }


def _places(table: pd.DataFrame, pool: _Pool) -> list[int | None]:
    if table["least"].equals(table["largest"]):
        return [pool.place(table["mean"]), None, None]
    return [pool.place(table[column]) for column in ("mean", "least", "largest")]


def _measured(quantities: Sequence[Quantity], drawn: Sequence[dict[str, Any]], axis: str) -> list[int]:
    return [i for i in range(len(quantities)) if any(curve[axis][i] is not None for curve in drawn)]


def _named(quantity: Quantity) -> dict[str, Any]:
    return {"label": quantity.label, "log": quantity.log}


def _looks(look: Look) -> dict[str, Any]:
    dashes = NAMED_DASHES[look.line] if isinstance(look.line, str) else look.line[1]
    return {"label": plain(look.label), "color": look.color, "dash": list(dashes)}


def _rounded(value: float) -> float | None:
    """Numbers rounded to DIGITS digits, whole ones as integers; None for those that JSON cannot hold."""
    if not math.isfinite(value):
        return None
    short = float(f"{value:.{DIGITS}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short
