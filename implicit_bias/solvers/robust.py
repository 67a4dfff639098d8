"""The maximum margin under perturbations of the samples, with a proof.

    gamma* = max_{N(W) <= 1} min_{i, c != y_i} <W, (e_y - e_c) x_i^T> - eps |w_y - w_c|_p*
           = min_{q, D} N_*( sum_ic q_ic (e_y - e_c) x_i^T - sum_{a<b} (e_a - e_b) D_ab^T ),

q in the simplex, |D_ab|_p <= eps q_ab, q_ab the weight of the pairs between classes a and b: D gathers the perturbations of
their samples. The first line is one cone program, the norm's own with |w_a - w_b|_p* as further cones, and the multipliers of
these are D. As for plain margins nothing that the solver says is believed: both lines are evaluated at its answer, rounded
outwards (:mod:`implicit_bias.solvers.enclosure`), D shortened to where it has to be.

Two classes under a Schatten norm have the l2 optimum, W = e (w, -w) being of rank one. Norms whose semidefinite cone would be
too large have the interval that the l2 optimum's separator and weights prove.
"""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from implicit_bias.core.errors import NotSeparable
from implicit_bias.models.perturbations import Perturbed, pairs_of
from implicit_bias.norms import Norm, make_norm
from implicit_bias.solvers.conic import TOLERANCE, all_classes, clarabel_answer, gap_rows
from implicit_bias.solvers.enclosure import EPS, Labels, combination, gaps
from implicit_bias.solvers.forms import form_of, nonnegative, semidefinite_side
from implicit_bias.solvers.reference import CONIC_SIDE, TIMEOUT, Reference, solve_exact
from implicit_bias.solvers.sparse import Sparse

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RobustReference(Reference):
    """A maximum margin under perturbations, enclosed; both bounds are of the robust problem.

    Attributes:
        perturbation, eps: Of the ball.
        moves: D_ab of all pairs of classes a < b, (pairs, d), which with the weights prove the upper bound.
    """

    perturbation: str = ""
    eps: float = 0.0
    moves: Array = field(default_factory=lambda: np.zeros((0, 0)), repr=False)

    @property
    def perturbed(self) -> Perturbed | None:
        return Perturbed(self.perturbation, self.eps)

    def recomputed(self, x: Array, y: Labels, norm: Norm) -> RobustReference:
        k = self.separator.shape[0]
        shapes = (self.separator.shape, self.weights.shape, self.moves.shape)
        if shapes != ((k, x.shape[1]), (len(x), k), (k * (k - 1) // 2, x.shape[1])) or k <= int(y.max()):
            raise ValueError("of another problem")
        problem = _Problem(x, y, k, norm, Perturbed(self.perturbation, self.eps))
        lower, upper = problem.lower(self.separator), problem.upper(self.weights, self.moves)
        if not (0 < lower < math.inf and 0 < upper < math.inf):
            raise ValueError("proves nothing")
        return replace(self, lower=min(lower, upper), upper=upper)


def solve_robust(
    x: ArrayLike, y: ArrayLike, num_classes: int, norm: Norm, perturbed: Perturbed, timeout: float = TIMEOUT
) -> RobustReference:
    """The maximum margin of data x (n, d), labels y (n,) in [num_classes), under perturbations.

    Args:
        x: Data (n, d).
        y: Labels (n,), integers in [num_classes).
        num_classes: k.
        norm: N, of matrices (k, d).
        perturbed: Ball and radius of the perturbations, in the unit of the data.
        timeout: Seconds.

    Returns:
        The optimum, enclosed, in the unit of the data; its ``gap`` says how closely.

    Raises:
        NotSeparable: no linear model separates the classes, or none does under these perturbations, or that cannot be told.
    """
    began = time.perf_counter()
    points, labels = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.int64)
    size = 2.0 ** math.frexp(float(np.abs(points).max(initial=0.0)) or 1.0)[1]
    unit = replace(perturbed, eps=perturbed.eps / size)
    problem = _Problem(points / size, labels, num_classes, norm, unit)
    stands = problem.standing
    answer = stands.solved(timeout)
    lower = -math.inf if answer is None else stands.lower(answer.separator)
    if answer is None or lower <= 0:
        raise _refusal(problem, perturbed, max(timeout - (time.perf_counter() - began), 1.0))
    w = answer.separator
    if norm.unitarily_invariant:
        w = w - w.mean(axis=0)  # the part that gaps see, which no Schatten norm gains from leaving
    w = w / float(norm.value(torch.from_numpy(w)))
    total = answer.weights.sum()
    weights, moves = answer.weights / total, answer.moves / total
    lower, upper = problem.lower(w), problem.upper(weights, moves)
    solver = "clarabel" if stands.norm is norm or num_classes == 2 else f"clarabel ({stands.norm.label})"
    return RobustReference(
        norm.label, w, size * min(lower, upper), size * upper, weights, solver, time.perf_counter() - began, answer.late,
        perturbed.name, perturbed.eps, size * moves
    )  # fmt: skip


def _refusal(problem: _Problem, perturbed: Perturbed, seconds: float) -> NotSeparable:
    """The error for classes that no linear model separates under the perturbations, or of which that cannot be told."""
    solve_exact(problem.x, problem.y, problem.k, make_norm("linf"), timeout=seconds)  # raises where not even the samples are
    largest = replace(problem, norm=make_norm("linf")).solved(seconds, margin=True)
    if largest is not None and problem.cancels(largest.weights, largest.moves):
        return NotSeparable(
            f"{perturbed}: no linear model separates the classes of this dataset under such perturbations (proof: weights on"
            " perturbed samples cancel): use a smaller model.eps, or reference=none"
        )
    return NotSeparable(
        f"{perturbed}: whether a linear model separates the classes of this dataset under such perturbations cannot be told in"
        " double precision: use a smaller model.eps, or reference=none",
        proven=False,
    )


@dataclass(frozen=True)
class _Answer:
    """What a solver returned: W (k, d), multipliers of the gaps (n, k), D (pairs, d), and whether time ran out."""

    separator: Array
    weights: Array
    moves: Array
    late: bool


@dataclass(frozen=True)
class _Problem:
    """Data of size about one, a norm and a ball."""

    x: Array
    y: Labels
    k: int
    norm: Norm
    perturbed: Perturbed

    @property
    def standing(self) -> _Problem:
        """The problem that is solved in the place of this one: under l2, for Schatten norms of two classes and for those whose
        cone is too large."""
        side = semidefinite_side(self.norm, self.k, self.x.shape[1])
        same = self.norm.unitarily_invariant and (self.k == 2 or side > CONIC_SIDE)
        return replace(self, norm=make_norm("l2")) if same else self

    def lower(self, w: Array) -> float:
        """The robust margin of W, rounded down; -inf where it is none."""
        size = float(self.norm.value(torch.from_numpy(w)))
        if not (np.isfinite(w).all() and 0 < size < math.inf):
            return -math.inf
        first, second = pairs_of(self.k)
        sizes = np.zeros((self.k, self.k))
        sizes[first, second] = sizes[second, first] = self.perturbed.ball.dual(torch.from_numpy(w[first] - w[second])).numpy()
        taken = self.perturbed.eps * sizes[self.y]
        found = gaps(self.x, self.y, w)
        smallest = float((found - taken * (1 + self._slack)).min())
        smallest -= 4 * EPS * (abs(smallest) + float(taken.max()))
        smallest -= float((np.abs(self.x) @ np.abs(w).T).max()) * 4 * (self.x.shape[1] * EPS) ** 2
        return float(smallest / (size * (1 + math.copysign(self._slack, smallest))))

    def upper(self, weights: Array, moves: Array) -> float:
        """What weights (n, k) and perturbations D (pairs, d) prove, rounded up; D is shortened to where it has to be."""
        cleaned = weights.copy()
        cleaned[np.arange(len(self.y)), self.y] = 0.0
        if not (np.isfinite(cleaned).all() and np.isfinite(moves).all() and (cleaned >= 0).all() and cleaned.any()):
            return math.inf
        first, second = pairs_of(self.k)
        lengths = self.perturbed.ball.size(torch.from_numpy(moves)).numpy()
        shares = np.minimum(1.0, self._most(cleaned) / np.where(lengths > 0, lengths, 1.0))
        inside = moves * (shares * (1 - 2 * EPS))[:, None]
        combined = combination(self.x, self.y, cleaned)
        np.add.at(combined, first, -inside)
        np.add.at(combined, second, inside)
        # What the sums over samples and pairs may be off by, in N_* of their terms' sizes.
        terms = np.zeros_like(combined)
        np.add.at(terms, first, np.abs(inside))
        np.add.at(terms, second, np.abs(inside))
        rounding = 2 * self.k * EPS * (np.abs(combined) + terms)
        rounding += 2 * (len(self.y) * EPS) ** 2 * cleaned.sum() * np.abs(self.x).max(axis=0)
        root = math.sqrt(min(combined.shape))
        value, spread = (float(self.norm.dual(torch.from_numpy(matrix))) for matrix in (combined, rounding))
        return float((value * (1 + self._slack) + root * spread) / (math.fsum(cleaned.ravel()) * (1 - 4 * EPS)))

    def cancels(self, weights: Array, moves: Array) -> bool:
        """Whether weights (n, k) and perturbations near D (pairs, d) are proven to combine to exactly zero.

        What D leaves of the combination, E, is taken over by the pairs of class 0, D_0c - E_c; rows sum to zero, so that nothing
        is left of the first either. The D that cancel exactly need be no doubles: there is room for rounding where they are well
        inside of what they may be.
        """
        cleaned = np.where(np.isfinite(weights), np.clip(weights, 0, None), 0.0)
        cleaned[np.arange(len(self.y)), self.y] = 0.0
        left = combination(self.x, self.y, cleaned)
        first, second = pairs_of(self.k)
        np.add.at(left, first, -moves)
        np.add.at(left, second, moves)
        exact = moves.copy()
        exact[: self.k - 1] -= left[1:]
        room = self._most(cleaned)
        lengths = self.perturbed.ball.size(torch.from_numpy(exact)).numpy()
        error = self._slack * self.x.shape[1] * (cleaned.sum() * np.abs(self.x).max() + np.abs(moves).sum())
        return bool(cleaned.any() and ((lengths * (1 + self._slack) + error <= room) | ((lengths == 0) & (room == 0))).all())

    def _most(self, weights: Array) -> Array:
        """eps q_ab of all pairs, rounded down."""
        between = np.zeros((self.k, self.k))
        np.add.at(between, self.y, weights)
        first, second = pairs_of(self.k)
        room: Array = self.perturbed.eps * (between[first, second] + between[second, first]) * (1 - self._slack)
        return room

    @property
    def _slack(self) -> float:
        return float(EPS * (16 + 2 * (self.k + self.x.shape[1] + len(self.x))))

    def solved(self, seconds: float, margin: bool = False) -> _Answer | None:
        """The solver's answer to min N(W) s.t. robust gaps >= 1; with ``margin`` to max tau s.t. robust gaps >= tau, N(W) <= 1,
        for norms that are one number z, which always has one. None: the solver has none."""
        from scipy import sparse  # here: importing it takes time that not every command has to spend

        built = form_of(self.norm)
        if built is None:
            return self._by_expression(seconds)
        form = built(self.k, np.ones(self.x.shape[1]))
        count = self.k * self.x.shape[1] + form.extra
        rows, right, cones, further = self._ball_rows(count)
        classes = all_classes(self.y, self.k)
        first, second = pairs_of(self.k)
        which = np.array([[a, b] for a, b in zip(first, second, strict=True)])
        pair = np.argmax((np.abs(classes)[:, which] == 1).all(axis=2), axis=1)
        taken = sparse.csc_matrix(
            (np.full(len(pair), self.perturbed.eps), (np.arange(len(pair)), count + pair)), shape=(len(pair), count + further)
        )
        nothing = sparse.csc_matrix((len(classes), form.extra + further))
        gap_block = taken - sparse.hstack([gap_rows(self.x, classes).to_scipy(), nothing])
        norm_rows = sparse.hstack([form.rows.to_scipy(), sparse.csc_matrix((form.rows.shape[0], further))])
        linear = np.concatenate([form.linear, np.zeros(further)])
        bound, bound_right = sparse.csc_matrix((0, count + further)), np.zeros(0)
        low, objective = -np.ones(len(classes)), linear
        if margin:
            tau = sparse.csc_matrix(np.ones((len(classes), 1)))
            gap_block, low = sparse.hstack([gap_block, tau]), np.zeros(len(classes))
            norm_rows, rows = (sparse.hstack([part, sparse.csc_matrix((part.shape[0], 1))]) for part in (norm_rows, rows))
            bound, bound_right = sparse.csc_matrix(np.append(linear, 0.0)[None]), np.ones(1)
            objective = np.append(np.zeros(len(linear)), -1.0)
        quadratic = np.zeros(len(objective))
        if form.quadratic is not None:
            quadratic[: self.k * self.x.shape[1]] = form.quadratic
        found = clarabel_answer(
            quadratic,
            objective,
            sparse.csc_matrix(sparse.vstack([gap_block, norm_rows, rows, bound])),
            np.concatenate([low, form.right, right, bound_right]),
            [*form.cones, *cones, *([nonnegative(1)] if margin else [])],
            len(classes),
            seconds,
        )
        if found is None:
            return None
        variables, multipliers, late = found
        start = len(classes) + form.rows.shape[0]
        return self._answer(variables, multipliers, self._moves(multipliers[start : start + rows.shape[0]]), late)

    def _answer(self, variables: Array, multipliers: Array, moves: Array, late: bool) -> _Answer:
        weights = np.zeros((len(self.y), self.k))
        pairs = len(self.y) * (self.k - 1)
        weights[np.arange(self.k)[None, :] != self.y[:, None]] = np.clip(multipliers[:pairs], 0, None)
        return _Answer(variables[: self.k * self.x.shape[1]].reshape(self.k, -1), weights, moves, late)

    def _ball_rows(self, count: int) -> tuple[Sparse, Array, list[object], int]:
        """s_ab >= |w_a - w_b|_p* for all pairs, as rows and cones over (B, the norm's, s, u): (rows, right side, cones, how many
        s and u there are). With p = inf u_abj >= |(w_a - w_b)_j| and s = sum u."""
        import clarabel
        from scipy import sparse

        first, second = pairs_of(self.k)
        pairs, d = len(first), self.x.shape[1]
        incidence = np.zeros((pairs, self.k))
        incidence[np.arange(pairs), first], incidence[np.arange(pairs), second] = 1.0, -1.0
        v = sparse.kron(sparse.csc_matrix(incidence), sparse.eye(d))
        v = sparse.hstack([v, sparse.csc_matrix((pairs * d, count - v.shape[1]))])
        each = sparse.kron(sparse.eye(pairs), np.ones((d, 1)))
        name = self.perturbed.name
        if name == "linf":
            none, one = sparse.csc_matrix((pairs * d, pairs)), sparse.eye(pairs * d)
            sums = sparse.hstack([sparse.csc_matrix((pairs, count)), -sparse.eye(pairs), each.T])
            rows = sparse.vstack([sparse.hstack([v, none, -one]), sparse.hstack([-v, none, -one]), sums])
            return rows, np.zeros(rows.shape[0]), [nonnegative(rows.shape[0])], pairs + pairs * d
        if name == "l1":
            rows = sparse.vstack([sparse.hstack([v, -each]), sparse.hstack([-v, -each])])
            return rows, np.zeros(rows.shape[0]), [nonnegative(rows.shape[0])], pairs
        heads = sparse.hstack([sparse.csc_matrix((pairs, count)), -sparse.eye(pairs)])
        bodies = sparse.hstack([-v, sparse.csc_matrix((pairs * d, pairs))])
        order = [place for p in range(pairs) for place in (p, *range(pairs + p * d, pairs + (p + 1) * d))]
        rows = sparse.csr_matrix(sparse.vstack([heads, bodies]))[order]
        return rows, np.zeros(rows.shape[0]), [clarabel.SecondOrderConeT(d + 1) for _ in range(pairs)], pairs

    def _moves(self, multipliers: Array) -> Array:
        """D (pairs, d) from the multipliers of the rows of the ball."""
        pairs, d = self.k * (self.k - 1) // 2, self.x.shape[1]
        if self.perturbed.name == "l2":
            return -multipliers.reshape(pairs, d + 1)[:, 1:]
        return (multipliers[: pairs * d] - multipliers[pairs * d : 2 * pairs * d]).reshape(pairs, d)

    def _by_expression(self, seconds: float) -> _Answer | None:
        """The same program through cvxpy, for norms that are known by their expression alone."""
        import cvxpy

        first, second = pairs_of(self.k)
        w, v = cvxpy.Variable((self.k, self.x.shape[1])), cvxpy.Variable((len(first), self.x.shape[1]))
        order = {"linf": 1, "l2": 2, "l1": "inf"}[self.perturbed.name]
        taken = self.perturbed.eps * cvxpy.norm(v, order, axis=1)
        classes = all_classes(self.y, self.k)
        which = np.array([[a, b] for a, b in zip(first, second, strict=True)])
        pair = np.argmax((np.abs(classes)[:, which] == 1).all(axis=2), axis=1)
        samples = np.repeat(self.x, self.k - 1, axis=0)
        robust = cvxpy.sum(cvxpy.multiply(classes @ w, samples), axis=1) - taken[pair] >= 1
        link = w[first] - w[second] == v
        problem = cvxpy.Problem(cvxpy.Minimize(self.norm.expression(w)), [robust, link])
        options = {"tol_gap_abs": TOLERANCE, "tol_gap_rel": TOLERANCE, "tol_feas": TOLERANCE, "max_threads": 1}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # "may be inaccurate": the bounds will tell
                problem.solve(solver="CLARABEL", time_limit=seconds, **options)
        except cvxpy.error.SolverError:
            return None
        if w.value is None or robust.dual_value is None or link.dual_value is None:
            return None
        late = problem.status == "user_limit"
        return self._answer(w.value.ravel(), robust.dual_value, link.dual_value, late)
