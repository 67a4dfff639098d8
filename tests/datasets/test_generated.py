"""Datasets that are drawn: exact recipes and published values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from implicit_bias.core.errors import BadInput
from implicit_bias.datasets import Dataset
from implicit_bias.datasets.linear_teacher import LinearTeacher
from tests.support.datasets import load, refused


@pytest.mark.parametrize(
    ("classes", "dim", "per_class", "noise", "seed"),
    [(10, 25, 50, 1.0, 1), (15, 7, 3, 0.1, 12344), (2, 1, 1, 0.0, 0)],
)
def test_mixture_is_the_published_recipe(classes: int, dim: int, per_class: int, noise: float, seed: int) -> None:
    """Number by number, from the legacy global generator that the paper's own code draws from."""
    state = np.random.get_state()
    try:
        np.random.seed(seed)
        means = [[np.random.standard_normal() for _ in range(dim)] for _ in range(classes)]
        rows = []
        for mean in means:
            draws = [[np.random.standard_normal() for _ in range(per_class)] for _ in range(dim)]
            rows += [[mean[j] + noise * draws[j][i] for j in range(dim)] for i in range(per_class)]
    finally:
        np.random.set_state(state)
    data = load("gaussian_mixture", num_classes=classes, dim=dim, samples_per_class=per_class, noise=noise, seed=seed)
    assert np.array_equal(data.x, np.array(rows))
    assert data.y.tolist() == [c for c in range(classes) for _ in range(per_class)]
    assert data.num_classes == classes


def test_mixture_has_the_published_values() -> None:
    """arXiv:2502.04664: the largest sum-norm of a sample, and the max-norm margin, by a linear program."""
    data = load("gaussian_mixture", samples_per_class=50, noise=1.0, seed=1)
    assert data.x.shape == (500, 25)
    assert np.abs(data.x).sum(axis=1).max() == pytest.approx(43.9, abs=0.05)
    assert max_norm_margin(data) == pytest.approx(4.00182, rel=1e-5)


def max_norm_margin(data: Dataset) -> float:
    """max t such that every gap of some W with entries in [-1, 1] is at least t."""
    k, d = data.num_classes, data.x.shape[1]
    rows = []
    for x, label in zip(data.x, data.y, strict=True):
        for c in range(k):
            if c != label:
                gap = np.zeros((k, d))
                gap[label], gap[c] = x, -x
                rows.append(np.append(-gap.ravel(), 1.0))
    objective = np.append(np.zeros(k * d), -1.0)
    bounds = [(-1, 1)] * (k * d) + [(None, None)]
    result = linprog(objective, A_ub=np.array(rows), b_ub=np.zeros(len(rows)), bounds=bounds)
    assert result.status == 0
    return float(-result.fun)


def test_random_labels_recipe() -> None:
    rng = np.random.RandomState(7)
    x = rng.randn(50, 3)
    y = np.concatenate([np.arange(5), rng.randint(5, size=45)])
    rng.shuffle(y)
    data = load("random_labels", num_classes=5, dim=3, samples=50, seed=7)
    assert np.array_equal(data.x, x) and np.array_equal(data.y, y)


def test_random_labels_of_as_many_classes_as_samples() -> None:
    assert sorted(load("random_labels", num_classes=6, samples=6).y.tolist()) == list(range(6))


def test_random_labels_are_uniform() -> None:
    counts = np.bincount(load("random_labels", num_classes=4, dim=1, samples=40_000).y)
    assert np.abs(counts - 10_000).max() < 450  # five standard deviations


def test_teacher_student_recipe() -> None:
    """Draw by draw as documented, with the teacher as one dense matrix."""
    rng = np.random.RandomState(4)
    w = np.zeros((7, 30))
    for row in w:
        positions = rng.choice(30, 5, replace=False)
        row[positions] = rng.randn(5)
    u = 2 * rng.randint(2, size=7) - 1
    x = rng.randn(60, 30)
    data = load("teacher_student", dim=30, samples=40, test_samples=20, neurons=7, active=5, seed=4)
    assert data.x_test is not None and data.y_test is not None and data.num_classes == 2
    assert np.array_equal(np.concatenate([data.x, data.x_test]), x) and data.x.shape == (40, 30)
    assert np.array_equal(np.concatenate([data.y, data.y_test]), np.maximum(x @ w.T, 0) @ u > 0)


