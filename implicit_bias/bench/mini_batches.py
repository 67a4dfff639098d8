"""Speed of steps by mini-batches: a batch of runs beside the usual loop, which indexes tensors, without a DataLoader."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from implicit_bias.bench.linear import OWN, Size, problem_of, usual_loop
from implicit_bias.engine import Trajectory, simulate
from implicit_bias.engine.mini_batches import MiniBatches
from implicit_bias.models import Data

SIZE, BATCH, RUNS, STEPS = Size(10, 10, 25), 10, 64, 1000
METHODS = ("signgd", "muon", "adam")
# Both are timed in turn so often, so that what else the machine does meets both; of each the median counts.
TIMES = 5
CHECKED_STEPS = 100


def usual_run(name: str, data: Data, run: int, steps: int) -> float:
    """One run by autograd, its samples reshuffled every epoch as the engine does; the own-norm margin of all of them."""
    rows = _batches(data, [run]).table(0, steps)[0]
    return usual_loop(name, data.x[run], data.y[run], data.num_classes, steps, rows)


def batched_runs(name: str, data: Data, steps: int) -> Trajectory:
    """The engine on all runs at once."""
    return simulate(replace(problem_of(name, data, steps), batch=_batches(data, range(len(data.x)))))


def mini_batch_rows(threads: int) -> Iterator[dict[str, Any]]:
    """Microseconds a step and run of the usual loop on one thread and of all runs at once, as rows of the bench table."""
    data = SIZE.data(RUNS)
    for name in METHODS:
        torch.set_num_threads(1)
        stepping = _assert_equal(name, data)
        seconds: dict[str, list[float]] = {"usual": [], "batched": []}
        for _ in range(TIMES):
            torch.set_num_threads(1)
            seconds["usual"].append(_seconds(partial(usual_run, name, data, 0, STEPS)))
            torch.set_num_threads(threads)
            seconds["batched"].append(_seconds(partial(batched_runs, name, data, STEPS)) / RUNS)
        usual, batched = (statistics.median(each) / STEPS for each in seconds.values())
        yield {
            "size": f"{SIZE}, b={BATCH}", "optimizer": name, "runs": RUNS, "threads": threads, "usual_us": 1e6 * usual,
            "batched_us": 1e6 * batched, "ratio_usual": usual / batched, "stepping": stepping,
        }  # fmt: skip


def _batches(data: Data, seeds: Any) -> MiniBatches:
    return MiniBatches(BATCH, "reshuffle", torch.tensor(list(seeds)), data.x.shape[1])


def _seconds(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _assert_equal(name: str, data: Data) -> str:
    """Raises AssertionError: the engine's margins are not the loop's. Returns what made the engine's steps."""
    trajectory = batched_runs(name, data, CHECKED_STEPS)
    for run in (0, RUNS - 1):
        ours, theirs = float(trajectory.by_norm[OWN[name]]["margin"][-1, run]), usual_run(name, data, run, CHECKED_STEPS)
        if not math.isclose(ours, theirs, rel_tol=1e-6, abs_tol=1e-6):
            raise AssertionError(f"{SIZE}, b={BATCH}, {name}: the engine's margin {ours} is not the usual loop's {theirs}")
    return trajectory.stepping
