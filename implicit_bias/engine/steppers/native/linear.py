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
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from implicit_bias.core.scaled import Scaled
from implicit_bias.engine.mini_batches import MiniBatches
from implicit_bias.engine.record_times import record_steps
from implicit_bias.engine.steppers.base import Looked, Reached, Setup, Stepping
from implicit_bias.engine.steppers.native import orders, records
from implicit_bias.engine.steppers.native.compiling import library
from implicit_bias.engine.steppers.native.layout import Layout, Shares, log, numbers
from implicit_bias.engine.steppers.native.rules import ADAM, DEFINITIONS, IN_GROUPS, LOSSES, NO_MOMENTUM, Columns, Rule, rule_of
from implicit_bias.engine.steppers.native.structures import CCall, CGroup, CPart, CSamples, CTask, declared
from implicit_bias.engine.steppers.native.threads import by_all
from implicit_bias.engine.steppers.verification import CHECKED_RUNS
from implicit_bias.engine.variance_reduction import Anchor, anchor_due
from implicit_bias.measures.averages import StepAverage
from implicit_bias.models import Data, Gradient, Objective, Parameters
from implicit_bias.models.column_blocks import BlocksObjective
from implicit_bias.models.linear import LinearObjective
from implicit_bias.norms.sizes import Routines
from implicit_bias.optimizers import State
from implicit_bias.optimizers.adam import FIRST, SECOND_ROOT
from implicit_bias.optimizers.descent import MOMENTUM
from implicit_bias.schedules import AUTO_POWER_LINEAR, Constant, LossBased, Power, Schedule, ScheduleState

SCHEDULES = frozenset({Power, Constant, LossBased})
SOURCE = Path(__file__).with_name("linear.c")
SYMBOLS = ("lanes", "work_size", "advance_all", "made_with", orders.SYMBOL, *records.SYMBOLS)
# Larger problems are for PyTorch's products and decompositions, which use all of the processor for one run: the sizes n k d (n is
# the samples of an update), and the rows of a polar factor's matrices, up to which a single run is no slower in C. How many runs
# there are is not asked: a run's bits must not depend on it.
MOST_WORK, MOST_ROWS = 1_200_000, 20
# Numbers n d of a run's data, n all samples: eight copies are held where runs share them. Up to the second compile=on takes C.
MOST_NUMBERS, MOST_NUMBERS_ASKED_FOR = 2**20, 2**24

# A call is not interrupted: so long it may take at most, about, so that Ctrl-C, the display and checkpoints come in between.
CALL_SECONDS = 0.05
MOST_STEPS = 4096
# Updates that several groups make at least before it is seen whether a loss that is watched is low enough in one.
LEAST_STRIDE = 16
# Log losses are looked at more closely this far, relative to themselves, above the numbers that they are watched for.
BORDER = 1e-9
# How much of the gradients before and after an update an average takes in that is compared.
CHECKED_SHARES = (0.75, 0.25)
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


