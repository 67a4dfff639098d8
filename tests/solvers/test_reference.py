"""The certified references: oracles, published numbers, weak duality, degenerate and impossible data."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linprog

from implicit_bias.core.errors import NotSeparable
from implicit_bias.datasets import make_dataset
from implicit_bias.norms import make_norm
from implicit_bias.solvers import conic, reference
from implicit_bias.solvers import optimum as strategy
from implicit_bias.solvers.primal_dual import Game, project_simplex
from implicit_bias.solvers.reference import Reference, improve_weights, solve_certified, solve_certified_each, solve_exact
from tests.support.quick import quick_of

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
Data = tuple[Array, Labels]

NORMS = ("linf", "l1", "l2", "lp3", "lp1.5", "row", "spectral", "nuclear")
FAST_NORMS = ("linf", "l1", "l2", "row", "spectral", "nuclear")  # whose ball projections are cheap
# Published optima of the dataset with noise 1, seed 1, 10 classes of 50 samples in 25 dimensions.
PUBLISHED = {"linf": 4.00182, "l2": 0.407561, "spectral": 0.980568, "nuclear": 0.146659}


def gaussian_mixture(samples_per_class: int, num_classes: int = 10, dim: int = 25, noise: float = 1.0, seed: int = 1) -> Data:
    rng = np.random.RandomState(seed)
    means = rng.randn(num_classes, dim)
    x = [(means[c][:, None] + noise * rng.randn(dim, samples_per_class)).T for c in range(num_classes)]
    return np.concatenate(x), np.repeat(np.arange(num_classes), samples_per_class)


def separable(seed: int, num_classes: int, dim: int, samples: int) -> Data:
    """Gaussian samples labelled by a random linear teacher: separable, sometimes barely."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((samples, dim))
    return x, (x @ rng.standard_normal((dim, num_classes))).argmax(axis=1)


def pair_matrices(x: Array, y: Labels, num_classes: int) -> Array:
    """Z_ic = (e_{y_i} - e_c) x_i^T one by one, shape (pairs, k d): the definition, written out."""
    rows = []
    for point, label in zip(x, y, strict=True):
        for c in range(num_classes):
            if c != label:
                z = np.zeros((num_classes, x.shape[1]))
                z[label] += point
                z[c] -= point
                rows.append(z.ravel())
    return np.array(rows)


def weight_vector(weights: Array, y: Labels) -> Array:
    """Weights (n, k) in the order of :func:`pair_matrices`."""
    vector: Array = weights[np.arange(weights.shape[1])[None] != y[:, None]]
    return vector


def check(found: Reference, x: Array, y: Labels, num_classes: int, label: str, tol: float = 1e-6) -> None:
    """Recompute the certificate from the definition."""
    norm, z = make_norm(label), pair_matrices(x, y, num_classes)
    assert found.norm == label
    assert found.separator.shape == (num_classes, x.shape[1])
    assert float(norm.value(torch.tensor(found.separator))) == pytest.approx(1, abs=1e-9)
    assert (z @ found.separator.ravel()).min() == pytest.approx(found.lower, rel=1e-9)
    assert (found.weights >= 0).all()
    assert found.weights.sum() == pytest.approx(1, abs=1e-12)
    assert (found.weights[np.arange(len(y)), y] == 0).all()
    combined = (weight_vector(found.weights, y) @ z).reshape(num_classes, -1)
    assert float(norm.dual(torch.tensor(combined))) == pytest.approx(found.upper, rel=1e-9)
    assert 0 < found.lower <= found.upper
    assert found.gap <= tol


