"""The engine: a batch of runs in, their trajectories out. One run is a batch of one.

Runs of a batch share the model, the loss, the kind of optimizer and schedule, all shapes and the number of steps; they
may differ in data, initial point and every numeric hyper-parameter. The engine knows tensors only: no files, no configuration.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from implicit_bias.losses import Loss
from implicit_bias.margins import Certificate, Optimum, accuracy_and_margin, measure
from implicit_bias.models import Data, Gradient, Model, Objective, Parameters
from implicit_bias.norms import Norm, ParameterNorm, over_blocks
from implicit_bias.optimizers import Optimizer, State
from implicit_bias.reference import improve_weights
from implicit_bias.schedules import Schedule

# Called now and then with (steps made, own-norm ratio averaged over runs or nan).
Watch = Callable[[int, float], None]
WATCH_SECONDS = 0.1
# The part of the certificate's iterations that norms with a strictly convex ball need.
SMOOTH_SHARE = 5


@dataclass(frozen=True)
class Problem:
    """R runs to be computed together.

    Attributes:
        model, loss, optimizer, schedule: As registered; numeric fields of the optimizer may be tensors (R, 1, 1), of the
        schedule (R,). data: Training sets, (R, n, d) or (1, n, d).
        initial: Initial parameters, one tensor (R, p, q) a block.
        steps: Updates to make.
        measured: The norms to log, by label; the optimizer's own is among them.
        norm: The norm of the general methods (nsd, nmd, sd); None for the others.
        optima: References by label; norms without one have empty columns.
        points: About how many log-spaced records.
        weights: Which parameters to keep: those of every record, the last, or none.
        certificate_iterations: First-order steps that tighten the last checkpoint's certificate.
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


@dataclass
class Trajectory:
    """What was recorded. Arrays are indexed (record, run).

    Attributes:
        steps: The step of each record.
        common: lr, log_loss, accuracy.
        by_norm: For each norm label, the columns of :func:`implicit_bias.margins.measure`.
        parameters: Step to parameters, for the records that were kept.
    """

    own: str
    steps: list[int] = field(default_factory=list)
    common: dict[str, np.ndarray] = field(default_factory=dict)
    by_norm: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    parameters: dict[int, Parameters] = field(default_factory=dict)


class Diverged(ArithmeticError):
    """Some runs of a batch have parameters that are no longer finite numbers.

    Attributes:
        runs: Their places in the batch.
        step: The recorded step at which it was noticed.
    """

    def __init__(self, runs: Sequence[int], step: int) -> None:
        super().__init__(f"diverged by step {step}: the parameters are no longer finite numbers; choose a smaller schedule.lr")
        self.runs = list(runs)
        self.step = step


def record_steps(steps: int, points: int) -> list[int]:
    """Log-spaced steps that contain 0, every power of ten and the last."""
    spaced = np.unique(np.round(np.logspace(0, np.log10(steps), points)).astype(int)) if steps > 1 else [1]
    powers = [10**e for e in range(len(str(steps))) if 10**e <= steps]
    return sorted({0, steps, *powers, *(int(s) for s in spaced)})


def simulate(problem: Problem, watch: Watch | None = None) -> Trajectory:
    """Run every run of the batch and record it.

    The t-th update, t from 1, is theta_t = theta_{t-1} - eta_t step_t, with the gradient at theta_{t-1}. A record at
    step t describes theta_t.

    Raises:
        Diverged: some run's parameters are no longer finite at a recorded step.
    """
    with torch.no_grad():
        return _Simulation(problem).run(watch)


