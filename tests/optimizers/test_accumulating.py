"""Fromage, LARS, Shampoo, SOAP and Prodigy: step by step with packages that others wrote, and closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from implicit_bias.config.overrides import compose
from implicit_bias.core.scaled import Scaled
from implicit_bias.engine import simulate
from implicit_bias.optimizers import OPTIMIZERS, Optimizer
from implicit_bias.schedules import SCHEDULES
from tests.optimizers.test_contract import kept, problem, same
from tests.support.optimizer_steps import step_with

K, D, STEPS = 3, 5, 150
#: A few times the largest differences measured: round-off of 150 steps.
CLOSE = {"fromage": 1e-13, "lars": 1e-13, "shampoo": 1e-12, "prodigy": 1e-11}
NEW: dict[str, Optimizer] = {
    "fromage": OPTIMIZERS.get("fromage")(),
    "lars": OPTIMIZERS.get("lars")(),
    "average": OPTIMIZERS.get("shampoo")(accumulation="average"),
    "sum": OPTIMIZERS.get("shampoo")(accumulation="sum"),
    "ridge": OPTIMIZERS.get("shampoo")(eps=1e-3, exponent=0.5),
    "soap": OPTIMIZERS.get("soap")(),
    "prodigy": OPTIMIZERS.get("prodigy")(d0=1e-2),
    "prodigy without averages": OPTIMIZERS.get("prodigy")(d0=1e-2, ema=False),
}


def scaled(mantissa: Tensor, log_scale: float) -> Scaled:
    return Scaled(mantissa, torch.full_like(mantissa[..., :1], log_scale))


def theirs(make: Callable[[list[Tensor]], torch.optim.Optimizer], start: Tensor, x: Tensor, y: Tensor) -> list[Tensor]:
    w = start.clone().requires_grad_()
    optimizer, path = make([w]), []
    for _ in range(STEPS):
        optimizer.zero_grad()
        functional.cross_entropy(x @ w.T, y).backward()
        optimizer.step()
        path.append(w.detach().clone())
    return path


PACKAGES: dict[str, tuple[Optimizer, float, str, str, dict[str, Any]]] = {
    "fromage": (NEW["fromage"], 0.01, "pytorch_optimizer", "Fromage", {"lr": 0.01}),
    "lars": (
        NEW["lars"], 0.01, "pytorch_optimizer", "LARS",
        {"lr": 1.0, "momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "trust_coefficient": 0.01},
    ),
    "shampoo": (
        OPTIMIZERS.get("shampoo")(accumulation="sum", eps=1e-6), 0.1, "pytorch_optimizer", "Shampoo",
        {"lr": 0.1, "momentum": 0.0, "preconditioning_compute_steps": 1},
    ),
    "prodigy": (OPTIMIZERS.get("prodigy")(), 1.0, "prodigyopt", "Prodigy", {"lr": 1.0, "eps": 1e-300}),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKAGES)
def test_every_step_is_the_packages(name: str) -> None:
    optimizer, lr, package, called, keys = PACKAGES[name]
    cls = getattr(pytest.importorskip(package), called)
    given = problem(optimizer, steps=STEPS, lr=lr)
    given = replace(given, schedule=SCHEDULES.get("power")(lr=lr, power=0.0))
    ours = simulate(given)
    for r in range(len(given.data.x)):
        path = theirs(lambda p: cls(p, **keys), given.initial["weight"][r], given.data.x[r], given.data.y[r])
        for t, w in enumerate(path, 1):
            difference = float((ours.parameters[t]["weight"][r] - w).abs().max())
            assert difference <= CLOSE[name], (t, difference)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["linear", "mlp"])
@pytest.mark.parametrize("name", NEW)
def test_it_goes_on_from_a_snapshot_to_the_bit_and_alone_as_in_a_batch(name: str, model: str) -> None:
    given = problem(NEW[name], model)
    whole, snapshot = kept(given, 9)
    assert same(simulate(given, resume=snapshot), whole)
    one = torch.tensor([1])
    alone = simulate(replace(given.at(one), measured=given.measured, schedule=replace(given.schedule, lr=given.schedule.lr[1:])))
    for block, own in alone.parameters[25].items():
        # Near the end of its spectrum a basis of SOAP's turns with the last digit.
        torch.testing.assert_close(own[0], whole.parameters[25][block][1], rtol=1e-9, atol=1e-11)


@cache
def separating() -> dict[str, Any]:
    """Weights that separate the data."""
    given = problem(OPTIMIZERS.get("ngd")(), steps=300, lr=0.3)
    return dict(simulate(given).parameters[300])


@pytest.mark.slow
@pytest.mark.parametrize("name", NEW)
def test_steps_do_not_end_where_the_loss_is_below_every_double(name: str) -> None:
    """From a log loss below -1,000 each goes on, to finite numbers, and lowers it."""
    given = problem(NEW[name], steps=5, lr=0.3)
    deep = replace(given, initial={block: 3e4 * w for block, w in separating().items()})
    if name in ("fromage", "lars"):  # whose rate is a share of parameters that are large here
        deep = replace(deep, schedule=replace(given.schedule, lr=0.01))
    ours = simulate(deep)
    assert (ours.common["log_loss"][0] < -1000).all()
    assert np.isfinite(ours.common["log_loss"]).all()
    assert all(bool(w.isfinite().all()) for w in ours.parameters[5].values())
    if name != "ridge":  # a ridge of 1e-3 is all there is of the Gram matrices by then: steps as small as the gradient's square
        assert (ours.common["log_loss"][-1] < ours.common["log_loss"][0]).all()


# --- Fromage and LARS ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "expected"), [("lars", (1 + 0.1**2) ** 150), ("fromage", 1.0)])
def test_a_loss_that_is_blind_to_size_makes_lars_grow_and_not_fromage(name: str, expected: float) -> None:
    """Gradients at right angles to W: |W_T| / |W_0| = (1 + eta^2)^(T/2), and 1."""
    eta, steps = 0.1, 300
    optimizer = OPTIMIZERS.get(name)()
    w = torch.randn(1, K, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first, geometry, generator = float(w.norm()), optimizer.geometry(["weight"], None), torch.Generator().manual_seed(1)
    for t in range(1, steps + 1):
        g = torch.randn(1, K, D, generator=generator, dtype=torch.float64)
        g = g - (g * w).sum() / (w * w).sum() * w
        _, step = step_with(optimizer, {}, {"weight": scaled(g, -3000.0)}, t, geometry, {"weight": w}, eta)
        w = step.keep * w - eta * step.log_size.exp() * step.direction["weight"]  # type: ignore[operator, union-attr]
    assert float(w.norm()) / first == pytest.approx(expected, rel=1e-11)


def test_a_block_that_is_zero_takes_gradient_descents_step_and_a_user_is_told() -> None:
    optimizer = OPTIMIZERS.get("fromage")()
    g = torch.randn(1, K, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    _, step = step_with(optimizer, {}, {"weight": scaled(g, 0.0)}, 1, optimizer.geometry(["weight"], None), lr=0.5)
    assert step.log_size is not None
    torch.testing.assert_close(step.log_size.exp() * step.direction["weight"], g / (1 + 0.25) ** 0.5)
    told = optimizer.caution({"weight": torch.zeros(1, K, D), "other": torch.ones(1, 1, 1)})
    assert told is not None
    assert told.startswith("optimizer=fromage: weight starts at zero")
    assert optimizer.caution({"weight": torch.ones(1, K, D)}) is None


# --- Shampoo ---------------------------------------------------------------------------------------------------------


def powers(g: Tensor, left: Tensor, right: Tensor, eps: float, exponent: float) -> Tensor:
    """(L + eps)^-p G (R + eps)^-p by eigendecompositions of numpy."""

    def power(a: Tensor) -> Tensor:
        values, vectors = np.linalg.eigh(a.numpy())
        return torch.tensor(vectors * (values + eps) ** -exponent @ vectors.T)

    return power(left) @ g @ power(right)


@pytest.mark.parametrize("accumulation", ["none", "average", "sum"])
@pytest.mark.parametrize(("eps", "exponent"), [(1e-3, 0.25), (1e-2, 0.5)])
def test_shampoo_is_its_equation(accumulation: str, eps: float, exponent: float) -> None:
    optimizer = OPTIMIZERS.get("shampoo")(accumulation=accumulation, eps=eps, exponent=exponent, beta2=0.8)
    generator = torch.Generator().manual_seed(0)
    left, right = torch.zeros(K, K, dtype=torch.float64), torch.zeros(D, D, dtype=torch.float64)
    geometry, state = optimizer.geometry(["weight"], None), None
    for t in range(1, 6):
        g = torch.randn(K, D, generator=generator, dtype=torch.float64) * math.exp(-t)
        kept_share, gain = {"none": (0.0, 1.0), "average": (0.8, 0.2), "sum": (1.0, 1.0)}[accumulation]
        left, right = kept_share * left + gain * g @ g.T, kept_share * right + gain * g.T @ g
        correct = 1 - 0.8**t if accumulation == "average" else 1.0
        gradient = {"weight": scaled(g[None] * math.e**40, -40.0)}
        state, step = step_with(optimizer, optimizer.init(gradient) if state is None else state, gradient, t, geometry)
        assert step.log_size is not None
        ours = (step.log_size.exp() * step.direction["weight"])[0]
        torch.testing.assert_close(ours, powers(g, left / correct, right / correct, eps, exponent), rtol=1e-10, atol=1e-12)


def test_without_a_past_all_three_are_spectral_descent() -> None:
    """U V^T, of a gradient of rank two whose columns sum to zero; a ridge that is round-off changes nothing."""
    generator = torch.Generator().manual_seed(0)
    g = torch.randn(2, K, D, generator=generator, dtype=torch.float64)
    gradient = {"weight": scaled(g - g.mean(dim=1, keepdim=True), -5000.0)}
    shampoo = OPTIMIZERS.get("shampoo")
    u, _, vh = torch.linalg.svd(gradient["weight"].mantissa, full_matrices=False)
    polar = u[..., :2] @ vh[..., :2, :]
    for optimizer in (
        shampoo(),
        shampoo(accumulation="average"),
        shampoo(accumulation="sum"),
        shampoo(accumulation="average", beta2=0.0),
    ):
        _, step = step_with(optimizer, optimizer.init(gradient), gradient, 1, optimizer.geometry(["weight"], None))
        size = 1.0 if step.log_size is None else step.log_size.exp()
        torch.testing.assert_close(size * step.direction["weight"], polar, rtol=1e-9, atol=1e-11)
    near = {"weight": scaled(gradient["weight"].mantissa, 0.0)}
    _, step = step_with(shampoo(eps=1e-30), {}, near, 1, shampoo().geometry(["weight"], None))
    torch.testing.assert_close(step.log_size.exp() * step.direction["weight"], polar, rtol=1e-9, atol=1e-11)  # type: ignore[union-attr]


def test_keys_of_shampoo_at_their_defaults_are_no_part_of_a_hash() -> None:
    base, *others = (
        cell.spec.hash()
        for keys in (
            [],
            ["optimizer.accumulation=none", "optimizer.eps=0"],
            ["optimizer.accumulation=sum"],
            ["optimizer.eps=0.1"],
        )
        for cell in compose(["optimizer=shampoo", *keys], multirun=False)
    )
    assert base == others[0] == "5d965e685f2c"
    assert len({base, *others}) == 3


# --- Prodigy ---------------------------------------------------------------------------------------------------------


def test_prodigy_on_a_linear_loss_counts_as_fibonacci_did() -> None:
    """d_t / d0 = 1, 1, 2, 3, 5, ... by signs alone: |theta_t - theta_0| is the sum of the d so far."""
    optimizer = OPTIMIZERS.get("prodigy")(ema=False, d0=1e-6)
    g = torch.randn(1, K, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradient, w = {"weight": scaled(g, -2000.0)}, torch.zeros(1, K, D, dtype=torch.float64)
    state, geometry, found = optimizer.init(gradient), optimizer.geometry(["weight"], None), []
    for t in range(1, 31):
        found.append(math.exp(float(state["distance"]["all"].log_scale)) / 1e-6)
        state, step = step_with(optimizer, state, gradient, t, geometry, {"weight": w})
        w = w - step.direction["weight"]
    expected = [1, 1, 1]
    while len(expected) < len(found):
        expected.append(expected[-1] + expected[-2])
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_prodigy_without_averages_is_the_anthologys_rule() -> None:
    optimizer = NEW["prodigy without averages"]
    given = problem(optimizer, steps=25, lr=0.7)
    given = replace(given, schedule=SCHEDULES.get("power")(lr=0.7, power=0.0))
    ours = simulate(given)
    x, y, w = given.data.x[0], given.data.y[0], given.initial["weight"][0]
    start, d = w, 1e-2
    for t in range(1, 26):
        leaf = w.clone().requires_grad_()
        (g,) = torch.autograd.grad(functional.cross_entropy(x @ leaf.T, y), leaf)
        w, d = w - 0.7 * d * g.sign(), max(d, float((g * (start - w)).sum() / g.abs().sum()))
        torch.testing.assert_close(ours.parameters[t]["weight"][0], w, rtol=1e-11, atol=1e-12)
