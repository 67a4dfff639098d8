"""Many steps of many networks in one call: network.c behind tensors.

The steps are those of :mod:`implicit_bias.engine.steppers.eager` to round-off (one step to 1e-11). Covered are MLPs and CNNs
without biases, all of whose layers are trained or some frozen, with the activations linear, relu, leaky_relu, squared_relu,
quadratic and sigmoid; float64 data on a CPU and full batches; the losses cross_entropy and exponential; the schedules power and
constant; and steepest descent in linf, in l2 and in the spectral norm of layers not too large, with and without momentum,
hybrids of these, gradient descent and Adam; with decoupled weight decay where they have it. A run's numbers do not depend on its
batch, on the number of threads, nor on how its steps are shared out over calls.

Where a gradient has entries so small that one log scale a run does not hold them, that run's update is the plain one, and others'
are not. The state that such an update leaves may have a log scale an entry, which network.c has no place for: then that run's
updates stay plain ones. Plain updates of several runs are made together, so that these are the runs alone to round-off.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from implicit_bias.core.scaled import Scaled
from implicit_bias.engine.divergence import LARGEST
from implicit_bias.engine.steppers.base import Looked, Reached, Setup, Stepping
from implicit_bias.engine.steppers.eager import Eager
from implicit_bias.engine.steppers.native import network_records, records
from implicit_bias.engine.steppers.native.compiling import library
from implicit_bias.engine.steppers.native.layout import numbers
from implicit_bias.engine.steppers.native.network_buffers import Buffers, by_rows
from implicit_bias.engine.steppers.native.network_rules import (
    ACTIVATIONS,
    DEFINITIONS,
    FROZEN,
    MOST_ROWS,
    POOLS,
    network_rule_of,
)
from implicit_bias.engine.steppers.native.network_structures import MOST_LAYERS, CAsked, CLayer, CNetwork, declared
from implicit_bias.engine.steppers.native.rules import ADAM, LOSSES, NO_MOMENTUM, POLAR, SIGN, Part, Rule
from implicit_bias.engine.steppers.native.threads import by_all
from implicit_bias.engine.steppers.verification import CHECKED_RUNS
from implicit_bias.measures.averages import StepAverage
from implicit_bias.models import Gradient, Parameters
from implicit_bias.models.cnn import CNN
from implicit_bias.models.layered import Layered
from implicit_bias.models.mlp import MLP
from implicit_bias.models.network import NetworkObjective
from implicit_bias.norms.sizes import Routines
from implicit_bias.optimizers import State
from implicit_bias.optimizers.adam import FIRST, SECOND_ROOT
from implicit_bias.optimizers.descent import MOMENTUM
from implicit_bias.schedules import Constant, Power, ScheduleState

#: A truth value, and a count, of every run, (R,).
Flags = NDArray[np.bool_]
Counts = NDArray[np.int64]

SCHEDULES = frozenset({Power, Constant})
SOURCE = Path(__file__).with_name("network.c")
SYMBOLS = (
    "network_lanes",
    "network_work_size",
    "network_advance",
    "network_look",
    "network_made_with",
    "block_sizes",
    "block_products",
    "block_cosines",
    *records.SYMBOLS,
)

# Larger networks are for PyTorch's products, which use all of the processor for one run: so many multiplications of a run's
# scores are left to one thread. How many runs there are is not asked: a run's bits must not depend on it.
MOST_WORK = 100_000_000
# A call is not interrupted: so long it may take at most, about, so that Ctrl-C, the display and checkpoints come in between.
CALL_SECONDS = 0.05
MOST_STEPS = 4096
# Multiplications a second of a processor; only CALL_SECONDS depends on it.
RATE = 2e10
# Runs that are compared with plain ones have so many multiplications of scores at most, about, and are so many at least.
CHECKED_WORK, LEAST_CHECKED = 2**22, 3
# What else takes time, in multiplications: of an update, of each of its entries, and of polar factors; of large ones it is less.
LEAST_COST, UPDATE_COST, DECOMPOSITION_COST, LARGE_COST = 20_000, 10, 20, 4
LARGE_ROWS = 32
# Log losses are looked at more closely this far, relative to themselves, above the numbers that they are watched for.
BORDER = 1e-9
#: Why a run has made no more updates in a call: network.c.
ALL_MADE, LOOK, TOO_SMALL = range(3)
#: What it has found of a run that a record has looked at: an entry is too small for one log scale.
DOUBTFUL = 4


def refusal(setup: Setup) -> str | None:
    """Why there are no steps of a network in C; None: there are."""
    problem, schedule = setup.problem, setup.problem.schedule
    if problem.compile == "off":
        return "compile=off"
    if (reason := _model_refusal(setup)) is not None:
        return reason
    if problem.batch is not None:
        return "mini-batches (batch.size) of networks have no steps in C"
    if problem.data.x.device.type != "cpu" or problem.data.x.dtype != torch.float64:
        return "needs float64 data on a CPU"
    if type(schedule) not in SCHEDULES or isinstance(getattr(schedule, "power", 0.0), str):
        return f"schedule={schedule.name} has no steps of networks in C"
    rule = network_rule_of(problem.optimizer, setup.geometry, list(problem.initial))
    if rule is None:
        return f"optimizer={problem.optimizer.name}, or its norm, has no steps of networks in C"
    shapes = [block.shape[1:] for block in problem.initial.values()]
    if any(min(*shapes[part.first]) > MOST_ROWS for part in rule.parts if part.kind == POLAR):
        return f"polar factors of more than {MOST_ROWS} rows are no faster in C than by PyTorch, with all of the processor"
    if problem.compile != "on" and _work(setup) > MOST_WORK:
        return "larger networks are no faster in C than by PyTorch's products; compile=on takes C"
    return None if library(SOURCE, SYMBOLS, DEFINITIONS) else "there is no C compiler (cc, gcc, clang) that compiles them"


def _model_refusal(setup: Setup) -> str | None:
    """Why the model, with its loss, has none."""
    model, objective = setup.problem.model, setup.objective
    if type(model) not in (MLP, CNN) or type(objective) is not NetworkObjective or type(objective.loss) not in LOSSES:
        return f"model={model.name} with loss={setup.problem.loss.name} has no steps in C"
    assert isinstance(model, Layered)
    if model.activation not in ACTIVATIONS:
        return f"model.activation={model.activation} has no steps in C"
    if model.bias != "none":
        return "networks with biases have no steps in C"
    if not 2 <= model.layer_count() <= MOST_LAYERS:
        return f"networks of fewer than 2 or more than {MOST_LAYERS} layers have no steps in C"
    if model.activation == "leaky_relu" and bool(torch.as_tensor(model.slope).lt(0).any()):
        return "model.slope below zero has no steps in C"
    if isinstance(model, CNN) and model.pool == "max" and not model.pools_arguments:
        return "model.pool=max of activations that fall has no steps in C"
    return None


def _places(setup: Setup) -> list[int]:
    """How often every layer is applied to a sample: a kernel at all places of its image, a matrix once."""
    model: Any = setup.problem.model
    if not isinstance(model, CNN):
        return [1] * len(_all_layers(setup))
    side, pooled, found = math.isqrt(setup.problem.data.x.shape[-1]), 1 if model.pool == "none" else 2, []
    for _ in model.channels:
        side = (side - model.kernel + 1) // pooled
        found.append((side * pooled) ** 2)
    return [*found, 1]


def _all_layers(setup: Setup) -> Parameters:
    """The weights of all layers, frozen ones among them, in the order in which they are applied."""
    model = setup.problem.model
    assert isinstance(model, Layered)
    blocks = {**setup.problem.initial, **setup.problem.frozen}
    return {name: blocks[name] for name in model.block_names()}


def _work(setup: Setup) -> int:
    """Multiplications of a run's scores."""
    blocks = _all_layers(setup).values()
    weights = sum(places * block[0].numel() for places, block in zip(_places(setup), blocks, strict=True))
    return setup.problem.data.x.shape[1] * weights


