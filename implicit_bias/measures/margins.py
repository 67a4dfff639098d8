"""All that is measured along a trajectory: margins, running certificates, correlation, alignment and KKT ratio under every norm.

Notation: q = min gap, L = degree of homogeneity, g = grad of the mean loss, C = -g / sum w = sum w_ic grad m_ic with
weights summing to one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from implicit_bias.models import Parameters
from implicit_bias.norms import ParameterNorm

# In the average of the certificates' weights, the j-th that was taken has a weight of about j^AVERAGE_POWER: early ones,
# which are far from optimal, fade polynomially (Shamir and Zhang, arXiv 1212.1824, polynomial-decay averaging).
AVERAGE_POWER = 3
# Neighbouring steps have nearly the same weights: beyond the first steps, one in four is enough for the average.
AVERAGE_ALL, AVERAGE_EVERY = 100, 4


@dataclass(frozen=True)
class Optimum:
    """The reference of each run under one norm.

    Attributes:
        max_margin: The maximum margin, shape (R,); nan where there is no reference, or none that is proven to be one.
        separator: A maximiser, one tensor (R, p, q) a block, nan where there is none; or None.
        upper: A proven upper bound on the maximum margin, shape (R,); inf where there is none.
    """

    max_margin: Tensor
    separator: Parameters | None = None
    upper: Tensor | None = None

    @property
    def proven(self) -> Tensor:
        """Whether an optimum is known, shape (R,)."""
        return self.max_margin.isfinite()


@dataclass
class Certificate:
    """Proven upper bounds on the maximum margin of a linear model, one running minimum a norm.

    For weights w >= 0 summing to one, gamma*_N <= N_*(sum w_ic (e_y - e_c) x_i^T) = N_*(C): by duality, for any W with N(W) <= 1,
    min gap <= sum w_ic m_ic = <W, C> <= N_*(C). The loss gradient supplies C at every step for free; so does any average of C.
    """

    average: Parameters = field(default_factory=dict)
    count: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    #: What one rounding may add to a bound in each norm, in units of eps: N_* of the largest pair times the terms of a sum.
    rounding: Mapping[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def wants(t: int) -> bool:
        """Whether step t goes into the average."""
        return t <= AVERAGE_ALL or t % AVERAGE_EVERY == 0

    @staticmethod
    def wanted(t: int) -> int:
        """How many of the steps 0, ..., t go into the average."""
        return t + 1 if t <= AVERAGE_ALL else AVERAGE_ALL + 1 + t // AVERAGE_EVERY - AVERAGE_ALL // AVERAGE_EVERY

    @staticmethod
    def share(count: int) -> float:
        """The weight in the average of the step that is the ``count``-th to go into it."""
        return (AVERAGE_POWER + 1) / (count + AVERAGE_POWER)

    def add(self, c: Parameters) -> None:
        """Take the certificate matrix of one more step into the average."""
        self.count += 1
        share = self.share(self.count)
        self.average = {n: b.lerp(c[n], share) for n, b in self.average.items()} if self.average else dict(c)

    def bound(self, label: str, norm: ParameterNorm, c: Parameters, runs: Tensor | None = None) -> Tensor:
        """The running minimum of N_*(C) and N_*(average), shape (R,), over the checkpoints of each run: ``runs`` (R,) are those
        whose checkpoint it is, None for all.

        Rounded outwards: C is a sum over pairs whose weights sum to one up to its rounding, and the average has been rounded once
        a step, each time in proportion to N_* of the pairs.
        """
        now = torch.minimum(norm.dual(c), norm.dual(self.average))
        if label in self.rounding:
            eps = torch.finfo(now.dtype).eps
            now = now * (1 + 16 * eps) + eps * (1 + self.count / AVERAGE_POWER) * self.rounding[label]
        return self.lower(label, now if runs is None else now.masked_fill(~runs, torch.inf))

    def lower(self, label: str, value: Tensor) -> Tensor:
        """Take another proven bound into the running minimum."""
        self.best[label] = torch.minimum(self.best[label], value) if label in self.best else value
        return self.best[label]


def inner(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
    """<a, b> summed over blocks, shape (R,)."""
    return torch.stack([(a[n] * b[n]).sum(dim=(-2, -1)) for n in a]).sum(dim=0)


def cosine(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
    """Cosine of the angle between two parameter sets, shape (R,); nan where either is zero. Safe at any size."""
    a, b = unit_entries(a), unit_entries(b)
    return inner(a, b) / (inner(a, a) * inner(b, b)).sqrt()


def unit_entries(a: Mapping[str, Tensor]) -> Parameters:
    """``a`` divided by its largest absolute entry, per run; nan where it is zero."""
    size = torch.stack([x.abs().amax(dim=(-2, -1), keepdim=True) for x in a.values()]).amax(dim=0)
    return {n: x / size for n, x in a.items()}


def accuracy_and_margin(negative_gaps: Tensor) -> tuple[Tensor, Tensor]:
    """The share of samples whose gaps are all positive, and the margin q = min gap; from u (R, pairs, n) to (R,), (R,)."""
    worst = negative_gaps.amax(dim=-2)
    return (worst < 0).to(worst.dtype).mean(dim=-1), -worst.amax(dim=-1)


def accuracy(scores: Tensor, y: Tensor) -> Tensor:
    """The share of samples whose label has the largest score (R, k, n); or, for one score (R, 1, n), is its sign, class 1 being
    positive: shape (R,)."""
    predicted = (scores > 0).long().squeeze(-2) if scores.shape[-2] == 1 else scores.argmax(dim=-2)
    return (predicted == y).to(scores.dtype).mean(dim=-1)


def over_power(q: Tensor, size: Tensor, degree: float) -> Tensor:
    """q / size^degree, where size^degree itself may over- or underflow."""
    return q / size if degree == 1 else q.sign() * (q.abs().log() - degree * size.log()).exp()


def measure(
    norm: ParameterNorm,
    degree: float,
    parameters: Parameters,
    c: Parameters,
    q: Tensor,
    upper_bound: Tensor | None,
    optimum: Optimum | None,
) -> dict[str, Tensor]:
    """The columns of one norm at one checkpoint, each of shape (R,); nan stands for an empty cell.

    margin = q / N^L; relative_gap = |max_margin - margin| / max_margin; alignment = <theta, -g> / (N(theta) N_*(g)); on
    a linear model
    kkt_ratio = margin / upper_bound, the KKT ratio q / (N(theta) N_*(sum w grad m)) of the best weights met so far,
    empty where q <= 0.
    """
    size = norm.value(parameters)
    nothing = torch.full_like(q, torch.nan)
    size_or_nan = torch.where(size == 0, nothing, size)
    margin = over_power(q, size_or_nan, degree)
    max_margin = nothing if optimum is None else optimum.max_margin
    separator = None if optimum is None else optimum.separator
    kkt_ratio = nothing if upper_bound is None else torch.where(q > 0, margin / upper_bound, nothing)
    return {
        "margin": margin,
        "max_margin": max_margin,
        "relative_gap": (max_margin - margin).abs() / max_margin,
        "upper_bound": nothing if upper_bound is None else upper_bound,
        "correlation": nothing if separator is None else cosine(parameters, separator),
        "alignment": inner(parameters, c) / (size_or_nan * norm.dual(c)),
        "kkt_ratio": kkt_ratio,
        "param_norm": size,
    }
