"""Diagonal linear networks with two signs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from implicit_bias.core.registry import hyper
from implicit_bias.models.base import MODELS
from implicit_bias.models.network import Network, Shape

PLUS, MINUS = "plus", "minus"


@MODELS.register
@dataclass(frozen=True)
class SignedDiagonal(Network):
    """Diagonal linear network f(x) = (u^k - v^k) x, entrywise powers, k = depth; degree k.

    Blocks plus (u) and minus (v), of shape (outputs, d). From the constant start u = v = init_scale the function is zero at
    first, and the size of the start alone says how near training is to that of a linear model (large) or to one that is sparse
    (small): Woodworth et al., arXiv 2002.09277.
    """

    name: ClassVar[str] = "signed_diagonal"

    init: str = hyper(
        "constant",
        help="initial entries, scaled by init_scale / fan_in^init_exponent; constant: all 1",
        choices=("constant", "uniform", "normal"),
    )
    init_scale: float = hyper(
        1.0, help="initial entries (their bound or deviation where random) times fan_in^init_exponent", gt=0
    )
    init_exponent: float = hyper(0.0, help="power of the number of inputs that initial entries are divided by", ge=0)
    depth: int = hyper(2, help="k, the power of each weight", ge=1, most=10_000)

    def block_names(self) -> list[str]:
        return [PLUS, MINUS]

    def shapes(self, dim: int, outputs: int) -> dict[str, Shape]:
        return {name: Shape(outputs, dim, dim) for name in self.block_names()}

    def forward(self, blocks: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        return (blocks[PLUS] ** self.depth - blocks[MINUS] ** self.depth) @ inputs

    def hidden_matrices(self, names: Sequence[str]) -> list[str]:
        """Both blocks: neither is a head.

        Args:
            names: Trained blocks.

        Returns:
            All of them.
        """
        return list(names)

    def _draw(self, shapes: Mapping[str, Shape], seed: int) -> dict[str, NDArray[np.float64]]:
        if self.init != "constant":
            return super()._draw(shapes, seed)
        return {name: np.full((s.rows, s.columns), 1.0 / s.fan_in**self.init_exponent) for name, s in shapes.items()}

    def _degree(self) -> float | str:
        if self.frozen_blocks():
            return f"model.frozen={list(self.frozen_blocks())}: the frozen block is added to the other, which breaks homogeneity"
        return float(self.depth)

    def _degree_keys(self) -> str:
        return f"model.depth={self.depth}"
