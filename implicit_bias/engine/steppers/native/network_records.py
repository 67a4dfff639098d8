"""What a record needs of networks that are stepped in C: loss, gradient, gaps and sizes of every layer, by network.c."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import torch
from torch import Tensor

from implicit_bias.core.scaled import Scaled
from implicit_bias.engine.steppers.native import records
from implicit_bias.engine.steppers.native.network_structures import CLooked
from implicit_bias.models import Parameters
from implicit_bias.models.gradient import FAR, Found, Gradient, Sized
from implicit_bias.models.network import NetworkObjective
from implicit_bias.norms.sizes import Routines

#: Numbers of a run that come before those of its layers: the unit, log L, the share of positive gaps, the smallest gap.
OF_A_RUN = 4


class Seen:
    """Memory for what network.c sees of R runs with n samples and so many outputs.

    Args:
        shapes: (R, p, q) of every layer that is trained.
        outputs: k, or one.
        samples: n.
        order: All layers, in the order in which they are applied.

    Attributes:
        parameters: W of every layer that is trained, (R, p, q) each.
        fields: What network.c is given.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]], outputs: int, samples: int, order: Sequence[str]) -> None:
        runs, layers = next(iter(shapes.values()))[0], len(shapes)
        self._log_n = math.log(samples)
        # Each in memory of its own: who keeps one keeps no other.
        made = [{name: torch.empty(shape, dtype=torch.float64) for name, shape in shapes.items()} for _ in range(3)]
        self.parameters, self._gradient, self._per_weight = made
        self._scores = torch.empty(runs, outputs, samples, dtype=torch.float64)
        self._total = torch.empty(runs, samples, dtype=torch.float64)
        # A row for each number of a run: few operations make as few columns of them.
        sizes = 3 * (layers + 1)
        self._numbers = torch.empty(OF_A_RUN + layers + 2 * sizes, runs, dtype=torch.float64)
        at = [self._numbers.data_ptr() + 8 * runs * row for row in range(OF_A_RUN + layers + sizes + 1)]
        self.fields = CLooked(
            scores=self._scores.data_ptr(), total=self._total.data_ptr(), unit=at[0], log_loss=at[1], accuracy=at[2],
            margin=at[3], inner=at[OF_A_RUN], w_sizes=at[OF_A_RUN + layers], c_sizes=at[OF_A_RUN + layers + sizes],
        )  # fmt: skip
        for j, name in enumerate(order):
            if name in shapes:
                self.fields.w[j], self.fields.g[j], self.fields.c[j] = (blocks[name].data_ptr() for blocks in made)

    def gradient(self, objective: NetworkObjective, found: bool = True) -> Gradient:
        """Loss and gradient, once they have been written; what is of single samples is made of their scores if it is asked for.

        Args:
            objective: The batch's.
            found: Whether what else network.c has found is taken; else it is made of the scores, too.
        """
        layers, runs = len(self.parameters), len(self._total)
        unit, log_loss, accuracy, margin, *rest = self._numbers.unbind()
        scale = (unit - self._log_n).view(runs, 1, 1)
        blocks = {name: Scaled(block, scale) for name, block in self._gradient.items()}

        @cache
        def evaluate() -> Gradient:
            return objective.gradient_of(self._scores, blocks)

        if not found:
            return evaluate()
        of_layers, of_w, of_c = self._numbers[OF_A_RUN:].split([layers, 3 * (layers + 1), 3 * (layers + 1)])
        w_sizes, c_sizes = (sizes.view(3, layers + 1, runs) for sizes in (of_w, of_c))
        # The largest of all stands after those of the layers.
        parameter, largest = rest[2 * layers], rest[5 * layers + 3]
        sized = Sized(w_sizes, c_sizes, of_layers)
        known = Found(log_loss, self._per_weight, largest, accuracy, margin, parameter, evaluate, sized)
        return Gradient(
            blocks, self._total, unit.view(runs, 1), lambda: evaluate().log_losses(), lambda: _weights(evaluate()),
            lambda: _largest(evaluate()), known,
        )  # fmt: skip


def _weights(gradient: Gradient) -> Tensor:
    assert gradient.weights is not None
    return gradient.weights()


def _largest(gradient: Gradient) -> Tensor | None:
    assert gradient.largest is not None
    return gradient.largest()


