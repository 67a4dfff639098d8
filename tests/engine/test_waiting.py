"""Records that wait for the norms, several measured together: the bits of records that are measured one by one."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional

from implicit_bias.engine import Problem, Trajectory, simulate
from implicit_bias.engine.mini_batches import mini_batches
from implicit_bias.engine.waiting import Waiting
from implicit_bias.measures.margins import Optimum
from implicit_bias.measures.probe import Pile
from implicit_bias.models import Data
from implicit_bias.norms import make_norm
from implicit_bias.optimizers import OPTIMIZERS
from implicit_bias.schedules import SCHEDULES
from tests.engine.test_native import gaussian, problem

RUNS, STEPS = 3, 90
# From entries, from singular values, with exponents, and by methods of a norm's own.
NORMS = ("linf", "l1", "l2", "spectral", "nuclear", "schatten1.5", "lp3", "row", "hybrid0.5")


def given(rule: str, **more: Any) -> Problem:
    """Of separable data, so that losses fall through levels, with references of some norms."""
    data = gaussian(3, 5, 24, RUNS)
    made = problem(rule, Data(data.x + 4 * functional.one_hot(data.y, 5), data.y, 3), STEPS, RUNS)
    best = torch.tensor([1.0, torch.nan, 2.0], dtype=torch.float64)
    optima = {"linf": Optimum(best, made.initial), "spectral": Optimum(best)}
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
    "levels and stops": given("muon", levels=3, stop_log_loss=-6.0),
    "deep": replace(given("signgd"), schedule=SCHEDULES.get("constant")(lr=30.0)),
    "mini-batches, pairs": accelerated(batch=mini_batches(5, "reshuffle", torch.arange(RUNS), 24)),
    "pairs": accelerated(levels=2),
    "plain": given("adam", compile="off"),
    "float32": in_float32(given("muon")),
}


def bits(found: Trajectory) -> dict[str, bytes]:
    columns = {("", key): column for key, column in found.common.items()}
    columns |= {(label, key): column for label, of in found.by_norm.items() for key, column in of.items()}
    return {"/".join(key): column.tobytes() for key, column in columns.items()} | {"recorded": found.recorded.tobytes()}


@pytest.mark.parametrize("name", PROBLEMS)
def test_records_measured_together_have_the_bits_of_records_measured_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In piles that are full, and in some that a snapshot cuts short, from which another batch goes on."""
    piles: list[int] = []
    measured = Waiting.pile

    def counted(waiting: Waiting) -> Pile:
        piles.append(len(waiting))
        return measured(waiting)

    monkeypatch.setattr(Waiting, "pile", counted)
    together = simulate(PROBLEMS[name])
    assert max(piles) > 20 and sum(piles) == len(together.steps)
    snapshots: list[Any] = []
    piles.clear()
    cut = simulate(PROBLEMS[name], keep=lambda t, snapshot: snapshots.append(deepcopy(snapshot())) if t % 3 == 0 else None)
    assert len(piles) > 3 and sum(piles) == len(cut.steps)
    gone_on = simulate(PROBLEMS[name], resume=snapshots[len(snapshots) // 2])
    monkeypatch.setattr("implicit_bias.engine.recorder.most_waiting", lambda initial: 1)
    piles.clear()
    alone = bits(simulate(PROBLEMS[name]))
    assert not piles
    assert len(alone) > 8 * len(NORMS)
    for found in (together, cut, gone_on):
        assert bits(found) == alone
