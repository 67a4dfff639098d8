"""Row-normalised descent."""

from dataclasses import dataclass
from typing import ClassVar

from implicit_bias.optimizers.base import OPTIMIZERS
from implicit_bias.optimizers.descent import NormalisedDescent


@OPTIMIZERS.register
@dataclass(frozen=True)
class RowGD(NormalisedDescent):
    """Row-normalised descent; maximises the row-norm (2,inf) margin.

    theta -= eta_t times every row of g_t divided by its own l2 norm.
    """

    name: ClassVar[str] = "row_gd"
    own_norm: ClassVar[str | None] = "row"
