"""Whether what a file holds can be a snapshot of a batch: its keys, shapes, types and ranges, before anything is made of them.

A checksum tells damage, and says nothing of who wrote the file; and its tensors reach compiled code, which trusts their shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from implicit_bias.core.scaled import Scaled
from implicit_bias.engine.problem import Problem
from implicit_bias.engine.record_times import record_steps
from implicit_bias.engine.steppers.base import Setup
from implicit_bias.engine.steppers.eager import Eager
from implicit_bias.measures.certificate import Certificate
from implicit_bias.measures.held_out import HeldOutAccuracy
from implicit_bias.measures.kkt import WEIGHTS, KktRatios
from implicit_bias.measures.later_cosine import LaterCosine
from implicit_bias.measures.layers import LayerMargins
from implicit_bias.measures.probe import Probe
from implicit_bias.measures.soft_margin import SoftMargin
from implicit_bias.optimizers import State

COMMON = ("lr", "log_loss", "accuracy")
#: The columns of :func:`implicit_bias.measures.margins.measure`.
BY_NORM = ("margin", "max_margin", "relative_gap", "upper_bound", "correlation", "alignment", "kkt_ratio", "param_norm")


class Misfit(ValueError):
    """A part that no snapshot of the problem has."""


def misfit(problem: Problem, snapshot: Any) -> str | None:
    """Why this is no snapshot of a batch in the middle of its steps, in a few words; None if nothing speaks against it."""
    try:
        _Check(problem, snapshot).run()
    except Misfit as error:
        return f"of another form ({error})"
    except Exception:  # noqa: BLE001 - whatever stands in the place of a mapping or a list
        return "of another form"
    return None


def _need(holds: bool, part: str) -> None:
    if not holds:
        raise Misfit(part)


def _tensor(value: Any, shape: tuple[int, ...], part: str, dtype: torch.dtype | None = None) -> None:
    _need(isinstance(value, Tensor) and value.layout == torch.strided and tuple(value.shape) == shape, part)
    _need(value.dtype == dtype if dtype else value.is_floating_point(), part)


def _whole(value: Any, low: int, high: int, part: str) -> None:
    _need(type(value) is int and low <= value <= high, part)


def _state_after_a_step(problem: Problem) -> State:
    """The optimizer's buffers, of which those that no update touches are gone by then."""
    with torch.no_grad():
        setup = Setup.of(problem)
        state: State = Eager(setup).step(setup.begun(), 1).state
        return state


def _check_foreign(problem: Problem, found: Any) -> None:
    """Raise Misfit where a foreign state refuses to restore what was found."""
    with torch.no_grad():
        state: Any = Setup.of(problem).begun().state
        try:
            state.restore(found)
        except ValueError as error:
            raise Misfit("state") from error


def _check_probe(probe: Probe, found: Any) -> None:
    """Raise Misfit where a probe refuses to restore what was found."""
    try:
        deepcopy(probe).restore(found)
    except ValueError as error:
        raise Misfit(f"probe {probe.name}") from error


