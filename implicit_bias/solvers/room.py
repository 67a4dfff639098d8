"""By how much weights have to change to make up for what rounding left: the step from a small residue to a proof of none.

Weights in doubles leave sum_j q_j Z_j at some round-off units of its terms, however right they are. Where the terms span the
space, a residue r is made up exactly by weights q_j (1 + e_j) with |e| <= |r| / sigma_min(Z diag(q)); while that is below one, no
weight turns negative.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

EPS = float(np.finfo(np.float64).eps)


def change_needed(terms: Array, residue: Array, error: Array) -> float:
    """An upper bound on the relative change e of weights that makes up for a residue exactly; inf where none is proven to do so.

    Args:
        terms: The weights' terms q_j Z_j as columns, (rows, pairs), each entry right to ``error`` of its row.
        residue: What they are to change by, (rows,).
        error: What each row of the terms' sum, and of ``residue``, may be off by, (rows,).

    Returns:
        The bound, without a unit; below one no weight turns negative.
    """
    rows, pairs = terms.shape
    if rows > pairs or not np.isfinite(terms).all():
        return math.inf
    sizes = np.linalg.norm(terms, axis=1)
    if not (sizes > 0).all():
        return math.inf
    unit = terms / sizes[:, None]
    values = np.linalg.svd(unit, compute_uv=False)
    # What the decomposition and the terms' own errors may take from the smallest singular value.
    smallest = float(values[-1]) - 8 * EPS * math.sqrt(rows * pairs) * float(values[0]) - float(np.linalg.norm(error / sizes))
    if smallest <= 0:
        return math.inf
    return float(np.linalg.norm((np.abs(residue) + error) / sizes)) / smallest


def independent_classes(labels: NDArray[np.intp], others: NDArray[np.intp], num_classes: int) -> NDArray[np.intp]:
    """Classes whose rows of sum_j q_j (e_label - e_other) x_j^T say all: of classes that pairs connect the rows sum to zero, so
    one of each such set is left out.

    Args:
        labels: The class y of each pair, (pairs,).
        others: The class c of each pair, (pairs,).
        num_classes: k.

    Returns:
        The classes to keep, ascending.
    """
    group = np.arange(num_classes)
    for a, b in set(zip(labels.tolist(), others.tolist(), strict=True)):
        group[group == group[a]] = group[b]
    return np.array([c for c in range(num_classes) if (group[:c] == group[c]).any()], dtype=np.intp)
