"""Whether what records take from a fast stepper is what the objective, and the norms' own methods, give at the same parameters.

After the last update that is made both ways (:mod:`implicit_bias.engine.steppers.verification`), at the stepper's own parameters:
loss and gradient of all samples, also where updates are of mini-batches, the samples' weights, C = -grad L / sum w, the average
of C that certificates are made from, the smallest gap, the share of positive ones; and the singular values and sizes of entries
that norms are computed by, and of networks the sizes, inner products and cosines of blocks, also where losses are watched and all
else is PyTorch's. They agree to 1e-11 of the largest entry in every row, or to ten times what changes of the order of
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
from implicit_bias.measures.margins import accuracy_and_margin, cosine
from implicit_bias.models import Gradient, Parameters
from implicit_bias.models.gradient import FAR, Found, largest_entry
from implicit_bias.norms.singular import singular_values
from implicit_bias.norms.sizes import VALUES, Routines

#: By name, how far two records are apart, (R,), and how far they may be.
Compared = Iterator[tuple[str, Tensor, Tensor]]
#: What is compared row by row, by name: tensors (R, p, q) of any size, or plain ones.
Numbers = list[tuple[str, Scaled | Tensor]]


def wrong_record(
    setup: Setup, before: Reached, ours: Reached, routines: Routines | None, t: int, decomposed: bool = True
) -> str | None:
    """What of a record after an update is not what it should be; None where all is.

    Runs whose loss or gradient is no finite number are left out.

    Args:
        setup: The batch.
        before: Where the update was made from.
        ours: Where it has led, with what records would be made of there.
        routines: What they compute norms by; None: by the norms' own methods.
        t: The update.
        decomposed: Whether records may ask for singular values.
    """
    parameters, looked = ours.parameters, ours.looked
    compared = [] if routines is None else [*_sizes(routines, parameters, decomposed)]
    if routines is not None:
        compared += [*_of_blocks(routines, before.parameters, ours)]
    finite = torch.ones_like(setup.like, dtype=torch.bool)
    if looked is not None and setup.problem.model.linear:
        plain = setup.objective.gradient(parameters)
        finite = plain.log_loss.isfinite() & plain.largest_entry.isfinite()
        compared += [*_gradients(setup, before, parameters, looked, plain), *_gaps(setup, parameters, looked.gradient)]
    elif looked is not None and looked.gradient.found is not None:
        plain = looked.gradient.found.evaluate()
        finite = plain.log_loss.isfinite() & plain.largest_entry.isfinite()
        compared += [*_of_network(parameters, looked.gradient, looked.gradient.found, plain)]
    if not compared:
        return None
    named, apart, allowed = (list(side) for side in zip(*compared, strict=True))
    wrong = ~(torch.stack(apart) <= torch.stack(allowed)) & finite
    for what, of_runs, by in zip(named, wrong, apart, strict=True) if bool(wrong.any()) else ():
        if bool(of_runs.any()):
            run = int(of_runs.nonzero()[0])
            return f"{what} of run {run + 1} of {len(of_runs)} after step {t} is off by {float(by[run]):.1e}"
    return None


def _of_network(parameters: Parameters, gradient: Gradient, found: Found, plain: Gradient) -> Compared:
    """What is known beside the gradient of a network, which is compared with the plain one as the update is: ``plain`` is what
    PyTorch makes of the same gradient, and of the scores that it was made from."""
    eps = torch.finfo(found.q.dtype).eps
    known = NUDGE * eps + ROUNDING * eps * plain.log_unit.abs().squeeze(-1)
    yield "log_loss", (found.log_loss - plain.log_loss).abs(), NUDGE * eps * (1 + plain.log_loss.abs())
    yield "the samples' weight", (gradient.total - plain.total).abs().amax(dim=-1), NUDGE * eps * plain.total.amax(dim=-1)
    assert plain.largest is not None
    largest = plain.largest()
    assert largest is not None
    share, q = accuracy_and_margin(largest)
    yield "the smallest gap", (found.q - q).abs(), torch.zeros_like(q)
    yield "accuracy", (found.accuracy - share).abs(), torch.full_like(q, eps)
    c, ours = plain.per_weight(), found.per_weight
    off = torch.stack([(ours[name] - block).abs().amax(dim=(-2, -1)) for name, block in c.items()]).amax(dim=0)
    yield "the gradient over the weights' sum", off, known * largest_entry(c)
    if found.sized is None:
        return
    of_w, of_c = (found.sized.parameters, found.parameter), (found.sized.per_weight, found.largest)
    for blocks, (sized, top), of in ((parameters, of_w, "parameter"), (ours, of_c, "entry")):
        yield from _sizes_apart(blocks, sized, top, of)
    inner = torch.stack([(block * ours[name]).sum(dim=(-2, -1)) for name, block in parameters.items()])
    lengths = found.sized.parameters[2, :-1] * found.sized.per_weight[2, :-1]
    yield "the alignment", ((found.sized.inner - inner).abs() - NUDGE * eps * lengths).amax(dim=0), torch.zeros_like(q)


def _of_blocks(routines: Routines, earlier: Parameters, ours: Reached) -> Compared:
    """What is computed by block, of parameters and gradient, and of earlier parameters in single precision; of a run of which
    PyTorch's is no finite number, nothing."""
    blocks = ours.parameters
    numbers = sum(block[0].numel() for block in blocks.values())
    allowed = (NUDGE + numbers) * torch.finfo(next(iter(blocks.values())).dtype).eps
    own = _sizes_of_blocks(blocks)
    if routines.block_sizes is not None:
        found = routines.block_sizes(blocks)
        for what, apart, by in _sizes_apart(blocks, found, found[0, -1], "entry of W"):
            yield what, apart.where(own.isfinite().flatten(end_dim=1).all(dim=0), 0.0), by
    if routines.block_products is not None and ours.gradient is not None:
        c = ours.gradient.per_weight()
        inner = torch.stack([(block * c[name]).sum(dim=(-2, -1)) for name, block in blocks.items()])
        lengths = own[2, :-1] * _sizes_of_blocks(c)[2, :-1]
        known = allowed * lengths + torch.finfo(own.dtype).tiny
        apart = ((routines.block_products(blocks, c) - inner).abs() - known).amax(dim=0)
        yield "an inner product", apart.where((inner + lengths).isfinite().all(dim=0), 0.0), torch.zeros_like(apart)
    if routines.block_cosines is not None:
        single = {name: block.float() for name, block in earlier.items()}
        angle = cosine({name: block.to(blocks[name]) for name, block in single.items()}, blocks)
        apart = (routines.block_cosines(single, blocks, own[0, -1].contiguous()) - angle).abs()
        yield "the cosine with an earlier record", apart.where(angle.isfinite(), 0.0), torch.full_like(apart, allowed)


