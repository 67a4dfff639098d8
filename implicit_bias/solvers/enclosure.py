"""The bounds that a separator and dual weights prove on a maximum margin, valid in spite of rounding.

With Z_ic = (e_{y_i} - e_c) x_i^T, c != y_i, every W and every q >= 0 enclose the maximum margin,

    min_ic <W, Z_ic> / N(W)  <=  gamma*  <=  N_*( sum_ic q_ic Z_ic ) / sum_ic q_ic.

On data whose columns differ by many orders of magnitude both sides are differences of large numbers. The sums are therefore made
in twice the working precision (two-product by Dekker's splitting, two-sum by Knuth; Ogita, Rump and Oishi, *Accurate sum and dot
product*, SIAM J. Sci. Comput. 26, 2005, Algorithm 5.3), and the bounds are rounded outwards by what is left: the lower one down,
the upper one up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from implicit_bias.norms import Norm
from implicit_bias.solvers.room import change_needed, independent_classes

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

EPS = float(np.finfo(np.float64).eps)
# Dekker's constant for 53 bits.
SPLITTER = 134217729.0
# Products of a sum in twice the precision that are made at a time: arrays of them are to stay in the cache.
PRODUCTS_TOGETHER = 2**13
# Columns count as stiff where the rounding of weights moves a bound by this share of itself, and weights may change by less than
# this to cancel there.
STIFF, ROOM = 1e-9, 0.5


@dataclass(frozen=True)
class Enclosure:
    """lower <= gamma* <= upper."""

    lower: float
    upper: float

    @property
    def gap(self) -> float:
        """(upper - lower) / upper; 0 where the upper bound is not positive."""
        return relative_gap(self.lower, self.upper)


def relative_gap(lower: float, upper: float) -> float:
    """(upper - lower) / upper, at least 0; 0 where the upper bound is not positive.

    Args:
        lower: A lower bound.
        upper: An upper bound of the same quantity.

    Returns:
        The gap, without a unit.
    """
    return max(0.0, 1 - lower / upper) if upper > 0 else 0.0


def double_product(a: Array, b: Array) -> tuple[Array, Array]:
    """The matrix product (p, m) @ (m, r) in twice the working precision, as an unevaluated sum of two arrays (p, r).

    The error is below eps |high| + 2 m^2 eps^2 (|a| @ |b|). Entries must be below 1e290 in size, so that splitting does not
    overflow.

    Args:
        a: (p, m).
        b: (m, r).

    Returns:
        The high and the low part, (p, r) each.
    """
    high = np.zeros((a.shape[0], b.shape[1]))
    low = np.zeros_like(high)
    a_top, b_top = _top_half(a), _top_half(b)
    a_rest, b_rest = a - a_top, b - b_top
    together = max(1, PRODUCTS_TOGETHER // max(1, high.size))
    for first in range(0, a.shape[1], together):
        some = slice(first, first + together)
        product = _outer(a[:, some], b[some])
        missed = product - _outer(a_top[:, some], b_top[some])
        missed -= _outer(a_rest[:, some], b_top[some])
        missed -= _outer(a_top[:, some], b_rest[some])
        lost = _outer(a_rest[:, some], b_rest[some]) - missed
        for of_product, of_lost in zip(product, lost, strict=True):
            high, rounding = two_sum(high, of_product)
            low += of_lost + rounding
    return high, low


def _outer(a: Array, b: Array) -> Array:
    """a_pj b_jr of columns (p, m) and rows (m, r), (m, p, r)."""
    return np.asarray(a.T[:, :, None] * b[:, None, :])


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """fl(a + b) and the exact error of that sum.

    Args:
        a: Any shape.
        b: The same shape.

    Returns:
        The rounded sum and its error.
    """
    total = a + b
    shadow = total - a
    return total, (a - (total - shadow)) + (b - shadow)


def gaps(x: Array, y: Labels, w: Array) -> Array:
    """m_ic = <W, Z_ic>, (n, k), in twice the working precision before the last rounding; inf at the label.

    Args:
        x: Data (n, d).
        y: Labels (n,).
        w: W (k, d).

    Returns:
        The gaps (n, k), in the unit of the scores.
    """
    high, low = double_product(x, np.ascontiguousarray(w.T))
    rows = np.arange(len(y))
    difference, rounding = two_sum(high[rows, y][:, None], -high)
    found = difference + (rounding + (low[rows, y][:, None] - low))
    found[rows, y] = np.inf
    return found


def combination(x: Array, y: Labels, weights: Array) -> Array:
    """sum_ic q_ic Z_ic, (k, d), in twice the working precision before the last rounding; weights (n, k), 0 at the label.

    Args:
        x: Data (n, d).
        y: Labels (n,).
        weights: q (n, k), 0 at the label.

    Returns:
        The combination (k, d), in the unit of the data.
    """
    exact = np.array([math.fsum(row) for row in weights])
    # The sum of a sample's weights, as a double and what that leaves (one more rounding, of second order).
    rest = np.array([math.fsum([*row, -part]) for row, part in zip(weights, exact, strict=True)])
    coefficients, remainder = -weights, np.zeros_like(weights)
    rows = np.arange(len(y))
    coefficients[rows, y], remainder[rows, y] = exact, rest
    high, low = double_product(np.ascontiguousarray(coefficients.T), x)
    return high + (low + remainder.T @ x)


def lower_bound(x: Array, y: Labels, w: Array, norm: Norm) -> float:
    """min_ic <W, Z_ic> / N(W), rounded down; -inf for W = 0, one that is not finite, or one of no norm.

    Args:
        x: Data (n, d).
        y: Labels (n,).
        w: W (k, d).
        norm: N.

    Returns:
        A proven lower bound on gamma*, in the unit of the data.
    """
    size = _norm_value(norm.value, w)
    if not (np.isfinite(w).all() and 0 < size < math.inf):
        return -math.inf
    found = gaps(x, y, w)
    i, c = np.unravel_index(int(found.argmin()), found.shape)
    # Second order only: what the doubled precision leaves of the largest sum of |w x| of any pair.
    spread = float((np.abs(x) @ np.abs(w).T).max()) * (2 * (x.shape[1] * EPS) ** 2)
    smallest = float(found[i, c])
    smallest -= 2 * EPS * abs(smallest) + 2 * spread
    slack = _slack(w.shape)
    lower: float = smallest / (size * (1 + slack)) if smallest > 0 else smallest / (size * (1 - slack))
    return lower


def upper_bound(x: Array, y: Labels, weights: Array, norm: Norm) -> float:
    """N_*(sum_ic q_ic Z_ic) / sum_ic q_ic, rounded up; inf where the weights are not finite, negative, or sum to nothing.

    Entries at the label do not count. Where columns of x are so large that weights in doubles cannot cancel on them as far as the
    bound asks, the bound is that of weights q_ic (1 + e_ic) which are proven to exist near these, cancel there exactly, and
    change the rest by no more than |e| of its terms.

    Args:
        x: Data (n, d).
        y: Labels (n,).
        weights: q (n, k).
        norm: N.

    Returns:
        A proven upper bound on gamma*, in the unit of the data.
    """
    cleaned = weights.copy()
    cleaned[np.arange(len(y)), y] = 0.0
    if not np.isfinite(cleaned).all() or (cleaned < 0).any():
        return math.inf
    largest = float(cleaned.max(initial=0.0))
    if largest <= 0:
        return math.inf
    # By a power of two: dividing by the sum would round each weight, and prove something of others.
    cleaned = np.ldexp(cleaned, -math.frexp(largest)[1])
    total = math.fsum(cleaned.ravel())
    combined = combination(x, y, cleaned)
    size = np.abs(cleaned).sum(axis=1)
    magnitude = np.zeros_like(combined)
    np.add.at(magnitude, y, size[:, None] * np.abs(x))
    magnitude += cleaned.T @ np.abs(x)
    # For norms of the entries' sizes N_*(E) <= N_*(|E|); for Schatten norms a factor of the rank's root is enough.
    root = math.sqrt(min(combined.shape))
    spread = _norm_value(norm.dual, magnitude) * (2 * (len(y) * EPS) ** 2) * root
    value = _norm_value(norm.dual, combined)
    plain = (value * (1 + _slack(combined.shape)) + spread) / (total * (1 - 2 * EPS))
    # Columns so large that the rounding of the weights alone is seen in the bound.
    stiff = magnitude.max(axis=0) * EPS > STIFF * value
    if not stiff.any():
        return plain
    change = _change_to_cancel(x[:, stiff], y, cleaned, combined[:, stiff])
    if change >= ROOM:
        return plain
    value = _norm_value(norm.dual, np.where(stiff, 0.0, combined))
    moved = _norm_value(norm.dual, np.where(stiff, 0.0, (change + 2 * (len(y) * EPS) ** 2) * magnitude)) * root
    near = (value * (1 + _slack(combined.shape)) + moved) / (total * (1 - change) * (1 - 2 * EPS))
    return min(plain, near)


def _change_to_cancel(x: Array, y: Labels, weights: Array, combined: Array) -> float:
    """The relative change of the weights, at most, that makes their combination on these columns (k, columns) exactly zero."""
    samples, classes = np.nonzero(weights)
    terms = np.zeros((*combined.shape, len(samples)))
    order, values = np.arange(len(samples)), weights[samples, classes]
    terms[y[samples], :, order] = values[:, None] * x[samples]
    terms[classes, :, order] -= values[:, None] * x[samples]
    chosen = independent_classes(y[samples], classes, len(combined))
    rows, residue = terms[chosen].reshape(-1, len(samples)), combined[chosen].ravel()
    error = 2 * (len(y) * EPS) ** 2 * np.abs(rows).sum(axis=1) + EPS * np.abs(residue)
    return change_needed(rows, residue, error)


def _slack(shape: tuple[int, ...]) -> float:
    """What the evaluation of a norm of a matrix of this shape may be off by, relative: sums, powers and decompositions."""
    return EPS * (8 + 2 * sum(shape))


def _norm_value(function: object, matrix: Array) -> float:
    # A scale of two's power, so that nothing over- or underflows and no bit is lost.
    largest = float(np.abs(matrix).max(initial=0.0))
    if not 0 < largest < math.inf:
        return largest
    exponent = math.frexp(largest)[1]
    scaled = torch.from_numpy(np.ldexp(matrix, -exponent))
    return math.ldexp(float(function(scaled)), exponent)  # type: ignore[operator]


def _top_half(a: Array) -> Array:
    """The upper 26 bits of every entry."""
    shifted = SPLITTER * a
    return np.asarray(shifted - (shifted - a))
