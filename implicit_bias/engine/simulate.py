"""The loop: a batch of runs in, their trajectories out. One run is a batch of one.

Runs of a batch share the model, the loss, the kind of optimizer and schedule, all shapes and the number of steps; they
may differ in data, initial point and every numeric hyper-parameter. The engine knows tensors only: no files, no configuration.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import numpy as np
import torch

from implicit_bias.core.scaled import largest_size
from implicit_bias.engine.divergence import BEYOND, LINEAR_EVERY, Divergence
from implicit_bias.engine.problem import Problem
from implicit_bias.engine.record_times import RecordTimes
from implicit_bias.engine.recorder import Recorder
from implicit_bias.engine.shown import Shown, shown_by, trained_by
from implicit_bias.engine.snapshot import Snapshot, gradient_from, gradient_parts, packed, unpacked
from implicit_bias.engine.steppers.base import Reached, Setup, Stepping
from implicit_bias.engine.steppers.choose import choose
from implicit_bias.engine.trajectory import Trajectory
from implicit_bias.engine.updates import reached_by, update_from
from implicit_bias.engine.variance_reduction import Anchor, anchor_due
from implicit_bias.measures.averages import StepAverage
from implicit_bias.measures.probe import Probe
from implicit_bias.models import Parameters
from implicit_bias.runtime.threads import threads_for

# Called now and then with (steps made, own-norm ratio averaged over runs or nan).
Watch = Callable[[int, float], None]
WATCH_SECONDS = 0.1
# What takes a thread some ms before the first step, of linear data of fewer numbers, is not shared out: other threads would wait
# for more at full speed long after that.
SMALL_DATA = 2**20
# Called between steps with (steps made, a function that takes a snapshot); the next step may overwrite what that gives. After
# every step, or where many are made in one call, between those.
Keep = Callable[[int, Callable[[], Snapshot]], None]
# Called at the end, between certificates that are tightened, with (how many are, of how many).
Certified = Callable[[int, int], None]


def simulate(
    problem: Problem,
    watch: Watch | None = None,
    keep: Keep | None = None,
    resume: Snapshot | None = None,
    certified: Certified | None = None,
) -> Trajectory:
    """Run every run of the batch and record it.

    The t-th update, t from 1, is the optimizer's step from theta_{t-1} with learning rate eta_t, see
    :class:`implicit_bias.optimizers.Step`: mostly theta_t = theta_{t-1} - eta_t step_t. A record at step t describes theta_t, or
    what the optimizer shows in its place (:meth:`implicit_bias.optimizers.Optimizer.shown`).

    Args:
        problem: The batch.
        watch: Told how far it is.
        keep: Called between steps, after each or, where many are made in one call, several times a second; it may take a
            snapshot of the state.
        resume: A snapshot of the same problem, to go on from: on the same device, with as many threads, the trajectory is that
            of an undisturbed batch to the last bit.
        certified: Told how many of the last record's certificates are tightened, of how many.

    Raises:
        Diverged: some runs have, see :class:`implicit_bias.engine.divergence.Divergence`. It is looked for at every record, and
            between them after every step of a network, and about every ten of a linear model.
        OverflowError: scores or gradients are beyond every double.
        ValueError: the schedule takes steps back, and the optimizer's state cannot be.
    """
    with torch.no_grad():
        return _Simulation(problem).run(watch, keep, resume, certified)


def stepping_of(problem: Problem) -> Stepping:
    """What will make the steps of a batch, if they prove to be the plain ones."""
    with torch.no_grad():
        return choose(Setup.of(problem)).stepper.stepping


class _Simulation:
    """A batch while it runs: a stepper that moves it, a recorder that looks at it, and when that is."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        threads = torch.get_num_threads()
        with threads_for(problem.data.x.numel(), SMALL_DATA) if problem.model.linear else nullcontext():
            self._set_up(problem, threads)

    def _set_up(self, problem: Problem, threads: int) -> None:
        self.setup = Setup.of(problem, threads)
        self.times = RecordTimes(
            problem.steps, problem.points, problem.levels, problem.stop_log_loss, problem.runs, problem.cadence
        )
        self.recorder = Recorder(self.setup, self.times)
        self.choice = choose(self.setup)
        self.stepper = self.choice.stepper
        #: Probes that have to be handed every gradient they want: what makes the steps does not do that itself.
        self.unserved: list[Probe] = []
        #: Whether records need the update that led to them, and where the last one was made from.
        self.looks_back = any(probe.looks_back for probe in self.recorder.probes.values())
        self.before: Reached | None = None

    def run(self, watch: Watch | None, keep: Keep | None, resume: Snapshot | None, certified: Certified | None) -> Trajectory:
        """All steps, or those after the snapshot."""
        with self._threads():
            t = self._begin(resume)
        try:
            with self._threads():  # what was to make the steps may not be what does
                self._steps(t, watch, keep)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            # A decomposition met numbers that are not finite: of the parameters, or of what is made of them.
            parameters = self.stepper.parameters
            there = self.setup.objective.gradient(parameters)
            # At which step is not known here.
            self._divergence(LINEAR_EVERY).check(self.problem.steps, parameters, there, self.times.going)
            raise OverflowError(BEYOND) from None
        trajectory = self.recorder.finished(certified)
        trajectory.stepping, trajectory.stepping_refused = self.stepper.stepping, self.choice.refusals()
        trajectory.compiled_with = dict(self.stepper.made_with)
        trajectory.facts = self.problem.optimizer.facts(self.stepper.state)
        return trajectory

    def _threads(self) -> AbstractContextManager[None]:
        """With torch's threads, for what it computes between updates: of parameters, and of the scores that it evaluates itself,
        of a network, of held-out samples, or where losses are watched."""
        if not self.stepper.has_threads:
            return nullcontext()
        problem = self.problem
        numbers = sum(block.numel() for block in problem.initial.values())
        evaluated = [problem.data] if problem.watches_loss or not problem.model.linear else []
        evaluated += [] if problem.test is None else [problem.test]
        scores = [problem.runs * data.num_classes * data.x.shape[1] for data in evaluated]
        return threads_for(max([numbers, *scores]))

    def _begin(self, resume: Snapshot | None) -> int:
        """Put the stepper where the batch begins, or goes on; returns the steps made."""
        evaluates = self.stepper.evaluates
        t, start = (0, self.setup.begun(not evaluates)) if resume is None else (resume["step"], self._restored(resume))
        self.choice = self.choice.verified(self.setup, start, t)
        self.stepper = self.choice.stepper
        if resume is None and evaluates and not self.stepper.evaluates:
            start = self.setup.begun()
        self.stepper.load(start)
        self.unserved = [probe for probe in self.recorder.probes.values() if not self._served(probe)]
        every, batched = LINEAR_EVERY if self.problem.model.linear else 1, self.problem.batch is not None
        self.divergence = self._divergence(every, exact=every == 1 and not batched)
        return t

    def _divergence(self, every: int, exact: bool = False) -> Divergence:
        features = largest_size(self.problem.data.x, (-2, -1)).flatten() if self.problem.model.linear else None
        return Divergence(self.problem.initial, every, exact, features)

    def _served(self, probe: Probe) -> bool:
        return probe.averaged is not None and self.stepper.serve(probe.averaged)

    def _served_averages(self) -> list[tuple[StepAverage, Parameters, int]]:
        """The averages that the stepper takes gradients into, and what is in them."""
        unserved = [probe.averaged for probe in self.unserved]
        averages = [probe.averaged for probe in self.recorder.probes.values()]
        return [(a, a.value, a.count) for a in averages if a is not None and all(a is not other for other in unserved)]

    def _steps(self, t: int, watch: Watch | None, keep: Keep | None) -> None:
        """Every update after the t-th, in calls that end where something is to be seen."""
        if t == 0:
            self._observe(0)
        steps, shown_at = self.problem.steps, time.monotonic()
        while t < steps and self.times.going.any():
            last = self._next_stop(t)
            self.before = reached_by(self.setup, self.stepper) if self.looks_back and last == t + 1 else None
            t = self.stepper.advance(t, last)
            looked_at = t in self.times.fixed  # a record looks more closely
            due = self.stepper.suspects and (self.stepper.most_steps > 1 or self.divergence.due(t))
            if not looked_at and due and self._suspected():
                self._check(t, trained_by(self.stepper), self.times.going)
            self._observe(t)
            if watch is not None and (t == steps or time.monotonic() >= shown_at):
                shown_at = time.monotonic() + WATCH_SECONDS
                watch(t, self.recorder.own_ratio())
            if keep is not None and t < steps and self.times.going.any():
                keep(t, partial(self._snapshot, t))
        self.recorder.measure_waiting()  # here, where decompositions that fail are looked into

    def _next_stop(self, t: int) -> int:
        """How far one call may go: to the next record, or the next gradient that a probe has to be handed; where losses are
        watched, to a step at which one asks for a record."""
        if self.stepper.most_steps == 1:
            return t + 1
        last = min(t + self.stepper.most_steps, self.times.next_after(t))
        if self.looks_back and last > t + 1:
            last = min(last, self.times.next_after(t) - 1)
        # A probe that looks back needs a call of one update before every record, also where the loss says when that is.
        asks = self.times.watches_loss and (self.looks_back or not self.stepper.watch(self.times.next_loss()))
        if not (self.unserved or asks):
            return last
        cadence = self.problem.cadence
        looks = range(t // cadence + 1, (last - 1) // cadence + 1)
        stop = next((j * cadence for j in looks if asks or any(probe.wants(j) for probe in self.unserved)), last)
        return stop - 1 if asks and self.looks_back and stop % cadence == 0 and stop > t + 1 else stop

    def _suspected(self) -> bool:
        """Whether a run may have diverged. Between records the parameters tell: what all samples say is looked at where each
        step has evaluated it, and not for this alone; of a network also where what makes its steps suspects it."""
        evaluated = self.stepper.most_steps == 1 or not self.problem.model.linear
        gradient = self.stepper.gradient if evaluated and self.problem.batch is None else None
        return self.divergence.suspected(self.stepper.parameters, gradient)

    def _observe(self, t: int) -> None:
        """Hand the gradient to the probes that want it, and record the batch where that is due."""
        shown: list[Shown] = []  # evaluated once, where the loss of every step is asked for, or a record is due

        def seen() -> Shown:
            if not shown:
                shown.append(shown_by(self.setup, self.stepper))
            return shown[0]

        runs = self.times.due(t, lambda: seen().gradient.log_loss)
        if runs is not None:
            self._check(t, trained_by(self.stepper), runs | self.times.going)
            if not self.problem.optimizer.shows_trained:
                self._check(t, seen(), runs | self.times.going)
        looks, off = divmod(t, self.problem.cadence)
        # At a record the gradient is evaluated anyway: there a served probe is handed it, too, and its average is whole. Where
        # the loss of some run asks for the record, that is for the record alone: others would have their bits of it.
        kept = [] if t in self.times.fixed else self._served_averages()
        for probe in self.recorder.probes.values() if runs is not None else self.unserved:
            taken = probe.averaged is not None and probe.averaged.has(looks)
            if not off and probe.wants(looks) and not taken:
                probe.collect(t, self.stepper.gradient)
        if runs is not None:
            before = self.before
            update = None if before is None else update_from(self.setup, before, self.stepper.parameters, t)
            self.recorder.record(t, seen(), self.stepper, runs, update)
            for average, value, count in kept:
                average.value, average.count = value, count

    def _check(self, t: int, at: Shown, runs: np.ndarray) -> None:
        """Raises Diverged where one of these runs has."""
        self.divergence.check(t, at.parameters, at.gradient, runs)

    def _snapshot(self, t: int) -> Snapshot:
        """All that the steps after the t-th depend on, and what was recorded so far."""
        anchor = self.stepper.anchor
        return {
            "step": t,
            "stepping": self.stepper.stepping,
            "parameters": self.stepper.parameters,
            "state": packed(self.stepper.state),
            # A fast step may round otherwise than the objective does by itself, so the gradient is kept, not computed again.
            "gradient": gradient_parts(self.stepper.gradient),
            "schedule": dict(self.stepper.schedule_state),
            **({} if anchor is None else {"anchor": anchor.parameters}),
            "times": self.times.snapshot(),
            **self.recorder.snapshot(),
        }

    def _restored(self, snapshot: Snapshot) -> Reached:
        """Continue from a snapshot; returns the state of the batch."""
        self.times.restore(snapshot["times"])
        self.recorder.restore(snapshot)
        gradient = gradient_from(snapshot["gradient"])
        foreign = self.problem.optimizer.foreign_state
        state = unpacked(snapshot["state"], lambda: self.setup.first_state(gradient.blocks), foreign)
        seen = gradient if self.problem.batch is None else None
        return Reached(snapshot["parameters"], state, seen, snapshot["schedule"], self._anchor(snapshot))

    def _anchor(self, snapshot: Snapshot) -> Anchor | None:
        """The anchor of the last update, the gradient there evaluated anew, by what evaluated it before."""
        if not self.problem.reduces_variance:
            return None
        since = anchor_due(snapshot["step"], self.problem.cadence)
        return Anchor(since, snapshot["anchor"], self.setup.objective.gradient)
