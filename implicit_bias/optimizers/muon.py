"""Muon with the exact polar factor."""

from dataclasses import dataclass
from typing import ClassVar

from implicit_bias.optimizers.base import OPTIMIZERS
from implicit_bias.optimizers.descent import NormalisedMomentumDescent


@OPTIMIZERS.register
@dataclass(frozen=True)
class Muon(NormalisedMomentumDescent):
    """Muon with the exact polar factor; maximises the spectral-norm margin.

    theta -= eta_t U V^T with m_t = U S V^T, exact and truncated (Fan et al., arXiv 2502.04664, Theorem 2).
    """

    name: ClassVar[str] = "muon"
    own_norm: ClassVar[str | None] = "spectral"
