"""Cross entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from implicit_bias.losses.base import FLOOR, LOSSES, Loss, LossTerms, log_log1p_exp, softmax_in_place, softplus


@LOSSES.register
@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Cross entropy, l = log(1 + sum_c exp(-m_c)), the default.

    With a = logsumexp(u): log l = log log1p(e^a), w_c = exp(u_c) / (1 + e^a), sum w = e^a / (1 + e^a).
    """

    name: ClassVar[str] = "cross_entropy"

    def terms(self, u: Tensor, offset: Tensor | None = None) -> LossTerms:
        shape, size, top = softmax_in_place(u, offset)
        # w_c = shape_c e^top / (1 + size e^top), numerator and denominator divided by e^max(top, 0): no logarithm, no overflow.
        low = top.clamp(max=0)
        log_unit = low.amax(dim=-1, keepdim=True)
        share = (low - log_unit).clamp_(min=FLOOR[top.dtype]).exp_().div_((low - top).exp_().add_(size * low.exp()))
        return LossTerms(shape, share, size * share, log_unit, size, top)

    def log_totals(self, terms: LossTerms) -> Tensor:
        a = super().log_totals(terms)
        # log(e^a / (1 + e^a)) = min(a, 0) - log(1 + e^-|a|)
        return a.clamp(max=0).sub_(a.abs().neg_().exp_().log1p_())

    def log_losses(self, terms: LossTerms) -> Tensor:
        return log_log1p_exp(super().log_totals(terms))

    def largest(self, terms: LossTerms) -> Tensor | None:
        # Rounding is monotone: the offset less than the largest is the largest of what is less than the offset.
        # A subclass may make its terms of other gaps.
        return terms.top if type(self).terms is CrossEntropy.terms else None

    def log_weights(self, u: Tensor) -> Tensor:
        return u - softplus(u.logsumexp(dim=-2, keepdim=True))

    def curvature(self, log_loss: Tensor, pairs: int) -> Tensor:
        # The variance of scores that differ by at most 1.
        return torch.full_like(log_loss, 0.25)
