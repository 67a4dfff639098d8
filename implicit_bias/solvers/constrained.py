"""The best point of a ball, and the regularisation path: where weight decay leads.

    minimise log sum_{i, c != y_i} exp(-m_ic(W))   subject to   N(W) <= B,      m_ic(W) = <W, (e_{y_i} - e_c) x_i^T>.

That is the logarithm of n times the exponential loss; the cross entropy has the same limits as B grows. Never the loss itself is
minimised: at B gamma* = 30 it is some 1e-13, below every absolute tolerance of a solver, while its logarithm is of the order of B
gamma*. With W(B) the solution, B gamma* - log(pairs) <= min m(W(B)) (Rosset, Zhu and Hastie, JMLR 5, 2004: W(B) / B tends to the
separator of largest margin).

Solved by Clarabel with one exponential cone a pair. No status is believed: the solution is brought into the ball, and dual
weights enclose the optimum from below. For all p in the simplex of the pairs, with H(p) = -sum p log p,

    min_{N(W) <= B} log sum exp(-m_ic(W)) >= H(p) - B N_*( sum_ic p_ic (e_{y_i} - e_c) x_i^T ),

with equality at the best p. At p_ic ~ exp(-m_ic(W)) that is the gap of Frank and Wolfe; the solver's own multipliers are nearer.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.special import entr, logsumexp

from implicit_bias.norms import Norm
from implicit_bias.solvers.conic import TOLERANCE, all_classes, gap_rows, settings
from implicit_bias.solvers.enclosure import Labels
from implicit_bias.solvers.forms import form_of
from implicit_bias.solvers.reference import TIMEOUT
from implicit_bias.solvers.sparse import Sparse

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ConstrainedOptimum:
    """The least log-sum-exp of negative gaps over N(W) <= B, enclosed: ``lower <= optimum <= log_sum``.

    Attributes:
        norm: Label of the norm.
        radius: B.
        separator: W (k, d), N(W) <= B.
        log_sum: log sum exp(-m_ic(W)); less log n it is the log of the mean exponential loss.
        lower: The dual value of the weights, computed in double precision.
        weights: p (n, k), 0 at the label, sum 1.
        margin: min m_ic(W) / N(W).
    """

    norm: str
    radius: float
    separator: Array = field(repr=False)
    log_sum: float
    lower: float
    weights: Array = field(repr=False)
    margin: float


def regularisation_path(
    x: ArrayLike, y: ArrayLike, num_classes: int, norm: Norm, radii: Sequence[float], timeout: float = TIMEOUT
) -> list[ConstrainedOptimum]:
    """:func:`constrained_optimum` for every radius.

    Args:
        x: Data (n, d).
        y: Labels (n,), integers in [num_classes).
        num_classes: k.
        norm: N.
        radii: B > 0, in the inverse unit of the data.
        timeout: Seconds for each.

    Returns:
        One optimum a radius, in order.

    Raises:
        ValueError: a radius is not positive and finite.
        ArithmeticError: the solver has no answer for one of them.
    """
    return [constrained_optimum(x, y, num_classes, norm, radius, timeout) for radius in radii]


def constrained_optimum(
    x: ArrayLike, y: ArrayLike, num_classes: int, norm: Norm, radius: float, timeout: float = TIMEOUT
) -> ConstrainedOptimum:
    """The least log-sum-exp of negative gaps in a ball.

    Args:
        x: Data (n, d); whether their classes can be separated does not matter.
        y: Labels (n,), integers in [num_classes).
        num_classes: k.
        norm: N.
        radius: B > 0, in the inverse unit of the data.
        timeout: Seconds.

    Returns:
        The optimum, enclosed.

    Raises:
        ValueError: the radius is not positive and finite.
        ArithmeticError: the solver has no answer.
    """
    if not 0 < radius < math.inf:
        raise ValueError(f"radius is {radius:g}; must be > 0 and finite")
    features, labels = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.int64)
    # W = B V: V has norm one at most, whatever the unit of the data.
    solve = _by_form if form_of(norm) is not None else _by_expression
    found = solve(radius * features, labels, num_classes, norm, timeout)
    if found is None or not np.isfinite(found.v).all():
        raise ArithmeticError(f"the {norm.label} ball of radius {radius:g}: the solver has no answer")
    size = float(norm.value(torch.from_numpy(found.v)[None])[0])
    return _enclosed(features, labels, radius * found.v / max(size, 1.0), found.multipliers, norm, radius)


@dataclass(frozen=True)
class _Found:
    v: Array  # V (k, d)
    multipliers: Array | None = None  # of the pairs, k - 1 of one sample after the other


def _enclosed(x: Array, y: Labels, w: Array, multipliers: Array | None, norm: Norm, radius: float) -> ConstrainedOptimum:
    """What a point of the ball proves, and the better of its own weights and the solver's."""
    scores = x @ w.T
    wrong = np.arange(len(w))[None, :] != y[:, None]
    negative = np.where(wrong, scores - np.take_along_axis(scores, y[:, None], axis=1), -np.inf)
    log_sum = float(logsumexp(negative))
    candidates = [np.exp(negative - log_sum)]
    if multipliers is not None and np.isfinite(multipliers).all() and (total := np.clip(multipliers, 0, None).sum()) > 0:
        weights = np.zeros_like(scores)
        weights[wrong] = np.clip(multipliers, 0, None) / total
        candidates.append(weights)
    lower, weights = max(((_dual_value(x, y, p, norm, radius), p) for p in candidates), key=lambda pair: pair[0])
    size = float(norm.value(torch.from_numpy(w)[None])[0])
    margin = float(-negative.max()) / size if size > 0 else float("nan")
    return ConstrainedOptimum(norm.label, radius, w, log_sum, min(lower, log_sum), weights, margin)