def _power(schedule: Schedule) -> Any:
    """The exponent of t in the step sizes, one for all runs or one each."""
    if not isinstance(schedule, Power):
        return 0.0
    return AUTO_POWER_LINEAR if isinstance(schedule.power, str) else schedule.power


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
    has_threads: ClassVar[bool] = True
    evaluates: ClassVar[bool] = False
    refused: ClassVar[str | None] = None
    suspects: ClassVar[bool] = True

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
        # Where losses decide what is recorded, these are the plain ones, so that records are at the steps of plain runs.
        self._sees_plainly = setup.problem.watches_loss
        self._recorded = frozenset(record_steps(setup.problem.steps, setup.problem.points))
        self._since: int | None = None  # updates made before the anchor was taken
        self._served: StepAverage | None = None
        self._average: Parameters | None = None  # the value of that, where the array in lanes is the same
        self._below: Tensor | None = None  # log losses that are watched, (groups, LANES)
        self._stride = LEAST_STRIDE
        self._parameters: Parameters | None = None
        self._gradient: Gradient | None = None
        self._seen: records.Seen | None = None  # what the last call has looked at
        self._given: ctypes.Array[CTask] | None = None  # what linear.c gets, until an array is another one
        self._compiled = compiled
        self.made_with: Mapping[str, str] = declared(compiled)
        self._runs, self.lanes = setup.problem.runs, int(compiled.lanes())
        self._layout = Layout(self._runs, self.lanes)
        self._groups, left = self._layout.groups, self._runs % self.lanes
        self._n, self._k, self._d = objective.data.x.shape[1], objective.data.num_classes, objective.data.x.shape[2]
        # Columns of several parts would not begin where a vector does.
        in_one = all((part.first, part.end) == (0, self._d) and part.kind not in IN_GROUPS for part in rule.parts)
        self.alone = left if left <= MOST_ALONE and in_one else 0
        self._tasks: list[tuple[int, int | None]] = [(group, None) for group in range(self._groups - bool(self.alone))]
        self._tasks += [(self._groups - 1, lane) for lane in range(self.alone)]
        self._shape = (self._runs, self._n, self._k, self._d)
        parts = [CPart(first=part.first, end=part.end, kind=part.kind, weight=part.weight) for part in rule.parts]
        self._parts = (CPart * len(parts))(*parts)
        self._threads = max(1, min(setup.threads, self._groups))
        self._pool = ThreadPoolExecutor(self._threads - 1) if self._threads > 1 else None
        self.routines: Routines | None = records.routines_by(compiled, self._threads, self._pool)
        sizes = (self._n, self._k, self._d, len(parts), self._batch_size, self._by_entry)
        size = max(int(compiled.work_size(alone, *sizes)) for alone in {lane is not None for _, lane in self._tasks})
        self._work = [torch.empty(size, dtype=torch.float64) for _ in range(self._threads)]
        self._eta = torch.empty(self._threads, 0, dtype=torch.float64)  # step sizes of a call
        self._lay_out(objective)
        self.most_steps = self._steps_of_a_call()

    def _lay_out(self, objective: LinearObjective) -> None:
        """Arrays for linear.c: the data, the rule's numbers, and empty parameters and buffers."""
        rule = self._rule
        self._lr, self._power = self._layout.per_run(self._schedule.lr), self._layout.per_run(_power(self._schedule))
        self._x, self._y = self._layout.data(objective.data, self.alone)
        self._own = self._layout.data_alone(objective.data, self.alone) if self.alone else ()
        like = (self._groups, self._k, self._d, self.lanes)
        empty = (torch.zeros(like, dtype=torch.float64) for _ in range(5))
        self._w, self._m, self._r, self._anchor, self._certificate = empty
        scales = like if self._by_entry else (*like[:2], 1, like[3])
        self._m_log, self._r_log = (torch.full(scales, -math.inf, dtype=torch.float64) for _ in range(2))
        self._numbers = {
            "beta": self._layout.per_run(rule.beta),
            "gain": self._layout.per_run(rule.gain),
            "ahead_beta": self._layout.per_run(rule.ahead_beta),
            "ahead_gain": self._layout.per_run(rule.ahead_gain),
            "beta2": self._layout.per_run(rule.beta2),
            "log_eps": self._layout.per_run(torch.tensor([log(eps) for eps in numbers(rule.eps).tolist()], dtype=torch.float64)),
            "decay": self._layout.per_run(rule.decay),
            "dual_exponent": self._layout.per_run(rule.dual_exponent),
            "smallest_row": self._layout.per_run(objective.smallest_row),
        }
        self._doubtful = self._layout.in_lanes(objective.doubtful.expand(self._runs, -1, -1))
        self._coefficients = torch.tensor(rule.triples, dtype=torch.float64)

    @property
    def check_on(self) -> int | None:
        # A run more where the last are alone, so that one of each kind is compared.
        return CHECKED_RUNS + bool(self.alone)

    def load(self, start: Reached) -> None:
        # Into the arrays that there are: what linear.c is given points to them.
        self._w.copy_(self._layout.in_lanes(self._joined(start.parameters)))
        for buffer, blocks in start.state.items():
            to = (self._r, self._r_log) if buffer == SECOND_ROOT else (self._m, self._m_log)
            for array, part in zip(to, self._joined_buffer(blocks), strict=True):
                array.copy_(self._layout.in_lanes(part))
        self._since = None
        if start.anchor is not None:
            self._anchor.copy_(self._layout.in_lanes(self._joined(start.anchor.parameters)))
            self._since = start.anchor.since
        # Whoever made the gradient there, records have one of a kind.
        self._seen = None
        self._parameters, self._gradient = start.parameters, start.gradient if self._sees_plainly else None

    def advance(self, first: int, last: int) -> int:
        average = self._served
        shares = np.zeros(last - first + 1)
        if average is None:
            return self._watched(first, last, shares)
        if average.value and average.value is not self._average:
            self._certificate.copy_(self._layout.in_lanes(self._joined(average.value)))
        looks = range(-(-first // self._cadence), last // self._cadence + 1)
        shares[looks.start * self._cadence - first :: self._cadence] = average.shares(looks)
        reached = self._watched(first, last, shares)
        seen = None if self._seen is None else self._seen.average
        # The last is in it where it has been looked at.
        average.count = average.wanted((reached if seen is not None else reached - 1) // self._cadence)
        average.value = self._average = self._cut(self._certificate) if seen is None else self._cut_runs(seen)
        return reached

    def step(self, start: Reached, t: int, whole: bool = True) -> Reached:
        self.load(start)
        if not whole:
            self._make(t - 1, t, np.zeros(2))
            return Reached(self.parameters, {}, anchor=self.anchor)
        self._certificate.zero_()
        self._make(t - 1, t, np.array(CHECKED_SHARES), looks=True, averages=True)
        seen, self._average = self._seen, None
        assert seen is not None and seen.average is not None
        self._certificate.zero_()
        gradient = seen.gradient(self._cut_runs, self._objective, parameters := self._cut_runs(seen.parameters))
        looked = Looked(gradient, self._cut_runs(seen.average), CHECKED_SHARES)
        return Reached(parameters, self.state, anchor=self.anchor, looked=looked)

    def serve(self, average: StepAverage) -> bool:
        if self._served is not None:
            return False
        self._served = average
        return True

    def watch(self, below: Tensor) -> bool:
        border = (BORDER * (1 + below.abs())).masked_fill(below == -math.inf, 0.0)
        self._below = self._layout.per_run(below + border)
        self._given = None
        return True

    def _watched(self, first: int, last: int, shares: Shares) -> int:
        """Updates first + 1 to last, or to where a loss that is watched is low enough; where that is.

        All runs end at one step: those that have gone beyond it go there again from where they were. So that this is not far,
        as many updates are made at a time as the last such part had when a loss was low enough, and twice as many while none is.
        """
        if self._below is None:
            return self._make(first, last, shares, looks=last in self._recorded and not self._sees_plainly)
        t, stride = first, self._stride if len(self._tasks) > 1 else last - first
        while t < last:
            end = min(last, t + stride)
            before = self._held()
            reached = self._make(t, end, shares[t - first : end - first + 1], watched=True, seen=t == first)
            if reached < end:
                if len(self._tasks) > 1:
                    self._put_back(before)
                    self._make(t, reached, shares[t - first : reached - first + 1])
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
        self._given = None
        self._since, self._w, self._m, self._m_log, self._r, self._r_log, self._anchor, self._certificate = held

    def _make(
        self, first: int, last: int, shares: Shares, watched: bool = False, seen: bool = True, *,
        looks: bool = False, averages: bool = False,
    ) -> int:  # fmt: skip
        """Updates first + 1 to last; or, where losses are watched, in every group to where the first of its own is low enough.
        Returns to where the first group has come.

        Args:
            first: The updates made before.
            last: The last one.
            shares: ``shares[s]``, where not zero, is the weight in the certificates' average of the gradient at step first + s;
                of that at the last where it is looked at there.
            watched: Whether losses are watched.
            seen: Whether that after the first updates has been looked at.
            looks: Whether a record follows: then it is looked at what that needs while a group's data are in the cache.
            averages: Whether at the certificates' average, too, though none is served.
        """
        self._anchor_for(first)
        self._parameters = self._gradient = self._seen = None
        if first == last:
            return last
        look = records.Seen(self._shape, self._by_entry, averages or self._served is not None) if looks else None
        reached, self._seen = first + self._call(first, last - first, shares, look, watched, seen), look
        if self._anchored:
            self._since = anchor_due(reached, self._anchored)
        return reached

    def _call(
        self, first: int, steps: int, shares: Shares, look: records.Seen | None, watched: bool = False, seen: bool = True
    ) -> int:
        """So many updates after ``first`` by all threads, this one among them, and what a record needs, if one follows.

        Returns how many have been made.
        """
        if self._given is None:
            self._given = (CTask * len(self._tasks))(*(self._task(group, lane) for group, lane in self._tasks))
        if self.lanes * steps > self._eta.shape[1]:
            self._eta = torch.empty(self._threads, self.lanes * steps, dtype=torch.float64)
        index = self._samples(first, first + steps)
        call = CCall(
            tasks=len(self._tasks), first=first, steps=steps, seen=seen, watched=self._cadence if watched else 0,
            share=shares.ctypes.data, index=None if index is None else index.data_ptr(),
            index_size=0 if index is None else index.stride(0),
            look=None if look is None else ctypes.addressof(look.fields), look_share=float(shares[steps]),
        )  # fmt: skip
        tasks, taken, given, eta = self._given, ctypes.byref(ctypes.c_int64(0)), ctypes.byref(call), self._eta

        # What the call points to a thread holds until it is done, whatever becomes of this frame.
        def work(thread: int, _held: object = (shares, index, look)) -> int:
            scratch = self._work[thread].data_ptr(), eta[thread].data_ptr()
            made: int = self._compiled.advance_all(tasks, taken, *scratch, given)
            return made

        return by_all(work, self._threads, self._pool)

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
        if self._gradient is None and self._sees_plainly:
            self._gradient = self._objective.gradient(self.parameters)
        elif self._gradient is None:
            seen = self._seen or self._looked()
            if self._parameters is None:
                self._parameters = self._cut_runs(seen.parameters)
            self._gradient = seen.gradient(self._cut_runs, self._objective, self._parameters)
        return self._gradient

    def _looked(self) -> records.Seen:
        """Loss and gradient of all samples where the next update starts, by the kernel that updates are made by."""
        seen = records.Seen(self._shape, self._by_entry)
        self._call(0, 0, np.zeros(1), seen)
        return seen

    def _cut_runs(self, tensor: Tensor) -> Parameters:
        """Blocks (R, k, columns) of (R, k, d)."""
        if len(self._columns) == 1:
            return dict.fromkeys(self._columns, tensor)
        return {name: tensor[:, :, first:end].contiguous() for name, (first, end) in self._columns.items()}

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

    def _task(self, group: int, lane: int | None) -> CTask:
        """What linear.c is given: a group, or the run in one lane of it alone."""
        first = group * self.lanes + (lane or 0)
        runs = min(self.lanes, self._runs - first) if lane is None else 1
        lr, power = (8 * self.lanes * group + numbers.data_ptr() for numbers in (self._lr, self._power))
        return CTask(group=self._group(group, lane), lr=lr, power=power, place=group, first=first, runs=runs)

    def _group(self, group: int, lane: int | None) -> CGroup:
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
            asks_loss=self._schedule.per_loss,
            below=None if self._below is None else at(self._below),
            doubtful=at(self._doubtful), certificate=at(self._certificate),
            **{key: at(tensor) for key, tensor in (held | self._numbers).items()},
        )  # fmt: skip

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
        return {name: self._layout.by_run(tensor[:, :, first:end]) for name, (first, end) in self._columns.items()}

    def _buffer(self, mantissa: Tensor, log_scale: Tensor) -> dict[str, Scaled]:
        scales = self._cut(log_scale) if self._by_entry else dict.fromkeys(self._columns, self._layout.by_run(log_scale))
        return {name: Scaled(block, scales[name]) for name, block in self._cut(mantissa).items()}

    def _samples(self, first: int, last: int) -> Tensor | None:
        """The samples of updates first + 1 to last, (groups, steps, batch, LANES); None where every update takes all."""
        if self._batch is None:
            return None
        table = orders.table(self._batch, first, last, self._compiled)
        return self._layout.in_lanes(table.expand(self._runs, -1, -1))

    def _steps_of_a_call(self) -> int:
        n, k, d = self._batch_size or self._n, self._k, self._d
        work = 2 * n * k * d + EXPONENTIAL_COST * n * k
        work += sum(DECOMPOSITION_COST * min(k, columns) ** 2 * max(k, columns) for columns in self._rule.decomposed)
        work *= 3 if self._anchored else 1  # the batch's gradient twice, and now and then that of all samples
        rounds = -(-(self._groups - bool(self.alone)) // self._threads) + ALONE_COST * self.alone
        most = MOST_STEPS if self._batch is None else min(MOST_STEPS, MOST_SAMPLES // (self._runs * self._batch.size))
        return max(1, min(most, int(CALL_SECONDS * RATE / (work * rounds))))
