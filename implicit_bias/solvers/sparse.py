"""Sparse matrices as cone programs are written: triples put beside and under each other, and compressed once at the end.

scipy.sparse can do that, too; but a command that solves the optima of small data would spend more time on importing it than on
solving. What is made here becomes scipy's where that is needed (:meth:`Triples.to_scipy`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Places = NDArray[np.intp]
Sparse: TypeAlias = Any  # scipy's sparse matrices have no types


@dataclass(frozen=True)
class Compressed:
    """A matrix by its columns, with the attributes of scipy's that solvers read.

    Attributes:
        data: The numbers, column by column, rows ascending.
        indices: The row of each.
        indptr: Where each column begins among them, and the end.
        shape: Rows and columns.
        has_canonical_format: That rows ascend, and no place is there twice.
    """

    data: Array
    indices: Places
    indptr: Places
    shape: tuple[int, int]
    has_canonical_format: bool = True


@dataclass(frozen=True)
class Triples:
    """A matrix by its entries; no place twice. Entries that are zero stay part of it.

    Attributes:
        values, rows, columns: Of each entry, (entries,).
        shape: Rows and columns of the matrix.
    """

    values: Array
    rows: Places
    columns: Places
    shape: tuple[int, int]

    @staticmethod
    def of(dense: Array) -> Triples:
        """The entries of a dense matrix that are not zero.

        Args:
            dense: (rows, columns).
        """
        rows, columns = np.nonzero(dense)
        return Triples(np.asarray(dense[rows, columns], dtype=np.float64), rows, columns, (dense.shape[0], dense.shape[1]))

    @staticmethod
    def diagonal(values: Array) -> Triples:
        """A square matrix with this diagonal (m,)."""
        places = np.arange(len(values))
        return Triples(values, places, places, (len(values), len(values)))

    @staticmethod
    def nothing(rows: int, columns: int) -> Triples:
        """The matrix of zeros."""
        return Triples(np.zeros(0), np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.intp), (rows, columns))

    def __neg__(self) -> Triples:
        return Triples(-self.values, self.rows, self.columns, self.shape)

    def embedded(self, columns: Places, count: int) -> Triples:
        """The matrix with ``count`` columns whose column ``columns[j]`` is column j of this one, the others being zero."""
        return Triples(self.values, self.rows, columns[self.columns], (self.shape[0], count))

    def pulled(self, z: Array) -> Array:
        """The transpose times z (rows,), (columns,)."""
        terms = self.values * z[self.rows]
        return np.bincount(self.columns, weights=terms, minlength=self.shape[1]).astype(np.float64, copy=False)

    def compressed(self) -> Compressed:
        """By columns, rows ascending in each."""
        order = np.lexsort((self.rows, self.columns))
        ends = np.cumsum(np.bincount(self.columns, minlength=self.shape[1]))
        return Compressed(self.values[order], self.rows[order], np.concatenate([[0], ends]), self.shape)

    def to_scipy(self) -> Sparse:
        """The same as a scipy.sparse.csc_matrix."""
        from scipy import sparse

        return sparse.csc_matrix((self.values, (self.rows, self.columns)), shape=self.shape)


def beside(parts: Sequence[Triples]) -> Triples:
    """Matrices of as many rows, one beside the other.

    Args:
        parts: At least one.
    """
    begins = np.cumsum([0, *(part.shape[1] for part in parts)])
    columns = [part.columns + begin for part, begin in zip(parts, begins[:-1], strict=True)]
    return _together(parts, [part.rows for part in parts], columns, (parts[0].shape[0], int(begins[-1])))


def stacked(parts: Sequence[Triples]) -> Triples:
    """Matrices of as many columns, one under the other.

    Args:
        parts: At least one.
    """
    begins = np.cumsum([0, *(part.shape[0] for part in parts)])
    rows = [part.rows + begin for part, begin in zip(parts, begins[:-1], strict=True)]
    return _together(parts, rows, [part.columns for part in parts], (int(begins[-1]), parts[0].shape[1]))


def _together(parts: Sequence[Triples], rows: list[Places], columns: list[Places], shape: tuple[int, int]) -> Triples:
    return Triples(np.concatenate([part.values for part in parts]), np.concatenate(rows), np.concatenate(columns), shape)
