"""Many steps of all runs of a linear model in one launch: linear.cu behind tensors.

The steps are those of :mod:`implicit_bias.engine.steppers.eager` to round-off (one step to 1e-11). Covered are float64 data
without zeros on a GPU, in one block, full batches, the losses cross_entropy and exponential, the schedules power and constant,
and steepest descent in linf, l2, l1, the row norm and, in the row space, the spectral and the nuclear norm, normalised or not,
with and without momentum, Lion and Adam; with decoupled weight decay where they have it. A run is a block of threads with its
scores, parameters and buffers in shared memory, its data too where they fit: so a run's numbers do not depend on its batch, nor
on how its steps are shared out over launches. The kernel is compiled for the problem's sizes and rule.

Which rule an optimizer has is said in :mod:`implicit_bias.engine.steppers.native.rules`, as for the steps in C.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from implicit_bias.core.scaled import Scaled
from implicit_bias.engine.problem import Problem
from implicit_bias.engine.steppers.base import Looked, Reached, Setup, Stepping
from implicit_bias.engine.steppers.cuda_kernel.compiling import Kernel, Macros, OnGpu, libraries
from implicit_bias.engine.steppers.native.rules import (
    ADAM,
    COORDINATE,
    DEFINITIONS,
    LOSSES,
    NO_MOMENTUM,
    NORMALISED,
    POLAR,
    RANK_ONE,
    ROWS,
    SIGN,
    STEEPEST,
    Rule,
    rule_of,
)
from implicit_bias.engine.steppers.torch_compile import in_a_line
from implicit_bias.engine.steppers.verification import CHECKED_RUNS
from implicit_bias.engine.variance_reduction import Anchor
from implicit_bias.measures.averages import StepAverage
from implicit_bias.models import Gradient, Parameters
from implicit_bias.models.linear import WEIGHT, LinearObjective
from implicit_bias.norms.sizes import Routines
from implicit_bias.optimizers import State
from implicit_bias.optimizers.adam import FIRST, SECOND_ROOT
from implicit_bias.optimizers.descent import MOMENTUM
from implicit_bias.schedules import AUTO_POWER_LINEAR, Constant, Power, ScheduleState

SOURCE = Path(__file__).with_name("linear.cu")
NAME = "advance"
KINDS = frozenset({SIGN, NORMALISED, COORDINATE, ROWS, POLAR, RANK_ONE})
DECOMPOSED = frozenset({POLAR, RANK_ONE})
SCHEDULES = frozenset({Power, Constant})
#: A run's own numbers, in the order in which linear.cu has them.
NUMBERS = ("lr", "power", "beta", "gain", "ahead_beta", "ahead_gain", "beta2", "log_eps", "decay", "smallest_row")

# Threads of a block: one a sample, up to these; from MANY samples on each sums SUMMED classes of a part of them.
WARP, FEWEST_THREADS, MOST_THREADS, THREADS_OF_MANY = 32, 64, 256, 512
MANY, SUMMED, MOST_SUMMED, MOST_SCORES = 257, 4, 8, 12
# Compiling takes one to three seconds, in which plain steps make a thousand updates and more.
REPAID_STEPS = 1000
# A launch is not interrupted: so long it may take at most, about, so that Ctrl-C, the display and checkpoints come in between.
LAUNCH_SECONDS = 0.05
MOST_STEPS = 4096
# A step of a run alone, in seconds for each of so many operations, and operations a second of all runs: about what an H100
# reaches; only LAUNCH_SECONDS depends on them. GPUs of other kinds make doubles so much more slowly.
ALONE, OPERATIONS, RATE = 1e-5, 1e5, 2e12
EXPONENTIAL_COST, SWEEPS_COST = 20, 150
FULL_RATE, SLOWER = frozenset({(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)}), 32
# How much of the gradients before and after an update an average takes in that is compared.
CHECKED_SHARES = (0.75, 0.25)
#: Bytes of a block's shared memory that are left free.
RESERVED = 1024


class _Arrays(ctypes.Structure):
    """What all runs have, as linear.cu lays it out."""

    _fields_: ClassVar = [
        *(
            (name, ctypes.c_void_p)
            for name in ("x", "columns", "y", "numbers", "doubtful", "shares", "w", "m", "r", "m_log", "r_log")
        ),
        ("certificate", ctypes.c_void_p),
        ("sets", ctypes.c_longlong),
    ]


#: Compiles linear.cu with these macros for blocks of so many threads and bytes of shared memory.
Compile = Callable[[Macros, int, int], Kernel]


def compiled(macros: Macros, threads: int, shared: int) -> Kernel:
    """The kernel on the current GPU, compiled once, also where that fails.

    Raises:
        RuntimeError: it does not compile, or cannot be loaded.
    """
    made = _compiled_on(torch.cuda.current_device(), macros, threads, shared)
    if isinstance(made, RuntimeError):
        raise made
    return made


@cache
def _compiled_on(_device: int, macros: Macros, threads: int, shared: int) -> Kernel | RuntimeError:
    try:
        return OnGpu(SOURCE.read_text(), NAME, macros, threads, shared)
    except RuntimeError as error:
        return error


def refusal(setup: Setup) -> str | None:
    """Why there is no kernel; None: there is one."""
    problem, objective = setup.problem, setup.objective
    if problem.compile == "off":
        return "compile=off"
    if type(objective) is not LinearObjective or type(objective.loss) not in LOSSES:
        return f"model={problem.model.name} with loss={problem.loss.name} has no kernel"
    x = objective.data.x
    if x.device.type != "cuda" or x.dtype != torch.float64 or x.device.index not in (None, torch.cuda.current_device()):
        return "needs float64 data on the current CUDA GPU"
    rule, uncovered = _rule_of(setup), _uncovered(problem, objective)
    if uncovered is not None:
        return f"{uncovered} no kernel"
    if rule is None:
        return f"optimizer={problem.optimizer.name}, or its norm, has no kernel"
    if problem.compile != "on" and problem.steps < REPAID_STEPS:
        return f"fewer than {REPAID_STEPS:,} steps do not repay compiling; compile=on compiles them"
    return _unmade(setup, rule)


def _uncovered(problem: Problem, objective: LinearObjective) -> str | None:
    """What of a problem has no kernel, with the verb; None: nothing but its optimizer may have none."""
    if problem.batch is not None:
        return "mini-batches (batch.size) have"
    if problem.watches_loss:
        return "losses that are looked at after every step (log.levels, stop_log10_loss) have"
    if objective.uneven:
        return "data with zeros have"
    if type(problem.schedule) not in SCHEDULES:
        return f"schedule={problem.schedule.name} has"
    return None


def _unmade(setup: Setup, rule: Rule) -> str | None:
    """Why it cannot be made here; None: it is."""
    if libraries() is None:
        return "this PyTorch has no CUDA compiler (NVRTC)"
    if Shape.of(setup, rule).bytes(x_shared=False) > _most_shared():
        return "a run's scores, parameters and buffers are more than a block of threads can share"
    try:
        _made(setup, rule, compiled, _most_shared())
    except RuntimeError as error:
        reason = f"the kernel cannot be compiled ({in_a_line(error)})"
        setup.problem.tell(f"{reason}; other steps are taken")
        return reason
    return None


def _made(setup: Setup, rule: Rule, compile_: Compile, most_shared: int) -> tuple[Kernel, bool]:
    """The kernel, and whether data are in shared memory.

    Raises:
        RuntimeError: it does not compile.
    """
    shape, loss = Shape.of(setup, rule), LOSSES[type(setup.objective.loss)]  # type: ignore[attr-defined]
    x_shared = shape.bytes(x_shared=True) <= most_shared
    return compile_(shape.macros(loss, x_shared), shape.threads, shape.bytes(x_shared)), x_shared


def _rule_of(setup: Setup) -> Rule | None:
    columns = {name: (0, block.shape[-1]) for name, block in setup.problem.initial.items()}
    rule = rule_of(setup.problem.optimizer, setup.geometry, columns)
    if rule is None or (rule.kind == STEEPEST and (len(rule.parts) != 1 or rule.parts[0].kind not in KINDS)):
        return None
    return rule


def _most_shared() -> int:
    most: int = torch.cuda.get_device_properties().shared_memory_per_block_optin  # type: ignore[attr-defined]
    return most - RESERVED


def _slower(device: torch.device) -> int:
    """How many times more slowly than GPUs that are made for doubles this one computes with them, about."""
    full = device.type != "cuda" or torch.cuda.get_device_capability(device) in FULL_RATE
    return 1 if full else SLOWER


class Shape:
    """The sizes of a problem, and what shared memory a run of it takes; as linear.cu has them.

    Args:
        n: Samples.
        k: Classes.
        d: Features.
        rule: The step.
    """

    def __init__(self, n: int, k: int, d: int, rule: Rule) -> None:
        self.n, self.k, self.d, self.rule = n, k, d, rule
        most = MOST_THREADS if n < MANY else THREADS_OF_MANY
        self.threads = min(max(-(-n // WARP) * WARP, FEWEST_THREADS), most)
        self.classes = min(k, SUMMED) if n >= MANY else min(-(-k * d // self.threads), MOST_SUMMED)
        self.segments = max(1, self.threads // (-(-k // self.classes) * d)) if n >= MANY else 1
        self.chunks = -(-k // MOST_SCORES)

    @staticmethod
    def of(setup: Setup, rule: Rule) -> Shape:
        """Those of a set-up."""
        data = setup.problem.data
        return Shape(data.x.shape[1], data.num_classes, data.x.shape[2], rule)

    @property
    def kind(self) -> int:
        """The norm of steepest descent; another number for other rules."""
        return self.rule.parts[0].kind if self.rule.kind == STEEPEST else -1

    def bytes(self, x_shared: bool) -> int:
        """Of shared memory, a little more than linear.cu takes."""
        n, k, d = self.n, self.k, self.d
        padded = -(-k // (2 * self.chunks)) * 2 * self.chunks
        numbers = k * (n + 3) + d * padded + self.segments * k * d + n + 2 * k + 5 * (self.threads // WARP) + self.threads
        numbers += (k * d + k) * (self.rule.momentum != NO_MOMENTUM)
        numbers += (k * d + k + 2 * self.threads) * (self.rule.kind == ADAM)
        if self.kind in DECOMPOSED:
            few, long = min(k - 1, d), max(k - 1, d)
            numbers += few * (2 * long + few + 2)
        numbers += n * (d + 1) * x_shared
        return 8 * (numbers + 2) + 4 * n

    def seconds(self, runs: int, slower: int = 1) -> float:
        """Of a step of so many runs, about, on a GPU that is so many times slower than those which are made for doubles."""
        n, k, d = self.n, self.k, self.d
        work = 4 * n * k * d + EXPONENTIAL_COST * n * k
        if self.kind in DECOMPOSED:
            work += SWEEPS_COST * min(k, d) ** 2 * max(k, d)
        return slower * max(ALONE * (1 + work / OPERATIONS), runs * work / RATE)

    def macros(self, loss: int, x_shared: bool) -> Macros:
        """What linear.cu is compiled with."""
        rule, part = self.rule, self.rule.parts[0] if self.rule.parts else None
        sizes = {"N": self.n, "K": self.k, "D": self.d, "THREADS": self.threads, "X_SHARED": int(x_shared)}
        sizes |= {"CLASSES": self.classes, "SEGMENTS": self.segments, "CHUNKS": self.chunks}
        chosen = {"RULE": rule.kind, "KIND": self.kind, "MOMENTUM": rule.momentum, "LOSS": loss}
        switches = {"BIAS_CORRECTION": rule.bias_correction, "BY_DUAL": rule.by_dual, "FROM_FIRST": rule.from_first}
        numbers = {"LOG_N": math.log(self.n), "WEIGHT": 1.0 if part is None else float(part.weight), "CLIP": float(rule.clip)}
        made = sizes | chosen | {key: int(value) for key, value in switches.items()} | numbers
        return (*DEFINITIONS, *made.items())


class CudaKernel:
    """Makes many updates in a launch.

    Args:
        setup: A batch that there is no :func:`refusal` of.
        compile_: Compiles the kernel; None: for this GPU.
        most_shared: Bytes of shared memory that a block may have; None: as this GPU has.

    Raises:
        ValueError: the optimizer is not covered.
        RuntimeError: the kernel does not compile.
    """

    stepping: ClassVar[Stepping] = "cuda kernel"
    has_threads: ClassVar[bool] = False
    evaluates: ClassVar[bool] = False
    refused: ClassVar[str | None] = None
    suspects: ClassVar[bool] = True
    check_on: ClassVar[int | None] = CHECKED_RUNS
    routines: ClassVar[Routines | None] = None
    anchor: ClassVar[Anchor | None] = None

    def __init__(self, setup: Setup, compile_: Compile = compiled, most_shared: int | None = None) -> None:
        rule, objective = _rule_of(setup), setup.objective
        if rule is None or not isinstance(objective, LinearObjective):
            raise ValueError(f"no kernel: {refusal(setup)}")
        self._rule, self._objective, self._runs = rule, objective, setup.problem.runs
        shape = Shape.of(setup, rule)
        self._kernel, x_shared = _made(setup, rule, compile_, _most_shared() if most_shared is None else most_shared)
        self.made_with: Mapping[str, str] = self._kernel.made_with
        self.most_steps = max(1, min(MOST_STEPS, int(LAUNCH_SECONDS / shape.seconds(self._runs, _slower(setup.like.device)))))
        self._served: StepAverage | None = None
        self._average: Parameters | None = None  # the value of that, where the array is the same
        self._parameters: Parameters | None = None
        self._gradient: Gradient | None = None
        self._lay_out(setup, shape, x_shared)

    def _lay_out(self, setup: Setup, shape: Shape, x_shared: bool) -> None:
        """Arrays for linear.cu: the data, the rule's numbers, and empty parameters and buffers."""
        x, y = setup.problem.data.x.contiguous(), setup.problem.data.y.contiguous()
        if len(x) != len(y):  # all runs share the one, and not the other
            x, y = (part.expand(self._runs, *part.shape[1:]).contiguous() for part in (x, y))
        self._x, self._y = x, y
        self._columns = x if x_shared else self._objective.x_t.expand(len(x), -1, -1).contiguous()
        self._doubtful = self._objective.doubtful.expand(len(x), 1, -1).contiguous()
        schedule, rule, like = setup.problem.schedule, self._rule, (self._runs, shape.k, shape.d)
        power = getattr(schedule, "power", 0.0)
        eps = torch.as_tensor(rule.eps, dtype=torch.float64)
        given = {
            "lr": schedule.lr, "power": AUTO_POWER_LINEAR if isinstance(power, str) else power, "beta": rule.beta,
            "gain": rule.gain, "ahead_beta": rule.ahead_beta, "ahead_gain": rule.ahead_gain, "beta2": rule.beta2,
            "log_eps": eps.log(), "decay": rule.decay, "smallest_row": self._objective.smallest_row,
        }  # fmt: skip
        columns = [torch.as_tensor(given[key], dtype=torch.float64).flatten().to(x.device) for key in NUMBERS]
        self._numbers = torch.stack([column.expand(self._runs) for column in columns], dim=1).contiguous()
        self._w, self._certificate = x.new_zeros(like), x.new_zeros(like)
        has_m, has_r = rule.momentum != NO_MOMENTUM, rule.kind == ADAM
        self._m, self._r = (x.new_zeros(like if has else 0) for has in (has_m, has_r))
        self._m_log, self._r_log = (x.new_full((*like[:2], 1) if has else (0,), -math.inf) for has in (has_m, has_r))

    def load(self, start: Reached) -> None:
        self._w.copy_(start.parameters[WEIGHT])
        for buffer, blocks in start.state.items():
            to = (self._r, self._r_log) if buffer == SECOND_ROOT else (self._m, self._m_log)
            for array, part in zip(to, (blocks[WEIGHT].mantissa, blocks[WEIGHT].log_scale), strict=True):
                array.copy_(part)
        self._certificate.zero_()
        self._average = None
        self._parameters, self._gradient = start.parameters, start.gradient

    def advance(self, first: int, last: int) -> int:
        average = self._served
        if average is None:
            self._make(first, np.zeros(last - first))
            return last
        if average.value and average.value is not self._average:
            self._certificate.copy_(average.value[WEIGHT])
        self._make(first, average.shares(range(first, last)))
        average.count = average.wanted(last - 1)
        average.value = self._average = {WEIGHT: self._certificate.clone()}
        return last

    def _make(self, first: int, shares: np.ndarray) -> None:
        """Updates first + 1, first + 2, ..., one for each of the shares: the weights in the certificates' average of the
        gradients that these are made from."""
        self._parameters = self._gradient = None
        weights = torch.from_numpy(shares).to(self._x.device)
        held = {
            "x": self._x,
            "columns": self._columns,
            "y": self._y,
            "numbers": self._numbers,
            "doubtful": self._doubtful,
            "shares": weights,
        }
        held |= {"w": self._w, "m": self._m, "r": self._r, "m_log": self._m_log, "r_log": self._r_log}
        held |= {"certificate": self._certificate}
        arrays = _Arrays(**{key: tensor.data_ptr() for key, tensor in held.items()}, sets=len(self._x))
        self._kernel.launch(self._runs, [arrays, ctypes.c_longlong(first), ctypes.c_longlong(len(shares))])

    def step(self, start: Reached, t: int, whole: bool = True) -> Reached:
        self.load(start)
        self._make(t - 1, np.array(CHECKED_SHARES[:1]))
        parameters = self.parameters
        if not whole:
            return Reached(parameters, {})
        # At the end of a launch the average is left to whoever asks, and the gradient is the objective's own.
        gradient = self.gradient
        average = self._certificate.lerp(gradient.per_weight()[WEIGHT], CHECKED_SHARES[1])
        return Reached(parameters, self.state, looked=Looked(gradient, {WEIGHT: average}, CHECKED_SHARES))

    def serve(self, average: StepAverage) -> bool:
        if self._served is not None:
            return False
        self._served = average
        return True

    def watch(self, below: Tensor) -> bool:
        return False

    @property
    def parameters(self) -> Parameters:
        # Of its own, since the next launch writes to the array.
        if self._parameters is None:
            self._parameters = {WEIGHT: self._w.clone()}
        return self._parameters

    @property
    def gradient(self) -> Gradient:
        if self._gradient is None:
            self._gradient = self._objective.gradient(self.parameters)
        return self._gradient

    @property
    def state(self) -> State:
        if self._rule.momentum == NO_MOMENTUM:
            return {}
        first = {WEIGHT: Scaled(self._m.clone(), self._m_log.clone())}
        if self._rule.kind != ADAM:
            return {MOMENTUM: first}
        return {FIRST: first, SECOND_ROOT: {WEIGHT: Scaled(self._r.clone(), self._r_log.clone())}}

    @property
    def schedule_state(self) -> ScheduleState:
        return {}
