"""Whether what records take from a fast stepper is what the objective, and the norms' own methods, give at the same parameters.

After the last update that is made both ways (:mod:`implicit_bias.engine.steppers.verification`), at the stepper's own parameters:
loss and gradient of all samples, also where updates are of mini-batches, the samples' weights, C = -grad L / sum w, the average
of C that certificates are made from, the smallest gap, the share of positive ones; and the singular values and sizes of entries
that norms are computed by. They agree to 1e-11 of the largest entry in every row, or to ten times what changes of the order of
round-off make of it; gaps and sizes to what rounding may have changed, some 1e-13.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from implicit_bias.core.scaled import Scaled
from implicit_bias.engine.steppers.base import Looked, Reached, Setup
from implicit_bias.engine.steppers.closeness import DIRECTIONS, NUDGE, ROUNDING, SLACK, TOLERANCE, direction, loss_of, rows_apart
from implicit_bias.measures.margins import accuracy_and_margin
from implicit_bias.models import Gradient, Parameters
from implicit_bias.models.gradient import FAR, largest_entry
from implicit_bias.norms.singular import singular_values
from implicit_bias.norms.sizes import VALUES, Routines

#: By name, how far two records are apart, (R,), and how far they may be.
Compared = Iterator[tuple[str, Tensor, Tensor]]
#: What is compared row by row, by name: tensors (R, p, q) of any size, or plain ones.
Numbers = list[tuple[str, Scaled | Tensor]]


def wrong_record(setup: Setup, before: Reached, ours: Reached, routines: Routines | None, t: int) -> str | None:
    """What of a record after an update is not what it should be; None where all is.

    Runs whose loss or gradient is no finite number are left out.

    Args:
        setup: The batch.
        before: Where the update was made from.
        ours: Where it has led, with what records would be made of there.
        routines: What they compute norms by; None: by the norms' own methods.
        t: The update.
    """
    parameters, looked = ours.parameters, ours.looked
    compared = [] if routines is None else [*_sizes(routines, parameters)]
    finite = torch.ones_like(setup.like, dtype=torch.bool)
    if looked is not None:
        plain = setup.objective.gradient(parameters)
        finite = plain.log_loss.isfinite() & plain.largest_entry.isfinite()
        compared += [*_gradients(setup, before, parameters, looked, plain), *_gaps(setup, parameters, looked.gradient)]
    for what, apart, allowed in compared:
        wrong = ~(apart <= allowed) & finite
        if bool(wrong.any()):
            run = int(wrong.nonzero()[0])
            return f"{what} of run {run + 1} of {len(wrong)} after step {t} is off by {float(apart[run]):.1e}"
    return None


def _gradients(setup: Setup, start: Reached, parameters: Parameters, looked: Looked, plain: Gradient) -> Compared:
    """Loss, gradient and weights; relative to the largest entry in every row."""
    before, eps = start.parameters, torch.finfo(setup.like.dtype).eps
    since = start.gradient or setup.objective.gradient(before)
    expected = _numbers(plain, _averaged(looked, since, plain))
    ours = _numbers(looked.gradient, looked.average)
    tolerance = TOLERANCE * eps + ROUNDING * eps * torch.maximum(_rounded_log(plain), _rounded_log(since))
    apart = _apart(ours, expected)
    allowed = tolerance.expand_as(apart)
    if not bool((apart <= allowed).all()):
        allowed = allowed + SLACK * _moved(setup, before, parameters, looked, expected)
    yield from zip([what for what, _ in expected], apart, allowed, strict=True)


def _rounded_log(gradient: Gradient) -> Tensor:
    """The size of the logarithms whose rounding -grad L / sum w has, (R,): of the unit, which is divided by where it is near, and
    of rows or entries with scales of their own, wherever they are."""
    unit, samples = gradient.log_unit.abs().squeeze(-1), gradient.total.shape[-1]
    common = gradient.log_unit.unsqueeze(-1) - math.log(samples)
    own = torch.stack([(block.log_scale != common).flatten(start_dim=1).any(dim=-1) for block in gradient.blocks.values()])
    return torch.where(own.any(dim=0), unit, unit.clamp(max=FAR))


def _numbers(gradient: Gradient, average: Parameters) -> Numbers:
    found: Numbers = [("the gradient", block) for block in gradient.blocks.values()]
    found.append(("log_loss", loss_of(gradient)))
    found.append(("the samples' weight", Scaled(gradient.total.unsqueeze(-2), gradient.log_unit.unsqueeze(-1))))
    for what, blocks in (("the gradient over the weights' sum", gradient.per_weight()), ("the certificates' average", average)):
        found += [(what, block) for block in blocks.values()]
    return found


def _averaged(looked: Looked, before: Gradient, there: Gradient) -> Parameters:
    """What the average is to be: of where the update was made from and where it has led."""
    first, last = looked.shares
    old, new = before.per_weight(), there.per_weight()
    return {name: (1 - last) * first * old[name] + last * block for name, block in new.items()}


def _apart(ours: Numbers, theirs: Numbers) -> Tensor:
    """(numbers, R)."""
    apart = torch.stack([_rows_apart(a, b) for (_, a), (_, b) in zip(ours, theirs, strict=True)])
    return apart.nan_to_num(nan=torch.inf, posinf=torch.inf)


def _rows_apart(one: Scaled | Tensor, other: Scaled | Tensor) -> Tensor:
    if isinstance(one, Scaled) and isinstance(other, Scaled):
        return rows_apart(one, other)
    assert isinstance(one, Tensor) and isinstance(other, Tensor)
    # Rows that are next to nothing, beside the largest or beside one, have lost digits, or are zero on one side.
    info, top = torch.finfo(other.dtype), other.abs().amax(dim=-1, keepdim=True)
    least = info.tiny / info.eps * top.amax(dim=-2, keepdim=True).clamp(min=1)
    return ((one - other).abs() / torch.maximum(top, least)).amax(dim=(-2, -1))


def _moved(setup: Setup, before: Parameters, parameters: Parameters, looked: Looked, there: Numbers) -> Tensor:
    """How far changes of the order of round-off move the numbers, (numbers, R)."""
    generator, objective = torch.Generator().manual_seed(0), setup.objective
    found = []
    for _ in range(DIRECTIONS):
        by = [direction(objective, point, generator) for point in (before, parameters)]
        for side in (-1, 1):
            moved = [
                objective.gradient({name: block + side * change[name] for name, block in point.items()})
                for point, change in zip((before, parameters), by, strict=True)
            ]
            found.append(_apart(_numbers(moved[1], _averaged(looked, *moved)), there))
    return torch.stack(found).amax(dim=0)


def _gaps(setup: Setup, parameters: Parameters, gradient: Gradient) -> Compared:
    """The smallest gap, the share of positive ones, and the largest entry, where they are known beside a gradient."""
    found = gradient.found
    if found is None:
        return
    eps = torch.finfo(setup.like.dtype).eps
    largest = setup.objective.negative_gaps(parameters).amax(dim=-2)
    sizes = setup.problem.model.as_matrix(parameters).abs() @ setup.problem.data.x.abs().mT
    known = NUDGE * eps * sizes.amax(dim=(-2, -1)) + torch.finfo(sizes.dtype).tiny
    _, q = accuracy_and_margin(largest)
    yield "the smallest gap", (found.q - q).abs(), known
    # A gap that is zero to round-off may count as positive or not.
    least, most = ((largest < side * known.unsqueeze(-1)).to(q).mean(dim=-1) for side in (-1, 1))
    yield "accuracy", torch.maximum(least - found.accuracy, found.accuracy - most), torch.full_like(q, eps)
    top = largest_entry(gradient.per_weight())
    yield "the largest entry", (found.largest - top).abs(), NUDGE * eps * top
    yield "the largest parameter", (found.parameter - largest_entry(parameters)).abs(), torch.zeros_like(q)


def _sizes(routines: Routines, parameters: Parameters) -> Compared:
    info = torch.finfo(next(iter(parameters.values())).dtype)
    for block in parameters.values():
        ours, own = routines.singular_values(block), singular_values(block)
        yield "a singular value", (ours - own).abs().amax(dim=-1), NUDGE * info.eps * own[..., 0] + info.tiny
    entries = torch.cat([block.flatten(start_dim=1) for block in parameters.values()], dim=1)
    for norm, size in zip(VALUES, routines.entry_sizes(entries), strict=True):
        own = norm().value(entries.unsqueeze(-2))
        # A sum may be off by an ulp a term.
        yield f"the {norm.name} norm", (size - own).abs(), (NUDGE + entries.shape[1]) * info.eps * own + info.tiny
