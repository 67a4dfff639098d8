"""One optimizer on one dataset, judged: a linear model is trained, and a sentence says which margin was reached."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from implicit_bias.analysis.data import as_dataset
from implicit_bias.analysis.exponent_optima import Memory
from implicit_bias.analysis.fingerprints import VERDICT_COLUMNS
from implicit_bias.analysis.identification import identified
from implicit_bias.analysis.sentences import sentence
from implicit_bias.analysis.study import study
from implicit_bias.analysis.weights import BLOCK, Weights
from implicit_bias.core.errors import BadInput, NotSeparable, RunFailed
from implicit_bias.core.registry import MAX_SEED, hyper_fields
from implicit_bias.core.words import shown
from implicit_bias.datasets import DATASETS, Dataset, make_dataset
from implicit_bias.engine import Diverged, Problem, Trajectory, simulate
from implicit_bias.losses import LOSSES
from implicit_bias.measures.exponents import FAMILIES, NOT_SEPARATED
from implicit_bias.models import MODELS, Data
from implicit_bias.norms import Norm, make_norm
from implicit_bias.optimizers.foreign.base import FEEDS, Made
from implicit_bias.optimizers.foreign.target import in_a_line
from implicit_bias.schedules import SCHEDULES, Schedule
from implicit_bias.solvers.reference import TIMEOUT
from implicit_bias.storage.references import ReferenceCache
from implicit_bias.storage.tables import narrowed, summary_table, trajectory_table
from implicit_bias.sweep.references import Cache, References, intervals_of, optima, solve_all

NORMS = ("linf", "l1", "l2", "spectral", "nuclear")
POWER = 0.5
# First-order steps that tighten the last certificate of norms whose optimum is not proven, at most one in so many of the run's.
CERTIFICATE_STEPS, CERTIFICATE_SHARE = 1000, 30


@dataclass(frozen=True, repr=False)
class Judgement:
    """What came out; it prints as its sentence.

    Attributes:
        trajectory, summary: With the columns of ``trajectory.csv`` and ``summary.csv``.
        verdicts: Which exponent of a family is maximised, with the columns of ``verdicts.csv``; no rows where that is not looked
            for, or the classes cannot be separated.
        sentence: What was reached, of which optimum, and whether it still rises.
        notes: What limits the reading, a line each.
    """

    trajectory: pd.DataFrame
    summary: pd.DataFrame
    verdicts: pd.DataFrame
    sentence: str
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join([self.sentence, *self.notes])

    __repr__ = __str__  # what a terminal and a notebook show


def judge(
    make_optimizer: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer],
    data: Any,
    steps: int = 10_000,
    lr: float | None = None,
    seed: int = 1,
    feed: str = "loss",
    norms: Sequence[str] = NORMS,
    family: str | Sequence[str] = FAMILIES,
    results_dir: str | PathLike[str] | None = None,
    reference_timeout: float = TIMEOUT,
) -> Judgement:
    """Train a linear model from zero with cross entropy, and say which margin was reached.

    Outside of terminals and notebooks, which show the last value themselves, the sentence is printed.

    Args:
        make_optimizer: From a list of parameters to a torch.optim.Optimizer, such as ``lambda p: torch.optim.AdamW(p, lr=1e-2)``
            or a class. It is called more than once: before training the optimizer is tried on constant gradients.
        data: Features (n, d) and labels (n,) of any values as a pair (arrays, tensors, DataFrames), the name of a dataset, or a
            Dataset.
        steps: Updates to make.
        lr: None leaves the rate that the optimizer was made with alone; a number is eta_0 of eta_t = eta_0 t^-1/2.
        seed: Of a dataset that is given by name, and of random numbers that the optimizer draws.
        feed: ``loss``: true gradients; ``log_loss``: those of log L, which do not shrink.
        norms: The margins to measure, beside that of the optimizer's own norm.
        family: Where the nearest exponent is looked for: ``lp``, ``schatten`` or both; (): it is not.
        results_dir: Where optima are looked for and kept; None: nothing is written anywhere.
        reference_timeout: Seconds for one optimum.

    Raises:
        BadInput: data or arguments that cannot be used.
        RunFailed: the optimizer raises, or its parameters are no longer finite.
    """
    _check(steps, lr, seed, feed, reference_timeout)
    families, steps, seed = _families(family), int(steps), int(seed)
    dataset, called = _dataset(data, seed), _name_of(make_optimizer)
    optimizer = Made(make_optimizer, called, feed, seed)
    own, measured = optimizer.own, _measured(norms, optimizer.working_norm)
    cache = _cache(results_dir)
    references = _references(dataset, measured, cache, reference_timeout)
    found = _trained(optimizer, dataset, references or {}, measured, steps, _schedule(lr))
    model = MODELS.get("linear")()
    intervals = narrowed(found, 0, own, intervals_of(dataset, model, measured, references or {}))
    trajectory = trajectory_table(found, 0, seed, own, intervals)
    summary = summary_table(trajectory, called, own, intervals)
    verdicts, possible = pd.DataFrame(columns=list(VERDICT_COLUMNS)), families
    if references is not None and families:
        run = _as_weights(optimizer, dataset, found, seed)
        verdicts, possible = _verdicts(run, found, families, cache, reference_timeout), run.possible
    told = sentence(trajectory, summary, verdicts, own, separable=references is not None, possible=possible)
    notes = optimizer.remarks(float(summary["log_loss"].iloc[0]), found.facts[0])
    judgement = Judgement(trajectory, summary, verdicts, told, tuple(notes))
    if not hasattr(sys, "ps1"):
        print(judgement)
    return judgement


def _check(steps: Any, lr: Any, seed: Any, feed: Any, timeout: Any) -> None:
    """Raises BadInput; numbers of numpy's are numbers."""
    if not _is(steps, Integral) or steps < 1:
        raise BadInput(f"steps={shown(steps)}: must be an integer >= 1")
    if lr is not None and not (_is(lr, Real) and 0 < lr < math.inf):
        raise BadInput(f"lr={shown(lr)}: must be None or a number > 0")
    if not _is(seed, Integral) or not 0 <= seed <= MAX_SEED:
        raise BadInput(f"seed={shown(seed)}: must be an integer >= 0, at most {MAX_SEED}")
    if feed not in FEEDS:
        raise BadInput(f"feed={shown(feed)}: must be {' or '.join(FEEDS)}")
    if not _is(timeout, Real) or not timeout > 0:
        raise BadInput(f"reference_timeout={shown(timeout)}: must be a number > 0")


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _families(family: Any) -> list[str]:
    """The families that are named, one or several. Raises BadInput."""
    found = [family] if isinstance(family, str) else family
    if not isinstance(found, list | tuple) or any(name not in FAMILIES for name in found):
        raise BadInput(f"family={shown(family)}: must be {', '.join(FAMILIES)} or both, or () for neither")
    return [name for name in FAMILIES if name in found]


