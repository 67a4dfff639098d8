"""The exact maximum margin of a linear model under a norm, with a proof: a separator below and dual weights above.

    gamma* = max_{N(W) <= 1} min_{i, c != y_i} <W, (e_{y_i} - e_c) x_i^T>
           = min_{w in simplex} N_*( sum_ic w_ic (e_{y_i} - e_c) x_i^T ).

No solver's status is evidence. Whatever a solver returns, both values are recomputed here, and a :class:`Reference` carries
them with the separator and the weights. Two ways lead there:

* :func:`solve_exact`: a conic solver through cvxpy where that is fast and accurate, the primal-dual method of
  :mod:`implicit_bias.primal_dual` elsewhere; and that method again, warm-started, where the conic answer's certified gap is
  above the tolerance.
* :func:`solve_certified`: the primal-dual method alone, on many datasets of one shape at once. cvxpy is not imported.

Which solver, measured (``scripts/compare_solvers.py``: k = 10, d = 25, noise 1, seed 1; one core; CPU seconds with
cvxpy's compilation, then the certified relative gap; the form of each is the better one; chosen: *):

==========  ==============  ==============  ==============  ==============  ==============
n = 100     Clarabel        HiGHS           SCS             OSQP            primal-dual
==========  ==============  ==============  ==============  ==============  ==============
linf        .17  1e-11 *    .07  5e-14      .31  3e-10      1.4  2e-4       3.7  3e-15
l1          .11  1e-12 *    .25  9e-14      .07  2e-11      1.3  9e-5       1.5  5e-15
l2          .14  1e-12 *                    .05  7e-12      .03  8e-16      .10  6e-7
row         .18  1e-11 *                    .09  4e-9                       .09  5e-7
spectral    .18  2e-10 *                    .28  1e-8                       .14  4e-7
nuclear     .54  2e-7                       .07  5e-9                       .16  8e-7 *
==========  ==============  ==============  ==============  ==============  ==============
n = 500
==========  ==============  ==============  ==============  ==============  ==============
linf        .42  2e-11 *    .50  9e-14      8.6  4e-4       4.7  9e-4       4.6  9e-8
l1          .29  7e-12 *    1.9  6e-13      1.1  2e-8       4.9  5e-4       3.1  5e-15
l2          .49  2e-10 *                    .50  4e-10      .40  2e-15      .38  8e-7
row         .44  3e-12 *                    .84  4e-9                       .74  1e-6
spectral    .91  1e-8  *                    1.6  6e-9                       4.3  4e-7
nuclear     3.3  4e-6                       .44  4e-9                       .56  9e-7 *
==========  ==============  ==============  ==============  ==============  ==============

Clarabel is the one that is fast and tight on every norm but the nuclear, where the primal-dual method needs no cvxpy and no
larger cone. OSQP is the best at the quadratic program alone, and poor at the linear ones. A semidefinite cone of side k + d
rules the conic solvers out at d = 784 (1,000 MNIST images, 600 live pixels): there the primal-dual method takes 3 s (l2),
4 s (nuclear) or 40 s (spectral) to a gap of 1e-5, and HiGHS' interior point half a minute for the linear programs, to 1e-11.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from implicit_bias.errors import NotSeparable
from implicit_bias.norms import Norm, make_norm
from implicit_bias.primal_dual import POLYHEDRAL, Game, positive, solve

Form = Literal["norm", "margin"]
Attempt = tuple[Literal["clarabel", "highs"], Form]
Array = NDArray[np.float64]

# The data counts as not separable where its margin is proven to be below this fraction of N_*((e_y - e_c) x^T), x the longest
# sample.
ZERO_MARGIN = 1e-9
# What cvxpy is asked, in order, by norm: a solver, and a form. "norm" minimises N(V) with gaps >= 1, "margin" maximises the
# margin with N(V) <= 1. The semidefinite cone of the spectral norm ends more accurately in the second form, the others in the
# first. Norms that are not named have no conic form that beats the primal-dual method.
CONES: tuple[Attempt, ...] = (("clarabel", "norm"), ("clarabel", "margin"))
ATTEMPTS: dict[str, tuple[Attempt, ...]] = {
    "linf": CONES,
    "l1": CONES,
    "l2": CONES,
    "lp": CONES,
    "row": CONES,
    "spectral": (("clarabel", "margin"),),
}
# Linear programs too large for Clarabel: an interior-point method with crossover, which uses the zeros of the data.
LARGE_ATTEMPTS: dict[str, tuple[Attempt, ...]] = {"linf": (("highs", "margin"),), "l1": (("highs", "norm"),)}
# The largest problems, by pairs times entries of W, and the largest side k + d of a semidefinite cone.
CONIC_SIZE = 10_000_000
LARGE_SIZE = 100_000_000
CONIC_SIDE = 60
SOLVER_OPTIONS: dict[str, dict[str, object]] = {
    "clarabel": {"tol_gap_abs": 1e-11, "tol_gap_rel": 1e-11, "tol_feas": 1e-11},
    "highs": {"highs_options": {"solver": "ipm"}},
}
# What decides whether the classes can be separated at all: a linear program that is always feasible, with an exact vertex.
SEPARABILITY: tuple[str, Attempt] = ("linf", ("highs", "margin"))


@dataclass(frozen=True)
class Reference:
    """A maximum margin, enclosed: ``lower <= gamma* <= upper``, proven by ``separator`` and ``weights``."""

    norm: str  # label of the norm
    separator: Array = field(repr=False)  # (k, d), norm 1
    lower: float  # its margin
    upper: float  # dual value of the weights
    weights: Array = field(repr=False)  # (n, k), >= 0, 0 at the label, sum 1
    solver: str  # "clarabel", "primal-dual", "clarabel+primal-dual"
    seconds: float  # wall time, from the start of the batch it was solved in

    @property
    def gap(self) -> float:
        """(upper - lower) / upper."""
        return (self.upper - self.lower) / self.upper


def solve_exact(
    x: ArrayLike, y: ArrayLike, num_classes: int, norm: Norm, tol: float = 1e-6, max_iterations: int = 200_000
) -> Reference:
    """The maximum margin of data x (n, d), labels y (n,) in [num_classes), certified to a relative gap of ``tol``.

    Should the iterations not suffice, the reference still encloses the optimum; its ``gap`` says how closely.

    Raises:
        NotSeparable: no linear model separates the classes.
    """
    began = time.perf_counter()
    data = _Data.of(x, y, num_classes, norm)
    best, solvers = data.nothing(), list[str]()
    for attempt in _conic_plan(norm, len(data.x), data.x.shape[1], num_classes):
        solvers = [attempt[0]]
        best = best.improved(data.certify(data.conic(norm, attempt)))
        if best.gap <= tol:
            break
    if solvers == ["clarabel"] and best.lower <= 0:  # infeasible, or the solver's failure
        label, attempt = SEPARABILITY
        solvers = [attempt[0]]
        best = best.improved(data.certify(data.conic(make_norm(label), attempt)))
    if best.gap > tol and best.upper > data.zero:
        known = best.lower > 0
        found = solve(
            data.game,
            norm,
            tol,
            max_iterations,
            separator=best.separator[None] if known else None,
            weights=best.weights[None] if known else None,
            hopeless=torch.tensor([data.zero], dtype=torch.float64),
        )
        best = best.improved(_Bounds(found.separator[0], found.weights[0], float(found.lower), float(found.upper)))
        solvers.append("primal-dual")
    return data.reference(best, "+".join(solvers), time.perf_counter() - began)


def solve_certified(
    x: ArrayLike | Tensor, y: ArrayLike | Tensor, num_classes: int, norm: Norm, tol: float = 1e-6, max_iterations: int = 200_000
) -> list[Reference]:
    """The maximum margins of R datasets x (R, n, d), y (R, n) in one batch, each certified to a relative gap of ``tol``.

    Raises:
        NotSeparable: some dataset is not separable; :func:`solve_certified_each` keeps the others.
    """
    results = solve_certified_each(x, y, num_classes, norm, tol, max_iterations)
    for result in results:
        if isinstance(result, NotSeparable):
            raise result
    return [result for result in results if isinstance(result, Reference)]


def solve_certified_each(
    x: ArrayLike | Tensor, y: ArrayLike | Tensor, num_classes: int, norm: Norm, tol: float = 1e-6, max_iterations: int = 200_000
) -> list[Reference | NotSeparable]:
    """:func:`solve_certified`, with the error in the place of a dataset that is not separable."""
    points, labels = _tensor(x, torch.float64), _tensor(y, torch.int64)
    used = _used(points.flatten(0, 1))
    game = Game.of(points[:, :, used], labels.to(points.device), num_classes)
    found = solve(game, norm, tol, max_iterations, hopeless=ZERO_MARGIN * game.pair_size(norm))
    results: list[Reference | NotSeparable] = []
    for r in range(len(points)):
        data = _Data(game.x[r].cpu().numpy(), labels[r].cpu().numpy(), num_classes, norm, used.cpu().numpy())
        bounds = _Bounds(found.separator[r].cpu(), found.weights[r].cpu(), float(found.lower[r]), float(found.upper[r]))
        try:
            results.append(data.reference(bounds, "primal-dual", float(found.seconds[r])))
        except NotSeparable as error:
            results.append(error)
    return results


def solve_conic(
    x: Array, y: NDArray[np.int64], num_classes: int, norm: Norm, solver: str, form: Form, options: Mapping[str, object]
) -> tuple[Array, Array] | None:
    """A cvxpy solver's separator (k, d) and multipliers (n, k), not certified; None where it has none to give."""
    import cvxpy  # here, for it takes most of a second

    onehot = np.eye(num_classes)[y]
    v = cvxpy.Variable((num_classes, x.shape[1]))
    logits = (x / (np.abs(x).max() or 1.0)) @ v.T
    own = cvxpy.sum(cvxpy.multiply(logits, onehot), axis=1, keepdims=True)
    gaps = own @ np.ones((1, num_classes)) - logits
    if form == "norm":
        pairs = gaps >= 1 - onehot
        problem = cvxpy.Problem(cvxpy.Minimize(norm.expression(v)), [pairs])
    else:
        margin = cvxpy.Variable()
        pairs = gaps >= cvxpy.multiply(margin, 1 - onehot)
        problem = cvxpy.Problem(cvxpy.Maximize(margin), [pairs, norm.expression(v) <= 1])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "may be inaccurate": the certificate will tell
            problem.solve(solver=solver.upper(), **options)
    except cvxpy.error.SolverError:
        return None
    if v.value is None or pairs.dual_value is None:
        return None
    return v.value, pairs.dual_value


