"""Batches of linear models beside plain loops: what is measured, and that all compute the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
import torch

from implicit_bias.bench.busy import Watch
from implicit_bias.bench.compiled import compiled_steps
from implicit_bias.bench.least import least_seconds
from implicit_bias.bench.loops import GRADIENTS, LEARNING_RATES, OWN, STEPS, lean_loop, points_of, tight_loop, usual_loop
from implicit_bias.bench.machine import Rates, compiled_works, measured_rates
from implicit_bias.bench.timing import LONG, SHORT, WHOLE, Timing, Work, faster, interleaved
from implicit_bias.datasets import make_dataset
from implicit_bias.engine import Problem, simulate, stepping_of
from implicit_bias.engine.problem import Compile
from implicit_bias.losses import LOSSES
from implicit_bias.models import MODELS, Data
from implicit_bias.norms import make_norm
from implicit_bias.optimizers import OPTIMIZERS
from implicit_bias.runtime.memory import peak_bytes
from implicit_bias.schedules import SCHEDULES

BATCHES = (1, 8, 64, 512)
GPU_BATCHES = (1, 64, 512, 4096)
PLAIN = (1, 64)
LEAN = "lean"
RATES = ("multiply-adds", "exponentials")
MEMORY_STEPS = 3
CHECKED_STEPS, CHECKED_RUNS = 100, 3


@dataclass(frozen=True)
class Size:
    """A linear problem: n = k * per_class samples, k classes, d features."""

    k: int
    per_class: int
    d: int
    noise: float = 1.0

    @cache  # noqa: B019 - of a few sizes
    def data(self, runs: int) -> Data:
        """Gaussian mixtures of seeds 1, 2, ..., one a run; not to be changed."""
        keys = {"num_classes": self.k, "dim": self.d, "samples_per_class": self.per_class, "noise": self.noise}
        sets = [make_dataset({"name": "gaussian_mixture", **keys, "seed": s + 1}).load() for s in range(runs)]
        return Data(torch.from_numpy(np.stack([s.x for s in sets])), torch.from_numpy(np.stack([s.y for s in sets])), self.k)

    @property
    def n(self) -> int:
        """Samples."""
        return self.k * self.per_class

    def __str__(self) -> str:
        return f"n={self.n}, k={self.k}, d={self.d}"


@dataclass(frozen=True)
class Plan:
    """How a size is measured.

    Attributes:
        threads: The most that a batch may use; what is faster, one or all, is taken.
        device: Where batches are computed: cpu or cuda.
        batches: Runs of each.
    """

    threads: int
    device: str = "cpu"
    batches: tuple[int, ...] = BATCHES

    @property
    def stepping(self) -> Compile:
        """On a GPU the kernel also where few updates are timed, which do not repay compiling: it is compiled by then."""
        return "auto" if self.device == "cpu" else "on"

    @property
    def thread_counts(self) -> list[int]:
        """Those that are tried."""
        return sorted({1, self.threads}) if self.device == "cpu" else [1]

    def rates(self) -> dict[int, Rates]:
        """Of the machine now, by threads."""
        return {count: measured_rates(self.device, count) for count in self.thread_counts}


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
        points=points_of(steps),
        compile=stepping,
    )


def batched(name: str, data: Data, steps: int, stepping: Compile = "auto") -> list[float]:
    """The engine on every run of ``data`` at once; own-norm margins at the end."""
    margins: list[float] = simulate(problem_of(name, data, steps, stepping)).by_norm[OWN[name]]["margin"][-1].tolist()
    return margins


def measure(size: Size, name: str, plan: Plan) -> Iterator[dict[str, Any]]:
    """Microseconds an update and run of the plain loops and of the engine in batches, as rows of the bench table.

    Everything of a size and an optimizer is timed in turn; the machine's rates are those right before and after.

    Raises:
        AssertionError: what is timed does not compute the same.
    """
    data = size.data(max(max(plan.batches), CHECKED_RUNS))
    differs = _difference(size, name, data, plan.device)
    before, watch = plan.rates(), Watch()
    works = _loops(size, name, data)
    for runs in plan.batches:
        works |= _batch(name, _part(data, runs, plan.device), plan)
    if plan.device == "cpu":
        works |= _rate_works({work.threads for key, work in works.items() if key.startswith("steps ")})
    timings = interleaved(works)
    load, rates = watch.load(), {count: rate.or_faster(before[count]) for count, rate in plan.rates().items()}
    for runs in plan.batches:
        part, threads = _part(data, runs, plan.device), works[f"batched {runs}"].threads
        row: dict[str, Any] = {"size": str(size), "optimizer": name, "runs": runs, "device": plan.device, "threads": threads}
        row |= _numbers(timings, runs) | _limit(timings, runs, size, rates[threads])
        if plan.device == "cpu" and f"steps {runs}" in timings:
            row |= _least(timings, name, runs, size, threads)
        row["peak_mb"] = peak_bytes(partial(batched, name, part, MEMORY_STEPS)) / 1e6
        if plan.device != "cpu":
            row |= {"stepping": stepping_of(problem_of(name, part, STEPS, plan.stepping)), "differs": differs}
        yield row | {"load": load}


def _part(data: Data, runs: int, device: str) -> Data:
    return Data(data.x[:runs].to(device), data.y[:runs].to(device), data.num_classes)


def _loops(size: Size, name: str, data: Data) -> dict[str, Work]:
    """The three loops, the leanest by each gradient."""
    run = (data.x[0], data.y[0], size.k)
    calls: dict[str, Callable[[int], float]] = {
        "usual": partial(usual_loop, name, *run),
        "tight": partial(tight_loop, name, *run),
    }
    calls |= lean_calls(partial(lean_loop, name, *run))
    return {key: Work(call, STEPS).sized() for key, call in calls.items()}


def lean_calls(loop: Callable[..., float]) -> dict[str, Callable[[int], float]]:
    """The leanest loop by each gradient."""
    return {f"{LEAN} {by}": partial(loop, by=by) for by in GRADIENTS}


def leaner(timings: dict[str, Timing]) -> tuple[str, Timing]:
    """Which gradient makes the leanest loop, and how long it takes."""
    found = {by: timings[f"{LEAN} {by}"] for by in GRADIENTS}
    by = min(found, key=lambda by: found[by].seconds)
    return by, found[by]


def _batch(name: str, part: Data, plan: Plan) -> dict[str, Work]:
    """The engine on a batch, its compiled steps alone and, of some batches, PyTorch's steps, by as many threads as are faster."""
    runs = len(part.x)
    calls: dict[str, Callable[[int], object]] = {"batched": partial(batched, name, part, stepping=plan.stepping)}
    if runs in PLAIN or plan.device != "cpu":
        calls["plain"] = partial(batched, name, part, stepping="off")
    works: dict[str, Work] = {}
    for key, call in calls.items():
        tried = {count: Work(call, STEPS, runs, count) for count in plan.thread_counts}
        if key == "batched":  # set-up and records are of runs as they are made
            tried = {count: work.whole_within(WHOLE, LONG) for count, work in tried.items()}
        else:
            tried = {count: work.sized(SHORT) for count, work in tried.items()}
        works[key] = tried[faster(tried)]
    torch.set_num_threads(works["batched"].threads)  # it makes as many workers as there are threads
    advance = compiled_steps(problem_of(name, part, STEPS))
    if advance is not None:
        # The same updates: some cost more than others.
        works["steps"] = replace(works["batched"], call=advance)
    return {f"{key} {runs}": work for key, work in works.items()}