def _dual_value(x: Array, y: Labels, weights: Array, norm: Norm, radius: float) -> float:
    """H(p) - B N_*(sum p (e_y - e_c) x^T)."""
    combined = (np.eye(weights.shape[1])[y] * weights.sum(axis=1, keepdims=True) - weights).T @ x
    return float(entr(weights).sum()) - radius * float(norm.dual(torch.from_numpy(combined)[None])[0])


def _by_form(f: Array, y: Labels, k: int, norm: Norm, seconds: float) -> _Found | None:
    """By Clarabel; variables are V, those of the norm's form, t and one u a pair."""
    import clarabel

    pairs, count = gap_rows(f, all_classes(y, k)).to_scipy(), k * f.shape[1]
    number = pairs.shape[0]
    rows, right, cones = _ball(k, f.shape[1], norm)
    extra = rows.shape[1] - count
    wide = sparse.hstack([rows, sparse.csc_matrix((rows.shape[0], 1 + number))])
    a = sparse.csc_matrix(sparse.vstack([wide, _sum_at_most_one(count + extra, number), _exponentials(pairs, extra)]))
    b = np.concatenate([right, [1.0], np.tile([0.0, 1.0, 0.0], number)])
    linear = np.zeros(a.shape[1])
    linear[count + extra] = 1.0
    all_cones = [*cones, clarabel.NonnegativeConeT(1), *(clarabel.ExponentialConeT() for _ in range(number))]
    nothing = sparse.csc_matrix((len(linear), len(linear)))
    solution = clarabel.DefaultSolver(nothing, linear, a, b, all_cones, settings(seconds)).solve()
    # Stationarity in t: the multipliers of the cones' first entries sum to -1.
    return _Found(np.asarray(solution.x)[:count].reshape(k, -1), -np.asarray(solution.z)[-3 * number :: 3])


def _ball(k: int, m: int, norm: Norm) -> tuple[Sparse, Array, list[object]]:
    """N(V) <= 1 as b - A x in cones, over (V, further variables)."""
    import clarabel

    built, count = form_of(norm), k * m
    assert built is not None, norm
    form = built(k, np.ones(m))
    if form.quadratic is not None:  # (1, V) in the second-order cone
        rows = sparse.vstack([sparse.csc_matrix((1, count)), -sparse.eye(count)])
        return sparse.csc_matrix(rows), np.concatenate([[1.0], np.zeros(count)]), [clarabel.SecondOrderConeT(count + 1)]
    rows = sparse.vstack([form.rows.to_scipy(), sparse.csc_matrix(form.linear[None])])
    return sparse.csc_matrix(rows), np.concatenate([form.right, [1.0]]), [*form.cones, clarabel.NonnegativeConeT(1)]


def _sum_at_most_one(before: int, number: int) -> Sparse:
    """sum u <= 1, where t and u come after ``before`` variables."""
    return sparse.hstack([sparse.csc_matrix((1, before + 1)), np.ones((1, number))])


def _exponentials(pairs: Sparse, extra: int) -> Sparse:
    """(-m_j - t, 1, u_j) in the exponential cone, e^(-m_j - t) <= u_j, for every pair j."""
    number = pairs.shape[0]
    of_exponent, of_u = (sparse.csc_matrix(([1.0], ([row], [0])), shape=(3, 1)) for row in (0, 2))
    gaps = sparse.hstack([pairs, sparse.csc_matrix((number, extra)), np.ones((number, 1))])
    left = sparse.kron(gaps, of_exponent)
    return sparse.hstack([left, -sparse.kron(sparse.eye(number), of_u)])


def _by_expression(f: Array, y: Labels, k: int, norm: Norm, seconds: float) -> _Found | None:
    """The same through cvxpy, for norms that are known by their expression alone."""
    import cvxpy

    v = cvxpy.Variable((k, f.shape[1]))
    gaps = gap_rows(f, all_classes(y, k)).to_scipy() @ cvxpy.reshape(v, (k * f.shape[1],), order="C")
    problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.log_sum_exp(-gaps)), [norm.expression(v) <= 1])
    options = {"tol_gap_abs": TOLERANCE, "tol_gap_rel": TOLERANCE, "tol_feas": TOLERANCE, "time_limit": seconds, "max_threads": 1}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "may be inaccurate": the gap will tell
            problem.solve(solver="CLARABEL", **options)
    except cvxpy.error.SolverError:
        return None
    return None if v.value is None else _Found(np.asarray(v.value))
