"""Finished runs as figures and comparisons read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from implicit_bias.config.spec import RunSpec

# Numbers in the committed tables. Six digits are beyond what can be seen in a picture, and keep the files small.
SIGNIFICANT_DIGITS = 6


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        spec: What it computed.
        trajectory: Its trajectory, one row a (step, norm).
        folder: Where the rest of it is, its parameters for one; None where it is in no folder.
    """

    spec: RunSpec
    trajectory: pd.DataFrame
    folder: Path | None = None


def numbers(values: Sequence[float] | np.ndarray, digits: int = 3) -> str:
    """``.167 / .313 / .430``: a few numbers in one cell, with ``digits`` decimals."""
    return " / ".join(f"{value:.{digits}f}" for value in values)


def mean_and_spread(values: Sequence[float] | np.ndarray | pd.Series, digits: int = 3) -> str:
    """``0.157 ± 0.012``, with ``digits`` significant digits."""
    array = np.asarray(values, dtype=float)
    spread = array.std(ddof=1) if len(array) > 1 else 0.0
    return f"{array.mean():.{digits}g} ± {spread:.2g}"


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Every float to six significant digits."""
    floats = {c: [float(f"{v:.{SIGNIFICANT_DIGITS}g}") for v in table[c]] for c in table.select_dtypes("float").columns}
    return table.assign(**floats)


def last_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the last step."""
    last: pd.DataFrame = table[table["step"] == table["step"].max()]
    return last
