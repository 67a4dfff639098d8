"""The maximum-margin problem as a cone program, by Clarabel's interior-point method.

    minimise N(B diag(t)) / scale   subject to   <B, (e_y - e_c) f_i^T> >= 1 for all i and c != y_i,

on features f in the coordinates of :mod:`implicit_bias.solvers.coordinates`. The multipliers of the constraints, summed to one,
are the dual weights, and the multipliers of the norm's cone say which matrix their combination has to be
(:func:`ConicSolution.target`).

The norms of the house are written straight into Clarabel's form (:mod:`implicit_bias.solvers.forms`); any other by its cvxpy
expression, whose import and compilation take a second. Nothing that comes back is believed: bounds are recomputed by whoever
calls.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from implicit_bias.norms import Norm
from implicit_bias.solvers.enclosure import Labels
from implicit_bias.solvers.forms import Form, form_of, nonnegative
from implicit_bias.solvers.sparse import Compressed, Sparse, Triples, beside, stacked

Array = NDArray[np.float64]

TOLERANCE = 1e-11
# The smallest that HiGHS takes.
VERTEX_TOLERANCE = 1e-10
MOST_ITERATIONS = 200
# Coefficients of the gaps up to which spectral and nuclear norms are solved in the zero-sum class space.
MOST_REDUCED = 100_000


@dataclass(frozen=True)
class ConicSolution:
    """What the solver returned, not certified.

    Attributes:
        b: B (k, m).
        weights: Multipliers of the gaps, (n, k), 0 at the label.
        target: The combination sum_ic q_ic (e_y - e_c) f_i^T (k, m) that stationarity asks for, as the norm's multipliers have
            it.
        value: The optimum N(B diag(t)) that it reports.
        out_of_time: Whether the time limit ended it.
    """

    b: Array
    weights: Array
    target: Array
    value: float
    out_of_time: bool = False


def solve_conic(
    f: Array, y: Labels, num_classes: int, norm: Norm, scale: Array, seconds: float, large: bool = False
) -> ConicSolution | None:
    """The norm's cone program; None where the solver has no answer.

    Args:
        f: Features (n, m).
        y: Labels (n,).
        num_classes: k.
        norm: N.
        scale: t (m,).
        seconds: Time limit.
        large: Take HiGHS' linear programming, for the norms of which it is one.

    Returns:
        The solver's answer; nothing about it is proven.
    """
    built = form_of(norm)
    if built is None:
        return _by_expression(f, y, num_classes, norm, scale, seconds)
    k = num_classes
    if norm.unitarily_invariant and not large and len(f) * (k - 1) ** 2 * f.shape[1] <= MOST_REDUCED:
        # Fewer unknowns, but every pair has all of them: better conditioned, and slower once there are many pairs.
        basis = zero_sum(k)
        found = _solve_form(f, all_classes(y, k) @ basis, built(k - 1, scale), seconds)
        return None if found is None else _expanded(found, basis, len(f), y, k)
    found = _solve_form(f, all_classes(y, k), built(k, scale), seconds, large=large)
    return None if found is None else _expanded(found, None, len(f), y, k)


def separability(f: Array, y: Labels, num_classes: int, seconds: float, large: bool = False) -> ConicSolution | None:
    """The program max tau s.t. gaps >= tau r_i, |B| <= 1, r_i = max_j |f_ij|: it always has a solution, tau >= 0.

    Its weights are of the scaled samples f_i / r_i; the target of their combination is 0 where tau = 0.

    Args:
        f: Features (n, m).
        y: Labels (n,).
        num_classes: k.
        seconds: Time limit.
        large: Take HiGHS' linear programming.

    Returns:
        The solver's answer; None where it has none.
    """
    sizes = np.abs(f).max(axis=1)
    unit = f / np.where(sizes > 0, sizes, 1.0)[:, None]
    count = num_classes * f.shape[1]
    eye = Triples.diagonal(np.ones(count))
    box = beside([stacked([eye, -eye]), Triples.nothing(2 * count, 1)])
    linear = np.zeros(count + 1)
    linear[-1] = -1.0
    form = Form(1, None, linear, box, np.ones(2 * count), [nonnegative(2 * count)])
    found = _solve_form(unit, all_classes(y, num_classes), form, seconds, tau=True, large=large)
    return None if found is None else _expanded(found, None, len(f), y, num_classes)


@dataclass(frozen=True)
class _Found:
    variables: Array  # (rows of B, m)
    multipliers: Array  # of the gaps
    target: Array  # like the variables
    value: float
    out_of_time: bool


def _solve_form(f: Array, classes: Array, form: Form, seconds: float, tau: bool = False, large: bool = False) -> _Found | None:
    """Clarabel, or for a large linear program HiGHS, on the gaps and a norm's form.

    Args:
        f: Features (n, m).
        classes: The class part (pairs, rows) of each pair, k - 1 pairs of one sample after the other.
        form: The part of the norm.
        seconds: Time limit.
        tau: The last variable is the margin, to be made large, and gaps are at least that; else they are at least one.
        large: Take HiGHS.
    """
    m = f.shape[1]
    rows = classes.shape[1]
    count = rows * m
    further = Triples.of(np.ones((len(classes), 1))) if tau else Triples.nothing(len(classes), form.extra)
    right = np.zeros(len(classes)) if tau else -np.ones(len(classes))
    a = stacked([beside([-gap_rows(f, classes), further]), form.rows])
    b = np.concatenate([right, form.right])
    diagonal = np.zeros(count + form.extra)
    if form.quadratic is not None:
        diagonal[:count] = form.quadratic
    if large:
        answer = _highs(form.linear, a, b, seconds)
    else:
        answer = clarabel_answer(diagonal, form.linear, a.compressed(), b, form.cones, len(classes), seconds)
    if answer is None:
        return None
    x, z, late = answer
    multipliers = np.clip(z[: len(classes)], 0, None)
    target = form.rows.pulled(z[len(classes) :])[:count]
    if form.quadratic is not None:
        target = target + form.quadratic * x[:count]
    value = float(x[-1]) if tau else float(form.linear @ x)
    if form.quadratic is not None:
        value = math.sqrt(float(x[:count] @ (form.quadratic * x[:count])))
    return _Found(x[:count].reshape(rows, m), multipliers, target.reshape(rows, m), value, late)


def clarabel_answer(
    diagonal: Array, linear: Array, a: Compressed | Sparse, b: Array, cones: list[object], pairs: int, seconds: float
) -> tuple[Array, Array, bool] | None:
    """Clarabel's variables, multipliers, and whether time ran out; None where the problem is said to have no solution.

    Args:
        diagonal: Of the quadratic part.
        linear: The linear part.
        a: Rows of a x + s = b, compressed by columns.
        b: Their right side.
        cones: Of s, behind the first rows.
        pairs: So many first rows are inequalities a x <= b.
        seconds: Time limit.
    """
    import clarabel

    count, curved = len(diagonal), np.flatnonzero(diagonal)
    p = Triples(diagonal[curved], curved, curved, (count, count)).compressed()
    solver = clarabel.DefaultSolver(p, linear, a, b, [clarabel.NonnegativeConeT(pairs), *cones], settings(seconds))
    solution = solver.solve()
    x, z = np.asarray(solution.x), np.asarray(solution.z)
    if not (np.isfinite(x).all() and np.isfinite(z).all()) or "Infeasible" in str(solution.status):
        return None
    return x, z, str(solution.status) == "MaxTime"


def _highs(linear: Array, a: Triples, b: Array, seconds: float) -> tuple[Array, Array, bool] | None:
    """The same for a linear program a x <= b, by HiGHS' interior point with crossover."""
    from scipy.optimize import linprog

    tolerances = {"primal_feasibility_tolerance": VERTEX_TOLERANCE, "dual_feasibility_tolerance": VERTEX_TOLERANCE}
    options = {"time_limit": max(seconds, 1e-3), **tolerances}
    found = linprog(linear, A_ub=a.to_scipy(), b_ub=b, bounds=(None, None), method="highs-ipm", options=options)
    if found.x is None or found.ineqlin is None:
        return None
    return np.asarray(found.x), -np.asarray(found.ineqlin.marginals), found.status == 1


