"""Homogeneous networks: degrees, exact gradients, batches, product norms, KKT ratios, hybrid optimizers, Lyu and Li's steps.

The oracles are torch.nn, torch.optim, autograd's Jacobians, mpmath, scipy, loops written here, and KKT points known by hand.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cvxpy
import mpmath
import numpy as np
import pandas as pd
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optimizer_steps import step_with
from torch import Tensor, nn
from torch.nn import functional

from implicit_bias.engine import Problem, Trajectory, simulate
from implicit_bias.errors import BadInput
from implicit_bias.losses import LOSSES
from implicit_bias.measures.kkt import KktRatios
from implicit_bias.models import MODELS, Data, Model, Objective, Parameters
from implicit_bias.models.activations import ACTIVATIONS
from implicit_bias.norms import ParameterNorm, make_norm, over_blocks
from implicit_bias.optimizers import OPTIMIZERS
from implicit_bias.records import COLUMNS, EXTRA_COLUMNS
from implicit_bias.reference import solve_exact
from implicit_bias.run import main, run
from implicit_bias.scaled import Scaled
from implicit_bias.schedules import SCHEDULES, auto_network_lr

F64 = torch.float64


def mlp(**settings: Any) -> Any:
    return MODELS.get("mlp")(**settings)


def cnn(**settings: Any) -> Any:
    return MODELS.get("cnn")(**settings)


def diagonal(**settings: Any) -> Any:
    return MODELS.get("diagonal")(**settings)


def random_blocks(model: Any, dim: int, outputs: int, seed: int, runs: int = 1) -> Parameters:
    """Every block, biases too, with standard normal entries over the root of the fan-in."""
    rng = np.random.RandomState(seed)
    shapes = model.shapes(dim, outputs)
    return {n: torch.tensor(rng.randn(runs, s.rows, s.columns) / math.sqrt(s.fan_in)) for n, s in shapes.items()}


def trained(model: Any, blocks: Mapping[str, Tensor]) -> Parameters:
    return {name: block for name, block in blocks.items() if name not in model.frozen_blocks()}


def taught(model: Any, blocks: Mapping[str, Tensor], n: int, dim: int, k: int, seed: int) -> Data:
    """Random samples, labelled run by run by the network itself: its gaps are positive."""
    runs = len(next(iter(blocks.values())))
    x = torch.tensor(np.random.RandomState(seed).randn(runs, n, dim))
    f = model.forward(blocks, model.prepared(x))
    y = (f[:, 0] > 0).long() if f.shape[1] == 1 else f.argmax(dim=1)
    return Data(x, y, k)


def objective(model: Model, data: Data, loss: str = "cross_entropy", frozen: Parameters | None = None) -> Objective:
    return model.objective(data, LOSSES.get(loss)(), frozen)


def inner(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([(a[n] * b[n]).sum(dim=(-2, -1)) for n in a]).sum(dim=0)


# --- degrees ---------------------------------------------------------------------------------------------------------

HOMOGENEOUS = {"linear": 1.0, "relu": 1.0, "leaky_relu": 1.0, "squared_relu": 2.0, "relu_power": 1.5, "quadratic": 2.0}


def assert_degree(model: Any, dim: int, outputs: int, seed: int) -> None:
    """f(x; c theta) = c^L f(x; theta), theta without the frozen blocks."""
    blocks = random_blocks(model, dim, outputs, seed)
    x = torch.tensor(np.random.RandomState(seed + 1).randn(1, 7, dim))
    f = model.forward(blocks, model.prepared(x))
    assert f.shape == (1, outputs, 7)
    for c in (0.6, 1.7):
        scaled = {**blocks, **{name: c * block for name, block in trained(model, blocks).items()}}
        torch.testing.assert_close(model.forward(scaled, model.prepared(x)), c ** model.degree() * f, rtol=1e-10, atol=1e-14)


def test_every_activation_is_covered_here() -> None:
    assert {name for name, a in ACTIVATIONS.items() if a.order is not None} == set(HOMOGENEOUS)


@pytest.mark.parametrize("activation", HOMOGENEOUS)
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("bias", ["none", "first"])
def test_degree_of_an_mlp(activation: str, depth: int, bias: str) -> None:
    model = mlp(activation=activation, depth=depth, bias=bias, width=3, power=1.5, slope=0.3)
    p = HOMOGENEOUS[activation]
    assert model.homogeneous
    assert model.degree() == (depth if p == 1 else (p**depth - 1) / (p - 1))  # 2^k - 1 for squared ReLU
    for outputs in (1, 3):
        assert_degree(model, 5, outputs, depth)


@pytest.mark.parametrize("activation", HOMOGENEOUS)
@pytest.mark.parametrize("frozen", [f for m in (1, 2) for f in itertools.combinations(["layer1", "layer2", "layer3"], m)])
def test_degree_with_frozen_layers(activation: str, frozen: tuple[str, ...]) -> None:
    model = mlp(activation=activation, depth=3, width=3, power=1.5, frozen=list(frozen))
    assert_degree(model, 5, 2, 3)


@pytest.mark.parametrize("pool", ["max", "average", "none"])
@pytest.mark.parametrize("channels", [[2], [2, 3]])
@pytest.mark.parametrize("activation", HOMOGENEOUS)
@pytest.mark.parametrize("bias", ["none", "first"])
def test_degree_of_a_cnn(pool: str, channels: list[int], activation: str, bias: str) -> None:
    model = cnn(pool=pool, channels=channels, kernel=3, activation=activation, bias=bias, power=1.5)
    assert_degree(model, 121, 3, len(channels))
    assert model.degree() == mlp(depth=len(channels) + 1, activation=activation, power=1.5).degree()


def test_degree_of_a_cnn_with_a_frozen_layer() -> None:
    assert_degree(cnn(channels=[2, 3], frozen=["layer2"]), 121, 3, 1)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_degree_of_a_diagonal_network(depth: int) -> None:
    assert diagonal(depth=depth).degree() == depth
    for outputs in (1, 3):
        assert_degree(diagonal(depth=depth), 5, outputs, depth)
    if depth > 1:
        assert diagonal(depth=depth, frozen=["layer2"]).degree() == depth - 1
        assert_degree(diagonal(depth=depth, frozen=["layer2"]), 5, 2, depth)


def test_features_that_are_not_trained_may_be_anything() -> None:
    model = mlp(activation="tanh", bias="first", frozen=["layer1", "bias1"], width=4)
    assert model.degree() == 1
    assert_degree(model, 5, 2, 0)


REFUSED = [
    (["model=mlp", "model.activation=sigmoid"], "model.activation=sigmoid: "),
    (["model=mlp", "model.activation=tanh", "model.depth=3"], "model.activation=tanh: "),
    (["model=cnn", "model.activation=tanh"], "model.activation=tanh: "),
    (["model=mlp", "model.bias=all"], "model.bias=all: "),
    (["model=mlp", "model.bias=first", "model.frozen=[layer1]"], "model.bias=first: "),
    (["model=mlp", "model.frozen=[layer1,layer2]"], "model.frozen=['layer1', 'layer2']: nothing is left to train"),
    (["model=mlp", "model.frozen=[layer3]"], "model.frozen=['layer3']: there is no block layer3"),
    (["model=cnn", "model.frozen=[head]"], "model.frozen=['head']: there is no block head"),
    (["model=mlp", "model.depth=20"], "model.depth=20: the degree of homogeneity is 1.04858e+06"),
    (["model=diagonal", "model.depth=300"], "model.depth=300: the degree of homogeneity is 300"),
    (["model=mlp", "model.width=0"], "model.width=0: must be an integer >= 1"),
    (["model=cnn", "model.channels=[]"], "model.channels=[]: "),
    (["model=cnn", "model.channels=[4,0]"], "model.channels=[4, 0]: "),
    (["model=cnn", "model.kernel=9"], "model.kernel=9: images of 8 x 8 pixels are too small"),
    (["model=cnn", "model.kernel=4", "model.channels=[2,2]"], "model.kernel=4: images of 8 x 8 pixels are too small"),
    (["model=cnn", "dataset=gaussian_mixture", "dataset.dim=24"], "model=cnn: needs square images"),
    (["model=mlp", "model.head=binary"], "model.head=binary: the data have 10 classes"),
    (["model=mlp", "reference=exact"], "reference=exact"),
    (["model=mlp", "reference=certified"], "reference=certified"),
    (["model=mlp", "optimizer=muon_adam", "optimizer.matrices=[nope]"], "optimizer.matrices=['nope']: no block nope"),
    (["optimizer=muon_signum", "optimizer.matrices=[layer1]"], "optimizer.matrices=['layer1']: no block layer1"),
]


@pytest.mark.parametrize(("arguments", "line"), REFUSED)
def test_refused_in_one_line(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["dataset=digits", "steps=1", "progress=off", f"results_dir={tmp_path}", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {line}"), error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize("wanted", [{"activation": "sigmoid"}, {"activation": "tanh"}, {"bias": "all"}])
def test_an_inhomogeneous_model_is_trained_on_request(wanted: dict[str, str]) -> None:
    with pytest.raises(BadInput, match="allow_inhomogeneous=true"):
        mlp(**wanted)
    model = mlp(**wanted, allow_inhomogeneous=True, width=3)
    assert not model.homogeneous
    assert model.degree() == 1
    blocks = random_blocks(model, 4, 1, 0)
    trajectory = simulate(problem(model, taught(model, blocks, 6, 4, 2, 0), "signgd", 10, 0.05, initial=blocks))
    columns = trajectory.by_norm["l2"]
    assert np.isnan(columns["kkt_ratio"]).all()
    final = trajectory.parameters[10]
    q = -objective(model, taught(model, blocks, 6, 4, 2, 0)).negative_gaps(final).amax(dim=(-2, -1))
    size = torch.cat([b.flatten() for b in final.values()]).norm()
    assert columns["margin"][-1, 0] == pytest.approx(float(q / size), rel=1e-12)


# --- gradients against torch.nn --------------------------------------------------------------------------------------


class SquaredReLU(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return functional.relu(z) ** 2


def torch_mlp(blocks: Mapping[str, Tensor], r: int, activation: type[nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = []
    names = [n for n in blocks if n.startswith("layer")]
    for j, name in enumerate(names, start=1):
        weight, bias = blocks[name][r], blocks.get(f"bias{j}")
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=F64)
        linear.weight.data = weight.clone()
        if bias is not None:
            linear.bias.data = bias[r, 0].clone()
        layers += [linear, activation()] if j < len(names) else [linear]
    return nn.Sequential(*layers)


def torch_cnn(blocks: Mapping[str, Tensor], r: int, side: int, kernel: int, pool: nn.Module) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Unflatten(1, (1, side, side))]
    names, inputs = [n for n in blocks if n.startswith("layer")], 1
    for j, name in enumerate(names[:-1], start=1):
        weight, bias = blocks[name][r], blocks.get(f"bias{j}")
        convolution = nn.Conv2d(inputs, len(weight), kernel, bias=bias is not None, dtype=F64)
        convolution.weight.data = weight.reshape(len(weight), inputs, kernel, kernel).clone()
        if bias is not None:
            convolution.bias.data = bias[r, 0].clone()  # type: ignore[union-attr]
        layers += [convolution, SquaredReLU(), pool]
        inputs = len(weight)
    head = blocks[names[-1]][r]
    linear = nn.Linear(head.shape[1], head.shape[0], bias=False, dtype=F64)
    linear.weight.data = head.clone()
    return nn.Sequential(*layers, nn.Flatten(), linear)


def torch_gradients(module: nn.Module, loss: Tensor, blocks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gradient of ``loss`` in the module's parameters, by the names and shapes of ours."""
    gradients = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True)
    return {name: g.reshape(blocks[name].shape[1:]) for name, g in zip(blocks, gradients, strict=True)}


