"""Convolutional networks on square one-channel images."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from implicit_bias.core.data import Parameters
from implicit_bias.core.errors import BadInput
from implicit_bias.core.registry import hyper
from implicit_bias.models.activations import ACTIVATIONS
from implicit_bias.models.base import MODELS
from implicit_bias.models.layered import Layered, product
from implicit_bias.models.linearised import Linearised
from implicit_bias.models.network import Shape
from implicit_bias.models.patches import Spread, add_patches, at_places, from_places, largest, mean, patches


class _Remembered(NamedTuple):
    """What differentiates a convolution with its activation and pooling.

    Attributes:
        kernels: At every place of a cell, (R, places * channels, c * s * s).
        columns: The patches, (R, c * s * s, n), n = rows * columns * m.
        image: What it makes of them, (R, channels, rows, columns, m).
        kept: What is remembered of the activation's argument, (R, channels, n) or (R, places * channels, n).
        spread: The adjoint of pooling.
    """

    kernels: Tensor
    columns: Tensor
    image: Tensor
    kept: Tensor
    spread: Spread


@MODELS.register
@dataclass(frozen=True)
class CNN(Layered):
    """Convolutions (no padding, stride 1), each with its activation and 2 x 2 pooling, then a linear head.

    A kernel is the block (out, in * kernel * kernel), so that matrix norms see it as that matrix; the head is (outputs,
    channels * rows * columns). Samples must be square images of one channel, row by row. Pooling is homogeneous of degree
    one; a last odd row or column is left out. Degree as that of an MLP with as many layers.
    """

    name: ClassVar[str] = "cnn"
    depth_key: ClassVar[str] = "model.channels"

    channels: list[int] = hyper((8, 16), help="kernels of each convolution")
    kernel: int = hyper(3, help="rows and columns of a kernel", ge=1)
    pool: str = hyper("max", help="2 x 2 pooling after every convolution", choices=("max", "average", "none"))

    def __post_init__(self) -> None:
        if not self.channels or any(c < 1 for c in self.channels):
            raise BadInput(f"model.channels={list(self.channels)}: must be a list of one or more integers >= 1, such as [8,16]")
        super().__post_init__()

    def layer_count(self) -> int:
        return len(self.channels) + 1

    def check(self, x: NDArray[np.float64], num_classes: int) -> None:
        super().check(x, num_classes)
        side = math.isqrt(x.shape[1])
        if side * side != x.shape[1]:
            raise BadInput(f"model=cnn: needs square images; the data have {x.shape[1]} features, which is no square number")
        if self._sides(side)[-1] < 1:
            raise BadInput(
                f"model.kernel={self.kernel}: images of {side} x {side} pixels are too small for {len(self.channels)}"
                f" convolutions with this kernel and pool={self.pool}; must be a smaller kernel, or fewer convolutions,"
                " such as model.channels=[8]"
            )

    def shapes(self, dim: int, outputs: int) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {}
        inputs = 1
        for j, channels in enumerate(self.channels, start=1):
            fan_in = inputs * self.kernel**2
            shapes[f"layer{j}"] = Shape(channels, fan_in, fan_in)
            if self.has_bias(j):
                shapes[f"bias{j}"] = Shape(1, channels, fan_in)
            inputs = channels
        features = inputs * self._sides(math.isqrt(dim))[-1] ** 2
        last = self.layer_count()
        shapes[f"layer{last}"] = Shape(outputs, features, features)
        if self.has_bias(last):
            shapes[f"bias{last}"] = Shape(1, outputs, features)
        return shapes

    def prepared(self, x: Tensor) -> Tensor:
        """The patches of the first convolution, see :func:`implicit_bias.models.patches.patches`.

        Args:
            x: Samples (R or 1, m, d).

        Returns:
            The patches.
        """
        side = math.isqrt(x.shape[-1])
        return self._patches(x.mT.unflatten(1, (1, side, side)))

    def forward(self, blocks: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        h = self._convolved(blocks, 1, inputs)
        for j in range(2, len(self.channels) + 1):
            h = self._convolved(blocks, j, self._patches(h))
        return self._affine(blocks, self.layer_count(), h.flatten(start_dim=1, end_dim=3))

    def _convolved(self, blocks: Mapping[str, Tensor], j: int, patches: Tensor) -> Tensor:
        """Layer j with its activation and pooling: (R, channels, rows, columns, m)."""
        z = self._products(blocks, j, self._kernels(blocks, j), patches.flatten(start_dim=2))
        if self.pools_arguments:  # the same where pooling takes maxima, on a quarter of the numbers
            h = self.activate(self._pooled(z))
        else:
            h = self._pooled(self.activate(z.flatten(start_dim=1, end_dim=2)).reshape(z.shape))
        image: Tensor = h.unflatten(-1, patches.shape[2:])
        return image

    def _kernels(self, blocks: Mapping[str, Tensor], j: int) -> Tensor:
        """Those of layer j at every place of a cell, (R, places * channels, c * s * s)."""
        return at_places(blocks[f"layer{j}"], self.kernel, self._cell)

    def _products(self, blocks: Mapping[str, Tensor], j: int, kernels: Tensor, columns: Tensor) -> Tensor:
        """The kernels on every patch, with their biases: (R, places, channels, rows * columns * m)."""
        z: Tensor = product(kernels, columns).unflatten(1, (self._cell**2, -1))
        return z + blocks[f"bias{j}"].mT.unsqueeze(1) if self.has_bias(j) else z

    @property
    def pools_arguments(self) -> bool:
        """Whether the maximum is taken of what is activated then, which is the same where the activation never falls."""
        falls = self.activation == "leaky_relu" and bool(torch.as_tensor(self.slope).lt(0).any())
        return self.pool == "max" and ACTIVATIONS[self.activation].monotone and not falls

    def _pooled(self, z: Tensor) -> Tensor:
        """The mean or maximum over the places of a cell, as autograd differentiates it: by the first place that attains it."""
        return z.mean(dim=1) if self.pool == "average" else z.max(dim=1).values

    def _patches(self, h: Tensor) -> Tensor:
        return patches(h, self.kernel, self._cell)

    @property
    def _cell(self) -> int:
        """Rows and columns of what is pooled."""
        return 1 if self.pool == "none" else 2

    def linearised(self, trained: Mapping[str, Tensor], frozen: Mapping[str, Tensor], inputs: Tensor) -> Linearised:
        """Back-propagation in closed form: a product with the patches for the kernels, and one whose patches add up to the
        derivative in the image before."""
        blocks = {**trained, **frozen}
        layers = [self._remembered(blocks, 1, inputs)]
        for j in range(2, len(self.channels) + 1):
            layers.append(self._remembered(blocks, j, self._patches(layers[-1].image)))
        head, flat = self.layer_count(), layers[-1].image.flatten(start_dim=1, end_dim=3)
        first = self.first_of(trained)

        def pull(weights: Tensor) -> Parameters:
            found = self.gradients(head, trained, weights, flat)
            g = product(blocks[f"layer{head}"].mT, weights)
            for j in range(head - 1, first - 1, -1):
                layer = layers[j - 1]
                g = self._through_cells(layer, g.reshape(layer.kept.shape[0], -1, layer.columns.shape[-1]))
                found |= self._kernels_gradients(j, trained, g, layer.columns)
                if j > first:
                    back = product(layer.kernels.mT, g.flatten(start_dim=1, end_dim=2))
                    image = layers[j - 2].image
                    g = add_patches(back.unflatten(-1, layer.image.shape[2:]), self.kernel, self._cell, image.shape[2])
            return {name: found[name] for name in trained}

        return Linearised(self._affine(blocks, head, flat), pull)

    def _remembered(self, blocks: Mapping[str, Tensor], j: int, patches: Tensor) -> _Remembered:
        kernels, columns = self._kernels(blocks, j), patches.flatten(start_dim=2)
        z, pool = self._products(blocks, j, kernels, columns), mean if self.pool == "average" else largest
        if self.pools_arguments:
            top, spread = pool(z)
            kept = self.kept(top)
            h = self.value_of(kept)
        else:
            kept = self.kept(z.flatten(start_dim=1, end_dim=2))
            h, spread = pool(self.value_of(kept).reshape(z.shape))
        return _Remembered(kernels, columns, h.unflatten(-1, patches.shape[2:]), kept, spread)

    def _through_cells(self, layer: _Remembered, g: Tensor) -> Tensor:
        """From the derivative in what a layer makes, (R, channels, n), to that in z, (R, places, channels, n)."""
        if self.pools_arguments:
            return layer.spread(self.pull_through(g, layer.kept))
        spread = layer.spread(g)
        return self.pull_through(spread.flatten(start_dim=1, end_dim=2), layer.kept).reshape(spread.shape)

    def _kernels_gradients(self, j: int, trained: Collection[str], g: Tensor, columns: Tensor) -> Parameters:
        """Those of :meth:`gradients`, from the derivative in z at every place, (R, places, channels, n)."""
        found: Parameters = {}
        if f"layer{j}" in trained:
            found[f"layer{j}"] = from_places(product(g.flatten(start_dim=1, end_dim=2), columns.mT), self.kernel, self._cell)
        if f"bias{j}" in trained:
            found[f"bias{j}"] = g.sum(dim=(1, 3)).unsqueeze(-2)
        return found

    def _sides(self, side: int) -> list[int]:
        """Rows of the image after each convolution and its pooling."""
        sides = [side]
        for _ in self.channels:
            convolved = sides[-1] - self.kernel + 1
            sides.append(convolved if self.pool == "none" else convolved // 2)
        return sides
