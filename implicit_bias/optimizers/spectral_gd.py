"""Spectral descent."""

from dataclasses import dataclass
from typing import ClassVar

from implicit_bias.optimizers.base import OPTIMIZERS
from implicit_bias.optimizers.descent import NormalisedDescent


@OPTIMIZERS.register
@dataclass(frozen=True)
class SpectralGD(NormalisedDescent):
    """Spectral descent; maximises the spectral-norm margin.

    theta -= eta_t U V^T with g_t = U S V^T, exact and truncated (Fan et al., arXiv 2502.04664, Theorem 1).
    """

    name: ClassVar[str] = "spectral_gd"
    own_norm: ClassVar[str | None] = "spectral"
