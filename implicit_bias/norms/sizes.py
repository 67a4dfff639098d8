"""Values and dual values of many norms at one parameter set: what they share is computed once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from implicit_bias.norms.base import Norm
from implicit_bias.norms.blocks import InRowSpace, ProductNorm, SingleBlock, WeightedByShape, WholeVector
from implicit_bias.norms.hybrid import Hybrid
from implicit_bias.norms.l1 import L1
from implicit_bias.norms.l2 import L2
from implicit_bias.norms.linf import Linf
from implicit_bias.norms.nuclear import Nuclear
from implicit_bias.norms.parameter_norm import Blocks, ParameterNorm
from implicit_bias.norms.schatten import Schatten
from implicit_bias.norms.singular import singular_values
from implicit_bias.norms.spectral import Spectral

#: Functions of the singular values, by exact type: a subclass may override anything.
OF_SINGULAR_VALUES = (Spectral, Nuclear, Schatten)
#: Norms whose value, and whose dual, each of the :class:`EntrySizes` is.
VALUES: tuple[type[Norm], ...] = (Linf, L1, L2)
DUALS: tuple[type[Norm], ...] = (L1, Linf, L2)
#: Axes of a block of several parameter sets, (M, R, p, q).
SEVERAL = 4


class EntrySizes(NamedTuple):
    """Of vectors (..., m), the largest absolute entry, their sum, and the root of the sum of squares, (...) each."""

    largest: Tensor
    total: Tensor
    length: Tensor


class Routines(NamedTuple):
    """What norms are made of, computed in another way than the norms' own methods have them, equal to round-off.

    Attributes:
        singular_values: Those (..., min(p, q)), descending, of (..., p, q).
        entry_sizes: Of vectors (..., m).
        block_sizes: The three :class:`EntrySizes` of every one of B blocks (R, p, q), and after them of all together,
            (3, B + 1, R); None: sizes of several blocks are those of their entries laid end to end, or by the norms' own methods.
        block_products: <a, b> of every block, (B, R).
        block_cosines: The cosine of a, in single precision, and b, whose largest absolute entries (R,) are given, (R,).
        largest_matrix: Singular values of matrices with more entries than this are LAPACK's here, too.
    """

    singular_values: Callable[[Tensor], Tensor]
    entry_sizes: Callable[[Tensor], EntrySizes]
    block_sizes: Callable[[Blocks], Tensor] | None = None
    block_products: Callable[[Blocks, Blocks], Tensor] | None = None
    block_cosines: Callable[[Blocks, Blocks, Tensor], Tensor] | None = None
    largest_matrix: int = 0


class Sizes:
    """N(theta) and N_*(theta) of a parameter set theta under one norm after the other, with the bits of the norms' own methods
    or by other routines.

    Decompositions are most of what spectral, nuclear and Schatten norms cost; all of one block take them from the same singular
    values, and so do those of several blocks that are composed of them.

    Args:
        blocks: theta, one tensor (R, p, q) a block, not to be changed while this is used.
        routines: What linf, l1, l2 and functions of singular values are computed by; None: by the norms' own methods.
        of_blocks: What ``routines.block_sizes`` gives of the blocks, where it is known.
    """

    def __init__(self, blocks: Blocks, routines: Routines | None = None, of_blocks: Tensor | None = None) -> None:
        self.blocks, self._routines, self._of_blocks = blocks, routines, of_blocks
        # With what was asked for, which an identity is of only as long as it is held.
        self._duals: dict[int, tuple[ParameterNorm, Tensor]] = {}
        self._singular_values: dict[tuple[str, int | None], tuple[Tensor | None, Tensor]] = {}

    def value(self, norm: ParameterNorm) -> Tensor:
        """N(theta), shape (R,) or (M, R).

        Args:
            norm: N.
        """
        if (entrywise := self._of_entries(norm, VALUES)) is not None:
            return entrywise
        if (block := _of_singular_values(norm)) is not None:
            # A value is that of the matrix itself.
            return block.times(self._of_each(block.of.value_of, self._spectrum(block.name, None)))
        if type(norm) is ProductNorm and self._asks_parts:
            return norm.value_of([self._of_part(part.blocks).value(part.norm) for part in norm.parts])
        if type(norm) is WeightedByShape:
            return norm.weight(self.blocks) * self.value(norm.norm)
        return self._of_each_set(norm.value)

    def dual(self, norm: ParameterNorm) -> Tensor:
        """N_*(theta), shape (R,) or (M, R); computed once a norm.

        Args:
            norm: N.
        """
        known = self._duals.get(id(norm))
        if known is None:
            known = self._duals[id(norm)] = norm, self._dual(norm)
        return known[1]

    @property
    def largest_entry(self) -> Tensor | None:
        """The largest absolute entry, (R,), where routines know it."""
        return None if self._sizes_of_blocks is None else self._sizes_of_blocks[0, -1]

    def of_each_block(self, norm: ParameterNorm) -> Tensor:
        """N_l(theta_l) of every block under what the norm is of that block alone, (B, R).

        Args:
            norm: N.
        """
        return self._by_block(norm, VALUES, lambda alone, part: alone.value(part))

    def duals_of_each_block(self, norm: ParameterNorm) -> Tensor:
        """The dual values, (B, R).

        Args:
            norm: N.
        """
        return self._by_block(norm, DUALS, lambda alone, part: alone.dual(part))

    def _dual(self, norm: ParameterNorm) -> Tensor:
        if (entrywise := self._of_entries(norm, DUALS)) is not None:
            return entrywise
        if (block := _of_singular_values(norm)) is not None:
            return block.over(self._of_each(block.of.dual_of, self._spectrum(block.name, block.basis)))
        if type(norm) is ProductNorm and self._asks_parts:
            return norm.dual_of([self._of_part(part.blocks).dual(part.norm) for part in norm.parts])
        if type(norm) is WeightedByShape:
            return self.dual(norm.norm) / norm.weight(self.blocks)
        return self._of_each_set(norm.dual)

    @property
    def _asks_parts(self) -> bool:
        """Whether a product norm's parts are asked one by one. Not of several parameter sets, nor where routines know nothing of
        several blocks: a record alone has the bits that it has beside others."""
        return (self._routines is None or self._routines.block_sizes is not None) and not self._several

    def _of_part(self, names: tuple[str, ...]) -> Sizes:
        """Of these blocks alone, with what is known of them."""
        if list(names) == list(self.blocks):
            return self
        known = None
        if len(names) == 1 and self._sizes_of_blocks is not None:
            place = list(self.blocks).index(names[0])
            known = self._sizes_of_blocks[:, [place, place]]
        part = Sizes({name: self.blocks[name] for name in names}, self._routines, known)
        part._singular_values = self._singular_values
        return part

    def _by_block(
        self, norm: ParameterNorm, kinds: tuple[type[Norm], ...], of: Callable[[Sizes, ParameterNorm], Tensor]
    ) -> Tensor:
        inner = type(norm.norm) if type(norm) is WholeVector and isinstance(norm, WholeVector) else None
        if inner in kinds and self._sizes_of_blocks is not None:
            return self._sizes_of_blocks[kinds.index(inner), :-1]
        return torch.stack([of(self._of_part((name,)), norm.of_block(name)) for name in self.blocks])

    @cached_property
    def _sizes_of_blocks(self) -> Tensor | None:
        """As ``routines.block_sizes``; None where it is not there."""
        if self._of_blocks is not None:
            return self._of_blocks
        found = None if self._routines is None or self._several else self._routines.block_sizes
        return None if found is None else found(self.blocks)

    def _spectrum(self, block: str, basis: Tensor | None) -> Tensor:
        """Singular values of a block, or of B^T times it."""
        key = block, None if basis is None else id(basis)
        if key not in self._singular_values:
            w = self.blocks[block]
            if basis is not None:
                to_rows = basis.mT
                w = self._of_each(lambda matrices: to_rows @ matrices, w)
            found = self._of_each(singular_values, w) if self._routines is None else self._routines.singular_values(w)
            self._singular_values[key] = basis, found
        return self._singular_values[key][1]

    def _of_entries(self, norm: ParameterNorm, kinds: tuple[type[Norm], ...]) -> Tensor | None:
        """The size that a norm of all entries is, by exact type, of the three that these are; None: it is no such, or is computed
        by its own methods."""
        if self._routines is None:
            return None
        whole = type(norm) is WholeVector or (type(norm) is SingleBlock and list(self.blocks) == [norm.block])
        inner = type(norm.norm) if whole and isinstance(norm, WholeVector | SingleBlock) else None
        if inner not in kinds:
            return None
        place = kinds.index(inner)
        return self._entry_sizes[place] if self._sizes_of_blocks is None else self._sizes_of_blocks[place, -1]

    @cached_property
    def _several(self) -> bool:
        """Whether there are several parameter sets one after the other."""
        return next(iter(self.blocks.values())).dim() == SEVERAL

    def _of_each(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """A function of (R, ...), of every such part of (M, R, ...) where there are several."""
        return torch.stack([function(part) for part in x]) if self._several else function(x)

    def _of_each_set(self, function: Callable[[Blocks], Tensor]) -> Tensor:
        """The same of a parameter set."""
        if not self._several:
            return function(self.blocks)
        parts = zip(*self.blocks.values(), strict=True)
        return torch.stack([function(dict(zip(self.blocks, part, strict=True))) for part in parts])

    @cached_property
    def _entry_sizes(self) -> EntrySizes:
        assert self._routines is not None
        vectors = [block.flatten(start_dim=-2) for block in self.blocks.values()]
        return self._routines.entry_sizes(vectors[0] if len(vectors) == 1 else torch.cat(vectors, dim=-1))


class _OfSingularValues(NamedTuple):
    """What a norm of one block is: a function of its singular values, times a ratio, where its columns are in the span of a
    basis."""

    name: str
    of: Spectral | Nuclear | Schatten
    basis: Tensor | None
    ratio: float | None

    def times(self, value: Tensor) -> Tensor:
        return value if self.ratio is None else self.ratio * value

    def over(self, dual: Tensor) -> Tensor:
        return dual if self.ratio is None else dual / self.ratio


def _of_singular_values(norm: ParameterNorm) -> _OfSingularValues | None:
    """None: it is no such norm."""
    if type(norm) is not SingleBlock:
        return None
    inner: Norm = norm.norm
    basis = inner.basis if type(inner) is InRowSpace else None
    inner = inner.norm if type(inner) is InRowSpace else inner
    ratio = inner.ratio if type(inner) is Hybrid and not inner.weighted else None
    inner = Spectral() if ratio is not None else inner
    if type(inner) not in OF_SINGULAR_VALUES or not inner.unitarily_invariant:
        return None
    assert isinstance(inner, OF_SINGULAR_VALUES)
    return _OfSingularValues(norm.block, inner, basis, ratio)
