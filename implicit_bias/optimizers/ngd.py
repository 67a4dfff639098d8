"""Normalised gradient descent."""

from dataclasses import dataclass
from typing import ClassVar

from implicit_bias.optimizers.base import OPTIMIZERS
from implicit_bias.optimizers.descent import NormalisedDescent


@OPTIMIZERS.register
@dataclass(frozen=True)
class NGD(NormalisedDescent):
    """Normalised gradient descent; maximises the l2 margin.

    theta -= eta_t g_t / ||g_t||_2 (Fan et al., arXiv 2502.04664, Theorem 1).
    """

    name: ClassVar[str] = "ngd"
    own_norm: ClassVar[str | None] = "l2"
