"""Unnormalised steepest descent in any norm."""

from dataclasses import dataclass
from typing import ClassVar

from implicit_bias.optimizers.base import OPTIMIZERS
from implicit_bias.optimizers.descent import SteepestDescent


@OPTIMIZERS.register
@dataclass(frozen=True)
class SD(SteepestDescent):
    """Unnormalised steepest descent in the norm that `norm` names.

    theta -= eta_t N_*(g_t) direction(g_t) (Gunasekar et al., arXiv 1802.08246, section 3).
    """

    name: ClassVar[str] = "sd"
