"""How far a table that was made again is from the one that is kept."""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from implicit_bias.analysis.runs import rounded
from implicit_bias.figures.base import Figure
from implicit_bias.storage.files import csv_bytes, read_table

#: Numbers no further apart than this are equal: round-off about a zero has no relative size.
ROUND_OFF = 1e-9


@dataclass(frozen=True)
class Difference:
    """The largest difference of two tables in units of what is allowed, or why they cannot be compared.

    Attributes:
        column: Where it is; empty where the tables cannot be compared.
        size: Relative, as :func:`relative` has it; infinite where they cannot be compared.
        allowed: The column's tolerance.
        reason: Why they cannot be compared; else empty.
    """

    column: str
    size: float
    allowed: float
    reason: str = ""

    @property
    def within(self) -> bool:
        """Whether the tables agree."""
        return self.size <= self.allowed

    def __str__(self) -> str:
        if self.reason:
            return self.reason
        where = "" if self.within else f" in {self.column}"
        return f"largest difference {_short(self.size)}{where}, {'within' if self.within else 'beyond'} {_short(self.allowed)}"


def difference(figure: Figure, kept: pd.DataFrame, made: pd.DataFrame) -> Difference:
    """What two tables of a figure differ by most, relative to the tolerance of each column.

    Args:
        kept, made: As they are read from their files; the order of rows counts.
    """
    if list(kept.columns) != list(made.columns):
        return _none(f"columns {', '.join(made.columns)}; those kept are {', '.join(kept.columns)}")
    if len(kept) != len(made):
        return _none(f"{len(made):,} rows; {len(kept):,} are kept")
    worst = Difference("", 0.0, figure.tolerance)
    for column in kept.columns:
        numeric = all(pd.api.types.is_numeric_dtype(table[column].dtype) for table in (kept, made))
        if not numeric and not kept[column].fillna("").astype(str).equals(made[column].fillna("").astype(str)):
            return _none(f"other names in column {column}")
        if numeric:
            here = Difference(column, _largest(kept[column], made[column]), _allowed(figure.tolerances, column, figure))
            worst = max(worst, here, key=lambda one: one.size / one.allowed)
    return worst


def kept_beside(figure: Figure, path: Path, made: pd.DataFrame) -> Difference | None:
    """The difference of a table to the one in the file ``path``; None where there is none that can be read."""
    try:
        kept = read_table(path)
    except (OSError, ValueError, EOFError, zlib.error):  # the last two of one that is compressed and cut off or damaged
        return None
    return difference(figure, kept, read_back(made))


def read_back(table: pd.DataFrame) -> pd.DataFrame:
    """A table as it is read from its file."""
    again: pd.DataFrame = read_table(io.BytesIO(csv_bytes(rounded(table))))
    return again


def relative(kept: NDArray[np.float64], made: NDArray[np.float64]) -> NDArray[np.float64]:
    """|a - b| / max(|a|, |b|, s), entry by entry; 0 where both are missing or no more than ROUND_OFF apart, inf where one is.

    s is 0, and in a column of both signs the median |a|: a number that passes through zero has no relative difference.
    """
    passes = bool((kept > 0).any() and (kept < 0).any())
    scale = float(np.nanmedian(np.abs(kept))) if passes else 0.0
    size = np.fmax(np.fmax(np.abs(kept), np.abs(made)), scale)
    with np.errstate(all="ignore"):
        apart = np.abs(kept - made)
        share = np.where(apart <= ROUND_OFF, 0.0, apart / size)
    equal = (kept == made) | (np.isnan(kept) & np.isnan(made))
    found: NDArray[np.float64] = np.where(equal, 0.0, np.where(np.isfinite(share), share, np.inf))
    return found


def _largest(kept: pd.Series, made: pd.Series) -> float:
    return float(relative(kept.to_numpy(float), made.to_numpy(float)).max(initial=0.0))


def _allowed(tolerances: Mapping[str, float], column: str, figure: Figure) -> float:
    return tolerances.get(column, figure.tolerance)


def _none(reason: str) -> Difference:
    return Difference("", np.inf, 0.0, reason)


def _short(number: float) -> str:
    """``4.5e-4``."""
    if number == 0:
        return "0"
    digits, exponent = f"{number:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"
