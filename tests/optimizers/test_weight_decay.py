"""Decoupled weight decay: by other people's optimizers and plain loops, on every method that has it, and where it is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from implicit_bias.config.overrides import compose
from implicit_bias.config.spec import config_hash
from implicit_bias.core.errors import BadInput
from implicit_bias.core.registry import hyper_fields
from implicit_bias.core.scaled import Scaled
from implicit_bias.engine import Problem, Trajectory, simulate
from implicit_bias.losses import LOSSES
from implicit_bias.models import MODELS, Data
from implicit_bias.norms import make_norm
from implicit_bias.optimizers import OPTIMIZERS
from implicit_bias.run import main
from implicit_bias.schedules import SCHEDULES
from tests.support.optimizer_steps import step_with

#: All that have the key.
DECAYED = [name for name in OPTIMIZERS if "weight_decay" in hyper_fields(OPTIMIZERS.get(name))]
WITHOUT = {"dual_acceleration", "fromage", "lars", "mirror", "momentum_gd", "prodigy", "torch"}
K, D, N = 4, 6, 20
DECAY, RATE = 0.3, 0.2


def data(runs: int = 1) -> Data:
    rng = np.random.RandomState(0)
    y = np.tile(np.arange(K).repeat(N // K), (runs, 1))
    x = rng.randn(runs, K, D)[np.arange(runs)[:, None], y] + 0.3 * rng.randn(runs, N, D)
    return Data(torch.tensor(x), torch.tensor(y), K)


def problem(name: str, runs: int = 1, steps: int = 25, decay: Any = DECAY, model: str = "linear", **more: Any) -> Problem:
    made = MODELS.get(model)(**({"init": "gaussian", "init_scale": 0.5} if model == "linear" else {"width": 5}))
    numbers = more.pop("numbers", {})
    optimizer, samples = OPTIMIZERS.get(name)(weight_decay=decay, **numbers), data(runs)
    working = make_norm(optimizer.own or "row")
    return Problem(
        model=made,
        loss=LOSSES.get("cross_entropy")(),
        optimizer=optimizer,
        schedule=SCHEDULES.get("power")(lr=more.pop("lr", RATE), power=0.5),
        data=samples,
        initial=made.initial(samples, range(1, runs + 1)),
        steps=steps,
        norm=working if optimizer.reads_norm() else None,
        measured={working.label: working},
        weights="all",
        **more,
    )


def last(trajectory: Trajectory) -> dict[str, Tensor]:
    return trajectory.parameters[max(trajectory.parameters)]


# --- what others make of it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", ["off", "auto"])
def test_adam_is_torch_optim_adamw(compiled: Any) -> None:
    """Its eps is added to sqrt(v^), as ours; gradients are of a size at which both see it alike."""
    given = problem("adam", numbers={"eps": 1e-8, "beta2": 0.999}, lr=0.05, compile=compiled)
    given = replace(given, schedule=SCHEDULES.get("constant")(lr=0.05))
    w = torch.nn.Parameter(given.initial["weight"][0].clone())
    theirs = torch.optim.AdamW([w], lr=0.05, betas=(0.9, 0.999), eps=1e-8, weight_decay=DECAY)
    for _ in range(given.steps):
        theirs.zero_grad()
        torch.nn.functional.cross_entropy(given.data.x[0] @ w.T, given.data.y[0]).backward()
        theirs.step()
    torch.testing.assert_close(last(simulate(given))["weight"][0], w.detach(), rtol=1e-11, atol=1e-12)


def polar(m: np.ndarray) -> np.ndarray:
    u, s, vt = np.linalg.svd(m, full_matrices=False)
    kept = s > 1e-10 * s[0]
    return np.asarray(u[:, kept] @ vt[kept])


#: The direction that a gradient or its average is turned into, and beta.
LOOPS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
    "signgd": (np.sign, 0.0),
    "signum": (np.sign, 0.9),
    "ngd": (lambda g: g / np.linalg.norm(g), 0.0),
    "muon": (polar, 0.9),
    "gd": (lambda g: g, 0.0),
}


@pytest.mark.parametrize("compiled", ["off", "auto"])
@pytest.mark.parametrize("name", LOOPS)
def test_steps_are_those_of_a_plain_loop(name: str, compiled: Any) -> None:
    given = problem(name, compile=compiled)
    direction, beta = LOOPS[name]
    x, y, w = given.data.x[0].numpy(), given.data.y[0].numpy(), given.initial["weight"][0].numpy().copy()
    m = np.zeros_like(w)
    for t in range(1, given.steps + 1):
        scores = x @ w.T
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        m = beta * m + (1 - beta) * (p - np.eye(K)[y]).T @ x / N
        eta = RATE / t**0.5
        w = (1 - eta * DECAY) * w - eta * direction(m)
    np.testing.assert_allclose(last(simulate(given))["weight"][0].numpy(), w, rtol=1e-9, atol=1e-11)


# --- every method that has it ----------------------------------------------------------------------------------------


def test_who_has_it() -> None:
    assert {name for name in OPTIMIZERS if name not in DECAYED} == WITHOUT


@pytest.mark.parametrize("name", DECAYED)
def test_a_step_is_that_without_decay_and_keeps_less_of_the_weights(name: str) -> None:
    """Also of an optimizer that writes step_from anew; with a rate and a decay of each run's own, and at any depth."""
    plain: Any = OPTIMIZERS.get(name)()
    geometry = plain.geometry(["weight"], make_norm("row"))
    generator = torch.Generator().manual_seed(0)
    g = {
        "weight": Scaled(torch.randn(2, K, D, dtype=torch.float64, generator=generator), torch.full((2, K, 1), -5000.0).double())
    }
    theta = {"weight": torch.randn(2, K, D, dtype=torch.float64, generator=generator)}
    decay, lr = torch.tensor([0.5, 0.0]).double()[:, None, None], torch.tensor([0.5, 1.0]).double()
    _, without = step_with(plain, plain.init(g), g, 1, geometry, theta, lr)
    _, step = step_with(replace(plain, weight_decay=decay), plain.init(g), g, 1, geometry, theta, lr)
    assert without.keep is None
    assert torch.equal(torch.as_tensor(step.keep).expand(2, 1, 1).flatten(), torch.tensor([0.75, 1.0]).double())
    assert torch.equal(step.direction["weight"], without.direction["weight"])
    assert (step.log_size is None) == (without.log_size is None)


