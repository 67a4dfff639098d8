"""Fewer records of long runs, for tables that are kept."""

from __future__ import annotations

import numpy as np
import pandas as pd


def few_records(table: pd.DataFrame, a_decade: int) -> pd.DataFrame:
    """A table of trajectories with about ``a_decade`` records for each power of ten steps.

    The steps are those of all runs together, so that means over runs have all of them at each. The first and the last record of
    every run are kept, and rows without a step.

    Args:
        table: Runs below each other, with the column ``step``, ascending within a run.
        a_decade: At least 1.
    """
    step = table["step"].to_numpy(float)
    known = np.isfinite(step)
    ends = known & (np.append(step[1:] < step[:-1], True) | np.append(~known[1:], True))
    steps = np.unique(step[known])
    # A step on a boundary opens its interval, whatever the logarithm's last bit.
    places = np.floor(np.log10(np.maximum(steps, 0.5)) * a_decade + 1e-9)
    opens = np.append(True, places[1:] > places[:-1]) if len(steps) else np.zeros(0, dtype=bool)
    kept = np.union1d(steps[opens], step[ends])
    few: pd.DataFrame = table[~known | np.isin(step, kept)].reset_index(drop=True)
    return few