def _sizes_apart(blocks: Parameters, sized: Tensor, largest: Tensor, of: str) -> Compared:
    """Of sizes (3, B + 1, R), and of the largest entry (R,), which is known twice."""
    own = _sizes_of_blocks(blocks)
    numbers = sum(block[0].numel() for block in blocks.values())
    apart = (sized - own).abs() / own.masked_fill(own == 0, 1.0)
    yield f"the largest {of}", torch.maximum(apart[0].amax(dim=0), (largest - own[0, -1]).abs()), torch.zeros_like(largest)
    # A sum may be off by an ulp a term.
    yield f"the {of} sizes", apart[1:].amax(dim=(0, 1)), torch.full_like(largest, (NUDGE + numbers) * torch.finfo(own.dtype).eps)


def _sizes_of_blocks(blocks: Parameters) -> Tensor:
    """As :class:`implicit_bias.models.gradient.Sized`, (3, B + 1, R)."""
    vectors = [block.flatten(start_dim=1).abs() for block in blocks.values()]
    tops = torch.stack([vector.amax(dim=1) for vector in vectors])
    unit = tops.masked_fill(tops == 0, 1.0)
    sums = torch.stack([vector.sum(dim=1) for vector in vectors])
    lengths = unit * torch.stack([torch.linalg.vector_norm(v / u[:, None], dim=1) for v, u in zip(vectors, unit, strict=True)])
    largest = tops.amax(dim=0, keepdim=True)
    length = largest * torch.linalg.vector_norm(lengths / largest.masked_fill(largest == 0, 1.0), dim=0, keepdim=True)
    return torch.stack(
        [torch.cat([tops, largest]), torch.cat([sums, sums.sum(dim=0, keepdim=True)]), torch.cat([lengths, length])]
    )


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


def _sizes(routines: Routines, parameters: Parameters, decomposed: bool) -> Compared:
    info = torch.finfo(next(iter(parameters.values())).dtype)
    for block in parameters.values():
        if not decomposed or block[0].numel() > routines.largest_matrix:
            continue  # nobody asks for them, or they are LAPACK's
        ours, own = routines.singular_values(block), singular_values(block)
        yield "a singular value", (ours - own).abs().amax(dim=-1), NUDGE * info.eps * own[..., 0] + info.tiny
    if routines.block_sizes is not None:
        return  # by which records have them
    entries = torch.cat([block.flatten(start_dim=1) for block in parameters.values()], dim=1)
    for norm, size in zip(VALUES, routines.entry_sizes(entries), strict=True):
        own = norm().value(entries.unsqueeze(-2))
        # A sum may be off by an ulp a term.
        yield f"the {norm.name} norm", (size - own).abs(), (NUDGE + entries.shape[1]) * info.eps * own + info.tiny
