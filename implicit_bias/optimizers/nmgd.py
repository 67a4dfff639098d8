"""Normalised momentum gradient descent."""

from dataclasses import dataclass
from typing import ClassVar

from implicit_bias.optimizers.base import OPTIMIZERS
from implicit_bias.optimizers.descent import NormalisedMomentumDescent


@OPTIMIZERS.register
@dataclass(frozen=True)
class NMGD(NormalisedMomentumDescent):
    """Normalised gradient descent with momentum; maximises the l2 margin.

    theta -= eta_t m_t / ||m_t||_2 (Fan et al., arXiv 2502.04664, Theorem 2).
    """

    name: ClassVar[str] = "nmgd"
    own_norm: ClassVar[str | None] = "l2"
