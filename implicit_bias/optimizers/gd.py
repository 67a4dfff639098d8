"""Gradient descent."""

from dataclasses import dataclass
from typing import ClassVar

from implicit_bias.optimizers.base import OPTIMIZERS
from implicit_bias.optimizers.descent import SteepestDescent


@OPTIMIZERS.register
@dataclass(frozen=True)
class GD(SteepestDescent):
    """Gradient descent; goes to the l2 margin, at a logarithmic rate.

    theta -= eta_t g_t (Soudry et al., arXiv 1710.10345).
    """

    name: ClassVar[str] = "gd"
    own_norm: ClassVar[str | None] = "l2"
