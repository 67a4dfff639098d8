"""Products with the Jacobian of the gaps, against autograd's Jacobians and Euler's identity."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from implicit_bias.models import MODELS, Data, Objective, Parameters
from tests.support.networks import F64, cnn, diagonal, inner, mlp, objective, random_blocks, taught

TINY: dict[str, tuple[Any, int, int]] = {
    "mlp": (mlp(width=3, depth=2), 4, 3),
    "mlp binary": (mlp(width=3, depth=3, activation="leaky_relu", slope=0.2, bias="first"), 4, 2),
    "cnn": (cnn(channels=[2], kernel=2), 16, 3),
    "diagonal": (diagonal(depth=3), 4, 2),
    "linear": (MODELS.get("linear")(), 4, 3),
    "linear in blocks": (MODELS.get("linear")(blocks=[1, 3]), 4, 3),
}


def tiny(name: str, seed: int = 0) -> tuple[Objective, Parameters]:
    model, dim, k = TINY[name]
    rng = np.random.RandomState(seed)
    if name.startswith("linear"):
        data = Data(torch.tensor(rng.randn(2, 6, dim)), torch.tensor(rng.randint(0, k, (2, 6))), k)
        return objective(model, data), model.in_blocks(torch.tensor(rng.randn(2, k, dim)), model.block_names)
    blocks = random_blocks(model, dim, model.outputs(k), seed, runs=2)
    return objective(model, taught(model, blocks, 6, dim, k, seed)), blocks


@pytest.mark.parametrize("name", TINY)
def test_pull_and_push_are_the_jacobians(name: str) -> None:
    target, blocks = tiny(name)
    names = list(blocks)

    def gaps(*values: Tensor) -> Tensor:
        f, y = target.scores(dict(zip(names, values, strict=True)), target.data.x), target.data.y[:, None]
        return (2 * y - 1) * f if f.shape[1] == 1 else f.gather(1, y) - f

    jacobian = torch.autograd.functional.jacobian(gaps, tuple(blocks.values()))  # one (R, pairs, n, R, p, q) a block
    pairs = gaps(*blocks.values()).shape
    rng = torch.Generator().manual_seed(0)
    w = torch.rand(pairs, generator=rng, dtype=F64).masked_fill(target.negative_gaps(blocks).isneginf(), 0.0)
    v = {n: torch.randn(b.shape, generator=rng, dtype=F64) for n, b in blocks.items()}
    pulled, pushed = target.pull(blocks, w), target.push(blocks, v)
    for n, j in zip(names, jacobian, strict=True):
        torch.testing.assert_close(pulled[n], torch.einsum("rci,rcispq->spq", w, j), rtol=1e-12, atol=1e-12)
    expected = torch.stack([torch.einsum("rcispq,spq->rci", j, v[n]) for n, j in zip(names, jacobian, strict=True)]).sum(dim=0)
    torch.testing.assert_close(pushed, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close((pushed * w).sum(dim=(-2, -1)), inner(pulled, v), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("loss", ["cross_entropy", "exponential", "pair_logistic"])
def test_the_gradients_weights_pull_to_the_gradient(name: str, loss: str) -> None:
    target, blocks = tiny(name)
    own = objective(TINY[name][0], target.data, loss)
    gradient = own.gradient(blocks)
    weights = own.weights(blocks).mT
    torch.testing.assert_close(weights.sum(dim=(-2, -1)), torch.ones(2, dtype=F64))
    if gradient.weights is not None:
        torch.testing.assert_close(gradient.weights(), weights, rtol=1e-12, atol=1e-15)
    for n, c in own.pull(blocks, weights).items():
        torch.testing.assert_close(gradient.per_weight()[n], c, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", sorted(set(TINY) - {"linear"}))
def test_euler_sum_of_gap_gradients(name: str) -> None:
    """<theta, grad m> = L m."""
    target, blocks = tiny(name)
    u = target.negative_gaps(blocks)
    gaps = -u.masked_fill(u.isneginf(), 0.0)
    torch.testing.assert_close(target.push(blocks, blocks), TINY[name][0].degree() * gaps, rtol=1e-11, atol=1e-12)
