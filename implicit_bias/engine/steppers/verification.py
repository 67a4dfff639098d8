"""Whether a fast stepper makes the plain steps: the first updates of a batch made both ways, whatever the stepper is.

Every update begins at the plain trajectory's own state, so that differences do not grow; several are made, since buffers that
are zero hide much of what an optimizer does. A step agrees where parameters and, after the last, buffers, the next gradient and
the loss differ by no more than 1e-11 of the step's length, of the largest entry of a buffer's row, or of the loss.

Some steps no double knows as well as that: a singular value or a sum that nearly vanishes, two entries of nearly one size. How
well a step is known is measured on the plain stepper itself, and only where the two differ: to both sides, the parameters are
moved by 1e-13 of what changes gaps by one and of their own size, and the gradient by 1e-13 of the largest entry of every row
(some hundred round-off units; for steps that decompose matrices, which is stable in norm only, gradient and buffers by as much of
their largest entry). A run's step may differ by ten times as much as this moves it. So the measure is that of the problem, not of
a method; and where it is small, as on nearly all data, a wrong step is seen.

What records take of a stepper after the last of these updates is compared, too
(:mod:`implicit_bias.engine.steppers.record_verification`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from implicit_bias.core.scaled import LARGE, Scaled, largest_size
from implicit_bias.engine.steppers.base import Reached, Setup, Stepper
from implicit_bias.engine.steppers.closeness import (
    DIRECTIONS,
    NUDGE,
    ROUNDING,
    SLACK,
    TOLERANCE,
    direction,
    losses_apart,
    noise_like,
    ratio,
    rows_apart,
)
from implicit_bias.engine.steppers.eager import Eager
from implicit_bias.engine.steppers.record_verification import wrong_record
from implicit_bias.norms.blocks import WholeVector

#: So many updates of a batch are made both ways.
CHECKED_STEPS = 5
#: And of so many of its runs, from the first to the last: they share a stepper, and more would cost time.
CHECKED_RUNS = 8


#: One update, the t-th: from where the one before has led to where it leads itself.
OneStep = Callable[[Reached, int], Reached]
#: Makes a stepper of its kind.
Make = Callable[[Setup], Stepper]


def wrong(setup: Setup, stepper: Stepper, make: Make, start: Reached, t: int) -> str | None:
    """How the first updates of a stepper after the t-th differ from the plain ones; None where they agree, or cannot be compared.

    Args:
        setup: The batch.
        stepper: Made for it; what is loaded may be lost.
        make: Makes others of its kind, for a part of a large batch.
        start: Where the batch is after ``t`` updates.
        t: The updates made so far.
    """
    count = min(CHECKED_STEPS, setup.problem.steps - t)
    if count <= 0:
        return None
    asked = bool(setup.problem.probes) or not all(norm.entrywise for norm in setup.problem.measured.values())
    try:
        if stepper.check_on is not None and setup.problem.runs > stepper.check_on:
            some = torch.linspace(0, setup.problem.runs - 1, stepper.check_on).long()
            setup = Setup.of(setup.problem.at(some))
            start = _of_runs(setup, start, some)
            stepper = make(setup)
        decomposes = not isinstance(setup.geometry, WholeVector)

        last: list[tuple[Reached, Reached]] = []

        def fast(here: Reached, at: int) -> Reached:
            there = stepper.step(here, at, whole=at == t + count)
            last[:] = [(here, there)]
            return there

        found = disagreement(fast, Eager(setup).step, setup, start, t, count, decomposes)
        if found is not None or not last:
            return found
        here, there = last[0]
        return wrong_record(setup, here, there, stepper.routines, t + count, asked)
    except (ArithmeticError, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
        return None  # numbers that are not finite: the run itself will meet them


def _of_runs(setup: Setup, start: Reached, runs: Tensor) -> Reached:
    """Where some of the runs are, of which ``setup`` is."""
    state = {
        key: {name: Scaled(b.mantissa[runs], b.log_scale[runs]) for name, b in blocks.items()}
        for key, blocks in start.state.items()
    }
    schedule = {key: column[runs] for key, column in start.schedule.items()}
    parameters = {name: block[runs] for name, block in start.parameters.items()}
    anchor = None if start.anchor is None else start.anchor.of(runs, setup.objective.gradient)
    gradient = None if start.gradient is None else start.gradient.of(runs)
    return Reached(parameters, state, gradient, schedule, anchor)


def disagreement(
    fast: OneStep, plain: OneStep, setup: Setup, start: Reached, first: int, count: int, decomposes: bool
) -> str | None:
    """How updates ``first`` + 1, ..., ``first`` + ``count`` of a fast stepper differ from the plain ones; None where they agree.

    Runs whose plain steps are not finite are left out: they have diverged, which is not the stepper's doing.

    Args:
        fast: The update to be verified.
        plain: The update as it is defined.
        setup: The batch: what the updates see of the loss, and how far parameters must move to change gaps by one.
        start: Where update ``first`` has led.
        first: The updates made before.
        count: How many are compared.
        decomposes: Whether the step decomposes matrices.
    """
    made: list[_Made] = []
    try:
        for t in range(first + 1, first + count + 1):
            here = made[-1].there if made else start
            there, ours = plain(here, t), fast(here, t)
            if t < first + count:
                # Buffers are compared at the last step alone: none is zero by then, and it is costly. What a step has given, the
                # next may overwrite.
                ours = ours._replace(parameters={n: b.clone() for n, b in ours.parameters.items()}, state={}, gradient=None)
            made.append(_Made(t, here, there, ours))
    except (ArithmeticError, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
        found = _first_wrong(made, plain, setup, decomposes)
        if found is None:
            raise
        return found
    return _first_wrong(made, plain, setup, decomposes)


class _Made(NamedTuple):
    """An update made both ways."""

    t: int
    here: Reached
    there: Reached
    ours: Reached


def _first_wrong(made: Sequence[_Made], plain: OneStep, setup: Setup, decomposes: bool) -> str | None:
    """How the first update that does differs from the plain one; all are looked at together first."""
    if _all_near(made):
        return None
    for t, here, there, ours in made:
        apart = _apart(ours, there, here, here)
        tolerance = TOLERANCE * torch.finfo(apart.dtype).eps
        if bool((apart > tolerance).any()):
            allowed = tolerance + SLACK * _uncertainty(plain, setup, here, there, t, decomposes)
            wrong = (apart > allowed).any(dim=0) & _finite(there)
            if bool(wrong.any()):
                run = int(wrong.nonzero()[0])
                return f"step {t} of run {run + 1} of {len(wrong)} differs by {float(apart[:, run].max()):.1e} of its size"
    return None


def _all_near(made: Sequence[_Made]) -> bool:
    """Whether all agree to the tolerance, parameters after every update and buffers after the last."""
    if not made:
        return True
    last = made[-1]
    found = [rows_apart(a, b) for a, b in _scaled_pairs(last.ours, last.there)]
    found += _losses(last.ours, last.there)
    # Of what is small operations cost by their number, of what is large by its size: then nothing is copied.
    small = sum(block.numel() for block in last.here.parameters.values()) < LARGE
    for steps in [made] if small else [[step] for step in made]:
        before, plain, fast = (_together(side) for side in zip(*(step[1:] for step in steps), strict=True))
        found.append(_apart(fast, plain, before, before).flatten())
    apart = torch.cat(found)
    return bool((apart <= TOLERANCE * torch.finfo(apart.dtype).eps).all())


def _together(reached: Sequence[Reached]) -> Reached:
    """Parameters of S points end to end as one block (S, R, 1, m); of one alone as they are."""
    if len(reached) == 1:
        return Reached(reached[0].parameters, {})
    vectors = [torch.cat([block.flatten(start_dim=1) for block in point.parameters.values()], dim=1) for point in reached]
    return Reached({"": torch.stack(vectors).unsqueeze(-2)}, {})


def _finite(reached: Reached) -> Tensor:
    return torch.stack([block.isfinite().all(dim=(-2, -1)) for block in reached.parameters.values()]).all(dim=0)


def _apart(one: Reached, other: Reached, one_from: Reached, other_from: Reached) -> Tensor:
    """How far two steps are apart, (2, R): in parameters, relative to the other's length, and in buffers and gradients, relative
    to the other's largest entry in every row. Parameters count by their moves, less what rounding them makes."""
    moves = {name: block - other_from.parameters[name] for name, block in other.parameters.items()}
    differ = _largest({n: (one.parameters[n] - one_from.parameters[n]).sub_(move) for n, move in moves.items()})
    size = torch.maximum(_largest(other_from.parameters), _largest(other.parameters))
    rounding = ROUNDING * torch.finfo(size.dtype).eps * size
    in_parameters = ratio((differ - rounding).clamp(min=0), _largest(moves))
    rows = [*(rows_apart(a, b) for a, b in _scaled_pairs(one, other)), *_losses(one, other)]
    in_buffers = torch.stack(rows).amax(dim=0) if rows else torch.zeros_like(in_parameters)
    # What is no number on one side alone is as far apart as can be.
    return torch.stack([in_parameters, in_buffers]).nan_to_num(nan=torch.inf)


