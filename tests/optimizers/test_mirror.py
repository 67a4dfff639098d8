"""Mirror descent and dual acceleration: against loops of their equations, proven optima, and at depths where a loss is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from implicit_bias import run
from implicit_bias.core.errors import BadInput
from implicit_bias.engine import Problem, simulate
from implicit_bias.engine.steppers.base import Setup
from implicit_bias.engine.steppers.choose import choose
from implicit_bias.losses import LOSSES
from implicit_bias.models import MODELS, Data
from implicit_bias.norms import NORMS, make_norm
from implicit_bias.optimizers.mirror import Mirror
from implicit_bias.schedules import SCHEDULES
from tests.engine.test_engine import assert_same_bits, mixtures, one, problem, snapshots_at

F64 = torch.float64
DATA = mixtures([1], k=3, d=4)
START = 0.3 * torch.randn(1, 3, 4, dtype=F64, generator=torch.Generator().manual_seed(5))
TEACHER = ("dataset=linear_teacher", "loss=exponential", "progress=off")


def over_loss(optimizer: str, steps: int, lr: Any, norm: Any, data: Data = DATA, runs: int = 1, **more: Any) -> Problem:
    """Runs under schedule=loss_based, every step kept; nothing is measured in any norm."""
    given = problem(optimizer, data, runs, steps, lr, norm=norm, points=1000, weights="all", **{"logged": ("l2",), **more})
    return replace(given, schedule=SCHEDULES.get("loss_based")(lr=lr), measured={})


def relative_gradient(w: Tensor) -> Tensor:
    """grad log L by autograd."""
    leaf = w.clone().requires_grad_()
    with torch.enable_grad():
        loss = functional.cross_entropy(DATA.x[0] @ leaf.T, DATA.y[0])
        (gradient,) = torch.autograd.grad(loss.log(), leaf)
    return gradient


@pytest.mark.parametrize(("potential", "label"), [("power", "l2"), ("square", "l2"), ("power", "lp2"), ("square", "schatten2")])
def test_at_p_2_it_is_gradient_descent_over_the_loss_step_by_step(potential: str, label: str) -> None:
    given = replace(over_loss("mirror", 25, 0.1, make_norm(label), hyper={"potential": potential}), initial={"weight": START})
    w = START[0]
    for t, blocks in simulate(given).parameters.items():
        w = w - 0.1 * relative_gradient(w) if t else w
        torch.testing.assert_close(blocks["weight"][0], w, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("p", [1.5, 3.0])
def test_steps_in_a_power_are_those_of_its_equation(p: float) -> None:
    given = replace(over_loss("mirror", 40, 0.02, make_norm("lp", p=p)), initial={"weight": START})
    w = START[0]
    for t, blocks in simulate(given).parameters.items():
        if t:
            z = w.sign() * w.abs() ** (p - 1) - 0.02 * relative_gradient(w)
            w = z.sign() * z.abs() ** (1 / (p - 1))
        torch.testing.assert_close(blocks["weight"][0], w, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("label", ["l2", "lp1.1", "lp1.5", "lp3", "schatten1.5", "schatten4"])
def test_the_mirror_maps_are_gradients_of_half_squares_and_inverse(label: str) -> None:
    norm, optimizer = make_norm(label), Mirror("square")
    geometry = optimizer.geometry(["weight"], norm, MODELS.get("linear")().row_bases(DATA))
    w = START.clone().requires_grad_()
    with torch.enable_grad():
        (expected,) = torch.autograd.grad((norm.value(w) ** 2 / 2).sum(), w)
    z = optimizer.dual({"weight": START}, geometry)
    torch.testing.assert_close(z["weight"], expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(optimizer.primal(z, geometry)["weight"], START, rtol=1e-9, atol=1e-11)


def test_zero_is_where_it_begins_and_an_entry_without_gradient_stays_there() -> None:
    x = torch.tensor([[[1.0, 0.0, 1e-200], [-1.0, 0.0, 2e-200]]], dtype=F64)
    data = Data(x, torch.tensor([[0, 1]]), 2)
    for p in (1.05, 3.0):
        w = simulate(over_loss("mirror", 5, 0.5, make_norm("lp", p=p), data)).parameters[5]["weight"]
        assert (w[..., 1] == 0).all() and torch.isfinite(w).all() and (w[..., 0] != 0).all()
        assert bool((w[..., 2] != 0).all()) == (p == 3.0)  # |z|^20 of z = 1e-200 is below every double, |z|^(1/2) is not


def test_no_depth_is_too_far() -> None:
    """p = 1.02, |w| = |z|^50, from e^60 on: a log loss of -e^60 is a double, the difference of two has no digit left.

    The smallest gap's pair has all the weight there, and the loop below needs no loss.
    """
    data, power = mixtures([2], k=3, d=18), 0.02
    start = torch.linalg.lstsq(data.x[0], functional.one_hot(data.y[0], 3).double()).solution.T[None] * 1e26
    start = start + 1e24 * torch.randn(start.shape, dtype=F64, generator=torch.Generator().manual_seed(1))
    given = replace(over_loss("mirror", 100, 0.01, make_norm("lp", p=1.02), data), initial={"weight": start.contiguous()})
    trajectory = simulate(given)
    z, x, y = (start[0].sign() * start[0].abs() ** power).numpy(), data.x[0].numpy(), data.y[0].numpy()
    for _ in range(100):
        logs = np.log(np.abs(z)) / power
        scores = (np.sign(z) * np.exp(logs - logs.max())) @ x.T
        gaps = scores[y, np.arange(len(y))] - scores
        gaps[y, np.arange(len(y))] = np.inf
        other, i = np.unravel_index(gaps.argmin(), gaps.shape)
        z[y[i]] += 0.01 * x[i]
        z[other] -= 0.01 * x[i]
    ours = trajectory.parameters[100]["weight"][0].numpy()
    np.testing.assert_allclose(np.sign(ours) * np.abs(ours) ** power, z, rtol=0, atol=1e-11)
    assert (trajectory.common["log_loss"] < -1e20).all()


@pytest.mark.parametrize("loss", ["cross_entropy", "exponential", "pair_logistic"])
def test_weights_sum_to_one_where_scores_are_1e30(loss: str) -> None:
    """Then the smallest gap's pair has all the weight, whatever the rounding of log L."""
    data = mixtures([2], k=3, d=8)
    objective = MODELS.get("linear")().objective(data, LOSSES.get(loss)())
    w = torch.linalg.lstsq(data.x[0], functional.one_hot(data.y[0], 3).double()).solution.T[None].contiguous() * 1e30
    gradient = objective.gradient({"weight": w})
    i, (own, other) = 0, (0, 1)
    gaps = objective.negative_gaps({"weight": w})[0]
    other, i = divmod(int(gaps.argmax()), gaps.shape[1])
    own, expected = int(data.y[0, i]), torch.zeros_like(w[0])
    expected[own], expected[other] = data.x[0, i], -data.x[0, i]
    torch.testing.assert_close(gradient.per_weight()["weight"][0], expected, rtol=1e-12, atol=1e-12)
    assert float(gradient.weight_over_loss) == pytest.approx(1, abs=1e-12)


