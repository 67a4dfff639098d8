"""Plain steps: the optimizer's update and the next gradient by PyTorch's operations, one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from implicit_bias.engine.snapshot import chosen, chosen_scaled
from implicit_bias.engine.steppers.base import Reached, Setup, Stepping
from implicit_bias.engine.variance_reduction import Anchor
from implicit_bias.measures.averages import StepAverage
from implicit_bias.models import Gradient, Objective, Parameters
from implicit_bias.norms import ParameterNorm
from implicit_bias.norms.sizes import Routines
from implicit_bias.optimizers import Here, Optimizer, Step
from implicit_bias.schedules import ScheduleState


class Advanced(NamedTuple):
    """The optimizer's state and the parameters after an update, and the gradient there that the next one is made from.

    None: that is of other samples, and evaluated by whoever makes the next update.
    """

    state: Any
    parameters: Parameters
    gradient: Gradient | None


#: (state, where the step starts, t) to what comes after.
Advance = Callable[[Any, Here, int], Advanced]
#: (from where, to where) to where a step between these ends.
Landed = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Parameters]


class Eager:
    """The plain stepper; or, with another way to make an update, what else makes one at a time.

    Args:
        setup: The batch.
        advance: Makes an update; None: :func:`plain_step`.
    """

    stepping: Stepping = "torch"
    most_steps: ClassVar[int] = 1
    has_threads: ClassVar[bool] = False
    evaluates: ClassVar[bool] = False
    check_on: ClassVar[int | None] = None
    suspects: ClassVar[bool] = True
    refused: str | None = None
    made_with: Mapping[str, str]
    routines: Routines | None = None

    def __init__(self, setup: Setup, advance: Advance | None = None) -> None:
        problem = setup.problem
        self._setup, self._batched = setup, problem.batch is not None
        landed = setup.objective.landed if setup.objective.kinks else None
        self._advance = advance or plain_step(
            problem.optimizer, setup.geometry, None if self._batched else setup.objective, landed
        )
        self._reached: Reached
        self._gradient: Gradient | None = None
        self.made_with = {}

    def load(self, start: Reached) -> None:
        self._go_to(start)

    def advance(self, first: int, last: int) -> int:
        for t in range(first + 1, last + 1):
            before = self._reached if self._batched else self._reached._replace(gradient=self.gradient)
            self._go_to(self._made(before, t))
            if self._setup.problem.schedule.backs_off:
                self._take_back(before)
        return last

    def step(self, start: Reached, t: int, whole: bool = True) -> Reached:
        return self._made(start, t)

    def serve(self, average: StepAverage) -> bool:
        return False

    def watch(self, below: Tensor) -> bool:
        return False

    def _go_to(self, reached: Reached) -> None:
        self._reached = reached
        # That of all samples, which is looked at now and then, is not that of a batch.
        self._gradient = None if self._batched else reached.gradient

    def _made(self, start: Reached, t: int) -> Reached:
        """Where the t-th update leads."""
        start = self._setup.anchored(start, t)
        state, parameters, new_gradient = self._advance(start.state, self._setup.here(start, t), t)
        return Reached(parameters, state, new_gradient, start.schedule, start.anchor)

    def _take_back(self, before: Reached) -> None:
        """Go back in the runs whose update the schedule does not accept."""
        after, gradient = self._reached, before.gradient
        assert gradient is not None
        kept: Any  # a user's own method may give anything
        kept, schedule = self._setup.problem.schedule.accept(before.schedule, gradient, self.gradient)
        if not isinstance(kept, Tensor) or kept.dtype != torch.bool or kept.shape != self._setup.like.shape:
            told = (tuple(kept.shape), kept.dtype) if isinstance(kept, Tensor) else type(kept).__name__
            raise ValueError(f"accept gives {told} for the runs that keep their step; must be truth values of shape (runs,)")
        self._reached = after._replace(schedule=schedule)
        if bool(kept.all()):
            return
        parameters = chosen(kept, after.parameters, before.parameters)
        # Buffers that the step has made for the first time stay as they are.
        state = {key: chosen_scaled(kept, blocks, before.state.get(key, blocks)) for key, blocks in after.state.items()}
        self._go_to(Reached(parameters, state, self._setup.objective.gradient(parameters), schedule))

    @property
    def parameters(self) -> Parameters:
        return self._reached.parameters

    @property
    def state(self) -> Any:
        return self._reached.state

    @property
    def gradient(self) -> Gradient:
        if self._gradient is None:
            self._gradient = self._setup.objective.gradient(self._reached.parameters)
        return self._gradient

    @property
    def schedule_state(self) -> ScheduleState:
        return self._reached.schedule

    @property
    def anchor(self) -> Anchor | None:
        return self._reached.anchor


def plain_step(
    optimizer: Optimizer, geometry: ParameterNorm, objective: Objective | None, landed: Landed | None = None
) -> Advance:
    """The optimizer's step from where it is, operation by operation, and the gradient of ``objective`` there; None: no gradient,
    the next update being made from other samples. ``landed`` says where a step ends that would lead past a kink."""

    def advance(state: Any, here: Here, t: int) -> Advanced:
        new_state, step = optimizer.step_from(state, here, t, geometry)
        moved = arrived(step, here.parameters, here.scheduled)
        if landed is not None and step.to is None:
            moved = landed(here.parameters, moved)
        if objective is None:
            return Advanced(new_state, moved, None)
        if isinstance(step.to, Here) and isinstance(step.to.evaluation, Gradient):
            return Advanced(new_state, moved, step.to.evaluation)
        return Advanced(new_state, moved, objective.gradient(moved))

    return advance


def arrived(step: Step, parameters: Mapping[str, Tensor], log_lr: Tensor) -> Parameters:
    """Where a step leads: keep * theta - eta * exp(log_size) * direction, or the point that it names.

    Args:
        step: The optimizer's.
        parameters: theta, (R, p, q) a block.
        log_lr: log eta, of no dimension or (R,).

    Raises:
        ValueError: the step names a point and a way there, or a point of other blocks, shapes or types.
    """
    if step.to is not None:
        return _named(step, parameters)
    kept = dict(parameters)
    if step.keep is not None:
        keep = _column(step.keep)
        kept = {name: keep * block for name, block in parameters.items()}
    if not step.direction:
        if step.log_size is not None or step.whole:
            raise ValueError("a step of a size has a direction, one tensor a block")
        return kept
    check_blocks("a step's direction has", step.direction, parameters)
    size = _column(_log_length(step, log_lr)).exp().to(next(iter(parameters.values())).device)
    return {name: torch.addcmul(block, step.direction[name], size, value=-1) for name, block in kept.items()}


def descent(step: Step, parameters: Mapping[str, Tensor], log_lr: Tensor) -> Parameters:
    """theta - theta', where theta' is what :func:`arrived` gives, times a positive number of each run's own.

    It is exact where a step is shorter than the rounding of theta, and where eta * exp(log_size) is below every double. Arguments
    and errors are those of :func:`arrived`.
    """
    if step.to is not None:
        to = _named(step, parameters)
        return {name: block - to[name] for name, block in parameters.items()}
    if not step.direction:
        kept = arrived(step, parameters, log_lr)
        return {name: block - kept[name] for name, block in parameters.items()}
    check_blocks("a step's direction has", step.direction, parameters)
    log_length = _column(_log_length(step, log_lr)).to(next(iter(parameters.values())).device)
    if step.keep is None:
        # A length of 0 is the one that no other unit makes up for.
        return {name: torch.where(log_length == -torch.inf, 0, block) for name, block in step.direction.items()}
    lost = 1 - _column(step.keep)
    return {name: lost * block + log_length.exp() * step.direction[name] for name, block in parameters.items()}


def _log_length(step: Step, log_lr: Tensor) -> Tensor:
    """log of what a step's direction is multiplied by: (R, 1, 1), (R,) or of no dimension."""
    if step.log_size is None:
        return torch.zeros_like(log_lr) if step.whole else log_lr
    log_size: Tensor = _column(step.log_size)
    return log_size if step.whole else _column(log_lr) + log_size


