"""The angle between steps and gradients, and the metric in which a step is natural gradient descent."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from implicit_bias.engine import Problem, Trajectory, simulate
from implicit_bias.engine.steppers.eager import arrived, descent
from implicit_bias.measures.natural_gradient import best_metric, cosine_and_sine, metric_condition
from implicit_bias.models import MODELS
from implicit_bias.optimizers import OPTIMIZERS, Step
from implicit_bias.optimizers.foreign.base import Foreign, Made
from implicit_bias.optimizers.gd import GD
from implicit_bias.probes.natural_gradient import NaturalGradient
from implicit_bias.schedules import SCHEDULES
from tests.engine.test_engine import network_problem
from tests.engine.test_native import gaussian, needs_compiler, same_bits
from tests.engine.test_native import problem as native_problem
from tests.optimizers.test_contract import LR, RULES, problem
from tests.support.quick import quick_of

COLUMNS = NaturalGradient.columns


def vectors(seed: int, size: int = 12) -> tuple[Tensor, Tensor]:
    """A gradient and a step that descends."""
    generator = torch.Generator().manual_seed(seed)
    g, d = torch.randn(2, size, dtype=torch.float64, generator=generator)
    return g, d * (g @ d).sign()


def judged(g: Tensor, d: Tensor) -> tuple[float, float]:
    cosine, sine = cosine_and_sine({"w": d.view(1, 4, -1)}, {"w": g.view(1, 4, -1)})
    return float(cosine), float(metric_condition(cosine, sine))


@pytest.mark.parametrize("seed", range(8))
def test_the_closed_form_is_the_condition_of_the_best_metric_by_eigenvalues(seed: int) -> None:
    g, d = vectors(seed)
    metric = best_metric(d, g)
    torch.testing.assert_close(metric @ d, g, rtol=1e-12, atol=1e-12)
    values = np.linalg.eigvalsh(metric.numpy())
    cosine, condition = judged(g, d)
    np.testing.assert_allclose(cosine, float(g @ d / (g.norm() * d.norm())), rtol=1e-12)
    np.testing.assert_allclose(condition, values[-1] / values[0], rtol=1e-9)
    assert values[0] > 0


def test_no_metric_that_explains_the_step_has_a_smaller_condition() -> None:
    """All M with M d = g are g g^T / <g, d> + B B^T with B^T d = 0."""
    g, d = vectors(3)
    _, least = judged(g, d)
    generator = torch.Generator().manual_seed(0)
    b = torch.randn(2000, 12, 11, dtype=torch.float64, generator=generator) * torch.logspace(-1, 1, 2000)[:, None, None]
    b = b - d[:, None] * (d @ b)[:, None] / (d @ d)
    values = np.linalg.eigvalsh((torch.outer(g, g) / (g @ d) + b @ b.transpose(1, 2)).numpy())
    assert (values[:, 0] > 0).all()
    assert (values[:, -1] / values[:, 0]).min() >= least * (1 - 1e-9)


def test_no_metric_makes_a_descent_of_a_step_that_does_not_descend() -> None:
    g, d = vectors(1)
    assert judged(g, -d)[0] < 0
    assert judged(g, -d)[1] == np.inf
    with pytest.raises(ValueError, match="must be > 0"):
        best_metric(-d, g)
    assert np.isnan(judged(g, 0 * d)).all()


@pytest.mark.parametrize("angle", [1e-12, 1e-7, 1.0, np.pi / 2 - 1e-7])
@pytest.mark.parametrize("size", [1e-200, 1.0, 1e200])
def test_angles_are_exact_near_zero_and_near_a_right_one_at_any_size(angle: float, size: float) -> None:
    a = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)
    b = torch.tensor([[[np.cos(angle), np.sin(angle)]]], dtype=torch.float64)
    cosine, sine = cosine_and_sine({"w": size * a}, {"w": b / size})
    np.testing.assert_allclose([cosine.item(), sine.item()], [np.cos(angle), np.sin(angle)], rtol=1e-8)
    np.testing.assert_allclose(metric_condition(cosine, sine).item(), ((1 + np.sin(angle)) / np.cos(angle)) ** 2, rtol=1e-8)


def by_differences(given: Problem, trajectory: Trajectory) -> np.ndarray:
    """cos psi of every step after the first record, from parameters that were kept of each step."""
    found = []
    for before, after in zip(trajectory.steps, trajectory.steps[1:], strict=False):
        there, here = trajectory.parameters[before], trajectory.parameters[after]
        gradient = given.model.objective(given.data, given.loss).gradient(there).per_weight()
        moved = torch.cat([(here[n] - there[n]).flatten(1) for n in gradient], dim=1)
        downhill = torch.cat([block.flatten(1) for block in gradient.values()], dim=1)
        found.append(torch.nn.functional.cosine_similarity(moved, downhill, dim=1, eps=0).numpy())
    return np.array(found)


def assert_is_the_moves_cosine(given: Problem, tolerance: float = 1e-7) -> Trajectory:
    trajectory = simulate(replace(given, measured={}, probes=[NaturalGradient()]))
    assert trajectory.steps == list(range(given.steps + 1))
    cosine, condition = (trajectory.common[name] for name in COLUMNS)
    assert np.isnan(cosine[0]).all() and np.isnan(condition[0]).all()
    np.testing.assert_allclose(cosine[1:], by_differences(given, trajectory), atol=tolerance)
    assert ((condition[1:] >= 1) | np.isnan(condition[1:])).all()
    return trajectory


OURS = [name for name in OPTIMIZERS if not issubclass(OPTIMIZERS.get(name), Foreign)]


@pytest.mark.slow
@pytest.mark.parametrize("name", OURS)
def test_it_is_the_cosine_of_what_every_optimizer_does(name: str) -> None:
    optimizer, steps = OPTIMIZERS.get(name)(), 8
    for model in MODELS:
        if model == "linear" and optimizer.incompatible(MODELS.get(model)()) is None:
            assert_is_the_moves_cosine(problem(optimizer, steps=steps))
    assert_is_the_moves_cosine(problem(optimizer, "mlp", steps=steps))


@pytest.mark.parametrize("model", quick_of(["linear", "mlp"], "mlp"))
@pytest.mark.parametrize("rule", RULES)
def test_it_is_the_cosine_of_every_kind_of_step(rule: str, model: str) -> None:
    """Shrinking steps, whole lengths, points that are named, and state."""
    assert_is_the_moves_cosine(problem(RULES[rule][0], model, lr=LR))


@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.SGD])
def test_it_is_the_cosine_of_what_a_foreign_optimizer_does(make: Any) -> None:
    foreign = Made(lambda params: make(params, lr=0.1, weight_decay=0.1), "theirs")
    given = problem(foreign, steps=8, lr=LR)
    assert_is_the_moves_cosine(given, 1e-12)


def test_a_descent_is_the_way_to_where_a_step_arrives() -> None:
    for step, theta in (
        (Step({"w": torch.ones(2, 3, 1)}, torch.tensor([0.5, -torch.inf])), {"w": torch.zeros(2, 3, 1)}),
        (Step({"w": torch.ones(2, 3, 1)}, keep=torch.tensor([0.5, 1.0])), {"w": torch.arange(6.0).view(2, 3, 1)}),
        (Step(keep=0.9), {"w": torch.arange(6.0).view(2, 3, 1)}),
        (Step(), {"w": torch.ones(2, 3, 1)}),
    ):
        log_lr = torch.tensor([0.0, 0.0])
        there, way = arrived(step, theta, log_lr), descent(step, theta, log_lr)
        for r in range(2):
            moved, ours = (theta["w"] - there["w"])[r], way["w"][r]
            assert bool((ours == 0).all()) == bool((moved == 0).all())
            torch.testing.assert_close(ours * moved.norm(), moved * ours.norm())


def test_gradient_descent_has_condition_one_where_its_steps_are_below_every_double() -> None:
    """At a loss of e^-5000 no step moves the parameters, which says nothing of its direction."""
    schedule = SCHEDULES.get("constant")(lr=0.1)
    given = problem(GD(), schedule=schedule, probes=[NaturalGradient()], steps=40)
    deep = {"weight": 1e5 * simulate(replace(given, steps=60)).parameters[60]["weight"]}
    trajectory = simulate(replace(given, initial=deep))
    assert (trajectory.common["log_loss"] < -700).all()
    assert torch.equal(trajectory.parameters[40]["weight"], deep["weight"])
    np.testing.assert_allclose(trajectory.common["metric_condition"][1:], 1, rtol=1e-9)


def test_a_step_that_is_taken_back_has_its_angle() -> None:
    schedule = SCHEDULES.get("lyu_li")(lr=torch.tensor([20.0, 0.1], dtype=torch.float64))
    trajectory = simulate(problem(GD(), schedule=schedule, probes=[NaturalGradient()]))
    back = np.diff(trajectory.common["log_loss"], axis=0) == 0
    assert back.any()
    np.testing.assert_allclose(trajectory.common["cos_psi"][1:], 1, rtol=1e-12)


@needs_compiler
@pytest.mark.parametrize("rule", ["signum", "muon", "adam, eps", "gd"])
def test_steps_in_c_have_the_same_angles_and_no_other_number_changes(rule: str) -> None:
    given = native_problem(rule, gaussian(4, 6, 10), 60)
    plain, ours = (simulate(replace(given, compile=wanted, probes=[NaturalGradient()])) for wanted in ("off", "auto"))
    assert (plain.stepping, ours.stepping) == ("torch", "c")
    assert same_bits(simulate(given), ours)
    np.testing.assert_allclose(ours.common["cos_psi"], plain.common["cos_psi"], rtol=1e-6)


@needs_compiler
@pytest.mark.parametrize("compiled", ["off", "auto"])
def test_it_goes_on_from_a_snapshot_between_any_two_steps(compiled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("implicit_bias.engine.steppers.native.linear.MOST_STEPS", 7)
    given = native_problem("signum", gaussian(4, 6, 10), 60, compile=compiled, probes=[NaturalGradient()])
    snapshots: list[Any] = []
    undisturbed = simulate(given, keep=lambda t, snapshot: snapshots.append(deepcopy(snapshot())) if t > 40 else None)
    for snapshot in snapshots[:4]:
        again = simulate(given, resume=snapshot)
        assert same_bits(again, undisturbed)
        assert np.array_equal(again.common["cos_psi"], undisturbed.common["cos_psi"], equal_nan=True)


@pytest.mark.slow
def test_a_run_has_its_angles_in_any_batch_and_at_levels_of_its_loss() -> None:
    given = network_problem("constant", "signum", levels=3, probes=[NaturalGradient()])
    together = simulate(given)
    alone = simulate(replace(given.at(torch.tensor([1])), measured=given.measured, probes=[NaturalGradient()]))
    steps = [s for s in alone.steps if s in together.steps]
    rows, mine = ([t.steps.index(s) for s in steps] for t in (together, alone))
    np.testing.assert_allclose(
        together.common["cos_psi"][rows][:, 1], alone.common["cos_psi"][mine][:, 0], rtol=1e-6, equal_nan=True
    )
    assert len(steps) > 10


def test_sign_and_coordinate_steps_are_no_farther_from_the_gradient_than_their_norms_allow() -> None:
    """cos = N_*(g) / (|g| |direction|): at least 1 / sqrt(entries) for both."""
    for rule in ("signgd", "coordinate_descent"):
        given = native_problem(rule, gaussian(4, 6, 10), 60, probes=[NaturalGradient()])
        cosine = simulate(given).common["cos_psi"][1:]
        assert (cosine >= 24**-0.5 * (1 - 1e-12)).all()
        assert cosine.min() < 0.9