def linear_program(x: Array, y: Labels, num_classes: int, label: str) -> float:
    """The l_inf or l1 maximum margin by scipy: maximise t with Z w >= t over the ball."""
    z = pair_matrices(x, y, num_classes)
    pairs, entries = z.shape
    if label == "linf":
        cost = np.append(np.zeros(entries), -1)
        bounds: list[tuple[float | None, float | None]] = [(-1.0, 1.0)] * entries + [(None, None)]
        solution = linprog(cost, np.hstack([-z, np.ones((pairs, 1))]), np.zeros(pairs), bounds=bounds)
    else:  # w = u - v
        cost = np.append(np.zeros(2 * entries), -1)
        ball = np.append(np.ones(2 * entries), 0)[None]
        limits = np.vstack([np.hstack([-z, z, np.ones((pairs, 1))]), ball])
        bounds = [(0.0, None)] * (2 * entries) + [(None, None)]
        solution = linprog(cost, limits, np.append(np.zeros(pairs), 1), bounds=bounds)
    assert solution.status == 0
    return float(-solution.fun)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    num_classes=st.integers(2, 4),
    dim=st.integers(1, 5),
    samples=st.integers(1, 14),
    label=st.sampled_from(NORMS),
)
def test_exact_is_certified_and_agrees_with_the_primal_dual_method(
    seed: int, num_classes: int, dim: int, samples: int, label: str
) -> None:
    x, y = separable(seed, num_classes, dim, samples)
    exact = solve_exact(x, y, num_classes, make_norm(label))
    check(exact, x, y, num_classes, label)
    if label in FAST_NORMS:
        (alone,) = solve_certified(x[None], y[None], num_classes, make_norm(label))
        check(alone, x, y, num_classes, label)
        assert alone.lower <= exact.upper and exact.lower <= alone.upper


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), label=st.sampled_from((*NORMS, "schatten3")))
def test_weak_duality(seed: int, label: str) -> None:
    """No weights whatever prove less than any separator has."""
    x, y = separable(seed, 3, 4, 10)
    game, norm = Game.of(torch.tensor(x)[None], torch.tensor(y)[None], 3), make_norm(label)
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(1, 3, 10, generator=generator, dtype=torch.float64).pow(4) * (1 - game.onehot)
    w = torch.randn(1, 3, 4, generator=generator, dtype=torch.float64)
    assert float(game.lower(w, norm)) <= float(game.upper(weights / weights.sum(), norm)) * (1 + 1e-12)


def test_game_is_the_definition() -> None:
    x, y = separable(0, 4, 3, 9)
    game, z = Game.of(torch.tensor(x)[None], torch.tensor(y)[None], 4), pair_matrices(x, y, 4)
    rng = np.random.default_rng(0)
    w, weights = rng.standard_normal((4, 3)), rng.random((9, 4))
    gaps = game.gaps(torch.tensor(w)[None])[0].mT.numpy()
    assert np.allclose(weight_vector(gaps, y), z @ w.ravel(), atol=1e-14)
    combined = game.combine(torch.tensor(weights).mT[None])[0].numpy()
    assert np.allclose(combined.ravel(), weight_vector(weights, y) @ z, atol=1e-13)
    assert float(game.operator_norm()) == pytest.approx(np.linalg.norm(z, 2), rel=1e-3)


