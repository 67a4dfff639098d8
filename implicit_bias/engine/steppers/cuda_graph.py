"""Steps recorded once as a CUDA graph, and played back: of a small batch on a GPU most of the time goes into starting kernels.

A graph reads and writes memory of its own. What an update starts from is copied there, and what it leaves is copied out. Recorded
is what :mod:`implicit_bias.engine.steppers.torch_compile` compiles, the update and the first part of the next gradient; whether
that part is exact is looked at after it, as in plain steps. A step that waits for the host in between (a decomposition, a look
at a number) cannot be recorded: before anything is, one is made under torch's check for that, and plain steps are made where it
fails.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import fields, is_dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from implicit_bias.engine.problem import Tell
from implicit_bias.engine.steppers.base import Setup, Stepping
from implicit_bias.engine.steppers.eager import Advance, Advanced, Eager, plain_step
from implicit_bias.engine.steppers.torch_compile import TensorStep, in_a_line, tensor_step
from implicit_bias.models import Objective
from implicit_bias.models.column_blocks import BlocksObjective
from implicit_bias.norms.blocks import WholeVector
from implicit_bias.optimizers import Here

# To record takes a few ten milliseconds.
REPAID_STEPS = 100
# Updates whose state has other buffers than those before are recorded anew; more kinds than these no method has.
MOST_GRAPHS = 4

#: Does again what was recorded.
Replay = Callable[[], None]
#: Records what a function does to memory; returns how to do it again, and what the function has returned.
Record = Callable[[Callable[[], Any]], tuple[Replay, Any]]


def refusal(setup: Setup) -> str | None:
    """Why steps are not recorded; None: they can be."""
    problem = setup.problem
    if problem.compile == "off":
        return "compile=off"
    if problem.data.x.device.type != "cuda":
        return "needs a CUDA GPU"
    if problem.batch is not None:
        return "mini-batches (batch.size) are not recorded"
    if setup.objective.kinks:
        return "steps that end at kinks of the gaps (model.perturbation) are not recorded"
    if not problem.model.linear:
        return "gradients of networks are not recorded"
    if not isinstance(setup.geometry, WholeVector):
        return "steps that work on matrices wait for the host"
    if not problem.optimizer.needs_gradient_only:
        return f"optimizer={problem.optimizer.name} looks at more than the gradient"
    if problem.steps < REPAID_STEPS:
        return f"fewer than {REPAID_STEPS} steps do not repay recording"
    return None


def recorded(work: Callable[[], Any]) -> tuple[Replay, Any]:
    """Record a CUDA graph of what ``work`` does.

    Raises:
        RuntimeError: it waits for the host.
    """
    before, mode = torch.cuda.current_stream(), torch.cuda.get_sync_debug_mode()
    aside = torch.cuda.Stream()
    aside.wait_stream(before)
    try:
        with torch.cuda.stream(aside):
            work()  # makes what is made once
            _look_for_waits("error")
            work()
    finally:
        _look_for_waits(mode)
        before.wait_stream(aside)  # also where it fails: what was begun there may still read what is freed here
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            made = work()
    finally:
        torch.cuda.set_stream(before)  # a recording that fails stays in its own
    return graph.replay, made


def _look_for_waits(mode: int | str) -> None:
    """Set torch's check for what makes the host wait, which says each time that it is not finished."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Synchronization debug mode")
        torch.cuda.set_sync_debug_mode(mode)


def _copied(objective: Objective) -> Objective:
    """The same with memory of its own for scores: a recorded step writes to it."""
    own = copy(objective)
    if isinstance(own, BlocksObjective):
        own.whole = copy(own.whole)
    return own


