"""Weights that cancel exactly, by rational arithmetic: where few pairs have a weight, as at a vertex."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from implicit_bias.solvers.enclosure import Labels

Array = NDArray[np.float64]

# Multiplications of rational numbers that an exact proof may cost.
EXACT_WORK = 400_000
# Weights below this share of the largest are left out of an exact proof.
NEGLIGIBLE = 1e-9
# A column counts as dependent below this share of the largest, and the rational numbers that say how have denominators up to
# this.
DEPENDENT = 1e-10
LARGEST_DENOMINATOR = 1_000_000


def independent_columns(x: Array) -> NDArray[np.intp] | None:
    """Columns of x (n, d) that the others are exact rational combinations of, such as all but one of indicators that sum to a
    constant; None where that is not proven.

    Args:
        x: Features (n, d).

    Returns:
        The indices of the columns, ascending; None where no proof was found.
    """
    from scipy.linalg import qr

    _, triangle, order = qr(x, mode="economic", pivoting=True)
    sizes = np.abs(np.diag(triangle))
    rank = int((sizes > DEPENDENT * sizes[0]).sum())
    kept, rest = np.sort(order[:rank]), order[rank:]
    if len(rest) == 0:
        return kept
    if len(x) * rank * len(rest) > EXACT_WORK:
        return None
    coefficients = np.linalg.lstsq(x[:, kept], x[:, rest], rcond=None)[0]
    points = [[Fraction(float(v)) for v in row] for row in x[:, kept]]
    for place, column in enumerate(rest):
        by = [Fraction(float(v)).limit_denominator(LARGEST_DENOMINATOR) for v in coefficients[:, place]]
        for row, value in zip(points, x[:, column], strict=True):
            if sum((a * b for a, b in zip(row, by, strict=True)), Fraction(0)) != Fraction(float(value)):
                return None
    return kept


def cancels_exactly(x: Array, y: Labels, weights: Array) -> bool:
    """Whether pairs of positive weight (n, k) have weights >= 0, not all zero, whose combination of x (n, d) is exactly zero.

    True is proven, by rational elimination; False says that it was not found, or was too much work.

    Args:
        x: Features (n, d), not zero.
        y: Labels (n,).
        weights: Where to look: (n, k), >= 0, 0 at the label.

    Returns:
        Whether that is proven.
    """
    samples, classes = np.nonzero(weights > NEGLIGIBLE * weights.max(initial=0.0))
    count, d, k = len(samples), x.shape[1], weights.shape[1]
    if count == 0 or count * count * d * (k - 1) > EXACT_WORK:
        return False
    rows = []
    for c in range(k - 1):  # rows of all classes sum to zero
        signs = (y[samples] == c).astype(int) - (classes == c).astype(int)
        rows += [[int(s) * Fraction(float(v)) for s, v in zip(signs, x[samples, j], strict=True)] for j in range(d)]
    free = _null_direction(rows, count)
    return free is not None and (all(v >= 0 for v in free) or all(v <= 0 for v in free))


def _null_direction(rows: list[list[Fraction]], count: int) -> list[Fraction] | None:
    """The direction of the null space of the matrix with these rows, where it has one dimension."""
    pivots: dict[int, list[Fraction]] = {}
    for row in rows:
        for column, pivot in pivots.items():
            if row[column]:
                factor = row[column]
                row = [a - factor * b for a, b in zip(row, pivot, strict=True)]
        column = next((j for j, value in enumerate(row) if value), -1)
        if column < 0:
            continue
        lead = row[column]
        reduced = [value / lead for value in row]
        for other, pivot in pivots.items():
            if pivot[column]:
                factor = pivot[column]
                pivots[other] = [a - factor * b for a, b in zip(pivot, reduced, strict=True)]
        pivots[column] = reduced
        if len(pivots) == count:
            return None
    if len(pivots) != count - 1:
        return None
    (free,) = set(range(count)) - set(pivots)
    found = [Fraction(0)] * count
    found[free] = Fraction(1)
    for column, pivot in pivots.items():
        found[column] = -pivot[free]
    return found
