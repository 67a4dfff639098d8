"""Mini-batches: which samples each update is made from, a pure function of the run's seed and the update's number.

Nothing is remembered from update to update: a run has the same batches alone, in a batch of runs, and gone on with at any step.
With n samples, batches of b, t from 0 here and e the epoch, from 0, of n // b updates (e = t // (n // b)):

- ``reshuffle``: consecutive parts of ``numpy.random.default_rng([seed, e]).permutation(n)``, its last n mod b left out.
- ``replace``: the rows of ``numpy.random.default_rng([seed, e]).integers(n, size=(n // b, b))``.
- ``cyclic``: the samples t b, ..., t b + b - 1 modulo n, whatever the seed.

Within a batch the samples stand in ascending order, so that one of all samples is the full batch, to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Order = Literal["reshuffle", "cyclic", "replace"]


@dataclass(frozen=True)
class MiniBatches:
    """The batches of R runs on n samples.

    Attributes:
        size: b, in 1..n.
        order: How the samples are visited.
        seeds: One a run, (R,), int64.
        samples: n.
    """

    size: int
    order: Order
    seeds: Tensor
    samples: int
    #: The batches of the epoch that was asked for last, by its number.
    _latest: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def cadence(self) -> int:
        """After how many updates loss and gradient of all samples are evaluated: ceil(n / b), about an epoch."""
        return -(-self.samples // self.size)

    def of(self, t: int) -> Tensor:
        """The samples of one update, ascending: (b,) where all runs have the same, else (R, b); int64.

        Args:
            t: The update, from 1.
        """
        rows = self.table(t - 1, t).squeeze(1)
        return rows[0] if len(rows) == 1 else rows

    def table(self, first: int, last: int) -> Tensor:
        """The samples of the updates ``first`` + 1 to ``last``, ascending: (R, last - first, b), int64.

        One row stands for all runs, (1, last - first, b), where they have the same batches: one seed, or the cyclic order.

        Args:
            first: Updates made before, from 0.
            last: The last update, > ``first``.
        """
        if self.order == "cyclic":
            return torch.from_numpy(cyclic(self.samples, self.size, first, last)).unsqueeze(0)
        a_epoch = self.samples // self.size
        parts = []
        for epoch in range(first // a_epoch, (last - 1) // a_epoch + 1):
            begin = epoch * a_epoch
            parts.append(self._epoch(epoch)[:, max(first - begin, 0) : last - begin])
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _epoch(self, epoch: int) -> Tensor:
        """All batches of an epoch, (R or 1, n // b, b)."""
        if epoch not in self._latest:
            draw = reshuffled if self.order == "reshuffle" else replaced
            seeds, places = torch.unique(self.seeds, return_inverse=True)
            drawn = np.stack([draw(self.samples, self.size, seed, epoch) for seed in seeds.tolist()])
            self._latest.clear()
            self._latest[epoch] = torch.from_numpy(drawn) if len(seeds) == 1 else torch.from_numpy(drawn)[places.cpu()]
        return self._latest[epoch]


def mini_batches(size: int | None, order: Order, seeds: Tensor, samples: int) -> MiniBatches | None:
    """The batches of runs; None where every one is of all samples, which is the full batch.

    Args:
        size: b; None for all samples.
        order: How they are visited.
        seeds: One a run, (R,), int64.
        samples: n.

    Raises:
        ValueError: b is not in 1..n.
    """
    if size is None or (size == samples and order != "replace"):
        return None
    if not 1 <= size <= samples:
        raise ValueError(f"batches of {size} of {samples} samples; must be of 1 to {samples}")
    return MiniBatches(size, order, seeds, samples)


def reshuffled(n: int, b: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The batches of an epoch without replacement, (n // b, b), each ascending.

    Args:
        n: Samples.
        b: Of a batch.
        seed: The run's.
        epoch: From 0.
    """
    drawn: NDArray[np.int64] = np.random.default_rng([seed, epoch]).permutation(n)[: n // b * b].reshape(-1, b)
    return np.sort(drawn, axis=1)


def replaced(n: int, b: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The batches of n // b updates with replacement, (n // b, b), each ascending; a sample may be in one twice.

    Args:
        n: Samples.
        b: Of a batch.
        seed: The run's.
        epoch: From 0.
    """
    drawn: NDArray[np.int64] = np.random.default_rng([seed, epoch]).integers(n, size=(n // b, b))
    return np.sort(drawn, axis=1)


def cyclic(n: int, b: int, first: int, last: int) -> NDArray[np.int64]:
    """The batches of the updates ``first`` + 1 to ``last`` in the order of the samples, (last - first, b), each ascending.

    Args:
        n: Samples.
        b: Of a batch.
        first: Updates made before.
        last: The last update.
    """
    begins = np.arange(first, last, dtype=np.int64)[:, None] * b
    return np.sort((begins + np.arange(b, dtype=np.int64)) % n, axis=1)
