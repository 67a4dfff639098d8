"""Steps compiled by torch: everything between two matrix products is one loop over memory and one call.

A single run, where most of the time goes into calling small operations, gains most. Compiling takes seconds, and needs a C++
compiler (on a GPU Triton). Where it fails, plain steps are made, and the reason is reported. Only steps that are made of buffers
and gradient alone are compiled: one that looks at parameters, loss or other points may evaluate the model anywhere.
"""

from __future__ import annotations

import logging
import shutil
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from implicit_bias.engine.problem import Tell
from implicit_bias.engine.steppers.base import Setup, Stepping
from implicit_bias.engine.steppers.eager import Advance, Advanced, Eager, arrived, plain_step
from implicit_bias.models import Objective, Parameters, Quick
from implicit_bias.norms import ParameterNorm
from implicit_bias.norms.blocks import WholeVector
from implicit_bias.optimizers import Here, Optimizer, State
from implicit_bias.optimizers.base import Blocks

# Compiling costs 5 to 10 s, and saves some .1 ms a step of sign methods and NGD, more of Adam: so many steps repay it.
REPAID_STEPS = 200_000
COMPILERS = ("c++", "g++", "clang++")
# Versions of a function that the compiler may keep: as many as there are batches.
MANY_VERSIONS = 1_000_000

#: (state, gradient, parameters, t, log learning rate) to state, parameters and the first part of the gradient there (None: not
#: split): tensors alone, so that a compiler can make it.
TensorStep = Callable[[State, Blocks, Mapping[str, Tensor], Any, Tensor], tuple[State, Parameters, Quick | None]]


def refusal(setup: Setup) -> str | None:
    """Why steps are not compiled; None: they can be, and are wanted.

    A decomposition cuts the compiled function in pieces, mostly slower than the plain step (results/bench/bench.csv, muon):
    ``auto`` compiles the step of entrywise norms only, where there are enough steps to repay it. An optimizer that needs more
    than the gradient takes plain steps; this is reported where compiled ones were asked for.
    """
    problem = setup.problem
    wanted, optimizer = problem.compile, problem.optimizer
    if wanted == "off":
        return "compile=off"
    if problem.batch is not None:
        if wanted == "on":
            problem.tell("steps are not compiled by torch: mini-batches (batch.size) are not covered")
        return "mini-batches (batch.size) are not compiled"
    if setup.objective.kinks:
        if wanted == "on":
            problem.tell("steps are not compiled by torch: those of model.perturbation end at kinks of the gaps")
        return "steps that end at kinks of the gaps (model.perturbation) are not compiled"
    if wanted == "auto" and problem.steps < REPAID_STEPS:
        return f"fewer than {REPAID_STEPS:,} steps do not repay compiling; compile=on compiles them"
    if wanted == "auto" and not isinstance(setup.geometry, WholeVector):
        return "steps that work on matrices gain nothing; compile=on compiles them"
    if not optimizer.needs_gradient_only:
        seen = "keeps a state of its own" if optimizer.foreign_state else "looks at more than the gradient"
        reason = f"optimizer={optimizer.name} {seen}"
        if wanted == "on":
            problem.tell(f"steps are not compiled: {reason}; plain steps are taken")
        return reason
    if problem.data.x.device.type == "cpu" and not any(map(shutil.which, COMPILERS)):
        return f"there is no C++ compiler ({', '.join(COMPILERS)})"
    return None


class TorchCompile(Eager):
    """Makes one update at a time by a compiled function."""

    def __init__(self, setup: Setup) -> None:
        problem, objective = setup.problem, setup.objective
        plain = plain_step(problem.optimizer, setup.geometry, objective)
        step = tensor_step(problem.optimizer, setup.geometry, objective)
        self._compiled = Compiled(plain, step, objective, problem.tell)
        super().__init__(setup, self._compiled)

    @property
    def stepping(self) -> Stepping:  # type: ignore[override]
        return "torch.compile" if self.refused is None else "torch"

    @property
    def refused(self) -> str | None:  # type: ignore[override]
        return self._compiled.refused


def tensor_step(optimizer: Optimizer, geometry: ParameterNorm, objective: Objective) -> TensorStep:
    """The step of an optimizer that needs the gradient only, and the first part of the gradient after it."""

    def advance(
        state: State, gradient: Blocks, parameters: Mapping[str, Tensor], t: Any, log_lr: Tensor
    ) -> tuple[State, Parameters, Quick | None]:
        new_state, step = optimizer.update(state, gradient, t, geometry)
        moved = arrived(optimizer.decayed(step, log_lr), parameters, log_lr)
        return new_state, moved, objective.quick(moved)

    return advance


class Compiled:
    """A compiled step that is replaced by the plain one, with a warning of one line, when it cannot be compiled.

    Attributes:
        refused: Why it is the plain one by now; None while it is not.
    """

    def __init__(self, plain: Advance, step: TensorStep, objective: Objective, tell: Tell) -> None:
        self._plain = plain
        self._objective = objective
        self._device = objective.data.x.device
        self._tell = tell
        self._begun = False
        self.refused: str | None = None
        with _quiet_compiler():
            self._step: Any = torch.compile(step, dynamic=False)

    def __call__(self, state: Any, here: Here, t: int) -> Advanced:
        if self.refused is None:
            try:
                # As a tensor: a number would be compiled in, and every step compiled anew.
                now = torch.tensor(float(t), dtype=torch.float64, device=self._device)
                new_state, moved, quick = self._quietly(state, here.gradient, here.parameters, now, here.scheduled)
            except (ArithmeticError, KeyboardInterrupt, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
                raise
            except Exception as error:  # noqa: BLE001 - a compiler fails in any way; plain steps are taken
                self.refused = f"the step cannot be compiled ({in_a_line(error)})"
                self._tell(f"{self.refused}; plain steps are taken")
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


def in_a_line(error: Exception) -> str:
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
        # This loads the compiler, which sets the level of its loggers; torch has no public name for these limits.
        limits = torch._dynamo.config.patch(versions)  # noqa: SLF001
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
