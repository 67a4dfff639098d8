"""Which samples stand in the way of a linear separation: a set without which the classes are proven to be separable.

A smallest such set is NP-hard to find. The linear program min sum_i s_i s.t. gaps of sample i >= 1 - s_i, s >= 0 (Chinneck,
*Feasibility and Infeasibility in Optimization*, 2008, elastic programs) leaves few samples with a gap <= 0; then each of them is
put back unless the others cannot be separated with it. What is left is irreducible: no sample of it can stay. Another set may be
smaller.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from implicit_bias.solvers.conic import all_classes, gap_rows
from implicit_bias.solvers.coordinates import power_of_two
from implicit_bias.solvers.enclosure import Labels
from implicit_bias.solvers.separability import decide

Array = NDArray[np.float64]

#: Gaps are at least one in the linear program, whose solver is right to about 1e-7.
SMALLEST_GAP = 1e-6
#: Pairs times entries of W beyond which the programs take minutes.
LARGEST_SIZE = 3_000_000


@dataclass(frozen=True)
class Blocking:
    """Samples that stand in the way.

    Attributes:
        samples: Their places, ascending.
        irreducible: Whether each of them was proven to be in the way of the others, within the time there was.
    """

    samples: tuple[int, ...]
    irreducible: bool


def is_separable(x: Array, y: Labels, num_classes: int, seconds: float) -> bool | None:
    """Whether a linear model separates data x (n, d), labels y in [num_classes): proven, or None where that is not known.

    Args:
        x: Data (n, d), finite.
        y: Labels (n,); classes without a sample have no pair of their own as label.
        num_classes: k.
        seconds: Time there is.

    Returns:
        The truth value; None past the time, beyond :data:`LARGEST_SIZE`, or where double precision cannot tell.
    """
    if not len(x):
        return True
    if _size(x, num_classes) > LARGEST_SIZE:
        return None
    kept = x[:, (x != 0).any(axis=0)]
    if not kept.size:
        return False
    return decide(kept / power_of_two(np.abs(kept).max()), y, num_classes, seconds).separable


def separates(x: Array, y: Labels, num_classes: int, seconds: float) -> bool | None:
    """Whether a linear model separates the classes, by one linear program and no proof: sum_i s_i is 0 if so, else >= 1.

    Args:
        x: Data (n, d), finite.
        y: Labels (n,), integers in [num_classes).
        num_classes: k.
        seconds: Time there is.

    Returns:
        The truth value, as far as the solver is right; None past the time, or beyond :data:`LARGEST_SIZE`.
    """
    gaps = None if _size(x, num_classes) > LARGEST_SIZE else _elastic_gaps(x, y, num_classes, seconds)
    return None if gaps is None else bool((gaps > SMALLEST_GAP).all())


def blocking_samples(x: Array, y: Labels, num_classes: int, seconds: float) -> Blocking | None:
    """Samples without which the others can be separated, few of them.

    Args:
        x: Data (n, d), finite.
        y: Labels (n,), integers in [num_classes).
        num_classes: k.
        seconds: Time there is.

    Returns:
        The samples, none where the data are separable; None where none were found in time, or the data are too large.
    """
    deadline = time.perf_counter() + seconds
    if _size(x, num_classes) > LARGEST_SIZE:
        return None
    gaps = _elastic_gaps(x, y, num_classes, seconds)
    if gaps is None:
        return None
    kept = gaps > SMALLEST_GAP
    if is_separable(x[kept], y[kept], num_classes, deadline - time.perf_counter()) is not True:
        return None
    blocking, irreducible = [], True
    for sample in sorted(np.flatnonzero(~kept), key=lambda i: -gaps[i]):
        kept[sample] = True
        together = is_separable(x[kept], y[kept], num_classes, max(deadline - time.perf_counter(), 1e-3))
        if together is not True:
            kept[sample] = False
            blocking.append(int(sample))
            irreducible = irreducible and together is False
    return Blocking(tuple(sorted(blocking)), irreducible)


def _size(x: Array, num_classes: int) -> int:
    return int(x.size) * num_classes * (num_classes - 1)


def _elastic_gaps(x: Array, y: Labels, k: int, seconds: float) -> Array | None:
    """The smallest gap of each sample (n,) at a solution of the linear program; None where the solver has none in time."""
    from scipy import sparse  # here: importing these takes time that not every command has to spend
    from scipy.optimize import linprog

    columns = np.abs(x).max(axis=0)
    f = x[:, columns > 0] / columns[columns > 0]
    sizes = np.abs(f).max(axis=1, initial=0.0)
    f = f / np.where(sizes > 0, sizes, 1.0)[:, None]
    rows = gap_rows(f, all_classes(y, k)).to_scipy()
    samples = np.repeat(np.arange(len(f)), k - 1)
    slack = sparse.csc_matrix((np.ones(len(samples)), (np.arange(len(samples)), samples)), shape=(len(samples), len(f)))
    weights = rows.shape[1]
    found = linprog(
        np.concatenate([np.zeros(weights), np.ones(len(f))]),
        A_ub=-sparse.hstack([rows, slack]),
        b_ub=-np.ones(len(samples)),
        bounds=[(None, None)] * weights + [(0, None)] * len(f),
        method="highs",
        options={"time_limit": max(seconds, 1e-3)},
    )
    if found.x is None or found.status != 0:
        return None
    return np.asarray((rows @ found.x[:weights]).reshape(len(f), k - 1).min(axis=1))
