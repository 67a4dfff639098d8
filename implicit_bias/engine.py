"""The engine: a batch of runs in, their trajectories out. One run is a batch of one.

Runs of a batch share the model, the loss, the kind of optimizer and schedule, all shapes and the number of steps; they
may differ in data, initial point and every numeric hyper-parameter. The engine knows tensors only: no files, no configuration.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from implicit_bias.agenda import Agenda
from implicit_bias.core.scaled import Scaled
from implicit_bias.kkt import KktRatios
from implicit_bias.losses import Loss
from implicit_bias.margins import Certificate, Optimum, accuracy, accuracy_and_margin, cosine, measure, over_power
from implicit_bias.models import Data, Gradient, Model, Objective, Parameters
from implicit_bias.native import LinearSteps, linear_steps
from implicit_bias.norms import Norm, ParameterNorm, over_blocks
from implicit_bias.norms.blocks import WholeVector
from implicit_bias.optimizers import ForeignState, Here, Optimizer, State
from implicit_bias.schedules import LyuLi, Schedule
from implicit_bias.snapshots import (
    arrays,
    chosen,
    chosen_scaled,
    packed,
    put_together,
    stacked,
    taken_apart,
    unpacked,
    unstacked,
)
from implicit_bias.solvers.reference import improve_weights
from implicit_bias.stepping import Advance, Compile, Compiled, Stepping, Tell, plain_step, silent, step_of, updates
from implicit_bias.trajectory import Diverged, Trajectory
from implicit_bias.verification import CHECKED_RUNS, CHECKED_STEPS, Reached, at_runs, disagreement

__all__ = ["Diverged", "Keep", "Problem", "Snapshot", "Trajectory", "Watch", "simulate", "stepping_of"]

# Called now and then with (steps made, own-norm ratio averaged over runs or nan).
Watch = Callable[[int, float], None]
WATCH_SECONDS = 0.1
#: The state of a batch between two steps: nested dictionaries and lists of tensors, numbers and strings.
Snapshot = dict[str, Any]
# Called between steps with (steps made, a function that takes a snapshot); the next step may overwrite what that gives. After
# every step, or where many are made in one call, between those.
Keep = Callable[[int, Callable[[], Snapshot]], None]
# The part of the certificate's iterations that norms with a strictly convex ball need.
SMOOTH_SHARE = 5
# Beside the terms of its sum, an entry of a certificate may be off by what gradients take for exactly zero, in units of eps.
ZEROED = 32
# Runs whose certificates are tightened at once: the arrays of more leave the cache.
TIGHTENED_TOGETHER = 16
# Later iterates that a checkpoint is compared with: the first recorded after this many times its steps.
DECADE = 10


@dataclass(frozen=True)
class Problem:
    """R runs to be computed together.

    Attributes:
        model, loss, optimizer, schedule: As registered; numeric fields of the optimizer may be tensors (R, 1, 1), of the
        schedule (R,). data: Training sets, (R, n, d) or (1, n, d).
        initial: Initial parameters, one tensor (R, p, q) a block.
        steps: Updates to make; 0: the initial point is measured.
        measured: The norms to log, by label; the optimizer's own is among them.
        norm: The norm of the general methods (nsd, nmd, sd); None for the others.
        optima: References by label; norms without one have empty columns.
        points: About how many log-spaced records.
        weights: Which parameters to keep: those of every record, the last, or none.
        certificate_iterations: First-order steps that tighten the last checkpoint's certificate (linear models).
        kkt_products: Jacobian products for the KKT ratio, a norm and checkpoint (other models).
        frozen: Blocks that are not trained, as ``initial``.
        test: A test set, on which the accuracy is measured.
        levels: Also record the first step at which the loss falls below 10^(-j / levels), for every j = 0, 1, ...; 0: do not.
        stop_log_loss: A run's last record is its first step with a log loss below this.
        compile: Whether to make compiled steps: off; auto, in C where :mod:`implicit_bias.native` covers them and they are small
            enough to gain, else by torch.compile where the run is long enough to repay it; on, wherever that is possible.
            Without a compiler the steps are plain.
        tell: Told in a line why fast steps are not taken where they should be: they are not the plain ones (the first few are
            made both ways, see :mod:`implicit_bias.verification`), or cannot be compiled.
    """

    model: Model
    loss: Loss
    optimizer: Optimizer
    schedule: Schedule
    data: Data
    initial: Parameters
    steps: int
    measured: Mapping[str, Norm]
    norm: Norm | None = None
    optima: Mapping[str, Optimum] = field(default_factory=dict)
    points: int = 60
    weights: Literal["all", "last", "none"] = "last"
    certificate_iterations: int = 0
    kkt_products: int = 0
    frozen: Parameters = field(default_factory=dict)
    test: Data | None = None
    levels: float = 0
    stop_log_loss: float = -math.inf
    compile: Compile = "auto"
    tell: Tell = silent

    def at(self, runs: Tensor) -> Problem:
        """The same steps of these runs alone, without what is measured."""
        count = len(next(iter(self.initial.values())))
        given = {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule, "data": self.data}
        parts: dict[str, Any] = {key: at_runs(instance, runs, count) for key, instance in given.items()}
        initial, frozen = ({name: block[runs] for name, block in blocks.items()} for blocks in (self.initial, self.frozen))
        return replace(self, **parts, initial=initial, frozen=frozen, measured={}, optima={}, test=None)


def simulate(
    problem: Problem,
    watch: Watch | None = None,
    keep: Keep | None = None,
    resume: Snapshot | None = None,
) -> Trajectory:
    """Run every run of the batch and record it.

    The t-th update, t from 1, is the optimizer's step from theta_{t-1} with learning rate eta_t, see
    :class:`implicit_bias.optimizers.Step`: mostly theta_t = theta_{t-1} - eta_t step_t. A record at step t describes theta_t.

    Args:
        watch: Told how far it is.
        keep: Called between steps, after each or, where many are made in one call, several times a second; it may take a
            snapshot of the state.
        resume: A snapshot of the same problem, to go on from: on the same device, with as many threads, the trajectory is that
            of an undisturbed batch to the last bit.

    Raises:
        Diverged: some run's parameters are no longer finite at a recorded step.
    """
    with torch.no_grad():
        return _Simulation(problem).run(watch, keep, resume)


def stepping_of(problem: Problem) -> Stepping:
    """What will make the steps of a batch, if they prove to be the plain ones."""
    with torch.no_grad():
        return _Simulation(problem).stepping


class _Simulation:
    """The state of one batch while it runs."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        if problem.schedule.backs_off and problem.optimizer.foreign_state:
            raise ValueError(f"optimizer {problem.optimizer.name}: its state cannot be rolled back, as the schedule asks")
        names = list(problem.initial)
        runs = len(next(iter(problem.initial.values())))
        bases = problem.model.row_bases(problem.data)
        hidden = problem.model.hidden_matrices(names)
        linear = problem.model.linear
        self.geometry = problem.optimizer.geometry(names, problem.norm, bases, hidden)
        self.objective: Objective = problem.model.objective(problem.data, problem.loss, problem.frozen)
        # Proofs are made in double precision, whatever the steps are made in: bounds of float32 fall short by 1e-5.
        rounded = linear and problem.data.x.dtype != torch.float64
        self.precise: Objective | None = problem.model.objective(_in_double(problem.data), problem.loss) if rounded else None
        measured_bases = problem.model.row_bases(self.precise.data) if self.precise is not None else bases
        self.measured: dict[str, ParameterNorm] = {
            # The optimizer may have been told which blocks its own norm takes as matrices.
            label: self.geometry
            if label == self.geometry.label and not rounded
            else over_blocks(norm, names, measured_bases, hidden)
            for label, norm in problem.measured.items()
        }
        self.parameters: Parameters = {name: block.clone() for name, block in problem.initial.items()}
        self.certificate = Certificate(rounding=self._rounding()) if linear else None
        measures_kkt = problem.model.homogeneous and not linear
        self.kkt = KktRatios(self.objective, problem.model.degree(), problem.kkt_products) if measures_kkt else None
        self.agenda = Agenda(problem.steps, problem.points, problem.levels, problem.stop_log_loss, runs)
        self.native = self._native_steps(runs)
        self.advance = self._plain_step()
        if self.native is None:
            self.advance = step_of(problem.optimizer, self.geometry, self.objective, problem.compile, problem.steps, problem.tell)
        self.log_factor = self.used_factor = problem.data.x.new_zeros(runs)
        self.shown: Mapping[str, Tensor] = {}
        self.past: dict[int, Parameters] = {}
        self.later: dict[int, Tensor] = {}
        self.rows: list[dict[str, Tensor]] = []
        self.recorded: list[np.ndarray] = []
        self.norm_rows: dict[str, list[dict[str, Tensor]]] = {label: [] for label in self.measured}
        self.trajectory = Trajectory(own=self.geometry.label)

    @property
    def stepping(self) -> Stepping:
        """What makes the steps."""
        if self.native is not None:
            return "c"
        return self.advance.stepping if isinstance(self.advance, Compiled) else "torch"

    def _rounding(self) -> dict[str, Tensor]:
        """Under each norm N_* of the largest pair times the terms of the sum over pairs, (R,) or (1,)."""
        data = self.problem.data if self.precise is None else self.precise.data
        terms = data.x.shape[1] + data.num_classes + ZEROED
        return {label: terms * self.problem.model.unit_step(data, norm) for label, norm in self.problem.measured.items()}

    def run(self, watch: Watch | None, keep: Keep | None = None, resume: Snapshot | None = None) -> Trajectory:
        """All steps, or those after the snapshot. Raises Diverged."""
        try:
            state, gradient = self._begun() if resume is None else self._restore(resume)
            self._verify(state, 0 if resume is None else resume["step"])
            if self.native is None:
                return self._run(state, gradient, watch, keep, resume)
            return self._run_natively(self.native, state, watch, keep, resume)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            # A decomposition met numbers that are not finite: of the parameters, or of what is made of them.
            self._check_finite(self.problem.steps)
            raise OverflowError(
                "scores or gradients are beyond every double; choose a smaller schedule.lr, or rescale the data or the start"
            ) from None

    def _check_finite(self, t: int, runs: np.ndarray | None = None, gradient: Gradient | None = None) -> None:
        finite = torch.stack([block.isfinite().all(dim=(-2, -1)) for block in self.parameters.values()]).all(dim=0)
        log_loss = (gradient or self.objective.gradient(self.parameters)).log_loss
        counts = torch.from_numpy(self.agenda.going if runs is None else runs | self.agenda.going).to(finite.device)
        bad = ~(finite & log_loss.isfinite()) & counts
        if bool(bad.any()):
            raise Diverged(bad.nonzero().flatten().tolist(), t)

    def _begun(self) -> tuple[Any, Gradient]:
        """The optimizer's state and the gradient at the initial point."""
        gradient = self.objective.gradient(self.parameters)
        return self._first_state(gradient), gradient

    def _first_state(self, gradient: Gradient) -> Any:
        optimizer = self.problem.optimizer
        state: Any = optimizer.init(gradient.blocks)
        if isinstance(state, ForeignState) != optimizer.foreign_state:
            raise TypeError(f"optimizer {optimizer.name}: foreign_state must say whether init makes an object of its own")
        return state

    def _verify(self, state: Any, t: int) -> None:
        """Take plain steps, and say so, where the fast ones do not make the same from here: the first few are made both ways."""
        count = min(CHECKED_STEPS, self.problem.steps - t)
        if self.stepping == "torch" or count <= 0:
            return
        try:
            part, start = self._checked(state)
            differ = part._disagreement(start, t, count)
        except (ArithmeticError, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
            return  # numbers that are not finite: the run itself will meet them
        if differ is not None:
            self.problem.tell(f"steps by {self.stepping} are not the plain ones ({differ}); plain steps are taken")
            self.native, self.advance = None, self._plain_step()

    def _checked(self, state: State) -> tuple[_Simulation, Reached]:
        """What the check is made on, and where it begins: the batch, as it is; of a large one in C, some of its runs."""
        runs = len(self.log_factor)
        some, part = torch.arange(runs), self
        if self.native is not None and runs > CHECKED_RUNS:
            some = torch.linspace(0, runs - 1, CHECKED_RUNS).long()
            part = _Simulation(self.problem.at(some))
            part.log_factor = self.log_factor[some]
        start = Reached(
            {name: block[some] for name, block in self.parameters.items()},
            {key: {n: Scaled(b.mantissa[some], b.log_scale[some]) for n, b in blocks.items()} for key, blocks in state.items()},
        )
        return part, start

    def _disagreement(self, start: Reached, t: int, count: int) -> str | None:
        plain = updates(self._plain_step(), self.objective, self._log_lr)
        fast = updates(self.advance, self.objective, self._log_lr) if self.native is None else self.native.update
        return disagreement(fast, plain, self.objective, start, t, count, not isinstance(self.geometry, WholeVector))

    def _plain_step(self) -> Advance:
        return plain_step(self.problem.optimizer, self.geometry, self.objective)

    def _run(self, state: Any, gradient: Gradient, watch: Watch | None, keep: Keep | None, resume: Snapshot | None) -> Trajectory:
        problem, agenda = self.problem, self.agenda
        due = time.monotonic()
        for t in range(0 if resume is None else resume["step"] + 1, problem.steps + 1):
            if t:
                state, gradient = self._step(state, gradient, t)
            self._collect(t, gradient)
            runs = agenda.due(t, gradient)
            if runs is not None:
                self.shown = problem.optimizer.columns(state)
                self._record(t, gradient, runs)
            if watch is not None and (t == problem.steps or (t % 16 == 0 and time.monotonic() >= due)):
                due = time.monotonic() + WATCH_SECONDS
                watch(t, self._own_ratio())
            if not agenda.going.any():
                break
            if keep is not None and 0 < t < problem.steps:
                keep(t, partial(self._snapshot, t, state, gradient))
        self.trajectory.facts = problem.optimizer.facts(state)
        return self._finished()

    def _native_steps(self, runs: int) -> LinearSteps | None:
        problem = self.problem
        if (
            problem.compile == "off" or problem.levels > 0 or problem.stop_log_loss > -math.inf
        ):  # the loss of every step is wanted
            return None
        always = problem.compile == "on"
        return linear_steps(problem.optimizer, self.geometry, self.objective, problem.schedule, runs, any_size=always)

    def _run_natively(
        self, native: LinearSteps, state: State, watch: Watch | None, keep: Keep | None, resume: Snapshot | None
    ) -> Trajectory:
        """As :meth:`_run`, with the steps between two records in as few calls as their length allows."""
        (name,) = self.parameters
        records, t = sorted(self.agenda.fixed), 0
        if resume is None:
            native.load(self.parameters[name], state, name, None)
            self._record_natively(native, name, 0)
        else:
            t = resume["step"]
            assert self.certificate is not None
            native.load(self.parameters[name], state, name, self.certificate.average[name])
        while t < self.problem.steps:
            last = min(t + native.most_steps, next(step for step in records if step > t))
            native.advance(t, last, [self._share(step) for step in range(t, last)])
            t = last
            if t in self.agenda.fixed:
                self._record_natively(native, name, t)
            if watch is not None:
                watch(t, self._own_ratio())
            if keep is not None and t < self.problem.steps:
                keep(t, partial(self._native_snapshot, native, name, t))
        return self._finished()

    def _share(self, t: int) -> float:
        """The weight of step t in the certificate's average, 0 if it is not wanted or is added when it is recorded."""
        if t in self.agenda.fixed or not Certificate.wants(t):
            return 0.0
        return Certificate.share(Certificate.wanted(t))

    def _record_natively(self, native: LinearSteps, name: str, t: int) -> None:
        self._take_from(native, name, Certificate.wanted(t - 1) if t else 0)
        gradient = self.objective.gradient(self.parameters)
        self._collect(t, gradient)
        assert self.certificate is not None
        native.average = self.certificate.average[name]
        self._record(t, gradient, self.agenda.going)

    def _take_from(self, native: LinearSteps, name: str, count: int) -> None:
        """The parameters as they are, and the certificate's average over ``count`` steps."""
        assert self.certificate is not None
        self.parameters = {name: native.weight}
        self.certificate.average = {name: native.average} if count else {}
        self.certificate.count = count

    def _native_snapshot(self, native: LinearSteps, name: str, t: int) -> Snapshot:
        # The average has the steps before t and, after a record, t itself, as when the next call begins.
        self._take_from(native, name, Certificate.wanted(t if t in self.agenda.fixed else t - 1))
        return self._snapshot(t, native.state(name), self.objective.gradient(self.parameters))

    def _snapshot(self, t: int, state: Any, gradient: Gradient) -> Snapshot:
        """All that the steps after the t-th depend on, and what was recorded so far."""
        found: Snapshot = {
            "step": t,
            "stepping": self.stepping,
            "parameters": self.parameters,
            "state": packed(state),
            # A fast step may round otherwise than the objective does by itself, so the gradient is kept, not computed again.
            "gradient": {
                "blocks": taken_apart(gradient.blocks),
                "total": gradient.total,
                "log_unit": gradient.log_unit,
                "log_losses": gradient.log_losses(),
                "weights": None if gradient.weights is None else gradient.weights(),
            },
            "factors": [self.log_factor, self.used_factor],
            "agenda": self.agenda.snapshot(),
            "past": self.past,
            "later": self.later,
            "steps": self.trajectory.steps,
            "recorded": torch.from_numpy(np.stack(self.recorded)),
            # One tensor a column: thousands of small ones take seconds to write.
            "rows": stacked(self.rows),
            "norm_rows": {label: stacked(rows) for label, rows in self.norm_rows.items()},
            "kept": self.trajectory.parameters,
        }
        if self.certificate is not None:
            c = self.certificate
            found["certificate"] = {"average": c.average, "count": c.count, "best": c.best}
        if self.kkt is not None:
            found["kkt"] = {"average": self.kkt.average, "count": self.kkt.count, "warm": self.kkt.warm}
        return found

    def _restore(self, snapshot: Snapshot) -> tuple[Any, Gradient]:
        """Take up a snapshot. Returns the optimizer's state and the gradient."""
        self.parameters = snapshot["parameters"]
        self.log_factor, self.used_factor = snapshot["factors"]
        self.agenda.restore(snapshot["agenda"])
        self.past, self.later = snapshot["past"], snapshot["later"]
        self.trajectory.steps, self.trajectory.parameters = snapshot["steps"], snapshot["kept"]
        self.recorded = list(snapshot["recorded"].numpy())
        self.rows = unstacked(snapshot["rows"])
        self.norm_rows = {label: unstacked(columns) for label, columns in snapshot["norm_rows"].items()}
        if self.certificate is not None:
            self.certificate = Certificate(**snapshot["certificate"], rounding=self._rounding())
        if self.kkt is not None:
            self.kkt = replace(self.kkt, **snapshot["kkt"])
        kept = snapshot["gradient"]
        log_losses, weights = kept["log_losses"], kept["weights"]
        gradient = Gradient(
            put_together(kept["blocks"]),
            kept["total"],
            kept["log_unit"],
            lambda: log_losses,
            None if weights is None else lambda: weights,
        )
        return unpacked(snapshot["state"], lambda: self._first_state(gradient), self.problem.optimizer.foreign_state), gradient

    def _collect(self, t: int, gradient: Gradient) -> None:
        """Take the gradient's weights into the averages."""
        if not Certificate.wants(t):
            return
        if self.certificate is not None and self.precise is None:
            self.certificate.add(gradient.per_weight())
        if self.kkt is not None and gradient.weights is not None and self.kkt.products > 0:
            self.kkt.add(gradient.weights())

    def _step(self, state: Any, gradient: Gradient, t: int) -> tuple[Any, Gradient]:
        """The state after the t-th update, and the gradient there."""
        schedule, before = self.problem.schedule, self.parameters
        here = Here(before, self.objective.gradient, self._log_lr(gradient, t), gradient)
        new_state, self.parameters, new_gradient = self.advance(state, here, t)
        if not isinstance(schedule, LyuLi):
            return new_state, new_gradient
        kept = new_gradient.log_loss < gradient.log_loss
        self.used_factor = self.log_factor
        self.log_factor = schedule.adapted(self.log_factor, kept)
        if bool(kept.all()):
            return new_state, new_gradient
        self.parameters = chosen(kept, self.parameters, before)
        # Buffers that the step has made for the first time stay as they are.
        rolled = {key: chosen_scaled(kept, blocks, state.get(key, blocks)) for key, blocks in new_state.items()}
        return rolled, self.objective.gradient(self.parameters)

    def _log_lr(self, gradient: Gradient, t: int) -> Tensor:
        """log eta_t, of no dimension or (R,)."""
        schedule = self.problem.schedule
        log_lr = schedule.log_lr(t, gradient.log_loss if schedule.per_loss else None)
        return log_lr + self.log_factor if schedule.backs_off else log_lr

    def _record(self, t: int, gradient: Gradient, runs: np.ndarray) -> None:
        problem = self.problem
        self._check_finite(t, runs, gradient)
        objective, parameters = self.objective, self.parameters
        measured = gradient
        if self.precise is not None:
            objective, parameters = self.precise, {name: block.double() for name, block in parameters.items()}
            measured = objective.gradient(parameters)
        c, downhill = measured.per_weight(), measured.downhill()
        if self.precise is not None and self.certificate is not None:
            self.certificate.add(c)
        share, q = accuracy_and_margin(objective.negative_gaps(parameters))
        lr = problem.schedule.recorded(t, q) * self.used_factor.exp() if t else torch.full_like(q, torch.nan)
        row = {"lr": lr, "log_loss": gradient.log_loss, "accuracy": share, **self.shown}
        if problem.test is not None:
            row["test_accuracy"] = accuracy(self.objective.scores(self.parameters, problem.test.x), problem.test.y)
        self.trajectory.steps.append(t)
        self.recorded.append(runs.copy())
        self.rows.append(row)
        weights = gradient.weights() if gradient.weights is not None else None
        mine = torch.from_numpy(runs).to(q.device)
        for label, norm in self.measured.items():
            upper = None if self.certificate is None else self.certificate.bound(label, norm, c, mine)
            optimum = problem.optima.get(label)
            columns = measure(norm, problem.model.degree(), parameters, downhill, q, upper, optimum)
            if self.kkt is not None and weights is not None:
                columns["kkt_ratio"] = self.kkt.best(label, norm, self.parameters, c, weights, q, mine)
            if not problem.model.linear:
                soft = problem.loss.soft_gap(gradient.log_loss + math.log(problem.data.x.shape[1]))
                columns["soft_margin"] = over_power(soft, columns["param_norm"], problem.model.degree())
            self.norm_rows[label].append(columns)
        if not problem.model.linear and t in self.agenda.fixed:
            self._compare_with_past(t, mine)
        self._keep_parameters(t, runs)

    def _compare_with_past(self, t: int, runs: Tensor) -> None:
        """Cosines of earlier checkpoints with this one, where it is the first a decade later; single precision will do."""
        for step in [s for s in self.past if DECADE * s <= t]:
            earlier = {name: block.to(self.parameters[name]) for name, block in self.past.pop(step).items()}
            self.later[step] = torch.where(runs, cosine(earlier, self.parameters), torch.nan)
        if 0 < DECADE * t <= self.problem.steps:
            self.past[t] = {name: block.float() for name, block in self.parameters.items()}

    def _keep_parameters(self, t: int, runs: np.ndarray) -> None:
        last = t == self.problem.steps or bool((runs & ~self.agenda.going).any())
        if self.problem.weights == "all" or (self.problem.weights == "last" and last):
            self.trajectory.parameters[t] = {
                name: block.cpu() for name, block in {**self.parameters, **self.problem.frozen}.items()
            }

    def _tighten(self) -> None:
        """Tighten the last checkpoint's certificates: by the optimum where it is known, else by some first-order steps.

        This comes after the last step, and is no reason to lose it: what goes wrong is said, and an interrupt ends the tightening
        and is left for the caller, who keeps the runs first.
        """
        if self.certificate is None or self.trajectory.steps[-1] != self.problem.steps:
            return
        try:
            for label, rows in self.norm_rows.items():
                bound = self._improved_bound(label)
                if bound is not None:
                    upper = self.certificate.lower(label, bound)
                    rows[-1]["upper_bound"] = upper
                    rows[-1]["kkt_ratio"] = torch.where(rows[-1]["margin"] > 0, rows[-1]["margin"] / upper, torch.nan)
        except KeyboardInterrupt as interrupt:
            self.trajectory.interrupted = interrupt
        except (ArithmeticError, RuntimeError) as error:
            self.trajectory.untightened = f"{type(error).__name__}: {' '.join(str(error).split())}"

    def _improved_bound(self, label: str) -> Tensor | None:
        """A proven upper bound (R,) that is likely to be tighter than the trajectory's own; None where there is none."""
        optimum = self.problem.optima.get(label)
        known = None if optimum is None else optimum.upper
        if optimum is not None and bool(optimum.proven.all()):
            return known
        iterations = self.problem.certificate_iterations
        if iterations == 0:
            return known
        objective, parameters = self.objective, self.parameters
        if self.precise is not None:
            objective, parameters = self.precise, {name: block.double() for name, block in parameters.items()}
        block, norm = next(iter(parameters.values())), self.problem.measured[label]
        # On a strictly convex ball the iteration converges fast, and its projection may be expensive (l_p, Schatten-p).
        steps = iterations // SMOOTH_SHARE if norm.smooth else iterations
        runs = len(block)
        x, y = objective.data.x.expand(runs, -1, -1), objective.data.y.expand(runs, -1)
        weights = objective.weights(parameters)
        parts = torch.arange(runs, device=block.device).split(TIGHTENED_TOGETHER)
        upper = torch.cat([improve_weights(x[i], y[i], norm.at(i), weights[i], block[i], steps)[1] for i in parts])
        upper = upper * (1 + 1e-14) + torch.finfo(upper.dtype).eps * self._rounding()[label]
        return upper if known is None else torch.minimum(upper, known.to(upper))

    def _own_ratio(self) -> float:
        rows = self.norm_rows.get(self.trajectory.own)
        if not rows:
            return float("nan")
        last = rows[-1]
        return float((last["margin"] / last["max_margin"]).mean())

    def _finished(self) -> Trajectory:
        self._tighten()
        self.trajectory.recorded = np.stack(self.recorded)
        self.trajectory.stepping = self.stepping
        if not self.problem.model.linear:
            nothing = self.parameters[next(iter(self.parameters))].new_full((len(self.log_factor),), torch.nan)
            for step, row in zip(self.trajectory.steps, self.rows, strict=True):
                row["later_cosine"] = self.later.get(step, nothing)
        self.trajectory.common = arrays(self.rows)
        self.trajectory.by_norm = {label: arrays(rows) for label, rows in self.norm_rows.items()}
        return self.trajectory


def _in_double(data: Data) -> Data:
    return Data(data.x.double(), data.y, data.num_classes)
