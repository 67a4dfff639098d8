"""Runs of any model identified: linear ones by certified optima, networks by their KKT ratios."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pandas as pd

from implicit_bias.analysis.comparison import Source, labels
from implicit_bias.analysis.fingerprints import Fingerprint, Identified, fingerprints, tables
from implicit_bias.analysis.kkt_fingerprints import kkt_fingerprints
from implicit_bias.analysis.weights import Weights
from implicit_bias.runtime.threads import threads_for
from implicit_bias.sweep.references import Cache


def identified(
    runs: Sequence[Weights],
    families: Sequence[str],
    cache: Cache,
    timeout: float,
    device: str,
    notify: Callable[[str], None],
    together: float = math.inf,
    shared: Callable[[float], None] | None = None,
) -> Identified:
    """The curves and verdicts of runs, in their order; arguments and errors are those of :func:`found_fingerprints`."""
    return tables(runs, found_fingerprints(runs, families, cache, timeout, device, notify, together, shared))


def found_fingerprints(
    runs: Sequence[Weights],
    families: Sequence[str],
    cache: Cache,
    timeout: float,
    device: str,
    notify: Callable[[str], None],
    together: float = math.inf,
    shared: Callable[[float], None] | None = None,
) -> list[dict[str, Fingerprint]]:
    """The fingerprint of each run in each family.

    Args:
        runs: Linear models and networks.
        families: ``lp``, ``schatten`` or both.
        cache: Of references.
        timeout: Seconds for one optimum.
        device: Where networks are evaluated: auto, cpu or cuda.
        notify: Told in words what is being done.
        together: Seconds for all optima.
        shared: Told which share of the work is done; a network counts as much as the linear runs of a dataset's shape.

    Raises:
        BadInput: the classes of a dataset cannot be separated, or a model is not homogeneous.
    """
    linear = [place for place, run in enumerate(runs) if run.linear]
    found: dict[int, dict[str, Fingerprint]] = {}
    tell, networks = shared or (lambda share: None), len(runs) - len(linear)
    of_linear = len({(runs[i].dataset.x.shape, runs[i].dataset.num_classes) for i in linear})
    every = of_linear + networks

    def of_all(share: float) -> None:
        tell(share * of_linear / every)

    with threads_for(max(run.dataset.x.shape[0] * run.dataset.num_classes for run in runs)):
        found.update(
            zip(linear, fingerprints([runs[i] for i in linear], families, cache, timeout, notify, together, of_all), strict=True)
        )
        for place, run in enumerate(runs):
            if place not in found:
                found[place] = kkt_fingerprints(run, families, device, notify)
                tell((of_linear + len(found) - len(linear)) / every)
    return [found[place] for place in range(len(runs))]


def curve_labels(runs: Sequence[Weights]) -> list[str]:
    """What each run's curve is called; equal exactly for runs that differ in nothing but the seed."""
    nothing = pd.DataFrame()
    named = iter(labels([Source(run.run, nothing, run.called, run.config, run.own) for run in runs if run.config is not None]))
    return [run.run if run.config is None else next(named) for run in runs]


def labelled(table: pd.DataFrame, runs: Sequence[Weights]) -> list[str]:
    """The curve's label of each row of a table of these runs."""
    names = {(run.run, run.seed): label for run, label in zip(runs, curve_labels(runs), strict=True)}
    keys = zip(table["run"], table["seed"].astype(object).where(table["seed"].notna(), None), strict=True)
    return [names[run, seed] for run, seed in keys]
