"""Running certificates of a linear model: proven upper bounds on its maximum margin, from the weights of its gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from implicit_bias.measures.averages import AVERAGE_POWER, StepAverage
from implicit_bias.measures.probe import Columns, Pile, Probe, Record
from implicit_bias.models import Data, Gradient, Model
from implicit_bias.norms import Norm, ParameterNorm
from implicit_bias.norms.sizes import Sizes

# Beside the terms of its sum, an entry of a certificate may be off by what gradients take for exactly zero, in units of eps.
ZEROED = 32
# The names under which a block of the average, and how many gradients it has, wait for the norms.
BLOCK, COUNT = "average.", "count"


def rounding_of(model: Model, data: Data, norms: Mapping[str, Norm]) -> dict[str, Tensor]:
    """What one rounding may add to a bound in each norm, in units of eps: N_* of the largest pair times the terms of the sum over
    pairs; by label, (R,) or (1,).

    Args:
        model: A linear model.
        data: The training sets.
        norms: The measured norms by label.

    Returns:
        The size of a rounding error by label, (R,) or (1,), in units of eps.
    """
    terms = data.x.shape[1] + data.num_classes + ZEROED
    return {label: terms * _largest_pair(model, data, norm) for label, norm in norms.items()}


def _largest_pair(model: Model, data: Data, norm: Norm) -> Tensor:
    """max_i N_*((e_y - e_c) x_i^T), (R,) or (1,), where unitarily invariant norms need no decomposition: pairs have rank one."""
    shape = data.num_classes, data.x.shape[-1]
    of_matrix = model.matrix_norm(norm, shape)
    if model.robust or not of_matrix.unitarily_invariant:
        return model.unit_step(data, norm)
    unit = data.x.new_zeros(1, 2, shape[1])
    unit[0, 0, 0] = 1.0
    return of_matrix.dual(unit) * (math.sqrt(2) * _longest(data.x))


def _longest(x: Tensor) -> Tensor:
    """max_i ||x_i||_2 of (R, n, d), (R,), whatever the size of the entries: squares are taken in units of a power of two, which
    changes no bit of a sum of squares that doubles hold."""
    top = x.abs().amax(dim=(-2, -1))
    power = top / (2 * top.frexp().mantissa)
    power = torch.where(top > 0, power, torch.ones_like(top))
    longest: Tensor = torch.linalg.vector_norm(x / power[:, None, None], dim=-1).amax(dim=-1) * power
    return longest


@dataclass
class Certificate(Probe):
    """Proven upper bounds on the maximum margin of a linear model, one running minimum a norm.

    For weights w >= 0 summing to one, gamma*_N <= N_*(sum w_ic (e_y - e_c) x_i^T) = N_*(C): by duality, for any W with N(W) <= 1,
    min gap <= sum w_ic m_ic = <W, C> <= N_*(C). The loss gradient supplies C at every step for free; so does any average of C.
    With it the KKT ratio q / (N(theta) N_*(C)) = margin / upper_bound of the best weights met so far, empty where q <= 0.

    Attributes:
        rounding: As :func:`rounding_of` gives it.
        every_step: Whether gradients of steps go into the average; else those of records alone, which are then evaluated in a
            higher precision than the steps.
        average: Of the certificates' matrices C.
        best: The lowest bound so far by norm, (R,) each.
    """

    name: ClassVar[str] = "certificate"
    columns: ClassVar[tuple[str, ...]] = ("upper_bound", "kkt_ratio")
    waits: ClassVar[bool] = True

    rounding: Mapping[str, Tensor] = field(default_factory=dict)
    every_step: bool = True
    average: StepAverage = field(default_factory=StepAverage)
    best: dict[str, Tensor] = field(default_factory=dict)
    #: Of the average under norms, at the last record, and at those that are measured together.
    average_sizes: Sizes = field(default_factory=lambda: Sizes({}))
    gathered_sizes: Sizes = field(default_factory=lambda: Sizes({}))

    @property
    def averaged(self) -> StepAverage | None:  # type: ignore[override]
        return self.average if self.every_step else None

    def wants(self, t: int) -> bool:
        return self.every_step and self.average.wants(t)

    def collect(self, t: int, gradient: Gradient) -> None:
        self.average.add(gradient.per_weight())

    def measure(self, record: Record) -> Columns:
        if not self.every_step:
            self.average.add(record.c)
        self.average_sizes = Sizes(self.average.value, record.routines)
        return {}

    def under(self, record: Record, label: str, norm: ParameterNorm, columns: Mapping[str, Tensor]) -> Columns:
        pair_average = record.pair_average
        upper = self._lowest(
            label,
            self._outwards(label, self.bound(norm, record.c_sizes, self.average_sizes), 1 + self.average.count / AVERAGE_POWER),
            None if pair_average is None else self._outwards(label, norm.dual(pair_average), 1 + record.t / 2),
            record.runs,
        )
        return {"upper_bound": upper, "kkt_ratio": kkt_ratio(columns["margin"], upper, record.q)}

    def keep(self, record: Record) -> Mapping[str, Tensor]:
        count = torch.tensor(float(self.average.count), dtype=record.q.dtype, device=record.q.device)
        return {COUNT: count, **{BLOCK + name: block for name, block in self.average.value.items()}}

    def gathered(self, pile: Pile) -> None:
        kept = pile.kept[self.name]
        blocks = {key.removeprefix(BLOCK): block for key, block in kept.items() if key != COUNT}
        self.gathered_sizes = Sizes(blocks, pile.routines)

    def under_all(self, pile: Pile, label: str, norm: ParameterNorm, columns: Mapping[str, Tensor]) -> Columns:
        counts = pile.kept[self.name][COUNT].unsqueeze(-1)
        pairs = None if pile.pair_averages is None else Sizes(pile.pair_averages).dual(norm)
        upper = self._lowest(
            label,
            self._outwards(label, self.bound(norm, pile.c_sizes, self.gathered_sizes), 1 + counts / AVERAGE_POWER),
            None if pairs is None else self._outwards(label, pairs, 1 + pile.steps / 2),
            pile.runs,
        )
        return {"upper_bound": upper, "kkt_ratio": kkt_ratio(columns["margin"], upper, pile.q)}

    def bound(self, norm: ParameterNorm, c: Sizes, average: Sizes) -> Tensor:
        """The lower of N_*(C) and N_*(average), without what rounding may have taken.

        Args:
            norm: On the parameter set.
            c: Of C under norms.
            average: Of the average.

        Returns:
            The bound, (R,), or of several records, (M, R).
        """
        return torch.minimum(c.dual(norm), average.dual(norm))

    def _lowest(self, label: str, bound: Tensor, of_pairs: Tensor | None, runs: Tensor) -> Tensor:
        """The running minimum of bounds, and of those of pairs where there are any, over the records of each run: ``runs`` are
        those whose record it is; of one record (R,), or of several (M, R)."""
        if of_pairs is not None and self.every_step:
            bound = torch.minimum(bound, of_pairs)
        return self.lower(label, bound.masked_fill(~runs, torch.inf))

    def _outwards(self, label: str, bound: Tensor, roundings: float | Tensor) -> Tensor:
        """A bound with what so many roundings may have taken from it: C is a sum over pairs whose weights sum to one up to its
        rounding, and an average has been rounded once a step, each time in proportion to N_* of the pairs."""
        if label not in self.rounding:
            return bound
        eps = torch.finfo(bound.dtype).eps
        return bound * (1 + 16 * eps) + eps * roundings * self.rounding[label]

    def lower(self, label: str, value: Tensor) -> Tensor:
        """Include another proven bound in the running minimum, or several, one after the other.

        Args:
            label: Of the norm.
            value: A proven upper bound on the maximum margin, (R,), or several, (M, R).

        Returns:
            The lowest bound so far, (R,), or after each, (M, R).
        """
        several = value.dim() > 1
        lowest = value.cummin(dim=0).values if several else value
        if label in self.best:
            lowest = torch.minimum(self.best[label], lowest)
        self.best[label] = lowest[-1].clone() if several else lowest
        return lowest

    def snapshot(self) -> dict[str, Any]:
        return {"average": self.average.value, "count": self.average.count, "best": self.best}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        # In place: what makes the steps may hold it.
        self.average.value, self.average.count = dict(snapshot["average"]), snapshot["count"]
        self.best = dict(snapshot["best"])


def kkt_ratio(margin: Tensor, upper: Tensor, q: Tensor) -> Tensor:
    """margin / upper where q > 0, else nan; (R,) each.

    Args:
        margin: q / N, (R,), or of several records, (M, R).
        upper: A proven upper bound on the maximum margin, the same shape.
        q: The smallest gap, the same shape.

    Returns:
        The ratio, the same shape, at most 1.
    """
    return torch.where(q > 0, margin / upper, torch.full_like(q, torch.nan))
