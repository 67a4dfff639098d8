"""Batches of linear models beside the usual and the tight loop: what is measured, and that both compute the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from implicit_bias.bench.baselines import UsualOptimizer, best_time
from implicit_bias.bench.machine import Rates, kernel_seconds
from implicit_bias.datasets import make_dataset
from implicit_bias.engine import Problem, simulate
from implicit_bias.engine.problem import Compile
from implicit_bias.engine.record_times import record_steps
from implicit_bias.engine.steppers.base import Setup
from implicit_bias.engine.steppers.native import LinearSteps, refusal
from implicit_bias.losses import LOSSES
from implicit_bias.models import MODELS, Data
from implicit_bias.models.linear import zero_sum_basis
from implicit_bias.norms import make_norm
from implicit_bias.optimizers import OPTIMIZERS
from implicit_bias.runtime.memory import peak_bytes
from implicit_bias.schedules import SCHEDULES

POINTS = 20
# Small enough that the usual loop's p_y - 1 has not cancelled yet: only then is its answer comparable.
LEARNING_RATES = {"signgd": 0.01, "ngd": 0.1, "muon": 0.05, "adam": 0.01}
OWN = {"signgd": "linf", "ngd": "l2", "muon": "spectral", "adam": "linf"}


@dataclass(frozen=True)
class Size:
    """A linear problem: n = k * per_class samples, k classes, d features."""

    k: int
    per_class: int
    d: int
    noise: float = 1.0

    def data(self, runs: int) -> Data:
        """Gaussian mixtures of seeds 1, 2, ..., one a run."""
        keys = {"num_classes": self.k, "dim": self.d, "samples_per_class": self.per_class, "noise": self.noise}
        sets = [make_dataset({"name": "gaussian_mixture", **keys, "seed": s + 1}).load() for s in range(runs)]
        return Data(torch.from_numpy(np.stack([s.x for s in sets])), torch.from_numpy(np.stack([s.y for s in sets])), self.k)

    def __str__(self) -> str:
        return f"n={self.k * self.per_class}, k={self.k}, d={self.d}"


SIZES = (Size(4, 10, 24), Size(10, 10, 25), Size(15, 50, 25))
BATCHES = (1, 8, 64, 512)
GPU_RUNS = 4096
STEPS = 1000
PLAIN = (1, 64)
MEMORY_STEPS = 3
# Doubles of scores in a batch beyond which a third of the steps, or a tenth, is enough to time.
MANY, VERY_MANY = 2**16, 2**20


def usual_loop(name: str, x: Tensor, y: Tensor, k: int, steps: int, rows: Tensor | None = None) -> float:
    """One run by autograd; the own-norm margin at the end. Margins are recorded at the same steps as in the engine.

    Args:
        name: The optimizer.
        x: Samples (n, d).
        y: Labels (n,).
        k: Classes.
        steps: Updates.
        rows: The samples of every update, (steps, b); None: all.
    """
    model = torch.nn.Linear(x.shape[1], k, bias=False, dtype=x.dtype)
    torch.nn.init.zeros_(model.weight)
    criterion = torch.nn.CrossEntropyLoss()
    optimizer = UsualOptimizer(list(model.parameters()), name, LEARNING_RATES[name])
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: (t + 1) ** -0.5)
    records, margin = set(record_steps(steps, POINTS)), math.nan
    for t in range(1, steps + 1):
        optimizer.zero_grad()
        if rows is None:
            criterion(model(x), y).backward()
        else:
            mine = rows[t - 1]
            criterion(model(x[mine]), y[mine]).backward()
        optimizer.step()
        scheduler.step()
        if t in records:
            margin = own_margin(model.weight.detach(), x, y, OWN[name])
    return margin


def tight_loop(name: str, x: Tensor, y: Tensor, k: int, steps: int) -> float:
    """One run of the exact step, written out for speed; the own-norm margin at the end."""
    n = x.shape[0]
    label = torch.nn.functional.one_hot(y, k).bool().T
    sign = torch.where(label, -1.0, 1.0).to(x.dtype)
    index, x_t, basis = y[None], x.T.contiguous(), zero_sum_basis(k)
    w = torch.zeros(k, x.shape[1], dtype=x.dtype)
    m, r, m_log, r_log = torch.zeros_like(w), torch.zeros_like(w), -math.inf, -math.inf
    records, margin = set(record_steps(steps, POINTS)), math.nan
    for t in range(1, steps + 1):
        z = w @ x_t
        u = z - z.gather(0, index)
        u.masked_fill_(label, -math.inf)
        top = u.amax(0)
        a = top + (u - top).exp().sum(0).log()
        normaliser = torch.nn.functional.softplus(a, threshold=40.0)
        log_p = torch.where(label, a - normaliser, u - normaliser)
        scale = log_p.amax(1, keepdim=True)
        g = ((log_p - scale).exp() * sign) @ x
        if name == "signgd":
            direction = g.sign()
        else:
            # One scale a matrix is enough for the loop's short runs; the engine keeps one a row throughout.
            unit = float(scale.max()) - math.log(n)
            g = g * (scale - scale.max()).exp()
            if name == "ngd":
                direction = g / g.norm()
            else:
                new = max(m_log, unit)
                m = 0.9 * m * math.exp(m_log - new) + 0.1 * g * math.exp(unit - new)
                m_log = new
                if name == "muon":
                    reduced = basis.T @ m
                    values, vectors = torch.linalg.eigh(reduced @ reduced.T)
                    direction = basis @ ((vectors * values.rsqrt()) @ (vectors.T @ reduced))
                else:
                    new = max(r_log, unit)
                    r = torch.hypot(0.95**0.5 * r * math.exp(r_log - new), 0.05**0.5 * g * math.exp(unit - new))
                    r_log = new
                    direction = m * math.exp(m_log - r_log) / (1 - 0.9**t) / (r / (1 - 0.95**t) ** 0.5)
        w = w - LEARNING_RATES[name] * t**-0.5 * direction
        if t in records:
            margin = own_margin(w, x, y, OWN[name])
    return margin


def own_margin(w: Tensor, x: Tensor, y: Tensor, norm: str) -> float:
    """The margin of W (k, d) in a norm, on samples (n, d) with labels (n,)."""
    z = x @ w.T
    gaps = z.gather(1, y[:, None]) - z
    gaps.scatter_(1, y[:, None], math.inf)
    return float(gaps.min() / make_norm(norm).value(w))


def problem_of(name: str, data: Data, steps: int, stepping: Compile = "auto") -> Problem:
    """Every run of ``data`` at once."""
    model = MODELS.get("linear")()
    return Problem(
        model=model,
        loss=LOSSES.get("cross_entropy")(),
        optimizer=OPTIMIZERS.get(name)(),
        schedule=SCHEDULES.get("power")(lr=LEARNING_RATES[name]),
        data=data,
        initial=model.initial(data, range(data.x.shape[0])),
        steps=steps,
        measured={OWN[name]: make_norm(OWN[name])},
        points=POINTS,
        compile=stepping,
    )


def batched(name: str, data: Data, steps: int, stepping: Compile = "auto") -> list[float]:
    """The engine on every run of ``data`` at once; own-norm margins at the end."""
    margins: list[float] = simulate(problem_of(name, data, steps, stepping)).by_norm[OWN[name]]["margin"][-1].tolist()
    return margins


def step_seconds(name: str, data: Data, steps: int, threads: int) -> tuple[float, int]:
    """Seconds a step of a batch, on one thread or on several, whichever is faster, and how many that are."""
    times = {}
    for count in sorted({1, threads}):
        torch.set_num_threads(count)
        times[count] = best_time(lambda: batched(name, data, steps)) / steps
    count = min(times, key=lambda c: times[c])
    return times[count], count


def arithmetic_seconds(name: str, data: Data, steps: int, device: str) -> float:
    """Seconds a step of a batch without records: of the steps in C, or where there are none of PyTorch's kernels, one by one."""
    setup = Setup.of(problem_of(name, data, steps))
    if refusal(setup) is not None:
        return kernel_seconds(name, len(data.x), data.x.shape[1], data.num_classes, data.x.shape[2], device)
    native, start = LinearSteps(setup), setup.begun()

    def work() -> None:
        native.load(start)
        for first in range(0, steps, native.most_steps):
            native.advance(first, min(steps, first + native.most_steps))

    return best_time(work) / steps


