"""Runs of classes that are written elsewhere, for tests: data, our engine, and the loop that one would write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from implicit_bias.datasets import make_dataset
from implicit_bias.engine import Problem, Trajectory, simulate
from implicit_bias.losses import LOSSES
from implicit_bias.models import MODELS, Data
from implicit_bias.norms import make_norm
from implicit_bias.optimizers import OPTIMIZERS, Optimizer
from implicit_bias.schedules import SCHEDULES, Schedule

#: A file as a user has it.
MINE = '''
import torch


class SignDescent(torch.optim.Optimizer):
    def __init__(self, params, lr=0.1, *, decay=0.0):
        super().__init__(params, {"lr": lr, "decay": decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.mul_(1 - group["lr"] * group["decay"]).sub_(p.grad.sign(), alpha=group["lr"])


class Raises(torch.optim.SGD):
    def step(self, closure=None):
        raise ValueError("no step today\\nnor tomorrow")


class Still(torch.optim.SGD):
    def step(self, closure=None):
        pass


class Rateless(torch.optim.Optimizer):
    """Signs, at a rate that is nobody's business."""

    def __init__(self, params):
        super().__init__(params, {})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(p.grad.sign(), alpha=0.01)


class Draws(torch.optim.SGD):
    """Steps with noise from torch's own generator."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(p.grad + 0.1 * torch.randn_like(p.grad), alpha=group["lr"])


class Forgets(torch.optim.SGD):
    """Keeps what it needs where state_dict does not look."""

    @torch.no_grad()
    def step(self, closure=None):
        self.seen = getattr(self, "seen", 0) + 1
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(p.grad, alpha=group["lr"] / self.seen)


class Ascends(torch.optim.Optimizer):
    """Sharpness-aware: the gradient is taken a little uphill, by a closure."""

    def __init__(self, params, lr=0.1, rho=0.05):
        super().__init__(params, {"lr": lr, "rho": rho})

    @torch.no_grad()
    def step(self, closure):
        closure = torch.enable_grad()(closure)
        closure()
        blocks = [(p, g) for g in self.param_groups for p in g["params"]]
        size = torch.cat([p.grad.flatten() for p, _ in blocks]).norm()
        moves = [p.grad * (g["rho"] / size) for p, g in blocks]
        for (p, _), move in zip(blocks, moves):
            p.add_(move)
        loss = closure()
        for (p, g), move in zip(blocks, moves):
            p.sub_(move).sub_(p.grad, alpha=g["lr"])
        return loss


def fast_first(named):
    """The first block ten times as fast."""
    return [
        {"params": [p for _, p in named[:1]], "lr": 0.1},
        {"params": [p for _, p in named[1:]], "lr": 0.01},
    ]
'''


def mine(folder: Path) -> Path:
    """The user's file, in a folder."""
    path = folder / "mine.py"
    path.write_text(MINE)
    return path


def mixture(*seeds: int) -> Data:
    """The default data of these seeds, a run each."""
    loaded = [make_dataset({"name": "gaussian_mixture", "seed": seed}).load() for seed in seeds]
    x, y = ([torch.from_numpy(getattr(d, part)) for d in loaded] for part in ("x", "y"))
    return Data(torch.stack(x), torch.stack(y), loaded[0].num_classes)


def problem(optimizer: Optimizer, data: Data, steps: int, schedule: Schedule | None = None, **more: Any) -> Problem:
    """A batch on a linear model from zero, with eta_t = .07 t^-1/2 unless told otherwise."""
    runs, _, features = data.x.shape
    plain: dict[str, Any] = {
        "model": MODELS.get("linear")(),
        "loss": LOSSES.get("cross_entropy")(),
        "optimizer": optimizer,
        "schedule": schedule or SCHEDULES.get("power")(lr=0.07, power=0.5),
        "data": data,
        "initial": {"weight": torch.zeros(runs, data.num_classes, features, dtype=data.x.dtype)},
        "steps": steps,
        "measured": {"linf": make_norm("linf")},
        "compile": "off",
    }
    return Problem(**{**plain, **more})


def trained(trajectory: Trajectory) -> Tensor:
    """The last parameters, (R, k, d)."""
    return trajectory.parameters[max(trajectory.parameters)]["weight"]


def torch_class(target: str | Path, name: str = "", kwargs: Mapping[str, Any] | None = None, **keys: Any) -> Any:
    """The optimizer that ``optimizer.target`` names."""
    typed = f"{target}:{name}" if name else str(target)
    return OPTIMIZERS.get("torch")(target=typed, kwargs=dict(kwargs or {}), **keys)


def by_us(optimizer: Optimizer, data: Data, steps: int, schedule: Schedule | None = None) -> Tensor:
    """W after so many steps of the engine."""
    return trained(simulate(problem(optimizer, data, steps, schedule, measured={}, points=1)))


def by_hand(make: Callable[[list[Tensor]], torch.optim.Optimizer], data: Data, steps: int, lr: float | None = 0.07) -> Tensor:
    """W after so many steps of the loop that one would write: autograd, cross entropy, eta_t = lr t^-1/2."""
    x, y = data.x[0], data.y[0]
    weight = torch.nn.Parameter(torch.zeros(data.num_classes, x.shape[1], dtype=x.dtype))
    optimizer = make([weight])

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(x @ weight.mT, y)
        loss.backward()
        return loss

    for t in range(1, steps + 1):
        if lr is not None:
            optimizer.param_groups[0]["lr"] = lr * t**-0.5
        optimizer.step(closure)  # type: ignore[arg-type]  # torch declares a number, and returns tensors itself
    return weight.detach()


def difference(a: Tensor, b: Tensor) -> float:
    """Relative, in the Frobenius norm."""
    return float((a - b).norm() / b.norm())
