"""Maximum margins under perturbations: beside a conic program written here, identities, bounds, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cvxpy
import numpy as np
import pytest

from implicit_bias.core.errors import NotSeparable
from implicit_bias.models.perturbations import BALLS, Perturbed
from implicit_bias.norms import make_norm
from implicit_bias.solvers.reference import solve_exact
from implicit_bias.solvers.robust import RobustReference, solve_robust
from implicit_bias.storage.references import ReferenceCache

EPS = 0.15
ORDERS = {"linf": 1, "l2": 2, "l1": "inf"}
NORMS = {"linf": cvxpy.norm_inf, "l2": lambda w: cvxpy.norm(w, "fro"), "l1": cvxpy.norm1}


def data(k: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.RandomState(3)
    means, y = 2 * rng.randn(k, 6), np.arange(10) % k
    return means[y] + rng.randn(10, 6), y


def independent(x: np.ndarray, y: np.ndarray, k: int, perturbation: str, norm: str, eps: float) -> float:
    """max t over N(W) <= 1 with every gap, less the worst perturbation, >= t: one row a pair of a sample and another class."""
    w, t = cvxpy.Variable((k, x.shape[1])), cvxpy.Variable()
    pairs = [(i, c) for i in range(len(x)) for c in range(k) if c != y[i]]
    between = np.array([np.eye(k)[y[i]] - np.eye(k)[c] for i, c in pairs]) @ w
    plain = cvxpy.sum(cvxpy.multiply(between, x[[i for i, _ in pairs]]), axis=1)
    robust = plain - eps * cvxpy.norm(between, ORDERS[perturbation], axis=1) >= t
    problem = cvxpy.Problem(cvxpy.Maximize(t), [NORMS[norm](w) <= 1, robust])
    return float(problem.solve(solver="CLARABEL", tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10))


@pytest.mark.parametrize("perturbation", BALLS)
@pytest.mark.parametrize("k", [2, 3])
def test_optima_are_those_of_an_independent_conic_program(k: int, perturbation: str) -> None:
    x, y = data(k)
    for norm in NORMS:
        found = solve_robust(x, y, k, make_norm(norm), Perturbed(perturbation, EPS))
        wanted = independent(x, y, k, perturbation, norm, EPS)
        assert found.lower <= found.upper
        assert found.gap <= 1e-6
        assert found.lower == pytest.approx(wanted, rel=1e-6)
        assert found.upper == pytest.approx(wanted, rel=1e-6)
        assert wanted < solve_exact(x, y, k, make_norm(norm)).lower - 0.01


@pytest.mark.parametrize("norm", ["spectral", "nuclear", "row", "lp3"])
def test_other_norms_have_proven_optima(norm: str) -> None:
    x, y = data(3)
    assert solve_robust(x, y, 3, make_norm(norm), Perturbed("linf", EPS)).gap <= 1e-6


def test_l2_against_l2_is_the_plain_margin_less_eps() -> None:
    """For two classes |w_1 - w_0|_2 = sqrt(2) |W| at the optimum; for more it is at most that, and the margin lies between."""
    for k in (2, 3):
        x, y = data(k)
        plain = solve_exact(x, y, k, make_norm("l2"))
        for share in (0.3, 0.8):
            eps = share * plain.lower / np.sqrt(2)
            robust = solve_robust(x, y, k, make_norm("l2"), Perturbed("l2", eps))
            if k == 2:
                assert robust.lower == pytest.approx((1 - share) * plain.lower, abs=1e-6)
                cosine = (robust.separator * plain.separator).sum()
                assert cosine == pytest.approx(np.linalg.norm(robust.separator) * np.linalg.norm(plain.separator), rel=1e-9)
            else:
                assert (1 - share) * plain.lower + 0.01 < robust.lower < plain.lower


def test_a_radius_beyond_the_largest_is_proven_to_be_one() -> None:
    x, y = data(2)
    largest = solve_exact(x, y, 2, make_norm("l1")).lower  # against max-norm perturbations
    assert solve_robust(x, y, 2, make_norm("l2"), Perturbed("linf", 0.99 * largest)).gap <= 1e-6
    with pytest.raises(NotSeparable, match=r"model\.perturbation=linf model\.eps=.*\(proof: .*smaller model\.eps") as error:
        solve_robust(x, y, 2, make_norm("l2"), Perturbed("linf", 1.01 * largest))
    assert error.value.proven
    with pytest.raises(NotSeparable, match="has no bias"):
        solve_robust(np.vstack([x[:1], x[:1], x]), np.append([0, 1], y), 2, make_norm("l2"), Perturbed("linf", 0.01))


def test_the_cache_knows_the_perturbation_and_believes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = data(3)
    norm, perturbed = make_norm("l2"), Perturbed("linf", EPS)
    found = solve_robust(x, y, 3, norm, perturbed)
    ReferenceCache(tmp_path, perturbed).put(x, y, norm, "exact", found)
    again = ReferenceCache(tmp_path, perturbed).get(x, y, norm, "exact")
    assert isinstance(again, RobustReference)
    assert again.lower == pytest.approx(found.lower, rel=1e-12)
    for other in (None, Perturbed("l2", EPS), Perturbed("linf", 2 * EPS)):
        assert ReferenceCache(tmp_path, other).get(x, y, norm, "exact") is None
    ReferenceCache(tmp_path, perturbed).put(x, y, norm, "exact", replace(found, moves=0 * found.moves))
    assert ReferenceCache(tmp_path, perturbed).get(x, y, norm, "exact") is None
    assert "its bounds are not what its points prove" in capsys.readouterr().err