def improve_weights(
    x: Tensor, y: Tensor, norm: Norm, weights: Tensor, separator: Tensor | None, iterations: int
) -> tuple[Tensor, Tensor]:
    """Tighten certificates by a few primal-dual steps: better weights (R, n, k) and their dual values (R,).

    Args:
        x, y: The data (R, n, d), (R, n).
        weights: Where to start, (R, n, k): not negative, of positive sum. Their dual value is never exceeded.
        separator: A good separator (R, k, d), for instance a trajectory's last iterate; it helps the round norms.
        iterations: Steps to make; 1,000 bring the bound within .002 of the optimum on the papers' data.
    """
    game = Game.of(x, y, weights.shape[-1])
    simplex = _normalised(weights.mT, game)
    # On a polyhedral ball the trajectory's point has the wrong face, and losing it takes longer than starting from 0 (measured).
    start_at = None if norm.label in POLYHEDRAL else separator
    found = solve(game, norm, 0.0, iterations, start_at, simplex)
    start = game.upper(simplex, norm)  # bounds recomputed on the data itself, free of the solver's scaling
    upper = game.upper(found.weights, norm)
    better = upper < start
    return torch.where(better[:, None, None], found.weights, simplex).mT, torch.where(better, upper, start)


@dataclass(frozen=True)
class _Bounds:
    """A separator and weights, each with what it proves."""

    separator: Tensor  # (k, d)
    weights: Tensor  # (k, n), as the primal-dual method lays them out
    lower: float
    upper: float

    @property
    def gap(self) -> float:
        return (self.upper - self.lower) / self.upper if self.upper > 0 else 0.0

    def improved(self, other: _Bounds | None) -> _Bounds:
        """The better separator and the better weights of the two."""
        if other is None:
            return self
        primal = other if other.lower > self.lower else self
        dual = other if other.upper < self.upper else self
        return _Bounds(primal.separator, dual.weights, primal.lower, dual.upper)


