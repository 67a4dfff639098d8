"""How long each figure took when it was computed from nothing.

The numbers beside the figures, which a reader sees, are written with the tables: with one that is new, or that has moved.
Those of the last making on this machine are in the cache; from them the time left is told.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple, TypeGuard

from implicit_bias.storage.files import atomic_write_text

FILE = "minutes.json"
LEAST = 0.01


class Minutes(NamedTuple):
    """Minutes of one process: of a figure's runs, and of what is made of them."""

    runs: float
    table: float

    @classmethod
    def of(cls, runs: float, table: float) -> Minutes:
        """From seconds."""
        return cls(round(runs / 60, 3), round(table / 60, 3))

    @property
    def together(self) -> float:
        """As a reader sees them."""
        return max(round(self.runs + self.table, 2), LEAST)


def keep_minutes(folder: Path, name: str, minutes: Minutes, *, moved: bool) -> None:
    """Note how long a figure took: in the cache, and beside the figure where that has no note yet, or its table has moved.

    Raises:
        OSError: it cannot be written.
    """
    known, shown = last_minutes(folder), read_minutes(folder)
    _write(folder / "cache" / FILE, {**known, name: list(minutes)})
    if moved or name not in shown:
        _write(folder / "figures" / FILE, {**shown, name: minutes.together})


def read_minutes(folder: Path) -> dict[str, float]:
    """The minutes that are known, by figure; none where the file is missing or damaged."""
    return {name: float(minutes) for name, minutes in _read(folder / "figures" / FILE).items() if _is_time(minutes)}


def last_minutes(folder: Path) -> dict[str, Minutes]:
    """Those of the last making on this machine, by figure; none where the file is missing or damaged."""
    known = _read(folder / "cache" / FILE)
    return {name: Minutes(*map(float, parts)) for name, parts in known.items() if _are_minutes(parts)}


def known_minutes(folder: Path) -> dict[str, float]:
    """Minutes of one process by figure, from nothing: the last ones on this machine, else those beside the figures."""
    return read_minutes(folder) | {name: sum(minutes) for name, minutes in last_minutes(folder).items()}


def _are_minutes(parts: object) -> TypeGuard[list[float]]:
    return isinstance(parts, list) and len(parts) == len(Minutes._fields) and all(map(_is_time, parts))


def _is_time(value: object) -> TypeGuard[float]:
    """Whether it is a finite number that is not negative."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _read(path: Path) -> dict[str, object]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _write(path: Path, known: dict[str, object]) -> None:
    atomic_write_text(path, json.dumps(dict(sorted(known.items())), indent=1) + "\n")