@pytest.mark.slow
@pytest.mark.parametrize("name", DECAYED)
def test_runs_are_the_same_alone_and_after_a_kill_and_none_is_that_without_the_key(name: str) -> None:
    decay = torch.tensor([0.4, 0.0, 1.0]).double()[:, None, None]
    given = problem(name, runs=3, steps=16, decay=decay, compile="off")
    snapshots: dict[int, Any] = {}
    whole = simulate(given, keep=lambda t, snapshot: snapshots.update({t: snapshot()} if t == 9 else {}))
    again = last(simulate(given, resume=snapshots[9]))
    assert torch.equal(last(whole)["weight"], again["weight"])
    for run in (1, 2):
        alone = replace(given.at(torch.tensor([run])), optimizer=OPTIMIZERS.get(name)(weight_decay=float(decay[run])))
        assert torch.equal(last(simulate(replace(alone, measured=given.measured)))["weight"][0], last(whole)["weight"][run])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["signum", "nmgd", "muon"])
def test_networks_shrink_alike_and_stay_in_the_ball(name: str) -> None:
    """N(theta) <= 1 / weight_decay from the first step that leads there: steps are those of Frank-Wolfe."""
    given = problem(name, runs=2, model="mlp", decay=2.0, steps=60, points=60, lr=0.4)
    together = simulate(given)
    for run in range(2):
        alone = last(simulate(replace(given.at(torch.tensor([run])), measured=given.measured)))
        for block, value in last(together).items():
            torch.testing.assert_close(value[run], alone[block][0], rtol=1e-9, atol=1e-11)
    sizes = together.by_norm[together.own]["param_norm"] * 2.0
    later = sizes[np.argmax((sizes <= 1).all(axis=1)) :]
    assert len(later) > 30 and (later <= 1 + 1e-12).all()


# --- the key ---------------------------------------------------------------------------------------------------------


def test_without_decay_a_run_has_the_hash_it_had() -> None:
    def hash_of(typed: str) -> str:
        (cell,) = compose(typed.split())
        return cell.spec.hash()

    for name in ("adam", "muon", "gd"):
        (cell,) = compose([f"optimizer={name}"])
        config = cell.spec.canonical
        assert list(config["optimizer"])[-1] == "weight_decay"
        del config["optimizer"]["weight_decay"]
        assert cell.spec.hash() == config_hash(config) == hash_of(f"optimizer={name} optimizer.weight_decay=0")
        assert cell.spec.hash() != hash_of(f"optimizer={name} optimizer.weight_decay=0.01")


REFUSED = {
    "optimizer=signgd schedule.lr=1 optimizer.weight_decay=1.5": (
        "optimizer.weight_decay=1.5: times the first step size, 1, must be at most 1; allowed: at most 1, or a smaller"
        " schedule.lr"
    ),
    "optimizer=gd schedule=loss_based optimizer.weight_decay=0.1": (
        "schedule=loss_based: its steps grow as the loss falls, and times optimizer.weight_decay=0.1 none may exceed 1; allowed:"
        " schedule=constant or power, or optimizer="
    ),
    "optimizer=sd schedule=lyu_li optimizer.weight_decay=0.1": "schedule=lyu_li: its steps grow as the loss falls",
    "optimizer=momentum_gd optimizer.weight_decay=0.1": "optimizer.weight_decay=0.1: optimizer=momentum_gd has no such key;",
    "optimizer=torch optimizer.weight_decay=0.1": "optimizer.weight_decay=0.1: optimizer=torch has no such key;",
    "optimizer=adam optimizer.weight_decay=-1": "optimizer.weight_decay=-1: must be a number >= 0",
}


@pytest.mark.parametrize("typed", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(typed: str) -> None:
    with pytest.raises(BadInput) as raised:
        compose(typed.split())
    assert str(raised.value).startswith(REFUSED[typed]) and "\n" not in str(raised.value)


def test_the_first_step_of_frank_wolfe_is_allowed_whatever_the_rounding() -> None:
    for decay in (0.1, 0.3, 1 / 7, 49.0):
        compose(["optimizer=ngd", f"schedule.lr={1 / decay!r}", f"optimizer.weight_decay={decay!r}"])


def test_an_automatic_rate_is_held_against_the_decay_once_it_is_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["dataset.num_classes=3", "dataset.dim=5", "steps=5", "reference=none", "progress=off", f"results_dir={tmp_path}"]
    assert main(["optimizer=signgd", "optimizer.weight_decay=1000", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "optimizer.weight_decay=1000: times the first step size, " in line and "must be at most 1; allowed: at most " in line
    assert not list(tmp_path.glob("runs/*"))
    assert main(["optimizer=signgd", "optimizer.weight_decay=0.5", *words]) == 0
