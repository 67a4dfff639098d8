"""Coordinate descent."""

from dataclasses import dataclass
from typing import ClassVar

from implicit_bias.optimizers.base import OPTIMIZERS
from implicit_bias.optimizers.descent import NormalisedDescent


@OPTIMIZERS.register
@dataclass(frozen=True)
class CoordinateDescent(NormalisedDescent):
    """Greedy coordinate descent; maximises the l1 margin.

    The entry of largest |gradient| moves by eta_t (Gunasekar et al., arXiv 1802.08246, section 3).
    """

    name: ClassVar[str] = "coordinate_descent"
    own_norm: ClassVar[str | None] = "l1"
    one_coordinate: ClassVar[bool] = True
