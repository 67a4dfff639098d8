"""Fully connected networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from implicit_bias.core.data import Parameters
from implicit_bias.core.registry import hyper
from implicit_bias.models.base import MODELS
from implicit_bias.models.layered import Layered, product
from implicit_bias.models.linearised import Linearised
from implicit_bias.models.network import Shape


@MODELS.register
@dataclass(frozen=True)
class MLP(Layered):
    """Fully connected network W_k s(... s(W_1 x)), k = depth; degree 2^k - 1 with squared ReLU, k with ReLU.

    Blocks layer1 (width, d), layer2 (width, width), ..., the head (outputs, width), and biases (1, width).
    """

    name: ClassVar[str] = "mlp"

    width: int = hyper(64, help="units of every hidden layer", ge=1)
    depth: int = hyper(2, help="weight layers, the head included", ge=1, most=10_000)

    def layer_count(self) -> int:
        return self.depth

    @property
    def single_layer_of_units(self) -> bool:
        return self.depth == 2 and not self.has_bias(2)

    def shapes(self, dim: int, outputs: int) -> dict[str, Shape]:
        sizes = [dim, *[self.width] * (self.depth - 1), outputs]
        shapes: dict[str, Shape] = {}
        for j in range(1, self.depth + 1):
            shapes[f"layer{j}"] = Shape(sizes[j], sizes[j - 1], sizes[j - 1])
            if self.has_bias(j):
                shapes[f"bias{j}"] = Shape(1, sizes[j], sizes[j - 1])
        return shapes

    def forward(self, blocks: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        h = inputs
        for j in range(1, self.depth + 1):
            z = self._affine(blocks, j, h)
            h = self.activate(z) if j < self.depth else z
        return h

    def linearised(self, trained: Mapping[str, Tensor], frozen: Mapping[str, Tensor], inputs: Tensor) -> Linearised:
        """Back-propagation in closed form: G_j = g_j h_{j-1}^T of layer j, with g_k the weights on the scores and
        g_{j-1} = (W_j^T g_j) s'(z_{j-1}); and forwards dz_j = V_j h_{j-1} + W_j (s'(z_{j-1}) dz_{j-1})."""
        blocks, kept, layer_inputs = {**trained, **frozen}, [], [inputs]
        for j in range(1, self.depth):
            kept.append(self.kept(self._affine(blocks, j, layer_inputs[-1])))
            layer_inputs.append(self.value_of(kept[-1]))
        first = self.first_of(trained)

        def pull(weights: Tensor) -> Parameters:
            g, found = weights, self.gradients(self.depth, trained, weights, layer_inputs[-1])
            for j in range(self.depth - 1, first - 1, -1):
                g = self.pull_through(product(blocks[f"layer{j + 1}"].mT, g), kept[j - 1])
                found |= self.gradients(j, trained, g, layer_inputs[j - 1])
            return {name: found[name] for name in trained}

        def push(tangent: Mapping[str, Tensor]) -> Tensor:
            change: Tensor | None = None
            for j in range(first, self.depth + 1):
                if change is not None:
                    change = product(blocks[f"layer{j}"], self.pull_through(change, kept[j - 2]))
                for moved in self._moves(j, tangent, layer_inputs[j - 1]):
                    change = moved if change is None else change + moved
            assert change is not None
            return change

        return Linearised(self._affine(blocks, self.depth, layer_inputs[-1]), pull, push)

    def _moves(self, j: int, tangent: Mapping[str, Tensor], h: Tensor) -> list[Tensor]:
        """What changes of the blocks of layer j change in W_j h + b_j, those that are in the set, (R, q, m) each."""
        found = [product(tangent[f"layer{j}"], h)] if f"layer{j}" in tangent else []
        return [*found, tangent[f"bias{j}"].mT.expand(-1, -1, h.shape[-1])] if f"bias{j}" in tangent else found
