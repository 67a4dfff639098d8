"""Coordinates in which the data of a maximum-margin problem are of one size, whatever the units of their columns.

A matrix W enters twice: in the gaps <W, Z_ic>, and in the norm. With W = B diag(t) V^T the gaps are those of B on the features
F = X V diag(t), and the norm is that of B diag(t) where V has orthonormal columns and the norm does not see them. So a solver
works on F, whose columns have entries up to one, and all the differences of scale are in one vector t.

* Norms of entries (l_p): V = I, t_j = 1 / max_i |x_ij|, rounded to a power of two.
* Norms that are invariant under rotations of the features (l2, row, Schatten): V and 1 / t are the right singular vectors and the
  singular values of X, by one-sided Jacobi rotations, which find small singular values of badly scaled columns to their own
  relative precision (Demmel and Veselic, *Jacobi's method is more accurate than QR*, SIAM J. Matrix Anal. Appl. 13, 1992).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from implicit_bias.norms import Norm
from implicit_bias.solvers.enclosure import double_product

Array = NDArray[np.float64]

# The smaller side of X up to which singular vectors are computed: rotations cost its cube.
LARGEST_ROTATION = 200
# A direction is kept where X v and s u agree to this share of s; otherwise rounding has made it up.
RESOLVED = 1e-6


@dataclass(frozen=True)
class Coordinates:
    """W = B diag(t) V^T, gaps of B on ``features``.

    Attributes:
        features: F (n, m), entries up to about one.
        scale: t (m,), all > 0.
        basis: V (d, m) with orthonormal columns; None for unit vectors.
        places: The columns of W (m,) that those of B are, where there is no basis.
        dim: d.
    """

    features: Array
    scale: Array
    basis: Array | None
    places: NDArray[np.intp]
    dim: int

    @staticmethod
    def of(x: Array, norm: Norm) -> Coordinates:
        """Coordinates for data x (n, d), no column of which is zero.

        Args:
            x: Data (n, d).
            norm: The norm of W.

        Returns:
            The coordinates that suit the norm.
        """
        if rotation_invariant(norm) and 1 < min(x.shape) <= LARGEST_ROTATION:
            found = _rotated(x)
            if found is not None:
                return found
        scale = 1 / power_of_two(np.abs(x).max(axis=0))
        return Coordinates(x * scale, scale, None, np.arange(x.shape[1]), x.shape[1])

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Which columns of W (d,) may be other than zero; all where there is a basis."""
        mask = np.full(self.dim, self.basis is not None)
        if self.basis is None:
            mask[self.places] = True
        return mask

    def matrix(self, b: Array) -> Array:
        """W (k, d) of a B (k, m).

        Args:
            b: Weights in these coordinates, (k, m).

        Returns:
            W = B diag(t) V^T, (k, d).
        """
        if self.basis is not None:
            return np.asarray((b * self.scale) @ self.basis.T)
        w = np.zeros((len(b), self.dim))
        w[:, self.places] = b * self.scale
        return w

    def only(self, kept: NDArray[np.bool_]) -> Coordinates:
        """These, with the ``kept`` (m,) columns alone.

        Args:
            kept: Mask of the columns to keep, (m,).

        Returns:
            The coordinates of those columns.
        """
        basis = None if self.basis is None else np.ascontiguousarray(self.basis[:, kept])
        return replace(self, features=self.features[:, kept], scale=self.scale[kept], basis=basis, places=self.places[kept])


def rotation_invariant(norm: Norm) -> bool:
    """Whether N(W V^T) = N(W) for every V with orthonormal columns.

    Args:
        norm: N.

    Returns:
        The truth value.
    """
    return norm.unitarily_invariant or norm.name in ("l2", "row")


def power_of_two(size: Array) -> Array:
    """The powers of two nearest to positive numbers; 1 for 0.

    Args:
        size: Any shape, >= 0.

    Returns:
        The powers, the same shape.
    """
    return np.asarray(np.exp2(np.round(np.log2(np.where(size > 0, size, 1.0)))))


def _rotated(x: Array) -> Coordinates | None:
    """Singular vectors and values of x as coordinates; None where no decomposition was found."""
    values, right = _jacobi(x)
    if values is None or right is None:
        return None
    images, rest = double_product(x, right)
    images = images + rest
    sizes = np.abs(images).max(axis=0)
    expected = np.linalg.norm(images / np.where(sizes > 0, sizes, 1), axis=0) * sizes
    good = (values > 0) & (sizes > 0) & (np.abs(expected - values) <= RESOLVED * values)
    if not good.any():
        return None
    scale = 1 / power_of_two(sizes[good])
    places = np.arange(int(good.sum()))
    return Coordinates(images[:, good] * scale, scale, np.ascontiguousarray(right[:, good]), places, x.shape[1])


def _jacobi(x: Array) -> tuple[Array | None, Array | None]:
    """Singular values (r,) and right singular vectors (d, r) by LAPACK's preconditioned Jacobi method."""
    from scipy.linalg import lapack  # here: importing it takes time that not every command has to spend

    tall = x.shape[0] >= x.shape[1]
    matrix = np.asfortranarray(x if tall else x.T)
    values, left, right, work, _, info = lapack.dgejsv(matrix, joba=2, jobu=0, jobv=0)
    if info != 0 or not np.isfinite(values).all() or work[1] == 0:
        return None, None
    values = values * (work[0] / work[1])
    return values, (right if tall else left[:, : len(values)])
