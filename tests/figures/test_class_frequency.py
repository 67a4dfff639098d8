"""Rare classes: closed forms by a plain loop, when a class is learned, and what the claims ask for."""

import numpy as np
import pandas as pd
import pytest
import torch

from implicit_bias.analysis.weights import Weights
from implicit_bias.datasets import Dataset
from implicit_bias.figures.imbalance.class_frequency import (
    GROUPS,
    LEARNED,
    METHODS,
    ONE_HOT,
    SLOPES,
    ClassFrequency,
    class_losses,
    learning_times,
)
from implicit_bias.figures.imbalance.one_hot import flow_times, normalised_flow_times, sign_time, spectral_time

FREQUENCIES = np.array([4, 2, 1, 1]) / 8


def stepped(direction: str, rate: float) -> np.ndarray:
    """The steps after which each class is learned, by a loop that knows of nothing but W and the samples' softmax."""
    k = len(FREQUENCIES)
    w, times = np.zeros((k, k)), np.full(k, np.nan)
    for step in range(1, 100_000):
        p = np.exp(w) / np.exp(w).sum(axis=0)  # column c: the probabilities of the input e_c
        gradient = FREQUENCIES * (p - np.eye(k))
        if direction == "sign":
            gradient = np.sign(gradient)
        elif direction == "unit":
            gradient /= np.linalg.norm(gradient)
        w -= rate * gradient
        loss = np.log(np.exp(w).sum(axis=0)) - np.diag(w)
        times[np.isnan(times) & (loss < LEARNED)] = step
        if not np.isnan(times).any():
            return times
    raise AssertionError("not learned")


def test_closed_forms_are_those_of_a_plain_loop() -> None:
    assert stepped("plain", 0.02) == pytest.approx(flow_times(FREQUENCIES, 0.02, LEARNED), rel=0.01)
    assert stepped("unit", 0.005) == pytest.approx(normalised_flow_times(FREQUENCIES, 0.005, LEARNED), rel=0.01)
    assert stepped("sign", 0.001) == pytest.approx(np.full(4, sign_time(4, 0.001, LEARNED)), abs=1)


def test_the_time_of_spectral_descent_is_that_of_the_polar_factor() -> None:
    """W = t (I - J / k), whose diagonal gap is t, has the loss LEARNED there."""
    t = spectral_time(5, 1.0, LEARNED)
    w = t * (np.eye(5) - 1 / 5)
    assert np.log(np.exp(w[:, 0]).sum()) - w[0, 0] == pytest.approx(LEARNED)


def test_frequencies_that_are_equal_are_learned_at_once() -> None:
    times = normalised_flow_times(np.full(6, 1 / 6), 1.0, LEARNED)
    assert np.allclose(times, times[0])
    # |grad| of one class alone times its own clock: the length of the path is the final norm of W.
    gap = times[0] / np.sqrt(6) * np.sqrt(6 / 5)
    assert np.log1p(5 * np.exp(-gap)) == pytest.approx(LEARNED, rel=1e-5)


def test_a_class_is_learned_where_its_loss_crosses() -> None:
    steps = np.array([0.0, 10.0, 20.0])
    losses = np.array([[2.0, 0.4, 2.0], [1.0, 0.3, 1.9], [0.25, 0.2, 1.8]])
    found = learning_times(steps, losses)
    assert found[:2].tolist() == [15.0, 0.0] and np.isnan(found[2])


def test_losses_are_means_over_the_samples_of_a_class() -> None:
    x, y = np.eye(3)[[0, 0, 1, 2]] * np.array([[1.0], [2.0], [1.0], [1.0]]), np.array([0, 0, 1, 2])
    w = torch.tensor(np.random.default_rng(0).normal(size=(2, 3, 3)))
    found = class_losses(Weights("a", Dataset(x, y, 3), {"weight": w}))
    each = torch.stack(
        [torch.nn.functional.cross_entropy(torch.tensor(x) @ one.T, torch.tensor(y), reduction="none") for one in w]
    )
    assert np.allclose(found[:, 0], each[:, :2].mean(dim=1)) and np.allclose(found[:, 1:], each[:, 2:])


def table(tilt: float = 0.0, off: float = 1.0, late: float = 1.6, quick: float = 0.8) -> pd.DataFrame:
    """A table whose slopes are off by ``tilt`` and times by a factor, and groups with these ratios."""
    p = 1 / np.arange(1, 11)
    rows = []
    for method in METHODS:
        times = p ** (SLOPES.get(method, 0.0) + tilt)
        rows += [(ONE_HOT, method, 0, c, p[c], times[c], times[c] * off) for c in range(10)]
        ratio = late if method in ("gd", "ngd") else quick
        rows += [(GROUPS, method, seed, g, 0.5**g, t, np.nan) for seed in (1, 2) for g, t in enumerate((100.0, 100 * ratio))]
    return pd.DataFrame(rows, columns=["part", "method", "seed", "label", "frequency", "time", "law"])


@pytest.mark.parametrize(
    ("changed", "failing"), [({}, 0), ({"tilt": 0.06}, 4), ({"off": 1.05}, 3), ({"late": 1.2}, 1), ({"quick": 1.1}, 1)]
)
def test_claims_ask_for_slopes_laws_and_order(changed: dict[str, float], failing: int) -> None:
    claims = ClassFrequency().claims(table(**changed), "default")
    assert len(claims) == 10
    assert sum(claim.holds is False for claim in claims) == failing
    assert sum(claim.holds is None for claim in claims) == 1


def test_a_class_that_is_never_learned_holds_nothing() -> None:
    rows = table()
    rows.loc[(rows["method"] == "signgd") & (rows["label"] == 1), "time"] = np.nan
    failing = [claim.claim for claim in ClassFrequency().claims(rows, "default") if claim.holds is False]
    assert len(failing) == 3
