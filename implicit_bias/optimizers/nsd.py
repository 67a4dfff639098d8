"""Normalised steepest descent in any norm."""

from dataclasses import dataclass
from typing import ClassVar

from implicit_bias.optimizers.base import OPTIMIZERS
from implicit_bias.optimizers.descent import NormalisedDescent
from implicit_bias.optimizers.schedule_free import ScheduleFree


@OPTIMIZERS.register
@dataclass(frozen=True)
class NSD(ScheduleFree, NormalisedDescent):
    """Normalised steepest descent in the norm that `norm` names; maximises its margin.

    theta -= eta_t direction(g_t) (Fan et al., arXiv 2502.04664, Theorem 1).
    """

    name: ClassVar[str] = "nsd"
