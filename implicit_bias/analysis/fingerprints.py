"""Which norm's margin parameters of linear models maximise: certified curves over the exponents of each family, and verdicts."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from implicit_bias.analysis.exponent_optima import ExponentOptima, OutOfTime
from implicit_bias.analysis.weights import BLOCK, Weights
from implicit_bias.datasets import Dataset
from implicit_bias.measures.exponents import (
    FLAT,
    GRID,
    MAXIMISES,
    NEAREST,
    Array,
    Curve,
    Fit,
    exponent,
    margins,
    neighbourhood,
    trend,
    verdict,
)
from implicit_bias.sweep.references import Cache

CURVE_COLUMNS = ("run", "optimizer", "seed", "step", "family", "p", "margin", "kappa_lower", "kappa_upper", "resolution")
VERDICT_COLUMNS = ("run", "optimizer", "seed", "family", "p", "p_low", "p_high", "kappa", "trend", "verdict")

# The peak can move by one point of the lattice each time that its neighbours are certified.
MOST_REFINEMENTS = 4


@dataclass(frozen=True)
class Fingerprint:
    """The curve of one family at every record of one run.

    Attributes:
        us: The exponents 1/p that are certified, ascending.
        margins: q / N at each record and exponent, (S, m).
        curves: kappa at each record.
        ideal: kappa of the certified optimum at the last record's peak, (m,): what a maximiser of that margin would show, and by
            how much these data tell exponents apart. nan where nothing is separated.
        fit: What the last record shows; None where it is not separated.
        certified: Whether the curves are enclosed; those of networks are proven from below alone.
    """

    us: tuple[float, ...]
    margins: Array
    curves: tuple[Curve, ...]
    ideal: Array
    fit: Fit | None
    certified: bool = True


@dataclass(frozen=True)
class Identified:
    """The two tables of an identification: CURVE_COLUMNS, a row a record, family and exponent; VERDICT_COLUMNS, a row a run and
    family."""

    curves: pd.DataFrame
    verdicts: pd.DataFrame


def fingerprints(
    runs: Sequence[Weights],
    families: Sequence[str],
    cache: Cache,
    timeout: float,
    notify: Callable[[str], None],
    together: float = math.inf,
    shared: Callable[[float], None] | None = None,
) -> list[dict[str, Fingerprint]]:
    """The fingerprint of each run in each family.

    Args:
        runs: On any datasets; equal ones are solved once.
        families: ``lp``, ``schatten`` or both.
        cache: Of references.
        timeout: Seconds for one optimum.
        notify: Told in words what is being solved.
        together: Seconds for all optima, in equal parts for the shapes of data and the families. A family is left out where some
            of its optima could not even be begun.
        shared: Told which share of the work is done.

    Raises:
        BadInput: the classes of a dataset cannot be separated.
    """
    shapes: dict[tuple[int, ...], list[int]] = {}
    for place, run in enumerate(runs):
        shapes.setdefault((*run.dataset.x.shape, run.dataset.num_classes), []).append(place)
    found: list[dict[str, Fingerprint]] = [{} for _ in runs]
    deadline, parts = time.perf_counter() + together, len(shapes) * len(families)
    every, tell = parts, shared or (lambda share: None)
    for places in shapes.values():
        unique: dict[str, Dataset] = {}
        keys = [_content(runs[place].dataset) for place in places]
        for key, place in zip(keys, places, strict=True):
            unique.setdefault(key, runs[place].dataset)
        of_run = [list(unique).index(key) for key in keys]
        for family in families:
            now = time.perf_counter()
            end = now + max(0.0, deadline - now) / parts

            def of_all(share: float, begun: int = every - parts) -> None:
                tell((begun + share) / every)

            optima = ExponentOptima(list(unique.values()), family, cache, timeout, notify, end, of_all)
            parts -= 1
            refined = _refined(optima, [runs[place] for place in places], of_run)
            for place, fingerprint in zip(places if refined else [], refined, strict=True):
                found[place][family] = fingerprint
    return found


def tables(runs: Sequence[Weights], found: Sequence[dict[str, Fingerprint]]) -> Identified:
    """The curves and the verdicts as tables."""
    curves = [_curve_rows(run, family, f) for run, of in zip(runs, found, strict=True) for family, f in of.items()]
    verdicts = [_verdict_row(run, family, of) for run, of in zip(runs, found, strict=True) for family in of]
    nothing = pd.DataFrame(columns=list(CURVE_COLUMNS))
    return Identified(
        pd.concat(curves or [nothing], ignore_index=True)[list(CURVE_COLUMNS)].astype({"seed": "Int64", "step": "Int64"}),
        pd.DataFrame(verdicts, columns=list(VERDICT_COLUMNS)).astype({"seed": "Int64"}),
    )


def _refined(optima: ExponentOptima, runs: Sequence[Weights], of_run: Sequence[int]) -> list[Fingerprint]:
    """The fingerprints on the grid, and then on the lattice around each run's peak at its last record.

    There are none where there is no time for the grid.
    """
    gaps = [run.smallest_gaps() for run in runs]
    # Of data that no record of any run separates optima would be held against nothing.
    separated = {place for q, place in zip(gaps, of_run, strict=True) if bool((q > 0).any())}
    optima.check_separable([place for place in range(len(optima.datasets)) if place not in separated])
    wanted: list[set[float]] = [set(GRID) if place in separated else set() for place in range(len(optima.datasets))]
    for turn in range(MOST_REFINEMENTS + 1):
        try:
            optima.want(wanted)
        except OutOfTime:
            if turn == 0:
                return []
            break
        wanted = [set() for _ in optima.datasets]
        for run, q, place in zip(runs, gaps, of_run, strict=True):
            us = _known(optima, place)
            last = _curves(optima, place, us, margins(q[-1:], run.w[-1:], optima.family, us))[0]
            if last.separated:
                wanted[place].update(neighbourhood(float(last.u[last.lower.argmax()])), neighbourhood(last.peak()[0]))
        if all(us <= set(known) for us, known in zip(wanted, optima.known, strict=True)):
            break
    return [_fingerprint(optima, run, q, place) for run, q, place in zip(runs, gaps, of_run, strict=True)]


def _fingerprint(optima: ExponentOptima, run: Weights, q: Tensor, place: int) -> Fingerprint:
    us = _known(optima, place)
    found = margins(q, run.w, optima.family, us)
    curves = tuple(_curves(optima, place, us, found))
    last = curves[-1]
    if not last.separated:
        return Fingerprint(tuple(us), found, curves, np.full(len(us), np.nan), None)
    u, _ = last.peak()
    ideal = _ideal(optima, place, us, u)
    best = int(last.lower.argmax())
    heights = [curve.peak()[1] if curve.separated else math.nan for curve in curves]
    fit = Fit(
        u,
        *last.interval(),
        kappa=float(last.lower[best]),
        upper=float(last.upper[best]),
        trend=trend(run.steps, heights) if len(run.steps) > 1 else math.nan,
        flat=bool(np.ptp(ideal) < FLAT),
        possible=optima.family in run.possible,
    )
    return Fingerprint(tuple(us), found, curves, ideal, fit)


def _known(optima: ExponentOptima, place: int) -> list[float]:
    """The exponents whose optimum is known; where none was wanted those of the grid, for the margins' sake."""
    return sorted(optima.known[place] or GRID)


