"""Speed of steps by mini-batches: a batch of runs beside two loops, which index tensors, without a DataLoader.

The usual loop goes by autograd; the lean one, in the place of the tight loop, has the gradient written out, softmax less one-hot,
and nothing else that costs time. All three are timed in turn, and make the same steps.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from implicit_bias.bench.baselines import UsualOptimizer
from implicit_bias.bench.linear import LEARNING_RATES, OWN, POINTS, Size, own_margin, problem_of, usual_loop
from implicit_bias.engine import Trajectory, simulate
from implicit_bias.engine.mini_batches import MiniBatches
from implicit_bias.engine.record_times import record_steps
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


def lean_run(name: str, data: Data, run: int, steps: int) -> float:
    """The same run with as little as a plain loop can do; the own-norm margin of all samples at the end."""
    x, y, rate = data.x[run], data.y[run], LEARNING_RATES[name]
    one_hot = torch.nn.functional.one_hot(y, data.num_classes).to(x.dtype)
    w = torch.zeros(data.num_classes, x.shape[1], dtype=x.dtype)
    rule, state = UsualOptimizer([w], name, rate), dict[str, Any]()
    records, margin = set(record_steps(steps, POINTS)), math.nan
    for t, rows in enumerate(_batches(data, [run]).table(0, steps)[0], start=1):
        mine = x[rows]
        g = (torch.softmax(mine @ w.T, dim=1) - one_hot[rows]).T @ mine
        w -= rate * t**-0.5 * rule.direction(name, g, state)
        if t in records:
            margin = own_margin(w, x, y, OWN[name])
    return margin


def batched_runs(name: str, data: Data, steps: int) -> Trajectory:
    """The engine on all runs at once."""
    return simulate(replace(problem_of(name, data, steps), batch=_batches(data, range(len(data.x)))))


def mini_batch_rows(threads: int) -> Iterator[dict[str, Any]]:
    """Microseconds a step and run of both loops on one thread and of all runs at once, as rows of the bench table."""
    data = SIZE.data(RUNS)
    for name in METHODS:
        torch.set_num_threads(1)
        stepping = _assert_equal(name, data)
        seconds: dict[str, list[float]] = {"usual": [], "lean": [], "batched": []}
        for _ in range(TIMES):
            torch.set_num_threads(1)
            seconds["usual"].append(_seconds(partial(usual_run, name, data, 0, STEPS)))
            seconds["lean"].append(_seconds(partial(lean_run, name, data, 0, STEPS)))
            torch.set_num_threads(threads)
            seconds["batched"].append(_seconds(partial(batched_runs, name, data, STEPS)) / RUNS)
        usual, lean, batched = (statistics.median(each) / STEPS for each in seconds.values())
        yield {
            "size": f"{SIZE}, b={BATCH}", "optimizer": name, "runs": RUNS, "threads": threads, "usual_us": 1e6 * usual,
            "tight_us": 1e6 * lean, "batched_us": 1e6 * batched, "ratio_usual": usual / batched, "ratio_tight": lean / batched,
            "stepping": stepping,
        }  # fmt: skip


def _batches(data: Data, seeds: Any) -> MiniBatches:
    return MiniBatches(BATCH, "reshuffle", torch.tensor(list(seeds)), data.x.shape[1])


def _seconds(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _assert_equal(name: str, data: Data) -> str:
    """Raises AssertionError: the engine's margins are not the loops'. Returns what made the engine's steps."""
    trajectory = batched_runs(name, data, CHECKED_STEPS)
    for run in (0, RUNS - 1):
        ours = float(trajectory.by_norm[OWN[name]]["margin"][-1, run])
        for kind, loop in (("usual", usual_run), ("lean", lean_run)):
            theirs = loop(name, data, run, CHECKED_STEPS)
            if not math.isclose(ours, theirs, rel_tol=1e-6, abs_tol=1e-6):
                raise AssertionError(f"{SIZE}, b={BATCH}, {name}: the engine's margin {ours} is not the {kind} loop's {theirs}")
    return trajectory.stepping
