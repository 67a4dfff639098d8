"""One optimizer on one dataset, judged: a linear model is trained, and a sentence says which margin was reached."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from implicit_bias.analysis.data import as_dataset
from implicit_bias.analysis.exponent_optima import Memory
from implicit_bias.analysis.fingerprints import VERDICT_COLUMNS
from implicit_bias.analysis.identification import identified
from implicit_bias.analysis.study import study
from implicit_bias.analysis.weights import BLOCK, Weights
from implicit_bias.core.errors import BadInput, NotSeparable, RunFailed
from implicit_bias.core.registry import hyper_fields
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
# From this size on an exponent is written in short.
LONG_NUMBER = 1e6
# A margin has come to rest where it changes by less than this part over the last half of the steps.
AT_REST = 1e-3


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
    results_dir: str | None = None,
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
    families = [family] if isinstance(family, str) else list(family)
    _check(steps, lr, feed, families)
    dataset, called = _dataset(data, seed), _name_of(make_optimizer)
    optimizer = Made(make_optimizer, called, feed, seed)
    own, measured = optimizer.own, _measured(norms, optimizer.working_norm)
    cache: Cache = Memory() if results_dir is None else ReferenceCache(results_dir)
    references = _references(dataset, measured, cache, reference_timeout)
    found = _trained(optimizer, dataset, references or {}, measured, steps, _schedule(lr))
    model = MODELS.get("linear")()
    intervals = narrowed(found, 0, own, intervals_of(dataset, model, measured, references or {}))
    trajectory = trajectory_table(found, 0, seed, own, intervals)
    summary = summary_table(trajectory, called, own, intervals)
    verdicts = _verdicts(optimizer, dataset, found, seed, families if references is not None else [], cache, reference_timeout)
    sentence = _sentence(trajectory, summary, own, separable=references is not None, exponent=_exponent(verdicts))
    notes = optimizer.remarks(float(summary["log_loss"].iloc[0]), found.facts[0])
    judgement = Judgement(trajectory, summary, verdicts, sentence, tuple(notes))
    if not hasattr(sys, "ps1"):
        print(judgement)
    return judgement


def _check(steps: Any, lr: Any, feed: Any, families: Sequence[Any]) -> None:
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise BadInput(f"steps={shown(steps)}: must be an integer >= 1")
    if lr is not None and not (isinstance(lr, int | float) and not isinstance(lr, bool) and 0 < lr < math.inf):
        raise BadInput(f"lr={shown(lr)}: must be None or a number > 0")
    if feed not in FEEDS:
        raise BadInput(f"feed={shown(feed)}: must be {' or '.join(FEEDS)}")
    for family in families:
        if family not in FAMILIES:
            raise BadInput(f"family={shown(family)}: must be {', '.join(FAMILIES)} or both")


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
    found = []
    for label in [norms] if isinstance(norms, str) else norms:
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
    problem = Problem(
        model=MODELS.get("linear")(),
        loss=LOSSES.get("cross_entropy")(),
        optimizer=optimizer,
        schedule=schedule,
        data=data,
        initial={BLOCK: torch.zeros(1, dataset.num_classes, dataset.x.shape[1], dtype=torch.float64)},
        steps=steps,
        measured=measured,
        weights="all",
        optima=optima([references], {label: [label] for label in measured}, BLOCK),
        certificate_iterations=min(CERTIFICATE_STEPS, steps // CERTIFICATE_SHARE),
        compile="off",
    )
    try:
        return simulate(problem)
    except Diverged as error:
        raise RunFailed(
            f"{optimizer.called}: by step {error.step} the parameters are no longer finite numbers; choose a smaller rate"
        ) from None


def _verdicts(
    optimizer: Made, dataset: Dataset, found: Trajectory, seed: int, families: Sequence[str], cache: Cache, timeout: float
) -> pd.DataFrame:
    """Which exponent of each family is maximised; no optimum is solved where nothing is separated."""
    if families and found.by_norm[found.own]["margin"][-1, 0] > 0:
        run = _as_weights(optimizer, dataset, found, seed)
        return identified([run], families, cache, timeout, "cpu", lambda text: None).verdicts
    nothing = (math.nan,) * 5
    rows = [(optimizer.called, optimizer.called, seed, family, *nothing, NOT_SEPARATED) for family in families]
    return pd.DataFrame(rows, columns=list(VERDICT_COLUMNS))


def _as_weights(optimizer: Made, dataset: Dataset, found: Trajectory, seed: int) -> Weights:
    """The records of a run, to be identified."""
    w = torch.cat([found.parameters[step][BLOCK] for step in found.steps])
    called, ruled_out = optimizer.called, study(optimizer).ruled_out
    return Weights(called, dataset, {BLOCK: w}, tuple(found.steps), called, called, seed, own=optimizer.own, ruled_out=ruled_out)


def _sentence(trajectory: pd.DataFrame, summary: pd.DataFrame, own: str | None, *, separable: bool, exponent: str) -> str:
    """What was reached, of which optimum, whether it still rises, and which exponent is nearest."""
    row = summary.iloc[0]
    depth = row["log_loss"] / math.log(10)
    loss = f"10^{depth:.1f}" if abs(depth) < LONG_NUMBER else f"10^{depth:.3g}"
    began = f"{row['optimizer']}, {row['step']:,} steps, loss {loss}"
    share = f"accuracy {row['accuracy']:.4f}"
    if not separable:
        return f"{began}: the classes cannot be separated by a linear model, so there is no maximum margin ({share})"
    if row["accuracy"] < 1 or not (summary["margin"] > 0).all():
        return f"{began}: not separated yet ({share}), so no margin is positive; more steps, or another rate"
    best = summary.sort_values("ratio", ascending=False).iloc[0]  # those without a ratio are the last
    if own is None:
        return f"{began}: no norm of its own is known; the best ratio is {_reached(best)}, {_trend(trajectory, best)}{exponent}"
    mine = summary[summary["own"]].iloc[0]
    told = f"{began}: in {own}, the norm of its steps, it reached {_reached(mine)}, {_trend(trajectory, mine)}"
    beside = "" if best["norm"] == own or not best["ratio"] > mine["ratio"] else f"; the best ratio is {_reached(best)}"
    return f"{told}{beside}{exponent}"


def _reached(row: pd.Series) -> str:
    """A margin beside its optimum."""
    if math.isfinite(row["ratio"]):
        share = f"{100 * row['ratio']:.1f} % of the certified {row['norm']} optimum"
        return f"{share} ({row['margin']:.4g} of {row['max_margin']:.4g})"
    interval = f"[{row['optimum_lower']:.4g}, {row['optimum_upper']:.4g}]"
    return f"a margin of {row['margin']:.4g}, the {row['norm']} optimum being in {interval}"


def _trend(trajectory: pd.DataFrame, row: pd.Series) -> str:
    """Whether a margin changes over the last half of the steps."""
    rows = trajectory[trajectory["norm"] == row["norm"]]
    half = rows.loc[(rows["step"] - row["step"] / 2).abs().idxmin(), "margin"]
    change = (row["margin"] - half) / abs(row["margin"])
    return "still rising" if change > AT_REST else "falling" if change < -AT_REST else "at rest"


def _exponent(verdicts: pd.DataFrame) -> str:
    """The nearest exponent of each family that has one, as the end of the sentence; where none has one, why."""
    known = verdicts[verdicts["p"].notna()]
    found = [f"{row['family']} p = {row['p']:.3g} ({row['verdict']})" for _, row in known.iterrows()]
    words = found or list(dict.fromkeys(verdicts["verdict"]))
    return f"; nearest exponent: {', '.join(words)}" if words else ""
