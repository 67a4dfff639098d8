"""Nuclear-norm descent."""

from dataclasses import dataclass
from typing import ClassVar

from implicit_bias.optimizers.base import OPTIMIZERS
from implicit_bias.optimizers.descent import NormalisedDescent


@OPTIMIZERS.register
@dataclass(frozen=True)
class NucGD(NormalisedDescent):
    """Nuclear-norm descent; maximises the nuclear-norm margin.

    theta -= eta_t u_1 v_1^T, the top singular pair of g_t (Xie et al., arXiv 2603.22824).
    """

    name: ClassVar[str] = "nucgd"
    own_norm: ClassVar[str | None] = "nuclear"
