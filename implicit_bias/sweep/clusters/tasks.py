"""Batches that other processes compute: how they are split and serialised, and a tally of the outcomes of their cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from implicit_bias.cli.messages import show_warning
from implicit_bias.config.spec import Parts, RunSpec
from implicit_bias.core.work import Work
from implicit_bias.storage.runs import is_finished, read_run
from implicit_bias.sweep import expected
from implicit_bias.sweep.expected import cell_elements, steps_seconds
from implicit_bias.sweep.outcome import Outcome, Progress
from implicit_bias.sweep.plan import Cell

Stamp = list[int] | None

# A linear batch is cut for the sake of idle workers only while its parts keep so many doubles in their (runs, classes, samples)
# arrays: below, the time of a step is that of starting its operations, and half a batch takes as long as a whole one.
LEAST_ELEMENTS = 2**13


@dataclass
class Task:
    """One batch for one worker or job.

    Attributes:
        number: Its number; no two tasks of a sweep have the same.
        cells: Its cells.
        attempts: How often a process has ended before it was done.
    """

    number: int
    cells: list[Cell]
    attempts: int = 0

    @property
    def key(self) -> Hashable:
        """Its name as a piece of the command's work."""
        return "task", self.number, self.attempts


@dataclass
class Ledger:
    """What became of every cell so far, and how far the others are.

    Attributes:
        outcomes: One a cell, None while it is computed.
        stamps: The run folders that were there before, so that what ``force=true`` computes again is told from it.
        progress: Told of all tasks.
        on_outcome: Told the place and outcome of every cell as soon as it is known.
        on_plan: Told the places of the cells of each piece of work, before the first is begun.
        sharing: So many processes share the memory of a machine or a GPU.
    """

    outcomes: list[Outcome | None]
    stamps: dict[int, Stamp]
    progress: Progress
    on_outcome: Callable[[int, Outcome], None]
    on_plan: Callable[[Mapping[Hashable, Sequence[int]]], None] = lambda pieces: None
    sharing: int = 1
    _warned: set[str] = field(default_factory=set)
    _optima: set[tuple[int, str]] = field(default_factory=set)

    def settle(self, index: int, outcome: Outcome) -> None:
        """Record the outcome of a cell; a second outcome of the same cell is ignored."""
        if self.outcomes[index] is None:
            self.outcomes[index] = outcome
            self.progress.cells(sum(known is not None for known in self.outcomes), len(self.outcomes))
            self.on_outcome(index, outcome)

    def warn(self, line: str) -> None:
        """Show a warning, once however many processes it comes from."""
        if line not in self._warned:
            self._warned.add(line)
            show_warning(line)

    @property
    def work(self) -> Work:
        """The pieces of the command's work: its tasks are pieces that a worker does."""
        return self.progress.work

    def begin(self, tasks: Sequence[Task], workers: int) -> None:
        """Expect tasks, of which so many are done at once."""
        for task in tasks:
            self.plan(task)
        self.work.workers = workers
        self.on_plan({task.key: [cell.index for cell in task.cells] for task in tasks})

    def plan(self, task: Task) -> None:
        """Expect a task."""
        count = expected.optima_count(task.cells, self._optima)
        optima = count * expected.optimum_seconds(task.cells)
        seconds = optima + steps_seconds(task.cells) + expected.rest_seconds(task.cells)
        self.work.expect(task.key, seconds, expected.kind(task.cells))

    def advance(self, task: Task, event: Mapping[str, Any]) -> None:
        """Record what a worker tells of a task: the share (0 to 1) that is done, the seconds that it took, and the ratio."""
        self.work.share(event["share"], task.key, event["seconds"])
        self.progress.tell(event["ratio"])

    def close(self, task: Task, seconds: float | None = None) -> None:
        """Record that a process has computed the task, in so many seconds: they tell of others, if anything came of it."""
        outcomes = [self.outcomes[cell.index] for cell in task.cells]
        done = any(outcome is not None and outcome.status == "done" for outcome in outcomes)
        self.work.end(task.key, telling=done, seconds=seconds)
        self.progress.tell()

    def drop(self, task: Task) -> None:
        """Record that no process computes the task any more, though it is not done: its time tells nothing of others."""
        self.work.end(task.key, telling=False)
        self.progress.tell()

    def report(self, task: Task, event: Mapping[str, Any]) -> None:
        """Record what a worker reports of one cell; its tables are read from its run folder."""
        cell = task.cells[event["place"]]
        if event["status"] == "failed":
            told, step = event["error"], event.get("step")
            self.settle(cell.index, Outcome(cell.spec, None, "failed", told, event["kind"], diverged_at=step))
            return
        try:
            trajectory, summary = read_run(cell.directory)
        except OSError as error:
            reason = f"{cell.directory}: was written and cannot be read ({error.strerror})"
            self.settle(cell.index, Outcome(cell.spec, None, "failed", reason, "io"))
            return
        self.settle(cell.index, Outcome(cell.spec, cell.directory, event["status"], trajectory=trajectory, summary=summary))

    def unfinished(self, task: Task) -> list[Cell]:
        """The cells of a task that has been cut short which have yet to be computed; those with a finished folder are settled."""
        for place, cell in enumerate(task.cells):
            written = stamp(cell.directory) not in (None, self.stamps[cell.index])
            if self.outcomes[cell.index] is None and written and is_finished(cell.directory):
                self.report(task, {"place": place, "status": "done"})
        return [cell for cell in task.cells if self.outcomes[cell.index] is None]

    def fail(self, cells: Iterable[Cell], reason: str) -> None:
        """Record that these cells failed."""
        for cell in cells:
            self.settle(cell.index, Outcome(cell.spec, None, "failed", reason, "internal"))

    def message(self, task: Task, command: str) -> dict[str, Any]:
        """A task as plain JSON, for :func:`implicit_bias.sweep.clusters.worker.perform`."""
        cells = [{"config": c.spec.canonical, "directory": str(c.directory), "before": self.stamps[c.index]} for c in task.cells]
        return {"number": task.number, "command": command, "sharing": self.sharing, "cells": cells}


