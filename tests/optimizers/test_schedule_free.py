"""Schedule-free averaging: against loops of its equations and the authors' package; what is recorded is the average."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from implicit_bias import run
from implicit_bias.config.overrides import compose
from implicit_bias.core.errors import BadInput
from implicit_bias.engine import Problem, simulate
from implicit_bias.engine.snapshot_checks import misfit
from implicit_bias.engine.steppers.base import Setup
from implicit_bias.engine.steppers.choose import choose
from implicit_bias.engine.trajectory import Diverged
from implicit_bias.norms import make_norm
from implicit_bias.optimizers import OPTIMIZERS, Optimizer, Step
from implicit_bias.optimizers.nsd import NSD
from implicit_bias.schedules import SCHEDULES
from tests.engine.test_engine import assert_same_bits, mixtures, one, problem, snapshots_at
from tests.engine.test_native import needs_compiler
from tests.optimizers.test_contract import problem as small_problem

F64 = torch.float64
DATA = mixtures([1, 2, 3], k=3, d=4)
START = {"weight": 0.3 * torch.randn(3, 3, 4, dtype=F64, generator=torch.Generator().manual_seed(5))}


def averaged(
    optimizer: str, steps: int, lr: Any, *, norm: str = "l2", power: Any = 0.0, more: Any = None, **hyper: Any
) -> Problem:
    """Three runs from the same start, every step recorded."""
    keys = {"average": "schedule_free", **hyper}
    given = problem(
        optimizer, DATA, 3, steps, lr, power=power, hyper=keys, norm=make_norm(norm), points=1000, weights="all",
        **{"compile": "off", **(more or {})},
    )  # fmt: skip
    return replace(given, initial=START, measured={label: make_norm(label) for label in dict.fromkeys(("l2", norm))})


def shown(given: Problem) -> list[Tensor]:
    """W after every step, as it is recorded."""
    return [blocks["weight"] for blocks in simulate(replace(given, measured={})).parameters.values()]


def loss_and_gradient(r: int, w: Tensor) -> tuple[float, Tensor]:
    leaf = w.detach().clone().requires_grad_()
    with torch.enable_grad():
        loss = functional.cross_entropy(DATA.x[r] @ leaf.T, DATA.y[r])
        (g,) = torch.autograd.grad(loss, leaf)
    return loss.item(), g


@dataclass
class Loop:
    """The equations with three sequences, one run; ``step`` makes what is subtracted of a gradient, ``rate`` is eta_t of t and
    loss."""

    step: Callable[[Tensor, int], Tensor]
    rate: Callable[[int, float], float]
    interpolation: float = 0.9
    decay: float = 0.0

    def path(self, r: int, steps: int) -> list[Tensor]:
        x = y = z = START["weight"][r]
        weights: list[float] = []
        found = [x]
        for t in range(1, steps + 1):
            loss, g = loss_and_gradient(r, y)
            eta = self.rate(t, loss)
            z = z - eta * self.decay * z - eta * self.step(g, t)
            weights.append(max([eta**2, *weights]))
            c = weights[-1] / sum(weights)
            x = (1 - c) * x + c * z
            y = (1 - self.interpolation) * z + self.interpolation * x
            found.append(x)
        return found


def signs_of_averages(beta: float) -> Callable[[Tensor, int], Tensor]:
    """A maker of steps sign(m_t) for one run."""
    m: list[Tensor] = []

    def step(g: Tensor, t: int) -> Tensor:
        m[:] = [(1 - beta) * g + (beta * m[0] if t > 1 else 0)]
        return m[0].sign()

    return step


def polar(g: Tensor, t: int) -> Tensor:
    u, s, v = torch.linalg.svd(g, full_matrices=False)
    keep = s > 1e-12 * s[0]  # the gradient's columns sum to zero
    factor: Tensor = (u * keep) @ v
    return factor


CASES: dict[str, tuple[Problem, Callable[[], Loop]]] = {
    "constant rate": (averaged("sd", 25, 0.2), lambda: Loop(lambda g, t: g, lambda t, _: 0.2)),
    "falling rate": (averaged("nsd", 25, 0.2, power=0.5, norm="spectral"), lambda: Loop(polar, lambda t, _: 0.2 * t**-0.5)),
    "momentum": (averaged("nmd", 25, 0.1, norm="linf", beta=0.8), lambda: Loop(signs_of_averages(0.8), lambda t, _: 0.1)),
    "interpolation": (averaged("sd", 25, 0.2, interpolation=0.3), lambda: Loop(lambda g, t: g, lambda t, _: 0.2, 0.3)),
    "of the average alone": (averaged("sd", 25, 0.2, interpolation=0.0), lambda: Loop(lambda g, t: g, lambda t, _: 0.2, 0.0)),
    "decay": (
        averaged("nsd", 25, 0.2, norm="linf", weight_decay=0.5),
        lambda: Loop(lambda g, t: g.sign(), lambda t, _: 0.2, decay=0.5),
    ),
    "rising rate": (
        replace(averaged("sd", 20, 0.05), schedule=SCHEDULES.get("loss_based")(lr=0.05)),
        lambda: Loop(lambda g, t: g, lambda t, loss: 0.05 / loss),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_recorded_is_the_average_of_the_equations(case: str) -> None:
    given, loop = CASES[case]
    ours = shown(given)
    for r in range(3):
        for own, expected in zip(ours, loop().path(r, given.steps), strict=True):
            torch.testing.assert_close(own[r], expected, rtol=1e-9, atol=1e-11)


class Signs(torch.optim.Optimizer):
    """A base for the package's wrapper."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                p.data.sub_(p.grad.sign(), alpha=group["lr"])


