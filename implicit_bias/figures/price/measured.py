"""What linear classifiers are worth under perturbations: accuracy of runs' last weights and of certified optima."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from implicit_bias.analysis.runs import Run
from implicit_bias.core.arrays import read_arrays
from implicit_bias.core.errors import NotSeparable
from implicit_bias.datasets import Dataset
from implicit_bias.engine.problem import silent
from implicit_bias.models.perturbations import Perturbed
from implicit_bias.norms import make_norm
from implicit_bias.solvers.reference import Reference
from implicit_bias.storage.references import ReferenceCache
from implicit_bias.sweep.references import solve_all

Array = NDArray[np.float64]


def vector_of(run: Run) -> Array:
    """The vector w whose sign of <w, x> a run of two classes predicts by, from its last parameters: (d,).

    Args:
        run: Of model=linear or model=diagonal.
    """
    assert run.folder is not None
    arrays = read_arrays(run.folder / "final.npz", str(run.folder))
    if run.spec.model.name == "linear":
        return np.asarray(arrays["weight"][1] - arrays["weight"][0], dtype=np.float64)
    layers = [arrays[name] for name in sorted(arrays) if name.startswith("layer")]
    return np.asarray(math.prod(layers[1:], start=layers[0])[0], dtype=np.float64)


def robust_accuracy(w: Array, x: Array, y: NDArray[np.int64], eps: float) -> float:
    """The share of samples with y <w, x> > eps |w|_1, y = +-1: those that no change of every feature by up to eps takes away.

    Args:
        w: (d,).
        x: (n, d).
        y: Labels 0 and 1, (n,).
        eps: Radius of the max-norm ball.
    """
    return float(((2 * y - 1) * (x @ w) > eps * np.abs(w).sum()).mean())


def accuracies(w: Array, data: Dataset, eps: float) -> dict[str, float]:
    """Robust accuracy in training and on the test set.

    Args:
        w: (d,).
        data: With a test set.
        eps: Radius of the max-norm ball.
    """
    assert data.x_test is not None and data.y_test is not None
    return {"train": robust_accuracy(w, data.x, data.y, eps), "test": robust_accuracy(w, data.x_test, data.y_test, eps)}


def optimum(run: Run, norm: str, perturbed: Perturbed | None) -> Reference:
    """The certified optimum of a run's data, from its folder's cache.

    Args:
        run: Its data are taken.
        norm: A label.
        perturbed: How its samples are perturbed; None: not at all.

    Raises:
        NotSeparable: there is none.
    """
    assert run.folder is not None
    cache = ReferenceCache(Path(run.folder).parents[1], perturbed)
    wanted = [(run.spec.dataset.load(), {norm: make_norm(norm)})]
    (found,) = solve_all(wanted, "exact", cache, silent, perturbed=perturbed)
    if isinstance(found, NotSeparable):
        raise found
    return found[norm]


def l2_identity(runs: Sequence[Run], shares: Sequence[float]) -> Iterator[dict[str, object]]:
    """l2 optima under l2 perturbations of these shares of the plain optimum, and how far from the identity: rows of a table.

    Margins are those of w = w_1 - w_0 with |w|_2 = 1, which are 1 / sqrt(2) of those of W.

    Args:
        runs: Their data are taken.
        shares: eps over the largest there is.
    """
    for run in runs:
        plain = optimum(run, "l2", None).lower / math.sqrt(2)
        for share in shares:
            robust = optimum(run, "l2", Perturbed("l2", share * plain)).lower / math.sqrt(2)
            away = abs(robust - (1 - share) * plain)
            yield {"part": "l2", "share": share, "seed": run.spec.seed, "value": robust, "other": away}


def certificates(runs: Sequence[Run]) -> Iterator[dict[str, object]]:
    """For every run under perturbations by how much its least and its largest upper bound exceed its optimum, relative: rows of a
    table. The last record's bound is not its own, but the optimum's.

    Args:
        runs: Of linear models.
    """
    for run in runs:
        rows: pd.DataFrame = run.trajectory[run.trajectory["step"].between(1, run.trajectory["step"].max() - 1)]
        ratio = rows["upper_bound"] / rows["max_margin"]
        told: Mapping[str, object] = {"m": run.spec.value("dataset.samples"), "seed": run.spec.seed, "method": run.spec.method}
        yield {"part": "certificate", **told, "value": ratio.min() - 1, "other": ratio.max() - 1}