def plain_loss(loss: str, f: Tensor, y: Tensor) -> Tensor:
    """The mean loss from outputs (n, k) or (n, 1), written so that its autograd derivative does not cancel at small losses."""
    if f.shape[1] == 1:
        u = -(2 * y - 1)[:, None] * f
        drop = torch.zeros_like(u, dtype=torch.bool)
    else:
        u, drop = f - f.gather(1, y[:, None]), functional.one_hot(y, f.shape[1]).bool()
    e = u.exp().masked_fill(drop, 0)
    if loss == "exponential":
        return e.sum(dim=1).mean()
    return torch.log1p(e.sum(dim=1)).mean() if loss == "cross_entropy" else torch.log1p(e).sum(dim=1).mean()


def torch_loss(f: Tensor, y: Tensor) -> Tensor:
    if f.shape[1] == 1:
        return functional.binary_cross_entropy_with_logits(f[:, 0], y.double())
    return functional.cross_entropy(f, y)


ARCHITECTURES: dict[str, tuple[Any, int, Callable[[Mapping[str, Tensor], int], nn.Module]]] = {
    "squared relu": (mlp(width=5, depth=2), 4, lambda b, r: torch_mlp(b, r, SquaredReLU)),
    "relu, three layers, bias": (
        mlp(width=5, depth=3, activation="relu", bias="first"), 4, lambda b, r: torch_mlp(b, r, nn.ReLU),
    ),
    "max pooling": (
        cnn(channels=[3, 2], kernel=2, bias="first"), 81, lambda b, r: torch_cnn(b, r, 9, 2, nn.MaxPool2d(2)),
    ),
    "average pooling": (
        cnn(channels=[3], kernel=3, pool="average"), 64, lambda b, r: torch_cnn(b, r, 8, 3, nn.AvgPool2d(2)),
    ),
    "no pooling": (cnn(channels=[2], kernel=3, pool="none"), 25, lambda b, r: torch_cnn(b, r, 5, 3, nn.Identity())),
}  # fmt: skip


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("k", [2, 3])
def test_gradient_equals_torch_nn_in_every_run_of_a_batch(architecture: str, k: int) -> None:
    """Parameters that separate, scaled: losses from about 1 down to 1e-10 and below."""
    model, dim, make = ARCHITECTURES[architecture]
    start = random_blocks(model, dim, 1 if k == 2 else k, seed=4, runs=3)
    data = taught(model, start, 9, dim, k, seed=5)
    worst = -objective(model, data).negative_gaps(start).amax(dim=(-2, -1))
    assert (worst > 0).all()
    seen = []
    for gap in (1e-3, 1.0, 8.0, 23.0):
        factor = (gap / worst) ** (1 / model.degree())
        blocks = {name: block * factor[:, None, None] for name, block in start.items()}
        for loss in LOSSES:
            gradient = objective(model, data, loss).gradient(blocks)
            for r in range(3):
                module = make(blocks, r)
                f = module(data.x[r])
                torch.testing.assert_close(
                    model.forward(blocks, model.prepared(data.x))[r], f.T, rtol=1e-12, atol=1e-13 * f.abs().max().item()
                )
                value = plain_loss(loss, f, data.y[r])
                assert gradient.log_loss[r].item() == pytest.approx(math.log(value.item()), rel=1e-11, abs=1e-11)
                for name, expected in torch_gradients(module, value, blocks).items():
                    unit = expected.abs().max()
                    ours = gradient.blocks[name].relative_to(unit.log())[r]
                    torch.testing.assert_close(ours, expected / unit, rtol=0, atol=1e-11)
                if loss == "cross_entropy":  # torch's forms p - 1: right to 1e-16 times the largest |df / dtheta|
                    seen.append(value.item())
                    reach = sum(b.abs().max().item() for b in functional_jacobian(module, data.x[r]))
                    for name, expected in torch_gradients(module, torch_loss(f, data.y[r]), blocks).items():
                        ours = gradient.blocks[name].relative_to(torch.zeros((), dtype=F64))[r]
                        torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-15 * reach)
    assert max(seen) > 0.3
    assert min(seen) < 1e-10


