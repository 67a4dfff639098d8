"""Fewer records of long runs, for tables that are kept."""

from __future__ import annotations

import numpy as np
import pandas as pd


def few_records(table: pd.DataFrame, a_decade: int) -> pd.DataFrame:
    """A table of trajectories with about ``a_decade`` records of each run for each power of ten steps.

    Of runs that are recorded at the same steps the same ones are kept, so that means over runs have all of them at each. The
    first and the last record of every run are kept, and rows without a step.

    Args:
        table: Runs below each other, with the column ``step``, ascending within a run.
        a_decade: At least 1.
    """
    step = table["step"].to_numpy(float)
    known = np.isfinite(step)
    begins = np.append(True, ~known[:-1] | (step[1:] < step[:-1]))[: len(step)]
    rows = pd.DataFrame({"run": begins.cumsum(), "step": step})[known].drop_duplicates()
    # A step on a boundary opens its interval, whatever the logarithm's last bit.
    place = np.floor(np.log10(rows["step"].clip(lower=0.5)) * a_decade + 1e-9)
    rows["kept"] = (place.groupby(rows["run"]).diff() != 0) | ~rows["run"].duplicated(keep="last")
    chosen = rows[rows["kept"]].set_index(["run", "step"]).index
    few: pd.DataFrame = table[~known | pd.MultiIndex.from_arrays([begins.cumsum(), step]).isin(chosen)].reset_index(drop=True)
    return few
