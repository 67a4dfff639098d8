"""Gradients of some of the samples: the mean over a batch, at any depth, for every model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from implicit_bias.losses import LOSSES
from implicit_bias.models import MODELS, Data, Gradient, Objective, Parameters

K, D, N, RUNS = 3, 9, 8, 2
MODELS_HERE: dict[str, tuple[str, dict[str, Any], int]] = {
    "linear": ("linear", {"init": "gaussian", "init_scale": 1.0}, K),
    "linear in blocks": ("linear", {"init": "gaussian", "init_scale": 1.0, "blocks": [4, 1, 4]}, K),
    "mlp": ("mlp", {"width": 5, "init_scale": 1.0}, K),
    "one output": ("mlp", {"width": 5, "init_scale": 1.0}, 2),
    "diagonal": ("diagonal", {"init_scale": 1.0}, 2),
    "cnn": ("cnn", {"channels": [3], "kernel": 2, "init_scale": 1.0}, K),
}
KINDS = ("dense", "with zeros", "shared")


def data(kind: str, k: int) -> Data:
    rng = np.random.RandomState(0)
    x, y = rng.randn(RUNS, N, D), rng.randint(0, k, (RUNS, N))
    if kind == "with zeros":
        x[:, 3:, 2] = 0
        x[:, :, 5] = 0
    if kind == "shared":
        x, y = x[:1], y[:1]
    return Data(torch.tensor(x), torch.tensor(y), k)


def made(name: str, kind: str, scale: float = 1.0) -> tuple[Objective, Parameters, Data]:
    option, keys, k = MODELS_HERE[name]
    model, samples = MODELS.get(option)(**keys), data(kind, k)
    parameters = {block: scale * value for block, value in model.initial(samples, range(RUNS)).items()}
    return model.objective(samples, LOSSES.get("cross_entropy")()), parameters, samples


def by_autograd(objective: Objective, parameters: Parameters, samples: Data, batch: Tensor) -> tuple[list[Tensor], Parameters]:
    """Mean cross entropy of each run's batch by torch, and its gradient."""
    leaves = {name: block.clone().requires_grad_() for name, block in parameters.items()}
    rows = batch.expand(RUNS, -1)
    with torch.enable_grad():
        scores = objective.scores(leaves, samples.x)
        losses = []
        for r in range(RUNS):
            label, f = samples.y[r % len(samples.y), rows[r]], scores[r][:, rows[r]]
            gap = torch.stack([-f[0] / 2, f[0] / 2]) if len(f) == 1 else f  # a scalar output's gap is y f
            losses.append(functional.cross_entropy(gap.T, label))
        gradients = torch.autograd.grad(torch.stack(losses).sum(), list(leaves.values()))
    return losses, dict(zip(leaves, gradients, strict=True))


BATCHES = {"one for all": torch.tensor([5, 0, 3]), "a sample twice": torch.tensor([1, 1, 7]), "one sample": torch.tensor([4])}
BATCHES["one a run"] = torch.tensor([[0, 2, 4, 6], [7, 5, 3, 1]])


@pytest.mark.parametrize("name", MODELS_HERE)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", BATCHES)
def test_the_gradient_of_a_batch_is_that_of_its_mean_loss(name: str, kind: str, batch: str) -> None:
    objective, parameters, samples = made(name, kind)
    found = objective.gradient(parameters, BATCHES[batch])
    losses, expected = by_autograd(objective, parameters, samples, BATCHES[batch])
    torch.testing.assert_close(found.log_loss.exp(), torch.stack(losses), rtol=1e-12, atol=0)
    for block, value in expected.items():
        torch.testing.assert_close(found.blocks[block].relative_to(torch.zeros(())), value, rtol=1e-10, atol=1e-13)


def bits(gradient: Gradient) -> list[Tensor]:
    blocks = [part for block in gradient.blocks.values() for part in (block.mantissa, block.log_scale)]
    return [*blocks, gradient.log_loss, gradient.total, gradient.log_unit]


