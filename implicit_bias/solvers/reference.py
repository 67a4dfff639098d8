"""The exact maximum margin of a linear model under a norm, with a proof: a separator below and dual weights above.

    gamma* = max_{N(W) <= 1} min_{i, c != y_i} <W, (e_{y_i} - e_c) x_i^T>
           = min_{w in simplex} N_*( sum_ic w_ic (e_{y_i} - e_c) x_i^T ).

No solver's status is evidence. Whatever a solver returns, both values are recomputed in twice the working precision and rounded
outwards (:mod:`implicit_bias.solvers.enclosure`), and a :class:`Reference` carries them with the separator and the weights.

* Small problems are solved as cone programs by Clarabel in coordinates in which the data are of one size
  (:mod:`implicit_bias.solvers.optimum`), linear programs that are too large for it by HiGHS.
* The others by the primal-dual method of :mod:`implicit_bias.solvers.primal_dual`, many datasets of one shape at once.
* For two classes the l2 norm and every Schatten norm have one optimal separator (W = e (w, -w) has rank one): solved once.
* Whether there is an optimum at all is answered by proof (:mod:`implicit_bias.solvers.separability`).

:func:`solve_exact` also takes norms that are known by their cvxpy expression alone to Clarabel; :func:`solve_certified` never
imports cvxpy.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from implicit_bias.core.errors import NotSeparable
from implicit_bias.models.perturbations import Perturbed
from implicit_bias.norms import Norm, make_norm
from implicit_bias.norms.identities import check_added
from implicit_bias.solvers.enclosure import lower_bound, relative_gap, upper_bound
from implicit_bias.solvers.forms import form_of, semidefinite_side
from implicit_bias.solvers.game import Game
from implicit_bias.solvers.optimum import LINEAR_PROGRAMS, Bounds, nothing, solve_cone
from implicit_bias.solvers.primal_dual import solve
from implicit_bias.solvers.separability import Separability, decide
from implicit_bias.solvers.tightening import improve_weights

__all__ = [
    "COLUMN_OF_ONES",
    "NO_BIAS",
    "PROVEN",
    "SOLVER_VERSION",
    "TIMEOUT",
    "Reference",
    "improve_weights",
    "in_batches",
    "solve_certified",
    "solve_certified_each",
    "solve_exact",
    "solve_from",
]

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

#: Of the solvers and of what they promise; part of the cache's keys, so that what an earlier version left is solved again.
SOLVER_VERSION = 2
#: An optimum counts as known where its interval is no wider than this, relative.
PROVEN = 1e-4
#: Parts of the refusal that are not true of every dataset: a constant feature is a bias.
NO_BIAS = ", which has no bias"
#: How the refusal of classes that cannot be separated ends: what often helps.
COLUMN_OF_ONES = ", or give the data a column of ones"
#: Seconds for one optimum; past them the interval that is proven by then stands in its place.
TIMEOUT = 60.0
# Whether classes can be separated is asked for so long at least.
LEAST_SECONDS = 1.0
# The largest problems, by pairs times entries of W, and the largest side k + min(n, d) of a semidefinite cone.
CONIC_SIZE = 10_000_000
LARGE_SIZE = 100_000_000
CONIC_SIDE = 60
# The primal-dual method gives up a dataset whose margin is proven to be below this fraction of N_*((e_y - e_c) x^T), x the
# longest sample; whether its classes can be separated is then decided by proof.
ZERO_MARGIN = 1e-9
# Steps that the primal-dual method may spend on what a cone program left open.
FINISHING_STEPS = 5_000
MOST_STEPS = 200_000


@dataclass(frozen=True)
class Reference:
    """A maximum margin, enclosed: ``lower <= gamma* <= upper``, proven by ``separator`` and ``weights``."""

    norm: str  # label of the norm
    separator: Array = field(repr=False)  # (k, d), norm 1
    lower: float  # its margin
    upper: float  # dual value of the weights
    weights: Array = field(repr=False)  # (n, k), >= 0, 0 at the label, sum 1
    solver: str  # "clarabel", "highs", "primal-dual", "clarabel+primal-dual"
    seconds: float  # wall time, from the start of the batch it was solved in
    late: bool = False  # whether time ran out before the tolerance was met

    @property
    def perturbed(self) -> Perturbed | None:
        """How the samples are perturbed that it is of; None: they are as given."""
        return None

    @property
    def gap(self) -> float:
        """(upper - lower) / upper."""
        return relative_gap(self.lower, self.upper)

    @property
    def proven(self) -> bool:
        """Whether the interval is narrow enough for ``lower`` to stand for the optimum."""
        return self.gap <= PROVEN

    def recomputed(self, x: Array, y: Labels, norm: Norm) -> Reference:
        """The reference with both bounds recomputed from separator and weights.

        Args:
            x: Data (n, d).
            y: Labels (n,).
            norm: The norm of this reference.

        Returns:
            The reference with bounds that hold.

        Raises:
            ValueError: separator or weights are not of these data, or prove nothing.
        """
        k = self.separator.shape[0]
        if self.separator.shape != (k, x.shape[1]) or self.weights.shape != (len(x), k) or k <= int(y.max()):
            raise ValueError("of another problem")
        exponent = _exponent(x)
        unit = np.ldexp(x, -exponent)
        lower, upper = lower_bound(unit, y, self.separator, norm), upper_bound(unit, y, self.weights, norm)
        if not (0 < lower < math.inf and 0 < upper < math.inf):
            raise ValueError("proves nothing")
        return replace(self, lower=math.ldexp(min(lower, upper), exponent), upper=math.ldexp(upper, exponent))


def solve_exact(
    x: ArrayLike,
    y: ArrayLike,
    num_classes: int,
    norm: Norm,
    tol: float = 1e-6,
    max_iterations: int = MOST_STEPS,
    timeout: float = TIMEOUT,
) -> Reference:
    """The maximum margin of data x (n, d), labels y (n,) in [num_classes), certified to a relative gap of ``tol``.

    Should the time or the iterations not suffice, the reference still encloses the optimum; its ``gap`` says how closely.

    Args:
        x: Data (n, d).
        y: Labels (n,), integers in [num_classes).
        num_classes: k.
        norm: N.
        tol: Relative gap (upper - lower) / upper to reach.
        max_iterations: Steps of the primal-dual method at most.
        timeout: Seconds.

    Returns:
        The optimum, enclosed; margins are in the unit of the data.

    Raises:
        NotSeparable: no linear model separates the classes, or that cannot be told in double precision.
    """
    began = time.perf_counter()
    data = _Data.of(x, y, num_classes, norm)
    return _solved(data, tol, max_iterations, began, timeout, expressions=True)


def solve_certified(
    x: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    num_classes: int,
    norm: Norm,
    tol: float = 1e-6,
    max_iterations: int = MOST_STEPS,
    timeout: float = TIMEOUT,
) -> list[Reference]:
    """The maximum margins of R datasets x (R, n, d), y (R, n), each certified to a relative gap of ``tol``.

    Args:
        x: Data (R, n, d).
        y: Labels (R, n), integers in [num_classes).
        num_classes: k.
        norm: N, the same for all.
        tol: Relative gap (upper - lower) / upper to reach.
        max_iterations: Steps of the primal-dual method at most.
        timeout: Seconds a dataset.

    Returns:
        One optimum a dataset, in order.

    Raises:
        NotSeparable: some dataset is not separable; :func:`solve_certified_each` keeps the others.
    """
    results = solve_certified_each(x, y, num_classes, norm, tol, max_iterations, timeout)
    for result in results:
        if isinstance(result, NotSeparable):
            raise result
    return [result for result in results if isinstance(result, Reference)]


def solve_certified_each(
    x: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    num_classes: int,
    norm: Norm,
    tol: float = 1e-6,
    max_iterations: int = MOST_STEPS,
    timeout: float = TIMEOUT,
) -> list[Reference | NotSeparable]:
    """:func:`solve_certified`, with the error in the place of a dataset that is not separable.

    Those that are too large for a cone program, or whose norm has none, are solved in one batch, which has ``timeout`` seconds a
    dataset.

    Args:
        x: Data (R, n, d).
        y: Labels (R, n), integers in [num_classes).
        num_classes: k.
        norm: N, the same for all.
        tol: Relative gap (upper - lower) / upper to reach.
        max_iterations: Steps of the primal-dual method at most.
        timeout: Seconds a dataset.

    Returns:
        One optimum or error a dataset, in order.
    """
    points = [np.asarray(one, dtype=np.float64) for one in _tensor(x, torch.float64).cpu().numpy()]
    labels = [np.asarray(one, dtype=np.int64) for one in _tensor(y, torch.int64).cpu().numpy()]
    sets = [_Data.of(one, of, num_classes, norm) for one, of in zip(points, labels, strict=True)]
    if all(data.method(expressions=False) == "primal-dual" for data in sets):
        return _solved_together(points, labels, sets, tol, max_iterations, timeout)
    results: list[Reference | NotSeparable] = []
    for data in sets:
        try:
            results.append(_solved(data, tol, max_iterations, time.perf_counter(), timeout, expressions=False))
        except NotSeparable as error:
            results.append(error)
    return results


def solve_from(
    starts: Sequence[Reference],
    x: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    num_classes: int,
    norms: Sequence[Norm],
    tol: float = 1e-6,
    max_iterations: int = MOST_STEPS,
    timeout: float = TIMEOUT,
) -> list[Reference]:
    """The maximum margins of R datasets x (R, n, d), y (R, n) by the primal-dual method alone, in one batch that has ``timeout``
    seconds a dataset, each begun at the separator and the weights of an optimum under another norm, such as a neighbouring
    exponent's.

    Args:
        starts: An optimum of each dataset; its separator has a positive margin under every norm.
        x: Data (R, n, d).
        y: Labels (R, n), integers in [num_classes).
        num_classes: k.
        norms: Of each dataset; all the same, or of one kind with an exponent strictly between 1 and inf each.
        tol: Relative gap (upper - lower) / upper to reach.
        max_iterations: Steps of the primal-dual method at most.
        timeout: Seconds a dataset.

    Returns:
        What is proven when the tolerance is met, or the iterations or the time are over.

    Raises:
        NotSeparable: in double precision a start has no margin.
    """
    points = [np.asarray(one, dtype=np.float64) for one in _tensor(x, torch.float64).cpu().numpy()]
    labels = [np.asarray(one, dtype=np.int64) for one in _tensor(y, torch.int64).cpu().numpy()]
    sets = [_Data.of(one, of, num_classes, norm) for one, of, norm in zip(points, labels, norms, strict=True)]
    found = _solved_together(points, labels, sets, tol, max_iterations, timeout, starts)
    for one in found:
        if isinstance(one, NotSeparable):
            raise one
    return [one for one in found if isinstance(one, Reference)]


def in_batches(x: Array, num_classes: int, norm: Norm, expressions: bool) -> bool:
    """Whether optima of data like x (n, d) are solved by first-order steps alone, and so many datasets best at once.

    Args:
        x: Data (n, d); its values matter as far as features are zero throughout.
        num_classes: k.
        norm: N.
        expressions: Whether norms without a cone program of their own may go to cvxpy (:func:`solve_exact`).

    Returns:
        The truth value.
    """
    data = _Data.of(x, np.zeros(len(x), dtype=np.int64), num_classes, norm)
    return data.method(expressions) == "primal-dual"


def _solved(data: _Data, tol: float, max_iterations: int, began: float, timeout: float, expressions: bool) -> Reference:
    """One optimum: a cone program where there is one, then the primal-dual method on what is left open."""
    deadline = began + timeout
    method, norm = data.method(expressions), data.solved_norm

    def solved(best: Bounds) -> Bounds:
        if method == "primal-dual":
            return data.by_primal_dual(norm, best, tol, max_iterations, deadline)
        return data.by_cone(norm, best, tol, deadline, large=method == "highs")

    solvers, best = [method], nothing(data.x, data.y, data.num_classes, norm)
    # A program made from an expression takes seconds: it starts from a margin that a linear program finds.
    if method == "primal-dual" or form_of(norm) is not None:
        best = solved(best)
    if best.lower <= 0:
        best = solved(data.separated(best, norm, max(deadline - time.perf_counter(), LEAST_SECONDS)))
    if best.gap > tol and method != "primal-dual":
        best = data.by_primal_dual(norm, best, tol, min(max_iterations, FINISHING_STEPS), deadline)
        solvers.append("primal-dual")
    if best.lower <= 0:
        raise data.refusal(Separability(None, best.lower, best.upper, best.weights))
    return data.reference(best, "+".join(solvers), time.perf_counter() - began)


def _solved_together(
    points: Sequence[Array],
    labels: Sequence[Labels],
    sets: Sequence[_Data],
    tol: float,
    max_iterations: int,
    timeout: float,
    starts: Sequence[Reference] | None = None,
) -> list[Reference | NotSeparable]:
    """The primal-dual method on all datasets at once; from zero and equal weights, or from ``starts``."""
    k = sets[0].num_classes
    exponents = [_exponent(one) for one in points]
    stacked = torch.from_numpy(np.stack([np.ldexp(one, -e) for one, e in zip(points, exponents, strict=True)]))
    used = (stacked != 0).any(dim=1).any(dim=0)
    if not bool(used.any()):
        used[0] = True
    norm = _batched([data.standing_norm for data in sets]).of_columns(used.numpy())
    game = Game.of(stacked[:, :, used], torch.from_numpy(np.stack(labels)), k)
    deadline = time.perf_counter() + timeout * len(sets)
    separator = weights = None
    if starts is not None:
        separator = torch.from_numpy(np.stack([start.separator[:, used.numpy()] for start in starts]))
        weights = torch.from_numpy(np.ascontiguousarray(np.stack([start.weights.T for start in starts])))
    hopeless = ZERO_MARGIN * game.pair_size(norm)
    found = solve(game, norm, tol, max_iterations, separator, weights, hopeless, deadline)
    results: list[Reference | NotSeparable] = []
    for r, data in enumerate(sets):
        w, own = np.zeros((k, stacked.shape[2])), data.solved_norm
        w[:, used.numpy()] = found.separator[r].numpy()
        best = nothing(data.x, data.y, k, own).with_separator(data.x, data.y, own, w[:, data.used])
        best = best.with_weights(data.x, data.y, own, found.weights[r].mT.numpy())
        try:
            if best.lower <= 0:
                best = data.separated(best, own, max(deadline - time.perf_counter(), LEAST_SECONDS))
            if best.lower <= 0:
                raise data.refusal(Separability(None, best.lower, best.upper, best.weights))
            late = best.gap > tol and time.perf_counter() > deadline
            results.append(data.reference(replace(best, late=late), "primal-dual", float(found.seconds[r])))
        except NotSeparable as error:
            results.append(error)
    return results


def _batched(norms: Sequence[Norm]) -> Norm:
    """One norm of a batch: the norm itself where all are the same, else one with the exponents of all."""
    if len({norm.label for norm in norms}) == 1:
        return norms[0]
    numbers = {f.name: torch.tensor([getattr(norm, f.name) for norm in norms], dtype=torch.float64) for f in fields(norms[0])}
    return replace(norms[0], **numbers)


@dataclass(frozen=True)
class _Data:
    """One dataset divided by a power of two, without the features that are zero in every sample; no norm here gains from a weight
    on one."""

    x: Array  # (n, d'), entries up to about one
    y: Labels
    num_classes: int
    norm: Norm
    used: NDArray[np.bool_]  # (d,), which features these are; the norm is of all
    exponent: int  # the data are x 2^exponent

    @staticmethod
    def of(x: ArrayLike, y: ArrayLike, num_classes: int, norm: Norm) -> _Data:
        """The data as they are solved. Raises BadInput: a plugin's norm is none for matrices of their shape."""
        points = np.asarray(x, dtype=np.float64)
        used = (points != 0).any(axis=0)
        if not used.any():
            used[0] = True
        exponent = _exponent(points)
        kept = np.ascontiguousarray(np.ldexp(points[:, used], -exponent))
        check_added(norm, [(num_classes, kept.shape[1])])
        return _Data(kept, np.asarray(y, dtype=np.int64), num_classes, norm, used, exponent)

    @property
    def standing_norm(self) -> Norm:
        """The norm whose problem is solved, on all features: for two classes the l2 norm stands for every Schatten norm."""
        same = self.num_classes == 2 and self.norm.unitarily_invariant
        return make_norm("l2") if same else self.norm

    @property
    def solved_norm(self) -> Norm:
        """That norm on the features that are used."""
        return self.standing_norm.of_columns(self.used)

    @property
    def size(self) -> int:
        """Pairs times entries of W."""
        n, d = self.x.shape
        size: int = n * (self.num_classes - 1) * self.num_classes * d
        return size

    def separated(self, best: Bounds, norm: Norm, seconds: float) -> Bounds:
        """The bounds with a separator; unchanged where the linear program that decides it is too large.

        Raises:
            NotSeparable: there is none, or double precision cannot tell.
        """
        if self.size > LARGE_SIZE:
            return best
        known = decide(self.x, self.y, self.num_classes, seconds, large=self.size > CONIC_SIZE)
        if known.separator is None:
            raise self.refusal(known)
        return best.with_separator(self.x, self.y, norm, known.separator)

    def method(self, expressions: bool) -> str:
        """``clarabel``, ``highs`` or ``primal-dual``. ``expressions``: whether norms without a form of their own may go to
        cvxpy."""
        norm = self.solved_norm
        side = semidefinite_side(norm, self.num_classes, min(self.x.shape))
        has_form = form_of(norm) is not None or expressions
        if self.size <= CONIC_SIZE and has_form and side <= CONIC_SIDE:
            return "clarabel"
        return "highs" if self.size <= LARGE_SIZE and norm.name in LINEAR_PROGRAMS else "primal-dual"

    def by_cone(self, norm: Norm, best: Bounds, tol: float, deadline: float, large: bool) -> Bounds:
        return solve_cone(self.x, self.y, self.num_classes, norm, best, tol, deadline, large)

    def by_primal_dual(self, norm: Norm, best: Bounds, tol: float, max_iterations: int, deadline: float) -> Bounds:
        """What the primal-dual method proves, from the best known point on."""
        game = Game.of(torch.from_numpy(self.x)[None], torch.from_numpy(self.y)[None], self.num_classes)
        known = best.lower > 0
        found = solve(
            game,
            norm,
            tol,
            max_iterations,
            separator=torch.from_numpy(best.separator)[None] if known else None,
            weights=torch.from_numpy(np.ascontiguousarray(best.weights.T))[None] if known else None,
            hopeless=ZERO_MARGIN * game.pair_size(norm),
            deadline=deadline,
        )
        best = best.with_separator(self.x, self.y, norm, found.separator[0].numpy())
        best = best.with_weights(self.x, self.y, norm, found.weights[0].mT.contiguous().numpy())
        return replace(best, late=best.late or (best.gap > tol and time.perf_counter() > deadline))

    def reference(self, best: Bounds, solver: str, seconds: float) -> Reference:
        """The bounds as a :class:`Reference` in the norm asked for, the dropped features and the scale put back."""
        w = best.separator
        norm = self.norm.of_columns(self.used)
        if self.standing_norm is not self.norm:
            w = w - w.mean(axis=0)  # the part that gaps see, which no Schatten norm gains from leaving
        exponent = _exponent(w)
        w = np.ldexp(w, -exponent)
        w = w / float(norm.value(torch.from_numpy(w)))
        weights = best.weights / best.weights.sum()
        lower, upper = lower_bound(self.x, self.y, w, norm), upper_bound(self.x, self.y, weights, norm)
        embedded = np.zeros((self.num_classes, len(self.used)))
        embedded[:, self.used] = w
        # At a vertex the bounds meet to round-off, on either side.
        lower, upper = (math.ldexp(bound, self.exponent) for bound in (min(lower, upper), upper))
        return Reference(self.norm.label, embedded, lower, upper, weights, solver, seconds, best.late)

    def refusal(self, known: Separability) -> NotSeparable:
        """The error for classes that are proven not to be separable, or not known to be."""
        if known.separable is False:
            pairs = int((known.weights > 0).sum())
            return NotSeparable(
                f"the classes of this dataset cannot be separated by a linear model{NO_BIAS} (proof: weights on"
                f" {pairs} pair{'s' if pairs > 1 else ''} of a sample and another class cancel): use"
                f" reference=none{COLUMN_OF_ONES}"
            )
        bound = f", proven to be at most {known.residue:.2g}" if math.isfinite(known.residue) else ""
        return NotSeparable(
            "whether a linear model separates the classes of this dataset cannot be told in double precision"
            f" (best margin found {known.margin:.2g}{bound}, in units of the data): use reference=none",
            proven=False,
        )


def _exponent(x: Array) -> int:
    """e with 2^e about the largest entry's size; 0 where all are zero."""
    largest = float(np.abs(x).max(initial=0.0))
    return math.frexp(largest)[1] if 0 < largest < math.inf else 0


def _tensor(values: ArrayLike | Tensor, dtype: torch.dtype) -> Tensor:
    return (values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))).to(dtype)
