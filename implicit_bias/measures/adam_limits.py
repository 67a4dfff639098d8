"""Where Adam ends at any batch size, known before the run: a maximum margin in a norm that its own dual weights make.

With dual weights c on the pairs (i, a != y_i) let g_i = sum_a c_ia (e_{y_i} - e_a) x_i^T be the part of sample i, (k, d), and

    M(c) = sqrt( (n - b) / (n - 1) sum_i g_i^2 + (b - 1) / (n - 1) (sum_i g_i)^2 )        (entry by entry; b = 1 where n = 1).

Up to a factor M^2 is the mean of a batch gradient's squares over all batches of b of the n samples, which Adam's second moment
is for beta2 -> 1 and small steps, while its first one is the full gradient: of a reshuffled pass the step is sum_i g_i / M. (The
step is Kim, Song and Yun's, "From Geometry to Generalization", eq. 7; at b = 1 step and limit are Baek, Song and Yun's, arXiv
2510.26303.) Gaps then grow like those of a fixed W whose support has the weights c:

    W = argmax { min_ia m_ia(W) : <W, M(c) W> <= 1 },    c its own dual weights,    W ~ M(c)^-1 sum_i g_i.

For 1 < b < n this fixed point is this project's own. At b = n it is W ~ sum g / |sum g|, the max-norm's optimum; where all |x_ij|
of a sample are equal, at b = 1, M is the same in all features, and it is that of l2. No theorem says that there is one only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from implicit_bias.core.errors import NotSeparable
from implicit_bias.norms import Norm

Array = NDArray[np.float64]

#: Of an iteration that has arrived: change of the weights, in l1, and of W, in the max-norm.
RESIDUAL = 1e-9
MOST_ITERATIONS = 20_000
# How much of the new weights an iteration takes: with all of them it circles.
DAMPING = 0.5
# Entries of M are no smaller than this share of its largest. At b = n the optimum has entries in which sum g is zero, and W is
# some number of [-1, 1]: there sum g / M says which, at the price of an optimum that is off by as little.
FLOOR = 1e-6
# Below this share of the longest pair the shortest combination of pairs is no number but round-off: nothing separates them.
ZERO = 1e-12


@dataclass(frozen=True)
class AdamLimit:
    """The fixed point at one batch size.

    Attributes:
        batch: b.
        separator: W (k, d), of max-norm 1.
        margin: min m_ia(W), its max-norm margin.
        weights: c (n, k), >= 0, 0 at the label, sum 1.
        metric: M(c) (k, d), in the unit of the data, with its smallest entries raised to 1e-6 of the largest.
        residual: What the last iteration changed: the larger of the weights' change in l1 and W's in the max-norm.
        iterations: How many were made.
        decayed: Where max |W| wd ends with a small decoupled weight decay wd. There W wd = m / sqrt(v), the mean of the gradients
            over the root of the batches' mean square, sqrt(b / n) max |sum c x| / M(c). 1 for the full batch, less for others.
    """

    batch: int
    separator: Array = field(repr=False)
    margin: float
    weights: Array = field(repr=False)
    metric: Array = field(repr=False)
    residual: float
    iterations: int
    decayed: float


def adam_limit(
    x: ArrayLike, y: ArrayLike, num_classes: int, batch: int, tol: float = RESIDUAL, most: int = MOST_ITERATIONS
) -> AdamLimit:
    """The limit of Adam without eps on a linear model, for batches of ``batch`` samples, by damped iteration from equal weights.

    Each iteration is one maximum-margin problem in <W, M W>, the shortest vector in the hull of the pairs over sqrt(M), by
    non-negative least squares.

    Args:
        x: Data (n, d).
        y: Labels (n,), integers in [num_classes).
        num_classes: k.
        batch: b, 1 <= b <= n; n is the full batch.
        tol: Where it ends, see ``residual``.
        most: Iterations at most.

    Returns:
        The fixed point.

    Raises:
        ValueError: batch is not in 1..n.
        NotSeparable: nothing separates the classes.
        ArithmeticError: it has not arrived after ``most`` iterations.
    """
    features, labels = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.int64)
    n = len(features)
    if not 1 <= batch <= n:
        raise ValueError(f"batch is {batch}; must be in 1..{n}")
    pairs, owner = _pairs(features, labels, num_classes)
    weights, separator, residual = np.full(len(pairs), 1 / len(pairs)), np.zeros(pairs.shape[1]), math.inf
    for iteration in range(1, most + 1):
        metric = _metric(weights, pairs, owner, n, batch)
        found = _shortest(pairs / np.sqrt(metric))
        arrived = found @ pairs / metric
        largest = float(np.abs(arrived).max())
        arrived /= largest
        residual = max(float(np.abs(found - weights).sum()), float(np.abs(arrived - separator).max()))
        separator = arrived
        if residual <= tol:
            shape = num_classes, features.shape[1]
            full = _by_sample(found, labels, num_classes)
            margin = float((pairs @ separator).min())
            decayed = math.sqrt(batch / n) * largest
            return AdamLimit(batch, separator.reshape(shape), margin, full, metric.reshape(shape), residual, iteration, decayed)
        weights = (1 - DAMPING) * weights + DAMPING * found
    raise ArithmeticError(f"batch {batch}: the weights still move by {residual:.1e} after {most} iterations")


def _pairs(x: Array, y: NDArray[np.int64], k: int) -> tuple[Array, NDArray[np.int64]]:
    """(e_y - e_a) x^T of every pair (i, a), one row of k d numbers each, and its sample; k - 1 of one sample after the other."""
    owner, other = np.nonzero(np.arange(k)[None, :] != y[:, None])
    identity = np.eye(k)
    classes = identity[y[owner]] - identity[other]
    return (classes[:, :, None] * x[owner][:, None, :]).reshape(len(owner), -1), owner


def _by_sample(weights: Array, y: NDArray[np.int64], k: int) -> Array:
    """Weights of the pairs as (n, k), zero at the label."""
    full = np.zeros((len(y), k))
    full[np.arange(k)[None, :] != y[:, None]] = weights
    return full


def _metric(weights: Array, pairs: Array, owner: NDArray[np.int64], n: int, batch: int) -> Array:
    """M(c), flat (k d,), none of it below FLOOR of the largest."""
    parts = np.zeros((n, pairs.shape[1]))
    np.add.at(parts, owner, weights[:, None] * pairs)
    together = (batch - 1) / (n - 1) if n > 1 else 1.0
    metric: Array = np.sqrt((1 - together) * np.square(parts).sum(axis=0) + together * np.square(parts.sum(axis=0)))
    raised: Array = np.maximum(metric, FLOOR * metric.max())
    return raised


def _shortest(points: Array) -> Array:
    """Weights (m,) on the simplex with the shortest combination of the rows of ``points`` (m, D)."""
    from scipy.optimize import nnls  # here: importing it takes time that not every command has to spend

    size = np.linalg.norm(points, axis=1).max()
    # min |sum u_j p_j|^2 + (1 - sum u_j)^2 over u >= 0 is at a multiple of the weights asked for.
    u, _ = nnls(np.vstack([points.T / size, np.ones(len(points))]), np.concatenate([np.zeros(points.shape[1]), [1.0]]))
    weights: Array = u / u.sum()
    if np.linalg.norm(weights @ points) <= ZERO * size:
        raise NotSeparable("some combination of the samples is zero: no linear model separates the classes", proven=False)
    return weights


def batch_one_limit(x: ArrayLike, y: ArrayLike, norm: Norm) -> Array:
    """Where normalised steepest descent without momentum goes with single samples, two classes, a constant step and whole passes.

    The direction of a sample's step is always the same, whatever its loss, so that W after any number of passes is a multiple of

        sum_i direction((e_{y_i} - e_c) x_i^T),    c the other class,

    which need not separate the data (Li, Tang and Zou, arXiv 2602.11557, have examples of such a bias).

    Args:
        x: Data (n, d).
        y: Labels (n,), 0 or 1. With more classes a sample's direction depends on the loss of each.
        norm: N, whose ``direction`` the steps are.

    Returns:
        The sum (2, d), which is what one pass with step 1 adds to W.

    Raises:
        ValueError: a label is neither 0 nor 1.
    """
    import torch

    features, labels = np.asarray(x, dtype=np.float64), np.asarray(y)
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("labels must be 0 or 1")
    towards = np.where(labels == 1, 1.0, -1.0)[:, None] * features
    directions = norm.direction(torch.from_numpy(np.stack([-towards, towards], axis=1)))
    total: Array = directions.sum(dim=0).numpy()
    return total


def throttled_rate(rate: float, beta1: float, beta2: float) -> float:
    """By how much log L falls in one of Adam's steps, late in a run with a constant learning rate: r, the root of

        r = rate (1 - beta1) / (1 - beta1 e^r) sqrt( (1 - beta2 e^2r) / (1 - beta2) ),    rate = gamma* eta.

    A gradient that falls by e^-r a step has a second moment that remembers larger ones: m / sqrt(v) is short of one by the factor
    beside ``rate``, the first moment's remembrance included, for the same signs in every step. However large eta is,
    r stays below log(1 / beta2) / 2. The law is of a public repository (fanpu, GitHub), not of a paper.

    Args:
        rate: gamma* eta > 0, by which log L would fall if every step had max-norm eta.
        beta1: Adam's, 0 <= beta1 <= beta2: then the root is the only one.
        beta2: Adam's, < 1.

    Returns:
        r, in nats a step; 0 < r <= log(1 / beta2) / 2, which it is to round-off where ``rate`` is large.

    Raises:
        ValueError: the arguments are out of these ranges.
    """
    from scipy.optimize import brentq

    if not 0 < rate < math.inf or not 0 <= beta1 <= beta2 < 1:
        raise ValueError("need 0 < rate < inf and 0 <= beta1 <= beta2 < 1")
    if beta2 == 0:
        return rate

    def excess(r: float) -> float:
        # 1 - beta e^r = (1 - beta) - beta (e^r - 1): no digits are lost where r is small.
        first = 1 - beta1 * math.expm1(r) / (1 - beta1)
        second = 1 - beta2 * math.expm1(2 * r) / (1 - beta2)
        return rate / first * math.sqrt(max(second, 0.0)) - r

    largest = -math.log(beta2) / 2
    if excess(largest) >= 0:  # zero there but for round-off, times a large rate
        return largest
    return float(brentq(excess, 0.0, largest, xtol=1e-300, rtol=1e-14))
