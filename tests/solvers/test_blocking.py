"""Samples that stand in the way of a separation: against all smaller sets, and where there are none."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from sklearn.datasets import load_iris

from implicit_bias.solvers.blocking import blocking_samples, is_separable, separates


def feasible(x: np.ndarray, y: np.ndarray, k: int) -> bool:
    """Whether all gaps can be >= 1, by one linear program of its own."""
    rows = [np.kron(np.eye(k)[y[i]] - np.eye(k)[c], x[i]) for i in range(len(x)) for c in range(k) if c != y[i]]
    return bool(
        linprog(np.zeros(x.shape[1] * k), A_ub=-np.array(rows), b_ub=-np.ones(len(rows)), bounds=(None, None)).status == 0
    )


@example(326, 3)  # where W = 0 is a solution of the linear program
@given(st.integers(0, 10**6), st.integers(2, 3))
@settings(max_examples=8, deadline=None)
def test_the_others_can_be_separated_and_with_any_of_them_cannot(seed: int, k: int) -> None:
    rng = np.random.RandomState(seed)
    x, y = rng.randn(14, 3), np.concatenate([np.arange(k), rng.randint(k, size=14 - k)])
    found = blocking_samples(x, y, k, 10.0)
    assert found is not None and found.irreducible
    others = np.setdiff1d(np.arange(14), found.samples)
    assert feasible(x[others], y[others], k)
    for sample in found.samples:
        together = np.append(others, sample)
        assert not feasible(x[together], y[together], k)
    assert separates(x, y, k, 10.0) is (len(found.samples) == 0) is feasible(x, y, k)


def test_iris_has_a_smallest_set_of_two_samples_and_of_one_with_a_constant() -> None:
    x, y = load_iris(return_X_y=True)
    x, y = x[50:], y[50:] - 1
    found = blocking_samples(x, y, 2, 10.0)
    assert found is not None and found.samples == (22, 33) and found.irreducible
    assert not any(feasible(np.delete(x, i, axis=0), np.delete(y, i), 2) for i in (22, 33))
    with_one = blocking_samples(np.hstack([x, np.ones((100, 1))]), y, 2, 10.0)
    assert with_one is not None and len(with_one.samples) == 1


@pytest.mark.parametrize("scale", [1e-90, 1e90])
def test_features_of_any_size(scale: float) -> None:
    x, y = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]) * scale, np.array([0, 1, 1])
    found = blocking_samples(x, y, 2, 5.0)
    assert found is not None and found.samples in ((0,), (2,))
    assert is_separable(x[:2], y[:2], 2, 5.0) is True and is_separable(x, y, 2, 5.0) is False


def test_data_that_are_too_large_are_not_tried() -> None:
    x, y = np.ones((2000, 200)), np.arange(2000) % 10
    assert (separates(x, y, 10, 1.0), is_separable(x, y, 10, 1.0), blocking_samples(x, y, 10, 1.0)) == (None, None, None)
