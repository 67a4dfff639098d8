"""Records that wait for the norms, several measured together: the bits of records that are measured one by one."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch.nn import functional

from implicit_bias.engine import Problem, Trajectory, simulate
from implicit_bias.engine.mini_batches import mini_batches
from implicit_bias.engine.waiting import MOST_OF_A_RUN, MOST_RECORDS, Waiting, most_waiting
from implicit_bias.measures.margins import Optimum
from implicit_bias.measures.probe import Columns, Pile, Probe, Record
from implicit_bias.models import Data
from implicit_bias.norms import ParameterNorm, make_norm
from implicit_bias.optimizers import OPTIMIZERS
from implicit_bias.schedules import SCHEDULES
from tests.engine.test_native import gaussian, problem

RUNS, STEPS = 3, 60
# From entries, from singular values, with exponents, and by methods of a norm's own.
NORMS = ("linf", "l1", "l2", "spectral", "nuclear", "schatten1.5", "lp3", "row", "hybrid0.5")


class Twice(Probe):
    """A probe of one's own that may wait."""

    name: ClassVar[str] = "twice"
    waits: ClassVar[bool] = True

    def keep(self, record: Record) -> Mapping[str, torch.Tensor]:
        return {"q": record.q}

    def under(self, record: Record, label: str, norm: ParameterNorm, columns: Mapping[str, torch.Tensor]) -> Columns:
        return {"twice": columns["margin"] + record.q}

    def under_all(self, pile: Pile, label: str, norm: ParameterNorm, columns: Mapping[str, torch.Tensor]) -> Columns:
        return {"twice": columns["margin"] + pile.kept[self.name]["q"]}


def given(rule: str, **more: Any) -> Problem:
    """Of separable data, so that losses fall through levels, with references of some norms."""
    data = gaussian(3, 5, 24, RUNS)
    made = problem(rule, Data(data.x + 4 * functional.one_hot(data.y, 5), data.y, 3), STEPS, RUNS)
    best = torch.tensor([1.0, torch.nan, 2.0], dtype=torch.float64)
    optima = {"linf": Optimum(best, made.initial), "spectral": Optimum(torch.ones_like(best))}
    return replace(made, measured={label: make_norm(label) for label in NORMS}, optima=optima, points=40, **more)


def accelerated(**more: Any) -> Problem:
    """With an average of pairs in the optimizer's buffers."""
    made = given("gd", **more)
    return replace(made, optimizer=OPTIMIZERS.get("dual_acceleration")(), schedule=SCHEDULES.get("loss_based")(lr=0.01))


def in_float32(made: Problem) -> Problem:
    data, initial = made.data, {name: block.float() for name, block in made.initial.items()}
    lr = torch.as_tensor(made.schedule.lr).float()
    return replace(
        made,
        data=Data(data.x.float(), data.y, data.num_classes),
        initial=initial,
        optimizer=OPTIMIZERS.get("muon")(),
        schedule=replace(made.schedule, lr=lr),
    )


PROBLEMS: dict[str, Problem] = {
    "levels and stops": given("muon", levels=3, stop_log_loss=-6.0, probes=(Twice(),)),
    "deep": replace(given("signgd"), schedule=SCHEDULES.get("constant")(lr=30.0)),
    "mini-batches, pairs": accelerated(batch=mini_batches(5, "reshuffle", torch.arange(RUNS), 24), levels=2),
    "float32": in_float32(given("muon")),
}


#: Those in which the norm of the optimizer's own steps has an optimum.
TOLD = ("levels and stops", "float32")


def bits(found: Trajectory) -> dict[str, bytes]:
    columns = {("", key): column for key, column in found.common.items()}
    columns |= {(label, key): column for label, of in found.by_norm.items() for key, column in of.items()}
    return {"/".join(key): column.tobytes() for key, column in columns.items()} | {"recorded": found.recorded.tobytes()}


@pytest.mark.parametrize("name", PROBLEMS)
def test_records_measured_together_have_the_bits_of_records_measured_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In piles that are full, and in some that a snapshot cuts short, from which another batch goes on. The ratios that
    the display is told are the same, too."""
    piles: list[int] = []
    told: dict[bool, list[float]] = {True: [], False: []}
    monkeypatch.setattr(import_module("implicit_bias.engine.simulate"), "WATCH_SECONDS", 0)
    measured = Waiting.pile

    def counted(waiting: Waiting) -> Pile:
        piles.append(len(waiting))
        return measured(waiting)

    monkeypatch.setattr(Waiting, "pile", counted)
    together = simulate(PROBLEMS[name], lambda _, ratio: told[True].append(ratio))
    assert max(piles) > 20 and sum(piles) == len(together.steps)
    snapshots: list[Any] = []
    piles.clear()
    cut = simulate(PROBLEMS[name], keep=lambda t, snapshot: snapshots.append(deepcopy(snapshot())) if t % 3 == 0 else None)
    assert len(piles) > 3 and sum(piles) == len(cut.steps)
    gone_on = simulate(PROBLEMS[name], resume=snapshots[len(snapshots) // 2])
    monkeypatch.setattr("implicit_bias.engine.recorder.most_waiting", lambda initial: 1)
    piles.clear()
    alone = bits(simulate(PROBLEMS[name], lambda _, ratio: told[False].append(ratio)))
    assert not piles
    assert len(alone) > 8 * len(NORMS)
    np.testing.assert_array_equal(told[True], told[False])
    assert len(told[True]) > 20 and bool(np.isfinite(told[True]).all()) == (name in TOLD)
    for found in (together, cut, gone_on):
        assert bits(found) == alone


class Strided(Twice):
    """What it keeps does not lie together in memory."""

    def keep(self, record: Record) -> Mapping[str, torch.Tensor]:
        return {"q": torch.stack([record.q, record.q], dim=1)[:, 0]}


class Sometimes(Twice):
    """It keeps more in every other ten steps."""

    def keep(self, record: Record) -> Mapping[str, torch.Tensor]:
        return {"q": record.q} | ({"more": record.q} if record.t // 10 % 2 else {})


@pytest.mark.parametrize(("probe", "piles"), [(Strided, 0), (Sometimes, STEPS // 10 + 1)])
def test_records_that_cannot_wait_are_measured_alone_and_others_with_those_they_go_with(
    probe: type[Probe], piles: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bits of records that all wait together; there is another pile whenever something else is kept."""
    expected = simulate(given("muon", probes=(Twice(),)))
    found, measured = list[int](), Waiting.pile

    def counted(waiting: Waiting) -> Pile:
        found.append(len(waiting))
        return measured(waiting)

    monkeypatch.setattr(Waiting, "pile", counted)
    assert bits(simulate(given("muon", probes=(probe(),)))) == bits(expected)
    assert len(found) == piles


def test_columns_of_records_that_wait_are_one_number_a_record_and_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Twice, "under_all", lambda self, pile, *_: {"twice": pile.q[0]})
    with pytest.raises(ValueError, match=r"probe twice: column twice is \(3,\); must be \(\d+, 3\), one number a record and run"):
        simulate(PROBLEMS["levels and stops"])


def test_so_many_records_wait_as_are_small() -> None:
    def of(runs: int, numbers: int) -> int:
        return most_waiting({"weight": torch.empty(runs, 1, numbers)})

    assert of(1, 10) == MOST_RECORDS
    assert of(64, 250) == 16
    assert of(1, MOST_OF_A_RUN) == of(4096, 250) == 1