def _curves(optima: ExponentOptima, place: int, us: Sequence[float], found: Array) -> list[Curve]:
    known = optima.known[place]
    lower, upper = (np.array([getattr(known[u], side) if known else math.nan for u in us]) for side in ("lower", "upper"))
    return [Curve.of(us, row, lower, upper) for row in found]


def _ideal(optima: ExponentOptima, place: int, us: Sequence[float], u: float) -> Array:
    """kappa of the certified optimum nearest to u, at every exponent, proven from below."""
    known = optima.known[place]
    optimum = known[min(known, key=lambda other: abs(other - u))]
    w = torch.from_numpy(np.ascontiguousarray(optimum.separator))[None]
    of = Weights("", optima.datasets[place], {BLOCK: w})
    return _curves(optima, place, us, margins(of.smallest_gaps(), w, optima.family, us))[0].lower


def _content(dataset: Dataset) -> str:
    digest = hashlib.sha256(dataset.x.tobytes())
    digest.update(dataset.y.tobytes())
    return digest.hexdigest()


def _curve_rows(run: Weights, family: str, found: Fingerprint) -> pd.DataFrame:
    records, points = found.margins.shape
    steps: list[int | None] = list(run.steps) or [None]
    return pd.DataFrame(
        {
            "run": run.run,
            "optimizer": run.optimizer,
            "seed": run.seed,
            "step": np.repeat(np.array(steps, dtype=object), points),
            "family": family,
            "p": np.tile([exponent(u) for u in found.us], records),
            "margin": found.margins.ravel(),
            "kappa_lower": np.concatenate([curve.lower for curve in found.curves]),
            "kappa_upper": np.concatenate([curve.upper for curve in found.curves]) if found.certified else math.nan,
            "resolution": np.tile(found.ideal, records),
        }
    )


def _verdict_row(run: Weights, family: str, found: dict[str, Fingerprint]) -> tuple[object, ...]:
    fit = found[family].fit
    others = [fingerprint.fit for name, fingerprint in found.items() if name != family]
    says = verdict(fit, others[0] if others else None)
    named = fit is not None and says in (MAXIMISES, NEAREST)
    # The larger 1/p is the smaller p.
    places = (exponent(fit.u), exponent(fit.high), exponent(fit.low)) if fit is not None and named else (math.nan,) * 3
    kappa, falls = (fit.kappa, fit.trend) if fit is not None else (math.nan, math.nan)
    return run.run, run.optimizer, run.seed, family, *places, kappa, falls, says
