"""From a batch's trajectory to the tidy tables of its runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from implicit_bias.engine import Trajectory
from implicit_bias.solvers.enclosure import relative_gap
from implicit_bias.solvers.reference import PROVEN
from implicit_bias.storage.runs import COLUMNS, EXTRA_COLUMNS

#: Behind the others of ``summary.csv``.
INTERVAL_COLUMNS = ["optimum_lower", "optimum_upper"]
#: Behind these, in every summary.
CONSTANT_COLUMN = "gap_constant"
#: Of those of EXTRA_COLUMNS that a batch has for the sake of some of its runs: the others, where they are empty, go without.
OF_SOME_RUNS = ("fw_gap",)
SUMMARY_COLUMNS = ["optimizer", "own", *COLUMNS, "ratio"]


class ProofViolated(RuntimeError):
    """A margin above a proven upper bound: an error of the program, never of the data."""


@dataclass(frozen=True)
class Interval:
    """The interval that an optimum is proven to lie in, what the evaluation of a margin may be off by, and the optimum's
    :func:`~implicit_bias.measures.decay_laws.gap_constant`."""

    lower: float
    upper: float
    rounding: float = 0.0
    constant: float = np.nan

    @property
    def proven(self) -> bool:
        """Whether it is narrow enough for its lower end to stand for the optimum."""
        return relative_gap(self.lower, self.upper) <= PROVEN

    def met(self, margins: np.ndarray, uppers: np.ndarray, label: str) -> Interval:
        """The interval with what a run's margins and certificates (records,) prove themselves.

        Raises:
            ProofViolated: a margin lies above the upper end by more than rounding.
        """
        best = float(np.nanmax(margins, initial=-np.inf))
        if best > self.upper + self.rounding:
            raise ProofViolated(
                f"the {label} margin {best!r} is above the proven optimum's upper end {self.upper!r}: an error of the program,"
                " please report it with its data"
            )
        upper = min(self.upper, float(np.nanmin(uppers, initial=np.inf)))
        return replace(self, lower=max(self.lower, min(best, upper)), upper=max(upper, self.lower))


def narrowed(trajectory: Trajectory, run: int, own: str | None, intervals: Mapping[str, Interval]) -> dict[str, Interval]:
    """The references of a run by label, each with what the run proves of it. Raises ProofViolated."""
    mine, found = trajectory.recorded[:, run], dict(intervals)
    for label, columns in trajectory.by_norm.items():
        named = own if own is not None and label == trajectory.own else label
        if named in found:
            found[named] = found[named].met(columns["margin"][mine, run], columns["upper_bound"][mine, run], named)
    return found


def trajectory_table(
    trajectory: Trajectory, run: int, seed: int, own: str | None, intervals: Mapping[str, Interval] | None = None
) -> pd.DataFrame:
    """The trajectory of one run: one row a (step, norm), steps ascending, norms in the order they were asked for.

    Args:
        trajectory: What the batch recorded.
        run: The run's place in the batch.
        seed: Its seed.
        own: Label of its own norm (in a batch over exponents the trajectory knows it as ``lp*`` only); None: it has none.
        intervals: What is proven of the optima by label, as :func:`narrowed` gives it: a margin above a reference's lower end is
            itself a better lower end, and `max_margin` is that.
    """
    frames, mine = [], trajectory.recorded[:, run]
    steps = [step for step, recorded in zip(trajectory.steps, mine, strict=True) if recorded]
    for label, columns in trajectory.by_norm.items():
        named = own if own is not None and label == trajectory.own else label
        if named == own and label != trajectory.own and trajectory.own in trajectory.by_norm:
            continue  # logged twice: by name, and as the batch's own norm
        values = {key: array[mine, run] for key, array in {**trajectory.common, **columns}.items()}
        interval = (intervals or {}).get(named)
        if interval is not None and interval.proven:
            margins, optimum = values["margin"], interval.lower
            values.update(max_margin=np.full_like(margins, optimum), relative_gap=np.abs(optimum - margins) / optimum)
        frames.append(pd.DataFrame({"seed": seed, "step": steps, "norm": named, **values}))
    table = pd.concat(frames, ignore_index=True).sort_values("step", kind="stable", ignore_index=True)
    extra = [key for key in EXTRA_COLUMNS if key in table and not (key in OF_SOME_RUNS and table[key].isna().all())]
    return table[[*COLUMNS, *extra, *trajectory.probed]]


def summary_table(
    trajectory: pd.DataFrame, optimizer: str, own: str | None, intervals: Mapping[str, Interval] | None = None
) -> pd.DataFrame:
    """The last step of every (seed, norm), with `ratio` = margin / max_margin and `own` marking the optimizer's norm.

    Behind them the interval that the optimum is proven to lie in, `optimum_lower` and `optimum_upper`, where there are
    references; `gap_constant`, empty where no optimum is proven; and the columns of probes.
    """
    last = trajectory[trajectory["step"] == trajectory["step"].max()]
    extra: dict[str, Any] = {"optimizer": optimizer, "own": last["norm"] == own, "ratio": last["margin"] / last["max_margin"]}
    behind = [key for key in EXTRA_COLUMNS if key in last]
    if intervals:
        ends = {label: (interval.lower, interval.upper) for label, interval in intervals.items()}
        unknown = (np.nan, np.nan)
        for place, key in enumerate(INTERVAL_COLUMNS):
            extra[key] = [ends.get(label, unknown)[place] for label in last["norm"]]
        behind += INTERVAL_COLUMNS
    constants = {label: interval.constant for label, interval in (intervals or {}).items() if interval.proven}
    extra[CONSTANT_COLUMN] = [constants.get(label, np.nan) for label in last["norm"]]
    behind.append(CONSTANT_COLUMN)
    behind += [key for key in last if key not in {*COLUMNS, *EXTRA_COLUMNS}]
    table: pd.DataFrame = last.assign(**extra)[[*SUMMARY_COLUMNS, *behind]].reset_index(drop=True)
    return table
