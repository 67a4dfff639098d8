"""Perturbations of the samples in a ball, and what the worst of them takes from the gaps.

Where a sample may be moved by any delta with |delta|_p <= eps, the gap of classes y and c of a score that is linear in x, with
weight vectors w_y and w_c, is at worst

    min_delta <w_y - w_c, x + delta> = m - eps |w_y - w_c|_p*,    1 / p + 1 / p* = 1.

Every delta with <w_y - w_c, delta> = -eps |w_y - w_c|_p* is a worst one. They are eps times the points of a face of the unit ball
of l_p with the sign changed; the face is a single point unless entries vanish (linf), tie for the largest (l1), or all vanish.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

import torch
from torch import Tensor

from implicit_bias.core.errors import BadInput
from implicit_bias.core.options import Option

#: Help of the two keys, wherever a model has them.
PERTURBATION = "l_p ball of perturbations of the samples, in which training and optima take the worst; null for none"
EPS = "radius of that ball, in the unit of the features"
NAMES = ("linf", "l2", "l1")


class Ball(ABC):
    """The unit ball of an l_p norm, in which perturbations of a sample are."""

    name: ClassVar[str]

    @abstractmethod
    def dual(self, v: Tensor) -> Tensor:
        """|v|_p* = max over the ball of <v, s>.

        Args:
            v: (..., d).

        Returns:
            (...).
        """

    @abstractmethod
    def nearest(self, v: Tensor, target: Tensor) -> Tensor:
        """Of the s in the ball with <v, s> = |v|_p*, the subdifferential of the dual norm at v, the nearest to a target in l2.

        Args:
            v: (..., d).
            target: The same shape.

        Returns:
            s (..., d).
        """

    @abstractmethod
    def has_kink(self, v: Tensor) -> Tensor:
        """Whether there are several such s.

        Args:
            v: (..., d).

        Returns:
            Truth values (...).
        """

    def holds(self, v: Tensor, s: Tensor) -> Tensor:
        """Of which entries any small change of v would be undone by another s, so that a small gradient keeps them as they are.

        Args:
            v: (..., d).
            s: In the subdifferential at v, the same shape.

        Returns:
            Truth values, the same shape.
        """
        inside = (v == 0).all(dim=-1) & (self.size(s) < _inside(s))
        return inside.unsqueeze(-1).expand_as(v)

    @abstractmethod
    def size(self, s: Tensor) -> Tensor:
        """|s|_p.

        Args:
            s: (..., d).

        Returns:
            (...).
        """

    @abstractmethod
    def corners(self, dim: int) -> Tensor:
        """Points of the ball (j, d) among which is the one of largest N_*((e_y - e_c) s^T), for every l_p, Schatten, row and
        column norm N.

        Args:
            dim: d.

        Returns:
            The points, float64.
        """


class Linf(Ball):
    """Every feature moves by up to eps; p* = 1."""

    name: ClassVar[str] = "linf"

    def dual(self, v: Tensor) -> Tensor:
        return v.abs().sum(dim=-1)

    def nearest(self, v: Tensor, target: Tensor) -> Tensor:
        return torch.where(v == 0, target.clamp(-1, 1), v.sign())

    def has_kink(self, v: Tensor) -> Tensor:
        return (v == 0).any(dim=-1)

    def holds(self, v: Tensor, s: Tensor) -> Tensor:
        return (v == 0) & (s.abs() < _inside(s))

    def size(self, s: Tensor) -> Tensor:
        return s.abs().amax(dim=-1)

    def corners(self, dim: int) -> Tensor:
        return torch.ones(1, dim, dtype=torch.float64)


class L2(Ball):
    """p* = 2."""

    name: ClassVar[str] = "l2"

    def dual(self, v: Tensor) -> Tensor:
        size: Tensor = torch.linalg.vector_norm(v, dim=-1)
        return size

    def nearest(self, v: Tensor, target: Tensor) -> Tensor:
        size, inside = self.dual(v).unsqueeze(-1), self.dual(target).unsqueeze(-1).clamp(min=1)
        return torch.where(size == 0, target / inside, v / size.masked_fill(size == 0, 1))

    def has_kink(self, v: Tensor) -> Tensor:
        return (v == 0).all(dim=-1)

    def size(self, s: Tensor) -> Tensor:
        return self.dual(s)

    def corners(self, dim: int) -> Tensor:
        # Schatten norms see the length alone; of l_q norms of s the largest is at one of these two.
        first = torch.zeros(1, dim, dtype=torch.float64)
        first[0, 0] = 1
        return torch.cat([torch.full((1, dim), dim**-0.5, dtype=torch.float64), first])


class L1(Ball):
    """p* = inf."""

    name: ClassVar[str] = "l1"

    def dual(self, v: Tensor) -> Tensor:
        return v.abs().amax(dim=-1)

    def nearest(self, v: Tensor, target: Tensor) -> Tensor:
        zero = (v == 0).all(dim=-1, keepdim=True)
        largest = v.abs() == self.dual(v).unsqueeze(-1)
        # On the face s_j = sign(v_j) a_j, a in the simplex of the largest entries; at v = 0 all of the ball, |s| in the simplex
        # or below it.
        sign = torch.where(zero, target.sign(), v.sign())
        sizes = _onto_simplex((sign * target).masked_fill(~largest, -torch.inf))
        outside = target.abs().sum(dim=-1, keepdim=True) > 1
        return torch.where(zero & ~outside, target, sign * sizes)

    def has_kink(self, v: Tensor) -> Tensor:
        # At zero there is one of a single feature, too.
        return ((v.abs() == self.dual(v).unsqueeze(-1)).sum(dim=-1) > 1) | (v == 0).all(dim=-1)

    def size(self, s: Tensor) -> Tensor:
        return s.abs().sum(dim=-1)

    def corners(self, dim: int) -> Tensor:
        return torch.eye(dim, dtype=torch.float64)


def _inside(s: Tensor) -> float:
    """What sizes of s (..., d) are inside of the ball below: one, less what rounding may take from a size of one."""
    return 1 - 4 * (s.shape[-1] + 2) * torch.finfo(s.dtype).eps


def _onto_simplex(a: Tensor) -> Tensor:
    """The nearest point to a (..., d) with entries >= 0 that sum to one; entries of -inf stay at zero."""
    ordered = a.sort(dim=-1, descending=True).values
    counts = torch.arange(1, a.shape[-1] + 1, dtype=a.dtype, device=a.device)
    levels = (ordered.masked_fill(ordered == -torch.inf, 0).cumsum(dim=-1) - 1) / counts
    used = (ordered > levels).sum(dim=-1, keepdim=True).clamp(min=1)
    return (a - levels.gather(-1, used - 1)).clamp(min=0)


BALLS: dict[str, Ball] = {ball.name: ball for ball in (Linf(), L2(), L1())}


@dataclass(frozen=True)
class Perturbed:
    """Perturbations of one radius.

    Attributes:
        name: Of the ball, a key of :data:`BALLS`.
        eps: Its radius, > 0, in the unit of the features.
    """

    name: str
    eps: float

    @property
    def ball(self) -> Ball:
        return BALLS[self.name]

    def __str__(self) -> str:
        return f"model.perturbation={self.name} model.eps={self.eps:g}"


def perturbed(perturbation: str | None, eps: float) -> Perturbed | None:
    """What two keys say; None where nothing is perturbed.

    Args:
        perturbation: Of a ball, or None.
        eps: Its radius.
    """
    return Perturbed(perturbation, eps) if perturbation is not None and eps > 0 else None


def check_keys(perturbation: str | None, eps: Any) -> None:
    """Refuse a radius without a ball.

    Args:
        perturbation: As the key says.
        eps: As the key says; of a batch a tensor.

    Raises:
        BadInput: names the key.
    """
    if perturbation is None and not isinstance(eps, Tensor) and eps != 0:
        raise BadInput(
            f"model.eps={eps:g}: has no effect with model.perturbation=null; needs model.perturbation={'|'.join(NAMES)}"
        )


def refused_beside(perturbation: str | None, other: Option | object) -> str | None:
    """Why a perturbed model does not go with another option; None where it does.

    Args:
        perturbation: As the key says.
        other: The other option.
    """
    if perturbation is not None and getattr(other, "searches", False):
        return f"gaps are linear along no step where model.perturbation={perturbation}, as its line search wants"
    return None


def pairs_of(classes: int) -> tuple[list[int], list[int]]:
    """All pairs a < b of so many classes: the a, and the b.

    Args:
        classes: k.
    """
    found = list(combinations(range(classes), 2))
    return [a for a, _ in found], [b for _, b in found]