def functional_jacobian(module: nn.Module, x: Tensor) -> list[Tensor]:
    parameters = dict(module.named_parameters())
    jacobian = torch.func.jacrev(lambda p: torch.func.functional_call(module, p, (x,)))(parameters)
    return list(jacobian.values())


# --- Jacobian products -----------------------------------------------------------------------------------------------

TINY: dict[str, tuple[Any, int, int]] = {
    "mlp": (mlp(width=3, depth=2), 4, 3),
    "mlp binary": (mlp(width=3, depth=3, activation="leaky_relu", slope=0.2, bias="first"), 4, 2),
    "cnn": (cnn(channels=[2], kernel=2), 16, 3),
    "diagonal": (diagonal(depth=3), 4, 2),
    "linear": (MODELS.get("linear")(), 4, 3),
}


def tiny(name: str, seed: int = 0) -> tuple[Objective, Parameters]:
    model, dim, k = TINY[name]
    rng = np.random.RandomState(seed)
    if name == "linear":
        data = Data(torch.tensor(rng.randn(2, 6, dim)), torch.tensor(rng.randint(0, k, (2, 6))), k)
        return objective(model, data), {"weight": torch.tensor(rng.randn(2, k, dim))}
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


# --- exact at any depth ----------------------------------------------------------------------------------------------


def deep_case(seed: int, k: int, q: float) -> tuple[Any, Data, Parameters]:
    """A net of width 2 on four samples in three dimensions, its smallest gap q; the last feature is fed by one sample alone,
    whose gap is at least twice as large."""
    model = mlp(width=2, depth=2)
    for attempt in itertools.count(1000 * seed):
        blocks = random_blocks(model, 3, 1 if k == 2 else k, attempt)
        data = taught(model, blocks, 4, 3, k, attempt)
        data.x[:, :3, 2] = 0
        f = model.forward(blocks, model.prepared(data.x))
        data = Data(data.x, (f[:, 0] > 0).long() if k == 2 else f.argmax(dim=1), k)
        gaps = -objective(model, data).negative_gaps(blocks).amax(dim=-2)[0]
        fed = objective(model, data).gradient(blocks).blocks["layer1"].mantissa[0, :, 2]
        if gaps.min() > 0.05 and 2 * gaps.min() < gaps[3] < 5 * gaps.min() and (fed != 0).any():
            factor = (q / gaps.min()) ** (1 / 3)
            return model, data, {name: block * factor for name, block in blocks.items()}
    raise AssertionError


def mp_gradient(data: Data, blocks: Mapping[str, Tensor]) -> tuple[dict[str, list[list[Any]]], Any]:
    """Gradient and value of the mean cross entropy of V relu(W x)^2, by hand."""
    mpf = mpmath.mpf
    w = [[mpf(v) for v in row] for row in blocks["layer1"][0].tolist()]
    v = [[mpf(e) for e in row] for row in blocks["layer2"][0].tolist()]
    gw, gv = [[mpf(0)] * 3 for _ in w], [[mpf(0)] * 2 for _ in v]
    total, n = mpf(0), len(data.y[0])
    for xi, yi in zip(data.x[0].tolist(), data.y[0].tolist(), strict=True):
        x = [mpf(e) for e in xi]
        z = [max(mpmath.fdot(row, x), mpf(0)) for row in w]
        f = [mpmath.fdot(row, [e * e for e in z]) for row in v]
        if len(f) == 1:
            sign = 2 * yi - 1
            e = mpmath.exp(-sign * f[0])
            total += mpmath.log1p(e) / n
            df = [-sign * e / (1 + e) / n]
        else:
            e = [mpmath.exp(fc - f[yi]) for c, fc in enumerate(f) if c != yi]
            total += mpmath.log1p(sum(e)) / n
            df = [mpmath.exp(fc - f[yi]) / (1 + sum(e)) / n for fc in f]
            df[yi] = -sum(e) / (1 + sum(e)) / n
        for c, dfc in enumerate(df):
            for h in range(2):
                gv[c][h] += dfc * z[h] ** 2
                for j in range(3):
                    gw[h][j] += dfc * v[c][h] * 2 * z[h] * x[j]
    return {"layer1": gw, "layer2": gv}, total


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("q", [5.0, 300.0, 700.0, 2000.0, 6000.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gradient_equals_mpmath_at_any_depth(seed: int, k: int, q: float) -> None:
    _, data, blocks = case = deep_case(seed, k, q)
    gradient = objective(case[0], data).gradient(blocks)
    with mpmath.workdps(400):
        exact, value = mp_gradient(data, blocks)
        log_value = float(mpmath.log(value))
        signs = {n: np.array([[int(mpmath.sign(e)) for e in row] for row in g]) for n, g in exact.items()}
        logs = {n: np.array([[float(mpmath.log(abs(e))) if e else -math.inf for e in r] for r in g]) for n, g in exact.items()}
    assert log_value < -0.9 * q
    assert gradient.log_loss.item() == pytest.approx(log_value, rel=1e-12)
    for name, block in gradient.blocks.items():
        np.testing.assert_array_equal(block.mantissa[0].sign().numpy(), signs[name])
        np.testing.assert_allclose(block.log_abs()[0].numpy(), logs[name], rtol=1e-12, atol=1e-8)
    lowest = min(row[np.isfinite(row)].min() for row in logs.values())
    assert lowest < max(row.max() for row in logs.values()) - 0.9 * q


def test_floors_of_a_sample_and_of_its_pairs_do_not_multiply_to_zero() -> None:
    """A feature fed by one sample 500 below the largest, one class of which is 300 further: e^-800 is no double."""
    w = torch.eye(2, dtype=F64)[None]
    v = torch.tensor([[[10.0, 520.0], [-10.0, 0.0], [-10.0, -300.0]]], dtype=F64)
    x = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]], dtype=F64)
    data = Data(x, torch.zeros(1, 2, dtype=torch.int64), 3)
    blocks = {"layer1": w, "layer2": v}
    gradient = objective(mlp(width=2), data).gradient(blocks)
    logs = gradient.blocks["layer2"].log_abs()[0]
    expected = torch.tensor([[-20 + math.log(2), -520.0], [-20.0, -520.0], [-20.0, -820.0]], dtype=F64) - math.log(2)
    torch.testing.assert_close(logs, expected, rtol=1e-12, atol=1e-7)


@pytest.mark.parametrize("optimizer", ["signgd", "signum", "adam", "muon", "muon_adam", "muon_signum"])
@pytest.mark.parametrize("k", [2, 3])
def test_fifty_steps_two_thousand_below_zero(optimizer: str, k: int) -> None:
    model, data, blocks = deep_case(0, k, 2000.0)
    trajectory = simulate(problem(model, data, optimizer, 50, 1e-3, initial=blocks, points=3, kkt_products=4))
    assert (trajectory.common["log_loss"] < -1900).all()
    assert trajectory.common["log_loss"][-1, 0] < trajectory.common["log_loss"][0, 0]
    for columns in trajectory.by_norm.values():
        for key in ("margin", "alignment", "kkt_ratio", "param_norm", "soft_margin"):
            assert np.isfinite(columns[key]).all(), key
        assert (columns["kkt_ratio"] <= 1 + 1e-9).all()
    for name, block in trajectory.parameters[50].items():
        assert block.isfinite().all()
        assert (block - blocks[name]).norm() > 0


