"""Maximum margins of Gaussian data in closed form, against linear programs and values computed independently."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import linprog

from implicit_bias.measures.margin_limits import label_error, logistic_label_limit, random_label_limit
from tests.support.datasets import load


def l1_margin(z: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """max over |theta|_1 <= 1 of min_i <z_i, theta>, by HiGHS, and where."""
    n, p = z.shape
    above = np.hstack([-z, z, np.ones((n, 1))])
    cost, total = np.r_[np.zeros(2 * p), -1.0], np.r_[np.ones(2 * p), 0.0][None]
    bounds = [(0, None)] * (2 * p) + [(None, None)]
    found = linprog(cost, A_ub=above, b_ub=np.zeros(n), A_eq=total, b_eq=[1.0], bounds=bounds, method="highs")
    return -found.fun, found.x[:p] - found.x[p : 2 * p]


@pytest.mark.parametrize(
    ("psi", "l1", "active", "l2", "linf", "clipped"),
    [
        (0.6, 0.1500, 0.909, 0.1166, 0.0553, 0.101),
        (1.0, 0.6574, 0.662, 0.4707, 0.2852, 0.349),
        (3.0, 2.4218, 0.278, 1.4240, 1.0310, 0.708),
        (10.0, 6.3113, 0.092, 3.0000, 2.3240, 0.901),
    ],
)
def test_random_labels(psi: float, l1: float, active: float, l2: float, linf: float, clipped: float) -> None:
    """An independent computation of the same formulas, to its printed digits."""
    limits = {norm: random_label_limit(norm, psi) for norm in ("l1", "l2", "linf")}
    assert [limits[norm].margin for norm in limits] == pytest.approx([l1, l2, linf], abs=6e-5)
    assert [limits["l1"].share, limits["linf"].share] == pytest.approx([active, clipped], abs=6e-4)
    assert math.isnan(limits["l2"].share)
    assert {(limit.cosine, limit.error) for limit in limits.values()} == {(0.0, 0.5)}


def test_far_beyond_the_threshold_the_l2_margin_is_that_of_orthogonal_samples() -> None:
    """Gaussian samples in many dimensions are nearly orthogonal, of length sqrt(p): the margin tends to sqrt(p / n) minus one."""
    psi = 1e8
    assert random_label_limit("l2", psi).margin == pytest.approx(math.sqrt(psi), rel=1e-4)


@pytest.mark.parametrize(
    ("strength", "psi", "margin", "active", "cosine", "error"),
    [
        (5.0, 0.5, 0.4879, 0.817, 0.740, 0.2544),
        (5.0, 2.0, 1.9532, 0.373, 0.373, 0.3856),
        (2.0, 1.0, 0.8849, 0.615, 0.428, 0.3947),
    ],
)
def test_labels_with_a_signal(strength: float, psi: float, margin: float, active: float, cosine: float, error: float) -> None:
    limit = logistic_label_limit(psi, strength)
    assert [limit.margin, limit.share, limit.cosine, limit.error] == pytest.approx([margin, active, cosine, error], abs=6e-4)


def test_a_weak_signal_is_none() -> None:
    assert logistic_label_limit(2.0, 1e-6).margin == pytest.approx(random_label_limit("l1", 2.0).margin, abs=1e-5)


def test_linear_programs_come_near_the_limit() -> None:
    """Means of eight seeds at n = 80, within four standard errors; the test error is that of many new samples."""
    strength, n, seeds = 5.0, 80, range(8)
    margins, errors = [], []
    for seed in seeds:
        data = load("linear_teacher", dim=n, samples=n, strength=strength, test_samples=2000, seed=seed)
        assert data.x_test is not None and data.y_test is not None
        margin, theta = l1_margin(np.where(data.y, 1, -1)[:, None] * data.x)
        margins.append(margin * math.sqrt(n))
        errors.append(float(((data.x_test @ theta > 0) != data.y_test).mean()))
    limit = logistic_label_limit(1.0, strength)
    for found, expected in ((margins, limit.margin), (errors, limit.error)):
        assert abs(np.mean(found) - expected) < 4 * np.std(found, ddof=1) / math.sqrt(len(seeds))


def test_label_error_is_a_probability_of_two_gaussians() -> None:
    """By sampling: V along the signal with its label's sign, a separator at cosine c."""
    rng, strength, cosine, count = np.random.default_rng(0), 3.0, 0.6, 200_000
    u, z = rng.standard_normal(count), rng.standard_normal(count)
    y = np.where(rng.random(count) < 1 / (1 + np.exp(-strength * u)), 1, -1)
    share = float((y * (cosine * u + math.sqrt(1 - cosine**2) * z) < 0).mean())
    assert abs(label_error(cosine, strength) - share) < 4 * math.sqrt(share * (1 - share) / count)
    assert label_error(0.0, strength) == pytest.approx(0.5)
    # Without noise the angle says all.
    assert label_error(cosine, 1e3) == pytest.approx(math.acos(cosine) / math.pi, abs=3e-3)


@pytest.mark.parametrize(("norm", "psi", "told"), [("l1", 0.5, "must be > 1/2"), ("l3", 1.0, "must be l1, l2 or linf")])
def test_refused(norm: str, psi: float, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        random_label_limit(norm, psi)


def test_classes_that_cannot_be_separated_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be separated"):
        logistic_label_limit(0.1, 1.0)
