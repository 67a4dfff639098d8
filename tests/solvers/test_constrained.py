"""The best point of a ball: by cvxpy, by the theory of the path, and by what its dual weights prove."""

import math

import cvxpy
import numpy as np
import pytest
import torch

from implicit_bias.norms import make_norm
from implicit_bias.solvers.constrained import constrained_optimum, regularisation_path
from implicit_bias.solvers.reference import solve_exact

K, D, N = 3, 6, 12
NORMS = ("linf", "l2", "spectral", "row", "l1", "nuclear", "lp3", "schatten1.5")
MULTIPLES = (3.0, 30.0, 300.0)


def data(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.RandomState(seed)
    y = np.arange(N) % K
    return rng.randn(K, D)[y] + 0.5 * rng.randn(N, D), y


def by_cvxpy(x: np.ndarray, y: np.ndarray, label: str, radius: float) -> float:
    """The least log-sum-exp, written pair by pair."""
    w = cvxpy.Variable((K, x.shape[1]))
    scores = x @ w.T
    gaps = [scores[i, y[i]] - scores[i, c] for i in range(len(x)) for c in range(K) if c != y[i]]
    problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.log_sum_exp(-cvxpy.hstack(gaps))), [make_norm(label).expression(w) <= radius])
    problem.solve(solver="CLARABEL")
    return float(problem.value)


@pytest.mark.parametrize("label", NORMS)
def test_it_is_what_cvxpy_finds_and_encloses_it(label: str) -> None:
    x, y = data()
    norm = make_norm(label)
    gamma = solve_exact(x, y, K, norm).lower
    for multiple in MULTIPLES[:2]:
        radius = multiple / gamma
        found, theirs = constrained_optimum(x, y, K, norm, radius), by_cvxpy(x, y, label, radius)
        assert found.log_sum == pytest.approx(theirs, abs=1e-5)
        assert found.lower <= theirs + 1e-5
        assert 0 <= found.log_sum - found.lower <= 1e-5
        size = float(norm.value(torch.from_numpy(found.separator)[None])[0])
        assert size <= radius * (1 + 1e-12)


@pytest.mark.parametrize("label", NORMS[:6])
def test_the_path_leads_to_the_largest_margin_at_the_rate_of_theory(label: str) -> None:
    """gamma* - log(pairs) / B <= margin, log-sum-exp + B gamma* in [0, log pairs]; the gap falls as 1 / B."""
    for seed in (1, 2):
        x, y = data(seed)
        norm = make_norm(label)
        optimum, pairs = solve_exact(x, y, K, norm), math.log(N * (K - 1))
        path = regularisation_path(x, y, K, norm, [multiple / optimum.lower for multiple in MULTIPLES])
        ratios = [point.margin / optimum.upper for point in path]
        for ratio, multiple, point in zip(ratios, MULTIPLES, path, strict=True):
            assert ratio >= 1 - pairs / multiple
            assert -1e-3 <= point.log_sum + multiple <= pairs
        assert ratios[0] < ratios[1] < ratios[2] < 1
        assert (1 - ratios[1]) / (1 - ratios[2]) == pytest.approx(10, rel=0.15)


def test_units_of_the_data_do_not_matter_nor_whether_they_can_be_separated() -> None:
    x, y = data()
    norm = make_norm("spectral")
    usual, scaled = constrained_optimum(x, y, K, norm, 2.0), constrained_optimum(1e20 * x, y, K, norm, 2e-20)
    assert scaled.log_sum == pytest.approx(usual.log_sum, abs=1e-9)
    mixed = constrained_optimum(np.vstack([x, x]), np.concatenate([y, (y + 1) % K]), K, norm, 5.0)
    assert mixed.margin < 0 and mixed.log_sum - mixed.lower < 1e-6
    assert mixed.weights.sum() == pytest.approx(1) and (mixed.weights >= 0).all()


def test_what_time_allows_encloses_the_optimum_all_the_same() -> None:
    x, y = data()
    full, hasty = (constrained_optimum(x, y, K, make_norm("nuclear"), 30.0, timeout=seconds) for seconds in (60.0, 1e-9))
    assert hasty.lower < full.lower <= full.log_sum < hasty.log_sum


@pytest.mark.parametrize("radius", [0.0, -1.0, math.inf, math.nan])
def test_a_ball_has_a_radius(radius: float) -> None:
    with pytest.raises(ValueError, match="must be > 0 and finite"):
        constrained_optimum(*data(), K, make_norm("l2"), radius)
