"""Diagonal linear networks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from implicit_bias.core.registry import hyper
from implicit_bias.models.base import MODELS
from implicit_bias.models.network import Network, Shape


@MODELS.register
@dataclass(frozen=True)
class Diagonal(Network):
    """Diagonal linear network f(x) = (w_1 * w_2 * ... * w_k) x, entrywise products, k = depth; degree k.

    Blocks layer1, ..., layerk of shape (outputs, d). With different entries at the start, coordinates compete.
    """

    name: ClassVar[str] = "diagonal"

    depth: int = hyper(2, help="factors", ge=1, most=10_000)

    def block_names(self) -> list[str]:
        return [f"layer{j}" for j in range(1, self.depth + 1)]

    def shapes(self, dim: int, outputs: int) -> dict[str, Shape]:
        return {name: Shape(outputs, dim, dim) for name in self.block_names()}

    def forward(self, blocks: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        return math.prod((blocks[name] for name in self.block_names()[1:]), start=blocks["layer1"]) @ inputs

    def _degree(self) -> float | str:
        return float(len(set(self.block_names()) - set(self.frozen_blocks())))

    def layer_degrees(self) -> dict[str, float]:
        return {name: 1.0 for name in self.block_names() if name not in self.frozen_blocks()}

    def _degree_keys(self) -> str:
        return f"model.depth={self.depth}"
