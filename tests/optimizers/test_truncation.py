"""Truncated steps (Momo, Polyak): against a loop that forms the model, and what follows from the formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torch import Tensor
from torch.nn import functional

from implicit_bias import run
from implicit_bias.config.overrides import compose
from implicit_bias.core.errors import BadInput
from implicit_bias.engine import Problem, simulate
from implicit_bias.engine.steppers.base import Setup
from implicit_bias.engine.steppers.choose import choose
from implicit_bias.norms import make_norm
from implicit_bias.optimizers import OPTIMIZERS
from implicit_bias.schedules import SCHEDULES
from tests.engine.test_engine import assert_same_bits, mixtures, one, problem, snapshots_at
from tests.engine.test_native import needs_compiler

F64 = torch.float64
DATA = mixtures([1, 2, 3], k=3, d=4)
#: Weights that are not zero, so that <g, w> is not.
START = {"weight": 0.3 * torch.randn(3, 3, 4, dtype=F64, generator=torch.Generator().manual_seed(5))}
METHODS = ("sd", "scion", "muon_max", "polar_grad", "muon_adam")


def truncated(optimizer: str, steps: int, lr: Any, *, norm: str = "l2", start: Any = START, **hyper: Any) -> Problem:
    """Constant steps of three runs from the same start."""
    named = make_norm(norm) if OPTIMIZERS.get(optimizer).reads_norm() else None
    keys = {"truncate": True, **hyper}
    # Every step is recorded, for its weights and its loss; what margins are is tested elsewhere.
    more: dict[str, Any] = {"points": 1000, "weights": "all", "compile": "off", "logged": ()}
    given = problem(optimizer, DATA, 3, steps, lr, power=0.0, hyper=keys, norm=named, **more)
    return replace(given, initial=start)


def momo(x: Tensor, y: Tensor, w: Tensor, steps: int, lr: float, beta: float, lower: float) -> list[Tensor]:
    """MoMo as Schaipp et al. write it (arXiv 2305.07583, Algorithm 1), from the first gradient."""
    d, f, gamma, path = torch.zeros_like(w), 0.0, 0.0, []
    for t in range(steps):
        leaf = w.clone().requires_grad_()
        loss = functional.cross_entropy(x @ leaf.T, y)
        (g,) = torch.autograd.grad(loss, leaf)
        past = beta if t else 0.0
        d, f = past * d + (1 - past) * g, past * f + (1 - past) * loss.item()
        gamma = past * gamma + (1 - past) * float((g * w).sum())
        tau = min(lr, max(f + float((d * w).sum()) - gamma - lower, 0.0) / float((d * d).sum()))
        w = w - tau * d
        path.append(w)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("lr", [0.05, 2.0, math.inf])
@pytest.mark.parametrize("lower", [0.0, 0.2])
@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_in_l2_it_is_momo_step_by_step(lr: float, lower: float, beta: float) -> None:
    # Polyak's steps without an average zigzag, and amplify round-off tenfold every few steps.
    first, steps = ({"first": "gradient"}, 60) if beta else ({}, 10)
    ours = simulate(truncated("sd", steps, lr, beta=beta, lower=lower, **first)).parameters
    for r in range(3):
        for t, w in enumerate(momo(DATA.x[r], DATA.y[r], START["weight"][r], steps, lr, beta, lower), 1):
            torch.testing.assert_close(ours[t]["weight"][r], w, rtol=1e-11, atol=1e-12)


def test_an_average_from_zero_has_a_model_from_zero() -> None:
    """Where eta bounds nothing the weights' sum cancels: the averages may be divided by 1 - beta^t, or not."""
    given = truncated("sd", 40, math.inf, beta=0.8)
    ours = simulate(given).parameters
    w = START["weight"][0]
    d, model = torch.zeros_like(w), 0.0
    for t in range(1, 41):
        leaf = w.clone().requires_grad_()
        loss = functional.cross_entropy(DATA.x[0] @ leaf.T, DATA.y[0])
        (g,) = torch.autograd.grad(loss, leaf)
        d = 0.8 * d + 0.2 * g
        model = 0.8 * model + 0.2 * (loss.item() - float((g * w).sum()))
        share = 1 - 0.8**t
        w = w - max((model + float((d * w).sum())) / share, 0) / float((d / share).square().sum()) * d / share
        torch.testing.assert_close(ours[t]["weight"][0], w, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("norm", ["l2", "linf", "spectral", "hybrid2-l2-linf"])
def test_polyaks_step_is_as_long_as_the_loss_over_the_dual_norm(norm: str) -> None:
    given = truncated("sd", 12, math.inf, norm=norm)
    setup, ours = Setup.of(given), simulate(given)
    for t in range(12):
        before, after = ours.parameters[t], ours.parameters[t + 1]
        gradient = setup.objective.gradient(before)
        plain = {name: g.relative_to(torch.zeros(())) for name, g in gradient.blocks.items()}
        length = setup.geometry.value({name: after[name] - before[name] for name in before})
        torch.testing.assert_close(length, gradient.log_loss.exp() / setup.geometry.dual(plain), rtol=1e-9, atol=1e-12)


def test_a_bound_above_the_loss_is_where_steps_end() -> None:
    """The loss is convex, so that a step to where its tangent is the bound leads to no less than that."""
    losses = simulate(truncated("sd", 200, math.inf, lower=0.3)).common["log_loss"]
    assert (np.exp(losses) >= 0.3 - 1e-12).all()
    assert np.exp(losses[-1]) == pytest.approx([0.3] * 3, rel=1e-3)
    low = simulate(truncated("sd", 5, math.inf, lower=50.0))
    torch.testing.assert_close(low.parameters[5], START, rtol=0, atol=0)  # below its bound already: it stays


@pytest.mark.parametrize("optimizer", METHODS)
def test_a_small_rate_is_never_truncated_and_a_large_one_always(optimizer: str) -> None:
    kept: dict[str, Any] = {"beta": 0.95, "beta1": 0.95} if optimizer == "muon_adam" else {"beta": 0.95}
    small = simulate(truncated(optimizer, 10, 1e-4, **kept)).parameters[10]
    plain = simulate(truncated(optimizer, 10, 1e-4, **kept, truncate=False)).parameters[10]
    torch.testing.assert_close(small, plain, rtol=1e-12, atol=1e-14)
    large, infinite = (simulate(truncated(optimizer, 10, lr, **kept)).parameters[10] for lr in (1e30, math.inf))
    torch.testing.assert_close(large, infinite, rtol=0, atol=0)


@cache
def separating() -> Tensor:
    """Weights that separate every run's data."""
    return simulate(truncated("sd", 60, math.inf)).parameters[60]["weight"]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", METHODS)
@pytest.mark.parametrize("stale", [False, True])
def test_it_goes_on_where_the_loss_is_below_every_double(optimizer: str, stale: bool) -> None:
    """From a separating point scaled up; the model there is as exact as the logarithm of the loss."""
    deep = simulate(truncated(optimizer, 60, math.inf, start={"weight": 3000 * separating()}, stale=stale))
    log_loss = deep.common["log_loss"]
    assert (log_loss[0] < -3000).all()
    assert (log_loss[-1] < log_loss[0] - 2).all()
    assert np.isfinite(log_loss).all()


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", METHODS)
@pytest.mark.parametrize("keys", [{}, {"stale": True, "lower": 1e-3}])
def test_a_batch_is_its_runs_and_a_snapshot_goes_on_to_the_bit(optimizer: str, keys: dict[str, Any]) -> None:
    first = {"published": True} if optimizer == "muon_adam" else {"beta": 0.9, "first": "gradient"}
    batch = truncated(optimizer, 20, math.inf, **keys, **first)
    (snapshot,), whole = snapshots_at((9,), batch)
    assert_same_bits(simulate(batch, resume=snapshot), whole)
    for r in (0, 2):
        alone = simulate(replace(batch, data=one(DATA, r), initial={"weight": START["weight"][r : r + 1]}))
        for t, blocks in alone.parameters.items():
            assert torch.equal(blocks["weight"][0], whole.parameters[t]["weight"][r]), t


def test_steps_that_are_taken_back_take_the_model_back() -> None:
    """Polyak's steps in the max-norm are too long now and then; those go back, with momentum and model."""
    given = truncated("sd", 40, math.inf, norm="linf", beta=0.3)
    losses = simulate(replace(given, schedule=SCHEDULES.get("lyu_li")(lr=math.inf))).common["log_loss"]
    assert (np.diff(losses, axis=0) <= 0).all()
    assert (np.diff(losses, axis=0) == 0).any()
    assert (np.diff(simulate(given).common["log_loss"], axis=0) > 0).any()


@pytest.mark.parametrize(
    ("keys", "stepping"),
    [
        ({}, "c"),
        ({"beta": 0.5}, "c"),
        ({"truncate": True}, "torch"),
        ({"clip": 0.1}, "c"),
        ({"beta": 0.5, "first": "gradient"}, "c"),
    ],
)
@needs_compiler
def test_it_takes_plain_steps_and_descent_as_it_was_those_in_c(keys: dict[str, Any], stepping: str) -> None:
    given = truncated("sd", 5, 0.1, **{"truncate": False, **keys})
    assert choose(Setup.of(replace(given, compile="auto"))).stepper.stepping == stepping


def test_clipped_steps_are_no_longer_than_the_clip() -> None:
    given = truncated("sd", 30, 0.5, truncate=False, clip=0.4, norm="spectral")
    free, path = truncated("sd", 30, 0.5, truncate=False, norm="spectral"), simulate(given).parameters
    value: Callable[[Any], Tensor] = Setup.of(given).geometry.value
    lengths = torch.stack([value({"weight": path[t + 1]["weight"] - path[t]["weight"]}) for t in range(30)])
    assert lengths.max() == pytest.approx(0.2, rel=1e-12)
    assert lengths.min() < 0.19
    unclipped = simulate(replace(free, initial=path[29], steps=1)).parameters[1]
    torch.testing.assert_close(unclipped["weight"][lengths[29] < 0.19], path[30]["weight"][lengths[29] < 0.19])


TYPED = ["optimizer=sd", "norm=spectral", "optimizer.truncate=true", "optimizer.beta=0.95", "steps=20", "reference=none"]


def test_an_infinite_rate_goes_through_configuration_hash_and_files(tmp_path: Path) -> None:
    spec = compose([*TYPED, "schedule.lr=inf"])[0].spec
    assert spec.schedule.lr == math.inf
    hashes = {compose([*TYPED, f"schedule.lr={lr}"])[0].spec.hash() for lr in ("auto", "1e308", "inf")}
    assert spec.hash() in hashes and len(hashes) == 3
    assert yaml.safe_load(yaml.safe_dump(spec.config_yaml))["schedule"]["lr"] == math.inf
    trajectory, _ = run(*TYPED, "schedule.lr=inf", results_dir=str(tmp_path))
    assert (trajectory.loc[trajectory["step"] > 0, "lr"] == math.inf).all()
    (file,) = tmp_path.glob("runs/*/trajectory.csv")
    assert (pd.read_csv(file)["lr"].dropna() == math.inf).all()


@pytest.mark.parametrize("optimizer", sorted(set(OPTIMIZERS) - {"torch"}))
def test_an_infinite_rate_is_for_truncated_steps_alone(optimizer: str) -> None:
    with pytest.raises(BadInput, match=r"^schedule\.lr=inf: must be .* or a number > 0; inf is for optimizer\.truncate=true of"):
        compose([f"optimizer={optimizer}", "schedule.lr=inf"])
    if optimizer in METHODS:
        assert compose([f"optimizer={optimizer}", "schedule.lr=inf", "optimizer.truncate=true"])


@pytest.mark.parametrize(
    ("name", "keys", "line"),
    [
        ("sd", {"stale": True}, "optimizer.stale=true: is for optimizer.truncate=true only"),
        ("scion", {"lower": 0.1}, "optimizer.lower=0.1: is for optimizer.truncate=true only"),
        ("scion", {"truncate": True, "nesterov": True}, "optimizer.nesterov=true: must be false with optimizer.truncate=true"),
        ("sd", {"truncate": True, "weight_decay": 0.1}, "optimizer.weight_decay=0.1: must be 0 with optimizer.truncate=true"),
        ("sd", {"truncate": True, "clip": 2.0}, "optimizer.clip=2: must be null with optimizer.truncate=true"),
        ("sd", {"first": "gradient"}, "optimizer.first=gradient: is for optimizer.beta > 0"),
        ("muon_adam", {"truncate": True, "beta1": 0.8}, "optimizer.beta1=0.8: must be optimizer.beta=0.9 with"),
    ],
)
def test_keys_that_do_not_go_together(name: str, keys: dict[str, Any], line: str) -> None:
    with pytest.raises(BadInput, match=f"^{line}"):
        OPTIMIZERS.get(name)(**keys)
