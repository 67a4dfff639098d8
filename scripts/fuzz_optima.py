"""Optima of small random problems in bad units, checked by exact arithmetic and by solvers that know nothing of ours.

``python scripts/fuzz_optima.py --seeds 0 300`` takes some minutes. Problems have 2 to 4 classes, 2 to 40 samples, 1 to 12
features with units 1e-8 to 1e8 apart, ties, duplicates and columns of zeros; some cannot be separated. For each norm:

* the separator's margin, and where columns are of like size the weights' dual value, are computed again in rational arithmetic
  (mpmath for singular values): they must be what the reference says, and in order;
* HiGHS (l_inf, l1) or Clarabel through cvxpy (others), on columns scaled to one, give a separator and weights of their own. The
  exact margin of the one must not exceed our upper bound, the exact dual value of the other not fall below our lower bound;
* where we say that the classes cannot be separated, that separator must not separate them.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter
from fractions import Fraction

import mpmath
import numpy as np
from numpy.typing import NDArray

from implicit_bias.core.errors import NotSeparable
from implicit_bias.norms import make_norm
from implicit_bias.solvers.reference import solve_exact

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
Exact = list[list[Fraction]]

NORMS = ("linf", "l1", "l2", "spectral", "nuclear")
# Bounds are compared to this: they are rounded to doubles.
ROUNDING = 1e-12
# Columns within this factor of one another are of like size.
ALIKE = 1e4


def problem(seed: int, decades: float) -> tuple[Array, Labels, int]:
    """Data (n, d), labels and the number of classes."""
    rng = np.random.default_rng(seed)
    k, d = int(rng.integers(2, 5)), int(rng.integers(1, 13))
    n, kind = int(rng.integers(max(2, k), 41)), int(rng.integers(0, 5))
    x = rng.standard_normal((n, d)) if kind < 3 else rng.integers(-2, 3, (n, d)).astype(float)
    if kind == 1:
        x = np.abs(x) + rng.integers(0, 3)
    y = (x @ rng.standard_normal((d, k))).argmax(axis=1) if rng.random() < 0.75 else rng.integers(0, k, n)
    if rng.random() < 0.3 and n > 3:
        x[1] = x[0]
        y[1] = y[0] if rng.random() < 0.7 else y[1]
    if rng.random() < 0.3 and d > 1:
        x[:, 1] = x[:, 0] * (1 if rng.random() < 0.5 else rng.standard_normal())
    if rng.random() < 0.2:
        x[:, rng.integers(d)] = 0
    if rng.random() < 0.1:
        x[rng.integers(n)] = 0
    y = np.unique(y, return_inverse=True)[1].astype(np.int64)
    return x * 10.0 ** rng.uniform(-decades, decades, d), y, int(y.max()) + 1


def exact_lower(x: Array, y: Labels, w: Array, label: str) -> float:
    """The normalised margin of W, in rational arithmetic up to the norm."""
    rows = [[Fraction(float(v)) for v in row] for row in w]
    points = [[Fraction(float(v)) for v in row] for row in x]
    scores = [[sum((a * b for a, b in zip(row, point, strict=True)), Fraction(0)) for row in rows] for point in points]
    margin = min(s[y[i]] - s[c] for i, s in enumerate(scores) for c in range(len(w)) if c != y[i])
    size = norm_of(rows, label)
    return float(mpmath.mpf(margin.numerator) / margin.denominator / size) if size else -np.inf


def exact_upper(x: Array, y: Labels, weights: Array, label: str) -> float:
    """The dual value of the weights, in rational arithmetic up to the norm."""
    k = weights.shape[1]
    combined = [[Fraction(0)] * x.shape[1] for _ in range(k)]
    total = Fraction(0)
    for i, c in zip(*np.nonzero(weights), strict=True):
        if c == y[i]:
            continue
        weight = Fraction(float(weights[i, c]))
        total += weight
        for j, value in enumerate(x[i]):
            combined[y[i]][j] += weight * Fraction(float(value))
            combined[c][j] -= weight * Fraction(float(value))
    dual = {"linf": "l1", "l1": "linf", "l2": "l2", "spectral": "nuclear", "nuclear": "spectral"}[label]
    return float(norm_of(combined, dual) * total.denominator / total.numerator) if total else np.inf


def norm_of(matrix: Exact, label: str) -> mpmath.mpf:
    """The norm of a rational matrix, to 40 digits."""
    entries = [mpmath.mpf(v.numerator) / v.denominator for row in matrix for v in row]
    if label == "linf":
        return max(abs(v) for v in entries)
    if label == "l1":
        return mpmath.fsum(abs(v) for v in entries)
    if label == "l2":
        return mpmath.sqrt(mpmath.fsum(v * v for v in entries))
    width = len(matrix[0])
    rows = [entries[i : i + width] for i in range(0, len(entries), width)]
    values = mpmath.svd_r(mpmath.matrix(rows), compute_uv=False)
    return max(values) if label == "spectral" else mpmath.fsum(values)


def oracle(x: Array, y: Labels, k: int, label: str) -> tuple[Array, Array] | None:
    """A separator and weights by cvxpy on columns scaled to one: HiGHS for the linear programs, else Clarabel."""
    import cvxpy

    scale = np.abs(x).max(axis=0)
    scale[scale == 0] = 1.0
    variable = cvxpy.Variable((k, x.shape[1]))
    onehot = np.eye(k)[y]
    logits = (x / scale) @ variable.T
    own = cvxpy.sum(cvxpy.multiply(logits, onehot), axis=1, keepdims=True)
    pairs = own @ np.ones((1, k)) - logits >= 1 - onehot
    size = make_norm(label).expression(cvxpy.multiply(variable, np.tile(scale.min() / scale, (k, 1))))
    program = cvxpy.Problem(cvxpy.Minimize(size), [pairs])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program.solve(solver="HIGHS" if label in ("linf", "l1") else "CLARABEL")
    except cvxpy.error.SolverError:
        return None
    if variable.value is None or pairs.dual_value is None:
        return None
    return variable.value / scale * scale.min(), np.clip(pairs.dual_value, 0, None) * (1 - onehot)


def complaints(x: Array, y: Labels, k: int, label: str) -> tuple[str, list[str]]:
    """What became of one problem, and what is wrong with that."""
    answer = oracle(x, y, k, label)
    try:
        found = solve_exact(x, y, k, make_norm(label))
    except NotSeparable as error:
        wrong = answer is not None and exact_lower(x, y, answer[0], label) > 0
        kind = "not separable" if "proof" in str(error) else "cannot be told"
        return kind, [f"{kind}, yet another solver separates"] if wrong else []
    said = []
    if exact_lower(x, y, found.separator, label) < found.lower * (1 - ROUNDING):
        said.append("the separator has less than the lower bound")
    if exact_lower(x, y, found.separator, label) > found.upper * (1 + ROUNDING):
        said.append("the separator lies above the upper bound")
    # On columns far apart the bound is that of weights near these, which are proven to cancel there exactly.
    sizes = np.abs(x).max(axis=0)
    alike = sizes.max() < ALIKE * sizes[sizes > 0].min()
    if alike and exact_upper(x, y, found.weights, label) > found.upper * (1 + ROUNDING):
        said.append("the weights prove less than the upper bound")
    if answer is not None:
        if exact_lower(x, y, answer[0], label) > found.upper * (1 + ROUNDING):
            said.append("another solver's separator lies above the upper bound")
        if answer[1].any() and exact_upper(x, y, answer[1], label) < found.lower * (1 - ROUNDING):
            said.append("another solver's weights lie below the lower bound")
    return "proven" if found.proven else "interval", said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs=2, default=[0, 300])
    parser.add_argument("--decades", type=float, default=8.0)
    parser.add_argument("--norms", nargs="+", default=list(NORMS))
    arguments = parser.parse_args()
    mpmath.mp.dps = 40
    outcomes: Counter[tuple[str, str]] = Counter()
    wrong, slowest = 0, 0.0
    for seed in range(*arguments.seeds):
        x, y, k = problem(seed, arguments.decades)
        if k < 2:
            continue
        for label in arguments.norms:
            began = time.perf_counter()
            kind, said = complaints(x, y, k, label)
            slowest = max(slowest, time.perf_counter() - began)
            outcomes[label, kind] += 1
            wrong += len(said)
            for line in said:
                print(f"seed {seed}, {label}, n={len(x)}, d={x.shape[1]}, k={k}: {line}", flush=True)
    for (label, kind), count in sorted(outcomes.items()):
        print(f"{label:10s} {kind:16s} {count:5d}")
    print(f"{wrong} wrong; the slowest took {slowest:.1f} s, checks included")


if __name__ == "__main__":
    main()
