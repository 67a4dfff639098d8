"""The reconstruction of Infinite Descent: derivatives, the root, and what is counted."""

import numpy as np
import pytest

from implicit_bias.figures.infinite.reconstruction import (
    SOLVED,
    TRUE,
    infinite_descent,
    logistic,
    neuron,
    newton_cg,
    starts,
    steepest_descent,
)

STEP = 1e-5


def test_derivatives_are_those_of_the_loss() -> None:
    fit, theta = neuron(), TRUE * [1.1, 0.8, 1.05, 0.9]
    slopes = [(fit.loss(theta + STEP * e) - fit.loss(theta - STEP * e)) / (2 * STEP) for e in np.eye(4)]
    bends = [(fit.gradient(theta + STEP * e) - fit.gradient(theta - STEP * e)) / (2 * STEP) for e in np.eye(4)]
    np.testing.assert_allclose(fit.gradient(theta), slopes, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(fit.hessian(theta), bends, rtol=1e-7, atol=1e-9)
    gradient, hessian = logistic(np.random.RandomState(0).randn(6, 4))
    bends = [(gradient(theta + STEP * e) - gradient(theta - STEP * e)) / (2 * STEP) for e in np.eye(4)]
    np.testing.assert_allclose(hessian(theta), bends, rtol=1e-7, atol=1e-9)


def test_every_method_arrives_and_evaluations_are_counted() -> None:
    fit, start = neuron(), TRUE * [1.1, 0.9, 1.05, 0.95]
    ends = [infinite_descent(fit.gradient, fit.hessian, start), newton_cg(fit, start), steepest_descent(fit, start)]
    assert [fit.loss(end.theta) < SOLVED for end in ends] == [True] * 3
    np.testing.assert_allclose([end.theta for end in ends], [TRUE] * 3, atol=1e-4)
    one, newton, steepest = ends
    assert one.steps == 1 < newton.steps < one.evaluations < steepest.evaluations == steepest.steps


@pytest.mark.parametrize("seed", [1, 2])
def test_starts_lie_in_their_boxes(seed: int) -> None:
    drawn = list(starts(seed, 5))
    assert [draw for draw, _ in drawn] == ["near"] * 5 + ["wide"] * 5
    for draw, start in drawn:
        assert (np.abs(start - TRUE) <= (0.2 * np.abs(TRUE) if draw == "near" else [0.6, 0.5, 0.8, 0.6])).all()
    assert len({tuple(start) for _, start in drawn}) == 10
