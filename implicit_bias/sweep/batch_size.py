"""How many runs of a batch the memory holds at once: measured on a few steps of one and a few more of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from implicit_bias.engine import Problem, simulate
from implicit_bias.engine.record_times import record_steps
from implicit_bias.models import Data
from implicit_bias.runtime.memory import SHARE, available, peak_bytes
from implicit_bias.sweep.plan import Cell
from implicit_bias.sweep.problem import build_problem

# Arrays of a run's scores, data and parameters that a step, a record or an improved certificate may hold at once: more than any
# does. Where so many would fit into this part of the free memory, nothing is measured.
CRUDE_ARRAYS = 100
# The same of the scores and the data of a test, of which nothing is needed but the class with the largest score.
CRUDE_TEST_ARRAYS = 10
EASILY = 0.1
# What a run is measured by: steps, and the certificate's iterations. How many runs more than the first tell its share from what
# all runs share: steps in C take the memory of whole groups of runs, and 1 + 8 runs have one or two groups more than 1.
MEASURED_STEPS, MEASURED_ITERATIONS, MEASURED_RUNS = 2, 30, {True: 8, False: 1}


def fitting(cells: Sequence[Cell], sharing: int = 1) -> int:
    """How many of these runs, of one batch in kind, the memory holds at once: all, or what a measurement of a few steps says.

    Args:
        sharing: So many processes share the memory, and each counts on its part.
    """
    there = available(cells[0].spec.torch_device)
    free = math.inf if there is None else there / sharing
    added = min(MEASURED_RUNS[cells[0].spec.model.linear], len(cells) - 1)
    if len(cells) <= 2:
        return len(cells)
    try:
        if len(cells) * _crude_bytes(cells[0]) <= EASILY * free:
            return len(cells)
        one, more = (_measured_bytes(cells[:runs]) for runs in (1, 1 + added))
    except Exception:  # noqa: BLE001 - the runs raise it again when they are computed, and report it then
        return len(cells)
    each = max(1.0, (more - one) / added)
    return max(1, int((SHARE * free - max(0.0, one - each)) / (each + _kept_bytes(cells[0]))))


def _crude_bytes(cell: Cell) -> int:
    """An upper estimate of the bytes that a run needs."""
    x, test, shapes = cell.dataset.x, cell.dataset.x_test, block_shapes(cell)
    widest = max(rows for rows, _ in shapes)
    tested = 0 if test is None else test.size + len(test) * widest
    return 8 * (CRUDE_ARRAYS * (x.size + len(x) * widest + _size(shapes)) + CRUDE_TEST_ARRAYS * tested) + _kept_bytes(cell)


def _kept_bytes(cell: Cell) -> int:
    """The test samples, which measuring does not see, and the parameters of all records, where those are kept."""
    spec, test = cell.spec, cell.dataset.x_test
    held = 0 if test is None else test.size
    if spec.log.weights == "all":
        held += len(record_steps(spec.steps, spec.log.points)) * _size(block_shapes(cell))
    return 8 * held


def block_shapes(cell: Cell) -> list[tuple[int, int]]:
    """Rows and columns of the parameter blocks of a run."""
    data = cell.dataset
    few = Data(torch.from_numpy(data.x[None, :1]), torch.from_numpy(data.y[None, :1]), data.num_classes)
    blocks = cell.spec.model.initial(few, [cell.spec.seed]).values()
    return [(block.shape[-2], block.shape[-1]) for block in blocks]


def _size(shapes: Sequence[tuple[int, int]]) -> int:
    return sum(rows * columns for rows, columns in shapes)


def _measured_bytes(cells: Sequence[Cell]) -> int:
    """The most bytes that a batch of these runs has at a time, its start, two steps and their records being measured."""

    def work() -> None:
        problem = build_problem(cells, [{} for _ in cells])
        iterations = min(problem.certificate_iterations, MEASURED_ITERATIONS)
        simulate(replace(problem, steps=MEASURED_STEPS, certificate_iterations=iterations, weights="none"))
        if not problem.model.linear and problem.kkt_products:
            _jacobian_products(problem)

    return peak_bytes(work)


def _jacobian_products(problem: Problem) -> None:
    """What KKT ratios take; a run has none before all its gaps are positive."""
    with torch.no_grad():
        objective = problem.model.objective(problem.data, problem.loss, problem.frozen)
        at, weights = objective.derivatives(problem.initial), objective.weights(problem.initial).mT
        # As a search makes them: what the first has led to is kept, and so is the network's linearisation.
        slopes = at.push(at.pull_once(weights))
        at.pull(slopes)