@dataclass(frozen=True)
class _Data:
    """One dataset without the features that are zero in every sample; no norm here gains from a weight on one."""

    x: Array  # (n, d')
    y: NDArray[np.int64]
    num_classes: int
    norm: Norm
    used: NDArray[np.bool_]  # (d,), which features these are

    @staticmethod
    def of(x: ArrayLike, y: ArrayLike, num_classes: int, norm: Norm) -> _Data:
        points = np.asarray(x, dtype=np.float64)
        used = _used(torch.as_tensor(points)).numpy()
        return _Data(np.ascontiguousarray(points[:, used]), np.asarray(y, dtype=np.int64), num_classes, norm, used)

    @cached_property
    def game(self) -> Game:
        return Game.of(torch.as_tensor(self.x)[None], torch.as_tensor(self.y)[None], self.num_classes)

    @cached_property
    def zero(self) -> float:
        """An upper bound on the margin that is as good as zero."""
        return ZERO_MARGIN * float(self.game.pair_size(self.norm))

    def nothing(self) -> _Bounds:
        """What is known before any solver: the zero separator, equal weights."""
        weights = self.game.uniform()
        separator = torch.zeros(self.num_classes, self.x.shape[1], dtype=torch.float64)
        return _Bounds(separator, weights[0], 0.0, float(self.game.upper(weights, self.norm)))

    def conic(self, norm: Norm, attempt: Attempt) -> tuple[Array, Array] | None:
        solver, form = attempt
        return solve_conic(self.x, self.y, self.num_classes, norm, solver, form, SOLVER_OPTIONS[solver])

    def certify(self, answer: tuple[Array, Array] | None) -> _Bounds | None:
        """The bounds that a solver's separator and multipliers prove, whatever it said of them; None where it has no answer."""
        if answer is None:
            return None
        separator, multipliers = (torch.as_tensor(a, dtype=torch.float64)[None] for a in answer)
        weights = _normalised(multipliers.mT, self.game)
        lower, upper = self.game.lower(separator, self.norm), self.game.upper(weights, self.norm)
        return _Bounds(separator[0], weights[0], float(lower), float(upper))

    def reference(self, bounds: _Bounds, solver: str, seconds: float) -> Reference:
        """The bounds as a :class:`Reference`, recomputed, the dropped features put back.

        Raises:
            NotSeparable: the margin is proven to be zero, or no separator was found.
        """
        if bounds.lower <= 0 or bounds.upper <= self.zero:
            raise NotSeparable(
                "the classes of this dataset cannot be separated by a linear model "
                f"(best {self.norm.label} margin <= {max(bounds.upper, 0.0):.2g}, {bounds.lower:.2g} found): use reference=none"
            )
        separator = bounds.separator[None] / self.norm.value(bounds.separator)
        lower, upper = float(self.game.lower(separator, self.norm)), float(self.game.upper(bounds.weights[None], self.norm))
        embedded = np.zeros((self.num_classes, len(self.used)))
        embedded[:, self.used] = separator[0].numpy()
        # At a vertex the bounds meet to round-off, on either side.
        weights = bounds.weights.mT.contiguous().numpy()
        return Reference(self.norm.label, embedded, min(lower, upper), upper, weights, solver, seconds)


