"""One step of a batch: the update and the next gradient, plain or compiled.

Compiled, everything between two matrix products is one loop over memory and one call: a single run, where most of the time goes
into calling small operations, gains most. Compiling takes seconds, and needs a C++ compiler (on a GPU Triton). Without a
compiler the step is plain, silently; where one fails the step is plain, and the reason is told. Only steps that are made of
buffers and gradient alone are compiled: one that looks at parameters, loss or other points may evaluate the model anywhere.
"""

from __future__ import annotations

import logging
import shutil
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from implicit_bias.models import Gradient, Objective, Parameters, Quick
from implicit_bias.norms import ParameterNorm
from implicit_bias.norms.blocks import WholeVector
from implicit_bias.optimizers import Here, Optimizer, State, Step
from implicit_bias.optimizers.base import Blocks
from implicit_bias.engine.steppers.verification import OneStep, Reached

Compile = Literal["auto", "on", "off"]

# Compiling costs 5 to 10 s, and saves some .1 ms a step of sign methods and NGD, more of Adam: so many steps repay it.
REPAID_STEPS = 200_000
COMPILERS = ("c++", "g++", "clang++")
# Versions of a function that the compiler may keep: as many as there are batches.
MANY_VERSIONS = 1_000_000


class Advanced(NamedTuple):
    """The optimizer's state, the parameters and the gradient after an update."""

    state: Any
    parameters: Parameters
    gradient: Gradient


#: What makes the steps: linear.c, a function compiled by torch, or torch's operations one by one.
Stepping = Literal["c", "torch.compile", "torch"]
#: Takes a line on what is not as it was wanted.
Tell = Callable[[str], None]
#: (state, where the step starts, t) to what comes after.
Advance = Callable[[Any, Here, int], Advanced]
#: (state, gradient, parameters, t, log learning rate) to state, parameters and the first part of the gradient there (None: not
#: split): tensors alone, so that a compiler can make it.
TensorStep = Callable[[State, Blocks, Mapping[str, Tensor], Any, Tensor], tuple[State, Parameters, Quick | None]]


def plain_step(optimizer: Optimizer, geometry: ParameterNorm, objective: Objective) -> Advance:
    """The optimizer's step from where it is, and the gradient there, operation by operation."""

    def advance(state: Any, here: Here, t: int) -> Advanced:
        new_state, step = optimizer.step_from(state, here, t, geometry)
        moved = arrived(step, here.parameters, here.scheduled)
        if isinstance(step.to, Here) and isinstance(step.to.evaluation, Gradient):
            return Advanced(new_state, moved, step.to.evaluation)
        return Advanced(new_state, moved, objective.gradient(moved))

    return advance


def tensor_step(optimizer: Optimizer, geometry: ParameterNorm, objective: Objective) -> TensorStep:
    """The same for an optimizer that needs the gradient only."""

    def advance(
        state: State, gradient: Blocks, parameters: Mapping[str, Tensor], t: Any, log_lr: Tensor
    ) -> tuple[State, Parameters, Quick | None]:
        new_state, step = optimizer.update(state, gradient, t, geometry)
        moved = arrived(step, parameters, log_lr)
        return new_state, moved, objective.quick(moved)

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
        return kept
    log_size = torch.zeros_like(log_lr) if step.whole else log_lr
    if step.log_size is not None:
        log_size = _column(step.log_size) if step.whole else _column(log_lr) + _column(step.log_size)
    size = _column(log_size).exp().to(next(iter(parameters.values())).device)
    return {name: torch.addcmul(block, step.direction[name], size, value=-1) for name, block in kept.items()}


def _column(number: Any) -> Any:
    """A number a run, shaped to broadcast against blocks (R, p, q)."""
    return number[:, None, None] if isinstance(number, Tensor) and number.dim() == 1 else number


def _named(step: Step, parameters: Mapping[str, Tensor]) -> Parameters:
    if step.direction or step.log_size is not None or step.keep is not None or step.whole:
        raise ValueError("a step that names the point arrived at has no direction, log_size, keep or whole")
    assert step.to is not None
    to = step.to.parameters if isinstance(step.to, Here) else step.to
    if {n: (b.shape, b.dtype) for n, b in to.items()} != {n: (b.shape, b.dtype) for n, b in parameters.items()}:
        raise ValueError(f"a step leads to parameters of other blocks, shapes or types: {', '.join(to)}")
    return {name: to[name] for name in parameters}


def silent(line: str) -> None:
    """Tells nobody."""


