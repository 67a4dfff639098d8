"""Matrices cut into blocks of columns, W = [W_1 | W_2 | ...], and the norms that parameter sets of such blocks have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor

from implicit_bias.norms.base import Norm, format_number
from implicit_bias.norms.blocks import ParameterNorm, Part, ProductNorm, SingleBlock, over_blocks
from implicit_bias.norms.layer_weights import LayerWeighted

if TYPE_CHECKING:
    import cvxpy
    import numpy as np
    from numpy.typing import NDArray


def block_names(sizes: Sequence[int]) -> list[str]:
    """What the blocks of columns are called: ``weight1``, ``weight2``, ...

    Args:
        sizes: Columns of each block.

    Returns:
        The names, in the order of the columns.
    """
    return [f"weight{place}" for place in range(1, len(sizes) + 1)]


def cut_columns(w: Tensor, sizes: Sequence[int]) -> dict[str, Tensor]:
    """W (..., p, q) as its blocks of columns.

    Args:
        w: Matrices (..., p, q).
        sizes: Columns of each block, q in all.

    Returns:
        Views (..., p, size) by name.
    """
    return dict(zip(block_names(sizes), w.split(list(sizes), dim=-1), strict=True))


def joined_columns(blocks: Mapping[str, Tensor]) -> Tensor:
    """The matrix that blocks of columns are of.

    Args:
        blocks: Tensors (..., p, size), in the order of the columns.

    Returns:
        W (..., p, q), a copy.
    """
    return torch.cat(list(blocks.values()), dim=-1)


@dataclass(frozen=True)
class ColumnBlocks(Norm):
    """The norm of W = [W_1 | W_2 | ...] that a norm of the parameter set {weight1: W_1, ...} is.

    As in networks: a matrix norm is the maximum over blocks of that norm; a hybrid norm takes the first block as its matrix, and
    all others together, as one vector, as its rest. An entrywise norm acts on all entries, and needs no such form. Its label has
    the sizes of the blocks in it, ``spectral@12+13``.

    Attributes:
        norm: Without weights of its own.
        sizes: Columns of each block.
        weights: What the norms of blocks that are matrices are multiplied by, one a block; empty for 1.
    """

    name: ClassVar[str] = "column_blocks"

    norm: Norm
    sizes: tuple[int, ...]
    weights: tuple[float, ...] = ()

    @staticmethod
    def of_rows(norm: Norm, sizes: Sequence[int], rows: int) -> ColumnBlocks:
        """The norm for matrices with so many rows, which say what the weights by shape are.

        Args:
            norm: Of one block, with layer weights or without.
            sizes: Columns of each block.
            rows: Of the matrix.

        Returns:
            The norm, with numbers for weights.
        """
        if not isinstance(norm, LayerWeighted) or not norm.weighted:
            return ColumnBlocks(norm, tuple(sizes))
        return ColumnBlocks(norm.unweighted, tuple(sizes), tuple(norm.weight(rows, size) for size in sizes))

    @cached_property
    def whole(self) -> ParameterNorm:
        """The norm of the parameter set; blocks without columns are left out."""
        names = [name for name, size in zip(block_names(self.sizes), self.sizes, strict=True) if size]
        first = block_names(self.sizes)[0]
        plain = over_blocks(self.norm, names, None, [name for name in names if name == first])
        if not self.weights:
            return plain
        parts = plain.parts if isinstance(plain, ProductNorm) else (Part(tuple(names), plain),)
        factors = dict(zip(block_names(self.sizes), self.weights, strict=True))
        weighted = [
            replace(part, weight=part.weight * factors[part.norm.block]) if isinstance(part.norm, SingleBlock) else part
            for part in parts
        ]
        return ProductNorm(self.label, tuple(weighted), plain.outer if isinstance(plain, ProductNorm) else "max")

    @property
    def smooth(self) -> bool:
        return self.norm.smooth and len(self.sizes) == 1

    @property
    def saturating(self) -> bool:
        return self.norm.saturating

    @property
    def label(self) -> str:
        weights = "".join(f"x{format_number(weight)}" for weight in self.weights)
        return f"{self.norm.label}@{'+'.join(map(str, self.sizes))}{weights}"

    def value(self, w: Tensor) -> Tensor:
        return self.whole.value(self.cut(w))

    def dual(self, g: Tensor) -> Tensor:
        return self.whole.dual(self.cut(g))

    def direction(self, g: Tensor) -> Tensor:
        return joined_columns(self.whole.direction(self.cut(g)))

    def project(self, w: Tensor) -> Tensor:
        return joined_columns(self.whole.project(self.cut(w)))

    def expression(self, variable: cvxpy.Expression) -> cvxpy.Expression:
        ends = torch.tensor([0, *self.sizes]).cumsum(dim=0).tolist()
        places = zip(block_names(self.sizes), ends[:-1], ends[1:], strict=True)
        return self.whole.expression({name: variable[:, first:end] for name, first, end in places if end > first})

    def cut(self, w: Tensor) -> dict[str, Tensor]:
        """W (..., p, q) as its blocks, without those that have no columns.

        Args:
            w: Matrices (..., p, q).

        Returns:
            Views by name.
        """
        return {name: block for name, block in cut_columns(w, self.sizes).items() if block.shape[-1]}

    def of_columns(self, kept: NDArray[np.bool_]) -> ColumnBlocks:
        ends = torch.tensor(self.sizes).cumsum(dim=0).tolist()
        sizes = tuple(int(kept[end - size : end].sum()) for size, end in zip(self.sizes, ends, strict=True))
        return replace(self, sizes=sizes)

    def at(self, runs: Tensor) -> Self:
        return replace(self, norm=self.norm.at(runs))