def _used(points: Tensor) -> Tensor:
    """Features (d,) that are not zero throughout the samples (n, d); the first one where all are."""
    used: Tensor = (points != 0).any(dim=0)
    if not bool(used.any()):
        used[0] = True
    return used


def _tensor(values: ArrayLike | Tensor, dtype: torch.dtype) -> Tensor:
    return (values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))).to(dtype)


def _normalised(weights: Tensor, game: Game) -> Tensor:
    """Multipliers (R, k, n) as points of the simplex, 0 at the label; equal weights where nothing is left of them."""
    clean = torch.where(torch.isfinite(weights), weights, torch.zeros_like(weights)).clamp(min=0) * (1 - game.onehot)
    total = clean.sum(dim=(1, 2), keepdim=True)
    return torch.where(total > 0, clean / positive(total), game.uniform())


def _conic_plan(norm: Norm, n: int, d: int, num_classes: int) -> tuple[Attempt, ...]:
    """What to ask of cvxpy for a problem of this size; nothing where the primal-dual method is the better solver."""
    size = n * (num_classes - 1) * num_classes * d
    semidefinite = norm.unitarily_invariant and not norm.entrywise
    if size > LARGE_SIZE or (semidefinite and num_classes + d > CONIC_SIDE):
        return ()
    return (ATTEMPTS if size <= CONIC_SIZE else LARGE_ATTEMPTS).get(norm.name, ())