def step_of(
    optimizer: Optimizer, geometry: ParameterNorm, objective: Objective, wanted: Compile, steps: int, tell: Tell = silent
) -> Advance:
    """The plain step or a compiled one: as told, and with ``auto`` where there is a compiler and ``steps`` repay it.

    A decomposition cuts the compiled function in pieces, mostly slower than the plain step (results/bench/bench.csv, muon):
    ``auto`` compiles the step of entrywise norms only. An optimizer that needs more than the gradient takes plain steps; that is
    told where compiled ones are asked for.
    """
    plain = plain_step(optimizer, geometry, objective)
    repaid = steps >= REPAID_STEPS and isinstance(geometry, WholeVector)
    if wanted == "off" or (wanted == "auto" and not repaid):
        return plain
    if not optimizer.needs_gradient_only:
        if wanted == "on":
            seen = "keeps a state of its own" if optimizer.foreign_state else "looks at more than the gradient"
            tell(f"steps are not compiled: optimizer={optimizer.name} {seen}; plain steps are taken")
        return plain
    device = objective.data.x.device
    if device.type == "cpu" and not any(map(shutil.which, COMPILERS)):
        return plain
    return Compiled(plain, tensor_step(optimizer, geometry, objective), objective, tell)


def updates(advance: Advance, objective: Objective, log_lr: Callable[[Gradient, int], Tensor]) -> OneStep:
    """The updates that ``advance`` makes, one by one, with the gradient at the end of each.

    Args:
        log_lr: The logarithm of the t-th update's learning rate, from the gradient before it.
    """

    def update(start: Reached, t: int) -> Reached:
        gradient = start.gradient or objective.gradient(start.parameters)
        here = Here(start.parameters, objective.gradient, log_lr(gradient, t), gradient)
        state, moved, new_gradient = advance(start.buffers, here, t)
        return Reached(moved, state, new_gradient)

    return update


class Compiled:
    """A compiled step that becomes the plain one for good, with one line, when it cannot be compiled."""

    def __init__(self, plain: Advance, step: TensorStep, objective: Objective, tell: Tell) -> None:
        self._plain = plain
        self._objective = objective
        self._device = objective.data.x.device
        self._tell = tell
        self._begun = False
        with _quiet_compiler():
            self._step: Any = torch.compile(step, dynamic=False)

    @property
    def stepping(self) -> Stepping:
        """What makes the steps now."""
        return "torch" if self._step is None else "torch.compile"

    def __call__(self, state: Any, here: Here, t: int) -> Advanced:
        if self._step is not None:
            try:
                # As a tensor: a number would be compiled in, and every step compiled anew.
                now = torch.tensor(float(t), dtype=torch.float64, device=self._device)
                new_state, moved, quick = self._quietly(state, here.gradient, here.parameters, now, here.scheduled)
            except (ArithmeticError, KeyboardInterrupt, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
                raise
            except Exception as error:
                self._step = None
                self._tell(f"the step cannot be compiled ({_in_a_line(error)}); plain steps are taken")
            else:
                finished = self._objective.gradient(moved) if quick is None else self._objective.finished(moved, quick)
                return Advanced(new_state, moved, finished)
        return self._plain(state, here, t)

    def _quietly(self, *arguments: Any) -> tuple[State, Parameters, Quick | None]:
        if self._begun:
            done: tuple[State, Parameters, Quick | None] = self._step(*arguments)
            return done
        with _quiet_compiler(), _interrupts_later():
            done = self._step(*arguments)
        self._begun = True
        return done


def _in_a_line(error: Exception) -> str:
    """The kind of an error, and the first line of what it says."""
    said = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


@contextmanager
def _quiet_compiler() -> Iterator[None]:
    """Without what the compiler says about itself, and without its limit of versions of a function.

    Every batch has a version of its own of the step and of what the step calls. What this process has compiled elsewhere, the
    limit and the levels of the loggers are as they were afterwards.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        versions = {"recompile_limit": MANY_VERSIONS, "accumulated_recompile_limit": MANY_VERSIONS}
        limits = torch._dynamo.config.patch(versions)  # loads the compiler, which sets the level of its loggers
        loggers = [logging.getLogger(name) for name in ("torch._dynamo", "torch._inductor")]
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            with limits:
                yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back until the end: raised inside the compiler they are sometimes swallowed, and lost."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers, and only it is interrupted
        return
    held: list[int] = []
    before = {number: signal.signal(number, lambda n, _: held.append(n)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for caught in held[:1]:
            signal.raise_signal(caught)
