"""``estimate=true``: what the runs of a figure cost, from a real start of each kind of batch that it has."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from implicit_bias.config.spec import RunSpec
from implicit_bias.core.errors import BadInput, NoData
from implicit_bias.engine import simulate
from implicit_bias.engine.snapshot import Snapshot
from implicit_bias.runtime.threads import threads_for
from implicit_bias.storage.files import atomic_write_bytes, csv_bytes, read_table
from implicit_bias.sweep.batch_size import fitting
from implicit_bias.sweep.execute import elements
from implicit_bias.sweep.loading import located
from implicit_bias.sweep.outcome import Outcome
from implicit_bias.sweep.plan import Cell, batches, group_key
from implicit_bias.sweep.problem import build_problem

#: So much of a batch's steps is made, but no longer than so many seconds; at least so many steps.
SHARE, SECONDS, LEAST_STEPS = 0.01, 20.0, 3
FILE = "costs.csv"
#: Seconds that the process has computed: other programs on the machine do not count.
Clock = Callable[[], float]


@dataclass(frozen=True)
class Cost:
    """What the runs of a figure cost.

    Attributes:
        figure: Its name.
        runs: How many there are, and in how many ``batches`` they are computed.
        steps: Of all batches together.
        measured_steps: Those of them that were made.
        seconds: That all of them would take.
    """

    figure: str
    runs: int
    batches: int
    steps: int
    measured_steps: int
    seconds: float

    @property
    def ms_per_step(self) -> float:
        """Milliseconds a step of a batch takes, on average."""
        return 1e3 * self.seconds / self.steps if self.steps else 0.0

    @property
    def hours(self) -> float:
        """Hours of one processor that all batches take."""
        return self.seconds / 3600

    def __str__(self) -> str:
        what = f"{_counted(self.runs, 'run')}, {_counted(self.batches, 'batch', 'batches')}, {self.steps:,} steps in all"
        return f"{self.figure}: {what} of {self.ms_per_step:.3g} ms: {lasting(self.hours)} of one processor"


class _Enough(Exception):
    """Raised between two steps to end a batch."""


def _counted(count: int, one: str, several: str = "") -> str:
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def lasting(hours: float) -> str:
    """About how long that is, to two digits."""
    if hours * 60 < 1:
        return "less than a minute"
    if hours < 1:
        return f"about {hours * 60:.2g} minutes"
    return f"about {hours:.2g} hours" if hours < 100 else f"about {round(hours, -1):,.0f} hours"


def cost_of(figure: str, specs: Sequence[RunSpec]) -> Cost:
    """The cost of a figure's runs, whether they are finished or not.

    Of each kind of batch the first is started. Optima, and what a figure measures beside its runs, are not counted.

    Raises:
        NoData, BadInput: data of a run are not there, or cannot be used.
    """
    cells: list[Cell] = []
    for found in located(list(dict.fromkeys(specs)), tell=False):
        if not isinstance(found, Cell):
            raise _unusable(found[1])
        cells.append(found)
    plan = batches(cells, (), fitting)
    kinds: dict[tuple[str, int], tuple[int, float]] = {}
    seconds = 0.0
    for batch in plan:
        kind = (group_key(batch[0]), len(batch))
        if kind not in kinds:
            kinds[kind] = started(batch)
        seconds += kinds[kind][1] * batch[0].spec.steps
    steps, made = sum(batch[0].spec.steps for batch in plan), sum(count for count, _ in kinds.values())
    return Cost(figure, len(cells), len(plan), steps, made, seconds)


def _unusable(outcome: Outcome) -> BadInput:
    kind = NoData if outcome.error_kind == "no_data" else BadInput
    return kind(f"a run failed: {outcome.error}")


def started(batch: Sequence[Cell], clock: Clock = time.process_time) -> tuple[int, float]:
    """The steps that the start of a batch has made, and the seconds that each of the later half of them took."""
    problem = build_problem(batch, [{} for _ in batch])
    wanted = max(LEAST_STEPS, math.ceil(SHARE * problem.steps))
    times: list[tuple[int, float]] = []

    def keep(step: int, _: Callable[[], Snapshot]) -> None:
        times.append((step, clock()))
        if step >= wanted or (len(times) >= LEAST_STEPS and clock() - times[0][1] > SECONDS):
            raise _Enough

    with threads_for(elements(problem)):
        begun = clock()
        try:
            simulate(problem, keep=keep)
        except _Enough:
            pass
        else:  # so short that it ended first
            times.append((problem.steps, clock()))
    return times[-1][0], _per_step([(0, begun), *times])


def _per_step(times: Sequence[tuple[int, float]]) -> float:
    """Seconds a step of the later half: the first ones are verified, and recorded often."""
    last, end = times[-1]
    middle, half = max((t for t in times[:-1] if t[0] <= last / 2), key=lambda t: t[0])
    return (end - half) / (last - middle)


def write_costs(folder: Path, costs: Iterable[Cost]) -> None:
    """Write ``folder/costs.csv``; what is known of other figures is kept. Raises OSError."""
    known = {} if not (folder / FILE).exists() else {row["figure"]: row for row in read_table(folder / FILE).to_dict("records")}
    for cost in costs:
        known[cost.figure] = {
            "figure": cost.figure, "runs": cost.runs, "batches": cost.batches, "steps": cost.steps,
            "measured_steps": cost.measured_steps, "ms_per_step": float(f"{cost.ms_per_step:.3g}"),
            "hours": float(f"{cost.hours:.3g}"),
        }  # fmt: skip
    atomic_write_bytes(folder / FILE, csv_bytes(pd.DataFrame([known[name] for name in sorted(known)])))


def read_hours(folder: Path) -> dict[str, float]:
    """The hours of the figures whose cost has been measured."""
    path = folder / FILE
    return {} if not path.exists() else dict(read_table(path).set_index("figure")["hours"])