# --- batches ---------------------------------------------------------------------------------------------------------

LOGGED = ("linf", "l1", "l2", "spectral", "nuclear")


def problem(model: Any, data: Data, optimizer: str, steps: int, lr: Any, **more: Any) -> Problem:
    hyper, schedule = more.pop("hyper", {}), more.pop("schedule", None)
    initial = more.pop("initial", None)
    rule = OPTIMIZERS.get(optimizer)(**hyper)
    runs = data.x.shape[0]
    start = model.initial(data, range(runs)) if initial is None else initial
    measured = {label: make_norm(label) for label in more.pop("logged", LOGGED)}
    own = rule.own or "l2"
    measured.setdefault(own, make_norm(own))
    return Problem(
        model=model,
        loss=LOSSES.get(more.pop("loss", "cross_entropy"))(),
        optimizer=rule,
        schedule=schedule or SCHEDULES.get("power")(lr=lr, power=0.5),
        data=data,
        initial=trained(model, start) if hasattr(model, "frozen_blocks") else start,
        steps=steps,
        measured=measured,
        kkt_products=more.pop("kkt_products", 6),
        points=more.pop("points", 6),
        frozen={name: block for name, block in start.items() if name in model.frozen_blocks()},
        **more,
    )


SIX = 6
BATCH = mlp(width=6, depth=2, init_scale=1.0)


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


@pytest.mark.parametrize(
    ("depth", "activation", "label"), [(2, "squared_relu", "l2"), (3, "relu", "linf"), (3, "relu", "hybrid0.1")]
)
@pytest.mark.parametrize("k", [2, 3])
def test_a_unit_of_learning_rates_is_found_on_small_networks(depth: int, activation: str, label: str, k: int) -> None:
    """Where the search from the run's own start fails others are tried; where it does not its result stays, to the bit."""
    runs = 60
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


def six(k: int = 3) -> tuple[Data, Tensor]:
    """Six training sets and learning rates."""
    rng = np.random.RandomState(11)
    means = rng.randn(SIX, k, 4)
    y = np.tile(np.arange(k), (SIX, 4))
    x = np.take_along_axis(means, y[..., None], axis=1) + 0.3 * rng.randn(SIX, 4 * k, 4)
    return Data(torch.tensor(x), torch.tensor(y), k), torch.linspace(0.02, 0.12, SIX, dtype=F64)


def alone(batch: Problem, r: int) -> Problem:
    data = Data(batch.data.x[r : r + 1], batch.data.y[r : r + 1], batch.data.num_classes)
    initial = {name: block[r : r + 1] for name, block in batch.initial.items()}
    schedule = replace(batch.schedule, lr=batch.schedule.lr[r : r + 1])
    test = batch.test and Data(batch.test.x[r : r + 1], batch.test.y[r : r + 1], data.num_classes)
    return replace(batch, data=data, initial=initial, schedule=schedule, test=test)


def assert_same_columns(together: Trajectory, single: Trajectory, r: int, rtol: float, until: int | None = None) -> None:
    """Run r of a batch has the rows and columns that it has alone."""
    mine = together.recorded[:, r]
    steps = [s for s, recorded in zip(together.steps, mine, strict=True) if recorded]
    assert steps == single.steps
    assert single.recorded.all()
    early = np.array([until is None or s <= until for s in steps])
    for key, column in single.common.items():
        np.testing.assert_allclose(together.common[key][mine, r][early], column[early, 0], rtol=rtol, atol=rtol, err_msg=key)
    for label, columns in single.by_norm.items():
        for key, column in columns.items():
            batched = together.by_norm[label][key][mine, r][early]
            np.testing.assert_allclose(batched, column[early, 0], rtol=rtol, atol=rtol, err_msg=f"{label} {key}")


ALL = sorted(set(OPTIMIZERS) - {"coordinate_descent"})


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_one_step_of_a_batch_is_the_step_alone(optimizer: str) -> None:
    data, lr = six()
    batch = problem(BATCH, data, optimizer, 1, lr)
    together = simulate(batch).parameters[1]
    for r in range(SIX):
        single = simulate(alone(batch, r)).parameters[1]
        for name, block in single.items():
            torch.testing.assert_close(together[name][r], block[0], rtol=1e-11, atol=1e-11 * block.abs().max().item())


@pytest.mark.parametrize("optimizer", ["signgd", "ngd", "nmgd", "spectral_gd", "adam", "muon_signum"])
def test_a_hundred_steps_of_a_batch_are_the_steps_alone(optimizer: str) -> None:
    """All columns, with loss levels and runs that stop early."""
    data, lr = six()
    test, _ = six()
    stop = -0.7 if optimizer in ("ngd", "nmgd") else -3.0
    batch = problem(
        BATCH, data, optimizer, 100, lr, levels=2, stop_log_loss=stop, points=10, test=replace(test, x=test.x + 0.5)
    )  # fmt: skip
    together = simulate(batch)
    assert {"later_cosine", "test_accuracy"} <= set(together.common)
    ends = set()
    for r in (0, 2, 5):
        single = simulate(alone(batch, r))
        assert_same_columns(together, single, r, 1e-9)
        ends.add(single.steps[-1])
        assert (single.common["log_loss"][:-1] >= stop).all()
        for j in range(3):  # the first step below every half decade is recorded
            below = single.common["log_loss"][:, 0] <= -j / 2 * math.log(10)
            assert below.any() == (single.common["log_loss"].min() <= -j / 2 * math.log(10))
    assert len(ends) > 1


def test_muon_of_a_batch_is_muon_alone_within_its_round_off() -> None:
    data, lr = six()
    batch = problem(BATCH, data, "muon", 300, lr, kkt_products=0)
    together = simulate(batch)
    for r in (0, 5):
        single = simulate(alone(batch, r))
        assert_same_columns(together, single, r, 1e-9, until=100)
        a, b = together.by_norm["spectral"]["margin"][-1, r], single.by_norm["spectral"]["margin"][-1, 0]
        assert a == pytest.approx(b, rel=2e-3)


def test_levels_are_recorded_when_first_reached() -> None:
    """Against the records of every step."""
    data, lr = six()
    batch = problem(BATCH, data, "ngd", 200, lr, kkt_products=0, logged=())
    every = simulate(replace(batch, points=2000))
    assert every.steps == list(range(201))
    leveled = simulate(replace(batch, points=2, levels=4, stop_log_loss=-4.0))
    for r in range(SIX):
        log_loss = every.common["log_loss"][:, r]
        end = int(np.argmax(log_loss < -4.0)) if (log_loss < -4.0).any() else 200
        wanted = {0, 1, 10, 100, 200, end}
        for j in range(int(-log_loss.min() / math.log(10) * 4) + 1):
            wanted.add(int(np.argmax(log_loss <= -j * math.log(10) / 4)))
        found = [s for s, recorded in zip(leveled.steps, leveled.recorded[:, r], strict=True) if recorded]
        assert found == sorted(s for s in wanted if s <= end)


# --- torch.optim -----------------------------------------------------------------------------------------------------

TORCH_RULES: dict[str, tuple[str, dict[str, Any], Callable[[Any], torch.optim.Optimizer]]] = {
    "gd": ("gd", {}, lambda p: torch.optim.SGD(p, lr=0.05)),
    "momentum": ("momentum_gd", {"beta": 0.8}, lambda p: torch.optim.SGD(p, lr=0.05 * (1 - 0.8), momentum=0.8)),
    "heavy ball": ("momentum_gd", {"beta": 0.8, "ema": False}, lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8)),
    "adam": ("adam", {"eps": 1e-12}, lambda p: torch.optim.Adam(p, lr=0.05, betas=(0.9, 0.95), eps=1e-12)),
    "adam eps": ("adam", {"eps": 1e-3}, lambda p: torch.optim.Adam(p, lr=0.05, betas=(0.9, 0.95), eps=1e-3)),
}


