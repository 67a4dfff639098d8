"""Losses of the gaps, in the log domain.

A sample's gaps are m_c = f_y - f_c, c != y. A loss takes the negative gaps u_c = -m_c and returns, exactly at any depth, the logarithm of the
sample's loss and of its weights w_c = -dl/dm_c > 0: nothing like p_y - 1 is ever formed, and nothing underflows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from implicit_bias.registry import Table

LOSSES = Table("loss")

# Below this, log1p(e^a) = e^a to double precision.
EXPONENTIAL_TAIL = -37.0


class LossTerms(NamedTuple):
    """Per-sample quantities, logarithms throughout.

    Attributes:
        log_loss: log l_i, shape (R, n).
        log_weights: log w_ic with w_ic = -dl_i/dm_ic, shape (R, pairs, n); -inf where u is -inf (the label).
        log_total: log sum_c w_ic, shape (R, n).
    """

    log_loss: Tensor
    log_weights: Tensor
    log_total: Tensor


@dataclass(frozen=True)
class Loss(ABC):
    """A loss of the gaps; see :meth:`terms`."""

    name: ClassVar[str]

    @abstractmethod
    def terms(self, u: Tensor) -> LossTerms:
        """Log loss and log weights from negative gaps ``u`` (R, pairs, n), -inf at the pairs that do not count."""


def softplus(a: Tensor) -> Tensor:
    """log(1 + e^a) to double precision; torch's own switches to a linear branch at 20, with an error of e^-20."""
    return functional.softplus(a, threshold=40.0)


def log_log1p_exp(a: Tensor) -> Tensor:
    """log(log(1 + e^a)) to full relative precision of its exponential, for any a."""
    return torch.where(a < EXPONENTIAL_TAIL, a, softplus(a.clamp(min=EXPONENTIAL_TAIL)).log())


def logsumexp_pairs(u: Tensor) -> Tensor:
    """logsumexp over the pair axis, (R, pairs, n) to (R, n); written out because it is the hot spot of every step."""
    top = u.amax(dim=-2)
    return top + (u - top.unsqueeze(-2)).exp().sum(dim=-2).log()


@LOSSES.register
@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Cross entropy, l = log(1 + sum_c exp(-m_c)), the default.

    With a = logsumexp(u): log l = log log1p(e^a), w_c = exp(u_c) / (1 + e^a), sum w = e^a / (1 + e^a).
    """

    name: ClassVar[str] = "cross_entropy"

    def terms(self, u: Tensor) -> LossTerms:
        a = logsumexp_pairs(u)
        log_normaliser = softplus(a)
        return LossTerms(log_log1p_exp(a), u - log_normaliser.unsqueeze(-2), a - log_normaliser)


@LOSSES.register
@dataclass(frozen=True)
class Exponential(Loss):
    """Exponential loss, l = sum_c exp(-m_c) (Fan et al., arXiv 2502.04664, App. F).

    With a = logsumexp(u): log l = a, w_c = exp(u_c), sum w = e^a.
    """

    name: ClassVar[str] = "exponential"

    def terms(self, u: Tensor) -> LossTerms:
        a = logsumexp_pairs(u)
        return LossTerms(a, u, a)


@LOSSES.register
@dataclass(frozen=True)
class PairLogistic(Loss):
    """Pairwise logistic loss (PairLogLoss), l = sum_c log(1 + exp(-m_c)) (Fan et al., arXiv 2502.04664, App. F).

    log l = logsumexp_c log log1p(e^{u_c}), w_c = 1 / (1 + e^{-u_c}).
    """

    name: ClassVar[str] = "pair_logistic"

    def terms(self, u: Tensor) -> LossTerms:
        log_weights = u - softplus(u)
        return LossTerms(logsumexp_pairs(log_log1p_exp(u)), log_weights, logsumexp_pairs(log_weights))
