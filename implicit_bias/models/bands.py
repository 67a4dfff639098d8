"""Sums over samples whose weights no double spans: weights are taken in bands, and only those bands that an entry needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
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
# What is below e^-REACH of the largest entry of its block is zero in units of that: e^-745 is the smallest double (float32:
# e^-104). SETTLED is for the bits of what is just above, the rest for averages in which the largest entries cancel.
REACH = {torch.float64: 1000.0, torch.float32: 300.0}
# Up to so many bands are all taken: to find out which count would cost as much.
FEW = 2
GOLDEN = (math.sqrt(5) - 1) / 2

#: The vector-Jacobian product sum_ic w_ic J_ic of weights (R, pairs, n), of which the sums are made.
Pull = Callable[[Tensor], Parameters]
#: The same of some runs (A,) and of each some samples (A, m), with weights (A, pairs, m).
PullSome = Callable[[Tensor, Tensor, Tensor], Parameters]


def sum_in_bands(
    log_weights: Tensor, log_unit: float, pull: Pull, pull_some: PullSome, in_one_unit: Collection[str] = ()
) -> dict[str, Scaled]:
    """sum_ic exp(log_weights_ic + log_unit) J_ic, one scale an entry.

    Bands are taken from the heaviest on. A range of them is left out where it changes no bit: no entry that its samples feed is
    so small that they would count. What feeds an entry is found by a product with weights of moderate size, of those samples and
    those runs alone that it is about, and ranges that count are halved. So there are few products of all samples, however far
    apart the weights are: where gaps are of size 1e9 each sample is a band of its own.

    Args:
        log_weights: (R, pairs, n); -inf does not count.
        log_unit: Added to every logarithm.
        pull: Vector-Jacobian products; called once for each band that counts.
        pull_some: Vector-Jacobian products of some samples, of which it is looked at what is not zero, and how large it is about.
        in_one_unit: Blocks that are only wanted in units of their largest entries, as plain numbers: bands that add less than
            e^-REACH of that to them do not count there, and smaller entries may be zero, or too small.

    Returns:
        The sums, a scaled tensor (R, p, q) with a scale an entry for every block that ``pull`` gives.
    """
    bands = _Bands.of(log_weights, log_unit)
    total = dict(_added(bands, 0, {}, pull))
    everyone = torch.ones(len(log_weights), dtype=torch.bool, device=log_weights.device)
    ranges = [(1, bands.count, everyone)] if bands.count > 1 else []
    if bands.count > FEW:
        # As if all had been added: each sum carries its size in its scale.
        total = {name: rescaled(block.mantissa, block.log_scale) for name, block in total.items()}
    while ranges:
        first, last, runs = ranges.pop()
        if bands.count > FEW:
            runs = _count(bands, bands.inside(first, last, runs), total, pull_some, in_one_unit)
        if not bool(runs.any()):
            continue
        if last - first > 1:
            middle = (first + last) // 2
            ranges += [(middle, last, runs), (first, middle, runs)]
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

    def inside(self, first: int, last: int, runs: Tensor | None = None) -> Tensor:
        """Which weights are in bands ``first`` to ``last`` - 1, of these runs, (R,); None: of all."""
        inside = (self.rank >= first) & (self.rank < last) & self.depth.isfinite()
        return inside if runs is None else inside & runs[:, None, None]

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


def _count(
    bands: _Bands, inside: Tensor, total: Mapping[str, Scaled], pull_some: PullSome, in_one_unit: Collection[str]
) -> Tensor:
    """In which runs the weights of these places may change a bit of the sums, (R,)."""
    counts = torch.zeros(len(inside), dtype=torch.bool, device=inside.device)
    used = inside.any(dim=1)
    runs = used.any(dim=1).nonzero().flatten()
    if not len(runs):
        return counts
    most = int(used.sum(dim=1).amax())
    samples = used[runs].byte().argsort(dim=1, descending=True, stable=True)[:, :most]
    weights = torch.where(inside[runs], _generic(inside).to(bands.log_weights), 0.0)
    weights = weights.gather(2, samples.unsqueeze(1).expand(-1, inside.shape[1], -1))
    fed = pull_some(runs, samples, weights)
    largest = torch.stack([block.abs().amax(dim=(-2, -1), keepdim=True) for block in fed.values()]).amax(dim=0)
    added = bands.log_size(inside)[runs] + bands.log_unit + largest.log().clamp(min=0.0)
    for name, block in total.items():
        sizes = block.log_abs()[runs]
        small = (fed[name] != 0) & (sizes < added + SETTLED)
        if name in in_one_unit:
            small &= added >= sizes.amax(dim=(-2, -1), keepdim=True) - REACH[added.dtype]
        counts[runs] |= small.flatten(start_dim=1).any(dim=1)
    return counts


def _generic(like: Tensor) -> Tensor:
    """Weights between 1/2 and 1 (pairs, n) with which no sum of different samples is zero by accident."""
    places = torch.arange(like.shape[-2] * like.shape[-1], dtype=torch.float64, device=like.device).reshape(like.shape[-2:])
    return (1 + places.mul(GOLDEN).frac()) / 2


def _dense_rank(values: Tensor) -> Tensor:
    """0 for the smallest values of each run (R, pairs, n), 1 for the next larger ones, and so on."""
    ordered, places = values.flatten(start_dim=1).sort(dim=-1)
    rises = torch.nn.functional.pad(ordered[:, 1:] != ordered[:, :-1], (1, 0)).long().cumsum(dim=-1)
    return torch.empty_like(places).scatter_(1, places, rises).reshape(values.shape)
