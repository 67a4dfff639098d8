"""Figures whose measurements are no runs: natural gradients, HASD, the anthology."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from implicit_bias.datasets.gaussian_mixture import GaussianMixture
from implicit_bias.figures.acceleration.algorithm import accelerated, bounds, hasd, steepest_descent
from implicit_bias.figures.acceleration.hasd import Hasd
from implicit_bias.figures.acceleration.problems import Problem, classification, exponent, largest_residual, quadratic
from implicit_bias.figures.anthology.iterations import CUBIC, FIRST, LINEAR, POLAR, cubic, polar_rows, prodigy_rows
from implicit_bias.figures.anthology.old_optimizer_new_norm import fibonacci
from implicit_bias.figures.anthology.statements import MINIMUM, equal_rows, minimum_rows, norms, smallest_rows
from implicit_bias.figures.base import one_thread
from implicit_bias.figures.natural.metrics import LARGE, discrete_rows, gaussian_rows, metric_rows
from implicit_bias.norms import make_norm

LABELS = ("l2", "lp4", "lp8", "linf")
PROBLEMS = {
    "quadratic": quadratic(20),
    "residual": largest_residual(8, 16),
    "classes": classification(GaussianMixture(num_classes=3, dim=4, samples_per_class=4).load()),
}


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_gradients_are_as_smooth_as_is_said_and_are_those_of_the_function(name: str, label: str) -> None:
    problem, norm = PROBLEMS[name], make_norm(label)
    smooth = problem.smoothness(norm)
    generator = torch.Generator().manual_seed(0)
    for scale in (1e-3, 1.0, 10.0):
        x, d = (scale * torch.randn(problem.start.shape, dtype=torch.float64, generator=generator) for _ in range(2))
        change = problem.gradient(x + d) - problem.gradient(x)
        assert norm.dual(change) <= smooth * norm.value(d) * (1 + 1e-12)
        small = 1e-6 * d / d.norm()
        slope = (problem.gap(x + small) - problem.gap(x - small)) / 2
        np.testing.assert_allclose(slope, float((problem.gradient(x) * small).sum()), rtol=1e-4, atol=1e-13)


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("name", ["quadratic", "residual"])
def test_hasd_keeps_its_bound_and_goes_to_the_minimum(name: str, label: str) -> None:
    problem, norm = PROBLEMS[name], make_norm(label)
    found = list(hasd(problem, norm, 200))
    gaps = torch.tensor([problem.gap(iterate.x) for iterate in found], dtype=torch.float64)
    ratios = torch.tensor([iterate.ratio for iterate in found], dtype=torch.float64)
    assert (gaps <= bounds(problem.smoothness(norm), problem.distance, ratios)).all()
    assert (ratios >= 1 - 1e-12).all() and (ratios <= problem.start.numel() ** (0.5 - 1 / exponent(norm)) + 1e-12).all()
    assert gaps[-1] < 0.05 * problem.gap(problem.start)


def test_hasd_in_l2_is_the_recursion_that_is_written_down() -> None:
    """There r = 1, so that rho = 1 from the first trial on, and A_1 = 2 / 36."""
    problem = quadratic(3)
    first, second = list(hasd(problem, make_norm("l2"), 2))
    x0, smooth = problem.start, problem.smoothness(make_norm("l2"))
    x1 = x0 - problem.gradient(x0) / (2 * smooth)
    a1 = 1 / (18 * smooth)
    a2 = (1 + (1 + 144 * smooth * a1) ** 0.5) / (36 * smooth)
    y = (a1 * x1 + a2 * (x0 - a1 * problem.gradient(x1))) / (a1 + a2)
    torch.testing.assert_close(first.x, x1)
    torch.testing.assert_close(second.x, y - problem.gradient(y) / (2 * smooth))
    assert (first.evaluations, second.evaluations) == (2, 2)


def test_hasd_ends_at_a_minimum() -> None:
    flat = Problem(torch.zeros(1, 1, 3, dtype=torch.float64), torch.zeros_like, lambda x: 0.0, lambda norm: 1.0)
    assert len(list(hasd(flat, make_norm("lp4"), 10))) == 1


def test_the_other_methods_lower_the_gap_as_fast_as_they_should() -> None:
    problem, l2 = PROBLEMS["quadratic"], make_norm("l2")
    plain, fast = (problem.gap(list(method(problem, l2, 300))[-1].x) for method in (steepest_descent, accelerated))
    bound = 2 * problem.smoothness(l2) * problem.distance**2 / 301**2
    assert fast <= bound < problem.gap(problem.start)
    assert plain <= problem.smoothness(l2) * problem.distance**2 / (2 * 300)


def test_hasd_claims_see_a_bound_that_is_broken() -> None:
    rows = []
    for part, method in (("quadratic", "agd"), ("quadratic", "lp8"), ("control", "agd"), ("control", "linf")):
        rows.append(
            {"part": part, "method": method, "seed": 0, "step": 600, "value": 1e-3 if method == "agd" else 1e-6, "worst": 2.0}
        )
    for method, ratios in (("lp8", (0.9, 0.8, 0.7)), ("descent", (0.6, 0.7, 0.8))):
        rows += [{"part": "margin", "method": method, "seed": 1, "step": 9, "norm": n, "value": r}
                 for n, r in zip(("l2", "lp4", "lp8"), ratios, strict=True)]  # fmt: skip
    holds = [claim.holds for claim in Hasd().claims(pd.DataFrame(rows), "default")]
    assert holds == [False, False, True, False, True, True, None]


def test_every_proposition_is_judged_by_what_could_break_it() -> None:
    rows = minimum_rows(2, 20)
    assert (rows[rows["x"] == 0]["value"].abs() < 1e-9).all()
    assert (rows[rows["x"] > 0]["value"] > 0).all()
    assert set(rows["method"]) == set(norms()) and (rows["part"] == MINIMUM).all()
    assert (equal_rows(2)["value"] < 1e-9).all()
    assert (smallest_rows(20)["value"] >= 0).all()


def test_the_modular_norm_is_a_weighted_maximum() -> None:
    norm, layers = norms()["modular"]
    w = {name: torch.ones(1, *shape, dtype=torch.float64) for name, shape in layers.items()}
    expected = max(0.5 * (8 * 6) ** 0.5, 2 * 8**0.5, 3 * 15 ** (1 / 3))
    torch.testing.assert_close(norm.value(w), torch.tensor([expected], dtype=torch.float64))


def test_newton_schulz_and_prodigy_are_what_is_drawn() -> None:
    x = torch.diag(torch.tensor([0.5, 1.2], dtype=torch.float64))
    torch.testing.assert_close(cubic(x, 1), torch.diag(torch.tensor([0.75 - 0.0625, 1.8 - 0.864], dtype=torch.float64)))
    rows = polar_rows(20, 1)
    assert rows[(rows["part"] == POLAR) & (rows["method"] == CUBIC)]["value"].iloc[-1] < 0.1
    assert fibonacci(8).tolist() == [1, 1, 1, 2, 3, 5, 8, 13]
    rates = prodigy_rows(12, 60, 50, 1)
    np.testing.assert_allclose(rates[rates["method"] == LINEAR]["value"], fibonacci(12), rtol=1e-12)
    quadratics = rates[rates["method"] != LINEAR].groupby("method")["value"]
    assert sorted(quadratics.first()) == sorted(FIRST)
    assert (quadratics.last() > 0.1).all()


def test_metrics_are_measured_on_steps_of_both_kinds() -> None:
    found = metric_rows(3, 20)
    np.testing.assert_allclose(found["x"], found["y"], rtol=1e-9)
    assert (found["value"] >= found["x"] * (1 - 1e-9)).all()
    steps = discrete_rows(20)
    np.testing.assert_allclose(steps["x"], steps["y"], atol=1e-6)
    assert 0 < (steps["x"] > 0).sum() < 20
    assert ((steps["x"] > 0) == np.isfinite(steps["value"])).all()
    mean = gaussian_rows(20).groupby("method")["x"].mean()
    np.testing.assert_allclose([mean["l2"], mean["linf"]], [1, (2 / np.pi) ** 0.5], atol=0.01)
    assert mean["nuclear"] >= min(LARGE) ** -0.5


def test_measurements_take_one_thread_and_give_the_others_back() -> None:
    given = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == given
