"""Shampoo without accumulation."""

from dataclasses import dataclass
from typing import ClassVar

from implicit_bias.optimizers.base import OPTIMIZERS
from implicit_bias.optimizers.descent import NormalisedDescent


@OPTIMIZERS.register
@dataclass(frozen=True)
class Shampoo(NormalisedDescent):
    """Shampoo without accumulation; maximises the spectral-norm margin.

    W -= eta_t (G G^T)^(-1/4) G (G^T G)^(-1/4) in every matrix, with pseudo-inverse roots. In terms of G = U S V^T that is
    U V^T, the step of spectral descent, and is computed as such (Tsilivis et al., arXiv 2410.22069, section 2).
    """

    name: ClassVar[str] = "shampoo"
    own_norm: ClassVar[str | None] = "spectral"