@pytest.mark.parametrize("power", [0.0, 0.5])
@pytest.mark.parametrize("optimizer", ["sd", "nsd"])
def test_it_is_the_authors_package_step_by_step(optimizer: str, power: float) -> None:
    schedulefree = pytest.importorskip("schedulefree")
    ours = shown(averaged(optimizer, 20, 0.2, power=power, norm="l2" if optimizer == "sd" else "linf", interpolation=0.85))
    weight = torch.nn.Parameter(START["weight"][1].clone())
    if optimizer == "sd":
        theirs = schedulefree.SGDScheduleFree([weight], lr=0.2, momentum=0.85)
    else:
        theirs = schedulefree.ScheduleFreeWrapper(Signs([weight], {"lr": 0.2}), momentum=0.85)
    for t in range(1, 21):
        theirs.train()
        theirs.param_groups[0]["lr"] = 0.2 * t**-power
        weight.grad = loss_and_gradient(1, weight)[1]
        theirs.step()
        theirs.eval()
        torch.testing.assert_close(ours[t][1], weight.data, rtol=1e-10, atol=1e-12)


def test_every_column_of_a_record_is_of_the_parameters_that_are_kept() -> None:
    """Those that run from the kept parameters, without a step, records of them."""
    given = averaged("nmd", 30, 0.3, norm="linf")
    ours = simulate(given)
    for t in (0, 3, 30):
        there = simulate(replace(given, initial=ours.parameters[t], steps=0))
        for key in ("log_loss", "accuracy"):
            np.testing.assert_allclose(ours.common[key][t], there.common[key][0], rtol=1e-12, atol=1e-15)
        for label, columns in there.by_norm.items():
            for key in ("margin", "param_norm", "alignment"):
                np.testing.assert_allclose(ours.by_norm[label][key][t], columns[key][0], rtol=1e-9, atol=1e-12)
    trained = simulate(replace(given, steps=30, optimizer=OPTIMIZERS.get("nmd")()))
    assert not torch.allclose(trained.parameters[30]["weight"], ours.parameters[30]["weight"], rtol=1e-2)


@pytest.mark.parametrize("model", ["linear", "mlp"])
def test_a_batch_is_its_runs_and_a_snapshot_goes_on_to_the_bit(model: str) -> None:
    given = small_problem(OPTIMIZERS.get("nmd")(average="schedule_free"), model, 30, norm=make_norm("linf"), points=12)
    (snapshot,), whole = snapshots_at((17,), given)
    assert misfit(given, snapshot) is None
    assert_same_bits(simulate(given, resume=snapshot), whole)
    schedule = SCHEDULES.get("power")(lr=given.schedule.lr[1:], power=0.5)
    data = replace(given.data, x=given.data.x[1:], y=given.data.y[1:])
    alone = simulate(replace(given, data=data, initial={n: b[1:] for n, b in given.initial.items()}, schedule=schedule))
    for t, blocks in alone.parameters.items():
        for name, block in blocks.items():
            assert torch.equal(block[0], whole.parameters[t][name][1]), (t, name)


def test_runs_of_a_batch_may_differ_in_interpolation() -> None:
    numbers = torch.tensor([0.9, 0.5, 0.0], dtype=F64).reshape(3, 1, 1)
    together = shown(averaged("nsd", 30, 0.2, norm="linf", interpolation=numbers))
    for r, number in enumerate(numbers.flatten().tolist()):
        given = averaged("nsd", 30, 0.2, norm="linf", interpolation=number)
        alone = shown(replace(given, data=one(DATA, r), initial={"weight": START["weight"][r : r + 1]}))
        for own, expected in zip(together, alone, strict=True):
            assert torch.equal(own[r], expected[0])


