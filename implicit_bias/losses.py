"""Losses of the gaps, in the log domain.

A sample's gaps are m_c = f_y - f_c, c != y. A loss takes the negative gaps u_c = -m_c and returns, exactly at any depth,
the logarithm of the
sample's loss and of its weights w_c = -dl/dm_c > 0: nothing like p_y - 1 is ever formed, and nothing underflows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from implicit_bias.registry import Table

LOSSES = Table("loss")

# Below this, log1p(e^a) = e^a to double precision.
EXPONENTIAL_TAIL = -37.0
# Exponents are cut here: e^-600 = 1e-261 is nothing beside 1, and denormal numbers, a tenth as fast, never arise.
FLOOR = {torch.float64: -600.0, torch.float32: -80.0}


class LossTerms(NamedTuple):
    """Per-sample quantities, with w_ic = -dl_i/dm_ic = shape_ic / size_i * exp(log_total_i).

    Attributes:
        shape: In [0, 1] with largest entry 1 in each sample, floored at e^-600 (float32: e^-80); (R, pairs, n).
        size: sum_c shape_ic, shape (R, n).
        log_total: log sum_c w_ic, shape (R, n).
        log_losses: Gives log l_i, shape (R, n); most steps do not need it.
    """

    shape: Tensor
    size: Tensor
    log_total: Tensor
    log_losses: Callable[[], Tensor]


@dataclass(frozen=True)
class Loss(ABC):
    """A loss of the gaps, from negative gaps ``u`` (R, pairs, n) that are -inf at the pairs that do not count."""

    name: ClassVar[str]

    @abstractmethod
    def terms(self, u: Tensor) -> LossTerms:
        """What a gradient needs. ``u`` is overwritten: it becomes ``shape``."""

    @abstractmethod
    def log_weights(self, u: Tensor) -> Tensor:
        """log w_ic without any floor, shape (R, pairs, n); -inf where u is. ``u`` is left alone."""

    def soft_gap(self, log_sum: Tensor) -> Tensor:
        """The gap of a single pair whose loss is the sum over samples, from its logarithm (R,): the soft minimum of the gaps.

        With l = exp(-phi(m)) it is phi^-1(log(1 / sum_i l_i)) (Lyu and Li, arXiv 1906.05890, Definition A.3), here for the
        logistic log(1 + e^-m): -log(e^S - 1), S the sum.
        """
        total = log_sum.clamp(min=EXPONENTIAL_TAIL).exp()
        return torch.where(log_sum < EXPONENTIAL_TAIL, -log_sum, -total - torch.log(-torch.expm1(-total)))


def softplus(a: Tensor) -> Tensor:
    """log(1 + e^a) to double precision. torch's own is off by e^-20 above 20, and rounds by a number's place in its tensor."""
    return a.clamp(min=0) + torch.log1p(torch.exp(-a.abs()))


def log_log1p_exp(a: Tensor) -> Tensor:
    """log(log(1 + e^a)) to full relative precision of its exponential, for any a."""
    return torch.where(a < EXPONENTIAL_TAIL, a, softplus(a.clamp(min=EXPONENTIAL_TAIL)).log())


class Softmax(NamedTuple):
    """shape = exp(u - top) over the pair axis, top the largest u; size = sum shape; a = logsumexp(u) = top + log size."""

    shape: Tensor
    size: Tensor
    a: Tensor


def softmax_in_place(u: Tensor) -> Softmax:
    """The one pass of exponentials that a step needs, in the memory of ``u`` (R, pairs, n): the hot spot of every step."""
    top = u.amax(dim=-2)
    shape = u.sub_(top.unsqueeze(-2)).clamp_(min=FLOOR[u.dtype]).exp_()
    size = shape.sum(dim=-2)
    return Softmax(shape, size, size.log().add_(top))


@LOSSES.register
@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Cross entropy, l = log(1 + sum_c exp(-m_c)), the default.

    With a = logsumexp(u): log l = log log1p(e^a), w_c = exp(u_c) / (1 + e^a), sum w = e^a / (1 + e^a).
    """

    name: ClassVar[str] = "cross_entropy"

    def terms(self, u: Tensor) -> LossTerms:
        shape, size, a = softmax_in_place(u)
        # log(e^a / (1 + e^a)) = min(a, 0) - log(1 + e^-|a|)
        log_total = a.clamp(max=0).sub_(a.abs().neg_().exp_().log1p_())
        return LossTerms(shape, size, log_total, lambda: log_log1p_exp(a))

    def log_weights(self, u: Tensor) -> Tensor:
        return u - softplus(u.logsumexp(dim=-2, keepdim=True))


@LOSSES.register
@dataclass(frozen=True)
class Exponential(Loss):
    """Exponential loss, l = sum_c exp(-m_c) (Fan et al., arXiv 2502.04664, App. F).

    With a = logsumexp(u): log l = a, w_c = exp(u_c), sum w = e^a.
    """

    name: ClassVar[str] = "exponential"

    def terms(self, u: Tensor) -> LossTerms:
        shape, size, a = softmax_in_place(u)
        return LossTerms(shape, size, a, lambda: a)

    def log_weights(self, u: Tensor) -> Tensor:
        return u

    def soft_gap(self, log_sum: Tensor) -> Tensor:
        return -log_sum


@LOSSES.register
@dataclass(frozen=True)
class PairLogistic(Loss):
    """Pairwise logistic loss (PairLogLoss), l = sum_c log(1 + exp(-m_c)) (Fan et al., arXiv 2502.04664, App. F).

    log l = logsumexp_c log log1p(e^{u_c}), w_c = 1 / (1 + e^{-u_c}).
    """

    name: ClassVar[str] = "pair_logistic"

    def terms(self, u: Tensor) -> LossTerms:
        log_losses = log_log1p_exp(u)
        shape, size, log_total = softmax_in_place(u.sub_(softplus(u)))
        return LossTerms(shape, size, log_total, lambda: log_losses.logsumexp(dim=-2))

    def log_weights(self, u: Tensor) -> Tensor:
        return u - softplus(u)