@pytest.mark.parametrize("rule", TORCH_RULES)
@pytest.mark.parametrize("k", [2, 3])
def test_fifty_steps_equal_torch_optim(rule: str, k: int) -> None:
    name, hyper, make = TORCH_RULES[rule]
    data, _ = six(k)
    model = mlp(width=5, depth=3, activation="squared_relu", bias="first", init_scale=1.0, init="normal")
    schedule = SCHEDULES.get("constant")(lr=0.05)
    ours = simulate(
        problem(model, data, name, 50, None, hyper=hyper, schedule=schedule, points=500, weights="all", kkt_products=0, logged=())
    )
    start = ours.parameters[0]
    for r in (0, 4):
        module = torch_mlp(start, r, SquaredReLU)
        theirs = make(module.parameters())
        for t in range(1, 51):
            theirs.zero_grad()
            value = torch_loss(module(data.x[r]), data.y[r])
            value.backward()
            theirs.step()
            for block, parameter in zip(ours.parameters[t].values(), module.parameters(), strict=True):
                torch.testing.assert_close(block[r], parameter.detach().reshape(block[r].shape), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("nesterov", [False, True])
def test_muon_ns_on_a_network_equals_torch_muon(nesterov: bool) -> None:
    """A step from the same buffer, to bfloat16; the head's null direction (rows that sum to zero) is taken out."""
    model = mlp(width=6, depth=2, init="normal", init_scale=1.0)
    rng = np.random.RandomState(0)
    data = Data(torch.tensor(rng.randn(1, 40, 8)), torch.tensor(rng.randint(0, 4, (1, 40))), 4)
    target, ours = objective(model, data), OPTIMIZERS.get("muon_ns")(beta=0.9, nesterov=nesterov)
    module = torch_mlp(model.initial(data, [0]), 0, SquaredReLU)
    theirs = torch.optim.Muon(module.parameters(), lr=0.02, momentum=0.9, weight_decay=0.0, nesterov=nesterov)
    state = None
    for t in range(1, 20):
        parameters = dict(zip(("layer1", "layer2"), module.parameters(), strict=True))
        before = {n: p.detach().clone() for n, p in parameters.items()}
        gradient = target.gradient({n: p[None] for n, p in before.items()})
        state, step = step_with(ours, state or ours.init(gradient.blocks), gradient.blocks, t, ours.geometry(list(before), None))
        theirs.zero_grad()
        torch_loss(module(data.x[0]), data.y[0]).backward()
        theirs.step()
        for name, p in parameters.items():
            buffer = theirs.state[p]["momentum_buffer"]
            mine = state["momentum"][name].relative_to(torch.zeros((), dtype=F64))[0]
            assert (mine - buffer).norm() <= 1e-5 * buffer.norm()
            moved = (before[name] - p.detach()) / 0.02
            if name == "layer2":
                moved = moved - moved.mean(dim=0)
            assert (step.direction[name][0] - moved).norm() <= 3e-2 * moved.norm()


# --- norms of parameter sets -----------------------------------------------------------------------------------------

HYBRIDS = ["hybrid", "hybrid0.5", "hybrid3", "hybrid0.5-l2-linf", "hybrid2-l2-l2", "hybrid2-max-l2"]
SETS = [*HYBRIDS, "spectral", "nuclear", "l1", "l2", "linf", "lp3", "schatten1.5", "row"]


def block_set(seed: int, kind: str, size: float) -> Parameters:
    """Three blocks for two runs, one of them a single row."""
    rng = np.random.RandomState(seed)
    blocks = {"a": rng.randn(2, 4, 6), "b": rng.randn(2, 3, 2), "c": rng.randn(2, 1, 5)}
    if kind == "low rank":
        blocks["a"] = rng.randn(2, 4, 1) @ rng.randn(2, 1, 6)
    elif kind == "a zero block":
        blocks["b"] = 0 * blocks["b"]
    elif kind == "far apart":
        blocks["a"], blocks["c"] = 1e-30 * blocks["a"], 1e30 * blocks["c"]
    return {name: size * torch.tensor(block) for name, block in blocks.items()}


def geometry(label: str) -> ParameterNorm:
    return over_blocks(make_norm(label), ["a", "b", "c"], None, ["a", "b"])


def nuclear_by_numpy(block: Tensor) -> np.ndarray:
    return np.linalg.svd(block.numpy(), compute_uv=False).sum(axis=-1)


def numpy_value_and_dual(label: str, g: Parameters) -> tuple[np.ndarray, np.ndarray]:
    """By numpy, block by block."""
    s = {n: np.linalg.svd(b.numpy(), compute_uv=False) for n, b in g.items()}
    vector = np.concatenate([b.numpy().reshape(2, -1) for b in g.values()], axis=1)
    if label.startswith("hybrid"):
        ratio, outer, rest = [*label.removeprefix("hybrid").split("-"), "max", "linf"][:3]
        r, entries = float(ratio or 0.1), g["c"].numpy().reshape(2, -1)
        of_rest, of_parts = {"linf": (math.inf, 1), "l2": (2, 2)}[rest], {"max": (math.inf, 1), "l2": (2, 2)}[outer]
        parts = [r * s["a"][:, 0], r * s["b"][:, 0], np.linalg.norm(entries, of_rest[0], axis=1)]
        duals = [s["a"].sum(axis=1) / r, s["b"].sum(axis=1) / r, np.linalg.norm(entries, of_rest[1], axis=1)]
        return np.linalg.norm(parts, of_parts[0], axis=0), np.linalg.norm(duals, of_parts[1], axis=0)
    if label in ("l1", "l2", "linf", "lp3"):
        p = {"l1": 1.0, "l2": 2.0, "linf": math.inf, "lp3": 3.0}[label]
        q = {"l1": math.inf, "l2": 2.0, "linf": 1.0, "lp3": 1.5}[label]
        return np.linalg.norm(vector, p, axis=1), np.linalg.norm(vector, q, axis=1)
    if label == "row":  # the largest row in l2; its dual sums the rows' lengths
        rows = {n: np.linalg.norm(b.numpy(), axis=2) for n, b in g.items()}
        return np.max([v.max(axis=1) for v in rows.values()], axis=0), np.sum([v.sum(axis=1) for v in rows.values()], axis=0)
    p = {"spectral": math.inf, "nuclear": 1.0, "schatten1.5": 1.5}[label]
    q = {"spectral": 1.0, "nuclear": math.inf, "schatten1.5": 3.0}[label]
    values = [np.linalg.norm(v, p, axis=1) for v in s.values()]
    return np.max(values, axis=0), np.sum([np.linalg.norm(v, q, axis=1) for v in s.values()], axis=0)


@pytest.mark.parametrize("label", SETS)
@pytest.mark.parametrize("kind", ["random", "low rank", "a zero block", "far apart"])
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**31), exponent=st.integers(-150, 150))
def test_direction_of_a_parameter_set_attains_the_dual(label: str, kind: str, seed: int, exponent: int) -> None:
    whole, unit = geometry(label), block_set(seed, kind, 1.0)
    g = {name: 10.0**exponent * block for name, block in unit.items()}
    value, dual = numpy_value_and_dual(label, unit)
    np.testing.assert_allclose(whole.value(g).numpy(), 10.0**exponent * value, rtol=1e-10)
    np.testing.assert_allclose(whole.dual(g).numpy(), 10.0**exponent * dual, rtol=1e-10)
    d = whole.direction(g)
    torch.testing.assert_close(inner(g, d), whole.dual(g), rtol=1e-9, atol=0)
    torch.testing.assert_close(whole.value(d), torch.ones(2, dtype=F64), rtol=1e-10, atol=0)


