"""What MLPs and CNNs share: an activation after every layer but the last, and biases."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from implicit_bias.core.data import Parameters
from implicit_bias.core.registry import hyper
from implicit_bias.models.activations import ACTIVATIONS
from implicit_bias.models.network import Network, layers_degree


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b, with less ado where both have as many runs: of small matrices that takes as long as the product.

    Args:
        a: (R or 1, p, q).
        b: (R or 1, q, m).

    Returns:
        The products, (R, p, m).
    """
    return torch.bmm(a, b) if len(a) == len(b) else a @ b


@dataclass(frozen=True)
class Layered(Network):
    """Layers W_j with an activation between them."""

    depth_key: ClassVar[str] = "model.depth"

    activation: str = hyper("squared_relu", help="after every layer but the last", choices=tuple(ACTIVATIONS))
    power: float = hyper(2.0, help="q of activation=relu_power, relu(z)^q", ge=1, batch=False)
    slope: float = hyper(0.01, help="of leaky_relu below zero")
    bias: str = hyper(
        "none", help="first: in the first layer, which keeps homogeneity; all: in every layer", choices=("none", "first", "all")
    )

    @abstractmethod
    def layer_count(self) -> int:
        """Weight layers, the head included."""

    def block_names(self) -> list[str]:
        names: list[str] = []
        for j in range(1, self.layer_count() + 1):
            names.append(f"layer{j}")
            if self.has_bias(j):
                names.append(f"bias{j}")
        return names

    def has_bias(self, layer: int) -> bool:
        """Whether layer ``layer``, counted from 1, has one.

        Args:
            layer: From 1 on.

        Returns:
            The truth value.
        """
        return self.bias == "all" or (self.bias == "first" and layer == 1)

    def activate(self, z: Tensor) -> Tensor:
        """The activation.

        Args:
            z: Any shape.

        Returns:
            s(z), the same shape.
        """
        return ACTIVATIONS[self.activation].apply(z, self.power, self.slope)

    def _affine(self, blocks: Mapping[str, Tensor], j: int, h: Tensor) -> Tensor:
        """W_j h + b_j of inputs (R, p, m)."""
        z = product(blocks[f"layer{j}"], h)
        return z + blocks[f"bias{j}"].mT if self.has_bias(j) else z

    def gradients(self, j: int, trained: Collection[str], g: Tensor, h: Tensor) -> Parameters:
        """The derivatives in the blocks of layer j.

        Args:
            j: From 1 on.
            trained: The blocks that are wanted.
            g: The derivative in z_j = W_j h + b_j, (R, q, m).
            h: (R, p, m).

        Returns:
            g h^T (R, q, p) and the sum of g (R, 1, q), as far as they are wanted.
        """
        found: Parameters = {}
        if f"layer{j}" in trained:
            found[f"layer{j}"] = product(g, h.mT)
        if f"bias{j}" in trained:
            found[f"bias{j}"] = g.sum(dim=-1).unsqueeze(-2)
        return found

    def first_of(self, trained: Collection[str]) -> int:
        """The first layer with a block among these: nothing is differentiated below it.

        Args:
            trained: Some blocks.

        Returns:
            The layer's number, from 1 on.
        """
        return next(j for j in range(1, self.layer_count() + 1) if {f"layer{j}", f"bias{j}"} & set(trained))

    def kept(self, z: Tensor) -> Tensor:
        """What is remembered of an activation's argument, see :class:`implicit_bias.models.activations.Activation`.

        Args:
            z: Any shape.

        Returns:
            h, the same shape.
        """
        return ACTIVATIONS[self.activation].kept(z)

    def value_of(self, h: Tensor) -> Tensor:
        """The activation, from what was remembered.

        Args:
            h: What :meth:`kept` gave of z.

        Returns:
            s(z).
        """
        return ACTIVATIONS[self.activation].value(h, self.power, self.slope)

    def pull_through(self, g: Tensor, h: Tensor) -> Tensor:
        """The chain rule through the activation. ``g`` may be overwritten.

        Args:
            g: The derivative in s(z).
            h: What :meth:`kept` gave of z.

        Returns:
            The derivative in z, g s'(z).
        """
        return ACTIVATIONS[self.activation].pull(g, h, self.power, self.slope)

    def _degree(self) -> float | str:
        layers = range(1, self.layer_count() + 1)
        frozen = self.frozen_blocks()
        order = ACTIVATIONS[self.activation].order
        orders = [None if order is None else order(self.power)] * (len(layers) - 1)
        biases = [("frozen" if f"bias{j}" in frozen else "trained") if self.has_bias(j) else "none" for j in layers]
        return layers_degree([*orders, 1.0], [f"layer{j}" not in frozen for j in layers], biases, self._describe)

    def layer_degrees(self) -> dict[str, float]:
        layers = range(self.layer_count(), 0, -1)
        order = ACTIVATIONS[self.activation].order
        if not self.homogeneous or order is None or any(map(self.has_bias, layers)):
            return {}
        # Each activation between a layer and the output raises the degree to its order.
        degrees = {f"layer{j}": order(self.power) ** (self.layer_count() - j) for j in layers}
        return {name: degrees[name] for name in self.block_names() if name not in self.frozen_blocks()}

    def _describe(self, part: str, j: int) -> str:
        if part == "activation":
            return f"model.activation={self.activation}: the activation after layer{j + 1}"
        return f"model.bias={self.bias}: bias{j + 1}"

    def _degree_keys(self) -> str:
        return f"{self.depth_key}={self.layer_count()}"