def _scaled_pairs(one: Reached, other: Reached) -> Iterator[tuple[Scaled, Scaled]]:
    for buffer, blocks in one.state.items():
        yield from ((block, other.state[buffer][name]) for name, block in blocks.items())
    if one.gradient is not None and other.gradient is not None:
        yield from ((one.gradient.blocks[name], block) for name, block in other.gradient.blocks.items())


def _losses(one: Reached, other: Reached) -> list[Tensor]:
    """How far their losses are apart, (R,), where both know theirs."""
    return [] if one.gradient is None or other.gradient is None else [losses_apart(one.gradient, other.gradient)]


def _largest(blocks: Mapping[str, Tensor]) -> Tensor:
    found = [largest_size(block, (-2, -1)).flatten(start_dim=-3) for block in blocks.values()]
    return found[0] if len(found) == 1 else torch.stack(found).amax(dim=0)


def _uncertainty(plain: OneStep, setup: Setup, here: Reached, there: Reached, t: int, decomposes: bool) -> Tensor:
    """How far changes of the order of round-off move the plain step, (2, R) as :func:`_apart`."""
    generator = torch.Generator().manual_seed(0)
    gradient: Any = here.gradient or setup.here(here, t).evaluation
    found = []
    for _ in range(DIRECTIONS):
        change = direction(setup.objective, here.parameters, generator)
        noise = {name: noise_like(block.mantissa, generator) for name, block in gradient.blocks.items()}
        for side in (-1, 1):
            moved = {name: block + side * change[name] for name, block in here.parameters.items()}
            began = here._replace(parameters=moved, gradient=None)
            found.append(_apart(plain(began, t), there, began, here))
            blocks = {name: _nudged(block, side * noise[name], decomposes) for name, block in gradient.blocks.items()}
            buffers = here.state
            if decomposes:
                buffers = {key: {n: _nudged(b, side * noise[n], True) for n, b in of.items()} for key, of in buffers.items()}
            nudged = here._replace(state=buffers, gradient=replace(gradient, blocks=blocks))
            in_parameters, in_buffers = _apart(plain(nudged, t), there, here, here)
            # Buffers that were changed themselves are apart by that much, which says nothing.
            found.append(torch.stack([in_parameters, torch.zeros_like(in_buffers) if decomposes else in_buffers]))
    return torch.stack(found).amax(dim=0)


def _nudged(block: Scaled, noise: Tensor, whole: bool) -> Scaled:
    """A tensor changed by NUDGE eps of its largest entry, or of the largest of every row."""
    row = block.log_abs().amax(dim=-1, keepdim=True)
    top = block.top() if whole else torch.where(torch.isfinite(row), row, torch.zeros_like(row))
    counts = torch.isfinite(row) if not whole else torch.isfinite(row).any(dim=-2, keepdim=True)
    return Scaled(block.relative_to(top) + NUDGE * torch.finfo(noise.dtype).eps * noise * counts, top)