@pytest.mark.parametrize("label", SETS)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**31), depth=st.floats(-1e5, 1e5), spread=st.floats(0, 5000))
def test_direction_of_scaled_blocks_has_unit_value(label: str, seed: int, depth: float, spread: float) -> None:
    """One scale a run, a row or an entry, blocks and entries up to e^5000 apart."""
    whole, unit = geometry(label), block_set(seed, "random", 1.0)
    rng = torch.Generator().manual_seed(seed % 1000)
    scales = {"a": (2, 1, 1), "b": (2, 3, 1), "c": (2, 1, 5)}
    g = {n: Scaled(b, depth + spread * torch.rand(scales[n], generator=rng, dtype=F64)) for n, b in unit.items()}
    torch.testing.assert_close(whole.value(whole.scaled_direction(g)), torch.ones(2, dtype=F64), rtol=1e-10, atol=0)
    # At one scale for all it is the plain direction.
    even = {n: Scaled(b, torch.full(scales[n], depth, dtype=F64)) for n, b in unit.items()}
    for name, block in whole.direction(unit).items():
        torch.testing.assert_close(whole.scaled_direction(even)[name], block, rtol=1e-9, atol=1e-10)


def test_a_nuclear_set_norm_has_the_sum_of_spectral_norms_as_its_dual() -> None:
    g = block_set(3, "random", 1.0)
    expected = sum(np.linalg.norm(block.numpy(), 2, axis=(1, 2)) for block in g.values())
    np.testing.assert_allclose(geometry("nuclear").dual(g).numpy(), expected, rtol=1e-12)


# --- KKT ratios ------------------------------------------------------------------------------------------------------


def ratio_at(target: Objective, degree: float, whole: ParameterNorm, theta: Parameters, w: Tensor, products: int) -> float:
    q = -target.negative_gaps(theta).amax(dim=(-2, -1))
    search = KktRatios(target, degree, products)
    return float(search.best("norm", whole, theta, target.pull(theta, w), w, q))


def binary(x: Sequence[Sequence[float]]) -> Data:
    """Samples of class +1 alone."""
    return Data(torch.tensor([x], dtype=F64), torch.ones(1, len(x), dtype=torch.int64), 2)


def two_layers(w: Sequence[Sequence[float]], v: Sequence[float]) -> Parameters:
    return {"layer1": torch.tensor([w], dtype=F64), "layer2": torch.tensor([[v]], dtype=F64)}