class CudaGraph(Eager):
    """Makes one update at a time by a recorded one.

    Args:
        setup: A batch that there is no :func:`refusal` of.
        record: :func:`recorded`, unless it is tried without a GPU.
    """

    def __init__(self, setup: Setup, record: Record = recorded) -> None:
        problem = setup.problem
        plain = plain_step(problem.optimizer, setup.geometry, setup.objective)
        step = tensor_step(problem.optimizer, setup.geometry, _copied(setup.objective))
        self._recording = Recording(plain, step, setup.objective, problem.tell, record)
        super().__init__(setup, self._recording)

    @property
    def stepping(self) -> Stepping:  # type: ignore[override]
        return "cuda graph" if self.refused is None else "torch"

    @property
    def refused(self) -> str | None:  # type: ignore[override]
        return self._recording.refused


class _Graph(NamedTuple):
    """A recorded step: what it reads, how it is done again, and what it writes."""

    reads: list[Tensor]
    replay: Replay
    writes: Any


class Recording:
    """A recorded step that is replaced by the plain one, with a line, where it cannot be recorded.

    Attributes:
        refused: Why it is the plain one by now; None while it is not.
    """

    def __init__(self, plain: Advance, step: TensorStep, objective: Objective, tell: Tell, record: Record) -> None:
        self._plain, self._step, self._objective = plain, step, objective
        self._tell, self._record = tell, record
        self._graphs: dict[Any, _Graph] = {}
        self.refused: str | None = None

    def __call__(self, state: Any, here: Here, t: int) -> Advanced:
        if self.refused is None:
            like = next(iter(here.parameters.values()))
            now = torch.full((), float(t), dtype=torch.float64, device=like.device)
            given = (state, dict(here.gradient), dict(here.parameters), now, here.scheduled)
            graph = self._graph(given, like.device)
            if graph is not None:
                for mine, theirs in zip(graph.reads, tensors_in(given), strict=True):
                    mine.copy_(theirs, non_blocking=True)
                graph.replay()
                new_state, moved, quick = mapped(Tensor.clone, graph.writes)
                finished = self._objective.gradient(moved) if quick is None else self._objective.finished(moved, quick)
                return Advanced(new_state, moved, finished)
        return self._plain(state, here, t)

    def _graph(self, given: Any, device: torch.device) -> _Graph | None:
        """The recorded step for what is laid out like this; None, and a line, where it cannot be recorded."""
        layout = layout_of(given)
        if layout in self._graphs:
            return self._graphs[layout]
        if len(self._graphs) == MOST_GRAPHS:
            self._refuse("its buffers have another layout in every update")
            return None
        reads = mapped(lambda tensor: tensor.to(device, copy=True), given)
        try:
            replay, writes = self._record(lambda: self._step(*reads))
        except (ArithmeticError, KeyboardInterrupt, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
            raise
        except Exception as error:  # noqa: BLE001 - a recording fails in any way; plain steps are taken
            self._refuse(in_a_line(error))
            return None
        self._graphs[layout] = _Graph(list(tensors_in(reads)), replay, writes)
        return self._graphs[layout]

    def _refuse(self, why: str) -> None:
        self.refused = f"the step cannot be recorded as a CUDA graph ({why})"
        self._tell(f"{self.refused}; plain steps are taken")


def mapped(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The same nested dictionaries, tuples and dataclasses with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: mapped(change, part) for key, part in value.items()}
    if isinstance(value, tuple):
        parts = [mapped(change, part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: mapped(change, getattr(value, field.name)) for field in fields(value)})
    return value


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors of nested dictionaries, tuples and dataclasses, always in the same order."""
    found: list[Tensor] = []

    def take(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    mapped(take, value)
    return iter(found)


def layout_of(value: Any) -> Any:
    """Names, shapes and types: what two values have in common for which one recorded step will do."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype
    if isinstance(value, Mapping):
        return tuple((key, layout_of(part)) for key, part in value.items())
    if isinstance(value, tuple):
        return tuple(layout_of(part) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        return type(value), tuple(layout_of(getattr(value, field.name)) for field in fields(value))
    return value
