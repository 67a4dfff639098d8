"""A batch over several threads: the runs are shared out, and each thread simulates its part as a batch of its own.

Splitting a batch by runs needs no agreement between threads within a step, and changes no bit: a run gives the same alone, in any
batch and in any shard (float64, one intra-op thread).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from implicit_bias.engine import Diverged, Problem, Trajectory, Watch, simulate


class _Stopped(Exception):
    """Another shard has failed, or the user has interrupted: there is nothing left to compute."""


def simulate_in_shards(problem: Problem, shards: int, watch: Watch | None = None) -> Trajectory:
    """:func:`implicit_bias.engine.simulate` with the runs shared out over ``shards`` threads, the caller's among them.

    ``watch`` is called from the caller's thread alone, and sees the first shard. An exception in any shard, or an interrupt in
    the caller's thread, stops the others at their next look at the clock.

    Raises:
        Diverged: as the engine's, with places in the whole batch; of the first recorded step at which any shard noticed.
    """
    runs = run_count(problem)
    bounds = shard_bounds(runs, shards)
    if len(bounds) == 1:
        return simulate(problem, watch)
    parts = [part_of(problem, slice(first, last), runs) for first, last in bounds]
    with _one_thread_each():
        results = _together(parts, watch)
    diverged = [(first, r) for (first, _), r in zip(bounds, results, strict=True) if isinstance(r, Diverged)]
    if diverged:
        # A run is reported with the step at which its own shard noticed, however far the others had come.
        step = min(error.step for _, error in diverged)
        raise Diverged([first + run for first, error in diverged if error.step == step for run in error.runs], step)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, _Stopped):
            raise result
    return joined([result for result in results if isinstance(result, Trajectory)])


def run_count(problem: Problem) -> int:
    """R, the number of runs of the batch."""
    return len(next(iter(problem.initial.values())))


def shard_bounds(runs: int, shards: int) -> list[tuple[int, int]]:
    """First run and the one after the last of each shard; as equal as can be, none empty."""
    count = max(1, min(runs, shards))
    return [(i * runs // count, (i + 1) * runs // count) for i in range(count)]


def part_of(value: Any, part: slice, runs: int) -> Any:
    """``value`` for some of its runs: every tensor in it whose leading axis is the run axis is cut, all else is shared."""
    if isinstance(value, Tensor):
        return value[part] if value.dim() and len(value) == runs else value
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: part_of(getattr(value, f.name), part, runs) for f in fields(value) if f.init})
    if isinstance(value, Mapping):
        return {key: part_of(item, part, runs) for key, item in value.items()}
    return value


def joined(parts: Sequence[Trajectory]) -> Trajectory:
    """The trajectories of neighbouring shards as that of their batch."""
    first = parts[0]
    return Trajectory(
        own=first.own,
        steps=first.steps,
        common={key: np.concatenate([p.common[key] for p in parts], axis=1) for key in first.common},
        by_norm={
            label: {key: np.concatenate([p.by_norm[label][key] for p in parts], axis=1) for key in columns}
            for label, columns in first.by_norm.items()
        },
        parameters={
            step: {name: torch.cat([p.parameters[step][name] for p in parts]) for name in blocks}
            for step, blocks in first.parameters.items()
        },
    )


def _together(parts: Sequence[Problem], watch: Watch | None) -> list[Trajectory | BaseException]:
    """What becomes of each part: its trajectory, or the exception that ended it."""
    stop = threading.Event()

    def shard(part: Problem, report: Watch | None) -> Trajectory:
        def look(steps: int, ratio: float) -> None:
            if stop.is_set():
                raise _Stopped
            if report is not None:
                report(steps, ratio)

        try:
            # Torch keeps the number of threads partly by thread: each worker sets its own.
            torch.set_num_threads(1)
            return simulate(part, look)
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(len(parts) - 1, thread_name_prefix="shard") as pool:
        others = [pool.submit(shard, part, None) for part in parts[1:]]
        try:
            mine: list[Trajectory | BaseException] = [_caught(lambda: shard(parts[0], watch))]
            wait(others)
        except BaseException:  # an interrupt: the pool waits for its threads before it is passed on
            stop.set()
            raise
    return mine + [_result(other) for other in others]


def _caught(work: Any) -> Trajectory | BaseException:
    """The result, or an ordinary exception as a value; interrupts pass."""
    try:
        result: Trajectory = work()
        return result
    except Exception as error:
        return error


def _result(future: Future[Trajectory]) -> Trajectory | BaseException:
    error = future.exception()
    return future.result() if error is None else error


@contextmanager
def _one_thread_each() -> Iterator[None]:
    given = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(given)
