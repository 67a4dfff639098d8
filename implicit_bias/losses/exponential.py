"""The exponential loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from implicit_bias.losses.base import FLOOR, LOSSES, Loss, LossTerms, exponential_terms, softmax_in_place


@LOSSES.register
@dataclass(frozen=True)
class Exponential(Loss):
    """Exponential loss, l = sum_c exp(-m_c) (Fan et al., arXiv 2502.04664, App. F).

    With a = logsumexp(u): log l = a, w_c = exp(u_c), sum w = e^a.
    """

    name: ClassVar[str] = "exponential"
    log_convex: ClassVar[bool] = True

    def terms(self, u: Tensor, offset: Tensor | None = None) -> LossTerms:
        return exponential_terms(softmax_in_place(u, offset))

    def largest(self, terms: LossTerms) -> Tensor | None:
        # Rounding is monotone: the offset less than the largest is the largest of what is less than the offset.
        # A subclass may make its terms of other gaps.
        return terms.top if type(self).terms is Exponential.terms else None

    def log_weights(self, u: Tensor) -> Tensor:
        return u

    def curvature(self, log_loss: Tensor, pairs: int) -> Tensor:
        # The loss itself; cut where eta0 / e^600 is still a double.
        return log_loss.clamp(max=-FLOOR[log_loss.dtype]).exp()

    def soft_gap(self, log_sum: Tensor) -> Tensor:
        return -log_sum