class _Simulation:
    """The state of one batch while it runs."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        names = list(problem.initial)
        bases = problem.model.row_bases(problem.data)
        self.geometry = problem.optimizer.geometry(names, problem.norm, bases)
        self.measured: dict[str, ParameterNorm] = {
            label: over_blocks(norm, names, bases) for label, norm in problem.measured.items()
        }
        self.objective: Objective = problem.model.objective(problem.data, problem.loss)
        self.parameters: Parameters = {name: block.clone() for name, block in problem.initial.items()}
        self.certificate = Certificate() if problem.model.linear else None
        self.rows: list[dict[str, Tensor]] = []
        self.norm_rows: dict[str, list[dict[str, Tensor]]] = {label: [] for label in self.measured}
        self.trajectory = Trajectory(own=self.geometry.label)

    def run(self, watch: Watch | None) -> Trajectory:
        """All steps. Raises Diverged."""
        try:
            return self._run(watch)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            # A decomposition met numbers that are not finite between two records.
            self._check_finite(self.problem.steps)
            raise

    def _check_finite(self, t: int) -> None:
        finite = torch.stack([block.isfinite().all(dim=(-2, -1)) for block in self.parameters.values()]).all(dim=0)
        log_loss = self.objective.gradient(self.parameters).log_loss
        bad = ~(finite & log_loss.isfinite())
        if bool(bad.any()):
            raise Diverged(bad.nonzero().flatten().tolist(), t)

    def _run(self, watch: Watch | None) -> Trajectory:
        problem = self.problem
        records = set(record_steps(problem.steps, problem.points))
        gradient = self.objective.gradient(self.parameters)
        state = problem.optimizer.init(gradient.blocks)
        due = time.monotonic()
        for t in range(problem.steps + 1):
            if t:
                state = self._update(state, gradient, t)
                gradient = self.objective.gradient(self.parameters)
            if self.certificate is not None and self.certificate.wants(t):
                self.certificate.add(gradient.per_weight())
            if t in records:
                self._record(t, gradient, gradient.per_weight())
            if watch is not None and (t == problem.steps or (t % 16 == 0 and time.monotonic() >= due)):
                due = time.monotonic() + WATCH_SECONDS
                watch(t, self._own_ratio())
        return self._finished()

    def _update(self, state: State, gradient: Gradient, t: int) -> State:
        problem = self.problem
        state, step = problem.optimizer.update(state, gradient.blocks, t, self.geometry)
        log_size = problem.schedule.log_lr(t, gradient.log_loss if problem.schedule.per_loss else None)
        if log_size.dim():
            log_size = log_size[:, None, None]
        size = (log_size if step.log_size is None else log_size + step.log_size).exp()
        if size.device != problem.data.x.device:
            size = size.to(problem.data.x.device)
        self.parameters = {
            name: torch.addcmul(block, step.direction[name], size, value=-1) for name, block in self.parameters.items()
        }
        return state

    def _record(self, t: int, gradient: Gradient, c: Parameters) -> None:
        problem = self.problem
        self._check_finite(t)
        accuracy, q = accuracy_and_margin(self.objective.negative_gaps(self.parameters))
        lr = problem.schedule.recorded(t, q) if t else torch.full_like(q, torch.nan)
        self.trajectory.steps.append(t)
        self.rows.append({"lr": lr, "log_loss": gradient.log_loss, "accuracy": accuracy})
        for label, norm in self.measured.items():
            upper = self._upper_bound(label, norm, c, last=t == problem.steps)
            optimum = problem.optima.get(label)
            columns = measure(norm, problem.model.degree(), self.parameters, c, q, upper, optimum)
            self.norm_rows[label].append(columns)
        if problem.weights == "all" or (problem.weights == "last" and t == problem.steps):
            self.trajectory.parameters[t] = {name: block.cpu() for name, block in self.parameters.items()}

    def _upper_bound(self, label: str, norm: ParameterNorm, c: Parameters, last: bool) -> Tensor | None:
        if self.certificate is None:
            return None
        bound = self.certificate.bound(label, norm, c)
        iterations = self.problem.certificate_iterations
        if not last or iterations == 0:
            return bound
        return self.certificate.lower(label, self._improved_bound(label, iterations))

    def _improved_bound(self, label: str, iterations: int) -> Tensor:
        data, weights = self.problem.data, self.objective.weights(self.parameters)
        block = next(iter(self.parameters.values()))
        norm = self.problem.measured[label]
        # On a strictly convex ball the iteration converges fast, and its projection may be expensive (l_p, Schatten-p).
        steps = iterations // SMOOTH_SHARE if norm.smooth else iterations
        runs = len(weights)
        x, y = data.x.expand(runs, -1, -1), data.y.expand(runs, -1)
        _, upper = improve_weights(x, y, norm, weights, block, steps)
        return upper

    def _own_ratio(self) -> float:
        rows = self.norm_rows.get(self.trajectory.own)
        if not rows:
            return float("nan")
        last = rows[-1]
        return float((last["margin"] / last["max_margin"]).mean())

    def _finished(self) -> Trajectory:
        self.trajectory.common = _stacked(self.rows)
        self.trajectory.by_norm = {label: _stacked(rows) for label, rows in self.norm_rows.items()}
        return self.trajectory


def _stacked(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, np.ndarray]:
    return {key: torch.stack([row[key] for row in rows]).cpu().numpy() for key in rows[0]}
