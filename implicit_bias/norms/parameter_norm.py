"""The interface of a norm on parameter sets: dictionaries of blocks, each of shape (R, p, q), one leading run axis."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from implicit_bias.core.scaled import Scaled

if TYPE_CHECKING:
    import cvxpy

Blocks = Mapping[str, Tensor]
ScaledBlocks = Mapping[str, Scaled]


class ParameterNorm(ABC):
    """A norm on parameter sets, with the identities of :class:`Norm` for the inner product summed over blocks."""

    label: str

    @property
    def dual_norm(self) -> ParameterNorm | None:
        """As :attr:`implicit_bias.norms.Norm.dual_norm`, on parameter sets."""
        return None

    @abstractmethod
    def value(self, blocks: Blocks) -> Tensor:
        """N(theta), shape (R,).

        Args:
            blocks: The parameter set theta, one tensor (R, p, q) a block.

        Returns:
            N(theta), (R,).
        """

    @abstractmethod
    def dual(self, blocks: Blocks) -> Tensor:
        """N_*(g), shape (R,).

        Args:
            blocks: The gradient g, one tensor (R, p, q) a block.

        Returns:
            N_*(g), (R,).
        """

    @abstractmethod
    def direction(self, blocks: Blocks) -> dict[str, Tensor]:
        """A maximiser of <g, u> over N(u) <= 1.

        Args:
            blocks: The gradient g, one tensor (R, p, q) a block.

        Returns:
            The maximiser u, blocks of the same shapes.
        """

    @abstractmethod
    def project(self, blocks: Blocks) -> dict[str, Tensor]:
        """The Euclidean projection onto the unit ball N <= 1.

        Args:
            blocks: The parameter set theta, one tensor (R, p, q) a block.

        Returns:
            The nearest point of the ball, blocks of the same shapes.
        """

    @abstractmethod
    def of_block(self, name: str) -> ParameterNorm:
        """The norm of parameter sets that are zero outside of one block, as a norm of that block alone.

        Args:
            name: The block.

        Returns:
            A norm of sets with this block.
        """

    def clipped(self, blocks: Blocks) -> tuple[Tensor, float]:
        """As :meth:`implicit_bias.norms.Norm.clipped`, of a parameter set: numbers (R, m), and their factor.

        Args:
            blocks: The parameter set theta, one tensor (R, p, q) a block.

        Returns:
            The numbers, (R, m), and the factor.

        Raises:
            NotImplementedError: projections onto the norm's ball are none of this kind.
        """
        raise NotImplementedError(f"norm {self.label}: a projection onto its ball clips no numbers at one level")

    @abstractmethod
    def expression(self, variables: Mapping[str, cvxpy.Expression]) -> cvxpy.Expression:
        """N as a convex cvxpy expression.

        Args:
            variables: A cvxpy variable or affine expression (p, q) a block.

        Returns:
            N(variables), a convex expression without dimension.
        """

    def in_one_unit(self, names: Collection[str]) -> frozenset[str]:
        """Those of the blocks that :meth:`scaled_direction` brings to plain numbers, in units of their largest scale or above.

        Args:
            names: The blocks of the set.
        """
        return frozenset()

    def scaled_direction(self, blocks: ScaledBlocks) -> dict[str, Tensor]:
        """:meth:`direction` of scaled blocks.

        Args:
            blocks: The gradient g, one scaled tensor (R, p, q) a block.

        Returns:
            The maximiser u as plain tensors (R, p, q).
        """
        return self.direction(in_common_unit(blocks))


def in_common_unit(blocks: ScaledBlocks) -> dict[str, Tensor]:
    """Plain tensors in units of the largest scale over all blocks of each run.

    Args:
        blocks: Scaled tensors (R, p, q); a run's unit is shared by all of its blocks.

    Returns:
        The blocks over exp(unit), plain tensors (R, p, q); entries far below the largest underflow to zero.
    """
    tops = torch.stack([b.log_scale.amax(dim=(-2, -1), keepdim=True) for b in blocks.values()])
    top = tops.amax(dim=0)
    unit = torch.where(torch.isfinite(top), top, torch.zeros_like(top))
    return {name: b.relative_to(unit) for name, b in blocks.items()}
