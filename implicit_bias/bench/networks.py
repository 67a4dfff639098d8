"""Speed of networks: batches of seeds beside the usual loop, one run at a time with torch.nn and autograd, and the leanest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, max_pool2d, softplus
from torch.utils._python_dispatch import TorchDispatchMode

from implicit_bias.bench.baselines import UsualOptimizer
from implicit_bias.bench.compiled import compiled_steps
from implicit_bias.bench.timing import Work, interleaved
from implicit_bias.engine import Problem, simulate, stepping_of
from implicit_bias.engine.record_times import record_steps
from implicit_bias.losses import LOSSES
from implicit_bias.models import MODELS, Data, Model
from implicit_bias.norms import make_norm
from implicit_bias.norms.singular import polar
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


CASES = (Case("mlp", 64, 8, 1000, width=16), Case("mlp", 512, 28, 60, width=64), Case("cnn", 64, 14, 100))


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


def lean_network_loop(case: Case, name: str, data: Data, run: int, blocks: dict[str, Tensor]) -> float:
    """One run with as few operations as plain PyTorch can do with; the smallest gap at the end, found at the same steps.

    No class of an optimizer, no scheduler, one update in place, a gradient that is exact at moderate losses alone: of an MLP
    written out, of a CNN by ``torch.autograd.grad``. A factor of a block's gradient changes no direction, and is left out.
    """
    x, sign = data.x[run], (2 * data.y[run] - 1).double()
    parameters = [block[run].clone() for block in blocks.values()]
    gradients = _mlp_gradients(x, sign) if case.kind == "mlp" else _cnn_gradients(x.reshape(-1, 1, case.side, case.side), sign)
    momenta = [torch.zeros_like(w) for w in parameters]
    records, smallest = set(record_steps(case.steps, POINTS)), math.nan
    for t in range(1, case.steps + 1):
        eta = LEARNING_RATES[name] * t**-0.8
        for w, m, g in zip(parameters, momenta, gradients(parameters)[0], strict=True):
            w.sub_(g.sign_() if name == "signgd" else polar(m.lerp_(g, 0.1)), alpha=eta)
        if t in records:
            smallest = float((sign * gradients(parameters, scores_alone=True)[1]).min())
    return smallest


class _Gradients(Protocol):
    """Gradients in all parameters, each in a unit of its own, and the scores; or the scores alone."""

    def __call__(self, parameters: list[Tensor], scores_alone: bool = False) -> tuple[list[Tensor], Tensor]: ...


def _mlp_gradients(x: Tensor, sign: Tensor) -> _Gradients:
    x_t = x.T.contiguous()

    def gradients(parameters: list[Tensor], scores_alone: bool = False) -> tuple[list[Tensor], Tensor]:
        w, v = parameters
        h = (w @ x_t).relu_()
        squares = h * h
        f = v @ squares
        if scores_alone:
            return [], f[0]
        c = torch.sigmoid(-sign * f).mul_(-sign)
        return [h.mul_(v.T).mul_(c) @ x, c @ squares.T], f[0]

    return gradients


def _cnn_gradients(images: Tensor, sign: Tensor) -> _Gradients:
    def scores(parameters: list[Tensor]) -> Tensor:
        *kernels, head = parameters
        h = images
        for kernel in kernels:
            h = max_pool2d(conv2d(h, kernel.unflatten(1, (-1, 3, 3))), 2).relu().square()
        return h.flatten(start_dim=1) @ head[0]

    def gradients(parameters: list[Tensor], scores_alone: bool = False) -> tuple[list[Tensor], Tensor]:
        if scores_alone:
            return [], scores(parameters)
        leaves = [w.detach().requires_grad_() for w in parameters]
        f = scores(leaves)
        return list(torch.autograd.grad(softplus(-sign * f).sum(), leaves)), f

    return gradients


class _ByMatrix(UsualOptimizer):
    """Kernels are matrices (out, in * rows * columns)."""

    def direction(self, name: str, g: Tensor, state: dict[str, Any]) -> Tensor:
        return super().direction(name, g.flatten(start_dim=1), state).reshape(g.shape)


def problem_of(case: Case, name: str, data: Data, blocks: dict[str, Tensor]) -> Problem:
    """All runs as one batch."""
    return Problem(
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


def batched_networks(case: Case, name: str, data: Data, blocks: dict[str, Tensor]) -> list[float]:
    """The engine on all runs at once; the smallest gap of each at the end."""
    problem = problem_of(case, name, data, blocks)
    columns = simulate(problem).by_norm["l2"]
    gaps: list[float] = (columns["margin"][-1] * columns["param_norm"][-1] ** problem.model.degree()).tolist()
    return gaps


def network_rows(threads: int, methods: Sequence[str] = tuple(LEARNING_RATES)) -> Iterator[dict[str, Any]]:
    """Microseconds a step and run of 16 seeds at once, of the usual and of the leanest loop on one thread, and of the batch's
    products alone, as rows of the bench table: medians, all of them timed in turn.

    Args:
        threads: As many as there are processors.
        methods: Of these those of LEARNING_RATES.
    """
    for case in CASES:
        data = case.data(SEEDS)
        blocks = case.model().initial(data, range(SEEDS))
        for name in (method for method in LEARNING_RATES if method in methods):
            torch.set_num_threads(1)
            _assert_equal(case, name, data, blocks)
            yield _row(case, name, data, blocks, sorted({1, threads}))


def _row(case: Case, name: str, data: Data, blocks: dict[str, Tensor], counts: list[int]) -> dict[str, Any]:
    products_of_all = products_alone(case, data, blocks, case.steps)
    works = {
        "usual": Work(lambda _: usual_network_loop(case, name, data, 0, blocks), case.steps),
        "lean": Work(lambda _: lean_network_loop(case, name, data, 0, blocks), case.steps),
    }
    for count in counts:
        works[f"batched {count}"] = Work(lambda _: batched_networks(case, name, data, blocks), case.steps, SEEDS, count)
        works[f"products {count}"] = Work(lambda _: products_of_all(), case.steps, SEEDS, count)
        torch.set_num_threads(count)  # steps in C have as many workers as there are threads when they are set up
        advance = compiled_steps(problem_of(case, name, data, blocks))
        if advance is not None:
            works[f"steps {count}"] = Work(advance, case.steps, SEEDS, count)
    found = interleaved(works)
    times = {key: 1e6 * timing.seconds for key, timing in found.items()}
    count = min(counts, key=lambda c: times[f"batched {c}"])
    batched, products = times[f"batched {count}"], times[f"products {count}"]
    steps = times.get(f"steps {count}")
    stepping = stepping_of(problem_of(case, name, data, blocks))
    in_c = {} if steps is None else {"steps_us": steps, "outside": 1 - steps / batched, "steps_of_roofline": products / steps}
    return {
        "size": str(case), "optimizer": name, "runs": SEEDS, "threads": count, "usual_us": times["usual"],
        "lean_us": times["lean"], "batched_us": batched, "ratio_usual": times["usual"] / batched,
        "ratio_lean": times["lean"] / batched, "lean_by": "closed form" if case.kind == "mlp" else "autograd",
        "roofline_us": products, "of_roofline": products / batched, "stepping": stepping, **in_c,
        "spread": max(found[key].spread for key in ("usual", "lean", f"batched {count}")),
    }  # fmt: skip


class _Products(TorchDispatchMode):
    """Remembers the operands of batched matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.operands: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.bmm.default:
            self.operands.append(args)
        return func(*args, **(kwargs or {}))


def products_alone(case: Case, data: Data, blocks: dict[str, Tensor], steps: int) -> Callable[[], None]:
    """The matrix products of so many gradients, of the engine's own shapes and layouts, and nothing else: what a step takes at
    least. Of Muon those of its polar factors are not among them."""
    objective = case.model().objective(data, LOSSES.get("cross_entropy")())
    with _Products() as made:
        objective.gradient(blocks)

    def multiply() -> None:
        for _ in range(steps):
            for a, b in made.operands:
                torch.bmm(a, b)

    return multiply


def _assert_equal(case: Case, name: str, data: Data, blocks: dict[str, Tensor]) -> None:
    ours = batched_networks(case, name, data, blocks)
    for loop, called in ((usual_network_loop, "usual"), (lean_network_loop, "leanest")):
        for run in (0, SEEDS - 1):
            theirs = loop(case, name, data, run, blocks)
            if not math.isclose(ours[run], theirs, rel_tol=1e-6, abs_tol=1e-9):
                raise AssertionError(f"{case}, {name}: the engine's smallest gap {ours[run]} is not the {called} loop's {theirs}")