def test_a_step_that_is_taken_back_leaves_the_average_where_it_was() -> None:
    """First steps that are too long and taken back, until one is kept: from there on it is the run that began with that rate."""
    first = [60.0, 0.1, 25.0]
    schedule = SCHEDULES.get("lyu_li")(lr=torch.tensor(first, dtype=F64), up=1.0, down=2.0)
    ours = simulate(replace(averaged("sd", 40, 1.0), schedule=schedule))
    path = torch.stack([blocks["weight"] for blocks in ours.parameters.values()])
    taken_back = [int((path[:, r] == path[0, r]).flatten(1).all(dim=1).sum()) - 1 for r in range(3)]
    assert taken_back[0] > 0 and taken_back[1] == 0
    for r, back in enumerate(taken_back):
        given = averaged("sd", 20, 1.0)
        begun = replace(schedule, lr=torch.tensor([first[r] / 2**back], dtype=F64))
        fresh = replace(given, schedule=begun, data=one(DATA, r), initial={"weight": START["weight"][r : r + 1]})
        torch.testing.assert_close(path[back : back + 21, r], torch.cat(shown(fresh)), rtol=1e-9, atol=1e-12)


def test_a_ball_that_decay_holds_the_iterate_in_holds_the_average_and_its_gap_is_of_the_average() -> None:
    given = averaged("nsd", 60, 0.5, norm="linf", weight_decay=2.0, power=0.5)
    inside = {"weight": START["weight"] / START["weight"].abs().amax() / 2}
    ours = simulate(replace(given, initial=inside))
    for blocks in ours.parameters.values():
        assert (blocks["weight"].abs() <= 0.5 + 1e-12).all()
    last = simulate(replace(given, initial=ours.parameters[60], steps=0))
    np.testing.assert_allclose(ours.common["fw_gap"][-1], last.common["fw_gap"][0], rtol=1e-9)
    assert (ours.common["fw_gap"] >= -1e-12).all()


def test_it_goes_on_where_the_loss_is_below_every_double() -> None:
    separating = simulate(averaged("sd", 60, 1.0)).parameters[60]["weight"]
    deep = simulate(replace(averaged("nsd", 40, 1.0), initial={"weight": 3e4 * separating}))
    log_loss = deep.common["log_loss"]
    assert (log_loss[0] < -3000).all()
    assert (log_loss[-1] < log_loss[0] - 2).all()
    assert all(
        np.isfinite(column).all() for columns in deep.by_norm.values() for column in (columns["margin"], columns["alignment"])
    )


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_weight_of_the_last_iterate_is_one_over_the_steps_exactly(dtype: torch.dtype) -> None:
    """However many there are, where the rate does not rise: the sum is kept in units of the largest."""
    rule = OPTIMIZERS.get("nsd")(average="schedule_free")
    given = averaged("nsd", 30, 0.2, norm="linf", power=0.3)
    data = replace(given.data, x=given.data.x.to(dtype))
    (snapshot,), _ = snapshots_at((29,), replace(given, data=data, initial={"weight": START["weight"].to(dtype)}))
    mantissa, log_scale = snapshot["state"]["weights"]["all"]
    assert rule.shows_trained is False
    assert mantissa.dtype == dtype and mantissa.flatten().tolist() == [29.0] * 3
    assert log_scale.flatten().tolist() == pytest.approx([2 * math.log(0.2)] * 3, rel=1e-6)


@needs_compiler
@pytest.mark.parametrize("optimizer", ["nsd", "nmd", "sd"])
def test_fast_steps_are_left_to_the_plain_methods(optimizer: str) -> None:
    told: list[str] = []
    for wanted in ("auto", "on"):
        averaging = averaged(optimizer, 5, 0.1, more={"compile": wanted, "tell": told.append})
        choice = choose(Setup.of(averaging))
        assert choice.stepper.stepping == "torch"
        assert "has no steps in C" in choice.refused["c"]
        plain = replace(averaging, optimizer=OPTIMIZERS.get(optimizer)())
        assert choose(Setup.of(plain)).stepper.stepping == "c"
    assert told == [f"steps are not compiled: optimizer={optimizer} looks at more than the gradient; plain steps are taken"]
    both = [simulate(averaged(optimizer, 25, 0.1, norm="linf", more={"compile": c})) for c in ("off", "auto")]
    assert_same_bits(*both)