def _cache(results_dir: Any) -> Cache:
    """Where optima are looked for and kept. Raises BadInput."""
    if results_dir is not None and not isinstance(results_dir, str | PathLike):
        raise BadInput(f"results_dir={shown(results_dir)}: must be None or the path of a folder")
    if results_dir is not None and Path(results_dir).exists() and not Path(results_dir).is_dir():
        raise BadInput(f"results_dir={fspath(results_dir)}: is a file; must be None or the path of a folder")
    return Memory() if results_dir is None else ReferenceCache(fspath(results_dir))


def _dataset(data: Any, seed: int) -> Dataset:
    if isinstance(data, str) and data in DATASETS and "seed" in hyper_fields(DATASETS.get(data)):
        return make_dataset({"name": data, "seed": seed}).load()
    return as_dataset(data)


def _name_of(make_optimizer: Any) -> str:
    """The name of the class. Raises BadInput where no optimizer is made."""
    if not callable(make_optimizer):
        raise BadInput(f"make_optimizer: a {type(make_optimizer).__name__}; must be a function of the parameters, or a class")
    try:
        made = make_optimizer([torch.nn.Parameter(torch.zeros(3, 4, dtype=torch.float64))])
    except Exception as error:  # noqa: BLE001 - the function is the caller's
        raise BadInput(f"make_optimizer: cannot make an optimizer of a list of parameters ({in_a_line(error)})") from None
    if not isinstance(made, torch.optim.Optimizer):
        raise BadInput(f"make_optimizer: gives a {type(made).__name__}; must give a torch.optim.Optimizer")
    return type(made).__name__


