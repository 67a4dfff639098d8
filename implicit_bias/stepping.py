"""One step of a batch: the update and the first part of the next gradient, plain or compiled.

Compiled, everything between two matrix products is one loop over memory and one call: a single run, where most of the time goes
into calling small operations, gains most. Compiling takes seconds, and needs a C++ compiler (on a GPU Triton). Without a
compiler the step is plain, silently; where one fails the step is plain, and the reason is told.
"""

from __future__ import annotations

import logging
import shutil
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from implicit_bias.models import Gradient, Objective, Parameters, Quick
from implicit_bias.norms import ParameterNorm
from implicit_bias.norms.blocks import WholeVector
from implicit_bias.optimizers import Optimizer, State
from implicit_bias.optimizers.base import Blocks
from implicit_bias.verification import OneStep, Reached

Compile = Literal["auto", "on", "off"]

# Compiling costs 5 to 10 s, and saves some .1 ms a step of sign methods and NGD, more of Adam: so many steps repay it.
REPAID_STEPS = 200_000
COMPILERS = ("c++", "g++", "clang++")
# Versions of a function that the compiler may keep: as many as there are batches.
MANY_VERSIONS = 1_000_000


class Advanced(NamedTuple):
    """The state and the parameters after an update, and the first part of the gradient there (None: not split)."""

    state: State
    parameters: Parameters
    quick: Quick | None


#: What makes the steps: linear.c, a function compiled by torch, or torch's operations one by one.
Stepping = Literal["c", "torch.compile", "torch"]
#: Takes a line on what is not as it was wanted.
Tell = Callable[[str], None]
#: (state, gradient, parameters, t, log step size) to what comes after; the size broadcasts against (R, 1, 1).
Advance = Callable[[State, Blocks, Parameters, int, Tensor], Advanced]


def plain_step(optimizer: Optimizer, geometry: ParameterNorm, objective: Objective) -> Advance:
    """theta_t = theta_{t-1} - eta_t step_t, step by step."""

    def advance(state: State, gradient: Blocks, parameters: Parameters, t: Any, log_size: Tensor) -> Advanced:
        new_state, step = optimizer.update(state, gradient, t, geometry)
        size = (log_size if step.log_size is None else log_size + step.log_size).exp()
        size = size.to(next(iter(parameters.values())).device)
        moved = {name: torch.addcmul(block, step.direction[name], size, value=-1) for name, block in parameters.items()}
        return Advanced(new_state, moved, objective.quick(moved))

    return advance


def silent(line: str) -> None:
    """Tells nobody."""


def step_of(
    optimizer: Optimizer, geometry: ParameterNorm, objective: Objective, wanted: Compile, steps: int, tell: Tell = silent
) -> Advance:
    """The plain step or a compiled one: as told, and with ``auto`` where there is a compiler and ``steps`` repay it.

    A decomposition cuts the compiled function in pieces, mostly slower than the plain step (results/bench/bench.csv, muon):
    ``auto`` compiles the step of entrywise norms only.
    """
    plain = plain_step(optimizer, geometry, objective)
    repaid = steps >= REPAID_STEPS and isinstance(geometry, WholeVector)
    if wanted == "off" or (wanted == "auto" and not repaid):
        return plain
    device = objective.data.x.device
    if device.type == "cpu" and not any(map(shutil.which, COMPILERS)):
        return plain
    return Compiled(plain, device, tell)


def updates(advance: Advance, objective: Objective, log_size: Callable[[Gradient, int], Tensor]) -> OneStep:
    """The updates that ``advance`` makes, one by one, with the gradient at the end of each.

    Args:
        log_size: The log step size of the t-th update, from the gradient before it.
    """

    def update(here: Reached, t: int) -> Reached:
        gradient = here.gradient or objective.gradient(here.parameters)
        state, moved, quick = advance(here.buffers, gradient.blocks, here.parameters, t, log_size(gradient, t))
        return Reached(moved, state, objective.gradient(moved) if quick is None else objective.finished(moved, quick))

    return update


class Compiled:
    """A compiled step that becomes the plain one for good, with one line, when it cannot be compiled."""

    def __init__(self, plain: Advance, device: torch.device, tell: Tell) -> None:
        self._plain = plain
        self._device = device
        self._tell = tell
        self._begun = False
        with _quiet_compiler():
            self._step: Any = torch.compile(plain, dynamic=False)

    @property
    def stepping(self) -> Stepping:
        """What makes the steps now."""
        return "torch" if self._step is None else "torch.compile"

    def __call__(self, state: State, gradient: Blocks, parameters: Parameters, t: int, log_size: Tensor) -> Advanced:
        if self._step is not None:
            try:
                # As a tensor: a number would be compiled in, and every step compiled anew.
                now = torch.tensor(float(t), dtype=torch.float64, device=self._device)
                return self._quietly(state, gradient, parameters, now, log_size)
            except (ArithmeticError, KeyboardInterrupt, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
                raise
            except Exception as error:
                self._step = None
                self._tell(f"the step cannot be compiled ({_in_a_line(error)}); plain steps are taken")
        return self._plain(state, gradient, parameters, t, log_size)

    def _quietly(self, *arguments: Any) -> Advanced:
        if self._begun:
            done: Advanced = self._step(*arguments)
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