def gap_rows(f: Array, classes: Array) -> Triples:
    """<B, class part x f_i> of every pair, (pairs, rows m)."""
    samples = np.repeat(np.arange(len(f)), len(classes) // len(f))
    pairs, rows = np.nonzero(classes)
    m = f.shape[1]
    values = classes[pairs, rows][:, None] * f[samples[pairs]]
    columns = rows[:, None] * m + np.arange(m)
    return Triples(values.ravel(), np.repeat(pairs, m), columns.ravel(), (len(classes), classes.shape[1] * m))


def settings(seconds: float) -> object:
    import clarabel

    chosen = clarabel.DefaultSettings()
    chosen.verbose = False
    chosen.max_iter = MOST_ITERATIONS
    chosen.time_limit = max(seconds, 1e-3)
    chosen.tol_gap_abs = chosen.tol_gap_rel = chosen.tol_feas = TOLERANCE
    chosen.max_threads = 1
    return chosen


def all_classes(y: Labels, k: int) -> Array:
    """e_y - e_c for all c != y of every sample in turn, (n (k - 1), k)."""
    eye = np.eye(k)
    differences = eye[y][:, None, :] - eye[None, :, :]
    return np.asarray(differences[np.arange(k)[None, :] != y[:, None]])


def zero_sum(k: int) -> Array:
    """An orthonormal basis (k, k - 1) of the vectors that sum to zero (Helmert).

    Args:
        k: Classes.

    Returns:
        The basis, columns orthonormal.
    """
    from implicit_bias.models.linear import zero_sum_basis

    return np.asarray(zero_sum_basis(k).numpy())


def _expanded(found: _Found, basis: Array | None, n: int, y: Labels, k: int) -> ConicSolution:
    """Weights as an (n, k) array, B and the target with all k rows."""
    weights = np.zeros((n, k))
    weights[np.arange(k)[None, :] != y[:, None]] = found.multipliers
    b, target = found.variables, found.target
    if basis is not None:
        b, target = basis @ b, basis @ target
    return ConicSolution(b, weights, target, found.value, found.out_of_time)


def _by_expression(f: Array, y: Labels, k: int, norm: Norm, scale: Array, seconds: float) -> ConicSolution | None:
    """The same program through cvxpy, for norms that are known by their expression alone."""
    import cvxpy

    b, w = cvxpy.Variable((k, f.shape[1])), cvxpy.Variable((k, f.shape[1]))
    onehot = np.eye(k)[y]
    logits = f @ b.T
    own = cvxpy.sum(cvxpy.multiply(logits, onehot), axis=1, keepdims=True)
    pairs = own @ np.ones((1, k)) - logits >= 1 - onehot
    scales = np.tile(scale, (k, 1))
    link = w == cvxpy.multiply(b, scales)
    problem = cvxpy.Problem(cvxpy.Minimize(norm.expression(w)), [pairs, link])
    options = {"tol_gap_abs": TOLERANCE, "tol_gap_rel": TOLERANCE, "tol_feas": TOLERANCE, "time_limit": seconds, "max_threads": 1}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "may be inaccurate": the certificate will tell
            problem.solve(solver="CLARABEL", **options)
    except cvxpy.error.SolverError:
        return None
    if b.value is None or pairs.dual_value is None or link.dual_value is None:
        return None
    weights = np.clip(pairs.dual_value, 0, None) * (1 - onehot)
    target = link.dual_value * scales
    combined = (onehot * weights.sum(axis=1, keepdims=True) - weights).T @ f
    sign = 1.0 if float((target * combined).sum()) >= 0 else -1.0  # cvxpy's sign of an equality's multiplier is a convention
    return ConicSolution(b.value, weights, sign * target, float(problem.value), problem.status == "user_limit")
