"""Instances of a torch optimizer that are handed gradients: one a run, or one for all runs of a batch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor

from implicit_bias.core.errors import RunFailed
from implicit_bias.core.scaled import Scaled
from implicit_bias.optimizers.base import Here
from implicit_bias.optimizers.foreign.target import in_a_line, line_in_user_file

Named = list[tuple[str, torch.nn.Parameter]]
#: Parameters with their names to an optimizer of them.
Make = Callable[[Named], torch.optim.Optimizer]
#: Gives the loss, and the gradient a block, at these parameters of one run.
Evaluate = Callable[[Mapping[str, Tensor]], tuple[Tensor, Mapping[str, Tensor]]]

# Below the logarithm of a scale the products of two gradients, and then gradients themselves, may be zero.
LOOKED_AT_BELOW = {torch.float64: -600.0, torch.float32: -60.0}
# Random numbers that an optimizer draws come from here; every run begins with the same.
SEED = 0
# torch's complaint of tensors that do not fit together.
_OF_SHAPES = re.compile(r"\b(shapes?|sizes?) (of|cannot|mismatch|does|do|must)\b|\bmat1 and mat2\b")


class NoRate(RunFailed):
    """An optimizer without a learning rate was to be given one."""


class Instance:
    """One optimizer on parameters of its own, a block each, with a random generator of its own.

    Args:
        make: Makes it; what it raises is left to the caller.
        blocks: The parameters, copied.
        seed: Of its generator.
    """

    def __init__(self, make: Make, blocks: Mapping[str, Tensor], seed: int = SEED) -> None:
        self.parameters = {name: torch.nn.Parameter(block.detach().clone()) for name, block in blocks.items()}
        device = next(iter(self.parameters.values())).device
        self._device = device if device.type == "cuda" else None
        self.generators = [torch.Generator().manual_seed(seed).get_state()]
        if self._device is not None:
            self.generators.append(torch.Generator(self._device).manual_seed(seed).get_state())
        with self._own_random_numbers():
            self.optimizer = make(list(self.parameters.items()))
        rates = [group.get("lr") for group in self.optimizer.param_groups]
        self.has_rate = all("lr" in group for group in self.optimizer.param_groups)
        self._shares = _shares(rates)
        self.evaluations = 0
        self.averages = all(callable(getattr(self.optimizer, mode, None)) for mode in ("train", "eval"))
        if self.averages:
            self.optimizer.train()  # type: ignore[attr-defined]

    def step(self, gradient: Mapping[str, Tensor], lr: float | None) -> None:
        """One step from a gradient at the instance's parameters; with ``lr`` None at the rate that it has."""
        self._write(lr)
        for name, block in self.parameters.items():
            block.grad = gradient[name]
        with self._own_random_numbers():
            self.optimizer.step()

    def step_by_closure(self, evaluate: Evaluate, lr: float | None) -> None:
        """One step of an optimizer that asks for loss and gradient itself."""
        self._write(lr)

        def closure() -> Tensor:
            loss, gradient = evaluate({name: block.detach().clone() for name, block in self.parameters.items()})
            self.evaluations += 1
            for name, block in self.parameters.items():
                block.grad = gradient[name].clone()
            return loss

        with self._own_random_numbers():
            self.optimizer.step(closure)  # type: ignore[arg-type]

    def trained(self) -> dict[str, Tensor]:
        """The parameters that gradients are wanted at; they change in place."""
        return {name: block.detach() for name, block in self.parameters.items()}

    def shown(self) -> dict[str, Tensor]:
        """A copy of the parameters that are judged: of schedule-free methods the averages."""
        if not self.averages:
            return {name: block.clone() for name, block in self.trained().items()}
        before = {name: block.clone() for name, block in self.trained().items()}
        self.optimizer.eval()  # type: ignore[attr-defined]
        shown = {name: block.clone() for name, block in self.trained().items()}
        self.optimizer.train()  # type: ignore[attr-defined]
        for name, block in self.trained().items():  # there and back is exact in exact arithmetic only
            block.copy_(before[name])
        return shown

    @property
    def rate(self) -> float:
        """The learning rate of the first group; nan where it has none."""
        rate = self.optimizer.param_groups[0].get("lr")
        return math.nan if rate is None else float(rate)

    def snapshot(self) -> dict[str, Any]:
        """All that later steps depend on."""
        return {
            "parameters": self.trained(),
            "optimizer": self.optimizer.state_dict(),
            "generators": self.generators,
            "evaluations": self.evaluations,
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Take up a snapshot of an instance that was made in the same way on the same blocks."""
        if {n: b.shape for n, b in snapshot["parameters"].items()} != {n: b.shape for n, b in self.parameters.items()}:
            raise ValueError("parameters of other blocks or shapes")
        for name, block in self.trained().items():
            block.copy_(snapshot["parameters"][name])
        self.optimizer.load_state_dict(snapshot["optimizer"])
        if len(snapshot["generators"]) != len(self.generators) or type(snapshot["evaluations"]) is not int:
            raise ValueError("generators or evaluations")
        self.generators = [state.cpu() for state in snapshot["generators"]]
        self.evaluations = snapshot["evaluations"]

    def _write(self, lr: float | None) -> None:
        if lr is None:
            return
        for group, share in zip(self.optimizer.param_groups, self._shares, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr * share)
            else:
                group["lr"] = lr * share

    @contextmanager
    def _own_random_numbers(self) -> Iterator[None]:
        """With torch's global generators in the state that this instance has left them in."""
        before = self._random_states()
        self._set_random_states(self.generators)
        try:
            yield
        finally:
            self.generators = self._random_states()
            self._set_random_states(before)

    def _random_states(self) -> list[Tensor]:
        return [torch.get_rng_state(), *([] if self._device is None else [torch.cuda.get_rng_state(self._device)])]

    def _set_random_states(self, states: Sequence[Tensor]) -> None:
        torch.set_rng_state(states[0])
        if self._device is not None:
            torch.cuda.set_rng_state(states[1], self._device)


def _shares(rates: Sequence[Any]) -> list[float]:
    """The rate of each group in units of the first one's; 1 where there is nothing to compare."""
    first = rates[0]
    if first is None or float(first) == 0:
        return [1.0] * len(rates)
    return [1.0 if rate is None else float(rate) / float(first) for rate in rates]


class Instances:
    """The state of a batch (a :class:`implicit_bias.optimizers.ForeignState`): an instance a run, or one for all of them.

    Args:
        make: Makes an optimizer.
        label: What it is called in messages, ``optimizer.target=...``.
        like: A tensor (R, p, q) a block, for shapes.
        feed: ``loss``: gradients of L; ``log_loss``: those of log L.
        stackable: Whether every entry is treated by itself, so that all runs may be one tensor (R, p, q).
        closure: Whether steps are asked to evaluate by themselves.
        seed: Of every instance's generator.
    """

    def __init__(
        self,
        make: Make,
        label: str,
        like: Mapping[str, Tensor],
        feed: str,
        stackable: bool = False,
        closure: bool = False,
        seed: int = SEED,
    ) -> None:
        self.make = make
        self.label = label
        self.feed = feed
        self.stackable = stackable
        self.closure = closure
        self.seed = seed
        self.instances: list[Instance] = []
        self._like = dict(like)
        self._runs = len(next(iter(like.values())))
        self.stacked = False
        #: The first step of each run whose gradient has an entry of 0.0 that is not zero in exact arithmetic; 0: none so far.
        self.underflowed = [0] * self._runs
        self._keeps_rate = False

    def step(self, here: Here, t: int) -> dict[str, Tensor]:
        """The t-th step of every run. Returns where it leads, (R, p, q) a block.

        Raises:
            RunFailed: an optimizer raises, or makes a nan of a gradient that is zero.
        """
        rates = _rates(here.scheduled, self._runs)
        self._keeps_rate = math.isnan(rates[0])
        if not self.instances:
            self.stacked = self.stackable and here.scheduled.dim() == 0
            self._begin(here.parameters, t)
        if not self._keeps_rate and not all(instance.has_rate for instance in self.instances):
            raise NoRate(
                f"{self.label}: its param_groups have no learning rate lr to write; needs schedule=as_given, or of judge lr=None"
            )
        point = here.at(self._together(Instance.trained)) if self.instances[0].averages else here
        try:
            if self.closure:
                self._by_closure(point, rates)
            else:
                self._by_gradient(point, rates, t)
            moved = self._together(Instance.shown)
            self._check_shapes(moved)
        except (MemoryError, torch.OutOfMemoryError, RunFailed):
            raise
        except (Exception, SystemExit) as error:
            raise self._failed(error, t) from error
        return moved

    def columns(self) -> dict[str, Tensor]:
        """What records show of it, (R,): evaluations of closures, and the learning rate where no schedule gives it."""
        found, each = {}, [i for i in self.instances for _ in range(self._runs if self.stacked else 1)]
        like = next(iter(self._like.values()))
        if self.closure:
            counts = [i.evaluations for i in each] or [0] * self._runs
            found["evaluations"] = torch.tensor(counts, dtype=like.dtype, device=like.device)
        if self._keeps_rate and each:
            found["lr"] = torch.tensor([i.rate for i in each], dtype=like.dtype, device=like.device)
        return found

    def snapshot(self) -> dict[str, Any]:
        """All that later steps depend on."""
        return {
            "stacked": self.stacked,
            "underflowed": self.underflowed,
            "instances": [instance.snapshot() for instance in self.instances],
        }

    def restore(self, snapshot: Mapping[str, Any]) -> Self:
        """Take up a snapshot. Raises ValueError where it is none of such optimizers."""
        try:
            self.stacked = bool(snapshot["stacked"])
            found, underflowed = snapshot["instances"], snapshot["underflowed"]
            if len(found) != (1 if self.stacked else self._runs) or len(underflowed) != self._runs:
                raise ValueError("another number of runs")
            if not all(type(step) is int for step in underflowed):
                raise ValueError("steps")
            self.underflowed = list(underflowed)
            self._begin(self._like, 0)
            for instance, kept in zip(self.instances, found, strict=True):
                instance.restore(kept)
        except (MemoryError, ValueError):
            raise
        except Exception as error:  # whatever stands in the place of what is wanted
            raise ValueError(in_a_line(error)) from error
        return self

    def _begin(self, parameters: Mapping[str, Tensor], t: int) -> None:
        try:
            if self.stacked:
                self.instances = [Instance(self.make, parameters, self.seed)]
            else:
                runs = range(self._runs)
                blocks = [{name: block[run] for name, block in parameters.items()} for run in runs]
                self.instances = [Instance(self.make, mine, self.seed) for mine in blocks]
        except (Exception, SystemExit) as error:
            raise RunFailed(f"{self.label}: {in_a_line(error)} when it is made") from error

    def _by_gradient(self, point: Here, rates: Sequence[float], t: int) -> None:
        plain = _plain(point.gradient, point.log_loss if self.feed == "log_loss" else None)
        self._look(point.gradient, plain, t)
        if self.stacked:
            self.instances[0].step(plain, None if self._keeps_rate else rates[0])
        else:
            for run, instance in enumerate(self.instances):
                instance.step({name: g[run] for name, g in plain.items()}, None if self._keeps_rate else rates[run])
        self._check_zeros(point.gradient, t)

    def _by_closure(self, point: Here, rates: Sequence[float]) -> None:
        for run, instance in enumerate(self.instances):
            instance.step_by_closure(self._evaluate_run(point, run), None if self._keeps_rate else rates[run])

    def _evaluate_run(self, point: Here, run: int) -> Evaluate:
        def evaluate(parameters: Mapping[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
            same = all(torch.equal(block, point.parameters[name][run]) for name, block in parameters.items())
            there = point if same else point.at(_with_run(point.parameters, run, parameters))
            with torch.no_grad():
                log_loss = there.log_loss
                plain = _plain(there.gradient, log_loss if self.feed == "log_loss" else None)
            loss = log_loss[run] if self.feed == "log_loss" else log_loss[run].exp()
            return loss.clone(), {name: g[run] for name, g in plain.items()}

        return evaluate

    def _together(self, part: Callable[[Instance], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        each = [part(instance) for instance in self.instances]
        return dict(each[0]) if self.stacked else {name: torch.stack([blocks[name] for blocks in each]) for name in self._like}

    def _check_shapes(self, moved: Mapping[str, Tensor]) -> None:
        """Raises ValueError where a step has put something else in the place of parameters."""
        for name, block in moved.items():
            like = self._like[name]
            if (block.shape, block.dtype) != (like.shape, like.dtype):
                became, was = ((tuple(one.shape[1:]), str(one.dtype).removeprefix("torch.")) for one in (block, like))
                raise ValueError(f"{name} has become {became}; must stay {was}")

    def _look(self, gradient: Mapping[str, Scaled], plain: Mapping[str, Tensor], t: int) -> None:
        """Note the runs whose gradients have lost an entry."""
        for name, block in gradient.items():
            if float(block.log_scale.amin()) > LOOKED_AT_BELOW.get(block.mantissa.dtype, -math.inf):
                continue
            lost = ((plain[name] == 0) & (block.mantissa != 0) & block.log_scale.isfinite()).flatten(1).any(1).tolist()
            self.underflowed = [step or (t if gone else 0) for step, gone in zip(self.underflowed, lost, strict=True)]

    def _check_zeros(self, gradient: Mapping[str, Scaled], t: int) -> None:
        """An entry that is nan where the gradient is exactly zero is 0/0, which no learning rate mends."""
        for instance in self.instances:
            if all(bool(block.isfinite().all()) for block in instance.trained().values()):
                continue
            for name, block in self._together(Instance.trained).items():
                if bool((block.isnan() & (gradient[name].mantissa == 0)).any()):
                    raise RunFailed(
                        f"{self.label}: step {t} is nan at an entry whose gradient is exactly zero, a 0/0; where eps is 0 choose"
                        " optimizer.kwargs.eps=1e-300"
                    )

    def _failed(self, error: Exception | SystemExit, t: int) -> RunFailed:
        said = " ".join(str(error).split())
        if _OF_SHAPES.search(said):  # torch names the sizes that do not fit, not whose they are
            sizes = " and ".join(" x ".join(map(str, block.shape)) for block in self.instances[0].trained().values())
            said = f"parameters are {sizes}, and it computes with another shape ({said})"
        line = line_in_user_file(error)
        where = f"in step {t}" if line is None else f"in step {t}, line {line}"
        return RunFailed(f"{self.label}: {type(error).__name__} {where}: {said}".removesuffix(": "))


def _rates(log_lr: Tensor, runs: int) -> list[float]:
    return log_lr.double().exp().expand(runs).tolist()


def _plain(gradient: Mapping[str, Scaled], log_unit: Tensor | None) -> dict[str, Tensor]:
    """Gradients as plain tensors, or those of log L in units of exp(log_unit), (R,)."""
    if log_unit is None:
        return {name: g.mantissa * torch.exp(g.log_scale) for name, g in gradient.items()}
    return {name: g.relative_to(log_unit[:, None, None]) for name, g in gradient.items()}


def _with_run(parameters: Mapping[str, Tensor], run: int, blocks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    changed = {name: block.clone() for name, block in parameters.items()}
    for name, block in blocks.items():
        changed[name][run] = block
    return changed
