"""The time left of batches that are computed again: on a made-up clock."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest
from torch import Tensor

from implicit_bias.config.overrides import compose
from implicit_bias.core.work import Work
from implicit_bias.models import MODELS, Data
from implicit_bias.sweep import execute
from implicit_bias.sweep.clusters.local import _again
from implicit_bias.sweep.clusters.tasks import Ledger, Task
from implicit_bias.sweep.expected import BatchWork, rest_seconds, steps_seconds
from implicit_bias.sweep.outcome import Silent
from implicit_bias.sweep.plan import Cell

SMALL = ["dataset.num_classes=3", "dataset.dim=4", "dataset.samples_per_class=3", "steps=1000", "reference=none"]
NETWORK = ["model=mlp", "model.width=3", "schedule.lr=0.1"]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def work(clock: Clock) -> Work:
    return Work(clock)


@pytest.fixture(scope="module")
def batch() -> list[Cell]:
    specs = [cell.spec for cell in compose([*SMALL, "seed=range(4)"], multirun=True)]
    return [Cell(place, spec, spec.dataset.load(), Path(f"run-{place}")) for place, spec in enumerate(specs)]


def test_steps_that_begin_again_are_expected_again_and_of_those_before_nothing_is_learnt(
    batch: list[Cell], clock: Clock, work: Work
) -> None:
    piece = BatchWork(work, batch, set())
    piece.attempt(batch)
    for first in (0, 500, 500, 250):  # of a checkpoint twice, of runs that diverged
        piece.stepping(1000, first)
        expected = steps_seconds(batch) * (1 - first / 1000) + rest_seconds(batch)
        assert work.left() == pytest.approx(expected)
        clock.now += 20.0
        piece.made(first + 1)
    piece.end()
    assert work.left() == 0.0
    BatchWork(work, batch, set())
    assert work.left() == pytest.approx(steps_seconds(batch) + rest_seconds(batch))


def test_a_batch_that_is_computed_run_by_run_is_expected_run_by_run(batch: list[Cell], clock: Clock, work: Work) -> None:
    piece = BatchWork(work, batch, set())
    piece.attempt(batch)
    piece.stepping(1000, 0)
    clock.now = 30.0
    piece.made(900)
    one = steps_seconds(batch[:1]) + rest_seconds(batch[:1])
    for place, cell in enumerate(batch):
        piece.attempt([cell])
        told = work.left()
        assert told is not None
        if place == 0:
            assert told == pytest.approx(4 * one)
        else:  # from the first one that is done it is learnt that they take ten times longer
            assert 4 * one < told / (4 - place) < 10.1 * one
        piece.stepping(1000, 0)
        clock.now += 10 * steps_seconds([cell])
        piece.made(1000)
        piece.closing()
        clock.now += 10 * rest_seconds([cell])
    piece.end()
    assert work.left() == 0.0


def test_of_a_task_whose_worker_died_nothing_is_learnt(batch: list[Cell], clock: Clock, work: Work) -> None:
    progress = Silent()
    progress.work = work
    ledger = Ledger([None] * 4, dict.fromkeys(range(4)), progress, lambda index, outcome: None)
    tasks = [Task(0, batch[:2]), Task(1, batch[2:])]
    ledger.begin(tasks, 1)
    whole = work.left()
    work.begin(tasks[0].key)
    clock.now += 1e-4
    work.share(0.9, tasks[0].key)
    assert [task.cells for task in _again(tasks[0], ledger, "killed", count(2))] == [batch[:2]]
    assert work.left() == pytest.approx(whole)
    ledger.fail(batch[2:], "broken")
    work.begin(tasks[1].key)
    ledger.close(tasks[1], 1e-4)  # all of its runs failed
    assert whole is not None and work.left() == pytest.approx(whole / 2)


@pytest.mark.parametrize("always", [False, True])
def test_a_model_that_fails_on_some_data_ends_no_sweep(always: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = MODELS.get("mlp")
    made = network.initial

    def initial(self: object, data: Data, seeds: list[int]) -> dict[str, Tensor]:
        if always or not data.x.any():
            raise ZeroDivisionError("no scale")
        blocks: dict[str, Tensor] = made(self, data, seeds)
        return blocks

    monkeypatch.setattr(network, "initial", initial)
    monkeypatch.setattr("implicit_bias.sweep.expected._COUNTED", {})
    common = [*SMALL, "steps=3", f"results_dir={tmp_path}"]
    specs = [cell.spec for options in (NETWORK, []) for cell in compose([*common, *options, "seed=1,2,3"], multirun=True)]
    outcomes = execute(specs, command="test")
    assert [outcome.status for outcome in outcomes] == ["failed" if always else "done"] * 3 + ["done"] * 3