@pytest.mark.parametrize("name", MODELS_HERE)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_all_samples_in_order_give_the_full_gradients_bits(name: str, kind: str, scale: float) -> None:
    objective, parameters, _ = made(name, kind, scale)
    whole = bits(objective.gradient(parameters))
    for batch in (torch.arange(N), torch.arange(N).expand(RUNS, N)):
        assert all(torch.equal(a, b) for a, b in zip(bits(objective.gradient(parameters, batch)), whole, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(bits(objective.gradient(parameters)), whole, strict=True))


@pytest.mark.parametrize(
    ("option", "keys", "n", "d"),
    [
        ("linear", {"init": "gaussian"}, 64, 64),
        ("mlp", {"width": 16}, 64, 64),
        ("mlp", {"width": 33, "depth": 3}, 77, 101),
        ("mlp", {"width": 64}, 100, 784),
        ("cnn", {}, 64, 196),
        ("cnn", {"channels": [4], "pool": "none"}, 20, 9),
    ],
)
@pytest.mark.parametrize("shared", [False, True])
def test_so_they_do_at_usual_sizes(option: str, keys: dict[str, Any], n: int, d: int, shared: bool) -> None:
    """Where a product takes another way through memory if one of its operands is transposed, and rounds otherwise."""
    rng = np.random.RandomState(0)
    sets = 1 if shared else RUNS
    samples = Data(torch.tensor(rng.randn(sets, n, d)), torch.tensor(rng.randint(0, K, (sets, n))), K)
    model = MODELS.get(option)(init_scale=1.0, **keys)
    objective, parameters = model.objective(samples, LOSSES.get("cross_entropy")()), model.initial(samples, range(RUNS))
    whole = bits(objective.gradient(parameters))
    for batch in (torch.arange(n), torch.arange(n).expand(RUNS, n)):
        assert all(torch.equal(a, b) for a, b in zip(bits(objective.gradient(parameters, batch)), whole, strict=True))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
@pytest.mark.parametrize("kind", KINDS)
def test_only_all_samples_in_order_are_the_sets_themselves(kind: str, dtype: torch.dtype) -> None:
    samples, every = data(kind, K), torch.arange(N, dtype=dtype)
    assert samples.batch(every) is samples
    assert samples.batch(every.expand(RUNS, N)) is samples
    other = every.repeat(RUNS, 1)
    other[-1, -2:] = other[-1, -2:].flip(0)
    for batch in (every.flip(0), every[:-1], every.clamp(max=N - 2), other, torch.cat([every, every])):
        chosen, rows = samples.batch(batch), batch.long().expand(RUNS, -1)
        for r in range(RUNS):
            x, y, found = samples.x[r % len(samples.x)], samples.y[r % len(samples.y)], r % len(chosen.x)
            assert torch.equal(chosen.x[found], x[rows[r]])
            assert torch.equal(chosen.y[found], y[rows[r]])


@pytest.mark.parametrize("name", ["linear", "one output"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_exact_far_below_the_smallest_double(name: str, kind: str) -> None:
    """The same gradient and log loss as of data that have no other samples."""
    option, keys, k = MODELS_HERE[name]
    objective, parameters, samples = made(name, kind, 1e4 if name == "linear" else 100.0)
    gaps = -objective.negative_gaps(parameters)
    worst = gaps.masked_fill(~gaps.isfinite(), torch.inf).amin(dim=-2)
    batch = worst.topk(2, dim=-1).indices  # of each run, the two that are classified best: the others' loss is e^many larger
    found = objective.gradient(parameters, batch)
    assert (found.log_loss < -800).all()
    for r in range(RUNS):
        s = r % len(samples.x)
        own = Data(samples.x[s : s + 1, batch[r]], samples.y[s : s + 1, batch[r]], k)
        alone = MODELS.get(option)(**keys).objective(own, LOSSES.get("cross_entropy")())
        expected = alone.gradient({block: value[r : r + 1] for block, value in parameters.items()})
        torch.testing.assert_close(found.log_loss[r : r + 1], expected.log_loss, rtol=1e-14, atol=0)
        for block, value in expected.blocks.items():
            unit = value.top()
            ours = found.blocks[block].mantissa[r : r + 1] * (found.blocks[block].log_scale[r : r + 1] - unit).exp()
            torch.testing.assert_close(ours, value.relative_to(unit), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "batch",
    [
        torch.tensor([0, N]),
        torch.tensor([-1]),
        torch.tensor([], dtype=torch.int64),
        torch.tensor([0.0]),
        torch.ones(N, dtype=torch.bool),
        torch.ones(N, dtype=torch.uint8),
        torch.zeros(RUNS + 1, 2, dtype=torch.int64),
        torch.tensor(0),
    ],
)
@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_what_is_no_batch_is_refused(name: str, batch: Tensor) -> None:
    objective, parameters, _ = made(name, "dense")
    with pytest.raises(ValueError, match=r"^a batch "):
        objective.gradient(parameters, batch)