@given(
    dim=st.integers(3, 20),
    samples=st.integers(10, 40),
    test_samples=st.integers(0, 30),
    neurons=st.integers(4, 20),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=30, deadline=None)
def test_teacher_student_trains_on_the_same_whatever_is_tested(
    dim: int, samples: int, test_samples: int, neurons: int, seed: int
) -> None:
    fields = {"dim": dim, "samples": samples, "neurons": neurons, "seed": seed}
    try:
        data = load("teacher_student", test_samples=test_samples, **fields)
    except BadInput as error:  # a class that nothing of the training data is in
        assert str(error).startswith(f"dataset.seed={seed}: all {samples} training samples are of class ")
        refused(lambda: load("teacher_student", test_samples=0, **fields), f"dataset.seed={seed}:")
        return
    alone = load("teacher_student", test_samples=0, **fields)
    assert alone.x_test is None and alone.y_test is None
    assert np.array_equal(data.x, alone.x) and np.array_equal(data.y, alone.y) and data.x.shape == (samples, dim)
    assert (0 if data.x_test is None else len(data.x_test)) == test_samples


def test_teacher_student_defaults() -> None:
    data = load("teacher_student")
    assert data.x.shape == (250, 2048) and data.x_test is not None and data.x_test.shape == (2000, 2048)
    assert data.y_test is not None and 0.1 < data.y_test.mean() < 0.9
    assert abs(data.x.mean()) < 0.01 and abs(data.x.std() - 1) < 0.01


def test_teacher_student_of_one_class() -> None:
    """One neuron: where its sign is -1, every label is 0."""
    seeds = range(20)
    messages = []
    for seed in seeds:
        try:
            load("teacher_student", dim=3, neurons=1, seed=seed)
        except BadInput as error:
            messages.append(str(error))
            assert messages[-1].startswith(f"dataset.seed={seed}: all 250 training samples are of class 0; must be ")
    assert 0 < len(messages) < len(seeds)


def test_linear_teacher_recipe() -> None:
    """Draw by draw as documented: dense with labels by chance, sparse with samples that have no label drawn again."""
    rng = np.random.RandomState(4)
    w = rng.randn(30)
    w /= np.linalg.norm(w)
    more = np.random.RandomState([4, 1])
    lots = [(x, of.rand(n) < 1 / (1 + np.exp(-2 * (x @ w)))) for of, n in ((rng, 40), (more, 20)) for x in [of.randn(n, 30)]]
    data = load("linear_teacher", dim=30, samples=40, test_samples=20, strength=2.0, seed=4)
    assert data.x_test is not None and data.y_test is not None and data.num_classes == 2
    for x, y, (expected_x, expected_y) in zip((data.x, data.x_test), (data.y, data.y_test), lots, strict=True):
        assert np.array_equal(x, expected_x) and np.array_equal(y, expected_y)
    assert np.allclose(LinearTeacher(dim=30, seed=4).teacher(), w)
    turned = LinearTeacher(dim=30, samples=40, rotate=7, seed=4)
    assert np.array_equal(turned.load().x @ turned.teacher() > 0, turned.load().y)

    rng, w = np.random.RandomState(4), np.zeros(30)
    at = rng.choice(30, 5, replace=False)
    w[at] = rng.randn(5)
    x = np.zeros((40, 30))
    left = list(range(40))
    while left:
        for row in left:
            x[row] = 0
            at = rng.choice(30, 2, replace=False)
            x[row, at] = rng.randn(2)
        left = [row for row in left if x[row] @ w == 0]
    sparse = load("linear_teacher", dim=30, samples=40, test_samples=0, teacher_active=5, active=2, seed=4)
    assert sparse.x_test is None and np.array_equal(sparse.x, x) and np.array_equal(sparse.y, x @ w > 0)


def test_linear_teacher_refuses() -> None:
    refused(lambda: load("linear_teacher", dim=9, active=10), "dataset.active=10: must be <= dataset.dim=9")
    refused(lambda: load("linear_teacher", strength=0.0), "dataset.strength=0.0: must be > 0")
    refused(lambda: load("linear_teacher", dim=10**5, active=1, teacher_active=1), "dataset.active=1: one sample in 100000 ")
    one = refused(lambda: [load("linear_teacher", samples=2, dim=1, seed=seed) for seed in range(20)], "dataset.seed=")
    assert "all 2 training samples are of class" in one
