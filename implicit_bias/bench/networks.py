"""Speed of networks: batches of seeds beside the usual loop, one run at a time with torch.nn and autograd."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from implicit_bias.bench.baselines import UsualOptimizer, best_time
from implicit_bias.engine import Problem, simulate
from implicit_bias.engine.record_times import record_steps
from implicit_bias.losses import LOSSES
from implicit_bias.models import MODELS, Data, Model
from implicit_bias.norms import make_norm
from implicit_bias.optimizers import OPTIMIZERS
from implicit_bias.schedules import SCHEDULES

POINTS = 10
SEEDS = 16
LEARNING_RATES = {"signgd": 0.002, "muon": 0.05}


class SquaredReLU(nn.Module):
    """relu(z)^2."""

    def forward(self, z: Tensor) -> Tensor:
        return z.relu().square()


@dataclass(frozen=True)
class Case:
    """A two-class problem with random images of ``side`` x ``side`` pixels and a two-layer network or a CNN."""

    kind: str
    samples: int
    side: int
    steps: int
    width: int = 0

    def __str__(self) -> str:
        return f"{self.kind} m={self.samples}, d={self.side**2}" + (f", w={self.width}" if self.width else "")

    def data(self, runs: int) -> Data:
        """Gaussian images, labelled by a random direction."""
        rng = np.random.RandomState(0)
        x = rng.randn(runs, self.samples, self.side**2)
        y = (np.einsum("rnd,rd->rn", x, rng.randn(runs, self.side**2)) > 0).astype(np.int64)
        return Data(torch.from_numpy(x), torch.from_numpy(y), 2)

    def model(self) -> Model:
        """The model of this package."""
        keys: dict[str, Any] = {"width": self.width} if self.kind == "mlp" else {"channels": [4, 8], "kernel": 3, "pool": "max"}
        model: Model = MODELS.get(self.kind)(**keys)
        return model

    def usual_model(self, blocks: dict[str, Tensor]) -> nn.Module:
        """The same network of torch.nn, from the same initial values."""
        if self.kind == "mlp":
            layers: list[nn.Module] = [nn.Linear(self.side**2, self.width, False), SquaredReLU(), nn.Linear(self.width, 1, False)]
        else:
            features = blocks["layer3"].shape[-1]
            layers = [nn.Unflatten(1, (1, self.side, self.side))]
            layers += [nn.Conv2d(1, 4, 3, bias=False), SquaredReLU(), nn.MaxPool2d(2)]
            layers += [nn.Conv2d(4, 8, 3, bias=False), SquaredReLU(), nn.MaxPool2d(2)]
            layers += [nn.Flatten(), nn.Linear(features, 1, False)]
        model = nn.Sequential(*layers).double()
        with torch.no_grad():
            for parameter, block in zip(model.parameters(), blocks.values(), strict=True):
                parameter.copy_(block.reshape(parameter.shape))
        return model


CASES = (Case("mlp", 64, 8, 200, width=16), Case("mlp", 512, 28, 20, width=64), Case("cnn", 64, 14, 30))


def usual_network_loop(case: Case, name: str, data: Data, run: int, blocks: dict[str, Tensor]) -> float:
    """One run by autograd; the smallest gap at the end, found at the same steps as in the engine."""
    x, sign = data.x[run], (2 * data.y[run] - 1).double()
    model = case.usual_model({key: block[run] for key, block in blocks.items()})
    criterion = nn.BCEWithLogitsLoss()
    optimizer = _ByMatrix(list(model.parameters()), name, LEARNING_RATES[name])
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: (t + 1) ** -0.8)
    records, smallest = set(record_steps(case.steps, POINTS)), math.nan
    target = data.y[run].double()
    for t in range(1, case.steps + 1):
        optimizer.zero_grad()
        criterion(model(x).squeeze(-1), target).backward()
        optimizer.step()
        scheduler.step()
        if t in records:
            with torch.no_grad():
                smallest = float((sign * model(x).squeeze(-1)).min())
    return smallest


class _ByMatrix(UsualOptimizer):
    """Kernels are matrices (out, in * rows * columns)."""

    def direction(self, name: str, g: Tensor, state: dict[str, Any]) -> Tensor:
        return super().direction(name, g.flatten(start_dim=1), state).reshape(g.shape)


def batched_networks(case: Case, name: str, data: Data, blocks: dict[str, Tensor]) -> list[float]:
    """The engine on all runs at once; the smallest gap of each at the end."""
    problem = Problem(
        model=case.model(),
        loss=LOSSES.get("cross_entropy")(),
        optimizer=OPTIMIZERS.get(name)(),
        schedule=SCHEDULES.get("power")(lr=LEARNING_RATES[name], power=0.8),
        data=data,
        initial=blocks,
        steps=case.steps,
        measured={"l2": make_norm("l2")},
        points=POINTS,
    )
    columns = simulate(problem).by_norm["l2"]
    gaps: list[float] = (columns["margin"][-1] * columns["param_norm"][-1] ** problem.model.degree()).tolist()
    return gaps


def network_rows(threads: int) -> Iterator[dict[str, Any]]:
    """Microseconds a step and run of the usual loop on one thread and of 16 seeds at once, as rows of the bench table."""
    for case in CASES:
        data = case.data(SEEDS)
        blocks = case.model().initial(data, range(SEEDS))
        for name in LEARNING_RATES:
            torch.set_num_threads(1)
            _assert_equal(case, name, data, blocks)
            usual = best_time(lambda n=name, c=case, d=data, b=blocks: usual_network_loop(c, n, d, 0, b)) / case.steps  # type: ignore[misc]
            times = {}
            for count in sorted({1, threads}):
                torch.set_num_threads(count)
                whole = best_time(lambda n=name, c=case, d=data, b=blocks: batched_networks(c, n, d, b))  # type: ignore[misc]
                times[count] = whole / case.steps / SEEDS
            count = min(times, key=lambda c: times[c])
            yield {
                "size": str(case), "optimizer": name, "runs": SEEDS, "threads": count, "usual_us": 1e6 * usual,
                "batched_us": 1e6 * times[count], "ratio_usual": usual / times[count],
            }  # fmt: skip


def _assert_equal(case: Case, name: str, data: Data, blocks: dict[str, Tensor]) -> None:
    ours = batched_networks(case, name, data, blocks)
    for run in (0, SEEDS - 1):
        theirs = usual_network_loop(case, name, data, run, blocks)
        if not math.isclose(ours[run], theirs, rel_tol=1e-6, abs_tol=1e-9):
            raise AssertionError(f"{case}, {name}: the engine's smallest gap {ours[run]} is not the usual loop's {theirs}")
