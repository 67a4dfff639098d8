"""What is measured at a point under every norm: margins, correlation and alignment.

Notation: q = min gap, L = degree of homogeneity, g = grad of the mean loss, C = -g / sum w = sum w_ic grad m_ic with
weights summing to one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from implicit_bias.models import Parameters
from implicit_bias.norms import ParameterNorm


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


def inner(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
    """<a, b> summed over blocks, shape (R,).

    Args:
        a: One tensor (R, p, q) a block.
        b: The same blocks.

    Returns:
        The inner products, (R,).
    """
    return torch.stack([(a[n] * b[n]).sum(dim=(-2, -1)) for n in a]).sum(dim=0)


def cosine(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
    """Cosine of the angle between two parameter sets, shape (R,); nan where either is zero. Safe at any size.

    Args:
        a: One tensor (R, p, q) a block.
        b: The same blocks.

    Returns:
        The cosines, (R,).
    """
    a, b = unit_entries(a), unit_entries(b)
    return inner(a, b) / (inner(a, a) * inner(b, b)).sqrt()


def unit_entries(a: Mapping[str, Tensor]) -> Parameters:
    """``a`` divided by its largest absolute entry, per run; nan where it is zero.

    Args:
        a: One tensor (R, p, q) a block.

    Returns:
        The quotients, the same shapes.
    """
    size = torch.stack([x.abs().amax(dim=(-2, -1), keepdim=True) for x in a.values()]).amax(dim=0)
    return {n: x / size for n, x in a.items()}


def accuracy_and_margin(negative_gaps: Tensor) -> tuple[Tensor, Tensor]:
    """The share of samples whose gaps are all positive, and the margin q = min gap; from u (R, pairs, n) to (R,), (R,).

    Args:
        negative_gaps: u (R, pairs, n), -inf at pairs that do not count.

    Returns:
        Accuracy in [0, 1] and q, (R,) each.
    """
    worst = negative_gaps.amax(dim=-2)
    return (worst < 0).to(worst.dtype).mean(dim=-1), -worst.amax(dim=-1)


def accuracy(scores: Tensor, y: Tensor) -> Tensor:
    """The share of samples whose label has the largest score (R, k, n); or, for one score (R, 1, n), is its sign, class 1 being
    positive: shape (R,).

    Args:
        scores: (R, k, m), or (R, 1, m) for one output.
        y: Labels, (R, m) or (1, m).

    Returns:
        Accuracy in [0, 1], (R,).
    """
    predicted = (scores > 0).long().squeeze(-2) if scores.shape[-2] == 1 else scores.argmax(dim=-2)
    return (predicted == y).to(scores.dtype).mean(dim=-1)


def over_power(q: Tensor, size: Tensor, degree: float) -> Tensor:
    """q / size^degree, where size^degree itself may over- or underflow.

    Args:
        q: (R,).
        size: (R,), > 0 or nan.
        degree: The exponent.

    Returns:
        The quotients, (R,).
    """
    return q / size if degree == 1 else q.sign() * (q.abs().log() - degree * size.log()).exp()


def measure(
    norm: ParameterNorm,
    degree: float,
    parameters: Parameters,
    c: Parameters,
    q: Tensor,
    optimum: Optimum | None,
) -> dict[str, Tensor]:
    """The columns of one norm at one record, each of shape (R,); nan stands for an empty cell.

    margin = q / N^L; relative_gap = |max_margin - margin| / max_margin; alignment = <theta, -g> / (N(theta) N_*(g)). The columns
    `upper_bound` and `kkt_ratio` are empty: a certificate, or a search for a KKT ratio, fills them.

    Args:
        norm: N, on the parameter set.
        degree: L.
        parameters: theta, one tensor (R, p, q) a block.
        c: -g, one tensor (R, p, q) a block, in any unit of each run's own.
        q: The smallest gap, (R,).
        optimum: The reference under this norm; None where there is none.

    Returns:
        The columns by name.
    """
    size = norm.value(parameters)
    nothing = torch.full_like(q, torch.nan)
    size_or_nan = torch.where(size == 0, nothing, size)
    margin = over_power(q, size_or_nan, degree)
    max_margin = nothing if optimum is None else optimum.max_margin
    separator = None if optimum is None else optimum.separator
    return {
        "margin": margin,
        "max_margin": max_margin,
        "relative_gap": (max_margin - margin).abs() / max_margin,
        "upper_bound": nothing,
        "correlation": nothing if separator is None else cosine(parameters, separator),
        "alignment": inner(parameters, c) / (size_or_nan * norm.dual(c)),
        "kkt_ratio": nothing,
        "param_norm": size,
    }