def with_runs(gradient: Gradient, plain: Gradient, at: Parameters, places: Sequence[int], routines: Routines) -> Gradient:
    """A gradient that :class:`Seen` has given, with that of these runs in its place.

    Args:
        gradient: Of all runs; it is changed.
        plain: Of these, with log scales of entries.
        at: Their parameters.
        places: Which they are.
        routines: What the others' sizes were found by.
    """
    index, found = torch.tensor(list(places)), gradient.found
    # Far from zero, PyTorch's unit and that of the totals, which stay, round scores differently: -grad L / sum w needs one unit.
    unit = gradient.log_unit[index]
    moved = (unit - plain.log_unit).unsqueeze(-1)
    moved = torch.where((unit.abs() > FAR).unsqueeze(-1) & moved.isfinite(), moved, 0.0)
    for name, block in gradient.blocks.items():
        own, log_scale = plain.blocks[name], block.log_scale.expand_as(block.mantissa).clone()
        block.mantissa[index], log_scale[index] = own.mantissa, (own.log_scale + moved).expand_as(own.mantissa)
        gradient.blocks[name] = Scaled(block.mantissa, log_scale)
    if found is None or found.sized is None:
        return gradient
    assert routines.block_sizes is not None and routines.block_products is not None
    for name, of_runs in plain.per_weight().items():
        found.per_weight[name][index] = of_runs
    c = {name: of_all[index] for name, of_all in found.per_weight.items()}
    found.sized.per_weight[:, :, index] = routines.block_sizes(c)
    found.sized.inner[:, index] = routines.block_products(at, c)
    return gradient


def routines_by(compiled: ctypes.CDLL, threads: int = 1, pool: ThreadPoolExecutor | None = None) -> Routines:
    """What norms of several blocks are made of, too, by network.c; otherwise as :func:`records.routines_by`.

    Args:
        compiled: The library.
        threads: That share out what is much.
        pool: Has the others but for this one; None: there are none.
    """
    share = partial(records.shared_out, threads=threads, pool=pool)
    own = records.routines_by(compiled, threads, pool)
    return own._replace(
        block_sizes=partial(_block_sizes, compiled, share),
        block_products=partial(_block_products, compiled, share),
        block_cosines=partial(_block_cosines, compiled, share),
    )


def _block_sizes(compiled: ctypes.CDLL, share: records.Share, blocks: Mapping[str, Tensor]) -> Tensor:
    held, pointers, counts, runs = _laid_out(blocks)
    found = torch.empty(3, len(held) + 1, runs, dtype=torch.float64)

    def of_some(first: int, last: int) -> None:
        compiled.block_sizes(pointers, counts.data_ptr(), len(held), first, last, runs, found.data_ptr())

    share(of_some, runs, int(counts.sum()), records.LEAST_OF_ENTRIES)
    return found


def _block_products(compiled: ctypes.CDLL, share: records.Share, a: Parameters, b: Parameters) -> Tensor:
    (held, left, counts, runs), (others, right, _, _) = _laid_out(a), _laid_out({name: b[name] for name in a})
    found = torch.empty(len(held), runs, dtype=torch.float64)

    def of_some(first: int, last: int, _held: object = (held, others)) -> None:
        compiled.block_products(left, right, counts.data_ptr(), len(held), first, last, runs, found.data_ptr())

    share(of_some, runs, int(counts.sum()), records.LEAST_OF_ENTRIES)
    return found


def _block_cosines(compiled: ctypes.CDLL, share: records.Share, a: Parameters, b: Parameters, largest: Tensor) -> Tensor:
    (held, left, counts, runs), (others, right, _, _) = _laid_out(a), _laid_out({name: b[name] for name in a})
    tops, found = largest.contiguous(), torch.empty(runs, dtype=torch.float64)

    def of_some(first: int, last: int, _held: object = (held, others)) -> None:
        compiled.block_cosines(left, right, counts.data_ptr(), len(held), first, last, tops.data_ptr(), found.data_ptr())

    share(of_some, runs, int(counts.sum()), records.LEAST_OF_ENTRIES)
    return found


def _laid_out(blocks: Mapping[str, Tensor]) -> tuple[list[Tensor], ctypes.Array[ctypes.c_void_p], Tensor, int]:
    """Blocks (R, p, q) run by run, where they are, the numbers of a run in each, and R."""
    held = [block.contiguous() for block in blocks.values()]
    pointers = (ctypes.c_void_p * len(held))(*(block.data_ptr() for block in held))
    return held, pointers, torch.tensor([block[0].numel() for block in held]), len(held[0])
