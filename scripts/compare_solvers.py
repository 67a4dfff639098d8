"""Which solver for which norm: CPU seconds and certified gaps on the papers' Gaussian mixture.

``OMP_NUM_THREADS=1 python scripts/compare_solvers.py`` takes minutes; ``--samples-per-class 10 --norms linf l2`` is a part of it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from implicit_bias.norms import Norm, make_norm
from implicit_bias.solvers.conic import solve_conic
from implicit_bias.solvers.coordinates import Coordinates
from implicit_bias.solvers.enclosure import lower_bound, relative_gap, upper_bound
from implicit_bias.solvers.optimum import LINEAR_PROGRAMS
from implicit_bias.solvers.primal_dual import Game, solve

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
Points = tuple[Array, Array]

CLASSES, DIM, NOISE, SEED = 10, 25, 1.0, 1
NORMS = ("linf", "l1", "l2", "row", "spectral", "nuclear", "lp3")
TIMEOUT = 600.0


def gaussian_mixture(samples_per_class: int) -> tuple[Array, Labels]:
    rng = np.random.RandomState(SEED)
    means = rng.randn(CLASSES, DIM)
    x = [(means[c][:, None] + NOISE * rng.randn(DIM, samples_per_class)).T for c in range(CLASSES)]
    return np.concatenate(x), np.repeat(np.arange(CLASSES), samples_per_class)


def by_cone(x: Array, y: Labels, norm: Norm, large: bool) -> Points | None:
    coordinates = Coordinates.of(x, norm)
    found = solve_conic(coordinates.features, y, CLASSES, norm, coordinates.scale, TIMEOUT, large)
    return None if found is None else (coordinates.matrix(found.b), found.weights)


def by_steps(x: Array, y: Labels, norm: Norm) -> Points:
    game = Game.of(torch.from_numpy(x)[None], torch.from_numpy(y)[None], CLASSES)
    found = solve(game, norm, 1e-6, 200_000)
    return found.separator[0].numpy(), found.weights[0].mT.contiguous().numpy()


def solvers(x: Array, y: Labels, norm: Norm) -> Iterator[tuple[str, Callable[[], Points | None]]]:
    yield "clarabel", lambda: by_cone(x, y, norm, large=False)
    if norm.label in LINEAR_PROGRAMS:
        yield "highs", lambda: by_cone(x, y, norm, large=True)
    yield "primal-dual", lambda: by_steps(x, y, norm)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples-per-class", type=int, nargs="+", default=[10, 50])
    parser.add_argument("--norms", nargs="+", default=list(NORMS))
    arguments = parser.parse_args()
    print(f"{'norm':10s} {'n':>5s} {'solver':12s} {'CPU s':>7s} {'gap':>8s}")
    for samples in arguments.samples_per_class:
        x, y = gaussian_mixture(samples)
        for label in arguments.norms:
            norm = make_norm(label)
            for name, solver in solvers(x, y, norm):
                began = time.process_time()
                points = solver()
                seconds = time.process_time() - began
                gap = (
                    1.0
                    if points is None
                    else relative_gap(lower_bound(x, y, points[0], norm), upper_bound(x, y, points[1], norm))
                )
                print(f"{label:10s} {len(x):5d} {name:12s} {seconds:7.2f} {gap:8.1e}", flush=True)


if __name__ == "__main__":
    main()
