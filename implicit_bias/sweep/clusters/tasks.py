"""Batches that other processes compute: how they are split and serialised, and a tally of the outcomes of their cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from implicit_bias.cli.messages import show_warning
from implicit_bias.config.spec import Parts, RunSpec
from implicit_bias.models import Data, Model
from implicit_bias.storage.runs import is_finished, read_run
from implicit_bias.sweep.outcome import Outcome, Progress
from implicit_bias.sweep.plan import Cell, run_elements

Stamp = list[int] | None

# A linear batch is cut for the sake of idle workers only while its parts keep so many doubles in their (runs, classes, samples)
# arrays: below, the time of a step is that of starting its operations, and half a batch takes as long as a whole one.
LEAST_ELEMENTS = 2**13

# Parameters of networks by model, features and classes: a large one takes long to make.
_COUNTED: dict[tuple[str, int, int], int] = {}


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
    def work(self) -> int:
        """Steps of all its runs together."""
        return sum(cell.spec.steps for cell in self.cells)


@dataclass
class Ledger:
    """What became of every cell so far, and how far the others are.

    Attributes:
        outcomes: One a cell, None while it is computed.
        stamps: The run folders that were there before, so that what ``force=true`` computes again is told from it.
        progress: Shown the sum over all tasks.
        on_outcome: Told the place and outcome of every cell as soon as it is known.
        sharing: So many processes share the memory of a machine or a GPU.
    """

    outcomes: list[Outcome | None]
    stamps: dict[int, Stamp]
    progress: Progress
    on_outcome: Callable[[int, Outcome], None]
    work: int = 0
    sharing: int = 1
    _warned: set[str] = field(default_factory=set)
    _settled: int = 0
    _under_way: dict[int, float] = field(default_factory=dict)

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

    def advance(self, task: Task, share: float, ratio: float) -> None:
        """Record that a share (0 to 1) of the task's steps has been made."""
        self._under_way[task.number] = share * task.work
        self._show(ratio)

    def close(self, task: Task) -> None:
        """Record that no process computes the task any more; the work of its settled cells counts as done."""
        self._under_way.pop(task.number, None)
        self._settled += sum(c.spec.steps for c in task.cells if self.outcomes[c.index] is not None)
        self._show(math.nan)

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

    def _show(self, ratio: float) -> None:
        self.progress.advance(round(self._settled + sum(self._under_way.values())), self.work, ratio)


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
        largest = max(large, key=_cost)
        parts.remove(largest)
        middle = math.ceil(len(largest) / 2)
        parts += [largest[:middle], largest[middle:]]
    return sorted(parts, key=_cost, reverse=True)


def _divisible(batch: Sequence[Cell]) -> bool:
    half = len(batch) // 2
    if half == 0 or not batch[0].spec.model.linear:
        return half > 0
    return half * _elements(batch[0]) >= LEAST_ELEMENTS


def _cost(batch: Sequence[Cell]) -> float:
    """The time of a batch, roughly: steps by the size of its arrays, and by what a step takes whatever their size."""
    steps = sum(c.spec.steps for c in batch)
    return steps * _elements(batch[0]) + batch[0].spec.steps * LEAST_ELEMENTS


def _elements(cell: Cell) -> int:
    """Numbers in a run's arrays, in proportion to the time that its longest operations take."""
    samples, features = cell.dataset.x.shape
    return run_elements(samples, cell.dataset.num_classes, _parameters(cell.spec.model, features, cell.dataset.num_classes))


def _parameters(model: Model, features: int, num_classes: int) -> int | None:
    """Parameters of a network, counted once; None for a linear model."""
    if model.linear:
        return None
    key = repr(model), features, num_classes
    if key not in _COUNTED:
        sample = Data(torch.zeros(1, 1, features, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.int64), num_classes)
        _COUNTED[key] = sum(block[0].numel() for block in model.initial(sample, [0]).values())
    return _COUNTED[key]
