"""Many steps of many runs of a linear model in one call: linear.c behind tensors.

The steps are those of :mod:`implicit_bias.engine.steppers.eager` to round-off (one step to 1e-11). Covered are float64 data on a
CPU, with zeros or without, in one block or in blocks of columns, full batches and mini-batches, also with reduced variance, the
losses cross_entropy and exponential, the schedules power, constant and loss_based, and steepest descent in linf, l2, l1, l_p, the
row and the column norm, in the row space the spectral, the nuclear and the Schatten norms, and products of them, normalised or
not, with and without momentum, Lion, Muon by Newton-Schulz, and Adam; with decoupled weight decay where they have it. A run's
numbers do not depend on its batch, on the number of threads, nor on how its steps are shared out over calls.

What is covered is a table of classes (:mod:`implicit_bias.engine.steppers.native.rules`), compared by exact type: a subclass of
any of them may override anything, and is left to plain steps.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from implicit_bias.core.scaled import Scaled
from implicit_bias.engine.mini_batches import MiniBatches
from implicit_bias.engine.steppers.base import Reached, Setup, Stepping
from implicit_bias.engine.steppers.native import orders
from implicit_bias.engine.steppers.native.compiling import library
from implicit_bias.engine.steppers.native.rules import ADAM, DEFINITIONS, IN_GROUPS, LOSSES, NO_MOMENTUM, Columns, Rule, rule_of
from implicit_bias.engine.steppers.native.structures import CGroup, CPart, CSamples
from implicit_bias.engine.steppers.verification import CHECKED_RUNS
from implicit_bias.engine.variance_reduction import Anchor, anchor_due
from implicit_bias.measures.averages import StepAverage
from implicit_bias.models import Data, Gradient, Objective, Parameters
from implicit_bias.models.column_blocks import BlocksObjective
from implicit_bias.models.linear import LinearObjective
from implicit_bias.optimizers import State
from implicit_bias.optimizers.adam import FIRST, SECOND_ROOT
from implicit_bias.optimizers.descent import MOMENTUM
from implicit_bias.schedules import AUTO_POWER_LINEAR, Constant, LossBased, Power, Schedule, ScheduleState

SOURCE = Path(__file__).with_name("linear.c")
SYMBOLS = ("lanes", "work_size", "advance", "made_with", orders.SYMBOL)
# Larger problems are for PyTorch's products and decompositions, which use all of the processor for one run: the sizes n k d (n is
# the samples of an update), and the rows of a polar factor's matrices, up to which a single run is no slower in C. How many runs
# there are is not asked: a run's bits must not depend on it.
MOST_WORK, MOST_ROWS = 1_200_000, 20
# Numbers n d of a run's data, n all samples: eight copies are held where runs share them. Up to the second compile=on takes C.
MOST_NUMBERS, MOST_NUMBERS_ASKED_FOR = 2**20, 2**24

SCHEDULES = frozenset({Power, Constant, LossBased})

# A call is not interrupted: so long it may take at most, about, so that Ctrl-C, the display and checkpoints come in between.
CALL_SECONDS = 0.05
MOST_STEPS = 4096
# Updates that several groups make at least before it is seen whether a loss that is watched is low enough in one.
LEAST_STRIDE = 16
# Log losses are looked at more closely this far, relative to themselves, above the numbers that they are watched for.
BORDER = 1e-9
# Samples of mini-batches that are written down at a time, over all runs and steps of a call: 12 bytes each.
MOST_SAMPLES = 2**21
# So many runs that are left over by groups are stepped one by one in less time than a group takes: a run alone takes a third to
# an eighth of it.
MOST_ALONE, ALONE_COST = 3, 0.2
# Multiplications and exponentials a second of one lane; only CALL_SECONDS depends on it.
RATE = 2e9
EXPONENTIAL_COST, DECOMPOSITION_COST = 10, 20


def whole_of(objective: Objective) -> LinearObjective | None:
    """The linear objective of the whole matrix W, in one block or in several; None: it is of another kind."""
    whole = objective.whole if type(objective) is BlocksObjective else objective
    return whole if type(whole) is LinearObjective else None


def columns_of(setup: Setup) -> Columns:
    """The columns of W that each block has."""
    objective = setup.objective
    if not isinstance(objective, BlocksObjective):
        return {name: (0, block.shape[-1]) for name, block in setup.problem.initial.items()}
    ends = [0, *accumulate(objective.sizes)]
    return dict(zip(objective.names, pairwise(ends), strict=True))


def refusal(setup: Setup) -> str | None:
    """Why there are no steps in C; None: there are."""
    problem, objective = setup.problem, whole_of(setup.objective)
    if problem.compile == "off":
        return "compile=off"
    if problem.model.robust:
        return "gaps under perturbations (model.perturbation) have no steps in C"
    if objective is None or type(objective.loss) not in LOSSES:
        return f"model={problem.model.name} with loss={problem.loss.name} has no steps in C"
    x = objective.data.x
    if x.device.type != "cpu" or x.dtype != torch.float64:
        return "needs float64 data on a CPU"
    if type(problem.schedule) not in SCHEDULES:
        return f"schedule={problem.schedule.name} has no steps in C"
    rule = rule_of(problem.optimizer, setup.geometry, columns_of(setup))
    if rule is None:
        return f"optimizer={problem.optimizer.name}, or its norm, has no steps in C"
    if problem.compile != "on" and not _pays(rule, objective.data, problem.batch):
        return "larger problems are no faster in C than by PyTorch's products and decompositions; compile=on takes C"
    if x.shape[1] * x.shape[2] > MOST_NUMBERS_ASKED_FOR:
        return f"data of more than {MOST_NUMBERS_ASKED_FOR:,} numbers have no steps in C, which holds copies of them"
    return None if library(SOURCE, SYMBOLS, DEFINITIONS) else "there is no C compiler (cc, gcc, clang) that compiles them"


def _pays(rule: Rule, data: Data, batch: MiniBatches | None) -> bool:
    """Whether a single run is no slower in C, and copies of its data are small."""
    (n, d), k = data.x.shape[1:], data.num_classes
    size = n if batch is None else batch.size
    small = size * k * d <= MOST_WORK and n * d <= MOST_NUMBERS
    return small and all(min(k, columns) <= MOST_ROWS for columns in rule.decomposed)


def _powers(schedule: Schedule) -> list[float]:
    """The exponents of t in the step sizes, one for all runs or one each."""
    if not isinstance(schedule, Power):
        return [0.0]
    power = AUTO_POWER_LINEAR if isinstance(schedule.power, str) else schedule.power
    return _numbers(power).tolist()


def _numbers(number: Any) -> Tensor:
    """A hyper-parameter, one number or one a run, as a flat tensor of doubles: torch by itself makes a Python number single."""
    return torch.as_tensor(number, dtype=torch.float64).flatten()


def _log(number: float) -> float:
    return math.log(number) if number > 0 else -math.inf


def _told(compiled: ctypes.CDLL) -> dict[str, str]:
    """Declare the functions of the library, and ask what it was compiled with."""
    compiled.lanes.restype = compiled.work_size.restype = ctypes.c_int64
    compiled.work_size.argtypes = [ctypes.c_int64] * 7
    compiled.advance.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * 3, *[ctypes.c_void_p] * 3]
    compiled.advance.restype = ctypes.c_int64
    compiled.made_with.restype = ctypes.c_char_p
    compiler, flags = compiled.made_with().decode(errors="replace").split("\n")
    return {"compiler": compiler, "flags": flags}


class LinearSteps:
    """Makes many updates in a call. It holds parameters and buffers in the layout of linear.c: groups of LANES runs,
    (groups, rows, columns, LANES). The last runs, where they are too few for a group to pay, are stepped alone, each taken out of
    its group for the time of a call.

    Args:
        setup: A batch that there is no :func:`refusal` of.

    Attributes:
        lanes: Runs of a group.
        alone: How many of the last runs are stepped alone.

    Raises:
        ValueError: nothing can be compiled, or the optimizer is not covered.
    """

    stepping: ClassVar[Stepping] = "c"
    refused: ClassVar[str | None] = None

    def __init__(self, setup: Setup) -> None:
        compiled = library(SOURCE, SYMBOLS, DEFINITIONS)
        self._columns, objective = columns_of(setup), whole_of(setup.objective)
        rule = rule_of(setup.problem.optimizer, setup.geometry, self._columns)
        if compiled is None or rule is None or objective is None:
            raise ValueError(f"no steps in C: {refusal(setup)}")
        self._objective, self._rule, self._schedule = setup.objective, rule, setup.problem.schedule
        self._loss, self._by_entry = LOSSES[type(objective.loss)], objective.uneven
        self._batch, self._cadence = setup.problem.batch, setup.problem.cadence
        self._batch_size = 0 if self._batch is None else self._batch.size
        self._anchored = self._cadence if setup.problem.reduces_variance else 0
        self._since: int | None = None  # updates made before the anchor was taken
        self._served: StepAverage | None = None
        self._below: Tensor | None = None  # log losses that are watched, (groups, LANES)
        self._stride = LEAST_STRIDE
        self._parameters: Parameters | None = None
        self._gradient: Gradient | None = None
        self._compiled, self._advance = compiled, compiled.advance
        self.made_with: Mapping[str, str] = _told(compiled)
        self._runs, self.lanes = setup.problem.runs, int(compiled.lanes())
        self._groups, left = -(-self._runs // self.lanes), self._runs % self.lanes
        self._n, self._k, self._d = objective.data.x.shape[1], objective.data.num_classes, objective.data.x.shape[2]
        # Columns of several parts would not begin where a vector does.
        in_one = all((part.first, part.end) == (0, self._d) and part.kind not in IN_GROUPS for part in rule.parts)
        self.alone = left if left <= MOST_ALONE and in_one else 0
        self._tasks: list[tuple[int, int | None]] = [(group, None) for group in range(self._groups - bool(self.alone))]
        self._tasks += [(self._groups - 1, lane) for lane in range(self.alone)]
        parts = [CPart(first=part.first, end=part.end, kind=part.kind, weight=part.weight) for part in rule.parts]
        self._parts = (CPart * len(parts))(*parts)
        threads = max(1, min(torch.get_num_threads(), self._groups))
        size = max(
            int(compiled.work_size(alone, self._n, self._k, self._d, len(parts), self._batch_size, self._by_entry))
            for alone in {lane is not None for _, lane in self._tasks}
        )
        self._work = [torch.empty(size, dtype=torch.float64) for _ in range(threads)]
        self._lay_out(objective)
        self.most_steps = self._steps_of_a_call()

    def _lay_out(self, objective: LinearObjective) -> None:
        """Arrays for linear.c: the data, the rule's numbers, and empty parameters and buffers."""
        rule = self._rule
        self._lr, self._powers = _numbers(self._schedule.lr).unsqueeze(-1), _powers(self._schedule)
        self._x, self._y = self._data(objective.data)
        self._own = self._data_alone(objective.data)
        like = (self._groups, self._k, self._d, self.lanes)
        empty = (torch.zeros(like, dtype=torch.float64) for _ in range(5))
        self._w, self._m, self._r, self._anchor, self._certificate = empty
        scales = like if self._by_entry else (*like[:2], 1, like[3])
        self._m_log, self._r_log = (torch.full(scales, -math.inf, dtype=torch.float64) for _ in range(2))
        self._numbers = {
            "beta": self._per_run(rule.beta),
            "gain": self._per_run(rule.gain),
            "ahead_beta": self._per_run(rule.ahead_beta),
            "ahead_gain": self._per_run(rule.ahead_gain),
            "beta2": self._per_run(rule.beta2),
            "log_eps": self._per_run([_log(eps) for eps in _numbers(rule.eps).tolist()]),
            "decay": self._per_run(rule.decay),
            "dual_exponent": self._per_run(rule.dual_exponent),
            "smallest_row": self._per_run(objective.smallest_row),
        }
        self._doubtful = self._in_lanes(objective.doubtful.expand(self._runs, -1, -1))
        self._coefficients = torch.tensor(rule.triples, dtype=torch.float64)

    @property
    def check_on(self) -> int | None:
        # A run more where the last are alone, so that one of each kind is compared.
        return CHECKED_RUNS + bool(self.alone)

    def load(self, start: Reached) -> None:
        self._w = self._in_lanes(self._joined(start.parameters))
        for buffer, blocks in start.state.items():
            mantissa, log_scale = (self._in_lanes(part) for part in self._joined_buffer(blocks))
            if buffer == SECOND_ROOT:
                self._r, self._r_log = mantissa, log_scale
            else:
                self._m, self._m_log = mantissa, log_scale
        self._since = None
        if start.anchor is not None:
            self._anchor, self._since = self._in_lanes(self._joined(start.anchor.parameters)), start.anchor.since
        self._parameters, self._gradient = start.parameters, start.gradient

    def advance(self, first: int, last: int) -> int:
        average = self._served
        if average is None:
            return self._watched(first, last, [0.0] * (last - first))
        if average.value:
            self._certificate = self._in_lanes(self._joined(average.value))
        shares = [0.0] * (last - first)
        for look in range(-(-first // self._cadence), (last - 1) // self._cadence + 1):
            shares[look * self._cadence - first] = average.share_of(look)
        reached = self._watched(first, last, shares)
        average.value, average.count = self._cut(self._certificate), average.wanted((reached - 1) // self._cadence)
        return reached

    def step(self, start: Reached, t: int) -> Reached:
        self.load(start)
        self._make(t - 1, t, [0.0])
        return Reached(self.parameters, self.state, anchor=self.anchor)

    def serve(self, average: StepAverage) -> bool:
        if self._served is not None:
            return False
        self._served = average
        return True

    def watch(self, below: Tensor) -> bool:
        border = (BORDER * (1 + below.abs())).masked_fill(below == -math.inf, 0.0)
        self._below = self._per_run(below + border)
        return True

    def _watched(self, first: int, last: int, shares: Sequence[float]) -> int:
        """Updates first + 1 to last, or to where a loss that is watched is low enough; where that is.

        All runs end at one step: those that have gone beyond it go there again from where they were. So that this is not far,
        as many updates are made at a time as the last such part had when a loss was low enough, and twice as many while none is.
        """
        if self._below is None:
            return self._make(first, last, shares)
        t, stride = first, self._stride if len(self._tasks) > 1 else last - first
        while t < last:
            end = min(last, t + stride)
            before = self._held()
            reached = self._make(t, end, shares[t - first : end - first], watched=True, seen=t == first)
            if reached < end:
                if len(self._tasks) > 1:
                    self._put_back(before)
                    self._make(t, reached, shares[t - first : reached - first])
                self._stride = max(LEAST_STRIDE, reached - t)
                return reached
            t, stride = end, min(2 * stride, self.most_steps)
        self._stride = stride
        return last

    def _held(self) -> tuple[Any, ...]:
        """What updates change."""
        arrays = (self._w, self._m, self._m_log, self._r, self._r_log, self._anchor, self._certificate)
        return (self._since, *(array.clone() for array in arrays)) if len(self._tasks) > 1 else ()

    def _put_back(self, held: tuple[Any, ...]) -> None:
        self._since, self._w, self._m, self._m_log, self._r, self._r_log, self._anchor, self._certificate = held

    def _make(self, first: int, last: int, shares: Sequence[float], watched: bool = False, seen: bool = True) -> int:
        """Updates first + 1 to last; or, where losses are watched, in every group to where the first of its own is low enough.
        Returns to where the first group has come.

        Args:
            first: The updates made before.
            last: The last one.
            shares: ``shares[s]``, where not zero, is the weight in the certificates' average of the gradient at step first + s.
            watched: Whether losses are watched.
            seen: Whether that after the first updates has been looked at.
        """
        self._anchor_for(first)
        self._parameters = self._gradient = None
        if first == last:
            return last
        eta, index = self._step_sizes(first, last), self._samples(first, last)
        share = torch.tensor(shares, dtype=torch.float64)
        waiting = iter(self._tasks)

        def work(memory: Tensor) -> int:
            fewest = last - first
            for group, lane in waiting:  # each to the first thread that is free
                arguments = ctypes.byref(self._group(group, lane, memory, watched))
                samples = None if index is None else index[group].data_ptr()
                made = self._advance(arguments, first, fewest, seen, eta[group].data_ptr(), share.data_ptr(), samples)
                fewest = min(fewest, made)  # no group needs to go further than another that has ended
            return fewest

        if len(self._work) == 1:
            reached = first + work(self._work[0])
        else:
            with ThreadPoolExecutor(len(self._work)) as pool:
                reached = first + min(done.result() for done in [pool.submit(work, memory) for memory in self._work])
        if self._anchored:
            self._since = anchor_due(reached, self._anchored)
        return reached

    def _anchor_for(self, first: int) -> None:
        """Raises ValueError where the first update after ``first`` needs an anchor that is not held."""
        due = anchor_due(first + 1, self._anchored) if self._anchored else first
        if due != first and due != self._since:
            raise ValueError(f"update {first + 1} needs the parameters after update {due}, at which its anchor was due")

    @property
    def parameters(self) -> Parameters:
        # Made when they are first looked at, as the gradient.
        if self._parameters is None:
            self._parameters = self._cut(self._w)
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
        first = self._buffer(self._m, self._m_log)
        if self._rule.kind != ADAM:
            return {MOMENTUM: first}
        return {FIRST: first, SECOND_ROOT: self._buffer(self._r, self._r_log)}

    @property
    def schedule_state(self) -> ScheduleState:
        return {}

    @property
    def anchor(self) -> Anchor | None:
        return None if self._since is None else Anchor(self._since, self._cut(self._anchor), self._objective.gradient)

    def _group(self, group: int, lane: int | None, memory: Tensor, watched: bool) -> CGroup:
        """What linear.c is given: a group, or the run in one lane of it alone."""

        def at(tensor: Tensor) -> int:
            """Its part of this group; data that all runs share are there once."""
            return tensor.data_ptr() + (8 * tensor.stride(0) * group if tensor.shape[0] > 1 else 0)

        held = {"w": self._w, "m": self._m, "m_log": self._m_log, "r": self._r, "r_log": self._r_log, "anchor": self._anchor}
        rule, n = self._rule, self._n
        samples = CSamples(count=n, n=n, log_n=math.log(n), x=0, columns=0, y=0)
        if lane is None:
            samples.x, samples.y = at(self._x), at(self._y)
        else:
            rows, columns, labels = (part[min(lane, len(part) - 1)] for part in self._own)
            samples.n = labels.numel() // self.lanes
            samples.x, samples.columns, samples.y = rows.data_ptr(), columns.data_ptr(), labels.data_ptr()
        return CGroup(
            alone=lane is not None, lane=lane or 0, features=self._d,
            k=self._k, d=self._d, loss=self._loss, rule=rule.kind, momentum=rule.momentum,
            bias_correction=rule.bias_correction, iterations=len(rule.triples),
            coefficients=self._coefficients.data_ptr(), by_dual=rule.by_dual, clip=rule.clip,
            parts=len(self._parts), outer=rule.outer, part=self._parts,
            samples=samples, batch=self._batch_size, log_batch=math.log(self._batch_size or self._n), anchored=self._anchored,
            per_loss=self._schedule.per_loss, from_first=rule.from_first, entries=self._by_entry,
            watched=self._cadence if watched else 0, asks_loss=watched or self._schedule.per_loss,
            below=None if self._below is None else at(self._below),
            doubtful=at(self._doubtful), certificate=at(self._certificate), work=memory.data_ptr(),
            **{key: at(tensor) for key, tensor in (held | self._numbers).items()},
        )  # fmt: skip

    def _data(self, data: Data) -> tuple[Tensor, Tensor]:
        """Samples (groups, n, d, LANES) and labels (groups, n, LANES) of the runs that are not alone, one group where all share
        them."""
        runs = self._runs - self.alone
        x, y = data.x[:runs], data.y[:runs]
        if runs and len(x) == len(y) == 1:
            lanes = self.lanes
            return x.unsqueeze(-1).expand(-1, -1, -1, lanes).contiguous(), y.unsqueeze(-1).expand(-1, -1, lanes).contiguous()
        labels = self._in_lanes(y.expand(runs, -1).unsqueeze(-1))
        return self._in_lanes(x.expand(runs, -1, -1)), labels.squeeze(2).contiguous()

    def _data_alone(self, data: Data) -> tuple[Tensor, Tensor, Tensor]:
        """Of the runs that are alone: samples (runs, n, d), the same transposed, and labels (runs, n), in whole vectors; one run
        where all share them."""
        x, y = (part[-self.alone :] if self.alone else part[:0] for part in (data.x, data.y))
        return self._in_vectors(x), self._in_vectors(x.mT), self._in_vectors(y)

    def _in_vectors(self, tensor: Tensor) -> Tensor:
        """The same with rows filled up to whole vectors, by their last entry."""
        length = tensor.shape[-1]
        places = torch.arange(-(-length // self.lanes) * self.lanes).clamp(max=length - 1)
        return tensor[..., places].contiguous()

    def _in_lanes(self, tensor: Tensor) -> Tensor:
        """(R, rows, columns) to (groups, rows, columns, LANES); lanes that are left over repeat the last run."""
        spare = -len(tensor) % self.lanes
        padded = torch.cat([tensor, tensor[-1:].expand(spare, *tensor.shape[1:])]) if spare else tensor
        grouped = padded.reshape(len(padded) // self.lanes, self.lanes, *tensor.shape[1:])
        return grouped.permute(0, 2, 3, 1).contiguous()

    def _by_run(self, tensor: Tensor) -> Tensor:
        # Laid out run by run: a sum over a run's entries rounds by how they lie in memory.
        runs = tensor.permute(0, 3, 1, 2).reshape(-1, *tensor.shape[1:3])[: self._runs]
        return runs.clone(memory_format=torch.contiguous_format)

    def _joined(self, blocks: Mapping[str, Tensor]) -> Tensor:
        """The whole matrix, (R, k, d), of blocks of its columns."""
        return torch.cat([blocks[name] for name in self._columns], dim=-1)

    def _joined_buffer(self, blocks: Mapping[str, Scaled]) -> tuple[Tensor, Tensor]:
        """Mantissas (R, k, d) and log scales (R, k, 1), or (R, k, d) where entries have their own, of the whole matrix."""
        if self._by_entry:
            mantissas = {name: block.mantissa for name, block in blocks.items()}
            return self._joined(mantissas), self._joined({name: block.log_scale for name, block in blocks.items()})
        unit = torch.stack([blocks[name].log_scale for name in self._columns]).amax(dim=0)
        known = torch.where(torch.isfinite(unit), unit, torch.zeros_like(unit))
        return self._joined({name: block.relative_to(known) for name, block in blocks.items()}), unit

    def _cut(self, tensor: Tensor) -> Parameters:
        """Blocks (R, k, columns) of (groups, k, d, LANES)."""
        return {name: self._by_run(tensor[:, :, first:end]) for name, (first, end) in self._columns.items()}

    def _buffer(self, mantissa: Tensor, log_scale: Tensor) -> dict[str, Scaled]:
        scales = self._cut(log_scale) if self._by_entry else dict.fromkeys(self._columns, self._by_run(log_scale))
        return {name: Scaled(block, scales[name]) for name, block in self._cut(mantissa).items()}

    def _per_run(self, number: Any) -> Tensor:
        """A number, or one a run, as (groups, LANES)."""
        tensor = _numbers(number).view(-1, 1, 1).expand(self._runs, 1, 1)
        return self._in_lanes(tensor)[:, 0, 0].contiguous()

    def _samples(self, first: int, last: int) -> Tensor | None:
        """The samples of updates first + 1 to last, (groups, steps, batch, LANES); None where every update takes all."""
        if self._batch is None:
            return None
        table = orders.table(self._batch, first, last, self._compiled)
        return self._in_lanes(table.expand(self._runs, -1, -1))

    def _step_sizes(self, first: int, last: int) -> Tensor:
        """eta_t for t = first + 1, ..., last: (groups, steps, LANES)."""
        # Number by number: torch's power rounds by a number's place in its tensor, and calls may be of any length.
        shrunk = [[t**-power for t in range(first + 1, last + 1)] for power in self._powers]
        sizes = torch.tensor(shrunk, dtype=torch.float64) * self._lr
        return self._in_lanes(sizes.expand(self._runs, -1).unsqueeze(-1))[:, :, 0].contiguous()

    def _steps_of_a_call(self) -> int:
        n, k, d = self._batch_size or self._n, self._k, self._d
        work = 2 * n * k * d + EXPONENTIAL_COST * n * k
        work += sum(DECOMPOSITION_COST * min(k, columns) ** 2 * max(k, columns) for columns in self._rule.decomposed)
        work *= 3 if self._anchored else 1  # the batch's gradient twice, and now and then that of all samples
        rounds = -(-(self._groups - bool(self.alone)) // len(self._work)) + ALONE_COST * self.alone
        most = MOST_STEPS if self._batch is None else min(MOST_STEPS, MOST_SAMPLES // (self._runs * self._batch.size))
        return max(1, min(most, int(CALL_SECONDS * RATE / (work * rounds))))
