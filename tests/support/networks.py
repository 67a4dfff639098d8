"""Small homogeneous networks for tests: blocks, data a network labels itself, problems, and the same networks in torch.nn."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from implicit_bias.engine import Problem, Trajectory
from implicit_bias.losses import LOSSES
from implicit_bias.models import MODELS, Data, Model, Objective, Parameters
from implicit_bias.norms import make_norm
from implicit_bias.optimizers import OPTIMIZERS
from implicit_bias.schedules import SCHEDULES

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
