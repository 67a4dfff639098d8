"""Speed beside plain PyTorch: python -m implicit_bias.bench (or make bench).

Two baselines, one run at a time, float64, one thread, the same data, steps and records:

usual loop
    What one writes at first: ``nn.Linear``, ``CrossEntropyLoss``, autograd, a torch-style optimizer and a learning-rate
    scheduler.
tight loop
    The exact step of this package written out for a single run: closed-form gradient in the log domain, one scale a class row,
    the polar factor truncated in the row space.

Before anything is timed, all three must give the same own-norm margin. Times are the least of several repetitions.
"""

from __future__ import annotations

import itertools
import math
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from implicit_bias.datasets import make_dataset
from implicit_bias.engine import Problem, record_steps, simulate
from implicit_bias.losses import LOSSES
from implicit_bias.models import MODELS, Data
from implicit_bias.models.linear import zero_sum_basis
from implicit_bias.network_bench import network_rows
from implicit_bias.norms import make_norm
from implicit_bias.optimizers import OPTIMIZERS
from implicit_bias.records import atomic_write_bytes, csv_bytes
from implicit_bias.schedules import SCHEDULES
from implicit_bias.usual import REPEATS, UsualOptimizer, best_time

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
BATCHES = (1, 8, 64)


def usual_loop(name: str, x: Tensor, y: Tensor, k: int, steps: int) -> float:
    """One run by autograd; the own-norm margin at the end. Margins are recorded at the same steps as in the engine."""
    model = torch.nn.Linear(x.shape[1], k, bias=False, dtype=x.dtype)
    torch.nn.init.zeros_(model.weight)
    criterion = torch.nn.CrossEntropyLoss()
    optimizer = UsualOptimizer(list(model.parameters()), name, LEARNING_RATES[name])
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: (t + 1) ** -0.5)
    records, margin = set(record_steps(steps, POINTS)), math.nan
    for t in range(1, steps + 1):
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
        scheduler.step()
        if t in records:
            margin = _margin(model.weight.detach(), x, y, OWN[name])
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
            margin = _margin(w, x, y, OWN[name])
    return margin


def _margin(w: Tensor, x: Tensor, y: Tensor, norm: str) -> float:
    z = x @ w.T
    gaps = z.gather(1, y[:, None]) - z
    gaps.scatter_(1, y[:, None], math.inf)
    return float(gaps.min() / make_norm(norm).value(w))


def batched(name: str, data: Data, steps: int) -> list[float]:
    """The engine on every run of ``data`` at once; own-norm margins at the end."""
    model = MODELS.get("linear")()
    problem = Problem(
        model=model,
        loss=LOSSES.get("cross_entropy")(),
        optimizer=OPTIMIZERS.get(name)(),
        schedule=SCHEDULES.get("power")(lr=LEARNING_RATES[name]),
        data=data,
        initial=model.initial(data, range(data.x.shape[0])),
        steps=steps,
        measured={OWN[name]: make_norm(OWN[name])},
        points=POINTS,
    )
    margins: list[float] = simulate(problem).by_norm[OWN[name]]["margin"][-1].tolist()
    return margins


def measure(size: Size, name: str, threads: int) -> Iterator[dict[str, Any]]:
    """Microseconds a step and run of both loops and of the engine in batches, as rows of the bench table."""
    data, steps = size.data(max(BATCHES)), 300
    x, y = data.x[0], data.y[0]
    torch.set_num_threads(1)
    _assert_equal(size, name, data, 100)
    usual = best_time(lambda: usual_loop(name, x, y, size.k, steps)) / steps
    tight = best_time(lambda: _without_grad(tight_loop, name, x, y, size.k, steps)) / steps
    for runs in BATCHES:
        part = Data(data.x[:runs], data.y[:runs], size.k)
        times = {}
        for count in sorted({1, threads}):
            torch.set_num_threads(count)
            times[count] = best_time(lambda part=part: batched(name, part, steps)) / steps / part.x.shape[0]  # type: ignore[misc]
        count = min(times, key=lambda c: times[c])
        yield {
            "size": str(size), "optimizer": name, "runs": runs, "threads": count,
            "usual_us": 1e6 * usual, "tight_us": 1e6 * tight, "batched_us": 1e6 * times[count],
            "ratio_usual": usual / times[count], "ratio_tight": tight / times[count],
        }  # fmt: skip


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


def main() -> int:
    """Measure, print the ratios, write results/bench/bench.csv."""
    threads = min(os.cpu_count() or 1, 2)
    print(f"{_processor()}, {os.cpu_count()} cores, torch {torch.__version__}; us a step and run, least of {REPEATS}", flush=True)
    print(f"{'':28}{'':8}{'runs':>5}{'threads':>8}{'usual':>9}{'tight':>9}{'batched':>10}{'x usual':>9}{'x tight':>9}")
    rows = []
    linear = (row for size in SIZES for name in LEARNING_RATES for row in measure(size, name, threads))
    for row in itertools.chain(linear, network_rows(threads)):
        rows.append(row)
        tight = f"{row['tight_us']:9.1f}" if "tight_us" in row else f"{'':9}"
        ratio = f"{row['ratio_tight']:9.1f}" if "ratio_tight" in row else ""
        print(
            f"{row['size']:28}{row['optimizer']:8}{row['runs']:5}{row['threads']:8}{row['usual_us']:9.1f}{tight}"
            f"{row['batched_us']:10.2f}{row['ratio_usual']:9.1f}{ratio}",
            flush=True,
        )
    table = pd.DataFrame(rows).assign(machine=_processor(), cores=os.cpu_count(), torch=torch.__version__)
    numeric = table.select_dtypes("float").columns
    path = Path("results") / "bench" / "bench.csv"
    atomic_write_bytes(path, csv_bytes(table.assign(**{c: table[c].map(lambda v: float(f"{v:.4g}")) for c in numeric})))
    print(f"written to {path}")
    return 0


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    sys.exit(main())
