"""The optimum as the loss curves of runs show it, for figures."""

from __future__ import annotations

import numpy as np
import pandas as pd

from implicit_bias.analysis.runs import Run
from implicit_bias.measures.decay_laws import optimum_of_losses


def read_off(run: Run) -> pd.DataFrame:
    """method, norm, seed, step, gap, read, of each record with a decade of steps behind it.

    gap is the relative margin gap in the run's own norm, read what -d log L / d(sum of steps) over that decade is off the optimum
    by, relative.
    """
    spec = run.spec
    rows = run.trajectory[run.trajectory["norm"] == spec.own_label].reset_index(drop=True)
    steps, losses = rows["step"].to_numpy(), rows["log_loss"].to_numpy()
    power, first = float(spec.value("schedule.power")), float(rows.loc[rows["step"] == 1, "lr"].iloc[0])
    sums = np.concatenate([[0.0], np.cumsum(first * np.arange(1, steps[-1] + 1, dtype=float) ** -power)])[steps]
    found = []
    for place in np.flatnonzero(steps >= 10):
        before = int(np.searchsorted(steps, steps[place] / 10, side="right")) - 1
        ends = np.array([max(before, 0), place])
        found.append((steps[place], rows["relative_gap"][place], optimum_of_losses(losses[ends], sums[ends])))
    read = pd.DataFrame(found, columns=["step", "gap", "read"])
    read["read"] = read["read"] / rows["max_margin"].iloc[-1] - 1
    return read.assign(method=spec.optimizer.name, norm=spec.own_label, seed=spec.seed)
