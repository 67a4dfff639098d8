"""What is written down of a batch while it runs: its records, as the columns of probes, in a trajectory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor

from implicit_bias.engine.divergence import BEYOND
from implicit_bias.engine.record_times import RecordTimes
from implicit_bias.engine.shown import Shown
from implicit_bias.engine.snapshot import Snapshot, arrays, stacked, unstacked
from implicit_bias.engine.steppers.base import Setup, Stepper
from implicit_bias.engine.tighten import parts, takes_steps, tighten
from implicit_bias.engine.trajectory import Trajectory
from implicit_bias.engine.waiting import Waiting, most_waiting
from implicit_bias.measures.certificate import Certificate, rounding_of
from implicit_bias.measures.frank_wolfe import FrankWolfeGap
from implicit_bias.measures.held_out import HeldOutAccuracy
from implicit_bias.measures.kkt import KktRatios
from implicit_bias.measures.later_cosine import LaterCosine
from implicit_bias.measures.layers import LayerMargins
from implicit_bias.measures.margins import accuracy_and_margin, measure
from implicit_bias.measures.probe import Columns, Probe, Record, Update
from implicit_bias.measures.robust_accuracy import RobustAccuracy
from implicit_bias.measures.soft_margin import SoftMargin
from implicit_bias.models import Data, Gradient, Objective, Parameters
from implicit_bias.norms import ParameterNorm, over_blocks
from implicit_bias.optimizers import Optimizer


class Recorder:
    """The records of a batch, and the probes that make their columns.

    Attributes:
        trajectory: What was recorded.
        probes: By name: those that every batch of its kind has, then the problem's own.
    """

    def __init__(self, setup: Setup, times: RecordTimes) -> None:
        self._setup, self._problem, self._times = setup, setup.problem, times
        # Proofs are made in double precision, whatever the steps are made in: bounds of float32 fall short by 1e-5.
        rounded = self._problem.model.linear and self._problem.data.x.dtype != torch.float64
        self._data = _in_double(self._problem.data) if rounded else self._problem.data
        self._precise: Objective | None = self._problem.model.objective(self._data, self._problem.loss) if rounded else None
        # Steps in C hold the state in another order: bringing it out costs as much as what a record measures.
        self._shows_state = type(self._problem.optimizer).columns is not Optimizer.columns
        self._averages_pairs = type(self._problem.optimizer).pair_average is not Optimizer.pair_average
        self._norms = self._parameter_norms()
        self._own = tuple(probe.name for probe in self._problem.probes)
        self.probes = _by_name([*self._usual_probes(), *map(deepcopy, self._problem.probes)])
        self._rows: list[Columns] = []
        self._recorded: list[np.ndarray] = []
        self._norm_rows: dict[str, list[Columns]] = {label: [] for label in self._norms}
        probed = tuple(column for probe in self._problem.probes for column in probe.writes())
        self.trajectory = Trajectory(own=setup.geometry.label, probed=probed)
        self._last: Record | None = None
        self._waiting = self._room_to_wait()

    def _room_to_wait(self) -> Waiting | None:
        """Where records wait for the norms; None: each is measured at once, as some probe, or the size of the batch, needs it."""
        under_norms = [probe for probe in self.probes.values() if probe.may_wait() or type(probe).under is not Probe.under]
        most = most_waiting(self._problem.initial) if self._problem.model.linear and self._norms else 1
        return Waiting(most, under_norms) if most > 1 and all(probe.may_wait() for probe in under_norms) else None

    def _parameter_norms(self) -> dict[str, ParameterNorm]:
        """The measured norms on the parameter set, by label."""
        setup, problem = self._setup, self._problem
        names, bases, geometry = list(problem.initial), problem.model.row_bases(self._data), setup.geometry
        return {
            # The optimizer may have been told which blocks its own norm takes as matrices.
            label: geometry
            if label == geometry.label and self._precise is None
            else over_blocks(norm, names, bases, setup.hidden)
            for label, norm in problem.measured.items()
        }

    def _usual_probes(self) -> list[Probe]:
        """What every batch of its kind has columns of."""
        setup, problem, objective = self._setup, self._problem, self._setup.objective
        any_model: list[Probe] = [] if problem.test is None else [HeldOutAccuracy(objective, problem.test)]
        if problem.model.robust:
            held_out = problem.model.objective(problem.test or problem.data, problem.loss, problem.frozen)
            any_model.append(RobustAccuracy(held_out))
        if problem.optimizer.radius is not None:
            own = self._norms.get(setup.geometry.label, setup.geometry)
            any_model.append(FrankWolfeGap(own, problem.optimizer.radius))
        if problem.model.linear:
            rounding = rounding_of(problem.model, self._data, problem.measured)
            return [*any_model, Certificate(rounding, every_step=self._precise is None)]
        like = next(iter(problem.initial.values())).new_zeros(problem.runs)
        kkt = [KktRatios(objective, problem.model.degree(), problem.kkt_products)] if problem.model.homogeneous else []
        soft, later = SoftMargin(problem.loss, problem.data.x.shape[1]), LaterCosine(problem.steps, self._times.fixed, like)
        return [*any_model, *kkt, soft, later, LayerMargins(problem.model.layer_degrees())]

    def record(self, t: int, shown: Shown, stepper: Stepper, runs: np.ndarray, update: Update | None = None) -> None:
        """Record these runs, at the point that is shown of them, after step ``t``, which ``update`` has made.

        Raises OverflowError where the gradient of one, of a linear model, is beyond every double."""
        problem, parameters, gradient = self._problem, shown.parameters, shown.gradient
        objective, measured = self._setup.objective, gradient
        if self._precise is not None:
            objective, parameters = self._precise, {name: block.double() for name, block in parameters.items()}
            measured = objective.gradient(parameters)
        if problem.model.linear:
            _check_finite(measured, runs)
        share, q = _accuracy_and_margin(measured, objective, parameters)
        if problem.model.robust:
            share, _ = accuracy_and_margin(objective.unperturbed_gaps(parameters).amax(dim=-2))
        mine = torch.from_numpy(runs).to(q.device)
        degree, average = problem.model.degree(), self._pair_average(stepper)
        record = Record(t, mine, parameters, measured, objective, degree, q, update, average, stepper.routines)
        lr = problem.schedule.recorded(t, q, stepper.schedule_state) if t else torch.full_like(q, torch.nan)
        row = {"lr": lr, "log_loss": gradient.log_loss, "accuracy": share}
        if self._shows_state:
            row |= problem.optimizer.columns(stepper.state)
        for probe in self.probes.values():
            self._add(probe, probe.measure(record), row)
        self.trajectory.steps.append(t)
        self._recorded.append(runs.copy())
        self._rows.append(row)
        self._under_norms(record)
        self._keep_parameters(t, shown.parameters, runs)
        if t == problem.steps and Certificate.name in self.probes:  # a record of a network holds all its layers' outputs
            self._last = record

    def _pair_average(self, stepper: Stepper) -> Parameters | None:
        found = self._problem.optimizer.pair_average(stepper.state) if self._averages_pairs else None
        return None if found is None else dict(found)

    def _under_norms(self, record: Record) -> None:
        """Measure it under the norms, or let it wait."""
        parts = None if self._waiting is None else self._waiting.parts(record)
        if self._waiting is None or parts is None:
            self.measure_waiting()
            self._measure_alone(record)
            return
        self._check_own(False, {}, tuple(record.q.shape))
        if not self._waiting.goes_with(parts):
            self.measure_waiting()
        self._waiting.add(record, parts)
        if self._waiting.full:
            self.measure_waiting()

    def _measure_alone(self, record: Record) -> None:
        given: Columns = {}
        for label, norm in self._norms.items():
            columns = measure(norm, record.point, self._problem.optima.get(label))
            for probe in self.probes.values():
                self._add(probe, probe.under(record, label, norm, columns), columns)
            self._norm_rows[label].append(columns)
            given |= columns
        for waits in (False, True):
            self._check_own(waits, given, tuple(record.q.shape))

    def measure_waiting(self) -> None:
        """Measure under the norms what waits for that."""
        if not self._waiting:
            return
        pile, given = self._waiting.pile(), {}
        probes = [probe for probe in self.probes.values() if probe.may_wait()]
        for probe in probes:
            probe.gathered(pile)
        for label, norm in self._norms.items():
            columns = measure(norm, pile.point, self._problem.optima.get(label))
            for probe in probes:
                self._add(probe, probe.under_all(pile, label, norm, columns), columns)
            given[label] = columns
            self._check_own(True, columns, tuple(pile.q.shape))
        for label, columns in given.items():
            # What is the same at all records is there once.
            self._norm_rows[label] += unstacked({key: column.expand_as(pile.q) for key, column in columns.items()})
        self._waiting.clear()

    def _add(self, probe: Probe, new: Columns, columns: Columns) -> None:
        """Add what a probe has measured. Raises ValueError where one of the problem's own writes a column that is not its."""
        if probe.name in self._own:
            for name in new:
                if name not in probe.writes() or name in columns:
                    raise ValueError(f"probe {probe.name}: column {name} is not its own; must be of {', '.join(probe.writes())}")
            new = {name: _as_numbers(probe, name, column) for name, column in new.items()}
        columns.update(new)

    def _check_own(self, waits: bool, under_norms: Columns, wanted: tuple[int, ...]) -> None:
        """Raises ValueError where one of the own probes, of those that wait or of the others, has not given all that it says
        it writes at every record: in the last row, or in ``under_norms``, of this shape."""
        for probe in (self.probes[name] for name in self._own):
            if probe.may_wait() is not waits or type(probe).complete is not Probe.complete:
                continue
            for column in probe.writes():
                once = column in self._rows[-1]
                given, shape = (self._rows[-1], wanted[-1:]) if once else (under_norms, wanted)
                found = tuple(given[column].shape) if column in given else "not there"
                if found != shape:
                    one = "run" if len(shape) == 1 else "record and run"
                    raise ValueError(f"probe {probe.name}: column {column} is {found}; must be {shape}, one number a {one}")

    def _keep_parameters(self, t: int, parameters: Parameters, runs: np.ndarray) -> None:
        last = t == self._problem.steps or bool((runs & ~self._times.going).any())
        if self._problem.weights == "all" or (self._problem.weights == "last" and last):
            kept = {**parameters, **self._problem.frozen}
            self.trajectory.parameters[t] = {name: block.cpu() for name, block in kept.items()}

    def own_ratio(self) -> float:
        """The last margin in the optimizer's own norm over the largest, averaged over runs; nan where that is not known."""
        label = self.trajectory.own
        rows, optimum = self._norm_rows.get(label), self._problem.optima.get(label)
        if label not in self._norms or optimum is None:
            return math.nan
        if self._waiting:  # no reason to measure all of them, of which there may be few
            columns = measure(self._norms[label], self._waiting.last(), optimum)
        elif rows:
            columns = rows[-1]
        else:
            return math.nan
        return float((columns["margin"] / columns["max_margin"]).mean())

    def snapshot(self) -> Snapshot:
        """The records so far, and the state of the probes."""
        self.measure_waiting()
        return {
            "steps": self.trajectory.steps,
            "recorded": torch.from_numpy(np.stack(self._recorded)),
            # One tensor a column: thousands of small ones take seconds to write.
            "rows": stacked(self._rows),
            "norm_rows": {label: stacked(rows) for label, rows in self._norm_rows.items()},
            "kept": self.trajectory.parameters,
            "probes": {name: probe.snapshot() for name, probe in self.probes.items()},
        }

    def restore(self, snapshot: Snapshot) -> None:
        """Continue from a snapshot."""
        self.trajectory.steps, self.trajectory.parameters = list(snapshot["steps"]), dict(snapshot["kept"])
        self._recorded = list(snapshot["recorded"].numpy())
        self._rows = unstacked(snapshot["rows"])
        self._norm_rows = {label: unstacked(columns) for label, columns in snapshot["norm_rows"].items()}
        for name, probe in self.probes.items():
            probe.restore(snapshot["probes"][name])

    def finished(self, certified: Callable[[int, int], None] | None = None) -> Trajectory:
        """The trajectory, its last certificates tightened; ``certified`` is told how many are, of how many."""
        self.measure_waiting()
        self._tighten(certified or (lambda done, total: None))
        trajectory = self.trajectory
        trajectory.recorded = np.stack(self._recorded)
        trajectory.common = arrays(self._rows)
        for probe in self.probes.values():
            complete = {key: _as_numbers(probe, key, column) for key, column in probe.complete(trajectory.steps).items()}
            self._check_complete(probe, complete)
            trajectory.common.update({key: column.cpu().numpy() for key, column in complete.items()})
        trajectory.by_norm = {label: arrays(rows) for label, rows in self._norm_rows.items()}
        return trajectory

    def _check_complete(self, probe: Probe, complete: Columns) -> None:
        """Raises ValueError where a probe of the problem's own has a column at the end that is not its, or of another shape."""
        wanted = self.trajectory.recorded.shape
        for name, column in complete.items() if probe.name in self._own else ():
            if name not in probe.writes():
                raise ValueError(f"probe {probe.name}: column {name} is not its own; must be of {', '.join(probe.writes())}")
            if tuple(column.shape) != wanted:
                raise ValueError(f"probe {probe.name}: column {name} is {tuple(column.shape)}; must be {wanted}, (records, runs)")

    def _tighten(self, certified: Callable[[int, int], None]) -> None:
        """Tighten the last record's certificates.

        This comes after the last step, and is no reason to lose it: what goes wrong is said, and an interrupt ends the tightening
        and is left for the caller, who keeps the runs first.
        """
        certificate = self.probes.get(Certificate.name)
        if not isinstance(certificate, Certificate) or self._last is None or self._last.t != self._problem.steps:
            return
        try:
            open_ones = [label for label in self._norm_rows if takes_steps(self._problem, label)]
            total, done = len(open_ones) * parts(self._problem), 0

            def counted() -> None:
                nonlocal done
                certified(done, total)
                done += 1

            for label, rows in self._norm_rows.items():
                tighten(self._problem, certificate, self._last, label, rows[-1], counted)
        except KeyboardInterrupt as interrupt:
            self.trajectory.interrupted = interrupt
        except (ArithmeticError, RuntimeError) as error:
            self.trajectory.untightened = f"{type(error).__name__}: {' '.join(str(error).split())}"


