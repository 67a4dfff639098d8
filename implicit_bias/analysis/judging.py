"""One optimizer on one dataset, judged: a linear model is trained, and a sentence says which margin was reached."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import pandas as pd
import torch

from implicit_bias.analysis.arguments import (
    batches_in,
    cache_in,
    check_feed,
    check_numbers,
    check_progress,
    dataset_named,
    families_in,
    measured_norms,
    name_of,
)
from implicit_bias.analysis.exponents_found import Exponents, unfinished
from implicit_bias.analysis.fingerprints import VERDICT_COLUMNS
from implicit_bias.analysis.identification import identified
from implicit_bias.analysis.in_turn import solve_in_turn
from implicit_bias.analysis.sentences import sentence
from implicit_bias.analysis.study import study
from implicit_bias.analysis.weights import BLOCK, Weights
from implicit_bias.cli.progress import Progress
from implicit_bias.cli.wrapping import fitted, terminal_width
from implicit_bias.core.errors import BadInput, NotSeparable, RunFailed
from implicit_bias.datasets import Dataset
from implicit_bias.engine import Diverged, Problem, Trajectory, simulate
from implicit_bias.engine.mini_batches import MiniBatches
from implicit_bias.losses import LOSSES
from implicit_bias.measures.exponents import FAMILIES, GRID, NOT_SEPARATED
from implicit_bias.models import MODELS, Data
from implicit_bias.norms import Norm
from implicit_bias.optimizers.foreign.base import Made
from implicit_bias.runtime.threads import threads_for
from implicit_bias.schedules import SCHEDULES, Schedule
from implicit_bias.solvers.blocking import blocking_samples
from implicit_bias.solvers.reference import TIMEOUT
from implicit_bias.storage.tables import narrowed, summary_table, trajectory_table
from implicit_bias.sweep.expected import BY_TORCH, FOREIGN, OPTIMUM, OPTIMUM_NUMBER
from implicit_bias.sweep.references import Cache, References, intervals_of, optima

NORMS = ("linf", "l1", "l2", "spectral", "nuclear")
POWER = 0.5
# What is suggested where time did not suffice, as a factor.
LONGER = 10
#: Seconds for all optima, and the part of it that those of the measured norms may take.
TOGETHER, NORMS_SHARE = 60.0, 0.75
# First-order steps that tighten the last certificate of norms whose optimum is not proven, at most one in so many of the run's.
CERTIFICATE_STEPS, CERTIFICATE_SHARE = 1000, 30
#: Samples that stand in the way of a separation: seconds to look for them, and of how many a note tells.
BLOCKING_SECONDS, MOST_BLOCKING = 10.0, 50


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
    optima_timeout: float = TOGETHER,
    progress: str = "auto",
    batch_size: int | None = None,
    batch_order: str = "reshuffle",
) -> Judgement:
    """Train a linear model from zero with cross entropy, and say which margin was reached.

    Outside of terminals and notebooks, which show the last value themselves, the sentence is printed. What is being done is told
    on standard error where it takes long.

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
        optima_timeout: Seconds for all optima, of which those of ``norms`` have three quarters and those of the exponents the
            rest. Where they do not suffice the intervals that are proven stand in the place of optima, and the sentence and notes
            say so.
        progress: ``auto`` or ``off``.
        batch_size: Samples of a mini-batch, whose mean loss an update sees; None: all. What is measured is of all samples.
        batch_order: How mini-batches visit the samples: ``reshuffle``, by ``seed``, ``cyclic`` or ``replace``.

    Raises:
        BadInput: data or arguments that cannot be used.
        RunFailed: the optimizer raises, or its parameters are no longer finite.
    """
    check_numbers(steps=steps, lr=lr, seed=seed, reference_timeout=reference_timeout, optima_timeout=optima_timeout)
    check_feed(feed)
    check_progress(progress)
    families, cache = families_in(family), cache_in(results_dir)
    dataset, called = dataset_named(data, int(seed)), name_of(make_optimizer)
    batch = batches_in(batch_size, batch_order, int(seed), len(dataset.x))
    optimizer = Made(make_optimizer, called, feed, int(seed))
    measured = measured_norms(norms, optimizer.working_norm)
    with Progress(enabled=progress != "off") as shown:
        task = _Task(
            optimizer, dataset, batch, measured, int(steps), lr, families, cache, reference_timeout, optima_timeout, shown
        )
        with threads_for(dataset.x.shape[0] * dataset.num_classes):
            judgement = task.judged()
    if not hasattr(sys, "ps1"):
        print(fitted(str(judgement), terminal_width()) if sys.stdout.isatty() else judgement)
    return judgement


@dataclass(frozen=True)
class _Task:
    """What is to be judged, checked; the fields are the arguments of :func:`judge`."""

    optimizer: Made
    dataset: Dataset
    batch: MiniBatches | None
    measured: Mapping[str, Norm]
    steps: int
    lr: float | None
    families: Sequence[str]
    cache: Cache
    each: float
    together: float
    progress: Progress

    def judged(self) -> Judgement:
        """Optima, training, tables, exponents, the sentence."""
        self._plan()
        optimizer, own = self.optimizer, self.optimizer.own
        began = time.perf_counter()
        solved = self._references()
        left = self.together - (time.perf_counter() - began)
        separable: bool | None = True
        references: References = {}
        if isinstance(solved, NotSeparable):
            separable = False if solved.proven else None
        else:
            references = solved
        found = self._trained(references)
        intervals = narrowed(found, 0, own, intervals_of(self.dataset, MODELS.get("linear")(), self.measured, references))
        trajectory = trajectory_table(found, 0, optimizer.seed, own, intervals)
        summary = summary_table(trajectory, optimizer.called, own, intervals)
        exponents = self._exponents(found, left) if separable and self.families else Exponents()
        told = sentence(trajectory, summary, own, exponents, separable=separable)
        remarks = optimizer.remarks(float(summary["log_loss"].iloc[0]), found.facts[0])
        more = f"optima_timeout={LONGER * self.together:g}"
        late = [f"{more} allows more time for optima"] if separable is None else exponents.notes(more)
        notes = (*remarks, *self.dataset.cautions, *(self._in_the_way() if separable is False else []), *late)
        return Judgement(trajectory, summary, exponents.verdicts, told, notes)

    def _in_the_way(self) -> list[str]:
        """Which samples the classes cannot be separated with, where they are few."""
        found = blocking_samples(self.dataset.x, self.dataset.y, self.dataset.num_classes, BLOCKING_SECONDS)
        if found is None or len(found.samples) > MOST_BLOCKING:
            return []
        places = ", ".join(map(str, found.samples))
        return [f"without the samples [{places}] (places from 0, as numpy counts them) the classes can be separated"]

    def _references(self) -> References | NotSeparable:
        """The certified optima by label, that of the optimizer's steps first."""
        first = self.optimizer.working_norm
        ordered = {label: self.measured[label] for label in sorted(self.measured, key=lambda label: label != first)}
        seconds = NORMS_SHARE * self.together
        shared = self.progress.begun("optima")
        found = solve_in_turn(
            self.dataset, ordered, self.cache, self.progress.status, self.each, seconds, lambda i, n: shared(i / n)
        )
        self.progress.work.end("optima")
        return found

    def _plan(self) -> None:
        """Its pieces of work."""
        work, optimum = self.progress.work, OPTIMUM + OPTIMUM_NUMBER * self.dataset.x.size * self.dataset.num_classes
        work.expect("optima", optimum * len(self.measured), ("optima",))
        work.expect("steps", self.steps * (BY_TORCH + FOREIGN), ("steps",))
        work.expect("exponents", len(GRID) * optimum * len(self.families), ("optima",))

    def _trained(self, references: References) -> Trajectory:
        x, y, k = torch.from_numpy(self.dataset.x), torch.from_numpy(self.dataset.y), self.dataset.num_classes
        model = MODELS.get("linear")()
        problem = Problem(
            model=model,
            loss=LOSSES.get("cross_entropy")(),
            optimizer=self.optimizer,
            schedule=_schedule(self.lr),
            data=Data(x[None], y[None], k),
            initial={BLOCK: torch.zeros(1, k, x.shape[1], dtype=torch.float64)},
            steps=self.steps,
            batch=self.batch,
            measured=self.measured,
            weights="all",
            optima=optima([references], {label: [label] for label in self.measured}, model, [BLOCK]),
            certificate_iterations=min(CERTIFICATE_STEPS, self.steps // CERTIFICATE_SHARE),
            compile="off",
        )
        self.progress.status(f"{self.steps:,} steps of {self.optimizer.called}")
        shared = self.progress.begun("steps")

        def made(t: int, ratio: float) -> None:
            shared(t / self.steps)
            self.progress.tell(ratio, t)

        try:
            found = simulate(problem, made)
            self.progress.work.end("steps")
            return found
        except Diverged as error:
            raise RunFailed(f"{self.optimizer.called}: by step {error.step} the {error.sign}; choose a smaller rate") from None

    def _exponents(self, found: Trajectory, seconds: float) -> Exponents:
        """Which exponent of each family is maximised; no optimum is solved where nothing is separated."""
        self.progress.status("looking for exponents")
        shared = self.progress.begun("exponents")
        run = self._as_weights(found)
        if not found.by_norm[found.own]["margin"][-1, 0] > 0:
            nothing = (math.nan,) * 5
            rows = [(run.run, run.optimizer, run.seed, family, *nothing, NOT_SEPARATED) for family in self.families]
            return Exponents(pd.DataFrame(rows, columns=list(VERDICT_COLUMNS)), run.possible)
        try:
            tables = identified([run], self.families, self.cache, self.each, "cpu", self.progress.status, seconds, shared)
        except BadInput:  # the run separates its classes: that they can be was only not found again before time ran out
            return Exponents(possible=run.possible, left_out=self.families)
        left_out = [family for family in self.families if family not in set(tables.verdicts["family"])]
        return Exponents(tables.verdicts, run.possible, unfinished(tables.curves), left_out)

    def _as_weights(self, found: Trajectory) -> Weights:
        """The records of the run, to be identified."""
        made, ruled_out = self.optimizer, study(self.optimizer).ruled_out
        w, called = torch.cat([found.parameters[step][BLOCK] for step in found.steps]), made.called
        return Weights(
            called, self.dataset, {BLOCK: w}, tuple(found.steps), called, called, made.seed, own=made.own, ruled_out=ruled_out
        )


def _schedule(lr: float | None) -> Schedule:
    schedule: Schedule = SCHEDULES.get("as_given")() if lr is None else SCHEDULES.get("power")(lr=float(lr), power=POWER)
    return schedule