def _column(number: Any) -> Any:
    """A number a run, shaped to broadcast against blocks (R, p, q)."""
    return number[:, None, None] if isinstance(number, Tensor) and number.dim() == 1 else number


def _named(step: Step, parameters: Mapping[str, Tensor]) -> Parameters:
    if step.direction or step.log_size is not None or step.keep is not None or step.whole:
        raise ValueError("a step that names the point arrived at has no direction, log_size, keep or whole")
    assert step.to is not None
    to = step.to.parameters if isinstance(step.to, Here) else step.to
    check_blocks("a step leads to parameters of", to, parameters)
    return {name: to[name] for name in parameters}


def check_blocks(told: str, blocks: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not like the parameters, which would be broadcast, or left out, without a word.

    Args:
        told: What the line begins with, such as "a step's direction has".
        blocks: What an optimizer gives.
        parameters: What it has to be like, one tensor (R, p, q) a block.

    Raises:
        ValueError: blocks, shapes or types are others.
    """
    if blocks.keys() != parameters.keys():
        raise ValueError(f"{told} other blocks, shapes or types: {', '.join(blocks)}; must be {', '.join(parameters)}")
    for name, block in parameters.items():
        if blocks[name].shape != block.shape or blocks[name].dtype != block.dtype:
            found, wanted = ((tuple(b.shape), str(b.dtype).removeprefix("torch.")) for b in (blocks[name], block))
            raise ValueError(f"{told} other blocks, shapes or types: {name} is {found}; must be {wanted}")
