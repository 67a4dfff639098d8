"""Sign descent."""

from dataclasses import dataclass
from typing import ClassVar

from implicit_bias.optimizers.base import OPTIMIZERS
from implicit_bias.optimizers.descent import NormalisedDescent


@OPTIMIZERS.register
@dataclass(frozen=True)
class SignGD(NormalisedDescent):
    """Sign descent; maximises the max-norm margin.

    theta -= eta_t sign(g_t) (Fan et al., arXiv 2502.04664, Theorem 1).
    """

    name: ClassVar[str] = "signgd"
    own_norm: ClassVar[str | None] = "linf"
