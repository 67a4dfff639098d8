"""Where Adam ends at any batch size, single samples without momentum, and the throttle of a constant step."""

import math
from pathlib import Path

import numpy as np
import pytest

from implicit_bias import run
from implicit_bias.core.errors import NotSeparable
from implicit_bias.datasets.gaussian_mixture import GaussianMixture
from implicit_bias.measures.adam_limits import AdamLimit, adam_limit, batch_one_limit, throttled_rate
from implicit_bias.norms import make_norm
from implicit_bias.solvers.reference import solve_exact

N, D = 12, 50
# Margin in the max-norm over its optimum at b = 1, 2, 3, 4, 6, 12, from an independent computation of the fixed point.
PREDICTED = {0: (0.4706, 0.5405, 0.5967, 0.6448, 0.7277, 1.0), 1: (0.5831, 0.6413, 0.6876, 0.7259, 0.7885, 1.0)}
BATCHES = (1, 2, 3, 4, 6, 12)


def signed(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two classes with (e_y - e_c) x^T = (-z, z) up to the order of rows."""
    y = np.arange(len(z)) % 2
    return np.where(y == 1, 1.0, -1.0)[:, None] * z, y


def smallest_gap(w: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    scores = x @ w.T
    gaps = np.take_along_axis(scores, y[:, None], axis=1) - scores
    return float(gaps[np.arange(len(w))[None, :] != y[:, None]].min())


def ratio(found: AdamLimit, x: np.ndarray, y: np.ndarray, label: str) -> float:
    """The margin of the limit over the optimum under a norm."""
    import torch

    norm = make_norm(label)
    assert found.margin == pytest.approx(smallest_gap(found.separator, x, y), rel=1e-12)
    size = float(norm.value(torch.from_numpy(found.separator)[None])[0])
    return smallest_gap(found.separator, x, y) / size / solve_exact(x, y, len(found.separator), norm).lower


@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_the_independent_computation_at_every_batch_size(seed: int) -> None:
    x, y = signed(np.random.RandomState(seed).randn(N, D))
    got = [ratio(adam_limit(x, y, 2, batch), x, y, "linf") for batch in BATCHES]
    np.testing.assert_allclose(got, PREDICTED[seed], atol=5.1e-5)


@pytest.mark.parametrize("batch", [1, 4, 12, 23])
def test_a_limit_is_the_maximum_margin_of_the_norm_that_its_weights_make(batch: int) -> None:
    """Stationarity, by the definitions: W ~ M(c)^-1 sum g, smallest gaps where c > 0, M the mean of batch gradients' squares."""
    data = GaussianMixture(num_classes=4, dim=12, samples_per_class=6, seed=1).load()
    x, y, c = data.x, data.y, (found := adam_limit(data.x, data.y, 4, batch)).weights
    assert found.residual <= 1e-9 and c.sum() == pytest.approx(1) and (c >= 0).all() and not c[np.arange(24), y].any()
    parts = np.stack([np.outer(np.eye(4)[y[i]] * c[i].sum() - c[i], x[i]) for i in range(24)])
    rng = np.random.default_rng(0)
    chosen = rng.permuted(np.tile(np.arange(24), (40_000, 1)), axis=1) < batch
    drawn = (chosen @ parts.reshape(24, -1)).reshape(-1, *parts.shape[1:])
    mean = np.sqrt(np.square(drawn).mean(axis=0) / batch * 24)
    np.testing.assert_allclose(found.metric, mean, rtol=0.03)
    towards = parts.sum(axis=0) / found.metric
    np.testing.assert_allclose(found.separator, towards / np.abs(towards).max(), atol=1e-8)
    scores = x @ found.separator.T
    gaps = np.take_along_axis(scores, y[:, None], axis=1) - scores
    gaps[np.arange(24), y] = np.inf
    assert gaps[c > 1e-9].max() == pytest.approx(gaps.min(), rel=1e-7)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_full_batch_gives_the_optimum_of_the_max_norm(classes: int) -> None:
    data = GaussianMixture(num_classes=classes, dim=48 // classes, samples_per_class=6, seed=3).load()
    found = adam_limit(data.x, data.y, classes, len(data.y))
    assert ratio(found, data.x, data.y, "linf") == pytest.approx(1, abs=1e-6)
    assert ratio(found, data.x, data.y, "l2") < 0.95


def test_single_samples_of_equal_sizes_give_the_optimum_of_l2() -> None:
    """Scaled Rademacher data: |x_ij| = a_i (Baek, Song and Yun, Theorem 3.3)."""
    rng = np.random.RandomState(2)
    x, y = signed(np.exp(rng.uniform(-0.7, 0.7, N))[:, None] * rng.choice([-1.0, 1.0], (N, D)))
    found = adam_limit(x, y, 2, 1)
    assert ratio(found, x, y, "l2") == pytest.approx(1, abs=1e-7)
    assert ratio(found, x, y, "linf") < 0.8
    # Larger batches count the sum as well, which is not of one size.
    assert ratio(adam_limit(x, y, 2, 4), x, y, "l2") < 0.999


def test_neither_units_nor_one_sample_matter() -> None:
    x, y = signed(np.random.RandomState(0).randn(N, D))
    for batch in (1, 5, 12):
        far, near = adam_limit(1e150 * x, y, 2, batch), adam_limit(x, y, 2, batch)
        np.testing.assert_allclose(far.separator, near.separator, atol=1e-7)
    alone = adam_limit(x[:1], y[:1], 2, 1)
    np.testing.assert_allclose(alone.separator[y[0]], np.sign(x[0]))


def test_what_has_no_limit_is_refused() -> None:
    x, y = signed(np.random.RandomState(0).randn(N, D))
    for batch in (0, N + 1):
        with pytest.raises(ValueError, match=rf"^batch is {batch}; must be in 1\.\.12$"):
            adam_limit(x, y, 2, batch)
    with pytest.raises(NotSeparable, match="no linear model separates"):
        adam_limit(np.concatenate([x, x]), np.concatenate([y, 1 - y]), 2, 1)
    with pytest.raises(ArithmeticError, match=r"^batch 3: the weights still move by .* after 2 iterations$"):
        adam_limit(x, y, 2, 3, most=2)


def test_single_samples_without_momentum_go_along_the_sum_of_their_directions() -> None:
    x = np.array([[3.0, -4.0], [0.0, 2.0]])
    assert batch_one_limit(x, [1, 0], make_norm("linf")).tolist() == [[-1.0, 2.0], [1.0, -2.0]]
    np.testing.assert_allclose(batch_one_limit(x, [1, 0], make_norm("l2")), np.sqrt(0.5) * np.array([[-0.6, 1.8], [0.6, -1.8]]))
    with pytest.raises(ValueError, match="labels must be 0 or 1"):
        batch_one_limit(x, [1, 2], make_norm("l2"))


# --- the throttle ----------------------------------------------------------------------------------------------------


def test_the_throttle_is_the_root_and_below_its_cap() -> None:
    for rate, beta1, beta2 in ((0.003, 0.9, 0.95), (0.3, 0.9, 0.99), (2.0, 0.0, 0.5), (1e-4, 0.9, 0.9998)):
        r = throttled_rate(rate, beta1, beta2)
        assert 0 < r < -math.log(beta2) / 2
        squared = (1 - beta2 * math.exp(2 * r)) / (1 - beta2)
        assert rate * (1 - beta1) / (1 - beta1 * math.exp(r)) * math.sqrt(squared) == pytest.approx(r, rel=1e-6)
    # Small steps are not throttled; however large, they are capped.
    assert throttled_rate(1e-9, 0.9, 0.95) == pytest.approx(1e-9, rel=1e-6)
    assert throttled_rate(1e12, 0.9, 0.99) == pytest.approx(-math.log(0.99) / 2, rel=1e-12)
    assert throttled_rate(0.1, 0.0, 0.0) == 0.1
    for wrong in ((0.0, 0.9, 0.99), (math.inf, 0.9, 0.99), (0.1, 0.95, 0.9), (0.1, 0.9, 1.0), (0.1, -0.1, 0.9)):
        with pytest.raises(ValueError, match="need 0 < rate"):
            throttled_rate(*wrong)


@pytest.mark.parametrize(
    ("beta2", "steps", "law"),
    [pytest.param(0.99, 15_000, 0.005023, marks=pytest.mark.slow), pytest.param(0.999, 30_000, 0.000500, marks=pytest.mark.slow)],
)
def test_a_run_is_throttled_by_the_law(tmp_path: Path, beta2: float, steps: int, law: float) -> None:
    words = ("optimizer=adam", "schedule=constant", "schedule.lr=0.03", f"optimizer.beta2={beta2}", "log.norms=[]")
    trajectory, _ = run(*words, f"steps={steps}", "progress=off", f"results_dir={tmp_path}")
    late = trajectory[trajectory["step"] >= steps * 0.8].iloc[[0, -1]]
    measured = -np.diff(late["log_loss"])[0] / np.diff(late["step"])[0]
    predicted = throttled_rate(0.03 * late["max_margin"].iloc[0], 0.9, beta2)
    assert predicted == pytest.approx(law, abs=1e-6)
    assert measured == pytest.approx(predicted, abs=5e-7)


def test_decay_stops_the_full_batch_at_one_and_single_samples_where_their_own_formula_says() -> None:
    rng = np.random.RandomState(5)
    x, y = rng.randn(12, 50), np.arange(12) % 2
    full, single = (adam_limit(x, y, 2, batch) for batch in (len(x), 1))
    assert full.decayed == pytest.approx(1, abs=1e-9)
    towards = (2.0 * y - 1)[:, None] * x * single.weights.sum(axis=1)[:, None]
    asked = np.abs(towards.sum(axis=0)) / np.sqrt(len(x) * np.square(towards).sum(axis=0))
    assert single.decayed == pytest.approx(asked.max(), rel=1e-6) and single.decayed < 0.95