class _Check:
    """The parts of one snapshot beside those that the problem asks for."""

    def __init__(self, problem: Problem, snapshot: Any) -> None:
        self.problem = problem
        self.snapshot = snapshot
        self.shapes = {name: tuple(block.shape) for name, block in problem.initial.items()}
        self.kept_shapes = {**self.shapes, **{name: tuple(block.shape) for name, block in problem.frozen.items()}}
        self.runs = next(iter(self.shapes.values()))[0]
        self.samples = problem.data.x.shape[1]
        self.dtype = problem.data.x.dtype

    def run(self) -> None:
        """Raises Misfit, or anything where a part is of another kind altogether."""
        _whole(self.snapshot["step"], 1, self.problem.steps - 1, "step")
        self._blocks(self.snapshot["parameters"], self.shapes, "parameters", self.dtype)
        self._state()
        self._gradient()
        self._schedule()
        if self.problem.reduces_variance:
            self._blocks(self.snapshot["anchor"], self.shapes, "anchor", self.dtype)
        _tensor(self.snapshot["times"]["reached"], (self.runs,), "times", torch.float64)
        _tensor(self.snapshot["times"]["going"], (self.runs,), "times", torch.bool)
        self._records()
        self._kept()
        self._probes(self.snapshot["probes"])

    def _schedule(self) -> None:
        found, wanted = self.snapshot["schedule"], self.problem.schedule.init(self.problem.data.x.new_zeros(self.runs))
        _need(set(found) == set(wanted), "schedule")
        for key, column in found.items():
            _tensor(column, (self.runs,), "schedule", wanted[key].dtype)

    def _probes(self, found: Any) -> None:
        """What probes remember: those of every batch of its kind, and the problem's own."""
        linear, own = self.problem.model.linear, {probe.name: probe for probe in self.problem.probes}
        kkt = [] if linear or not self.problem.model.homogeneous else [KktRatios.name]
        remember = [Certificate.name] if linear else [*kkt, SoftMargin.name, LaterCosine.name, LayerMargins.name]
        held_out = [] if self.problem.test is None else [HeldOutAccuracy.name]
        _need(set(found) == {*remember, *held_out, *own}, "probes")
        checks: dict[str, Callable[..., None]] = {
            Certificate.name: self._certificate,
            KktRatios.name: self._kkt,
            LaterCosine.name: self._later_cosine,
        }
        for name, snapshot in found.items():
            if name in own:
                _check_probe(own[name], snapshot)
            elif name in checks:
                checks[name](**snapshot)
            else:
                _need(snapshot == {}, name)

    def _blocks(self, found: Any, shapes: Mapping[str, tuple[int, ...]], part: str, dtype: torch.dtype | None = None) -> None:
        _need(list(found) == list(shapes), part)
        for name, block in found.items():
            _tensor(block, shapes[name], part, dtype)

    def _scaled(self, found: Any, like: Mapping[str, Scaled], part: str) -> None:
        """Mantissas and log scales; a scale may be one for each row or for each entry, whatever it is in ``like``."""
        _need(set(found) == set(like), part)
        for name, (mantissa, log_scale) in found.items():
            runs, rows, columns = like[name].mantissa.shape
            _tensor(mantissa, (runs, rows, columns), part, self.dtype)
            _, scaled_rows, scaled_columns = log_scale.shape
            _need(scaled_rows in (rows, like[name].log_scale.shape[1]) and scaled_columns in (1, columns), part)
            _tensor(log_scale, (runs, scaled_rows, scaled_columns), part, self.dtype)

    def _state(self) -> None:
        if self.problem.optimizer.foreign_state:
            _check_foreign(self.problem, self.snapshot["state"])
            return
        wanted = _state_after_a_step(self.problem)
        _need(set(self.snapshot["state"]) == set(wanted), "state")
        for buffer, blocks in self.snapshot["state"].items():
            self._scaled(blocks, wanted[buffer], "state")

    def _gradient(self) -> None:
        found, part = self.snapshot["gradient"], "gradient"
        _need(set(found["blocks"]) == set(self.shapes), part)
        for name, (mantissa, log_scale) in found["blocks"].items():
            _tensor(mantissa, self.shapes[name], part, self.dtype)
            _need(all(size in (1, full) for size, full in zip(log_scale.shape, mantissa.shape, strict=True)), part)
            _tensor(log_scale, (self.runs, *log_scale.shape[1:]), part, self.dtype)
        _tensor(found["total"], (self.runs, self.samples), part, self.dtype)
        _tensor(found["log_unit"], (self.runs, 1), part, self.dtype)
        _tensor(found["log_losses"], (self.runs, self.samples), part, self.dtype)
        _need((found["weights"] is None) == self.problem.model.linear, part)
        if found["weights"] is not None:
            self._weights(found["weights"], part)

    def _weights(self, found: Any, part: str) -> None:
        pairs = found.shape[1]
        _need(pairs in (1, self.problem.data.num_classes), part)
        _tensor(found, (self.runs, pairs, self.samples), part, self.dtype)

    def _records(self) -> None:
        steps, problem = self.snapshot["steps"], self.problem
        for step in steps:
            _whole(step, 0, self.snapshot["step"], "steps")
        fixed = [step for step in record_steps(problem.steps, problem.points) if step <= self.snapshot["step"]]
        _need(steps == sorted(set(steps)) and steps[0] == 0, "steps")
        # Where losses decide, there are others, and all runs may have stopped before the last of these.
        watched = problem.levels > 0 or problem.stop_log_loss > -float("inf")
        _need(watched or steps == fixed, "steps")
        shape = (len(steps), self.runs)
        _tensor(self.snapshot["recorded"], shape, "recorded", torch.bool)
        common = (*COMMON, *(["test_accuracy"] if problem.test is not None else []))
        self._columns(self.snapshot["rows"], common, shape, "rows")
        _need(list(self.snapshot["norm_rows"]) == list(problem.measured), "norm_rows")
        for columns in self.snapshot["norm_rows"].values():
            self._columns(
                columns, (*BY_NORM, *([] if problem.model.linear else ["soft_margin", *LayerMargins.columns])), shape, "norm_rows"
            )

        for probe in problem.probes:
            for column in probe.writes() if type(probe).complete is Probe.complete else ():
                by_norm = [column in columns for columns in self.snapshot["norm_rows"].values()]
                _need(column in self.snapshot["rows"] or (bool(by_norm) and all(by_norm)), f"probe {probe.name}")

    def _columns(self, found: Any, wanted: tuple[str, ...], shape: tuple[int, ...], part: str) -> None:
        _need(set(wanted) <= set(found), part)
        for column in found.values():
            _tensor(column, shape, part)

    def _kept(self) -> None:
        """Parameters of records that are kept."""
        for step, blocks in self.snapshot["kept"].items():
            _need(step in self.snapshot["steps"], "kept")
            self._blocks(blocks, self.kept_shapes, "kept")
        if self.problem.weights == "all":
            _need(list(self.snapshot["kept"]) == self.snapshot["steps"], "kept")

    def _later_cosine(self, past: Any, later: Any) -> None:
        """Parameters of earlier records, and cosines with them."""
        for step, blocks in past.items():
            _need(step in self.snapshot["steps"], "past")
            self._blocks(blocks, self.shapes, "past")
        for step, cosine in later.items():
            _need(step in self.snapshot["steps"], "later")
            _tensor(cosine, (self.runs,), "later")

    def _certificate(self, average: Any, count: Any, best: Any) -> None:
        self._blocks(average, self.shapes, "certificate", torch.float64)  # proofs are in double precision
        _whole(count, 1, self.snapshot["step"] + 1, "certificate")
        _need(set(best) == set(self.problem.measured), "certificate")
        for bound in best.values():
            _tensor(bound, (self.runs,), "certificate", torch.float64)

    def _kkt(self, average: Any, count: Any, warm: Any) -> None:
        _whole(count, 0, self.snapshot["step"] + 1, "kkt")
        _need(set(warm) <= set(self.problem.measured), "kkt")
        _need(set(average) == ({WEIGHTS} if count else set()), "kkt")
        for weights in (*average.values(), *warm.values()):
            self._weights(weights, "kkt")