def test_dual_acceleration_is_the_published_momentum_in_l2() -> None:
    """Ji, Srebro and Telgarsky's Algorithm 1, beta_t = t / (t + 1), theta_t = 1, on the vector w = w_1 - w_0, |x_i| <= 1."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((30, 12))
    x /= np.linalg.norm(x, axis=1).max()
    signs = np.sign(x @ rng.standard_normal(12))
    z = signs[:, None] * x
    data = Data(torch.tensor(x)[None], torch.tensor((signs > 0).astype(int))[None], 2)
    given = over_loss("dual_acceleration", 60, 0.5, make_norm("l2"), data, loss="exponential")
    given = replace(given, points=100_000)  # every step
    w, g = np.zeros(12), np.zeros(12)
    for t, blocks in simulate(given).parameters.items():
        if t:
            scores = -(z @ w)
            q = np.exp(scores - scores.max())
            gradient = -(q / q.sum()) @ z
            g = (t - 1) / t * (g + gradient)
            w = w - (g + gradient)
        ours = blocks["weight"][0].numpy()
        np.testing.assert_allclose(ours[1] - ours[0], w, rtol=0, atol=1e-10 * max(1, np.abs(w).max()))


@pytest.mark.parametrize(("optimizer", "label"), [("mirror", "lp1.5"), ("mirror", "schatten3"), ("dual_acceleration", "lp1.5")])
def test_it_goes_on_from_a_snapshot_to_the_last_bit(optimizer: str, label: str) -> None:
    hyper = {"potential": "square"} if optimizer == "mirror" else {}
    given = over_loss(optimizer, 30, 0.1, make_norm(label), hyper=hyper)
    given = replace(given, measured={name: make_norm(name) for name in ("l2", label)}, points=12)
    (snapshot,), undisturbed = snapshots_at((16,), given)
    assert_same_bits(simulate(given, resume=snapshot), undisturbed)


@pytest.mark.parametrize(
    ("optimizer", "hyper", "exponents"),
    [
        ("mirror", {"potential": "power"}, (1.1, 2.0, 6.0)),
        ("mirror", {"potential": "square"}, (1.1, 2.0, 6.0)),
        ("dual_acceleration", {}, (1.1, 1.5, 2.0)),
    ],
)
def test_exponents_of_a_batch_are_runs_alone(optimizer: str, hyper: dict[str, str], exponents: tuple[float, ...]) -> None:
    data, lr = mixtures([1, 2, 3], k=2, d=7), torch.tensor([0.01, 0.02, 0.03], dtype=F64)
    norm = NORMS.get("lp")(p=torch.tensor(exponents, dtype=F64))
    together = simulate(over_loss(optimizer, 25, lr, norm, data, 3, hyper=hyper)).parameters[25]["weight"]
    for r, p in enumerate(exponents):
        given = over_loss(optimizer, 25, float(lr[r]), make_norm("lp", p=p), one(data, r), hyper=hyper)
        alone = simulate(given).parameters[25]["weight"]
        if hyper == {"potential": "power"}:
            assert torch.equal(together[r], alone[0])
        else:  # of an exponent that is one number for all torch makes squares and cubes by products
            torch.testing.assert_close(together[r], alone[0], rtol=1e-11, atol=1e-11)


def test_a_step_taken_back_leaves_the_dual_point_of_the_start(tmp_path: Path) -> None:
    typed = ["schedule=lyu_li", "schedule.lr=1000", "steps=150", "model.init=gaussian", "dataset.samples=20", "dataset.dim=6",
             "reference=none", f"results_dir={tmp_path}", "log.norms=[l2]", *TEACHER]  # fmt: skip
    mirrored, plain = (run(f"optimizer={name}", *typed)[0] for name in ("mirror", "gd"))
    assert plain["margin"].nunique() > 5 and plain["margin"].iloc[1] == plain["margin"].iloc[0]  # the first are taken back
    np.testing.assert_allclose(mirrored["margin"], plain["margin"], rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("words", [("norm=lp", "norm.p=1.5"), ("norm=schatten", "norm.p=1.5")])
def test_dual_acceleration_proves_what_it_reaches(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Several classes; without the reference, by the average that it keeps; beside cvxpy's optimum."""
    typed = ["optimizer=dual_acceleration", "dataset.num_classes=4", "dataset.dim=12", "dataset.samples_per_class=6",
             "steps=800", "log.norms=[linf]", f"results_dir={tmp_path}", "progress=off", *words]  # fmt: skip
    table = run(*typed)[0]
    rows = table[table["norm"] == table["norm"].iloc[-1]]
    last = rows.iloc[-2]  # at the last record the optimum's own proof stands
    assert last["upper_bound"] >= last["max_margin"] * (1 - 1e-8)
    assert last["upper_bound"] - last["margin"] <= 4e-3 * last["max_margin"]


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (
            "optimizer=dual_acceleration norm=linf",
            "norm=linf: optimizer=dual_acceleration needs a norm with a strongly convex half",
        ),
        ("optimizer=dual_acceleration norm=lp norm.p=3", "norm=lp: optimizer=dual_acceleration needs a norm with"),
        ("optimizer=dual_acceleration schedule=power", "schedule=power: steps of optimizer=dual_acceleration are divided by the"),
        (
            "optimizer=dual_acceleration model=mlp",
            "model=mlp: optimizer=dual_acceleration solves the game of a linear model's margin",
        ),
        ("optimizer=mirror norm=spectral", "norm=spectral: optimizer=mirror with optimizer.potential=power needs l2 or lp"),
        ("optimizer=mirror norm=lp norm.p=1.005", "norm=lp: p is 1.005; with optimizer.potential=power it must be at least 1.01"),
        ("optimizer=mirror norm=lp norm.p=inf", "norm=lp: optimizer=mirror with optimizer.potential=power needs l2 or lp"),
        ("optimizer=mirror optimizer.potential=cube", "optimizer.potential=cube: must be power or square"),
        (
            "optimizer=mirror norm=linf optimizer.potential=square model.init=gaussian",
            "optimizer.potential=square: in norm linf a",
        ),
    ],
)
def test_refused_in_a_line(tmp_path: Path, typed: str, told: str) -> None:
    with pytest.raises(BadInput) as caught:
        run(*typed.split(), "steps=5", "reference=none", f"results_dir={tmp_path}")
    assert str(caught.value).startswith(told) and "\n" not in str(caught.value)
    assert not list(tmp_path.glob("runs/*"))


