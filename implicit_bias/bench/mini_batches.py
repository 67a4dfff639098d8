"""Speed of steps by mini-batches: a batch of runs beside two loops, which index tensors, without a DataLoader. All are timed in
turn, and make the same steps."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from implicit_bias.bench.busy import Watch
from implicit_bias.bench.linear import Size, assert_equal, lean_calls, leaner, problem_of
from implicit_bias.bench.loops import GRADIENTS, LEARNING_RATES, OWN, STEPS, lean_loop, usual_loop
from implicit_bias.bench.timing import LONG, Work, faster, interleaved
from implicit_bias.engine import Trajectory, simulate
from implicit_bias.engine.mini_batches import MiniBatches
from implicit_bias.models import Data

SIZE, BATCH, RUNS = Size(10, 10, 25), 10, 64
METHODS = ("signgd", "muon", "adam")
CHECKED_STEPS = 100


def usual_run(name: str, data: Data, run: int, steps: int) -> float:
    """One run by autograd, its samples reshuffled every epoch as the engine does; the own-norm margin of all of them."""
    return usual_loop(name, data.x[run], data.y[run], data.num_classes, steps, _rows(data, run, steps))


def lean_run(name: str, data: Data, run: int, steps: int, *, by: str = "closed form") -> float:
    """The same run with as little as a plain loop can do; the own-norm margin of all samples at the end."""
    return lean_loop(name, data.x[run], data.y[run], data.num_classes, steps, _rows(data, run, steps), by=by)


def batched_runs(name: str, data: Data, steps: int) -> Trajectory:
    """The engine on all runs at once."""
    return simulate(replace(problem_of(name, data, steps), batch=_batches(data, range(len(data.x)))))


def mini_batch_rows(threads: int, methods: Collection[str] = tuple(LEARNING_RATES)) -> Iterator[dict[str, Any]]:
    """Microseconds a step and run of both loops on one thread and of all runs at once, as rows of the bench table.

    Raises:
        AssertionError: what is timed does not compute the same.
    """
    data = SIZE.data(RUNS)
    for name in (method for method in METHODS if method in methods):
        torch.set_num_threads(1)
        stepping, watch = _assert_equal(name, data), Watch()
        batch = {count: Work(partial(batched_runs, name, data), STEPS, RUNS, count) for count in sorted({1, threads})}
        tried = {count: work.sized(LONG) for count, work in batch.items()}
        works = {"batched": tried[faster(tried)]}
        works["usual"] = Work(partial(usual_run, name, data, 0), STEPS).sized()
        works |= {key: Work(call, STEPS).sized() for key, call in lean_calls(partial(lean_run, name, data, 0)).items()}
        timings = interleaved(works)
        usual, batched, (by, leanest) = timings["usual"].seconds, timings["batched"].seconds, leaner(timings)
        lean = leanest.seconds
        yield {
            "size": f"{SIZE}, b={BATCH}", "optimizer": name, "runs": RUNS, "device": "cpu", "threads": works["batched"].threads,
            "usual_us": 1e6 * usual, "lean_us": 1e6 * lean, "batched_us": 1e6 * batched, "ratio_usual": usual / batched,
            "ratio_lean": lean / batched, "stepping": stepping, "lean_by": by, "load": watch.load(),
            "spread": max(timing.spread for timing in (timings["usual"], leanest, timings["batched"])),
        }  # fmt: skip


def _batches(data: Data, seeds: Any) -> MiniBatches:
    return MiniBatches(BATCH, "reshuffle", torch.tensor(list(seeds)), data.x.shape[1])


def _rows(data: Data, run: int, steps: int) -> Tensor:
    return _batches(data, [run]).table(0, steps)[0]


def _assert_equal(name: str, data: Data) -> str:
    """Raises AssertionError: the engine's margins are not the loops'. Returns what made the engine's steps."""
    trajectory = batched_runs(name, data, CHECKED_STEPS)
    for run in (0, RUNS - 1):
        ours = float(trajectory.by_norm[OWN[name]]["margin"][-1, run])
        assert_equal(f"{SIZE}, b={BATCH}, {name}", ours, "usual", usual_run(name, data, run, CHECKED_STEPS))
        for by in GRADIENTS:
            assert_equal(f"{SIZE}, b={BATCH}, {name}", ours, f"lean ({by})", lean_run(name, data, run, CHECKED_STEPS, by=by))
    return trajectory.stepping