def _rate_works(thread_counts: Collection[int]) -> dict[str, Work]:
    """What the processor's rates are timed by, in turn with all else, where steps are in C."""
    return {
        f"{kind} {count}": Work(work.call, STEPS, threads=count).sized()
        for count in thread_counts
        for kind, work in zip(RATES, compiled_works(count) or (), strict=False)
    }


def _numbers(timings: dict[str, Timing], runs: int) -> dict[str, Any]:
    """What a row says of times; its spread is the largest of those that its ratios are made of."""
    batch, (by, lean) = timings[f"batched {runs}"], leaner(timings)
    loops = {"usual": timings["usual"], "tight": timings["tight"], LEAN: lean}
    row = {f"{key}_us": 1e6 * timing.seconds for key, timing in loops.items()} | {"batched_us": 1e6 * batch.seconds}
    row |= {f"ratio_{key}": timing.seconds / batch.seconds for key, timing in loops.items()}
    for key in ("steps", "plain"):
        if f"{key} {runs}" in timings:
            row[f"{key}_us"] = 1e6 * timings[f"{key} {runs}"].seconds
    return row | {"lean_by": by, "spread": max(timing.spread for timing in (batch, *loops.values()))}


def _limit(timings: dict[str, Timing], runs: int, size: Size, rates: Rates) -> dict[str, Any]:
    """The least time that the arithmetic takes, and the share of it in what is taken."""
    bound, batch = rates.least_seconds(size.n, size.k, size.d), timings[f"batched {runs}"].seconds
    row = {"roofline_us": 1e6 * bound, "of_roofline": bound / batch}
    if f"steps {runs}" in timings:
        steps = timings[f"steps {runs}"].seconds
        row |= {"outside": 1 - steps / batch, "steps_of_roofline": bound / steps}
    return row | {"gflops": rates.arithmetic / 1e9, "gexp": rates.exponential / 1e9}


def _least(timings: dict[str, Timing], name: str, runs: int, size: Size, threads: int) -> dict[str, Any]:
    """The least time of all of a step's arithmetic, at the medians of rates that were timed in turn with it."""
    works = compiled_works(threads)
    assert works is not None  # steps in C need the compiler that these need
    rates = Rates(*(work.amount / timings[f"{kind} {threads}"].seconds for kind, work in zip(RATES, works, strict=True)))
    least = least_seconds(name, size.n, size.k, size.d, rates)
    return {"least_us": 1e6 * least, "steps_of_least": least / timings[f"steps {runs}"].seconds}


def _difference(size: Size, name: str, data: Data, device: str) -> float:
    """How far the engine on a device is from that on the CPU, relative, in the own-norm margins of some runs.

    Raises:
        AssertionError: the engine's margins are not those of the loops.
    """
    few = _part(data, CHECKED_RUNS, "cpu")
    ours = batched(name, few, CHECKED_STEPS)
    loops: dict[str, Callable[..., float]] = {"usual": usual_loop, "tight": tight_loop}
    loops |= {f"lean ({by})": partial(lean_loop, by=by) for by in GRADIENTS}
    for r in range(CHECKED_RUNS):
        for kind, loop in loops.items():
            assert_equal(f"{size}, {name}", ours[r], kind, loop(name, few.x[r], few.y[r], size.k, CHECKED_STEPS))
    if device == "cpu":
        return 0.0
    there = batched(name, _part(data, CHECKED_RUNS, device), CHECKED_STEPS, "on")
    return max(abs(a - b) / abs(a) for a, b in zip(ours, there, strict=True))


def assert_equal(what: str, ours: float, kind: str, theirs: float) -> None:
    """Raises AssertionError: the engine's margin is not the loop's."""
    if not math.isclose(ours, theirs, rel_tol=1e-6, abs_tol=1e-6):
        raise AssertionError(f"{what}: the engine's margin {ours} is not the {kind} loop's {theirs}")