RELU = mlp(width=2, depth=2, activation="relu")
SQRT2, CUBE = math.sqrt(2.0), 0.5 ** (1 / 3)
PAIR = [[1.0, 0.25], [-1.0, 0.25]]
# papers/homogeneous-networks.md, section 5: a dead neuron, zero pre-activations, a local optimum; diagonal of depth 2 and 3.
KNOWN: dict[str, tuple[Any, Data, Parameters, float]] = {
    "D1": (RELU, binary(PAIR), two_layers([[0.0, 2.0], [0.0, 0.0]], [2.0, 0.0]), 8.0),
    "D2": (RELU, binary([[1.0, 0.0], [0.0, 1.0]]), two_layers([[1.0, 0.0], [0.0, 1.0]], [1.0, 1.0]), 4.0),
    "D3": (RELU, binary(PAIR), two_layers([[0.0, SQRT2], [0.0, SQRT2]], [SQRT2, SQRT2]), 8.0),
    "D4": (
        diagonal(depth=2), binary([[1.0, 2.0]]),
        {f"layer{j}": torch.tensor([[[1.0, 0.0]]], dtype=F64) for j in (1, 2)}, 2.0,
    ),
    "D5": (
        diagonal(depth=3), binary([[1.0, 1.0]]),
        {f"layer{j}": torch.tensor([[[CUBE, CUBE]]], dtype=F64) for j in (1, 2, 3)}, 3.7798,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_kkt_ratio_is_one_at_known_kkt_points(name: str, scale: float) -> None:
    model, data, theta, size = KNOWN[name]
    target, l2 = objective(model, data), over_blocks(make_norm("l2"), list(theta))
    assert float(l2.value(theta)) ** 2 == pytest.approx(size, rel=1e-4)
    torch.testing.assert_close(target.negative_gaps(theta), -torch.ones(1, 1, data.x.shape[1], dtype=F64))
    theta = {n: scale * b for n, b in theta.items()}
    skewed = torch.tensor([[[0.9, 0.1][: data.x.shape[1]]]], dtype=F64)
    skewed = skewed / skewed.sum()
    assert ratio_at(target, model.degree(), l2, theta, skewed, 150) == pytest.approx(1, abs=1e-6)
    if data.x.shape[1] == 2:
        assert ratio_at(target, model.degree(), l2, theta, skewed, 0) < 0.9
    elsewhere = {n: b + 0.3 * scale * torch.arange(1.0, b.numel() + 1, dtype=F64).reshape(b.shape) for n, b in theta.items()}
    assert ratio_at(target, model.degree(), l2, elsewhere, skewed, 150) < 0.999


def test_kkt_ratio_is_empty_before_separation() -> None:
    _, data, theta, _ = KNOWN["D1"]
    wrong = {**theta, "layer2": -theta["layer2"]}
    even = torch.full((1, 1, 2), 0.5, dtype=F64)
    l2 = over_blocks(make_norm("l2"), list(theta))
    assert math.isnan(ratio_at(objective(RELU, data), 2, l2, wrong, even, 20))


# How near the search comes with a thousand products; on norms whose dual has corners it is slow.
LINEAR = {
    "l2": ("ngd", 2e-3), "spectral": ("spectral_gd", 1e-3), "nuclear": ("nucgd", 0.01),
    "l1": ("coordinate_descent", 0.03), "linf": ("signgd", 0.05),
}  # fmt: skip


@pytest.mark.parametrize("label", LINEAR)
def test_the_best_kkt_ratio_of_a_linear_model_is_its_margin_ratio(label: str) -> None:
    """At the optimal weights, from cvxpy, to its precision; the search stays below and comes near."""
    rng = np.random.RandomState(3)
    y = np.arange(3).repeat(5)
    x = 2 * rng.randn(3, 6)[y] + 0.4 * rng.randn(15, 6)
    data = Data(torch.tensor(x)[None], torch.tensor(y)[None], 3)
    norm, model = make_norm(label), MODELS.get("linear")()
    target, whole, optimum = objective(model, data), over_blocks(norm, ["weight"]), solve_exact(x, y, 3, norm)
    weights = cvxpy.Variable((3, 15), nonneg=True)  # [c, i]; row c of sum w grad m is sum_i (own_ic - w_ci) x_i
    own = np.eye(3)[y].T
    c = (cvxpy.multiply(own, np.ones((3, 1)) @ cvxpy.sum(weights, axis=0, keepdims=True)) - weights) @ x
    duals = {
        "l2": cvxpy.norm(c, "fro"), "spectral": cvxpy.normNuc(c), "nuclear": cvxpy.sigma_max(c),
        "l1": cvxpy.max(cvxpy.abs(c)), "linf": cvxpy.sum(cvxpy.abs(c)),
    }  # fmt: skip
    constraints = [cvxpy.sum(weights) == 1, cvxpy.multiply(own, weights) == 0]
    cvxpy.Problem(cvxpy.Minimize(duals[label]), constraints).solve(solver="CLARABEL")
    assert weights.value is not None
    best = torch.tensor(np.maximum(weights.value, 0))[None].masked_fill(data.is_label(), 0.0)
    best = best / best.sum()
    rule, near = LINEAR[label]
    trajectory = simulate(problem(model, data, rule, 1000, 1.0, weights="all", points=2))
    for step in (100, 1000):
        blocks = trajectory.parameters[step]
        true = float(-target.negative_gaps(blocks).amax() / norm.value(blocks["weight"])[0]) / optimum.lower
        assert 0 < true < 1 + 1e-6
        assert ratio_at(target, 1, whole, blocks, best, 0) == pytest.approx(true, rel=1e-5)
        plain = ratio_at(target, 1, whole, blocks, target.weights(blocks).mT, 0)
        found = ratio_at(target, 1, whole, blocks, target.weights(blocks).mT, 1000)
        assert plain <= found <= true * (1 + 1e-5)
        assert found > true * (1 - near)


@pytest.mark.parametrize("optimizer", ["ngd", "signgd", "muon", "adam", "muon_signum", "gd", "shampoo"])
@pytest.mark.parametrize(
    ("model", "dim", "k"),
    [
        (mlp(width=5, depth=2, init_scale=1.0), 4, 3),
        (mlp(width=5, depth=3, activation="relu", init_scale=1.0), 4, 2),
        (cnn(channels=[2], kernel=2, init_scale=1.0), 16, 3),
        (diagonal(depth=2, init_scale=1.0), 4, 3),
        (mlp(width=5, depth=2, init_scale=1.0, frozen=["layer2"]), 4, 2),
    ],
    ids=["mlp", "relu", "cnn", "diagonal", "frozen"],
)
def test_kkt_ratios_and_alignments_never_exceed_one(optimizer: str, model: Any, dim: int, k: int) -> None:
    rng = np.random.RandomState(0)
    y = np.arange(k).repeat(3)
    x = 2 * rng.randn(2, k, dim)[:, y] + 0.2 * rng.randn(2, 3 * k, dim)
    data = Data(torch.tensor(x), torch.tensor(y)[None].expand(2, -1), k)
    trajectory = simulate(problem(model, data, optimizer, 60, 0.1, points=8))
    for columns in trajectory.by_norm.values():
        positive = columns["margin"] > 0
        assert np.isnan(columns["kkt_ratio"][~positive]).all()
        assert (columns["kkt_ratio"][positive] <= 1 + 1e-9).all()
        assert (columns["kkt_ratio"][positive] > 0).all()
        assert np.nanmax(np.abs(columns["alignment"])) <= 1 + 1e-9
        assert np.isfinite(columns["alignment"]).mean() > 0.9  # empty where all units have died and the gradient is 0
        assert (columns["soft_margin"] <= columns["margin"] * (1 + 1e-9) + 1e-15).all()


# --- hybrid optimizers -----------------------------------------------------------------------------------------------


def plain_gradient(seed: int, shapes: Mapping[str, tuple[int, int]], runs: int = 2) -> dict[str, Scaled]:
    rng = np.random.RandomState(seed)
    return {n: Scaled(torch.tensor(rng.randn(runs, *s)), torch.zeros(runs, 1, 1, dtype=F64)) for n, s in shapes.items()}


SHAPES = {"layer1": (4, 6), "bias1": (1, 4), "layer2": (4, 4), "layer3": (3, 4)}
HIDDEN = ["layer1", "layer2"]


@pytest.mark.parametrize("optimizer", ["muon_signum", "muon_adam"])
@pytest.mark.parametrize("ratio", [0.1, 2.5])
@pytest.mark.parametrize("matrices", [None, ["layer3"], ["layer1", "layer2", "layer3"], []])
def test_hybrid_steps_have_their_lengths(optimizer: str, ratio: float, matrices: list[str] | None) -> None:
    rule = OPTIMIZERS.get(optimizer)(ratio=ratio, matrices=matrices)
    whole = rule.geometry(list(SHAPES), None, None, HIDDEN)
    assert whole.label == rule.own == f"hybrid{ratio}"
    gradient = plain_gradient(0, SHAPES)
    _, step = step_with(rule, rule.init(gradient), gradient, 1, whole)
    assert step.log_size is None
    assert set(step.direction) == set(SHAPES)
    for name, block in step.direction.items():
        if name in (HIDDEN if matrices is None else matrices):
            assert torch.linalg.matrix_norm(block, 2).tolist() == pytest.approx([1, 1], rel=1e-12)
            u, _, vh = torch.linalg.svd(gradient[name].mantissa, full_matrices=False)
            torch.testing.assert_close(block, u @ vh, rtol=0, atol=1e-10)
        else:  # the first step of Adam is the sign
            torch.testing.assert_close(block, ratio * gradient[name].mantissa.sign(), rtol=1e-12, atol=0)
    torch.testing.assert_close(whole.value(step.direction), torch.full((2,), ratio, dtype=F64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("optimizer", ["muon_signum", "muon_adam"])
def test_hybrids_refuse_unknown_blocks(optimizer: str) -> None:
    with pytest.raises(BadInput, match=r"^optimizer.matrices=\['layer1', 'nope'\]: no block nope; allowed: layer1, bias1"):
        OPTIMIZERS.get(optimizer)(matrices=["layer1", "nope"]).geometry(list(SHAPES), None, None, HIDDEN)


@pytest.mark.parametrize("bias_correction", [False, True])
@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_muon_adam_without_matrices_is_adam_and_without_a_rest_is_muon(bias_correction: bool, eps: float) -> None:
    hyper = {"beta1": 0.7, "beta2": 0.9, "eps": eps, "bias_correction": bias_correction}
    rules = {
        "adam": OPTIMIZERS.get("adam")(**hyper),
        "muon": OPTIMIZERS.get("muon")(beta=0.8),
        "no matrices": OPTIMIZERS.get("muon_adam")(ratio=0.3, matrices=[], **hyper),
        "no rest": OPTIMIZERS.get("muon_adam")(ratio=0.3, matrices=list(SHAPES), beta=0.8, **hyper),
    }
    states = {name: rule.init(plain_gradient(0, SHAPES)) for name, rule in rules.items()}
    for t in range(1, 6):
        steps = {}
        for name, rule in rules.items():
            whole = rule.geometry(list(SHAPES), None, None, HIDDEN)
            states[name], steps[name] = step_with(rule, states[name], plain_gradient(t, SHAPES), t, whole)
        for block in SHAPES:
            adam, muon = steps["adam"].direction[block], steps["muon"].direction[block]
            torch.testing.assert_close(steps["no matrices"].direction[block], 0.3 * adam, rtol=1e-12, atol=0)
            torch.testing.assert_close(steps["no rest"].direction[block], muon, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("shape", [(4, 4), (3, 3), (1, 1)])
def test_shampoo_is_the_product_of_fractional_powers(shape: tuple[int, int]) -> None:
    rule = OPTIMIZERS.get("shampoo")()
    gradient = plain_gradient(5, {"a": shape, "b": (2, 2)})
    _, step = step_with(rule, rule.init(gradient), gradient, 1, rule.geometry(["a", "b"], None))
    for name, block in gradient.items():
        for r in range(2):
            g = block.mantissa[r].numpy()
            left, right = (scipy.linalg.fractional_matrix_power(s, -0.25) for s in (g @ g.T, g.T @ g))
            np.testing.assert_allclose(step.direction[name][r].numpy(), left @ g @ right, rtol=0, atol=1e-9)


# --- Lyu and Li's schedule -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lr", [0.3, 300.0])
@pytest.mark.parametrize(("optimizer", "beta"), [("gd", 0.0), ("momentum_gd", 0.6)])
def test_lyu_li_equals_a_loop_written_out(optimizer: str, beta: float, lr: float) -> None:
    """Parameters of every step against autograd; parameters and momentum of a step that is taken back are those before it."""
    data, _ = six()
    schedule = SCHEDULES.get("lyu_li")(lr=lr, up=1.3, down=1.7)
    hyper = {"beta": beta} if optimizer == "momentum_gd" else {}
    ours = simulate(
        problem(
            BATCH, data, optimizer, 40, None, schedule=schedule, hyper=hyper, points=500, weights="all", kkt_products=0, logged=()
        )
    )
    assert ours.steps == list(range(41))
    assert (np.diff(ours.common["log_loss"], axis=0) <= 0).all()
    back = 0
    for r in (0, 3):
        module = torch_mlp(ours.parameters[0], r, SquaredReLU)
        parameters, alpha = list(module.parameters()), lr
        momentum = [torch.zeros_like(p) for p in parameters]
        for t in range(1, 41):
            loss = plain_loss("cross_entropy", module(data.x[r]), data.y[r])
            if loss < 1e-200:  # ours goes on; the plain loss soon is 0
                break
            gradients = torch.autograd.grad(loss, parameters)
            averages = [beta * m + (1 - beta) * g for m, g in zip(momentum, gradients, strict=True)]
            with torch.no_grad():
                before = [p.clone() for p in parameters]
                for p, m in zip(parameters, averages, strict=True):
                    p.sub_(alpha / loss * m)
                kept = bool(plain_loss("cross_entropy", module(data.x[r]), data.y[r]) < loss)
                assert ours.common["lr"][t, r] == pytest.approx(alpha, rel=1e-12)
                if kept:
                    momentum, alpha = averages, 1.3 * alpha
                else:
                    for p, old in zip(parameters, before, strict=True):
                        p.copy_(old)
                    alpha /= 1.7
                    back += 1
                    for name, block in ours.parameters[t].items():
                        assert torch.equal(block[r], ours.parameters[t - 1][name][r])
            for block, p in zip(ours.parameters[t].values(), parameters, strict=True):
                torch.testing.assert_close(block[r], p.detach(), rtol=1e-9, atol=1e-9)
    assert back > 5


def test_lyu_li_in_a_batch_is_lyu_li_alone() -> None:
    data, lr = six()
    batch = problem(BATCH, data, "momentum_gd", 50, None, schedule=SCHEDULES.get("lyu_li")(lr=30 * lr), kkt_products=4)
    together = simulate(batch)
    for r in (0, 4):
        assert_same_columns(together, simulate(alone(batch, r)), r, 1e-9)


@pytest.mark.parametrize("model", [MODELS.get("linear")(), BATCH], ids=["linear", "mlp"])
def test_lyu_li_reaches_a_log_loss_of_minus_a_thousand(model: Any) -> None:
    data, _ = six(2)
    data = Data(data.x[:1, :2], data.y[:1, :2], 2)
    schedule = SCHEDULES.get("lyu_li")(lr=0.1)
    trajectory = simulate(problem(model, data, "gd", 400, None, schedule=schedule, stop_log_loss=-1000.0))
    assert (np.diff(trajectory.common["log_loss"], axis=0) <= 0).all()
    assert (trajectory.common["log_loss"][-1] < -1000).all()
    assert trajectory.steps[-1] < 400
    for columns in trajectory.by_norm.values():
        for key in ("margin", "alignment", "kkt_ratio", "param_norm"):
            assert np.isfinite(columns[key][-1]).all(), key


# --- soft margins ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cross_entropy", "pair_logistic"])
def test_soft_gap_inverts_the_logistic_loss(name: str) -> None:
    with mpmath.workdps(1200):
        gaps = [-5.0, -1.0, -1e-6, 0.0, 0.3, 5.0, 20.0, 36.9, 37.1, 100.0, 744.0, 2000.0]
        logs = torch.tensor([float(mpmath.log(mpmath.log1p(mpmath.exp(-mpmath.mpf(m))))) for m in gaps], dtype=F64)
    soft = LOSSES.get(name)().soft_gap(logs)
    np.testing.assert_allclose(soft.numpy(), gaps, rtol=1e-14, atol=2e-14)


@pytest.mark.parametrize("loss", ["exponential", "cross_entropy", "pair_logistic"])
def test_the_soft_margin_is_below_the_margin_by_at_most_log_n(loss: str) -> None:
    """Binary: log n for the exponential loss (q - log n <= log 1/L), and for the logistic as well, phi^-1 being 1-Lipschitz in
    the tail."""
    data, lr = six(2)
    trajectory = simulate(problem(BATCH, data, "ngd", 200, lr, loss=loss))
    n, degree = data.x.shape[1], BATCH.degree()
    for columns in trajectory.by_norm.values():
        margin, soft, power = columns["margin"], columns["soft_margin"], columns["param_norm"] ** degree
        assert (soft <= margin + 1e-12 * np.abs(margin)).all()
        if loss == "exponential":
            assert (soft >= margin - math.log(n) / power - 1e-12 * np.abs(margin)).all()
        total = np.exp(trajectory.common["log_loss"]) * n
        expected = -np.log(total) if loss == "exponential" else -np.log(np.expm1(total))
        np.testing.assert_allclose(soft * power, expected, rtol=1e-9, atol=1e-9)


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["model=mlp", "model.width=6", "optimizer=muon_adam"],
        ["model=cnn", "model.channels=[2]", "optimizer=muon_signum", "log.levels=2"],
        ["model=diagonal", "optimizer=gd", "schedule=lyu_li"],
        ["model=mlp", "model.width=4", "optimizer=shampoo", "model.frozen=[layer2]", "loss=exponential"],
    ],
)
@pytest.mark.parametrize("tested", [False, True])
def test_the_command_trains_networks(
    arguments: list[str], tested: bool, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    more = ["dataset.test_samples=50"] if tested else []
    shared = ["dataset=digits", "dataset.samples=60", "steps=20", "log.points=5", "log.kkt_iters=4", "progress=off"]
    assert main([*shared, f"results_dir={tmp_path}", *arguments, *more]) == 0
    assert capsys.readouterr().err == ""
    (folder,) = (tmp_path / "runs").iterdir()
    assert {p.name for p in folder.iterdir()} == {
        "trajectory.csv", "summary.csv", "config.yaml", "final.npz", "provenance.json",
    }  # fmt: skip
    table = pd.read_csv(folder / "trajectory.csv")
    assert tuple(table.columns) == (*COLUMNS, *(EXTRA_COLUMNS if tested else EXTRA_COLUMNS[:2]))
    assert {0, 1, 10, 20} <= set(table["step"])
    assert table[["max_margin", "relative_gap", "upper_bound", "correlation"]].isna().all(axis=None)
    assert table[["margin", "alignment", "param_norm", "log_loss", "soft_margin"]].notna().all(axis=None)
    assert table.loc[table["step"] == 1, "later_cosine"].between(-1, 1).all()
    assert table.loc[table["step"] == 20, "later_cosine"].isna().all()
    if tested:
        assert table["test_accuracy"].between(0, 1).all()
    with np.load(folder / "final.npz") as file:
        assert {"layer1", "layer2", "log_loss", "log_scale"} <= set(file.files)


def test_a_sweep_over_networks_is_its_runs_one_by_one(tmp_path: Path) -> None:
    shared = ["model=mlp", "model.width=4", "optimizer=ngd", "dataset.num_classes=3", "dataset.dim=5", "steps=60", "log.levels=2"]
    together, _ = run(*shared, "stop_log10_loss=-1", f"results_dir={tmp_path / 'a'}", "seed=1,2,3", multirun=True)
    for seed in (1, 2, 3):
        single, _ = run(*shared, "stop_log10_loss=-1", f"results_dir={tmp_path / 'b'}", f"seed={seed}")
        mine = together[together["seed"] == seed].reset_index(drop=True)
        pd.testing.assert_frame_equal(mine[single.columns], single, rtol=1e-9)
