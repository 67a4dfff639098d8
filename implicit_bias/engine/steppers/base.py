"""What a stepper is to the engine: it holds where a batch is, and makes its updates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol, cast

import torch
from torch import Tensor

from implicit_bias.core.scaled import Scaled
from implicit_bias.engine.problem import Problem
from implicit_bias.engine.variance_reduction import Anchor, Evaluate, anchor_due, reduced
from implicit_bias.measures.averages import StepAverage
from implicit_bias.models import Gradient, Objective, Parameters
from implicit_bias.norms import ParameterNorm
from implicit_bias.norms.parameter_norm import in_common_unit
from implicit_bias.norms.sizes import Routines
from implicit_bias.optimizers import ForeignState, Here
from implicit_bias.schedules import ScheduleState
from implicit_bias.schedules.base import Evaluation

#: What makes the steps: linear.c or network.c, linear.cu, what torch compiles, a recorded CUDA graph, or torch's operations.
Stepping = Literal["c", "cuda kernel", "torch.compile", "cuda graph", "torch"]


class Looked(NamedTuple):
    """What a fast stepper gives records after an update, to be compared with what it should be.

    Attributes:
        gradient: Loss and gradient of all samples there.
        average: Of -grad L / sum w, as certificates have it, one tensor (R, p, q) a block: begun at zero, the gradient where the
            update was made from is taken in with the first of the shares, that there with the last.
        shares: The two.
    """

    gradient: Gradient
    average: Parameters
    shares: tuple[float, float]


class Reached(NamedTuple):
    """Where a batch is after an update.

    Attributes:
        parameters: One tensor (R, p, q) a block.
        state: The optimizer's buffers, or its :class:`implicit_bias.optimizers.ForeignState`.
        gradient: The gradient there that the next update is made from; None: it is evaluated when it is needed, as with
            mini-batches.
        schedule: What the schedule remembers.
        anchor: With variance reduction, the point that the update before was corrected by; None before the first.
        looked: What records would be made of there, for a comparison; None: of nothing of the stepper's own, or left out.
    """

    parameters: Parameters
    state: Any
    gradient: Gradient | None = None
    schedule: ScheduleState = MappingProxyType({})
    anchor: Anchor | None = None
    looked: Looked | None = None


class Stepper(Protocol):
    """Makes the updates of a batch, and holds where it is between them.

    A fast stepper is compared with the plain one before it is used, by :meth:`step` alone: nothing has to be told of it.
    """

    @property
    def stepping(self) -> Stepping:
        """The name of the method that makes the steps at present."""

    @property
    def most_steps(self) -> int:
        """How many updates one :meth:`advance` may make: more would keep Ctrl-C, the display and checkpoints waiting."""

    @property
    def routines(self) -> Routines | None:
        """What records compute norms by; None: by their own methods."""

    @property
    def has_threads(self) -> bool:
        """Whether it has threads of its own. Then torch's are given nothing that one does as well: for some ms after they are
        done they wait for more at full speed, on processors that its own need."""

    @property
    def evaluates(self) -> bool:
        """Whether it finds the gradient where it begins by itself, and needs none of what is loaded, nor its layout."""

    @property
    def check_on(self) -> int | None:
        """The runs of a batch that a comparison with plain steps takes: others like it are made for so many; None: it is itself
        compared, on the whole batch."""

    @property
    def refused(self) -> str | None:
        """Why plain steps are made in place of its own by now; None while its own are made."""

    @property
    def suspects(self) -> bool:
        """Whether a run may have diverged in the last call of :meth:`advance`; always true of what does not look."""

    @property
    def made_with(self) -> Mapping[str, str]:
        """What its code was compiled with, for the provenance; empty: nothing was compiled."""

    def load(self, start: Reached) -> None:
        """Set the state from which the next update starts."""

    def advance(self, first: int, last: int) -> int:
        """Updates ``first`` + 1 to ``last``, at most :attr:`most_steps`; or fewer, but one at least, where losses are watched,
        or a network may have diverged. Returns how many updates have been made by then: ``last``, or fewer."""

    def step(self, start: Reached, t: int, whole: bool = True) -> Reached:
        """The t-th update alone, from any point, none taken back; what was loaded may be lost. Buffers, gradient and what records
        would take of the stepper may be left out unless it is to be ``whole``."""

    def serve(self, average: StepAverage) -> bool:
        """Take ``gradient.per_weight()`` of the steps inside of calls of :meth:`advance` into this average, from now on: of all
        samples, and with mini-batches every ceil(n / b) steps, the j-th of which is the average's step j.

        The step at the end of a call is taken in, too, or left to the caller (:meth:`StepAverage.has` tells), who may leave it to
        the next call. False: it cannot, and calls have to end where a gradient is wanted.
        """

    def watch(self, below: Tensor) -> bool:
        """Have calls of :meth:`advance` end where the loss is to be looked at, after every update or with mini-batches every
        ceil(n / b), and the log loss of a run is, or may be, below its number here, (R,). Asked before every such call. False: it
        cannot, and calls have to end wherever the loss is to be looked at."""

    @property
    def parameters(self) -> Parameters:
        """theta_t, one tensor (R, p, q) a block; not to be changed by the caller."""

    @property
    def state(self) -> Any:
        """The optimizer's state."""

    @property
    def gradient(self) -> Gradient:
        """Loss and gradient of all samples at theta_t, whichever of them updates are made from."""

    @property
    def schedule_state(self) -> ScheduleState:
        """The state of the schedule."""

    @property
    def anchor(self) -> Anchor | None:
        """Of variance reduction, the point that the last update was corrected by."""


