"""Numbers that are known before a run: the margin that weight decay leaves, and the optimum that a loss curve shows.

Let w be the dual weights of the maximum-margin problem, on the simplex of the pairs (i, c != y_i), gamma* the maximum margin, and

    kappa = H(w) + log max w,    H(w) = -sum w log w.

The least log-sum-exp over N(W) <= B has, as B grows, gaps q_j = Q - log w_j on the support of w (its softmax is w), and
sum w_j q_j = B gamma*. So Q = B gamma* - H(w), the smallest gap is Q - log max w, and

    (gamma* - margin) / gamma* = kappa / (B gamma*).

With weight decay B = 1 / wd. The law is this project's own. kappa >= 0, and zero where the weights are uniform on their support.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def gap_constant(weights: ArrayLike) -> float:
    """kappa = H(w) + log max w, in nats.

    Args:
        weights: w, any shape, >= 0; they are divided by their sum.

    Returns:
        kappa, >= 0.

    Raises:
        ValueError: weights are negative, no finite numbers, or all zero.
    """
    w: NDArray[np.float64] = np.asarray(weights, dtype=np.float64)
    if not np.isfinite(w).all() or (w < 0).any() or not w.any():
        raise ValueError("weights must be finite, >= 0, and not all zero")
    w = w / w.sum()
    entropy = -(w * np.log(np.where(w > 0, w, 1.0))).sum()
    # Both parts are rounded; of uniform weights kappa is zero.
    return max(0.0, float(entropy + np.log(w.max())))


def decay_gap(weight_decay: ArrayLike, constant: ArrayLike, max_margin: ArrayLike) -> NDArray[np.float64]:
    """The relative margin gap that weight decay leaves, wd kappa / gamma*, for small wd.

    Args:
        weight_decay: wd, in the unit of the margin.
        constant: kappa, of :func:`gap_constant`.
        max_margin: gamma*.

    Returns:
        (gamma* - margin) / gamma*, of the arguments' shape.
    """
    gap: NDArray[np.float64] = np.asarray(weight_decay, float) * np.asarray(constant, float) / np.asarray(max_margin, float)
    return gap


def optimum_of_losses(log_loss: ArrayLike, length: ArrayLike) -> float:
    """The maximum margin in the method's norm as a loss curve shows it: -d log L / d(sum of steps), by its two ends.

    Late in a run of normalised steepest descent a step of length eta lowers log L by eta gamma*, while the margin itself is still
    short of gamma* (log L = -gamma* sum eta + const, whatever the constant).

    Args:
        log_loss: log L at the records of a late stretch, (m,), of which the first and the last count.
        length: The sums of the step sizes until then, (m,).

    Returns:
        The slope, gamma* in the limit.

    Raises:
        ValueError: no step lies between the two.
    """
    losses, lengths = np.asarray(log_loss, float), np.asarray(length, float)
    if not lengths[-1] > lengths[0]:
        raise ValueError("the two records must have steps between them")
    return float((losses[0] - losses[-1]) / (lengths[-1] - lengths[0]))
