"""An optimizer of torch's kind as one of ours: it is handed gradients, and says where it arrived."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from implicit_bias.core.errors import RunFailed
from implicit_bias.norms import Norm, ParameterNorm, make_norm, over_blocks
from implicit_bias.optimizers.base import Blocks, Here, Optimizer, Step
from implicit_bias.optimizers.foreign.instance import SEED, Instances, Make
from implicit_bias.optimizers.foreign.probe import (
    NOT_FINITE,
    TRIED_LR,
    ConstantSteps,
    constant_steps,
    halving_scale,
    unable_to_resume,
)
from implicit_bias.schedules import Schedule

FEEDS = ("loss", "log_loss")


@dataclass(frozen=True)
class Foreign(Optimizer, ABC):
    """A torch.optim.Optimizer, an instance a run. Its norm and the size of its steps are what a constant gradient shows.

    It is handed the gradient of the mean loss in the precision of the run, as training hands it, or that of log L, which has the
    same direction and a size that does not shrink.
    """

    name: ClassVar[str] = "foreign"
    foreign_state: ClassVar[bool] = True
    brings_rate: ClassVar[bool] = True

    @property
    @abstractmethod
    def make(self) -> Make:
        """Makes an instance of named parameters."""

    @property
    @abstractmethod
    def title(self) -> str:
        """What it is called in messages."""

    @property
    def fed(self) -> str:
        """What is differentiated: ``loss`` or ``log_loss``."""
        return "loss"

    @property
    def stackable(self) -> bool:
        """Whether every entry is treated by itself, so that one instance can hold all runs of a batch."""
        return False

    @property
    def generator_seed(self) -> int:
        """Of the random numbers that an instance draws."""
        return SEED

    @classmethod
    def reads_norm(cls) -> bool:
        return False

    @cached_property
    def constant(self) -> ConstantSteps:
        """What its steps at a constant gradient are."""
        return known_of(self)

    @property
    def own(self) -> str | None:
        return self.constant.own

    @property
    def working_norm(self) -> str:
        return self.own or self.constant.working

    @property
    def unit(self) -> float:
        """The norm of a late step with learning rate one; of an unnormalised method in units of N_*(gradient).

        Raises:
            RunFailed: the optimizer raises.
        """
        if self.constant.failed is not None:
            failed = self.constant.failed
            raise RunFailed(f"{self.title}: {failed}" if failed == NOT_FINITE else failed)
        return self.constant.unit(make_norm(self.working_norm))

    @property
    def decay(self) -> float:
        return self.constant.decay if self.constant.normalised else 0.0

    @property
    def scales_with_gradient(self) -> bool:
        return not self.constant.normalised

    @property
    def of_log_loss(self) -> bool:
        return self.fed == "log_loss"

    @property
    def reads_loss(self) -> bool:
        return self.of_log_loss or self.constant.closure

    @property
    def alone(self) -> bool:
        return self.constant.closure

    @cached_property
    def not_resumable(self) -> str | None:
        lr = math.nan if self.constant.rateless else TRIED_LR
        return unable_to_resume(Trial(self, self.constant.closure), lr=lr)

    def geometry(
        self,
        names: Sequence[str],
        norm: Norm | None,
        row_bases: Mapping[str, Tensor] | None = None,
        hidden: Sequence[str] | None = None,
    ) -> ParameterNorm:
        if norm is None or norm.label != self.working_norm:
            norm = make_norm(self.working_norm)
        return over_blocks(norm, names, row_bases, hidden)

    def incompatible(self, other: object) -> str | None:
        if isinstance(other, Schedule) and other.per_loss:
            reason = "takes steps back" if other.backs_off else "divides the rate by the loss"
            return f"{reason}, which optimizer={self.name} does not bear"
        return super().incompatible(other)

    def init(self, gradient: Blocks) -> Any:
        return self.instances(gradient, self.constant.closure)

    def instances(self, gradient: Blocks, closure: bool) -> Instances:
        """The state before the first step."""
        like = {name: block.mantissa for name, block in gradient.items()}
        return Instances(self.make, self.title, like, self.fed, self.stackable, closure, self.generator_seed)

    def step_from(self, state: Any, here: Here, t: int, norm: ParameterNorm) -> tuple[Any, Step]:
        return state, Step(to=state.step(here, t))

    @cached_property
    def halving_scale(self) -> float | None:
        """The size of gradients, their entries of order one times this, at which absolute constants halve a step; None: there is
        none, or steps shrink with the gradient anyhow."""
        return halving_scale(Trial(self, self.constant.closure), self.constant)

    def remarks(self, log_loss: float, facts: Mapping[str, Any]) -> list[str]:
        known, lines = self.constant, []
        if known.failed is None and not known.moves:
            lines.append("it does not move at a constant gradient")
        if self.own is None and known.curve:
            lines.append(f"no norm of its own was found (nearest: {known.nearest}, alignment {known.alignment:.2f})")
        if self.of_log_loss:
            lines.append("fed with gradients of log L: another objective than L, of the same directions")
        elif self.halving_scale is not None and log_loss < math.log(self.halving_scale):
            lines.append(
                f"absolute constants act: at gradients with entries of about {self.halving_scale:.0e}, as at a loss of that size,"
                " steps are half as long; with optimizer.feed=log_loss they are not"
            )
        if facts.get("underflow_step"):
            # Entries of grad log L differ by e^-(differences of gaps), and the smallest are lost, too, only much later.
            later = "" if self.of_log_loss else "; with optimizer.feed=log_loss that comes much later"
            lines.append(
                f"from step {facts['underflow_step']} on entries of the gradient are too small for any double, and are 0.0{later}"
            )
        return lines

    def columns(self, state: Any) -> Mapping[str, Tensor]:
        found: Mapping[str, Tensor] = state.columns()
        return found

    def facts(self, state: Any) -> list[dict[str, Any]]:
        return [{"underflow_step": step or None} for step in state.underflowed]


@dataclass(frozen=True)
class Made(Foreign):
    """An optimizer that a function of the parameters makes, the function itself being given.

    Attributes:
        factory: From a list of parameters to an optimizer; called for every instance, and a few times before the first.
        called: What it is called in messages.
        feed: ``loss`` or ``log_loss``.
        seed: Of the random numbers that it draws.
    """

    name: ClassVar[str] = "made"

    factory: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]
    called: str
    feed: str = "loss"
    seed: int = SEED

    @property
    def make(self) -> Make:
        return lambda named: self.factory([block for _, block in named])

    @property
    def title(self) -> str:
        return self.called

    @property
    def fed(self) -> str:
        return self.feed

    @property
    def generator_seed(self) -> int:
        return self.seed


@dataclass(frozen=True)
class Trial(Optimizer):
    """An optimizer as it is tried out, with or without closures, before it is known which it needs."""

    name: ClassVar[str] = "trial"
    foreign_state: ClassVar[bool] = True

    of: Foreign
    closure: bool

    def init(self, gradient: Blocks) -> Any:
        return self.of.instances(gradient, self.closure)

    def step_from(self, state: Any, here: Here, t: int, norm: ParameterNorm) -> tuple[Any, Step]:
        return self.of.step_from(state, here, t, norm)


def known_of(optimizer: Foreign) -> ConstantSteps:
    """What an optimizer's steps at a constant gradient are; with closures where it does not step without."""
    plain = constant_steps(Trial(optimizer, False))
    if plain.failed is None:
        return plain
    by_closure = constant_steps(Trial(optimizer, True), closure=True)
    return plain if by_closure.failed is not None else by_closure
