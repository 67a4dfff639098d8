"""The linear model whose samples are perturbed in the worst way: gaps, gradients in the log domain, and their kinks.

The gap of pair (i, c) is m_ic - eps |w_y - w_c|_p* (:mod:`implicit_bias.models.perturbations`). With S_ab in the subdifferential
of |.|_p* at w_a - w_b, for classes a < b, and w_ic the weights of the loss, its gradient is that of the plain model with one more
sample for every pair of classes,

    -grad L = (1 / n) ( sum_ic w_ic (e_y - e_c) x_i^T - sum_{a<b} q_ab (e_a - e_b) eps S_ab^T ),
    q_ab = sum of w_ic over the samples of class a with c = b, and of class b with c = a,

so that all that the plain model does to keep small entries holds for it. Divided by sum w it is sum w_ic (e_y - e_c) (x_i +
delta_ic)^T with perturbed samples, by which it certifies an upper bound on the robust margin just as the plain one does.

Where |.|_p* has a kink there are many S_ab, and which of them is taken matters: coordinate descent has most of its differences
w_aj - w_bj at zero, and the sign of zero there points it at the wrong coordinates. The one taken makes the gradient smallest, in
l2, pair by pair in turn until nothing changes; for two classes and p = inf that is -soft(c_j, eps) at zeros. For the same reason
a step of p = inf ends, feature by feature, where two classes' weights meet first (:meth:`RobustObjective.landed`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from implicit_bias.core.data import Data, Parameters
from implicit_bias.core.scaled import Scaled
from implicit_bias.losses import Loss, LossTerms
from implicit_bias.models.gradient import Gradient, Quick
from implicit_bias.models.linear import WEIGHT, LinearObjective
from implicit_bias.models.perturbations import BALLS, pairs_of

# Sweeps over the pairs of classes for the smallest gradient, and the change of S that ends them. Whenever they end, S is in the
# subdifferential.
SWEEPS, SETTLED = 30, 1e-12


class RobustObjective(LinearObjective):
    """Gaps and gradients of W x under perturbations, for a batch of runs.

    Args:
        data: The training sets.
        loss: Of the worst gaps.
        perturbation: Of the ball.
        eps: Its radius, a number or (R, 1, 1).
    """

    def __init__(self, data: Data, loss: Loss, perturbation: str, eps: Any) -> None:
        self.ball = BALLS[perturbation]
        # A number becomes a tensor in the precision of the data: by way of torch's default it would be rounded to single.
        self.eps = torch.as_tensor(eps, dtype=data.x.dtype, device=data.x.device)
        self.first, self.second = pairs_of(data.num_classes)
        incidence = data.x.new_zeros(data.num_classes, len(self.first))
        pairs = torch.arange(len(self.first))
        incidence[self.first, pairs], incidence[self.second, pairs] = 1.0, -1.0
        self.incidence = incidence
        super().__init__(data, loss)

    @property
    def kinks(self) -> bool:
        return self.ball.name == "linf"

    def _take(self, data: Data, uneven: bool) -> None:
        super()._take(data, uneven)
        self.doubtful = self.doubtful + self.unsure * self.eps

    def unperturbed_gaps(self, parameters: Mapping[str, Tensor]) -> Tensor:
        return super()._negative_gaps(parameters[WEIGHT])

    def _negative_gaps(self, w: Tensor) -> Tensor:
        return super()._negative_gaps(w).add_(self._of_labels(self.ball.dual(self._differences(w))))

    def _of_labels(self, of_pairs: Tensor) -> Tensor:
        """eps times a number of every pair of classes, (R, pairs), for the pair (y_i, c) of each sample, 0 at the label:
        (R, k, n)."""
        k, runs = self.data.num_classes, len(of_pairs)
        if k == 2:
            return (self.eps * of_pairs.unsqueeze(-1)) * ~self.label
        sizes = of_pairs.new_zeros(runs, k, k)
        sizes[:, self.first, self.second] = sizes[:, self.second, self.first] = of_pairs
        return (self.eps * sizes).gather(2, self.data.y.expand(runs, -1).unsqueeze(1).expand(-1, k, -1))

    def _differences(self, w: Tensor) -> Tensor:
        """w_a - w_b of all pairs a < b, (R, pairs, d)."""
        return w[:, self.first] - w[:, self.second]

    def quick(self, parameters: Mapping[str, Tensor]) -> Quick | None:  # type: ignore[override]
        return None

    def gradient(self, parameters: Mapping[str, Tensor], batch: Tensor | None = None) -> Gradient:
        if batch is not None:
            return self._on(batch).gradient(parameters)
        w = parameters[WEIGHT]
        terms, coefficients = self._coefficients(w)
        plain, masses = self._times_x(coefficients), self._masses(coefficients)
        v = self._differences(w)
        s = self._smallest(v, plain, masses)
        moves = self.eps * s
        of_pairs = self.incidence * masses.unsqueeze(-2)
        held = self.ball.holds(v, s) & (self.eps * masses.unsqueeze(-1) > 0)
        block = Scaled(plain + torch.bmm(of_pairs, moves), (terms.log_unit - self.log_n).unsqueeze(-1))
        block = self._held(block, held)
        doubtful = block.mantissa.abs() < terms.total.sum(dim=-1)[:, None, None] * self.doubtful
        # What is held at zero is known to be zero.
        known = held if len(self.first) == 1 else torch.bmm(self.incidence.abs().expand(len(w), -1, -1), held.to(w)).bool()
        exact = ~(doubtful & ~(known & (block.mantissa == 0))).any()
        quick = Quick({WEIGHT: block}, terms, torch.cat([coefficients, of_pairs], dim=-1), exact)
        if bool(exact) and not self.uneven:
            return LinearObjective.finished(self, parameters, quick)
        found = _Extended(self, moves).finished(parameters, quick)
        return replace(found, blocks={WEIGHT: self._held(found.blocks[WEIGHT], held)})

    def _held(self, block: Scaled, held: Tensor) -> Scaled:
        """The gradient with equal entries where the weights of two classes are equal and it keeps them so: what rounding leaves
        of their difference would tear them apart."""
        pairs = held.any(dim=2).any(dim=0).nonzero().flatten().tolist()
        if not pairs:
            return block
        mantissa, scale = block.mantissa.clone(), block.log_scale.expand_as(block.mantissa)
        for turn in ("mean", "copy"):  # of three classes that are equal, means alone would not be
            for pair in pairs:
                a, b = self.first[pair], self.second[pair]
                here = held[:, pair] & (scale[:, a] == scale[:, b])
                value = (mantissa[:, a] + mantissa[:, b]) / 2 if turn == "mean" else mantissa[:, a]
                mantissa[:, a] = torch.where(here, value, mantissa[:, a])
                mantissa[:, b] = torch.where(here, value, mantissa[:, b])
        return Scaled(mantissa, block.log_scale)

    def _coefficients(self, w: Tensor) -> tuple[LossTerms, Tensor]:
        terms = self.loss.terms(self._negative_gaps(w))
        coefficients = terms.shape.mul_(terms.share.unsqueeze(-2))
        return terms, torch.where(self.label, -terms.total.unsqueeze(-2), coefficients)

    def _masses(self, coefficients: Tensor) -> Tensor:
        """q_ab of all pairs, (R, pairs), in units of the coefficients'."""
        label = self.label.to(coefficients).expand(len(coefficients), -1, -1)
        between = torch.bmm(coefficients.masked_fill(self.label, 0.0), label.mT)
        return between[:, self.first, self.second] + between[:, self.second, self.first]

    def log_masses(self, log_weights: Tensor) -> Tensor:
        """log q_ab of all pairs without any floor, (R, pairs), from log w_ic (R, k, n)."""
        of_class = [
            log_weights.masked_fill(~self.label[:, c : c + 1], -math.inf).logsumexp(dim=-1) for c in range(self.data.num_classes)
        ]
        between = torch.stack(of_class, dim=-1)
        return torch.logaddexp(between[:, self.first, self.second], between[:, self.second, self.first])

    def _smallest(self, v: Tensor, plain: Tensor, masses: Tensor) -> Tensor:
        """S_ab of all pairs, (R, pairs, d), that make the gradient smallest, whose part from the samples is ``plain``; v their
        differences w_a - w_b."""
        s = self.ball.nearest(v, torch.zeros_like(v))
        kinks = self.ball.has_kink(v).any(dim=0)
        if not bool(kinks.any()):
            return s
        lengths = (self.eps.squeeze(-1) * masses).unsqueeze(-1)
        gradient = plain + torch.bmm(self.incidence.expand(len(v), -1, -1), lengths * s)
        going = torch.ones(len(v), 1, 1, dtype=torch.bool, device=v.device)
        at_once = disjoint(tuple(kinks.nonzero().flatten().tolist()), self.data.num_classes)
        parts = [_Part.of(pairs, self, v, lengths) for pairs in at_once]
        for _ in range(SWEEPS if len(self.first) > 1 else 1):
            # Run by run: a run's bits must not depend on the other runs of its batch.
            changed = torch.zeros_like(going)
            for part in parts:
                before, of_a, of_b = (
                    s.index_select(1, part.pairs),
                    gradient.index_select(1, part.a),
                    gradient.index_select(1, part.b),
                )
                moved = self.ball.nearest(part.differences, before + (of_b - of_a) / part.twice) - before
                moved = torch.where(going & part.moves, moved, 0.0)
                s.index_copy_(1, part.pairs, before + moved)
                pull = part.length * moved
                gradient.index_copy_(1, part.a, of_a + pull).index_copy_(1, part.b, of_b - pull)
                changed |= moved.abs().amax(dim=(1, 2), keepdim=True) > SETTLED
            going = changed
            if not bool(going.any()):
                break
        return s

    def pull(self, parameters: Mapping[str, Tensor], weights: Tensor) -> Parameters:
        plain = super().pull(parameters, weights)[WEIGHT]
        masses = self._masses(weights)
        moves = self.eps * self._smallest(self._differences(parameters[WEIGHT]), -plain, masses)
        return {WEIGHT: plain - torch.bmm(self.incidence * masses.unsqueeze(-2), moves)}

    def push(self, parameters: Mapping[str, Tensor], tangent: Mapping[str, Tensor]) -> Tensor:
        """The derivative with S the smallest of the subdifferential, where there are several."""
        v = self._differences(parameters[WEIGHT])
        along = (self.ball.nearest(v, torch.zeros_like(v)) * self._differences(tangent[WEIGHT])).sum(dim=-1)
        plain = -super()._negative_gaps(tangent[WEIGHT]).masked_fill(self.label, 0.0)
        return plain - self._of_labels(along)

    def landed(self, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Parameters:
        """With p = inf a step ends, in every feature by itself, where the weights of two classes meet that it would lead past
        each other: exactly there, so that the next gradient sees the kink."""
        if not self.kinks:
            return dict(after)
        start, end = before[WEIGHT], after[WEIGHT]
        step, v, new = end - start, self._differences(start), self._differences(end)
        crosses = (v * new < 0) & (self.eps > 0)
        share = torch.where(crosses, v / torch.where(crosses, v - new, 1.0), 1.0)
        first = share.amin(dim=1, keepdim=True)
        moved = torch.where(first < 1, start + first * step, end)
        meet = crosses & (share == first)
        for pair in meet.any(dim=2).any(dim=0).nonzero().flatten().tolist():
            a, b = self.first[pair], self.second[pair]
            place = (moved[:, a] + moved[:, b]) / 2
            place = torch.where(step[:, a] == 0, start[:, a], torch.where(step[:, b] == 0, start[:, b], place))
            moved[:, a] = torch.where(meet[:, pair], place, moved[:, a])
            moved[:, b] = torch.where(meet[:, pair], place, moved[:, b])
        return {WEIGHT: moved}


class _Part(NamedTuple):
    """Pairs of classes that have none in common: their numbers, the first and the second class of each; of each run and pair the
    difference w_a - w_b, eps q_ab, whether that is not zero, and twice it, or 2."""

    pairs: Tensor
    a: Tensor
    b: Tensor
    differences: Tensor
    length: Tensor
    moves: Tensor
    twice: Tensor

    @classmethod
    def of(cls, numbers: Sequence[int], robust: RobustObjective, v: Tensor, lengths: Tensor) -> _Part:
        pairs, a, b = (
            torch.tensor(chosen, device=v.device)
            for chosen in (numbers, [robust.first[pair] for pair in numbers], [robust.second[pair] for pair in numbers])
        )
        length = lengths.index_select(1, pairs)
        moves = length > 0
        return cls(pairs, a, b, v.index_select(1, pairs), length, moves, 2 * length.masked_fill(~moves, 1.0))


@lru_cache(maxsize=1024)
def disjoint(pairs: tuple[int, ...], classes: int) -> list[list[int]]:
    """Numbers of pairs of classes, in parts whose pairs have no class in common; made one part after the other, it is as if each
    had been made in its turn.

    Args:
        pairs: Their numbers among :func:`pairs_of`, in turn.
        classes: k.
    """
    first, second = pairs_of(classes)
    parts, free = list[list[int]](), [0] * classes  # of each class the part from which on it is free
    for pair in pairs:
        a, b = first[pair], second[pair]
        place = max(free[a], free[b])
        if place == len(parts):
            parts.append([])
        parts[place].append(pair)
        free[a] = free[b] = place + 1
    return parts


class _Extended(LinearObjective):
    """The samples of a robust objective, and behind them what moves the pairs of classes, as samples: for sums that need care."""

    def __init__(self, robust: RobustObjective, moves: Tensor) -> None:
        x = torch.cat([robust.x.expand(len(moves), -1, -1), moves], dim=1)
        classes = torch.zeros(len(moves), moves.shape[1], dtype=torch.long, device=x.device)
        y = torch.cat([robust.data.y.expand(len(moves), -1), classes], dim=1)
        super().__init__(Data(x, y, robust.data.num_classes), robust.loss)
        self.uneven, self.log_n, self._robust = robust.uneven, robust.log_n, robust
        self.support = ~(x == 0).all(dim=1, keepdim=True) if self.uneven else None
        pairs = robust.incidence.expand(len(moves), -1, -1)
        self.sign = torch.cat([robust.sign.expand(len(moves), -1, -1), pairs], dim=-1)

    def _log_p(self, w: Tensor, terms: LossTerms) -> Tensor:
        log_weights = self._robust.loss.log_weights(self._robust.negative_gaps({WEIGHT: w}))
        own = torch.where(self._robust.label, self._robust.loss.log_totals(terms).unsqueeze(-2), log_weights)
        pairs = self._robust.log_masses(log_weights).unsqueeze(-2).expand(-1, own.shape[1], -1)
        return torch.cat([own, pairs.masked_fill(self._robust.incidence == 0, -math.inf)], dim=-1)
