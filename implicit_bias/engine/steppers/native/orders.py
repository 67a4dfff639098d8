"""The samples of mini-batches for linear.c, many updates at a time.

numpy takes some 20 us to draw the order of an epoch, mostly to seed its generator: longer than linear.c takes for the updates of
a small problem. orders.h draws the same in a hundredth of the time, and is compared with numpy before it is used; where the two
differ, as another version of numpy may, numpy draws.
"""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from implicit_bias.engine.mini_batches import MiniBatches, replaced, reshuffled

#: The function of the library.
SYMBOL = "draw_epochs"
# What is compared with numpy: samples and batch sizes, seeds and epochs of one word and of two.
COMPARED_SIZES = ((1, 1), (2, 1), (12, 5), (100, 10))
COMPARED_SEEDS = ((0, 0), (1, 7), (2**32 + 1, 3), (5, 2**33))
# Samples are numbered by 32 bits.
MOST_SAMPLES = 2**31


def table(batch: MiniBatches, first: int, last: int, compiled: ctypes.CDLL) -> Tensor:
    """The samples of the updates ``first`` + 1 to ``last``, (R or 1, last - first, b), int32: those of :meth:`MiniBatches.table`.

    Args:
        batch: The batches of the runs.
        first: Updates made before.
        last: The last update, > ``first``.
        compiled: The library.
    """
    n, b, seeds = batch.samples, batch.size, batch.seeds
    if batch.order == "cyclic" or n >= MOST_SAMPLES or bool((seeds < 0).any()) or not as_numpy_draws(compiled):
        return batch.table(first, last).to(torch.int32)
    distinct, places = torch.unique(seeds, return_inverse=True)
    a_epoch = n // b
    epoch = first // a_epoch
    begin, epochs = epoch * a_epoch, (last - 1) // a_epoch + 1 - epoch
    drawn = [epochs_of(compiled, batch.order == "replace", n, b, seed, epoch, epochs) for seed in distinct.tolist()]
    rows = torch.from_numpy(np.stack(drawn)).view(len(drawn), -1, b)[:, first - begin : last - begin]
    return rows if len(drawn) == 1 else rows[places.cpu()]


def epochs_of(
    compiled: ctypes.CDLL, with_replacement: bool, n: int, b: int, seed: int, first: int, epochs: int
) -> NDArray[np.int32]:
    """The batches of so many epochs from ``first`` on, (epochs, n // b, b), by orders.h.

    Args:
        compiled: The library.
        with_replacement: The order: replace, or reshuffle.
        n: Samples.
        b: Of a batch.
        seed: The run's, >= 0.
        first: The first epoch, >= 0.
        epochs: How many.
    """
    out, scratch = np.empty((epochs, n // b, b), dtype=np.int32), np.empty(2 * n, dtype=np.int32)
    words = [ctypes.c_int64(number) for number in (n, b, with_replacement)]
    memory = [ctypes.c_void_p(array.ctypes.data) for array in (scratch, out)]
    compiled.draw_epochs(*words, ctypes.c_uint64(seed), ctypes.c_int64(first), ctypes.c_int64(epochs), *memory)
    return out


@cache
def as_numpy_draws(compiled: ctypes.CDLL) -> bool:
    """Whether orders.h draws what this numpy draws."""
    for n, b in COMPARED_SIZES:
        for with_replacement, draw in ((False, reshuffled), (True, replaced)):
            for seed, epoch in COMPARED_SEEDS:
                ours = epochs_of(compiled, with_replacement, n, b, seed, epoch, 2)
                if not all(np.array_equal(ours[place], draw(n, b, seed, epoch + place)) for place in range(2)):
                    return False
    return True
