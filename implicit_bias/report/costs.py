"""``estimate=true``: what the runs of a figure cost, from a start of each kind of batch that it has."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from implicit_bias.config.spec import RunSpec
from implicit_bias.core.errors import BadInput, NoData
from implicit_bias.report.trials import Clock, light, test_samples, trial_of
from implicit_bias.runtime.processors import processor
from implicit_bias.storage.files import atomic_write_bytes, csv_bytes, read_table
from implicit_bias.sweep.loading import located
from implicit_bias.sweep.outcome import Outcome
from implicit_bias.sweep.plan import Cell, batches, group_key

#: Seconds that a figure's steps are made for, shared out among its kinds of batches, and the most that one of these gets. What
#: has to be done before a step can be timed comes on top.
SECONDS, MOST_SECONDS = 40.0, 10.0
FILE = "costs.csv"
#: What an estimate leaves out.
NOT_IN_IT = "without optima, the search for a network's rate and what comes after the last record"


@dataclass(frozen=True)
class Cost:
    """What the runs of a figure cost.

    Attributes:
        figure: Its name.
        runs: How many there are, and in how many ``batches`` they are computed where the memory holds whole ones.
        steps: Of all batches together.
        measured_steps: Those of them that were made.
        seconds: That all of them would take, with their records.
        machine: The processor that the seconds are of.
    """

    figure: str
    runs: int
    batches: int
    steps: int
    measured_steps: int
    seconds: float
    machine: str

    @property
    def ms_per_step(self) -> float:
        """Milliseconds a step of a batch takes with its share of the records, on average."""
        return 1e3 * self.seconds / self.steps if self.steps else 0.0

    @property
    def hours(self) -> float:
        """Hours of one processor that all batches take."""
        return self.seconds / 3600

    def __str__(self) -> str:
        what = f"{_counted(self.runs, 'run')}, {_counted(self.batches, 'batch', 'batches')}, {self.steps:,} steps in all"
        return f"{self.figure}: {what} of {self.ms_per_step:.3g} ms: {lasting(self.hours)} of one processor"


def _counted(count: int, one: str, several: str = "") -> str:
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def lasting(hours: float) -> str:
    """About how long that is, to two digits."""
    if hours * 60 < 1:
        return "less than a minute"
    if hours < 1:
        return f"about {hours * 60:.2g} minutes"
    return f"about {hours:.2g} hours" if hours < 100 else f"about {round(hours, -1):,.0f} hours"


def cost_of(figure: str, specs: Sequence[RunSpec], clock: Clock = time.process_time) -> Cost:
    """The cost of a figure's runs, whether they are finished or not.

    Of each kind of batch the first is tried (:func:`implicit_bias.report.trials.trial_of`), as if the memory held whole ones.
    Optima, the search for a network's learning rate, the certificates of the last record, and what a figure measures beside its
    runs are not counted; runs that end at a loss are counted with all their steps.

    Raises:
        NoData, BadInput: data of a run are not there, or cannot be used.
    """
    given = list(dict.fromkeys(specs))
    cells: list[Cell] = []
    for found in located([light(spec) for spec in given], tell=False):
        if not isinstance(found, Cell):
            raise _unusable(found[1])
        cells.append(found)
    plan = batches(cells)
    kinds: dict[tuple[str, int, int], list[Cell]] = {}
    for batch in plan:
        kinds.setdefault(_kind(batch, given), batch)
    each = min(MOST_SECONDS, SECONDS / max(1, len(kinds)))
    trials = {kind: trial_of(batch, kind[2], each, clock) for kind, batch in kinds.items()}
    seconds = sum(trials[_kind(batch, given)].seconds(batch[0].spec) for batch in plan)
    steps, made = sum(batch[0].spec.steps for batch in plan), sum(trial.steps for trial in trials.values())
    return Cost(figure, len(cells), len(plan), steps, made, seconds, processor())


def _kind(batch: Sequence[Cell], given: Sequence[RunSpec]) -> tuple[str, int, int]:
    """Equal for batches that cost the same: what they share, how many runs they have, and how many test samples these ask for."""
    return group_key(batch[0]), len(batch), test_samples(given[batch[0].index])


def _unusable(outcome: Outcome) -> BadInput:
    kind = NoData if outcome.error_kind == "no_data" else BadInput
    return kind(f"a run failed: {outcome.error}")


def write_costs(folder: Path, costs: Iterable[Cost]) -> None:
    """Write ``folder/costs.csv``; what is known of other figures is kept. Raises OSError."""
    known = {} if not (folder / FILE).exists() else {row["figure"]: row for row in read_table(folder / FILE).to_dict("records")}
    for cost in costs:
        known[cost.figure] = {
            "figure": cost.figure, "runs": cost.runs, "batches": cost.batches, "steps": cost.steps,
            "measured_steps": cost.measured_steps, "ms_per_step": float(f"{cost.ms_per_step:.3g}"),
            "hours": float(f"{cost.hours:.3g}"), "machine": cost.machine,
        }  # fmt: skip
    atomic_write_bytes(folder / FILE, csv_bytes(pd.DataFrame([known[name] for name in sorted(known)])))


def read_hours(folder: Path) -> dict[str, float]:
    """The hours of the figures whose cost has been measured."""
    path = folder / FILE
    return {} if not path.exists() else dict(read_table(path).set_index("figure")["hours"])