def _by_layer(rule: Rule, trained: Sequence[str]) -> dict[str, Part]:
    """The part that each layer which is trained is in; of rules without parts, any."""
    found = {j: part for part in rule.parts for j in range(part.first, part.end)}
    return {name: found.get(j, Part(SIGN, j, j + 1)) for j, name in enumerate(trained)}


class NetworkSteps:
    """Makes many updates in a call, run by run. It holds weights and buffers as network.c has them (:class:`Buffers`).

    Args:
        setup: A batch that there is no :func:`refusal` of.

    Raises:
        ValueError: nothing can be compiled, or the batch is not covered.
    """

    stepping: ClassVar[Stepping] = "c"
    refused: ClassVar[str | None] = None
    has_threads: ClassVar[bool] = True
    evaluates: ClassVar[bool] = True
    anchor: ClassVar[None] = None

    def __init__(self, setup: Setup) -> None:
        compiled = library(SOURCE, SYMBOLS, DEFINITIONS)
        self._names = list(setup.problem.initial)
        rule = network_rule_of(setup.problem.optimizer, setup.geometry, self._names)
        if compiled is None or rule is None:
            raise ValueError(f"no steps in C: {refusal(setup)}")
        self._setup, self._compiled, self._rule = setup, compiled, rule
        self.made_with: Mapping[str, str] = declared(compiled)
        self._runs, self._state_names = setup.problem.runs, _state_names(rule)
        lanes = int(compiled.network_lanes())
        self._buffers = Buffers(_shapes(setup.problem.initial), self._runs, lanes, self._state_names)
        self._frozen = Buffers(_shapes(setup.problem.frozen), self._runs, lanes, (), trained=False)
        self._frozen.put(setup.problem.frozen, {}, range(self._runs))
        self._plain_state: State = {}  # of runs whose buffers have a log scale an entry, which is all that is right in it
        self._held_plainly, self._all_runs = torch.zeros(self._runs, dtype=torch.bool), np.ones(self._runs, dtype=bool)
        self._parameters: Parameters | None = None
        self._gradient: Gradient | None = None
        #: The gradient that the last plain update has led to, and of which runs.
        self._last_plain: tuple[tuple[int, ...], Gradient | None] | None = None
        self._setups: dict[tuple[int, ...], Setup] = {}
        #: Whether a run may have diverged in the last call, which looks at every parameter and score.
        self.suspects = True
        self._below: Tensor | None = None  # log losses that are watched, (R,)
        self._lay_out()
        self._threads = max(1, min(setup.threads, self._runs))
        self._pool = ThreadPoolExecutor(self._threads - 1) if self._threads > 1 else None
        self._routines = network_records.routines_by(compiled, self._threads, self._pool)
        self.routines: Routines | None = self._routines
        # Where losses decide what is recorded, they are PyTorch's, of the scores that network.c finds.
        self._finds = not setup.problem.watches_loss
        size = int(compiled.network_work_size(ctypes.byref(self._given)))
        self._work = [torch.empty(size, dtype=torch.float64) for _ in range(self._threads)]
        self.most_steps = self._steps_of_a_call()
        #: Steps that the next call asks for at most: runs that get further than the slowest one have them made again.
        self._reach = self.most_steps

    def _lay_out(self) -> None:
        """What network.c is given of the batch."""
        problem, rule, data = self._setup.problem, self._rule, self._setup.objective.data
        model: Any = problem.model
        eps = [math.log(eps) if eps > 0 else -math.inf for eps in numbers(rule.eps).tolist()]
        given = {
            "lr": problem.schedule.lr, "power": getattr(problem.schedule, "power", 0.0), "slope": model.slope, "beta": rule.beta,
            "gain": rule.gain, "ahead_beta": rule.ahead_beta, "ahead_gain": rule.ahead_gain, "beta2": rule.beta2,
            "log_eps": torch.tensor(eps, dtype=torch.float64), "decay": rule.decay,
        }  # fmt: skip
        self._numbers = {name: self._per_run(number) for name, number in given.items()}
        n, d = data.x.shape[1:]
        self._x, self._y = self._samples(data.x), data.y.contiguous()
        images: dict[str, int] = {}
        if isinstance(model, CNN):
            images = {"kernel": model.kernel, "pool": POOLS[model.pool], "side": math.isqrt(d)}
        parts = _by_layer(rule, self._names)
        layers = [
            CLayer(kind=parts[name].kind, weight=parts[name].weight, **self._buffers.layer(name))
            if name in parts
            else CLayer(kind=FROZEN, weight=1.0, **self._frozen.layer(name))
            for name in _all_layers(self._setup)
        ]
        self._layers = (CLayer * len(layers))(*layers)
        self._given = CNetwork(
            runs=self._runs, layers=len(layers), samples=n, features=d,
            x_run=self._x[0].numel() if len(self._x) > 1 else 0, y_run=n if len(self._y) > 1 else 0,
            loss=LOSSES[type(problem.loss)], activation=ACTIVATIONS[model.activation], rule=rule.kind, momentum=rule.momentum,
            bias_correction=rule.bias_correction, log_n=math.log(n), most=LARGEST,
            seen=self._buffers.seen.data_ptr(), seen_unit=self._buffers.unit.data_ptr(),
            **images, x=self._x.data_ptr(), y=self._y.data_ptr(), layer=self._layers,
            **{name: tensor.data_ptr() for name, tensor in self._numbers.items()},
        )  # fmt: skip

    def _per_run(self, number: Any) -> Tensor:
        if isinstance(number, Tensor):
            return numbers(number).expand(self._runs).contiguous()
        return torch.full((self._runs,), float(number), dtype=torch.float64)

    def _samples(self, x: Tensor) -> Tensor:
        """Rows of samples; or of pixels, filled up to whole vectors by the last sample."""
        if not isinstance(self._setup.problem.model, CNN):
            return x.contiguous()
        n = x.shape[1]
        lanes = int(self._compiled.network_lanes())
        return x.mT[..., torch.arange(-(-n // lanes) * lanes).clamp(max=n - 1)].contiguous()

    @property
    def check_on(self) -> int | None:
        # Every run is stepped by itself: of large ones fewer show as much.
        return max(LEAST_CHECKED, min(CHECKED_RUNS, CHECKED_WORK // _work(self._setup)))

    def load(self, start: Reached) -> None:
        self._buffers.take(start.parameters, start.state)
        self._held_plainly = ~by_rows(start.state, self._runs)
        self._plain_state = dict(start.state) if start.state and bool(self._held_plainly.any()) else {}
        self._last_plain = None
        # Whoever made the gradient there, records have one of a kind, and the next update begins with it.
        self._parameters, self._gradient = start.parameters, None

    def advance(self, first: int, last: int) -> int:
        self._parameters = self._gradient = None
        held = bool(self._plain_state)
        steps = 1 if held else min(last - first, self._reach)
        if self._runs > 1 and steps > 1:
            self._buffers.hold()
        made, why = self._call(first, steps, ~self._held_plainly.numpy() if held else self._all_runs)
        fewest, too_small = int(made.min()), (why == TOO_SMALL) & (made == 0)
        self.suspects = bool((why == LOOK).any())
        if fewest == 0:
            fewest = 1
        if (ahead := made > fewest).any():
            self._buffers.put_back(torch.from_numpy(ahead))
            self._call(first, fewest, ahead)
        if held or too_small.any():
            plainly = torch.from_numpy(too_small) | self._held_plainly
            self.suspects = self._step_plainly(first + 1, plainly) or self.suspects
        else:
            self._last_plain = None
        self._reach = 2 * fewest if fewest < steps else min(self.most_steps, max(self._reach, 2 * steps))
        return first + fewest

    def step(self, start: Reached, t: int, whole: bool = True) -> Reached:
        self.load(start)
        if whole:
            self._looked()  # as before most calls: the update is then made from what a record has found
        self.advance(t - 1, t)
        if not whole:
            return Reached(self.parameters, {})
        gradient = self.gradient
        looked = None if gradient.found is None else Looked(gradient, {}, (0.0, 0.0))
        return Reached(self.parameters, self.state, gradient, looked=looked)

    def serve(self, average: StepAverage) -> bool:
        return False

    def watch(self, below: Tensor) -> bool:
        border = (BORDER * (1 + below.abs())).masked_fill(below == -math.inf, 0.0)
        self._below = (below + border).contiguous()
        self._given.below = self._below.data_ptr()
        return True

    def _call(self, first: int, steps: int, active: Flags) -> tuple[Counts, Counts]:
        """Updates of these runs after ``first``, by all threads, this one among them; how many each has made (others: as many as
        are asked for), and why no more."""
        asked_of, made, why = active.astype(np.int64), np.full(self._runs, steps), np.zeros(self._runs, dtype=np.int64)
        asked = CAsked(
            first=first, steps=steps, seen=1, active=asked_of.ctypes.data, made=made.ctypes.data, why=why.ctypes.data
        )  # fmt: skip
        self._by_all(self._compiled.network_advance, asked, asked_of, made, why, self._below)
        return made, why

    def _by_all(self, function: Any, told: ctypes.Structure, *held: object) -> None:
        """A function of network.c by all threads, this one among them."""
        given, taken, at = ctypes.byref(self._given), ctypes.byref(ctypes.c_int64(0)), ctypes.byref(told)

        # What the call points to a thread holds until it is done, whatever becomes of this frame.
        def work(thread: int, _held: object = held) -> int:
            done: int = function(given, taken, self._work[thread].data_ptr(), at)
            return done

        by_all(work, self._threads, self._pool)

    def _looked(self) -> Gradient:
        """Loss and gradient where the next update starts, by what updates are made by; plainly of runs whose entries are too
        small."""
        shapes = {name: tuple(block.shape) for name, block in self._setup.problem.initial.items()}
        outputs, samples = self._layers[len(self._layers) - 1].units, int(self._given.samples)
        seen = network_records.Seen(shapes, outputs, samples, list(_all_layers(self._setup)))
        self._by_all(self._compiled.network_look, seen.fields, seen)
        if self._parameters is None:
            self._parameters = seen.parameters
        objective = self._setup.objective
        assert isinstance(objective, NetworkObjective)
        gradient = seen.gradient(objective, self._finds)
        places = tuple(np.flatnonzero(self._buffers.seen.numpy() & DOUBTFUL).tolist())
        if not places:
            return gradient
        at = {name: block[list(places)] for name, block in self.parameters.items()}
        return network_records.with_runs(gradient, self._of(places).objective.gradient(at), at, places, self._routines)

    def _step_plainly(self, t: int, runs: Tensor) -> bool:
        """The t-th update of these runs, as it is defined. Returns whether one may have diverged, by what network.c looks at."""
        places = tuple(int(run) for run in runs.nonzero().flatten())
        setup, index = self._of(places), torch.tensor(places)
        state = {
            key: {name: Scaled(block.mantissa[index], block.log_scale[index]) for name, block in blocks.items()}
            for key, blocks in self._state_of_all().items()
        }
        known = self._last_plain[1] if self._last_plain is not None and self._last_plain[0] == places else None
        start = Reached({name: block[index] for name, block in self._buffers.parameters().items()}, state, known)
        reached = Eager(setup).step(start, t)
        self._last_plain = places, reached.gradient
        self._buffers.put(reached.parameters, reached.state, places)
        held = ~by_rows(reached.state, len(places))
        self._held_plainly[list(places)] = held
        self._plain_state = _with(self._state_of_all(), reached.state, places) if bool(self._held_plainly.any()) else {}
        assert reached.gradient is not None
        largest = torch.stack([block.abs().amax() for block in reached.parameters.values()])
        return not (bool((largest <= LARGEST).all()) and bool(reached.gradient.total.isfinite().all()))

    def _of(self, places: tuple[int, ...]) -> Setup:
        """The batch of these runs."""
        if len(places) == self._runs:
            return self._setup
        if places not in self._setups:
            self._setups = {places: Setup.of(self._setup.problem.at(torch.tensor(places)))}
        return self._setups[places]

    def _state_of_all(self) -> State:
        """All buffers: with a log scale a row, or where some run's have one an entry, an entry."""
        state = self._buffers.state()
        if not self._plain_state:
            return state
        places = tuple(int(run) for run in self._held_plainly.nonzero().flatten())
        mine = {
            key: {name: Scaled(b.mantissa[list(places)], b.log_scale[list(places)]) for name, b in blocks.items()}
            for key, blocks in self._plain_state.items()
        }
        return _with(state, mine, places)

    @property
    def parameters(self) -> Parameters:
        if self._parameters is None:
            self._parameters = self._buffers.parameters()
        return self._parameters

    @property
    def state(self) -> State:
        return self._state_of_all()

    @property
    def gradient(self) -> Gradient:
        if self._gradient is None:
            self._gradient = self._looked()
        return self._gradient

    @property
    def schedule_state(self) -> ScheduleState:
        return {}

    def _steps_of_a_call(self) -> int:
        shapes = _shapes(self._setup.problem.initial)
        work = 3 * _work(self._setup) + LEAST_COST + UPDATE_COST * sum(rows * columns for rows, columns in shapes.values())
        for name, part in _by_layer(self._rule, self._names).items():
            rows, columns = shapes[name]
            if part.kind == POLAR:
                cost = LARGE_COST if min(rows, columns) >= LARGE_ROWS else DECOMPOSITION_COST
                work += cost * min(rows, columns) ** 2 * max(rows, columns)
        work *= -(-self._runs // self._threads)
        # One is what makes the gradient with every update, which is then looked at.
        return max(2, min(MOST_STEPS, int(CALL_SECONDS * RATE / work)))


def _shapes(blocks: Parameters) -> dict[str, tuple[int, int]]:
    """Rows and columns of blocks (R, rows, columns)."""
    return {name: (block.shape[1], block.shape[2]) for name, block in blocks.items()}


def _state_names(rule: Rule) -> tuple[str, ...]:
    """The buffers of a rule: the average, and the root of that of squares."""
    if rule.kind == ADAM:
        return FIRST, SECOND_ROOT
    return () if rule.momentum == NO_MOMENTUM else (MOMENTUM,)


def _with(state: State, part: State, places: tuple[int, ...]) -> State:
    """A state with that of these runs in its place, with a log scale an entry."""
    return {key: _with_blocks(blocks, part[key], places) for key, blocks in state.items()}


def _with_blocks(blocks: Mapping[str, Scaled], part: Mapping[str, Scaled], places: tuple[int, ...]) -> dict[str, Scaled]:
    """Blocks with those of these runs in their place, with a log scale an entry."""
    found: dict[str, Scaled] = {}
    for name, block in blocks.items():
        mantissa, log_scale = block.mantissa.clone(), block.log_scale.expand_as(block.mantissa).clone()
        mantissa[list(places)] = part[name].mantissa
        log_scale[list(places)] = part[name].log_scale.expand_as(part[name].mantissa)
        found[name] = Scaled(mantissa, log_scale)
    return found
