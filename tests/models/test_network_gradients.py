"""Exact gradients of networks: against torch.nn and autograd at ordinary losses, against mpmath at any depth."""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from implicit_bias.engine import simulate
from implicit_bias.losses import LOSSES
from implicit_bias.models import Data, Parameters
from tests.support.networks import (
    F64,
    SquaredReLU,
    cnn,
    mlp,
    objective,
    plain_loss,
    problem,
    random_blocks,
    taught,
    torch_loss,
    torch_mlp,
)
from tests.support.quick import quick_of


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
@pytest.mark.parametrize("k", quick_of([2, 3], 3))
def test_gradient_equals_torch_nn_in_every_run_of_a_batch(architecture: str, k: int) -> None:
    """Parameters that separate, scaled: losses from about 1 down to 1e-10 and below."""
    model, dim, make = ARCHITECTURES[architecture]
    start = random_blocks(model, dim, 1 if k == 2 else k, seed=4, runs=3)
    data = taught(model, start, 9, dim, k, seed=5)
    worst = -objective(model, data).negative_gaps(start).amax(dim=(-2, -1))
    assert (worst > 0).all()
    seen = []
    for gap in (1e-3, 8.0, 23.0):
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer", quick_of(["signgd", "signum", "adam", "muon", "muon_adam", "muon_signum"], "signgd", "muon_adam")
)
@pytest.mark.parametrize("k", [2, 3])
def test_twenty_steps_two_thousand_below_zero(optimizer: str, k: int) -> None:
    model, data, blocks = deep_case(0, k, 2000.0)
    trajectory = simulate(problem(model, data, optimizer, 20, 1e-3, initial=blocks, points=3, kkt_products=4))
    assert (trajectory.common["log_loss"] < -1900).all()
    assert trajectory.common["log_loss"][-1, 0] < trajectory.common["log_loss"][0, 0]
    for columns in trajectory.by_norm.values():
        for key in ("margin", "alignment", "kkt_ratio", "param_norm", "soft_margin"):
            assert np.isfinite(columns[key]).all(), key
        assert (columns["kkt_ratio"] <= 1 + 1e-9).all()
    for name, block in trajectory.parameters[20].items():
        assert block.isfinite().all()
        assert (block - blocks[name]).norm() > 0