def _measured(norms: Sequence[str], working: str) -> dict[str, Norm]:
    """The norms to measure by label, that of the optimizer's steps the last."""
    labels = [norms] if isinstance(norms, str) else norms
    if not isinstance(labels, list | tuple) or not all(isinstance(label, str) for label in labels):
        raise BadInput(f'norms={shown(norms)}: must be labels of norms, such as ["linf", "lp3"]')
    found = []
    for label in labels:
        try:
            found.append(make_norm(label))
        except (KeyError, ValueError) as error:
            raise BadInput(f"norms={shown(label)}: {error.args[0]}") from None
    return {norm.label: norm for norm in [*found, make_norm(working)]}


def _schedule(lr: float | None) -> Schedule:
    schedule: Schedule = SCHEDULES.get("as_given")() if lr is None else SCHEDULES.get("power")(lr=float(lr), power=POWER)
    return schedule


def _references(dataset: Dataset, measured: Mapping[str, Norm], cache: Cache, timeout: float) -> References | None:
    """The certified optima by label; None where the classes cannot be separated."""
    found = solve_all([(dataset, measured)], "exact", cache, lambda text: None, timeout)[0]
    return None if isinstance(found, NotSeparable) else found


def _trained(
    optimizer: Made, dataset: Dataset, references: References, measured: Mapping[str, Norm], steps: int, schedule: Schedule
) -> Trajectory:
    data = Data(torch.from_numpy(dataset.x)[None], torch.from_numpy(dataset.y)[None], dataset.num_classes)
    model = MODELS.get("linear")()
    problem = Problem(
        model=model,
        loss=LOSSES.get("cross_entropy")(),
        optimizer=optimizer,
        schedule=schedule,
        data=data,
        initial={BLOCK: torch.zeros(1, dataset.num_classes, dataset.x.shape[1], dtype=torch.float64)},
        steps=steps,
        measured=measured,
        weights="all",
        optima=optima([references], {label: [label] for label in measured}, model, [BLOCK]),
        certificate_iterations=min(CERTIFICATE_STEPS, steps // CERTIFICATE_SHARE),
        compile="off",
    )
    try:
        return simulate(problem)
    except Diverged as error:
        raise RunFailed(f"{optimizer.called}: by step {error.step} the {error.sign}; choose a smaller rate") from None


def _verdicts(run: Weights, found: Trajectory, families: Sequence[str], cache: Cache, timeout: float) -> pd.DataFrame:
    """Which exponent of each family is maximised; no optimum is solved where nothing is separated."""
    if found.by_norm[found.own]["margin"][-1, 0] > 0:
        return identified([run], families, cache, timeout, "cpu", lambda text: None).verdicts
    nothing = (math.nan,) * 5
    rows = [(run.run, run.optimizer, run.seed, family, *nothing, NOT_SEPARATED) for family in families]
    return pd.DataFrame(rows, columns=list(VERDICT_COLUMNS))


def _as_weights(optimizer: Made, dataset: Dataset, found: Trajectory, seed: int) -> Weights:
    """The records of a run, to be identified."""
    w = torch.cat([found.parameters[step][BLOCK] for step in found.steps])
    called, ruled_out = optimizer.called, study(optimizer).ruled_out
    return Weights(called, dataset, {BLOCK: w}, tuple(found.steps), called, called, seed, own=optimizer.own, ruled_out=ruled_out)