def stamp(directory: Path) -> Stamp:
    """An identity of a run folder, different from that of a later one of the same name; None where there is no folder."""
    try:
        status = directory.stat()
    except OSError:
        return None
    return [status.st_ino, status.st_mtime_ns]


def remaining(task: Mapping[str, Any]) -> list[RunSpec]:
    """The runs of a task's cells, built again from their configurations.

    ``force`` is taken from those that were computed since the task was written.

    A task that is begun again, after its process was killed or requeued, then skips them.
    """

    parts = Parts()

    def spec(cell: Mapping[str, Any]) -> RunSpec:
        written = parts.spec(cell["config"])
        fresh = stamp(Path(cell["directory"])) in (None, cell["before"])
        return written if fresh else written.altered({"force": False})

    return [spec(cell) for cell in task["cells"]]


def spread(batches: Sequence[list[Cell]], workers: int) -> list[list[Cell]]:
    """Cut the largest batches in halves until every worker has one, but none into parts too small to gain by it.

    Returns:
        The batches, longest first.
    """
    parts = [list(batch) for batch in batches]
    while len(parts) < workers:
        large = [part for part in parts if _divisible(part)]
        if not large:
            break
        largest = max(large, key=steps_seconds)
        parts.remove(largest)
        middle = math.ceil(len(largest) / 2)
        parts += [largest[:middle], largest[middle:]]
    return sorted(parts, key=steps_seconds, reverse=True)


def _divisible(batch: Sequence[Cell]) -> bool:
    half = len(batch) // 2
    if half == 0 or not batch[0].spec.model.linear:
        return half > 0
    return half * cell_elements(batch[0]) >= LEAST_ELEMENTS
