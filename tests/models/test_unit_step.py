"""The unit of a network's learning rates: the search for parameters of positive mean gap."""

from typing import Any

import numpy as np
import pytest
import torch

from implicit_bias.core.errors import BadInput
from implicit_bias.models import Data, Parameters
from implicit_bias.norms import make_norm, over_blocks
from implicit_bias.schedules import auto_network_lr
from tests.support.networks import F64, mlp, objective


def searched(model: Any, data: Data, label: str, start: Parameters) -> Any:
    """The largest mean gap that 20 conditional-gradient steps from ``start`` come to, by hand."""
    target, norm = objective(model, data), over_blocks(make_norm(label), list(start), None, model.hidden_matrices(list(start)))
    weights = torch.where(target.negative_gaps(start).isneginf(), 0.0, torch.ones((), dtype=F64))
    weights = weights / weights.sum(dim=(-2, -1), keepdim=True)
    theta, best = start, torch.zeros(len(data.x), dtype=F64)
    for j in range(21):
        if j:
            ascent = norm.direction(target.pull(theta, weights))
            theta = {n: block.lerp(ascent[n], 1 / (j + 1)) for n, block in theta.items()}
        theta = {n: block * (1 / norm.value(theta))[:, None, None] for n, block in theta.items()}
        gaps = torch.where(weights > 0, -target.negative_gaps(theta), 0.0)
        best = torch.maximum(best, (weights * gaps).sum(dim=(-2, -1))) if j else best
    return best


def small_problems(k: int, runs: int) -> Data:
    rng = np.random.RandomState(k)
    y = np.tile(np.arange(6) % k, (runs, 1))
    x = np.take_along_axis(rng.randn(runs, k, 3), y[..., None], axis=1) + 0.5 * rng.randn(runs, 6, 3)
    return Data(torch.tensor(x), torch.tensor(y), k)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "activation", "label", "k"),
    [(2, "squared_relu", "l2", 3), (3, "relu", "linf", 2), (3, "relu", "hybrid0.1", 2), (3, "relu", "hybrid0.1", 3)],
)
def test_a_unit_of_learning_rates_is_found_on_small_networks(depth: int, activation: str, label: str, k: int) -> None:
    """Where the search from the run's own start fails others are tried; where it does not its result stays, to the bit."""
    runs = 40
    data, model = small_problems(k, runs), mlp(width=2, depth=depth, activation=activation, init_scale=0.5)
    start = model.initial(data, range(runs))
    unit, first = model.unit_step(data, make_norm(label), start), searched(model, data, label, start)
    found = first > 0
    assert 0 < int((~found).sum()) < runs
    torch.testing.assert_close(unit[found], (first ** (1 / model.degree()))[found], rtol=0, atol=0)
    assert unit[~found].min() > 0.1 * unit[found].median()
    lost = int((~found).nonzero()[0])
    alone = Data(data.x[lost : lost + 1], data.y[lost : lost + 1], k)
    one = model.unit_step(alone, make_norm(label), {n: b[lost : lost + 1] for n, b in start.items()})
    torch.testing.assert_close(one, unit[lost : lost + 1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("activation", ["relu", "squared_relu", "quadratic", "linear"])
def test_no_unit_of_learning_rates_where_gaps_cancel(activation: str) -> None:
    """The same samples in both classes: every mean gap is zero, but for round-off."""
    x = torch.tensor(np.random.RandomState(0).randn(1, 3, 2)).repeat(1, 2, 1)
    data, model = Data(x, torch.tensor([[0, 0, 0, 1, 1, 1]]), 2), mlp(width=3, activation=activation)
    unit = model.unit_step(data, make_norm("l2"), model.initial(data, [1]))
    assert unit.tolist() == [0.0]
    with pytest.raises(BadInput, match=r"^schedule\.lr=auto: no positive mean gap was found .* give a number > 0"):
        auto_network_lr(unit, model.degree(), make_norm("l2"), True)
