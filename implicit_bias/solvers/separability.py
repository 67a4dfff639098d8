"""Whether a linear model separates the classes, by proof: a separator, or weights whose combination vanishes.

By Gordan's theorem exactly one of the two exists: W with <W, Z_ic> > 0 for all pairs, or weights q >= 0, not all zero, with
sum_ic q_ic Z_ic = 0 (then 0 = <W, sum q Z> > 0 for every separator). Both are looked for by one linear program on data of unit
size, max tau s.t. gaps >= tau r_i, |B| <= 1, and both are checked in twice the working precision. Between a margin that is not
proven to be positive and weights that are not proven to have neighbours which cancel exactly
(:mod:`implicit_bias.solvers.room`, :mod:`implicit_bias.solvers.cancellation`), double precision cannot tell.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from implicit_bias.norms import Norm, make_norm
from implicit_bias.solvers.cancellation import cancels_exactly, independent_columns
from implicit_bias.solvers.conic import separability
from implicit_bias.solvers.coordinates import Coordinates, power_of_two
from implicit_bias.solvers.enclosure import EPS, ROOM, Labels, combination, lower_bound, upper_bound
from implicit_bias.solvers.polishing import LARGEST_SYSTEM, vanishing
from implicit_bias.solvers.room import change_needed, independent_classes

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Separability:
    """What was proven.

    Attributes:
        separator: W (k, d) with a positive smallest gap, or None.
        margin: min gap / max |W| of the best W found, relative to the data's size; proven if positive.
        residue: A proven upper bound on the margin on features of unit size, over |B| <= 1; inf where there is none.
        weights: Those that prove it, (n, k).
        cancels: Whether weights are proven to exist whose combination is exactly zero.
    """

    separator: Array | None
    margin: float
    residue: float
    weights: Array
    cancels: bool = False

    @property
    def separable(self) -> bool | None:
        """True and False by proof; None where double precision cannot tell."""
        if self.separator is not None:
            return True
        return False if self.cancels else None


def decide(x: Array, y: Labels, num_classes: int, seconds: float, large: bool = False) -> Separability:
    """Separator or proof that there is none, for data x (n, d) of size about one, labels y in [num_classes).

    Args:
        x: Data (n, d), of size about one, no column zero.
        y: Labels (n,), integers in [num_classes).
        num_classes: k.
        seconds: Past these no other program is tried; what is known by then is returned.
        large: By HiGHS alone.

    Returns:
        What was proven.
    """
    deadline = time.perf_counter() + seconds
    zero = np.flatnonzero(~x.any(axis=1))
    if len(zero):  # a sample that is zero has no positive gap, whatever W is
        weights = np.zeros((len(y), num_classes))
        weights[zero[0], (y[zero[0]] + 1) % num_classes] = 1.0
        return Separability(None, 0.0, 0.0, weights, cancels=True)
    twins = _same_sample_of_two_classes(x, y, num_classes)
    if twins is not None:
        return Separability(None, 0.0, 0.0, twins, cancels=True)
    best: Separability | None = None
    # HiGHS ends at a vertex, whose few weights can be made to cancel to the last bit where those of an interior point cannot.
    for label, vertex in dict.fromkeys([("linf", large), ("l2", large), ("linf", True), ("l2", True)]):
        left = deadline - time.perf_counter()
        if left <= 0:
            break
        found = _decide(x, y, num_classes, make_norm(label), left, vertex)
        if found is None:
            continue
        if found.separable is not None:
            return found
        if best is None or found.residue < best.residue:
            best = found
    if best is None:
        return Separability(None, 0.0, float("inf"), np.zeros((len(y), num_classes)))
    return best


def _same_sample_of_two_classes(x: Array, y: Labels, k: int) -> Array | None:
    """Weights on two equal samples of different classes, whose pairs against each other's class cancel exactly; None without
    any."""
    _, group = np.unique(x, axis=0, return_inverse=True)
    order = np.lexsort((y, group.ravel()))
    same = (group.ravel()[order][1:] == group.ravel()[order][:-1]) & (y[order][1:] != y[order][:-1])
    if not same.any():
        return None
    i, j = order[:-1][same][0], order[1:][same][0]
    weights = np.zeros((len(y), k))
    weights[i, y[j]] = weights[j, y[i]] = 0.5
    return weights


def _decide(x: Array, y: Labels, k: int, norm: Norm, seconds: float, large: bool) -> Separability | None:
    """A decision by the linear program in the coordinates that suit ``norm``; None where the solver has no answer."""
    coordinates = Coordinates.of(x, norm)
    f = coordinates.features
    found = separability(f, y, k, seconds, large)
    if found is None:
        return None
    sizes = np.abs(f).max(axis=1)
    w = coordinates.matrix(found.b)
    margin = lower_bound(x, y, w, make_norm("linf"))
    if margin > 0:
        return Separability(w, margin, float("inf"), found.weights)
    sizes = np.abs(f).max(axis=1)
    unit = f / power_of_two(sizes)[:, None]
    exact = coordinates.basis is None
    whole = f.shape[1] == x.shape[1]  # a direction that rounding has taken away may be the one that separates
    residue, weights = float("inf"), found.weights
    polished = () if found.out_of_time else vanishing(unit, y, found.weights)
    for trial in chain([found.weights], polished):
        value = upper_bound(unit, y, trial, make_norm("linf")) if exact else float("inf")
        if value < residue:
            residue, weights = value, trial
        if whole and _cancels(unit, y, trial, exact):
            return Separability(None, margin, residue, trial, cancels=True)
    return Separability(None, margin, residue, weights)


def _cancels(unit: Array, y: Labels, weights: Array, exact: bool) -> bool:
    """Whether weights near these are proven to cancel, on features (n, m) that stand for the data.

    Args:
        unit: Features (n, m), rows of size about one.
        y: Labels (n,).
        weights: q (n, k), >= 0, 0 at the label.
        exact: Whether the features are the data's own, up to powers of two; else they are right to some round-off units.
    """
    samples, classes = np.nonzero(weights)
    columns = independent_columns(unit) if exact else np.arange(unit.shape[1])
    if columns is not None and len(samples) * weights.shape[1] * len(columns) <= LARGEST_SYSTEM:
        kept = np.ascontiguousarray(unit[:, columns])
        terms = np.zeros((weights.shape[1], len(columns), len(samples)))
        order, values = np.arange(len(samples)), weights[samples, classes]
        terms[y[samples], :, order] = values[:, None] * kept[samples]
        terms[classes, :, order] -= values[:, None] * kept[samples]
        chosen = independent_classes(y[samples], classes, weights.shape[1])
        rows, residue = terms[chosen].reshape(-1, len(samples)), combination(kept, y, weights)[chosen].ravel()
        # The residue is evaluated in twice the working precision; the features, where they were rotated, in once.
        error = (EPS * EPS * len(samples) if exact else 64 * EPS) * np.abs(rows).sum(axis=1) + EPS * np.abs(residue)
        if change_needed(rows, residue, error) < ROOM:
            return True
    return exact and cancels_exactly(unit, y, weights)
