"""Back-propagation in closed form is what autograd makes of the forward pass, ties of pooling and kinks included."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from implicit_bias.core.registry import hyper_fields
from implicit_bias.engine import simulate
from implicit_bias.losses import LOSSES
from implicit_bias.models import Data
from implicit_bias.models.activations import ACTIVATIONS
from implicit_bias.models.linearised import by_autograd
from implicit_bias.models.mlp import MLP
from implicit_bias.models.network import NetworkObjective
from implicit_bias.models.patches import largest
from implicit_bias.norms import make_norm, over_blocks
from implicit_bias.norms.linf import Linf
from tests.support.networks import BATCH, F64, cnn, mlp, objective, problem, random_blocks, six, trained

RUNS, SAMPLES, SIDE = 3, 5, 9


def assert_closed_form(model: Any, dim: int, outputs: int) -> None:
    """Scores and gradients of every run, at samples of many zeros: places of a cell tie there, activations have their kink."""
    blocks = random_blocks(model, dim, outputs, seed=3, runs=RUNS)
    x = torch.tensor(np.random.RandomState(4).randn(RUNS, SAMPLES, dim))
    x[:, :, : dim // 2] = 0
    x[:, 0] = 0
    inputs, theta = model.prepared(x), trained(model, blocks)
    frozen = {name: block for name, block in blocks.items() if name not in theta}
    ours = model.linearised(theta, frozen, inputs)
    theirs = by_autograd(lambda leaves: model.forward({**leaves, **frozen}, inputs), theta)
    assert torch.equal(ours.scores, theirs.scores)
    for seed in (5, 6):  # what is remembered outlives the first time that it is used
        weights = torch.tensor(np.random.RandomState(seed).randn(RUNS, outputs, SAMPLES))
        found, expected = ours.pull(weights), theirs.pull(weights.clone())
        assert list(found) == list(expected)
        for name, block in expected.items():
            torch.testing.assert_close(found[name], block, rtol=1e-12, atol=1e-13 * block.abs().max().item(), msg=name)
    if ours.push is not None:
        tangent = random_blocks(model, dim, outputs, seed=7, runs=RUNS)
        moves = tuple(tangent[name] for name in theta)
        blocks_of = partial(zip, theta, strict=True)
        primal = torch.func.jvp(
            lambda *leaves: model.forward({**dict(blocks_of(leaves)), **frozen}, inputs), tuple(theta.values()), moves
        )
        change = ours.push({name: tangent[name] for name in theta})
        torch.testing.assert_close(change, primal[1], rtol=1e-12, atol=1e-13 * primal[1].abs().max().item())
        # <c, grad f v> either way.
        both = sum((found[name] * tangent[name]).sum() for name in theta), (weights * change).sum()
        torch.testing.assert_close(*both, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("keys", [{"depth": 3, "bias": "all"}, {"depth": 3, "frozen": ["layer1"]}, {"depth": 1}], ids=str)
def test_an_mlps_gradients_are_those_of_autograd(activation: str, keys: dict[str, Any]) -> None:
    assert_closed_form(mlp(width=4, activation=activation, power=1.5, allow_inhomogeneous=True, **keys), 6, 2)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("pool", ["max", "average", "none"])
@pytest.mark.parametrize("keys", [{"bias": "all"}, {"frozen": ["layer1"]}], ids=str)
def test_a_cnns_gradients_are_those_of_autograd(activation: str, pool: str, keys: dict[str, Any]) -> None:
    """9 x 9 pixels under kernels of 2 x 2, then 4 x 4 under the next: a last odd row and column are left out."""
    model = cnn(channels=[3, 2], kernel=2, pool=pool, activation=activation, power=1.5, allow_inhomogeneous=True, **keys)
    assert_closed_form(model, SIDE**2, 1)


class Bent(MLP):
    """A network of another activation than its key says."""

    def activate(self, z: torch.Tensor) -> torch.Tensor:
        return z.abs()


def test_a_subclass_with_scores_of_its_own_has_gradients_of_its_own() -> None:
    """The closed form is of what the class computes that has it."""
    blocks = random_blocks(mlp(width=4), 6, 1, seed=3, runs=RUNS)
    data = Data(torch.randn(RUNS, SAMPLES, 6, dtype=F64), torch.tensor([[0, 1, 0, 1, 1]] * RUNS), 2)
    bent = Bent(**{key: getattr(mlp(width=4), key) for key in hyper_fields(MLP)})
    of: Any = bent.objective(data, LOSSES.get("cross_entropy")())
    weights = torch.rand(RUNS, 1, SAMPLES, dtype=F64)
    expected = by_autograd(of._outputs, blocks)
    found = of._linearised(blocks)
    assert torch.equal(found.scores, expected.scores)
    assert all(torch.equal(found.pull(weights)[name], block) for name, block in expected.pull(weights.clone()).items())


@pytest.mark.parametrize("dtype", [F64, torch.float32], ids=str)
def test_the_first_place_that_attains_a_maximum_has_its_derivative(dtype: torch.dtype) -> None:
    """Ties, and the least differences that there are."""
    least = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    places = [[1.0, 1.0, 0.0, 1.0], [0.0, least, least, 0.0], [-2.0, -3.0, -2.0, -1.0], [0.0, 0.0, 0.0, 0.0]]
    z = torch.tensor(places, dtype=dtype)[:, :, None, None]  # a cell a run
    top, spread = largest(z)
    assert torch.equal(top, z.max(dim=1).values)
    expected = torch.tensor([[7, 0, 0, 0], [0, 7, 0, 0], [0, 0, 0, 7], [7, 0, 0, 0]], dtype=dtype)
    assert torch.equal(spread(torch.full_like(top, 7))[:, :, 0, 0], expected)


def test_a_cnns_slopes_may_differ_by_run() -> None:
    slopes = torch.tensor([0.1, -0.2, 0.3], dtype=F64)[:, None, None]
    keys = {"channels": [2, 2], "kernel": 2, "activation": "leaky_relu"}
    together = cnn(slope=slopes, **keys)
    blocks = random_blocks(together, SIDE**2, 1, seed=3, runs=RUNS)
    x = torch.tensor(np.random.RandomState(4).randn(RUNS, SAMPLES, SIDE**2))
    data = Data(x, torch.tensor([[0, 1, 0, 1, 1]]).expand(RUNS, -1), 2)
    batch = objective(together, data).gradient(blocks)
    for r in range(RUNS):
        one = Data(x[r : r + 1], data.y[:1], 2)
        alone = objective(cnn(slope=float(slopes[r]), **keys), one).gradient({n: b[r : r + 1] for n, b in blocks.items()})
        for name, block in alone.blocks.items():
            torch.testing.assert_close(batch.blocks[name].mantissa[r], block.mantissa[0], rtol=1e-11, atol=1e-14)


def test_a_records_gaps_are_those_that_its_gradient_was_made_from(monkeypatch: pytest.MonkeyPatch) -> None:
    data, lr = six()
    given = problem(BATCH, data, "signgd", 4, lr, kkt_products=0, logged=())
    expected = simulate(given).by_norm["linf"]["margin"]

    def again(self: NetworkObjective, parameters: Any) -> None:
        raise AssertionError("the gaps are evaluated once more")

    monkeypatch.setattr(NetworkObjective, "negative_gaps", again)
    np.testing.assert_array_equal(simulate(given).by_norm["linf"]["margin"], expected)


def test_only_the_max_norms_own_direction_is_taken_block_by_block() -> None:
    class Mine(Linf):
        def direction(self, g: torch.Tensor) -> torch.Tensor:
            assert g.shape[-2:] == (1, 4), "blocks are joined"
            return super().direction(g)

    blocks = {"a": torch.tensor([[[1.0, -2.0]]], dtype=F64), "b": torch.tensor([[[0.0], [3.0]]], dtype=F64)}
    ours = over_blocks(make_norm("linf"), ["a", "b"])
    for name, block in over_blocks(Mine(), ["a", "b"]).direction(blocks).items():
        assert torch.equal(ours.direction(blocks)[name], block)
        assert torch.equal(block, blocks[name].sign())
