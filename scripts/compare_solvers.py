"""Which solver for which norm: CPU seconds and certified gaps on the papers' Gaussian mixture (the table in reference.py).

``OMP_NUM_THREADS=1 python scripts/compare_solvers.py`` takes minutes; ``--samples-per-class 10 --norms linf l2`` is a part of it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from implicit_bias.norms import Norm, make_norm
from implicit_bias.norms.l2 import L2
from implicit_bias.primal_dual import Game, positive, relative_gap, solve
from implicit_bias.reference import SOLVER_OPTIONS, Form, solve_conic

if TYPE_CHECKING:
    import cvxpy

CLASSES, DIM, NOISE, SEED = 10, 25, 1.0, 1
CLARABEL: tuple[tuple[str, Form], ...] = (("clarabel", "norm"), ("clarabel", "margin"))
LINEAR: tuple[tuple[str, Form], ...] = (("highs", "norm"), ("highs", "margin"), *CLARABEL, ("osqp", "norm"), ("scs", "norm"))
CONIC: tuple[tuple[str, Form], ...] = (*CLARABEL, ("scs", "norm"), ("scs", "margin"))
SOLVERS = {"linf": LINEAR, "l1": LINEAR, "l2": (*CONIC, ("osqp", "norm"))}
OPTIONS: dict[str, dict[str, object]] = {
    **SOLVER_OPTIONS,
    "highs": {},
    "osqp": {"eps_abs": 1e-8, "eps_rel": 1e-8, "max_iter": 20_000},
    "scs": {"eps": 1e-8, "max_iters": 20_000},
}
Line = tuple[str, int, str, float, float]


@dataclass(frozen=True)
class SquaredL2(L2):
    """Euclidean norm whose square is minimised: a quadratic program, the form that OSQP takes."""

    def expression(self, variable: cvxpy.Expression) -> cvxpy.Expression:
        import cvxpy

        return cvxpy.sum_squares(variable)


def gaussian_mixture(samples_per_class: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.RandomState(SEED)
    means = rng.randn(CLASSES, DIM)
    x = [(means[c][:, None] + NOISE * rng.randn(DIM, samples_per_class)).T for c in range(CLASSES)]
    return np.concatenate(x), np.repeat(np.arange(CLASSES), samples_per_class)


def certified_gap(game: Game, norm: Norm, answer: tuple[Any, Any] | None) -> float:
    """The gap between the bounds that a solver's answer proves; infinite without an answer."""
    if answer is None:
        return float("inf")
    separator, multipliers = (torch.as_tensor(a, dtype=torch.float64)[None] for a in answer)
    weights = multipliers.mT.clamp(min=0) * (1 - game.onehot)
    weights = weights / positive(weights.sum(dim=(1, 2), keepdim=True))
    return float(relative_gap(game.lower(separator, norm), game.upper(weights, norm)))


def measure(label: str, samples_per_class: int) -> Iterator[Line]:
    """One line a solver: norm, samples, solver, CPU seconds (others may share the machine), certified gap."""
    x, y = gaussian_mixture(samples_per_class)
    norm = make_norm(label)
    game = Game.of(torch.as_tensor(x)[None], torch.as_tensor(y)[None], CLASSES)
    for solver, form in SOLVERS.get(label, CONIC):
        asked = SquaredL2() if (label, solver) == ("l2", "osqp") else norm
        began = time.process_time()
        answer = solve_conic(x, y, CLASSES, asked, solver, form, OPTIONS[solver])
        seconds = time.process_time() - began
        yield label, len(x), f"{solver} ({form})", seconds, certified_gap(game, norm, answer)
    began = time.process_time()
    found = solve(game, norm, 1e-6, 100_000)
    yield label, len(x), "primal-dual", time.process_time() - began, float(found.gap)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--norms", nargs="+", default=["linf", "l1", "l2", "row", "lp3", "spectral", "nuclear"])
    parser.add_argument("--samples-per-class", nargs="+", type=int, default=[10, 50])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    import cvxpy

    print(f"cvxpy {cvxpy.__version__}\n{'norm':10} {'samples':>7}  {'solver':18} {'seconds':>8}  {'gap':>8}")
    for samples in arguments.samples_per_class:
        for label in arguments.norms:
            for norm, n, solver, seconds, gap in measure(label, samples):
                print(f"{norm:10} {n:7d}  {solver:18} {seconds:8.2f}  {gap:8.1e}", flush=True)


if __name__ == "__main__":
    main()
