"""What a step and a record of a batch cost, from a short start of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from implicit_bias.config.spec import RunSpec
from implicit_bias.engine import Problem, simulate
from implicit_bias.engine.record_times import record_steps
from implicit_bias.engine.snapshot import Snapshot
from implicit_bias.measures.kkt import STARTS
from implicit_bias.measures.margins import accuracy, predicted
from implicit_bias.models import Data
from implicit_bias.runtime.threads import threads_for
from implicit_bias.sweep.batch_size import block_shapes
from implicit_bias.sweep.plan import Cell, run_elements
from implicit_bias.sweep.problem import build_problem

#: So much of a batch's steps is made, but no longer than the seconds that are given; at least so many steps.
SHARE, LEAST_STEPS = 0.01, 3
#: Runs of networks cost the same beside each other as one by one, once their arrays have so many numbers: more are not tried.
ELEMENTS = 2**20
#: More test samples are not drawn, and a network's rate is not searched for: the search is some hundred gradients of every run.
#: At this rate every step is made, and none leads away from where the network begins.
TEST_SAMPLES, RATE = 1000, 1e-9
#: So many records of a linear model are timed, one a step; a network's ratios are searched with so many Jacobian products more.
RECORDS, PRODUCTS = 20, 4
#: Seconds that the process has computed: other programs on the machine do not count.
Clock = Callable[[], float]


@dataclass(frozen=True)
class Trial:
    """What was found of a batch.

    Attributes:
        steps: Those that were made.
        step: Seconds that one takes, of the whole batch.
        record: Seconds that a record takes beside it.
    """

    steps: int
    step: float
    record: float

    def seconds(self, spec: RunSpec) -> float:
        """What all steps and records of such a batch take."""
        return self.step * spec.steps + self.record * records(spec)


class _Enough(Exception):
    """Raised between two steps to end a batch."""


def records(spec: RunSpec) -> int:
    """How many records a run has: those at levels of the loss are counted where it ends at a loss."""
    levels = 0.0 if spec.stop_log10_loss is None else spec.log.levels * max(0.0, -spec.stop_log10_loss)
    return len(record_steps(spec.steps, spec.log.points)) + int(levels)


def test_samples(spec: RunSpec) -> int:
    """The test samples that a run asks for."""
    return int(getattr(spec.dataset, "test_samples", 0))


def light(spec: RunSpec) -> RunSpec:
    """The run with few test samples and, of a network, a given learning rate: what a trial can do without."""
    keys: dict[str, object] = {}
    if test_samples(spec) > TEST_SAMPLES:
        keys["dataset.test_samples"] = TEST_SAMPLES
    if not spec.model.linear and spec.schedule.lr == "auto":
        keys["schedule.lr"] = RATE
    return spec.altered(keys) if keys else spec


def trial_of(batch: Sequence[Cell], tested: int, seconds: float, clock: Clock = time.process_time) -> Trial:
    """Time the start of a batch.

    Steps are made without what records measure. A record of a linear model is the difference of two short batches, with a record
    a step and with few; of a network, whose gaps are negative for long, the first one of labels that are its own answers, for
    KKT ratios are searched where all gaps are positive: with few Jacobian products, and with some more. Of large networks some
    runs of the batch are made, and stand for all. All is on one thread.

    Args:
        batch: Its cells, their runs made :func:`light`.
        tested: The test samples that they asked for.
        seconds: That steps are made for, at least ``LEAST_STEPS``.
        clock: Seconds that were computed until now.

    Raises:
        Diverged, OverflowError: the runs do.
    """
    part = batch[: _tried(batch)]
    # On one thread: others wait at full speed for processors that other programs have, and would count.
    with threads_for(0):
        problem = replace(build_problem(part, [{} for _ in part]), certificate_iterations=0, weights="none")
        made, step = stepped(replace(problem, points=2, kkt_products=0, test=None), seconds, clock)
        with torch.no_grad():
            record = _recorded(problem, clock) + _tested(problem, tested, clock)
    share = len(batch) / len(part)
    return Trial(made, step * share, record * share)


def _tried(batch: Sequence[Cell]) -> int:
    """How many runs of a batch are made."""
    cell = batch[0]
    if cell.spec.model.linear:
        return len(batch)  # lanes of a vector are runs
    parameters = sum(rows * columns for rows, columns in block_shapes(cell))
    return min(len(batch), math.ceil(ELEMENTS / run_elements(len(cell.dataset.x), cell.dataset.num_classes, parameters)))


def stepped(problem: Problem, seconds: float, clock: Clock) -> tuple[int, float]:
    """The steps that the start of a batch has made, and the seconds that each of the later half of them took."""
    wanted = max(LEAST_STEPS, math.ceil(SHARE * problem.steps))
    times: list[tuple[int, float]] = []

    def keep(step: int, _: Callable[[], Snapshot]) -> None:
        times.append((step, clock()))
        if step >= wanted or (len(times) >= LEAST_STEPS and clock() - times[0][1] > seconds):
            raise _Enough

    begun = clock()
    try:
        simulate(problem, keep=keep)
    except _Enough:
        pass
    else:  # so short that it ended first
        times.append((problem.steps, clock()))
    return times[-1][0], _per_step([(0, begun), *times])


def _per_step(times: Sequence[tuple[int, float]]) -> float:
    """Seconds a step of the later half: the first ones are verified."""
    last, end = times[-1]
    middle, half = max((t for t in times[:-1] if t[0] <= last / 2), key=lambda t: t[0])
    return (end - half) / (last - middle)


def _recorded(problem: Problem, clock: Clock) -> float:
    """Seconds that a record takes."""
    problem = replace(problem, levels=0, stop_log_loss=-math.inf)
    if problem.model.linear:
        return _of_linear(problem, clock)
    answered = replace(problem, data=_answered(problem), steps=0)
    few = min(problem.kkt_products, STARTS)
    least = _seconds(replace(answered, kkt_products=few), clock)
    if problem.kkt_products <= few + PRODUCTS:
        return least if problem.kkt_products == few else _seconds(answered, clock)
    more = _seconds(replace(answered, kkt_products=few + PRODUCTS), clock)
    return least + max(0.0, more - least) * (problem.kkt_products - few) / PRODUCTS


def _of_linear(problem: Problem, clock: Clock) -> float:
    short = replace(problem, steps=min(RECORDS, problem.steps), points=2)
    dense = replace(short, points=10 * RECORDS)
    few, all_of_them = (len(record_steps(p.steps, p.points)) for p in (short, dense))
    if all_of_them == few:
        return 0.0
    least = _seconds(short, clock)
    return max(0.0, _seconds(dense, clock) - least) / (all_of_them - few)


def _answered(problem: Problem) -> Data:
    """The training data with the labels that the network gives them where it begins; samples of which it says nothing, units
    being dead, are replaced by the one of which it is surest."""
    data = problem.data
    y = predicted(problem.model.objective(data, problem.loss, problem.frozen).scores(problem.initial, data.x))
    labelled = Data(data.x.expand(len(y), -1, -1).contiguous(), y, data.num_classes)
    gaps = -problem.model.objective(labelled, problem.loss, problem.frozen).negative_gaps(problem.initial).amax(dim=-2)
    here = torch.arange(gaps.shape[1]).expand_as(gaps).to(y.device)
    taken = torch.where(gaps > 0, here, gaps.argmax(dim=-1, keepdim=True))
    x = labelled.x.gather(1, taken.unsqueeze(-1).expand_as(labelled.x))
    return Data(x, y.gather(1, taken), data.num_classes)


def _tested(problem: Problem, asked: int, clock: Clock) -> float:
    """Seconds that the test samples take that a record would look at beside those that are there."""
    if problem.test is None or asked <= problem.test.x.shape[1]:
        return 0.0
    test = problem.test
    objective = problem.model.objective(problem.data, problem.loss, problem.frozen)
    begun = clock()
    accuracy(objective.scores(problem.initial, test.x), test.y)
    return (clock() - begun) * (asked / test.x.shape[1] - 1)


def _seconds(problem: Problem, clock: Clock) -> float:
    begun = clock()
    simulate(problem)
    return clock() - begun
