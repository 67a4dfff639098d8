"""Tensors with a logarithmic scale: numbers as small as e^-100000 with full relative precision.

Late in training every entry of a gradient is far below the smallest double, and entries of one gradient differ by factors
that no double spans. A :class:`Scaled` tensor keeps ``mantissa * exp(log_scale)``, where the log scale is shared along some
axes only (for the gradient of a linear model: one scale per run and class row).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: So many numbers do not stay in a processor's nearest memory, and one operation more is no matter.
LARGE = 2**15


@dataclass(frozen=True)
class Scaled:
    """``mantissa * exp(log_scale)``.

    Args:
        mantissa: Tensor of shape (R, p, q), entries of moderate size.
        log_scale: Tensor that broadcasts against ``mantissa``, usually (R, p, 1); -inf marks an exact zero.
    """

    mantissa: Tensor
    log_scale: Tensor

    @staticmethod
    def zeros(like: Tensor, per_entry: bool = False) -> Scaled:
        """An exact zero shaped like ``like`` (R, p, q), with one scale per row or per entry."""
        scale = like if per_entry else like[..., :1]
        return Scaled(torch.zeros_like(like), torch.full_like(scale, -math.inf))

    def log_abs(self) -> Tensor:
        """log|x| of every entry; -inf where the entry is zero."""
        return self.mantissa.abs().log() + self.log_scale

    def top(self) -> Tensor:
        """The largest log|x| of each run, shape (R, 1, 1); 0 for a run that is entirely zero."""
        top = self.log_abs().amax(dim=(-2, -1), keepdim=True)
        return torch.where(torch.isfinite(top), top, torch.zeros_like(top))

    def relative_to(self, log_unit: Tensor) -> Tensor:
        """The plain tensor in units of ``exp(log_unit)``; entries far below the unit underflow to zero."""
        return self.mantissa * torch.exp(self.log_scale - log_unit)

    def unit(self) -> Tensor:
        """The largest row scale of each run, (R, 1, 1), as a logarithm that may be subtracted: finite for an exact zero, too."""
        return _finite(self.log_scale.amax(dim=(-2, -1), keepdim=True))

    def collapse(self) -> Tensor:
        """The plain tensor in units of each run's own largest row scale (a positive multiple of the true one)."""
        return self.relative_to(self.unit())

    def times(self, log_factor: Tensor | float) -> Scaled:
        """The tensor times ``exp(log_factor)``."""
        return Scaled(self.mantissa, self.log_scale + log_factor)


def rescaled(mantissa: Tensor, log_scale: Tensor, out: Tensor | None = None) -> Scaled:
    """Move the size of each scale group from the mantissa into its log scale (largest |mantissa| becomes 1).

    Args:
        mantissa, log_scale: As of :class:`Scaled`.
        out: Where the new mantissa goes, such as the memory of the old; None for memory of its own.
    """
    per_entry = log_scale.shape[-1] == mantissa.shape[-1]
    size = mantissa.abs() if per_entry else largest_size(mantissa, -1)
    # The logarithm of an empty group's size is the -inf that marks it.
    return Scaled(torch.div(mantissa, size.masked_fill(size == 0, 1.0), out=out), log_scale + size.log())


def largest_size(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """max |x| along ``dim``, which is kept with length 1.

    Of what is large, without writing |x| down: two passes that read take half the time of one that writes, too.

    Args:
        x: Any shape.
        dim: One dimension or several.
    """
    if x.numel() < LARGE:
        return x.abs().amax(dim=dim, keepdim=True)
    # abs_: of zeros the two may be -0.
    return torch.maximum(x.amax(dim=dim, keepdim=True), x.amin(dim=dim, keepdim=True).neg_()).abs_()


def _finite(log_unit: Tensor) -> Tensor:
    """A unit that may be subtracted: the lowest finite number for -inf, so that -inf - unit is -inf and no nan."""
    return log_unit.clamp(min=torch.finfo(log_unit.dtype).min)


def _units(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A common log scale for two, and the factors that bring each to it (0 for an exact zero)."""
    common = torch.maximum(a, b)
    safe = _finite(common)
    return common, torch.exp(a - safe), torch.exp(b - safe)


def _counted(a: Scaled, weight: Tensor | float) -> Tensor:
    """The log scale of what counts with a weight: -inf where that is 0, so that it makes nothing else underflow."""
    if isinstance(weight, Tensor):
        return a.log_scale.masked_fill(weight == 0, -math.inf)
    return a.log_scale if weight != 0 else torch.full_like(a.log_scale, -math.inf)


def average(old: Scaled, new: Scaled, beta: Tensor | float) -> Scaled:
    """Exponential moving average ``beta * old + (1 - beta) * new``, exact at any scale.

    When ``new`` is smaller than ``beta * old`` the average is dominated by its oldest terms; that is what the algorithm does in
    exact arithmetic, and nothing is clamped here.
    """
    return combine(old, new, beta, 1 - beta)


def combine(a: Scaled, b: Scaled, weight_a: Tensor | float, weight_b: Tensor | float) -> Scaled:
    """``weight_a * a + weight_b * b`` for non-negative weights of shape (R, 1, 1) or plain numbers; of one shape, not to be
    differentiated."""
    common, factor_a, factor_b = _units(_counted(a, weight_a), _counted(b, weight_b))
    total = (weight_a * factor_a * a.mantissa).add_(weight_b * factor_b * b.mantissa)
    return rescaled(total, common, out=total)


def root_mean_square(old: Scaled, new: Scaled, beta: Tensor | float) -> Scaled:
    """``sqrt(beta * old^2 + (1 - beta) * new^2)`` without squaring: the root r of Adam's v, which would underflow twice
    as early."""
    common, factor_old, factor_new = _units(_counted(old, beta), new.log_scale)
    keep, add = (beta**0.5, (1 - beta) ** 0.5) if isinstance(beta, float) else (beta.sqrt(), (1 - beta).sqrt())
    return rescaled(_hypot(keep * factor_old * old.mantissa, add * factor_new * new.mantissa), common)


def log_inner(a: Scaled, b: Tensor) -> Tensor:
    """log <a, b> of an inner product that is known not to be negative, (R, 1, 1); -inf where it is zero.

    Args:
        a: (R, p, q), at any scale.
        b: A plain tensor of that shape.
    """
    unit = a.top()
    return (a.relative_to(unit) * b).sum(dim=(-2, -1), keepdim=True).clamp(min=0).log() + unit


def _hypot(a: Tensor, b: Tensor) -> Tensor:
    """sqrt(a^2 + b^2) from correctly rounded operations alone; torch.hypot rounds by a number's place in its tensor."""
    a, b = a.abs(), b.abs()
    large = torch.maximum(a, b)
    ratio = torch.minimum(a, b) / large.masked_fill(large == 0, 1.0)
    return large * (1 + ratio * ratio).sqrt()