@pytest.mark.parametrize("label", ["linf", "l1"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_linear_programs(label: str, seed: int) -> None:
    x, y = separable(seed, 4, 6, 40)
    optimum = linear_program(x, y, 4, label)
    exact = solve_exact(x, y, 4, make_norm(label))
    (alone,) = solve_certified(x[None], y[None], 4, make_norm(label), tol=1e-9)
    for found in (exact, alone):
        assert found.lower <= optimum * (1 + 1e-9) and optimum <= found.upper * (1 + 1e-9)
    assert alone.lower == pytest.approx(optimum, rel=1e-8)


@pytest.mark.parametrize("label", quick_of(PUBLISHED, "linf", "l2"))
def test_published_numbers(label: str) -> None:
    found = solve_exact(*gaussian_mixture(50), 10, make_norm(label))
    assert found.lower == pytest.approx(PUBLISHED[label], rel=1e-5)
    assert found.upper == pytest.approx(PUBLISHED[label], rel=1e-5)
    assert found.gap <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(("label", "per_class"), [("l2", 50), ("row", 10), ("nuclear", 10)])
def test_published_numbers_without_a_conic_solver(label: str, per_class: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of fewer samples, or in the row norm, nothing is published: there the number is the conic solver's."""
    x, y = gaussian_mixture(per_class)
    known = PUBLISHED[label] if per_class == 50 else solve_exact(x, y, 10, make_norm(label)).lower
    monkeypatch.setattr(reference, "CONIC_SIZE", 0)
    (found,) = solve_certified(x[None], y[None], 10, make_norm(label))
    check(found, x, y, 10, label)
    assert found.solver == "primal-dual"
    assert found.lower == pytest.approx(known, rel=1e-5)


@pytest.mark.parametrize("label", FAST_NORMS)
def test_batch_is_each_alone(label: str) -> None:
    problems = [separable(seed, 3, 5, 20) for seed in range(4)]
    x, y = np.stack([p[0] for p in problems]), np.stack([p[1] for p in problems])
    for (points, labels), found in zip(problems, solve_certified(x, y, 3, make_norm(label)), strict=True):
        check(found, points, labels, 3, label)
        (alone,) = solve_certified(points[None], labels[None], 3, make_norm(label))
        assert alone.lower <= found.upper and found.lower <= alone.upper


IMPOSSIBLE: dict[str, Data] = {
    "noise": gaussian_mixture(30, 3, 2, 2.0),
    "xor": (np.array([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]]), np.array([0, 0, 1, 1])),
    "one point, two labels": (np.array([[1.0, 2.0], [1.0, 2.0], [0.0, -1.0]]), np.array([0, 1, 1])),
    "no features": (np.zeros((4, 3)), np.array([0, 1, 0, 1])),
    "a sample at the origin": (np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([0, 1])),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
@pytest.mark.parametrize("label", ["linf", "l2", "spectral", "nuclear"])
def test_not_separable(case: str, label: str) -> None:
    x, y = IMPOSSIBLE[case]
    k = int(y.max()) + 1
    with pytest.raises(NotSeparable, match=r"a linear model, which has no bias \(proof: weights on .*reference=none"):
        solve_exact(x, y, k, make_norm(label))
    with pytest.raises(NotSeparable, match="cannot be separated"):
        solve_certified(x[None], y[None], k, make_norm(label))


def test_one_dataset_that_is_not_separable_does_not_spoil_the_others() -> None:
    x, y = separable(0, 2, 2, 4)
    bad_x, bad_y = IMPOSSIBLE["xor"]
    good, bad = solve_certified_each(np.stack([x, bad_x]), np.stack([y, bad_y]), 2, make_norm("l2"))
    assert isinstance(bad, NotSeparable)
    assert isinstance(good, Reference)
    check(good, x, y, 2, "l2")


@pytest.mark.parametrize("distance", [1e-3, 1e-5])
@pytest.mark.parametrize("label", ["linf", "l2", "spectral", "nuclear"])
def test_barely_separable(label: str, distance: float) -> None:
    """Two samples of different classes, ``distance`` apart, in data that is otherwise easy."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20, 3))
    x = x[np.abs(x[:, 0]) > 0.5]
    x = np.vstack([x, [[distance / 2, 1.0, 0.0], [-distance / 2, 1.0, 0.0]]])
    y = (x[:, 0] > 0).astype(np.int64)
    check(solve_exact(x, y, 2, make_norm(label)), x, y, 2, label)


@pytest.mark.parametrize("label", FAST_NORMS)
def test_degenerate_data(label: str) -> None:
    """Duplicates, features that are zero throughout, the scale and the order of samples do not matter."""
    x, y = separable(3, 3, 4, 12)
    norm = make_norm(label)
    plain = solve_exact(x, y, 3, norm)
    order = np.random.default_rng(0).permutation(24)
    variants: list[tuple[Data, float]] = [
        ((np.vstack([x, x])[order], np.append(y, y)[order]), 1.0),
        ((np.insert(x, [0, 2, 4], 0.0, axis=1), y), 1.0),
        ((1e-6 * x, y), 1e-6),
        ((1e6 * x, y), 1e6),
    ]
    for (points, labels), scale in variants:
        found = solve_exact(points, labels, 3, norm)
        check(found, points, labels, 3, label)
        (alone,) = solve_certified(points[None], labels[None], 3, norm)
        check(alone, points, labels, 3, label)
        assert found.lower == pytest.approx(scale * plain.lower, rel=2e-6)
        assert alone.lower == pytest.approx(scale * plain.lower, rel=2e-6)
    wide = solve_exact(np.insert(x, [0, 2, 4], 0.0, axis=1), y, 3, norm)
    assert (wide.separator[:, [0, 3, 6]] == 0).all()


def test_closed_forms() -> None:
    """Two classes of one sample, x and -x: gaps are 2 <v, x> with v = (w_0 - w_1) / 2; one sample a class on the axes."""
    x, y = np.array([[3.0, 4.0], [-3.0, -4.0]]), np.array([0, 1])
    # max over N(W) <= 1 of <w_0 - w_1, x>: the dual norm of the matrix (x, -x).
    for label, optimum in {"linf": 14, "l1": 4, "l2": 5 * 2**0.5, "spectral": 5 * 2**0.5, "nuclear": 5 * 2**0.5}.items():
        assert solve_exact(x, y, 2, make_norm(label)).lower == pytest.approx(optimum, rel=1e-6)
    # W = identity is best for the unit vectors under the max-norm with -1 elsewhere: gaps of 2.
    assert solve_exact(np.eye(3), np.arange(3), 3, make_norm("linf")).lower == pytest.approx(2, rel=1e-6)


def test_an_inexact_conic_answer_is_finished_by_the_primal_dual_method(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = separable(1, 3, 4, 20)
    monkeypatch.setattr(conic, "TOLERANCE", 1e-2)
    monkeypatch.setattr(strategy, "trials", lambda *_: iter(()))
    found = solve_exact(x, y, 3, make_norm("spectral"))
    assert found.solver == "clarabel+primal-dual"
    check(found, x, y, 3, "spectral")


def test_a_conic_solver_that_fails_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its failure proves nothing: separability is then decided by a linear program."""
    x, y = separable(1, 3, 4, 20)
    monkeypatch.setattr(strategy, "solve_conic", lambda *_, **__: None)
    found = solve_exact(x, y, 3, make_norm("l2"))
    assert found.solver == "clarabel+primal-dual"
    check(found, x, y, 3, "l2")


def test_large_linear_programs_go_to_highs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "CONIC_SIZE", 0)
    x, y = gaussian_mixture(5, 4, 10)
    for label in ("linf", "l1"):
        found = solve_exact(x, y, 4, make_norm(label))
        assert found.solver == "highs"
        check(found, x, y, 4, label)
    assert solve_exact(x, y, 4, make_norm("l2")).solver == "primal-dual"


def test_too_few_iterations_still_enclose_the_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = gaussian_mixture(10)
    optimum = solve_exact(x, y, 10, make_norm("l2"))
    monkeypatch.setattr(reference, "CONIC_SIZE", 0)
    (rough,) = solve_certified(x[None], y[None], 10, make_norm("l2"), max_iterations=130)
    assert rough.gap > 1e-6
    assert rough.lower <= optimum.upper and optimum.lower <= rough.upper


@pytest.mark.slow
@pytest.mark.parametrize("label", ["linf", "l2", "spectral", "nuclear"])
def test_improve_weights(label: str) -> None:
    """From the free weights exp(-gap) of a descent's iterate: never worse, and nearly tight after some steps."""
    problems = [gaussian_mixture(5, 4, 8, 0.7, seed) for seed in (1, 2)]
    x, y = (torch.tensor(np.stack([p[j] for p in problems])) for j in (0, 1))
    norm, game = make_norm(label), Game.of(x, y, 4)
    w, weights = torch.zeros(2, 4, 8, dtype=torch.float64), game.uniform()
    for t in range(1, 500):
        w = w + 0.1 * t**-0.5 * norm.direction(game.combine(weights))
        weights = (-game.gaps(w) - 1e30 * game.onehot).flatten(1).softmax(dim=1).view_as(weights)
    free = game.upper(weights, norm)
    optimum = torch.tensor([solve_exact(*p, 4, norm).lower for p in problems], dtype=torch.float64)
    assert (free >= 1.01 * optimum).all(), "there is something to improve"
    for separator in (None, w):
        tight, upper = improve_weights(x, y, norm, weights.mT, separator, 300)
        assert torch.allclose(game.upper(tight.mT.contiguous(), norm), upper, rtol=1e-12)
        assert (tight >= 0).all() and torch.allclose(tight.sum(dim=(1, 2)), torch.ones(2, dtype=torch.float64))
        assert (upper <= free).all() and (upper >= optimum * (1 - 1e-9)).all()
        assert (upper <= 1.002 * optimum).all()
        _, nothing = improve_weights(x, y, norm, weights.mT, separator, 0)
        assert torch.allclose(nothing, free, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("label", FAST_NORMS)
def test_round_off_does_not_grow(label: str) -> None:
    """Certificates are recorded, and must not depend on the batch a run is in, nor on the call."""
    points, labels = gaussian_mixture(10, 5, 12, 0.7)
    x, y = torch.tensor(points)[None], torch.tensor(labels)[None]
    weights = Game.of(x, y, 5).uniform().mT
    noise = 1 + 1e-15 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    _, upper = improve_weights(x, y, make_norm(label), weights, None, 250)
    both = torch.cat([weights * noise, weights])
    _, batched = improve_weights(torch.cat([x, x]), torch.cat([y, y]), make_norm(label), both, None, 250)
    assert torch.allclose(upper, batched, rtol=1e-9)


def test_simplex_projection() -> None:
    rng = np.random.default_rng(0)
    for scale in (1e-6, 1.0, 1e6):
        v = torch.tensor(scale * rng.standard_normal((5, 50)))
        for start in (-1e9, 0.0, 1e9):
            found, _ = project_simplex(v, torch.full((5, 1), start, dtype=torch.float64))
            ordered = v.sort(dim=1, descending=True).values
            excess = (ordered.cumsum(1) - 1) / torch.arange(1, 51)
            threshold = excess.gather(1, (ordered > excess).sum(1, keepdim=True) - 1)
            assert torch.allclose(found, (v - threshold).clamp(min=0), atol=1e-12 * max(scale, 1))


def idx(path: Path, header: int) -> NDArray[np.uint8]:
    return np.frombuffer(gzip.decompress(path.read_bytes())[header:], np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize(("label", "per_class"), [("l2", 30), ("nuclear", 10)])
def test_mnist(label: str, per_class: int) -> None:
    """A hundred images and more, d = 784, dead pixels dropped: beyond the conic solver."""
    folder = Path(os.environ.get("IMPLICIT_BIAS_DATA", "/nonexistent"))
    files = {name: next(folder.rglob(f"t10k-{name}.gz"), None) for name in ("images-idx3-ubyte", "labels-idx1-ubyte")}
    images, labels = files["images-idx3-ubyte"], files["labels-idx1-ubyte"]
    if images is None or labels is None:
        pytest.skip("no MNIST under $IMPLICIT_BIAS_DATA")
    y = idx(labels, 8).astype(np.int64)
    chosen = np.concatenate([np.flatnonzero(y == c)[:per_class] for c in range(10)])
    x = idx(images, 16).reshape(-1, 784)[chosen] / 255.0
    found = solve_exact(x, y[chosen], 10, make_norm(label), tol=1e-4)
    assert found.solver == "primal-dual"
    check(found, x, y[chosen], 10, label, tol=1e-4)


def mixtures(seeds: range) -> tuple[np.ndarray, np.ndarray]:
    """Data of a sweep over data seeds, k=5, d=20, ten a class, noise .5: (R, 50, 20), (R, 50)."""
    keys = {"name": "gaussian_mixture", "num_classes": 5, "dim": 20, "samples_per_class": 10, "noise": 0.5}
    sets = [make_dataset({**keys, "seed": seed}).load() for seed in seeds]
    return np.stack([s.x for s in sets]), np.stack([s.y for s in sets])


@pytest.mark.slow
@pytest.mark.parametrize("label", ["linf", "l2", "spectral"])
def test_a_batch_over_data_seeds_is_certified_and_agrees_with_cvxpy(label: str) -> None:
    """Seed 30 is among them: its spectral optimum is all but degenerate, and takes first-order steps by the 100,000."""
    x, y = mixtures(range(25, 33))
    found = solve_certified(x, y, 5, make_norm(label))
    for r, certified in enumerate(found):
        assert 0 <= (certified.upper - certified.lower) / certified.upper <= 1e-6
        exact = solve_exact(x[r], y[r], 5, make_norm(label))
        assert exact.solver.startswith("clarabel")
        assert certified.lower <= exact.upper * (1 + 1e-12)
        assert exact.lower <= certified.upper * (1 + 1e-12)
        assert certified.lower == pytest.approx(exact.lower, rel=2e-6)
