"""Normalised momentum descent in any norm."""

from dataclasses import dataclass
from typing import ClassVar

from implicit_bias.optimizers.base import OPTIMIZERS
from implicit_bias.optimizers.descent import NormalisedMomentumDescent
from implicit_bias.optimizers.schedule_free import ScheduleFree


@OPTIMIZERS.register
@dataclass(frozen=True)
class NMD(ScheduleFree, NormalisedMomentumDescent):
    """Normalised momentum steepest descent in the norm that `norm` names; maximises its margin.

    theta -= eta_t direction(m_t) (Fan et al., arXiv 2502.04664, Theorem 2).
    """

    name: ClassVar[str] = "nmd"
