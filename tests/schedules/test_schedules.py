"""Schedules that look at what a step has led to: a user's own is rolled back and scaled as Lyu and Li's is."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from implicit_bias.engine import Problem, simulate
from implicit_bias.engine.snapshot_checks import misfit
from implicit_bias.optimizers.gd import GD
from implicit_bias.schedules import SCHEDULES, Evaluation, LossBased, Schedule, ScheduleState
from tests.engine.test_engine import assert_same_bits, mixtures, network_problem
from tests.engine.test_engine import problem as linear_problem
from tests.support.optimizer_steps import step_with


@dataclass(frozen=True)
class Halving(Schedule):
    """eta halves, for good, whenever a step does not lower the loss; that step is taken back."""

    name: ClassVar[str] = "halving"

    def log_relative(self, t: int) -> float:
        return 0.0

    def init(self, like: Tensor) -> ScheduleState:
        return {"halvings": torch.zeros_like(like)}

    def log_lr(self, t: int, log_loss: Tensor | None = None, state: ScheduleState | None = None) -> Tensor:
        return super().log_lr(t) - (0 if state is None else state["halvings"]) * float(np.log(2))

    def accept(self, state: ScheduleState, before: Evaluation, after: Evaluation) -> tuple[Tensor, ScheduleState]:
        kept = after.log_loss < before.log_loss
        return kept, {"halvings": state["halvings"] + (~kept).to(state["halvings"])}


@dataclass(frozen=True)
class Another(Schedule):
    """Lyu and Li's schedule as a user would write it."""

    name: ClassVar[str] = "another"
    per_loss: ClassVar[bool] = True

    def log_relative(self, t: int) -> float:
        return 0.0

    def init(self, like: Tensor) -> ScheduleState:
        return {"next": torch.zeros_like(like), "last": torch.zeros_like(like)}

    def log_lr(self, t: int, log_loss: Tensor | None = None, state: ScheduleState | None = None) -> Tensor:
        assert state is not None
        return super().log_lr(t, log_loss) + state["next"]

    def accept(self, state: ScheduleState, before: Evaluation, after: Evaluation) -> tuple[Tensor, ScheduleState]:
        kept = after.log_loss < before.log_loss
        up, down = (torch.tensor(2.0**power, dtype=torch.float64).log() for power in (0.2, 0.1))
        return kept, {"next": state["next"] + torch.where(kept, up, -down), "last": state["next"]}

    def recorded(self, t: int, like: Tensor, state: ScheduleState | None = None) -> Tensor:
        assert state is not None
        return super().recorded(t, like) * state["last"].exp()


def by_hand(given: Problem, run: int) -> list[np.ndarray]:
    """Parameters after every step of one run, by a loop that halves."""
    alone = given.at(torch.tensor([run]))
    objective = alone.model.objective(alone.data, alone.loss, alone.frozen)
    geometry = alone.optimizer.geometry(["weight"], None, alone.model.row_bases(alone.data))
    w, lr = alone.initial, float(torch.as_tensor(alone.schedule.lr).flatten()[0])
    gradient = objective.gradient(w)
    state, found = alone.optimizer.init(gradient.blocks), [w["weight"][0].numpy()]
    for t in range(1, given.steps + 1):
        new_state, step = step_with(alone.optimizer, state, gradient.blocks, t, geometry)
        size = lr * (1.0 if step.log_size is None else step.log_size.exp())
        there = {"weight": w["weight"] - size * step.direction["weight"]}
        new = objective.gradient(there)
        if bool(new.log_loss < gradient.log_loss):
            w, gradient, state = there, new, new_state
        else:
            lr /= 2
        found.append(w["weight"][0].numpy())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["gd", "momentum_gd", "signum", "muon"])
def test_a_schedule_of_ones_own_takes_steps_back_with_their_buffers(optimizer: str) -> None:
    lr = torch.tensor([0.05, 3.0, 40.0], dtype=torch.float64)
    given = linear_problem(optimizer, mixtures([1, 2, 3], noise=3.0), 3, 40, lr, weights="all", points=500)
    given = replace(given, schedule=Halving(lr=lr))
    ours = simulate(given)
    assert (np.diff(ours.common["log_loss"], axis=0) <= 0).all()
    assert ours.stepping_refused["c"] == "schedule=halving has no steps in C"
    taken_back = 0
    for run in range(3):
        known = by_hand(given, run)
        for t in range(given.steps + 1):
            np.testing.assert_allclose(ours.parameters[t]["weight"][run], known[t], rtol=1e-9, atol=1e-12)
            taken_back += t > 0 and np.array_equal(known[t], known[t - 1])
    assert taken_back > 5


@pytest.mark.slow
def test_lyu_lis_schedule_written_anew_has_the_same_bits() -> None:
    theirs = network_problem("lyu_li", levels=2.0)
    ours = replace(theirs, schedule=Another(lr=theirs.schedule.lr))
    assert Another.backs_off and not LossBased.backs_off
    assert_same_bits(simulate(theirs), simulate(ours))


def test_what_a_schedule_remembers_is_in_the_snapshot_and_checked() -> None:
    given = linear_problem("gd", mixtures([1, 2, 3]), 3, 30, 5.0)
    given = replace(given, schedule=Halving(lr=5.0))
    snapshots: dict[int, Any] = {}
    undisturbed = simulate(given, keep=lambda t, snapshot: snapshots.update({t: deepcopy(snapshot())}))
    assert_same_bits(simulate(given, resume=snapshots[17]), undisturbed)
    kept = snapshots[17]
    assert misfit(given, kept) is None
    for wrong in ({}, {"halvings": torch.zeros(2)}, {"halvings": torch.zeros(3)}, {"others": kept["schedule"]["halvings"]}):
        assert misfit(given, {**kept, "schedule": wrong}) == "of another form (schedule)"


@dataclass(frozen=True)
class Elsewhere(GD):
    """An optimizer whose state is an object of its own."""

    foreign_state: ClassVar[bool] = True


def test_whether_a_schedule_takes_steps_back_is_seen_from_what_it_writes() -> None:
    assert {name for name in SCHEDULES if SCHEDULES.get(name).backs_off} == {"lyu_li"}
    given = linear_problem("gd", mixtures([1]), 1, 5, 0.1)
    with pytest.raises(ValueError, match="its state cannot be rolled back, as the schedule asks"):
        simulate(replace(given, optimizer=Elsewhere(), schedule=Halving(lr=0.1)))


def test_schedules_are_importable_from_the_package_by_their_names() -> None:
    for name in SCHEDULES:
        assert SCHEDULES.get(name).__module__ == f"implicit_bias.schedules.{name}"
    assert SCHEDULES.names() == ["as_given", "constant", "edge", "loss_based", "lyu_li", "power"]


@pytest.mark.parametrize("given", [torch.tensor(True), torch.ones(1, 2, dtype=torch.bool), torch.ones(2), True])
def test_truth_values_of_another_shape_are_refused(given: Any) -> None:
    @dataclass(frozen=True)
    class Wrong(Halving):
        def accept(self, state: ScheduleState, before: Evaluation, after: Evaluation) -> tuple[Tensor, ScheduleState]:
            return given, state

    problem = linear_problem("gd", mixtures([1, 2]), 2, 3, 0.1)
    with pytest.raises(ValueError, match=r"accept gives .* must be truth values of shape \(runs,\)"):
        simulate(replace(problem, schedule=Wrong(lr=0.1), compile="off"))
