"""Values and dual values of many norms at one parameter set: what they share is computed once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from implicit_bias.norms.base import Norm
from implicit_bias.norms.blocks import InRowSpace, SingleBlock, WholeVector
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
    """

    singular_values: Callable[[Tensor], Tensor]
    entry_sizes: Callable[[Tensor], EntrySizes]


class Sizes:
    """N(theta) and N_*(theta) of a parameter set theta under one norm after the other, with the bits of the norms' own methods
    or by other routines.

    Decompositions are most of what spectral, nuclear and Schatten norms cost; all of one block take them from the same singular
    values.

    Args:
        blocks: theta, one tensor (R, p, q) a block, not to be changed while this is used.
        routines: What linf, l1, l2 and functions of singular values are computed by; None: by the norms' own methods.
    """

    def __init__(self, blocks: Blocks, routines: Routines | None = None) -> None:
        self.blocks, self._routines = blocks, routines
        # With what was asked for, which an identity is of only as long as it is held.
        self._duals: dict[int, tuple[ParameterNorm, Tensor]] = {}
        self._singular_values: dict[tuple[str, int | None], tuple[Tensor | None, Tensor]] = {}

    def value(self, norm: ParameterNorm) -> Tensor:
        """N(theta), shape (R,) or (M, R).

        Args:
            norm: N.
        """
        entrywise = None if self._routines is None else self._of_entries(norm)
        if entrywise is not None:
            return self._entry_sizes[VALUES.index(entrywise)]
        found = _of_singular_values(norm)
        if found is None:
            return self._of_each_set(norm.value)
        block, inner, _ = found
        return self._of_each(inner.value_of, self._spectrum(block, None))  # a value is that of the matrix itself

    def dual(self, norm: ParameterNorm) -> Tensor:
        """N_*(theta), shape (R,) or (M, R); computed once a norm.

        Args:
            norm: N.
        """
        known = self._duals.get(id(norm))
        if known is None:
            known = self._duals[id(norm)] = norm, self._dual(norm)
        return known[1]

    def _dual(self, norm: ParameterNorm) -> Tensor:
        entrywise = None if self._routines is None else self._of_entries(norm)
        if entrywise is not None:
            return self._entry_sizes[DUALS.index(entrywise)]
        found = _of_singular_values(norm)
        if found is None:
            return self._of_each_set(norm.dual)
        block, inner, basis = found
        return self._of_each(inner.dual_of, self._spectrum(block, basis))

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

    def _of_entries(self, norm: ParameterNorm) -> type[Norm] | None:
        """Which function of all entries a norm is, by exact type; None: no such."""
        whole = type(norm) is WholeVector or (type(norm) is SingleBlock and list(self.blocks) == [norm.block])
        inner = type(norm.norm) if whole and isinstance(norm, WholeVector | SingleBlock) else None
        return inner if inner in VALUES else None

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


def _of_singular_values(norm: ParameterNorm) -> tuple[str, Spectral | Nuclear | Schatten, Tensor | None] | None:
    """The block, the function of its singular values and the basis of its columns that a norm is; None: it is no such norm."""
    if type(norm) is not SingleBlock:
        return None
    inner: Norm = norm.norm
    basis = inner.basis if type(inner) is InRowSpace else None
    inner = inner.norm if type(inner) is InRowSpace else inner
    if type(inner) not in OF_SINGULAR_VALUES or not inner.unitarily_invariant:
        return None
    assert isinstance(inner, OF_SINGULAR_VALUES)
    return norm.block, inner, basis
