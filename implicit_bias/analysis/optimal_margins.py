"""The margins of given weights, each beside the certified maximum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from implicit_bias.analysis.arguments import cache_in, norms_in
from implicit_bias.analysis.data import dataset_of
from implicit_bias.analysis.weights import BLOCK, Weights, stacked_weights
from implicit_bias.cli.progress import Progress
from implicit_bias.core.errors import NotSeparable
from implicit_bias.solvers.reference import TIMEOUT
from implicit_bias.sweep.references import solve_all

NORMS = ("linf", "l1", "l2", "spectral", "nuclear")
COLUMNS = ("norm", "margin", "max_margin", "lower", "upper", "ratio")


def margins(
    w: Any,
    x: Any,
    y: Any,
    norms: Sequence[str] = NORMS,
    results_dir: str | None = None,
    reference_timeout: float = TIMEOUT,
) -> pd.DataFrame:
    """The normalised margins q(W) / N(W) of linear weights, and the maximum of each with its proof.

    What is being solved is told on standard error where it takes long.

    Args:
        w: W (k, d), or several, (r, k, d); row c belongs to the c-th of the sorted labels.
        x: Features (n, d).
        y: Labels (n,), of any values.
        norms: Labels of norms, such as ``linf``, ``lp3`` or ``schatten1.5``.
        results_dir: Where optima are looked for and kept; None: nothing is written.
        reference_timeout: Seconds for one optimum.

    Returns:
        A row a norm with COLUMNS: margin; max_margin, the optimum, where its proven interval [lower, upper] is no wider than
        1e-4; ratio = margin / max_margin. Of several W with a column ``run`` in front, from 0.

    Raises:
        BadInput: shapes that do not fit, values that are not finite, or no such norm.
        NotSeparable: the classes cannot be separated.
    """
    dataset = dataset_of(x, y, origin="X, y")
    shape = dataset.num_classes, dataset.x.shape[1]
    stack = stacked_weights(w, shape, "W")
    known, cache = norms_in(norms), cache_in(results_dir)
    wanted = [(dataset, {norm.label: norm.of_shape(*shape) for norm in known})]
    with Progress() as progress:
        shared = progress.single("optima", len(known))
        found = solve_all(wanted, "exact", cache, progress.status, reference_timeout, counted=lambda i, n: shared(i / n))[0]
    if isinstance(found, NotSeparable):
        raise found
    given = Weights("", dataset, {BLOCK: stack})
    gaps = given.smallest_gaps()
    rows = []
    for run in range(len(stack)):
        for norm in known:
            size, reference = float(norm.value(stack[run])), found[norm.label]
            margin = float(gaps[run]) / size if size else math.nan
            best = reference.lower if reference.proven else math.nan
            rows.append((run, norm.label, margin, best, reference.lower, reference.upper, margin / best))
    table = pd.DataFrame(rows, columns=["run", *COLUMNS])
    return table if np.ndim(w) == 3 else table.drop(columns="run")
