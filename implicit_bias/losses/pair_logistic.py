"""The logistic loss of every pair of classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from implicit_bias.losses.base import LOSSES, Loss, LossTerms, exponential_terms, log_log1p_exp, softmax_in_place, softplus


@LOSSES.register
@dataclass(frozen=True)
class PairLogistic(Loss):
    """Pairwise logistic loss (PairLogLoss), l = sum_c log(1 + exp(-m_c)) (Fan et al., arXiv 2502.04664, App. F).

    log l = logsumexp_c log log1p(e^{u_c}), w_c = 1 / (1 + e^{-u_c}).
    """

    name: ClassVar[str] = "pair_logistic"

    def terms(self, u: Tensor, offset: Tensor | None = None) -> LossTerms:
        if offset is not None:
            u.sub_(offset.unsqueeze(-2))
        log_losses = log_log1p_exp(u)
        return exponential_terms(softmax_in_place(u.sub_(softplus(u)), None), log_losses.logsumexp(dim=-2))

    def log_weights(self, u: Tensor) -> Tensor:
        return u - softplus(u)

    def curvature(self, log_loss: Tensor, pairs: int) -> Tensor:
        # Every pair's logistic has curvature at most 1/4.
        return torch.full_like(log_loss, pairs / 4)
