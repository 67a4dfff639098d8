"""Convolutional networks on square one-channel images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from implicit_bias.core.errors import BadInput
from implicit_bias.core.registry import hyper
from implicit_bias.models.activations import ACTIVATIONS
from implicit_bias.models.base import MODELS
from implicit_bias.models.layered import Layered
from implicit_bias.models.network import Shape


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
        """The patches of the first convolution, see :meth:`_patches`.

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
        last = self.layer_count()
        f = blocks[f"layer{last}"] @ h.flatten(start_dim=1, end_dim=3)
        return f + blocks[f"bias{last}"].mT if self.has_bias(last) else f

    def _convolved(self, blocks: Mapping[str, Tensor], j: int, patches: Tensor) -> Tensor:
        """Layer j with its activation and pooling: (R, channels, rows, columns, m)."""
        z = blocks[f"layer{j}"] @ patches.flatten(start_dim=2)
        if self.has_bias(j):
            z = z + blocks[f"bias{j}"].mT
        z = z.unflatten(-1, patches.shape[2:])
        if self._monotone():
            return self.activate(self._pooled(z))  # the same where pooling takes maxima, on a quarter of the numbers
        return self._pooled(self.activate(z))

    def _monotone(self) -> bool:
        falls = self.activation == "leaky_relu" and bool(torch.as_tensor(self.slope).lt(0).any())
        return self.pool == "max" and ACTIVATIONS[self.activation].monotone and not falls

    def _patches(self, h: Tensor) -> Tensor:
        """(R, c, rows, columns, m) to (R, c * kernel * kernel, 4, rows', columns', m): every patch as a column.

        Patches stand by their place in the 2 x 2 cell that is pooled, so that pooling is a reduction over whole arrays; without
        pooling there is one place. A last odd row or column is left out.
        """
        windows = h.unfold(2, self.kernel, 1).unfold(3, self.kernel, 1)  # (R, c, rows', columns', m, kernel, kernel)
        cell = 1 if self.pool == "none" else 2
        rows, columns = windows.shape[2] // cell, windows.shape[3] // cell
        cells = windows[:, :, : cell * rows, : cell * columns].unflatten(3, (columns, cell)).unflatten(2, (rows, cell))
        pooled: Tensor = cells.permute(0, 1, 7, 8, 3, 5, 2, 4, 6).flatten(start_dim=4, end_dim=5).flatten(start_dim=1, end_dim=3)
        return pooled

    def _pooled(self, h: Tensor) -> Tensor:
        """The maximum (its derivative is that of the first place where it is attained) or mean over the places of a cell."""
        return h.mean(dim=2) if self.pool == "average" else h.max(dim=2).values

    def _sides(self, side: int) -> list[int]:
        """Rows of the image after each convolution and its pooling."""
        sides = [side]
        for _ in self.channels:
            convolved = sides[-1] - self.kernel + 1
            sides.append(convolved if self.pool == "none" else convolved // 2)
        return sides