def check_buffers(name: str, state: Any) -> None:
    """Raises TypeError: a state that no checkpoint could hold, which would be found out when one is written."""
    scaled = isinstance(state, Mapping) and all(
        isinstance(blocks, Mapping) and all(isinstance(block, Scaled) for block in blocks.values()) for blocks in state.values()
    )
    if not scaled:
        raise TypeError(f"optimizer {name}: its state must be buffers, scaled tensors by block by name; or a ForeignState")


def _check_reads_no_loss(problem: Problem) -> None:
    """Raises ValueError where variance is reduced and the loss is read, of which a corrected gradient is none."""
    if problem.reduces_variance and (problem.schedule.per_loss or problem.optimizer.reads_loss):
        reads = f"schedule {problem.schedule.name}" if problem.schedule.per_loss else f"optimizer {problem.optimizer.name}"
        raise ValueError(f"{reads} reads the loss, which a variance-reduced gradient has none of; needs plain mini-batches")


@dataclass(frozen=True)
class Setup:
    """A problem with what all its steps share.

    Attributes:
        problem: The batch.
        geometry: The norm on the parameter set that the optimizer works in.
        objective: The model with its loss and data, in the precision of the steps.
        hidden: The blocks that are matrices of hidden layers.
        threads: How many steps may be made by, of a stepper that has threads of its own.
    """

    problem: Problem
    geometry: ParameterNorm
    objective: Objective
    hidden: list[str]
    threads: int

    @staticmethod
    def of(problem: Problem, threads: int | None = None) -> Setup:
        """The set-up of a problem.

        Args:
            problem: The batch.
            threads: How many steps may be made by; None: as many as torch has.

        Raises:
            ValueError: the schedule takes steps back and the optimizer cannot, or the loss that is read is not evaluated at every
                update.
        """
        if problem.schedule.backs_off and problem.optimizer.foreign_state:
            raise ValueError(f"optimizer {problem.optimizer.name}: its state cannot be rolled back, as the schedule asks")
        if problem.schedule.backs_off and problem.batch is not None:
            raise ValueError(f"schedule {problem.schedule.name} takes steps back by the loss of all samples; needs full batches")
        if problem.schedule.searches and problem.batch is not None:
            raise ValueError(f"schedule {problem.schedule.name} looks at all samples along a step; needs full batches")
        _check_reads_no_loss(problem)
        model, names = problem.model, list(problem.initial)
        hidden = model.hidden_matrices(names)
        geometry = problem.optimizer.geometry(names, problem.norm, model.row_bases(problem.data), hidden)
        objective = model.objective(problem.data, problem.loss, problem.frozen)
        objective = objective.read_in_one_unit(problem.optimizer.in_one_unit(geometry, names))
        return Setup(problem, geometry, objective, hidden, threads or torch.get_num_threads())

    @cached_property
    def like(self) -> Tensor:
        """A tensor (R,) of the type and on the device of the data."""
        return self.problem.data.x.new_zeros(self.problem.runs)

    def first_state(self, blocks: Mapping[str, Scaled]) -> Any:
        """The optimizer's state before the first update.

        Args:
            blocks: A gradient, whose layout buffers have.

        Raises:
            TypeError: the optimizer does not say which kind of state it has.
        """
        optimizer = self.problem.optimizer
        state: Any = optimizer.init(dict(blocks))
        if isinstance(state, ForeignState) != optimizer.foreign_state:
            raise TypeError(f"optimizer {optimizer.name}: foreign_state must say whether init makes an object of its own")
        if not optimizer.foreign_state:
            check_buffers(optimizer.name, state)
        return state

    def begun(self, evaluated: bool = True) -> Reached:
        """Where the batch is before the first update.

        Args:
            evaluated: Whether with the gradient there; else whoever needs it evaluates it, and buffers have one log scale a row.
        """
        parameters = {name: block.clone() for name, block in self.problem.initial.items()}
        schedule = self.problem.schedule.init(self.like)
        if not evaluated:
            return Reached(
                parameters, self.first_state({name: Scaled.zeros(w) for name, w in parameters.items()}), None, schedule
            )
        gradient = self.objective.gradient(parameters)
        # Buffers have the layout of the full gradient, which those of all batches share.
        state = self.first_state(gradient.blocks)
        return Reached(parameters, state, gradient if self.problem.batch is None else None, schedule)

    def evaluated(self, t: int) -> Callable[[Mapping[str, Tensor]], Gradient]:
        """Loss and gradient of the samples of the t-th update, at any point."""
        if self.problem.batch is None:
            return self.objective.gradient
        return partial(self.objective.gradient, batch=self.problem.batch.of(t).to(self.like.device))

    def anchored(self, start: Reached, t: int) -> Reached:
        """The same with the anchor that corrects the t-th update, taken here where it is due; the same without one.

        Raises:
            ValueError: the anchor was due before, and is not that of ``start``.
        """
        if not self.problem.reduces_variance:
            return start
        since = anchor_due(t, self.problem.cadence)
        if start.anchor is not None and start.anchor.since == since:
            return start
        if since != t - 1:
            raise ValueError(f"update {t} needs the parameters after update {since}, at which its anchor was due")
        return start._replace(anchor=Anchor(since, start.parameters, self.objective.gradient))

    def here(self, start: Reached, t: int) -> Here:
        """Where the t-th update starts, with what it sees there."""
        anchor, evaluate = self.anchored(start, t).anchor, cast(Evaluate, self.evaluated(t))
        if anchor is not None:
            evaluate = reduced(evaluate, anchor)
        gradient = start.gradient or evaluate(start.parameters)
        log_lr, schedule = self.log_lr(start.parameters, gradient, t, start.schedule), self.problem.schedule
        undivided = schedule.log_lr(t, self.like, start.schedule) if schedule.per_loss else None
        return Here(start.parameters, evaluate, log_lr, gradient, self.objective.gradient, self.problem.cadence, undivided)

    def log_lr(self, parameters: Mapping[str, Tensor], gradient: Evaluation, t: int, state: ScheduleState) -> Tensor:
        """log eta_t, of no dimension or (R,), from where the t-th update is made, with the loss and gradient there."""
        schedule = self.problem.schedule
        log_lr = schedule.log_lr(t, gradient.log_loss if schedule.per_loss else None, state)
        return log_lr + self._log_search(parameters, gradient) if schedule.searches else log_lr

    def _log_search(self, parameters: Mapping[str, Tensor], gradient: Evaluation) -> Tensor:
        direction = self.geometry.direction(in_common_unit(gradient.blocks))
        derivatives = self.objective.push(parameters, {name: -block for name, block in direction.items()})
        return self.problem.schedule.log_search(derivatives, self.objective.weights(parameters).mT)
