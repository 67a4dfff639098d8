"""From a batch's trajectory to the tidy tables of its runs."""

from __future__ import annotations

from typing import Any

import pandas as pd

from implicit_bias.engine import Trajectory
from implicit_bias.records import COLUMNS, EXTRA_COLUMNS

SUMMARY_COLUMNS = ["optimizer", "own", *COLUMNS, "ratio"]


def trajectory_table(trajectory: Trajectory, run: int, seed: int, own: str) -> pd.DataFrame:
    """The trajectory of one run: one row a (step, norm), steps ascending, norms in the order they were asked for.

    Args:
        trajectory: What the batch recorded.
        run: The run's place in the batch.
        seed: Its seed.
        own: Label of its own norm (in a batch over exponents the trajectory knows it as ``lp*`` only).
    """
    frames, mine = [], trajectory.recorded[:, run]
    steps = [step for step, recorded in zip(trajectory.steps, mine, strict=True) if recorded]
    for label, columns in trajectory.by_norm.items():
        named = own if label == trajectory.own else label
        if named == own and label != trajectory.own and trajectory.own in trajectory.by_norm:
            continue  # logged twice: by name, and as the batch's own norm
        values = {key: array[mine, run] for key, array in {**trajectory.common, **columns}.items()}
        frames.append(pd.DataFrame({"seed": seed, "step": steps, "norm": named, **values}))
    table = pd.concat(frames, ignore_index=True).sort_values("step", kind="stable", ignore_index=True)
    return table[[*COLUMNS, *(key for key in EXTRA_COLUMNS if key in table)]]


def summary_table(trajectory: pd.DataFrame, optimizer: str, own: str) -> pd.DataFrame:
    """The last step of every (seed, norm), with `ratio` = margin / max_margin and `own` marking the optimizer's norm."""
    last = trajectory[trajectory["step"] == trajectory["step"].max()]
    extra: dict[str, Any] = {"optimizer": optimizer, "own": last["norm"] == own, "ratio": last["margin"] / last["max_margin"]}
    behind = [key for key in EXTRA_COLUMNS if key in last]
    return last.assign(**extra)[[*SUMMARY_COLUMNS, *behind]].reset_index(drop=True)
