"""What is measured at a point under every norm: margins, correlation and alignment.

Notation: q = min gap, L = degree of homogeneity, g = grad of the mean loss, C = -g / sum w = sum w_ic grad m_ic with
weights summing to one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from implicit_bias.models import Parameters
from implicit_bias.models.gradient import Sized, largest_entry
from implicit_bias.norms import ParameterNorm
from implicit_bias.norms.sizes import Routines, Sizes


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

    @cached_property
    def ray(self) -> Ray | None:
        """Where the separator points; None where there is none."""
        return None if self.separator is None else Ray.of(self.separator)


class Ray(NamedTuple):
    """A direction of parameters.

    Attributes:
        entries: A parameter set divided by its largest absolute entry, one tensor (R, p, q) a block; nan where it is zero.
        square: <entries, entries>, (R,).
    """

    entries: Parameters
    square: Tensor

    @staticmethod
    def of(a: Mapping[str, Tensor]) -> Ray:
        """The direction of a parameter set.

        Args:
            a: One tensor (R, p, q) a block.
        """
        entries = unit_entries(a)
        return Ray(entries, inner(entries, entries))

    def cosine(self, other: Ray) -> Tensor:
        """Cosine of the angle between two, (R,); nan where either is of zero.

        Args:
            other: Of the same blocks.
        """
        return inner(self.entries, other.entries) / (self.square * other.square).sqrt()


class Point:
    """Where runs are measured, and what all norms share there, computed when it is first asked for.

    Of several records one after the other all tensors have one more leading axis: parameters (M, R, p, q), q (M, R).

    Attributes:
        parameters: theta, one tensor (R, p, q) a block.
        c: -g, one tensor (R, p, q) a block, in any unit of each run's own.
        q: The smallest gap, (R,).
        degree: L.
        routines: What norms are computed by, as of :class:`implicit_bias.norms.sizes.Sizes`.
        sizes, c_sizes: Of theta and of c under norms.
    """

    def __init__(
        self,
        parameters: Parameters,
        c: Parameters,
        q: Tensor,
        degree: float,
        routines: Routines | None = None,
        sized: Sized | None = None,
    ) -> None:
        self.parameters, self.c, self.q, self.degree, self._routines = parameters, c, q, degree, routines
        known = (None, None, None) if sized is None else sized
        self.sizes, self.c_sizes = Sizes(parameters, routines, known[0]), Sizes(c, routines, known[1])
        self._inner = known[2]

    @cached_property
    def descents(self) -> Tensor:
        """<theta_l, c_l> of every block, (B, R)."""
        if self._inner is not None:
            return self._inner
        if self._routines is not None and self._routines.block_products is not None:
            return self._routines.block_products(self.parameters, self.c)
        return torch.stack([(block * self.c[n]).sum(dim=(-2, -1)) for n, block in self.parameters.items()])

    @cached_property
    def descent(self) -> Tensor:
        """<theta, c>, (R,)."""
        if len(self.parameters) > 1:
            # One after the other: the order of a sum that PyTorch makes may depend on how many runs there are.
            descent = torch.zeros_like(self.descents[0])
            for of_block in self.descents:
                descent = descent + of_block
            return descent
        return inner(self.parameters, self.c)

    @cached_property
    def _sign_and_log(self) -> tuple[Tensor, Tensor]:
        return self.q.sign(), self.q.abs().log()

    def over(self, log_power: Tensor) -> Tensor:
        """q / e^log_power, where e^log_power itself may over- or underflow.

        Args:
            log_power: (R,).
        """
        sign, log = self._sign_and_log
        return sign * (log - log_power).exp()

    @cached_property
    def ray(self) -> Ray:
        """Where theta points."""
        return Ray.of(self.parameters)

    @cached_property
    def nothing(self) -> Tensor:
        """Empty cells, (R,)."""
        return torch.full_like(self.q, torch.nan)


def inner(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
    """<a, b> summed over blocks, shape (R,).

    Args:
        a: One tensor (R, p, q) a block, or (M, R, p, q).
        b: The same blocks, of shapes that broadcast against these.

    Returns:
        The inner products, (R,) or (M, R).
    """
    of_blocks = [(block * b[n]).sum(dim=(-2, -1)) for n, block in a.items()]
    return of_blocks[0] if len(of_blocks) == 1 else torch.stack(of_blocks).sum(dim=0)


def cosine(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
    """Cosine of the angle between two parameter sets, shape (R,); nan where either is zero. Safe at any size.

    Args:
        a: One tensor (R, p, q) a block.
        b: The same blocks.

    Returns:
        The cosines, (R,).
    """
    return Ray.of(a).cosine(Ray.of(b))


def unit_entries(a: Mapping[str, Tensor]) -> Parameters:
    """``a`` divided by its largest absolute entry, per run; nan where it is zero.

    Args:
        a: One tensor (R, p, q) a block.

    Returns:
        The quotients, the same shapes.
    """
    size = largest_entry(a)[..., None, None]
    return {n: x / size for n, x in a.items()}


def accuracy_and_margin(largest: Tensor) -> tuple[Tensor, Tensor]:
    """The share of samples whose gaps are all positive, and the margin q = min gap.

    Args:
        largest: max_c u_ic, the largest negative gap of every sample, (R, n).

    Returns:
        Accuracy in [0, 1] and q, (R,) each.
    """
    return (largest < 0).to(largest.dtype).mean(dim=-1), -largest.amax(dim=-1)


def accuracy(scores: Tensor, y: Tensor) -> Tensor:
    """The share of samples whose label has the largest score (R, k, n); or, for one score (R, 1, n), is its sign, class 1 being
    positive: shape (R,).

    Args:
        scores: (R, k, m), or (R, 1, m) for one output.
        y: Labels, (R, m) or (1, m).

    Returns:
        Accuracy in [0, 1], (R,).
    """
    return (predicted(scores) == y).to(scores.dtype).mean(dim=-1)


def predicted(scores: Tensor) -> Tensor:
    """The class that scores (R, k, m) speak for, (R, m): the one with the largest; of one score, 1 where it is positive."""
    return (scores > 0).long().squeeze(-2) if scores.shape[-2] == 1 else scores.argmax(dim=-2)


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


def measure(norm: ParameterNorm, point: Point, optimum: Optimum | None) -> dict[str, Tensor]:
    """The columns of one norm at one record, each of shape (R,); or at several, (M, R), or (R,) where they are the same at all.
    nan stands for an empty cell.

    margin = q / N^L; relative_gap = |max_margin - margin| / max_margin; alignment = <theta, -g> / (N(theta) N_*(g)). The columns
    `upper_bound` and `kkt_ratio` are empty: a certificate, or a search for a KKT ratio, fills them.

    Args:
        norm: N, on the parameter set.
        point: Where the runs are.
        optimum: The reference under this norm; None where there is none.

    Returns:
        The columns by name.
    """
    size, nothing = point.sizes.value(norm), point.nothing
    size_or_nan = torch.where(size == 0, nothing, size)
    margin = point.q / size_or_nan if point.degree == 1 else point.over(point.degree * size_or_nan.log())
    max_margin = nothing if optimum is None else optimum.max_margin
    ray = None if optimum is None else optimum.ray
    return {
        "margin": margin,
        "max_margin": max_margin,
        "relative_gap": nothing if optimum is None else (max_margin - margin).abs() / max_margin,
        "upper_bound": nothing,
        "correlation": nothing if ray is None else point.ray.cosine(ray),
        "alignment": point.descent / (size_or_nan * point.c_sizes.dual(norm)),
        "kkt_ratio": nothing,
        "param_norm": size,
    }
