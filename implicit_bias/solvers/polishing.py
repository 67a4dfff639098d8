"""Dual weights made to satisfy stationarity to the last bit.

A solver leaves sum_ic q_ic Z_ic off its target by its tolerance relative to the largest term. On badly scaled data that is more
than the optimum itself: along features that are large, and so cheap for the norm, the terms have to cancel. Here weights q_j +
v_j e_j are found, with the e of least norm that meets the target, features in groups of like size, the largest first and exactly,
the others with the freedom that is left (a least-squares problem with weights that no single decomposition spans).

Several choices of what may change, and by how much, are tried (:data:`TRIALS`); each gives a proven bound, and the best is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from implicit_bias.norms import Norm
from implicit_bias.solvers.conic import ConicSolution
from implicit_bias.solvers.enclosure import Labels, combination, gaps

Array = NDArray[np.float64]

ROUNDS = 3
# Pairs times entries of B up to which the least-squares problems are solved, and the weights that are too small to matter.
LARGEST_SYSTEM = 1_000_000
NEGLIGIBLE = 1e-14
# Features whose scales are within this factor form a group; singular values below this share of a group's largest are noise.
GROUP = 1e3
RANK_TOLERANCE = 1e-11
# (least v_j in units of the largest weight, largest excess of a gap over the smallest for its weight to count): v = q on every
# pair first; then also weights that the solver holds to be nothing, on pairs of smallest gap.
TRIALS = ((0.0, np.inf), (1e-12, 1e-5), (1e-9, 1e-7), (1e-9, 1e-5), (1e-6, 1e-7), (1e-3, 1e-7))
# Entries of B diag(t) this near to the bound of the l_inf ball count as at it, and this far from 0 as off the l1 ball's axes.
AT_BOUND, OFF_ZERO = 1e-6, 1e-9


@dataclass(frozen=True)
class _Target:
    """What the combination has to be; entries that are not ``rigid`` (k, m) are free (None: none is)."""

    combination: Array
    rigid: Array | None = None


def trials(f: Array, y: Labels, found: ConicSolution, norm: Norm, scale: Array) -> Iterator[Array]:
    """Weights (n, k) that may prove more than the solver's, the likeliest first.

    Args:
        f, y: Features (n, m) and labels (n,).
        f: Features (n, m).
        y: Labels (n,).
        found: The solver's answer on them.
        norm: N; the polyhedral ones leave some entries of the combination free.
        scale: t (m,): an error counts 1 / t_j in column j.
    """
    slack = gaps(f, y, found.b)
    targets = [_Target(found.target), *_faces(norm, found.b * scale, scale)]
    largest = found.weights.max(initial=0.0)
    for floor, excess in TRIALS:
        least = NEGLIGIBLE * 10 * largest if floor else 0.0
        start = np.where(slack <= slack.min() * (1 + excess), np.maximum(found.weights, least), 0.0)
        start[np.arange(len(y)), y] = 0.0
        for target in targets:
            yield _polished(f, y, start, target, scale, floor)


def vanishing(f: Array, y: Labels, weights: Array) -> Iterator[Array]:
    """Weights (n, k) whose combination on the features f is as near to zero as rounding allows.

    Args:
        f: Features (n, m), rows of size about one.
        y: Labels (n,).
        weights: q (n, k), where to start.
    """
    nothing = _Target(np.zeros((weights.shape[1], f.shape[1])))
    for floor in (0.0, 1e-9, 1e-3):
        yield _polished(f, y, weights, nothing, np.ones(f.shape[1]), floor)


def _faces(norm: Norm, point: Array, scale: Array) -> list[_Target]:
    """Targets by the face that the point B diag(t) lies on, for the l_inf and l1 balls: 0 where an entry is inside of its bounds,
    and the sign times t where it is not zero; the others are free."""
    size = np.abs(point)
    if norm.label in ("linf", "lpinf"):
        inside = size < size.max(initial=0.0) * (1 - AT_BOUND)
        return [_Target(np.zeros_like(point), inside)]
    if norm.label in ("l1", "lp1"):
        return [_Target(np.sign(point) * scale, size > OFF_ZERO * size.max(initial=0.0))]
    return []


def _polished(f: Array, y: Labels, weights: Array, target: _Target, scale: Array, floor: float) -> Array:
    samples, classes = np.nonzero(weights > NEGLIGIBLE * weights.max(initial=0.0))
    k, m = target.combination.shape
    if len(samples) == 0 or len(samples) * k * m > LARGEST_SYSTEM:
        return weights
    system = np.zeros((len(samples), k, m))
    order = np.arange(len(samples))
    system[order, y[samples]] = f[samples]
    system[order, classes] -= f[samples]
    rigid = 1.0 if target.rigid is None else target.rigid.astype(np.float64)
    groups = _groups(scale)
    best = weights
    for _ in range(ROUNDS):
        missing = (target.combination - combination(f, y, best)) * rigid
        given = best[samples, classes]
        sizes = np.maximum(given, floor * given.max())
        change = _hierarchical(system * rigid * sizes[:, None, None], missing, scale, groups)
        best = np.zeros_like(weights)
        best[samples, classes] = np.clip(given + sizes * change, 0, None)
        if not best.any():
            return weights
    return best


def _groups(scale: Array) -> list[NDArray[np.intp]]:
    """Columns by ascending scale, cut where the scale has grown by GROUP since the group's first."""
    groups: list[list[int]] = []
    for j in np.argsort(scale, kind="stable"):
        if not groups or scale[j] > GROUP * scale[groups[-1][0]]:
            groups.append([])
        groups[-1].append(int(j))
    return [np.array(group) for group in groups]


def _hierarchical(system: Array, missing: Array, scale: Array, groups: list[NDArray[np.intp]]) -> Array:
    """e (pairs,) with sum_j e_j system_j = missing, group by group, each as far as those before it leave freedom."""
    count = len(system)
    found, taken = np.zeros(count), np.zeros((0, count))
    for group in groups:
        unit = scale[group[0]] / scale[group]
        rows = (system[:, :, group] * unit).reshape(count, -1).T
        rest = (missing[:, group] * unit).ravel() - rows @ found
        left, values, right = np.linalg.svd(_outside(rows, taken), full_matrices=False)
        noise = RANK_TOLERANCE * max(float(np.abs(rows).max(initial=0.0)), np.finfo(np.float64).tiny)
        rank = int((values > noise).sum())
        # Once more: rounding beside a small singular value is as much of its vector.
        right = _outside(right[:rank], taken)
        found = found + right.T @ ((left[:, :rank].T @ rest) / values[:rank])
        if group is groups[-1] or len(taken) + rank >= count:
            break
        taken = np.linalg.qr(np.concatenate([taken, right]).T)[0].T
    return found


def _outside(rows: Array, taken: Array) -> Array:
    """What is left of rows (r, m) without their parts in the span of orthonormal ones (t, m)."""
    return rows - (rows @ taken.T) @ taken
