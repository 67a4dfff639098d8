"""Losses of the gaps, in the log domain.

A sample's gaps are m_c = f_y - f_c, c != y. A loss takes the negative gaps u_c = -m_c and returns, exactly at any depth, the
logarithm of the sample's loss and of its weights w_c = -dl/dm_c > 0: nothing like p_y - 1 is ever formed, and nothing underflows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from implicit_bias.core.options import Option
from implicit_bias.core.registry import Registry

LOSSES = Registry("implicit_bias.losses", "loss")

# Below this, log1p(e^a) = e^a to double precision.
EXPONENTIAL_TAIL = -37.0
# Exponents are cut here: e^-600 = 1e-261 is nothing beside 1, and denormal numbers, a tenth as fast, never arise.
FLOOR = {torch.float64: -600.0, torch.float32: -80.0}


class LossTerms(NamedTuple):
    """Per-sample quantities, with weights w_ic = -dl_i/dm_ic = shape_ic * share_i * exp(log_unit).

    Attributes:
        shape: In [0, 1] with largest entry 1 in each sample, floored at e^-600 (float32: e^-80); (R, pairs, n).
        share: Shape (R, n), floored likewise.
        total: sum_c w_ic / exp(log_unit), shape (R, n), at most about 1.
        log_unit: The scale of each run, shape (R, 1).
        size, top: sum_c exp(u_c - top) and top, (R, n), with u here the log weights before they are normalised:
            what :meth:`Loss.log_totals` and :meth:`Loss.log_losses` are made from, which most steps do not need.
        losses: log l_i, shape (R, n), where it does not follow from those.
    """

    shape: Tensor
    share: Tensor
    total: Tensor
    log_unit: Tensor
    size: Tensor
    top: Tensor
    losses: Tensor | None = None


@dataclass(frozen=True)
class Loss(Option, ABC):
    """A loss of the gaps, from negative gaps ``u`` (R, pairs, n) that are -inf at the pairs that do not count."""

    name: ClassVar[str]
    #: Whether log L is a convex function of the gaps, as of a sum of exponentials.
    log_convex: ClassVar[bool] = False

    @abstractmethod
    def terms(self, u: Tensor, offset: Tensor | None = None) -> LossTerms:
        """What a gradient needs. ``u`` is overwritten: it becomes ``shape``.

        Args:
            u: The negative gaps plus ``offset``, (R, pairs, n).
            offset: What to subtract from every pair of a sample, (R, n); None for nothing. For most losses that is done in one
                number a sample instead of in all.

        Returns:
            The sample weights in scaled form.
        """

    @abstractmethod
    def log_weights(self, u: Tensor) -> Tensor:
        """log w_ic without any floor, shape (R, pairs, n); -inf where u is. ``u`` is left alone.

        Args:
            u: The negative gaps, (R, pairs, n).

        Returns:
            log w_ic, (R, pairs, n).
        """

    def log_totals(self, terms: LossTerms) -> Tensor:
        """log sum_c w_ic, shape (R, n), without any floor.

        Args:
            terms: As :meth:`terms` gave them.

        Returns:
            log sum_c w_ic, (R, n).
        """
        return terms.size.log().add_(terms.top)

    def log_losses(self, terms: LossTerms) -> Tensor:
        """log l_i, shape (R, n).

        Args:
            terms: As :meth:`terms` gave them.

        Returns:
            log l_i, (R, n).
        """
        return terms.size.log().add_(terms.top) if terms.losses is None else terms.losses

    def largest(self, terms: LossTerms) -> Tensor | None:
        """The largest negative gap of every sample, (R, n), -inf where no pair counts; None where the terms do not have it.

        Args:
            terms: As :meth:`terms` gave them.

        Returns:
            max_c u_c with the bits that it has in u, or None.
        """
        return None

    @abstractmethod
    def curvature(self, log_loss: Tensor, pairs: int) -> Tensor:
        """C, shape (R,): along a direction that changes every gap by at most 1, the second derivative of the mean loss is at most
        C wherever the loss is not above ``log_loss`` (R,).

        Args:
            log_loss: log L, the natural log of the mean loss, (R,).
            pairs: The gaps of a sample, k - 1.

        Returns:
            C, (R,).
        """

    def soft_gap(self, log_sum: Tensor) -> Tensor:
        """The gap of a single pair whose loss is the sum over samples, from its logarithm (R,): the soft minimum of the gaps.

        With l = exp(-phi(m)) it is phi^-1(log(1 / sum_i l_i)) (Lyu and Li, arXiv 1906.05890, Definition A.3), here for the
        logistic log(1 + e^-m): -log(e^S - 1), S the sum.

        Args:
            log_sum: log sum_i l_i, (R,).

        Returns:
            The soft minimum of the gaps, (R,), in units of the scores.
        """
        total = log_sum.clamp(min=EXPONENTIAL_TAIL).exp()
        return torch.where(log_sum < EXPONENTIAL_TAIL, -log_sum, -total - torch.log(-torch.expm1(-total)))


def softplus(a: Tensor) -> Tensor:
    """log(1 + e^a) to double precision. torch's own is off by e^-20 above 20, and rounds by a number's place in its tensor.

    Args:
        a: Any shape.

    Returns:
        log(1 + e^a), the same shape.
    """
    return a.clamp(min=0) + torch.log1p(torch.exp(-a.abs()))


def log_log1p_exp(a: Tensor) -> Tensor:
    """log(log(1 + e^a)) to full relative precision of its exponential, for any a.

    Args:
        a: Any shape.

    Returns:
        log log(1 + e^a), the same shape.
    """
    return torch.where(a < EXPONENTIAL_TAIL, a, softplus(a.clamp(min=EXPONENTIAL_TAIL)).log())


class Softmax(NamedTuple):
    """shape = exp(u - top) over the pair axis, top the largest u; size = sum shape, so that logsumexp(u) = top + log size."""

    shape: Tensor
    size: Tensor
    top: Tensor


def softmax_in_place(u: Tensor, offset: Tensor | None) -> Softmax:
    """The softmax of ``u - offset`` over the pairs, in the memory of ``u``: the one pass of exponentials that a step needs.

    Args:
        u: (R, pairs, n), overwritten: it becomes ``shape``.
        offset: (R, n), subtracted from every pair of a sample; None for nothing.

    Returns:
        ``shape`` (R, pairs, n) in the memory of ``u``, ``size`` and ``top`` (R, n).
    """
    top = u.amax(dim=-2)
    shape = u.sub_(top.unsqueeze(-2)).clamp_(min=FLOOR[u.dtype]).exp_()
    return Softmax(shape, shape.sum(dim=-2), top if offset is None else top - offset)


def exponential_terms(softmax: Softmax, losses: Tensor | None = None) -> LossTerms:
    """The terms of weights w_c = exp(u_c); log l = logsumexp(u) unless given otherwise.

    Args:
        softmax: Of the log weights u, (R, pairs, n).
        losses: log l_i, (R, n); None where it is logsumexp(u).

    Returns:
        The terms.
    """
    shape, size, top = softmax
    log_unit = top.amax(dim=-1, keepdim=True)
    share = (top - log_unit).clamp_(min=FLOOR[top.dtype]).exp_()
    return LossTerms(shape, share, size * share, log_unit, size, top, losses)
