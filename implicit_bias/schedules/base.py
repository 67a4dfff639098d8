"""Step sizes. The t-th update uses eta_t, t from 1; everything is kept as log eta_t, so that eta_t = lr / L works at any
depth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from implicit_bias.core.options import Option
from implicit_bias.core.registry import Registry, hyper
from implicit_bias.core.scaled import Scaled

SCHEDULES = Registry("implicit_bias.schedules", "schedule")

LR_HELP = "eta0: a number > 0 (inf with optimizer.truncate=true), or auto, in units of the data and model (see docs/files.md)"

#: What a schedule remembers from step to step: tensors of one number a run, (R,), by name.
ScheduleState = Mapping[str, Tensor]


class Evaluation(Protocol):
    """The loss and its gradient at a point, as :class:`implicit_bias.models.Gradient` has them."""

    @property
    def blocks(self) -> Mapping[str, Scaled]:
        """The gradient of the mean loss, a scaled tensor (R, p, q) a block."""

    @property
    def log_loss(self) -> Tensor:
        """The natural logarithm of the mean loss, shape (R,)."""

    @property
    def weight_over_loss(self) -> Tensor:
        """sum w / L, (R,), of the pairs' weights w_ic = -dl/dm_ic."""

    def per_weight(self) -> Mapping[str, Tensor]:
        """-grad L / sum w = sum_ic w_ic grad m_ic of weights that sum to one, a plain tensor (R, p, q) a block."""


@dataclass(frozen=True)
class Evaluated:
    """A gradient that is made up, or of a loss without gaps, as an :class:`Evaluation` whose weights sum to the loss."""

    blocks: Mapping[str, Scaled]
    log_loss: Tensor

    @property
    def weight_over_loss(self) -> Tensor:
        """One, (R,)."""
        return torch.ones_like(self.log_loss)

    def per_weight(self) -> dict[str, Tensor]:
        """-grad log L, a plain tensor (R, p, q) a block."""
        return {name: -block.relative_to(self.log_loss[:, None, None]) for name, block in self.blocks.items()}


@dataclass(frozen=True)
class Schedule(Option, ABC):
    """eta_t as a function of t, of the log loss before the t-th update, and of what came of earlier updates.

    Most schedules write :meth:`log_relative` alone. One that looks at what a step has led to, to take it back or to change the
    size of the next, has a state: it writes :meth:`init`, :meth:`accept`, and :meth:`log_lr`, which reads the state.
    """

    name: ClassVar[str]
    #: True when eta_t is divided by the loss; such a schedule is for unnormalised methods, and `lr` in files is eta_t
    # times the loss.
    per_loss: ClassVar[bool] = False
    #: Whether it looks at what a step has led to, and may take it back: whether it has an :meth:`accept` of its own.
    backs_off: ClassVar[bool] = False
    #: Whether eta_t comes of a search along the step, for methods that move one coordinate: whether it has a :meth:`log_search`.
    searches: ClassVar[bool] = False
    #: True when no rate is written: the optimizer keeps the one that it brings.
    as_given: ClassVar[bool] = False

    lr: Any = hyper("auto", help=LR_HELP, gt=0, allow_inf=True)

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        cls.backs_off = cls.accept is not Schedule.accept
        cls.searches = cls.log_search is not Schedule.log_search

    @property
    def constant(self) -> bool:
        """True when eta_t is the same for every t and whatever the loss."""
        return False

    @abstractmethod
    def log_relative(self, t: int) -> Tensor | float:
        """log(eta_t / eta0), the loss and the state left out; broadcasts against (R,)."""

    def init(self, like: Tensor) -> ScheduleState:
        """The state before the first update.

        Args:
            like: A tensor (R,) of the type and on the device that the state is to be.
        """
        return {}

    def accept(self, state: ScheduleState, before: Evaluation, after: Evaluation) -> tuple[Tensor, ScheduleState]:
        """Which runs keep the update just made, and the state for the next; called after every update where it is overridden.

        In a run that does not keep it, parameters and the optimizer's buffers are those before the update, which counts as a
        step all the same.

        Args:
            state: Before the update; not to be changed.
            before: Loss and gradient where the update began.
            after: The same where it led.

        Returns:
            Truth values (R,), and the state after the update.
        """
        return torch.ones_like(after.log_loss, dtype=torch.bool), state

    def log_search(self, derivatives: Tensor, weights: Tensor) -> Tensor:
        """What log eta_t has beside :meth:`log_lr` where the schedule ``searches``.

        Args:
            derivatives: Of every gap along the step, (R, pairs, n).
            weights: w_ic of the pairs, in any unit, (R, pairs, n).

        Returns:
            (R,).
        """
        raise NotImplementedError(f"schedule {self.name} does not search")

    def check(self, x: NDArray[np.float64]) -> None:
        """Raises BadInput where it does not go with data x (n, d)."""

    @cached_property
    def log_lr0(self) -> Tensor:
        """log eta0, of no dimension where all runs share it, else (R,)."""
        return torch.as_tensor(self.lr, dtype=None if isinstance(self.lr, Tensor) else torch.float64).log()

    def log_lr(self, t: int, log_loss: Tensor | None = None, state: ScheduleState | None = None) -> Tensor:
        """log eta_t, of no dimension or (R,).

        Args:
            t: From 1.
            log_loss: log L before the update, (R,); schedules that are ``per_loss`` need it.
            state: What :meth:`init` or the last :meth:`accept` gave; None: as if nothing had been made yet.

        Raises:
            ValueError: the loss is needed, and not given.
        """
        relative = self.log_lr0 + self.log_relative(t)
        if not self.per_loss:
            return relative
        if log_loss is None:
            raise ValueError(f"schedule {self.name} needs the loss")
        return relative - log_loss

    def recorded(self, t: int, like: Tensor, state: ScheduleState | None = None) -> Tensor:
        """The `lr` column, shaped as ``like`` (R,): eta_t, or eta_t times the loss under a loss-based schedule (eta_t itself may
        exceed every double).

        Args:
            t: The step.
            like: A tensor (R,) of the type and on the device of the column.
            state: After the t-th update.
        """
        return (self.log_lr0 + self.log_relative(t)).exp().to(like).expand_as(like)