def measure(size: Size, name: str, threads: int, rates: dict[int, Rates], device: str) -> Iterator[dict[str, Any]]:
    """Microseconds a step and run of both loops and of the engine in batches, as rows of the bench table."""
    batches = (*BATCHES, GPU_RUNS) if device != "cpu" else BATCHES
    data = size.data(max(batches))
    x, y = data.x[0], data.y[0]
    torch.set_num_threads(1)
    _assert_equal(size, name, data, 100)
    usual = best_time(lambda: usual_loop(name, x, y, size.k, STEPS)) / STEPS
    tight = best_time(lambda: _without_grad(tight_loop, name, x, y, size.k, STEPS)) / STEPS
    n = x.shape[0]
    for runs in batches:
        part = Data(data.x[:runs].to(device), data.y[:runs].to(device), size.k)
        numbers = runs * n * size.k
        steps = STEPS if numbers <= MANY else STEPS // 3 if numbers <= VERY_MANY else STEPS // 10
        seconds, count = step_seconds(name, part, steps, threads if device == "cpu" else 1)
        torch.set_num_threads(count)
        arithmetic = arithmetic_seconds(name, part, steps, device) / runs
        bound = rates[count].least_seconds(n, size.k, size.d)
        peak = peak_bytes(partial(batched, name, part, MEMORY_STEPS))
        each = seconds / runs
        row = {
            "size": str(size), "optimizer": name, "runs": runs, "device": device, "threads": count,
            "usual_us": 1e6 * usual, "tight_us": 1e6 * tight, "batched_us": 1e6 * each,
            "ratio_usual": usual / each, "ratio_tight": tight / each,
            "steps_us": 1e6 * arithmetic, "outside": 1 - arithmetic / each, "roofline_us": 1e6 * bound,
            "of_roofline": bound / each, "peak_mb": peak / 1e6,
        }  # fmt: skip
        if runs in PLAIN:
            row["plain_us"] = 1e6 * best_time(partial(batched, name, part, steps // 3, "off")) / (steps // 3) / runs
        yield row


def _assert_equal(size: Size, name: str, data: Data, steps: int) -> None:
    few = Data(data.x[:3], data.y[:3], size.k)
    ours = batched(name, few, steps)
    for r in range(3):
        for loop in (usual_loop, tight_loop):
            with torch.set_grad_enabled(loop is usual_loop):
                theirs = loop(name, few.x[r], few.y[r], size.k, steps)
            if not math.isclose(ours[r], theirs, rel_tol=1e-6, abs_tol=1e-6):
                raise AssertionError(f"{size}, {name}: the engine's margin {ours[r]} is not the {loop.__name__}'s {theirs}")


def _without_grad(loop: Callable[..., float], *arguments: Any) -> float:
    with torch.no_grad():
        return loop(*arguments)
