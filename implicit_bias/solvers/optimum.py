"""One maximum margin on data of any scale: a cone program in good coordinates, rescaled, polished, and proven.

The program is solved once in the coordinates of the norm. Where the bounds that its answer proves are not within the tolerance,
the scale of the objective is set to the best margin known (a solver's tolerances are absolute), weights are polished, and it is
solved again, a few times.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from implicit_bias.norms import Norm
from implicit_bias.solvers.conic import ConicSolution, solve_conic
from implicit_bias.solvers.coordinates import Coordinates
from implicit_bias.solvers.enclosure import Labels, lower_bound, relative_gap, upper_bound
from implicit_bias.solvers.polishing import trials

Array = NDArray[np.float64]

ROUNDS = 4
#: Norms whose problem is a linear program.
LINEAR_PROGRAMS = ("linf", "l1")
# A round that raises the margin by less than this factor was the last.
RAISED = 1.5
# The largest scale t of a feature in a cone program.
AFFORDABLE = 1e8


@dataclass(frozen=True)
class Bounds:
    """A separator and weights, each with what it proves of data of size about one.

    Attributes:
        separator: W (k, d), lower: its normalised margin, -inf or <= 0 where none is known.
        weights: (n, k), upper: their dual value, inf where none is known.
        late: Whether time ran out.
    """

    separator: Array
    weights: Array
    lower: float = -math.inf
    upper: float = math.inf
    late: bool = False

    @property
    def gap(self) -> float:
        """(upper - lower) / upper; 1 where the classes are not known to be separable."""
        return relative_gap(self.lower, self.upper) if self.lower > 0 and math.isfinite(self.upper) else 1.0

    def improved(self, other: Bounds) -> Bounds:
        """The better separator and the better weights of the two.

        Args:
            other: Bounds of the same problem.

        Returns:
            The best of both.
        """
        primal = other if other.lower > self.lower else self
        dual = other if other.upper < self.upper else self
        return Bounds(primal.separator, dual.weights, primal.lower, dual.upper, self.late or other.late)

    def with_separator(self, x: Array, y: Labels, norm: Norm, w: Array) -> Bounds:
        """These, or W where it proves more.

        Args:
            x: Data (n, d).
            y: Labels (n,).
            norm: N.
            w: W (k, d).

        Returns:
            The better bounds.
        """
        lower = lower_bound(x, y, w, norm)
        return replace(self, separator=w, lower=lower) if lower > self.lower else self

    def with_weights(self, x: Array, y: Labels, norm: Norm, weights: Array) -> Bounds:
        """These, or the weights where they prove more.

        Args:
            x: Data (n, d).
            y: Labels (n,).
            norm: N.
            weights: q (n, k), 0 at the label.

        Returns:
            The better bounds.
        """
        upper = upper_bound(x, y, weights, norm)
        return replace(self, weights=weights, upper=upper) if upper < self.upper else self


def nothing(x: Array, y: Labels, num_classes: int, norm: Norm) -> Bounds:
    """What is known before any solver: no separator, and what equal weights prove.

    Args:
        x: Data (n, d).
        y: Labels (n,).
        num_classes: k.
        norm: N.

    Returns:
        The bounds, whose lower one is -inf.
    """
    weights = np.ones((len(y), num_classes))
    weights[np.arange(len(y)), y] = 0.0
    weights /= weights.sum()
    return Bounds(np.zeros((num_classes, x.shape[1])), weights).with_weights(x, y, norm, weights)


def solve_cone(
    x: Array, y: Labels, num_classes: int, norm: Norm, start: Bounds, tol: float, deadline: float, large: bool = False
) -> Bounds:
    """Bounds by the norm's cone program; ``start`` where it has no answer.

    Args:
        x: Data (n, d) of size about one, no column zero.
        y: Labels (n,).
        num_classes: k.
        norm: N, which has a cone program.
        start: What is known already; its margin sets the scale.
        tol: Relative gap to stop at.
        deadline: Of time.perf_counter().
        large: By HiGHS' linear programming.

    Returns:
        Proven bounds, never worse than ``start``.
    """
    full = Coordinates.of(x, norm)
    best = start
    for turn in range(ROUNDS):
        before, left = best.lower, deadline - time.perf_counter()
        if left <= 0:
            return replace(best, late=True)
        coordinates, scale = _rescaled(full, best.lower)
        found = solve_conic(coordinates.features, y, num_classes, norm.of_columns(coordinates.kept), scale, left, large)
        if found is None:
            break
        best = _taken(x, y, norm, coordinates, scale, found, best, tol, deadline)
        if best.gap <= tol or found.out_of_time or (turn > 0 and best.lower < RAISED * max(before, 0.0)) or best.lower <= 0:
            break
    if best.gap > tol and best.lower > 0 and norm.label in LINEAR_PROGRAMS and not large:
        # A vertex, whose few weights can be made to meet their conditions to the last bit where those of an interior point
        # cannot.
        coordinates, scale = _rescaled(full, best.lower)
        left = deadline - time.perf_counter()
        vertex = solve_conic(coordinates.features, y, num_classes, norm, scale, left, large=True)
        if vertex is not None:
            best = _taken(x, y, norm, coordinates, scale, vertex, best, tol, deadline)
    return best


def _rescaled(full: Coordinates, lower: float) -> tuple[Coordinates, Array]:
    """Coordinates, and the scale t to solve with, for an objective of about one.

    Where a margin ``lower`` is known the optimum has N(B diag(t)) <= 1 in units of 1 / lower, so that |B_cj| <= 1 / t_j: a
    feature with t_j above AFFORDABLE adds next to nothing to any gap, and is left out. Before that the scales are cut off.
    """
    if lower <= 0:
        return full, np.minimum(full.scale, AFFORDABLE * full.scale.min())
    kept = full.scale * lower <= AFFORDABLE
    coordinates = full.only(kept)
    return coordinates, coordinates.scale * lower


def _taken(
    x: Array, y: Labels, norm: Norm, coordinates: Coordinates, scale: Array, found: ConicSolution, best: Bounds, tol: float,
    deadline: float,
) -> Bounds:  # fmt: skip
    """The bounds with what a solver's answer proves, its weights polished where that is needed."""
    best = best.with_separator(x, y, norm, coordinates.matrix(found.b)).with_weights(x, y, norm, found.weights)
    best = replace(best, late=best.late or found.out_of_time)
    if best.gap > tol and best.lower > 0:
        for weights in trials(coordinates.features, y, found, norm, scale):
            best = best.with_weights(x, y, norm, weights)
            if best.gap <= tol or time.perf_counter() > deadline:
                break
    return best