def _accuracy_and_margin(gradient: Gradient, objective: Objective, parameters: Parameters) -> tuple[Tensor, Tensor]:
    """The share of samples whose gaps are all positive, and the smallest gap, (R,) each, which most gradients are made from."""
    if gradient.found is not None:
        return gradient.found.accuracy, gradient.found.q
    return accuracy_and_margin(_largest_gaps(gradient, objective, parameters))


def _check_finite(gradient: Gradient, runs: np.ndarray) -> None:
    """Raises OverflowError where an entry of the gradient over the weights' sum is no finite number in one of these runs, from
    which no bound follows; whatever norms are measured, of which some would raise an error of their own."""
    if math.isfinite(gradient.largest_entry.sum()):
        return
    lost = ~gradient.largest_entry.isfinite()
    if bool(lost[torch.from_numpy(runs).to(lost.device)].any()):
        raise OverflowError(BEYOND)


def _largest_gaps(gradient: Gradient, objective: Objective, parameters: Parameters) -> Tensor:
    """The largest negative gap of every sample, (R, n)."""
    known = gradient.largest() if gradient.largest is not None else None
    return objective.negative_gaps(parameters).amax(dim=-2) if known is None else known


def _as_numbers(probe: Probe, name: str, column: Tensor) -> Tensor:
    """A column as real numbers, truth values as 0 and 1. Raises ValueError: it is complex, or no tensor."""
    if not isinstance(column, Tensor):
        raise ValueError(f"probe {probe.name}: column {name} is a {type(column).__name__}; must be a tensor of real numbers")
    if column.is_complex():
        raise ValueError(f"probe {probe.name}: column {name} is complex; must be a tensor of real numbers")
    return column.double() if column.dtype == torch.bool else column


def _in_double(data: Data) -> Data:
    return Data(data.x.double(), data.y, data.num_classes)


def _by_name(probes: Sequence[Probe]) -> dict[str, Probe]:
    """Probes by their names. Raises ValueError where two have the same."""
    found = {probe.name: probe for probe in probes}
    if len(found) < len(probes):
        raise ValueError(f"two probes have one name: {', '.join(sorted(probe.name for probe in probes))}")
    return found
