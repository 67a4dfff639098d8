"""Sign descent with momentum."""

from dataclasses import dataclass
from typing import ClassVar

from implicit_bias.optimizers.base import OPTIMIZERS
from implicit_bias.optimizers.descent import NormalisedMomentumDescent


@OPTIMIZERS.register
@dataclass(frozen=True)
class Signum(NormalisedMomentumDescent):
    """Sign descent with momentum; maximises the max-norm margin.

    theta -= eta_t sign(m_t) (Fan et al., arXiv 2502.04664, Theorem 2).
    """

    name: ClassVar[str] = "signum"
    own_norm: ClassVar[str | None] = "linf"
