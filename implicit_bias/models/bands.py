"""Sums over samples whose weights no double spans: weights are taken in bands, and only those bands that an entry needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from implicit_bias.core.data import Parameters
from implicit_bias.core.scaled import Scaled, combine, rescaled

# Weights of one band differ by at most e^BAND.
BAND = {torch.float64: 450.0, torch.float32: 50.0}
# What is below e^-SETTLED of an entry, times the largest sum of Jacobians, changes no bit of it: e^-37 would be half a unit in
# the last place, the rest is for samples that cancel in that sum.
SETTLED = 100.0
# Up to so many bands are all taken: to find out which matter would cost as much.
FEW = 2
GOLDEN = (math.sqrt(5) - 1) / 2

#: The vector-Jacobian product sum_ic w_ic J_ic of weights (R, pairs, n), of which the sums are made.
Pull = Callable[[Tensor], Parameters]


def sum_in_bands(log_weights: Tensor, log_unit: float, pull: Pull) -> dict[str, Scaled]:
    """sum_ic exp(log_weights_ic + log_unit) J_ic, one scale an entry.

    Bands are taken from the heaviest on. A range of them is left out where it changes no bit: no entry that its samples feed
    is so small that they would count. What feeds an entry is found by one product with weights of moderate size, and ranges
    that count are halved. The number of products is thus about that of bands that count times the logarithm of all, however
    far apart the weights are: where gaps are of size 1e9 each sample is a band of its own.

    Args:
        log_weights: (R, pairs, n); -inf does not count.
        log_unit: Added to every logarithm.
        pull: Vector-Jacobian products; called several times.

    Returns:
        The sums, a scaled tensor (R, p, q) with a scale an entry for every block that ``pull`` gives.
    """
    bands = _Bands.of(log_weights, log_unit)
    total: dict[str, Scaled] = {}
    ranges = [(0, bands.count)]
    while ranges:
        first, last = ranges.pop()
        if total and bands.count > FEW and not _count(bands, first, last, total, pull):
            # As if they had been added: each sum carries its size in its scale.
            total = {name: rescaled(block.mantissa, block.log_scale) for name, block in total.items()}
        elif last - first > 1:
            # The heaviest alone: it settles most entries, and there is nothing yet that the others could be compared with.
            middle = (first + last) // 2 if first else 1
            ranges += [(middle, last), (first, middle)]
        else:
            total = dict(_added(bands, first, total, pull))
    return total


@dataclass(frozen=True)
class _Bands:
    """Weights by bands. The j-th band of one run need not be that of another: runs share a product, however different their
    depths are.

    Attributes:
        log_weights: (R, pairs, n).
        depth: How many widths each weight is below the largest of its run, rounded down; not finite where it does not count.
        rank: The place of its depth among those of the run.
        top: The largest log weight of each run, (R, 1, 1).
        log_unit: Added to every logarithm.
        count: Bands of the run that has most.
    """

    log_weights: Tensor
    depth: Tensor
    rank: Tensor
    top: Tensor
    log_unit: float
    count: int

    @staticmethod
    def of(log_weights: Tensor, log_unit: float) -> _Bands:
        top = log_weights.amax(dim=(-2, -1), keepdim=True)
        depth = ((top - log_weights) / BAND[log_weights.dtype]).floor()
        rank = _dense_rank(depth)
        counted = rank[depth.isfinite()]
        count = int(counted.amax()) + 1 if counted.numel() else 1
        return _Bands(log_weights, depth, rank, top, log_unit, count)

    def inside(self, first: int, last: int) -> Tensor:
        """Which weights are in bands ``first`` to ``last`` - 1."""
        return (self.rank >= first) & (self.rank < last) & self.depth.isfinite()

    def log_size(self, inside: Tensor) -> Tensor:
        """The logarithm of what weights of these, the largest of them a band's top, are in units of, (R, 1, 1)."""
        band = torch.where(inside, self.depth, math.inf).amin(dim=(-2, -1), keepdim=True)
        return self.top - torch.where(band.isfinite(), band, torch.zeros_like(band)) * BAND[self.log_weights.dtype]


def _added(bands: _Bands, j: int, total: dict[str, Scaled], pull: Pull) -> Iterator[tuple[str, Scaled]]:
    """The sums with the j-th band."""
    inside = bands.inside(j, j + 1)
    unit = bands.log_size(inside)
    weights = torch.where(inside, (bands.log_weights - unit).exp(), torch.zeros_like(bands.log_weights))
    for name, part in pull(weights).items():
        scaled = Scaled(part, torch.where(part == 0, -math.inf, unit + bands.log_unit))
        yield name, combine(total[name], scaled, 1.0, 1.0) if name in total else scaled


def _count(bands: _Bands, first: int, last: int, total: dict[str, Scaled], pull: Pull) -> bool:
    """Whether bands ``first`` to ``last`` - 1 may change a bit of the sums."""
    inside = bands.inside(first, last)
    fed = pull(torch.where(inside, _generic(inside), 0.0))
    largest = torch.stack([block.abs().amax(dim=(-2, -1), keepdim=True) for block in fed.values()]).amax(dim=0)
    needed = bands.log_size(inside) + bands.log_unit + largest.log().clamp(min=0.0) + SETTLED
    return any(bool(((fed[name] != 0) & (block.log_abs() < needed)).any()) for name, block in total.items())


def _generic(like: Tensor) -> Tensor:
    """Weights between 1/2 and 1 (pairs, n) with which no sum of different samples is zero by accident."""
    places = torch.arange(like.shape[-2] * like.shape[-1], dtype=torch.float64, device=like.device).reshape(like.shape[-2:])
    return (1 + places.mul(GOLDEN).frac()) / 2


def _dense_rank(values: Tensor) -> Tensor:
    """0 for the smallest values of each run (R, pairs, n), 1 for the next larger ones, and so on."""
    ordered, places = values.flatten(start_dim=1).sort(dim=-1)
    rises = torch.nn.functional.pad(ordered[:, 1:] != ordered[:, :-1], (1, 0)).long().cumsum(dim=-1)
    return torch.empty_like(places).scatter_(1, places, rises).reshape(values.shape)