@pytest.mark.slow
def test_levels_of_the_loss_and_the_end_are_of_what_is_recorded() -> None:
    given = averaged("nsd", 400, 0.3, more={"levels": 2.0, "stop_log_loss": math.log(1e-3)})
    every = simulate(replace(given, levels=0, stop_log_loss=-math.inf)).common["log_loss"]
    ours = simulate(replace(given, points=2))
    for r in range(3):
        steps = np.array(ours.steps)[ours.recorded[:, r]]
        np.testing.assert_array_equal(ours.common["log_loss"][ours.recorded[:, r], r], every[steps, r])
        assert steps[-1] == np.argmax(every[:, r] < math.log(1e-3))
        deepest = np.maximum.accumulate(np.floor(-every[: steps[-1] + 1, r] / (math.log(10) / 2)))
        assert set(np.flatnonzero(np.diff(deepest) > 0) + 1) <= set(steps.tolist())


@dataclass(frozen=True)
class ShowsOthers(NSD):
    """Shows something else than it trains: the parameters times a factor, or of another shape."""

    factor: ClassVar[float] = 2.0

    @property
    def shows_trained(self) -> bool:
        return False

    def shown(self, state: Any, parameters: Any) -> Any:
        return {name: self.factor * block for name, block in parameters.items()}


@dataclass(frozen=True)
class Halves(Optimizer):
    """Writes ``shown`` and nothing beside it."""

    name: ClassVar[str] = "halves"
    own_norm: ClassVar[str | None] = "linf"

    def update(self, state: Any, gradient: Any, t: int, norm: Any) -> tuple[Any, Step]:
        return state, Step(norm.scaled_direction(gradient))

    def shown(self, state: Any, parameters: Any) -> Any:
        return {name: block / 2 for name, block in parameters.items()}


class Misshapen(ShowsOthers):
    def shown(self, state: Any, parameters: Any) -> Any:
        return {name: block[..., :1] for name, block in parameters.items()}


class Beyond(ShowsOthers):
    factor: ClassVar[float] = 1e200


def test_whatever_an_optimizer_shows_is_recorded_kept_checked_and_nothing_of_what_it_trains() -> None:
    given = small_problem(NSD(), norm=make_norm("linf"), points=10, compile="off")
    trained = simulate(given).parameters
    for optimizer, factor in ((ShowsOthers(), 2.0), (Halves(), 0.5)):
        ours = simulate(replace(given, optimizer=optimizer))
        for t, blocks in ours.parameters.items():
            assert torch.equal(blocks["weight"], factor * trained[t]["weight"])
        sizes = [blocks["weight"].flatten(1).norm(dim=1).numpy() for blocks in ours.parameters.values()]
        np.testing.assert_allclose(ours.by_norm["l2"]["param_norm"], sizes, rtol=1e-12)
    with pytest.raises(ValueError, match=r"^what an optimizer shows is of other blocks, shapes or types: weight is"):
        simulate(replace(given, optimizer=Misshapen()))
    with pytest.raises(Diverged):
        simulate(replace(given, optimizer=Beyond()))


def test_a_run_of_the_command_keeps_the_average(tmp_path: Path) -> None:
    typed = ("optimizer=nsd", "norm=linf", "optimizer.average=schedule_free", "steps=40", "reference=none")
    trajectory, _ = run(*typed, results_dir=str(tmp_path))
    (folder,) = (tmp_path / "runs").iterdir()
    weights = np.load(folder / "final.npz")
    size = np.abs(weights["weight"] * np.exp(weights["log_scale"])).max()
    last = trajectory[(trajectory["step"] == 40) & (trajectory["norm"] == "linf")]
    assert size == pytest.approx(float(last["param_norm"].iloc[0]), rel=1e-12)
    assert isinstance(pd.read_csv(folder / "trajectory.csv"), pd.DataFrame)


def test_it_changes_no_hash_where_it_is_not_asked_for() -> None:
    for optimizer in ("nsd", "nmd", "sd"):
        plain, null, averaging, other = (
            compose([f"optimizer={optimizer}", *more])[0].spec.hash()
            for more in (
                [],
                ["optimizer.average=null", "optimizer.interpolation=0.9"],
                ["optimizer.average=schedule_free"],
                ["optimizer.average=schedule_free", "optimizer.interpolation=0.8"],
            )
        )
        assert plain == null and len({plain, averaging, other}) == 3


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (["optimizer.average=polyak"], r"optimizer\.average=polyak: must be null or schedule_free"),
        (
            ["optimizer.interpolation=0.5"],
            r"optimizer\.interpolation=0\.5: is for optimizer\.average=schedule_free only, else 0\.9",
        ),
        (
            ["optimizer.average=schedule_free", "optimizer.interpolation=1"],
            r"optimizer\.interpolation=1: must be a number in \[0",
        ),
        (["optimizer.average=schedule_free", "optimizer.truncate=true"], r"optimizer\.average=schedule_free: must be null with"),
    ],
)
def test_keys_that_do_not_go_together(keys: list[str], line: str) -> None:
    with pytest.raises(BadInput, match=f"^{line}"):
        compose(["optimizer=sd", *keys])