def test_a_norm_logged_by_name_stays_in_a_batch_where_it_is_the_first_ones_own(tmp_path: Path) -> None:
    table, _ = run("optimizer=mirror", "norm=lp", "norm.p=1.5,3", "log.norms=[lp1.5]", "steps=3", "reference=none",
                   f"results_dir={tmp_path}", "progress=off", multirun=True)  # fmt: skip
    last = table[table["step"] == 3]
    assert sorted(zip(last["norm.p"], last["norm"], strict=True)) == [(1.5, "lp1.5"), (3.0, "lp1.5"), (3.0, "lp3")]


def test_automatic_rates_and_why_there_are_no_steps_in_c() -> None:
    unit = torch.tensor([2.0], dtype=F64)
    assert float(1 / unit**2 / Mirror("square").unit_in(make_norm("lp1.5"), unit)) == pytest.approx(0.5 / 4)  # 1 / L_N
    assert float(1 / unit**2 / Mirror("power").unit_in(make_norm("l2"), unit)) == pytest.approx(1 / 4)
    assert float(1 / unit**2 / Mirror("power").unit_in(make_norm("lp3"), unit)) == pytest.approx(2 * 100 / 8)
    assert float(1 / unit**2 / Mirror("square").unit_in(make_norm("linf"), unit)) == pytest.approx(1 / 4)
    setup = Setup.of(replace(over_loss("mirror", 5, 0.1, make_norm("l2")), schedule=SCHEDULES.get("constant")(lr=0.1)))
    assert choose(setup).refused["c"] == "optimizer=mirror, or its norm, has no steps in C"
