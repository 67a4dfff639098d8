"""What an optimizer is: a pure map (state, where it is, t) -> (state, step), with a norm of its own.

Most need the gradient alone, and write :meth:`Optimizer.update`. One that needs parameters, loss, learning rate or a gradient at
another point writes :meth:`Optimizer.step_from`, of which ``update`` is the simple form.

Conventions, everywhere: momentum is the exponential moving average m_t = beta m_{t-1} + (1 - beta) g_t from m_0 = 0; steps are
subtracted, theta_t = theta_{t-1} - eta_t step_t; t counts from 1. Hyper-parameters may be tensors of shape (R, 1, 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from implicit_bias.core.errors import BadInput
from implicit_bias.core.options import Option
from implicit_bias.core.registry import Registry, hyper_fields
from implicit_bias.core.scaled import Scaled
from implicit_bias.core.words import either
from implicit_bias.norms import Norm, ParameterNorm, make_norm, over_blocks
from implicit_bias.schedules.base import Evaluation, Schedule

OPTIMIZERS = Registry("implicit_bias.optimizers", "optimizer")

Number = Any  # float, or a tensor of shape (R, 1, 1) when runs of one batch differ in it
Blocks = Mapping[str, Scaled]
#: Named buffers, each a scaled tensor a block; a step never changes the buffers it was given.
State = dict[str, dict[str, Scaled]]


@runtime_checkable
class ForeignState(Protocol):
    """A state that is an object of its own, for optimizers written elsewhere; it may change in place from step to step."""

    def snapshot(self) -> dict[str, Any]:
        """All that later steps depend on: nested dictionaries and lists of tensors, numbers and strings."""

    def restore(self, snapshot: Mapping[str, Any]) -> Self:
        """The state that a snapshot was taken of; called on a fresh one, of :meth:`Optimizer.init`.

        Raises:
            ValueError: it is no snapshot of such a state.
        """


class Here:
    """Where a step starts. The loss and its gradient are evaluated when they are first asked for, and once.

    Attributes:
        parameters: theta_{t-1}, one tensor (R, p, q) a block; not to be changed.
        scheduled: :attr:`log_lr` as the schedule gives it, in its own precision and on its own device.
        cadence: Of steps by mini-batches ceil(n / b), about an epoch of updates; else 1.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        evaluate: Callable[[Mapping[str, Tensor]], Evaluation],
        log_lr: Tensor,
        evaluation: Evaluation | None = None,
        evaluate_all: Callable[[Mapping[str, Tensor]], Evaluation] | None = None,
        cadence: int = 1,
        log_loss_rate: Tensor | None = None,
    ) -> None:
        self.parameters = parameters
        self.scheduled = log_lr
        self.cadence = cadence
        self._log_loss_rate = log_loss_rate
        self._evaluate = evaluate
        self._evaluate_all = evaluate_all or evaluate
        if evaluation is not None:
            self.evaluation = evaluation

    @cached_property
    def evaluation(self) -> Evaluation:
        """Loss and gradient, as the model gives them."""
        return self._evaluate(self.parameters)

    @cached_property
    def log_lr(self) -> Tensor:
        """log eta_t, of no dimension or (R,), in the precision and on the device of the parameters; inf where eta_t is."""
        return self.scheduled.to(next(iter(self.parameters.values())))

    @property
    def log_loss_rate(self) -> Tensor:
        """log(eta_t L), of no dimension or (R,): a step -eta_t g is one of rate eta_t L along -grad log L.

        Where a schedule divides by the loss it is what the schedule has before it does: far down no digit of it is left in the
        difference log eta_t.
        """
        rate = self.log_lr + self.log_loss if self._log_loss_rate is None else self._log_loss_rate
        return rate.to(next(iter(self.parameters.values())))

    @property
    def gradient(self) -> Blocks:
        """The gradient of the mean loss, as :meth:`Optimizer.update` gets it."""
        return self.evaluation.blocks

    @property
    def log_loss(self) -> Tensor:
        """log L, shape (R,)."""
        return self.evaluation.log_loss

    def at(self, parameters: Mapping[str, Tensor]) -> Here:
        """The same at another point, with the same eta_t and the same samples. To look at its gradient is one more evaluation."""
        return Here(parameters, self._evaluate, self.scheduled, None, self._evaluate_all, self.cadence)

    def of_all(self, parameters: Mapping[str, Tensor]) -> Here:
        """The same at a point with loss and gradient of all samples, whichever the step is made from: one more evaluation, at the
        price of ``cadence`` others."""
        return Here(parameters, self._evaluate_all, self.scheduled, None, self._evaluate_all, self.cadence)


class Step(NamedTuple):
    """theta <- keep * theta - eta * exp(log_size) * direction; or theta <- to.

    Attributes:
        direction: One tensor of shape (R, p, q) a block; empty: nothing is subtracted.
        log_size: (R,) or (R, 1, 1), or None for 0: a normalised method.
        keep: What theta is multiplied by, a number, (R,) or (R, 1, 1); None for 1. Decoupled weight decay has 1 - eta * decay.
        whole: Whether exp(log_size) is the whole length, so that eta (which may be infinite) is no factor of it.
        to: The point arrived at, in place of all others: its parameters, which nobody may change afterwards; or where it has been
            evaluated, what :meth:`Here.at` gave, whose gradient is then that of the next step.
    """

    direction: Mapping[str, Tensor] = MappingProxyType({})
    log_size: Tensor | None = None
    keep: Tensor | float | None = None
    whole: bool = False
    to: Here | Mapping[str, Tensor] | None = None


@dataclass(frozen=True)
class Optimizer(Option):
    """An optimizer; its fields are its hyper-parameters."""

    name: ClassVar[str]
    #: The norm whose margin it maximises; None when it is steepest descent in the norm that the user names.
    own_norm: ClassVar[str | None] = None
    #: True when the step has norm eta whatever the gradient's size.
    normalised: ClassVar[bool] = True
    #: True when a step moves a single entry.
    one_coordinate: ClassVar[bool] = False
    #: Names of the buffers.
    buffers: ClassVar[tuple[str, ...]] = ()
    #: True when the state is a :class:`ForeignState` that ``init`` makes.
    foreign_state: ClassVar[bool] = False
    #: True when it is made with a learning rate, which ``schedule=as_given`` leaves to it.
    brings_rate: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse keys that do not go together. Raises BadInput: one line that begins with the key."""

    @property
    def label(self) -> str:
        """What it is called in a line about a run."""
        return self.name

    @property
    def class_name(self) -> str:
        """The class that somebody else wrote, for the names of folders; empty where it is one of ours."""
        return ""

    @property
    def identity(self) -> str:
        """What it is beside its hyper-parameters, for the hash of runs: the code that somebody else wrote, if any."""
        return ""

    @property
    def own(self) -> str | None:
        """The label of the norm whose margin it maximises, hyper-parameters included."""
        return self.own_norm

    @classmethod
    def reads_norm(cls) -> bool:
        """Whether the user names its norm."""
        return cls.own_norm is None

    @property
    def working_norm(self) -> str | None:
        """The label of the norm that its steps have a size in: its own, or of a method without one the nearest."""
        return self.own

    @property
    def unit(self) -> float:
        """The length in its own norm of a step with learning rate one, if it is a normalised method."""
        return 1.0

    def unit_in(self, norm: Norm, unit_step: Tensor) -> Number:
        """What ``schedule.lr=auto`` is divided by: :attr:`unit`, unless it depends on the norm that is named, or on the data.

        Args:
            norm: The norm that it works in.
            unit_step: B of each run, (R,): a step of norm 1 changes gaps by at most B.
        """
        return self.unit

    @property
    def rate(self) -> float | None:
        """What ``schedule.lr=auto`` stands for where a rate is no length, such as a share of the parameters; None where it is, in
        units of the data."""
        return None

    @property
    def scales_with_gradient(self) -> bool:
        """Whether a step has norm eta ``unit`` N_*(gradient), and not eta ``unit``."""
        return not self.normalised

    @property
    def of_log_loss(self) -> bool:
        """Whether the gradient that it scales with is that of log L."""
        return False

    @property
    def reads_loss(self) -> bool:
        """Whether a step looks at the loss beside its gradient."""
        return False

    @property
    def shrinks_with_gradient(self) -> bool:
        """Whether all of a step does, so that on a linear model a rate may be constant, or divided by the loss."""
        return self.scales_with_gradient and not self.of_log_loss

    @property
    def radius(self) -> Number | None:
        """B of the ball N(theta) <= B of its own norm in which weight decay looks for the least loss, inf for runs without decay.

        None where no run has one, or the optimizer no norm.
        """
        return None

    @property
    def decay(self) -> float:
        """a where its steps shrink like t^-a by themselves, at a gradient that does not change."""
        return 0.0

    @property
    def alone(self) -> bool:
        """Whether each run evaluates the model by itself, so that a batch of several saves nothing."""
        return False

    @property
    def not_resumable(self) -> str | None:
        """Why its state cannot be kept and taken up again, in words; None where it can."""
        return None

    @classmethod
    def checked(cls, keys: Mapping[str, Any]) -> dict[str, Any]:
        """Its keys in their one spelling, where types and ranges do not say all. Raises BadInput."""
        return dict(keys)

    @property
    def takes_any_rate(self) -> bool:
        """Whether a step ends by itself, so that the rate may be infinite."""
        return False

    def check_rate(self, schedule: Schedule) -> None:
        """Refuse a learning rate that does not go with its keys; asked again once the data have made ``lr=auto`` a number.

        Raises:
            BadInput: one line that begins with the key.
        """
        if schedule.lr == math.inf and not self.takes_any_rate:
            truncated = [name for name in OPTIMIZERS if "truncate" in hyper_fields(OPTIMIZERS.get(name))]
            raise BadInput(
                f"schedule.lr=inf: must be 'auto' or a number > 0; inf is for optimizer.truncate=true of"
                f" optimizer={either(truncated)}, whose steps have a length of their own"
            )

    def check_elsewhere(self) -> None:
        """Refuse to be made in processes that do not know its class. Raises BadInput: one line that begins with the key."""

    def geometry(
        self,
        names: Sequence[str],
        norm: Norm | None,
        row_bases: Mapping[str, Tensor] | None = None,
        hidden: Sequence[str] | None = None,
    ) -> ParameterNorm:
        """The norm on the parameter set that the optimizer works in.

        Args:
            names: The blocks.
            norm: What the user named, or the optimizer's own where it has been made already; any other counts only where it has
                none of its own.
            row_bases: As in :func:`implicit_bias.norms.over_blocks`.
            hidden: The matrices of hidden layers, Muon's part in a hybrid; None for all blocks.
        """
        if norm is None or (self.own and norm.label != self.own):
            norm = make_norm(self.own or "l2")
        return over_blocks(norm, names, row_bases, hidden)

    def init(self, gradient: Blocks) -> State:
        """Zero buffers in the shape and scale layout of ``gradient``."""
        return {
            buffer: {
                name: Scaled.zeros(g.mantissa, per_entry=g.log_scale.shape[-1] == g.mantissa.shape[-1])
                for name, g in gradient.items()
            }
            for buffer in self.buffers
        }

    def update(self, state: State, gradient: Blocks, t: int, norm: ParameterNorm) -> tuple[State, Step]:
        """The t-th step from the gradient at theta_{t-1}.

        Args:
            state: The buffers after step t - 1.
            gradient: A scaled tensor (R, p, q) a block.
            t: From 1.
            norm: What :meth:`geometry` gave.
        """
        raise NotImplementedError(f"optimizer {self.name} has neither update nor step_from")

    def step_from(self, state: Any, here: Here, t: int, norm: ParameterNorm) -> tuple[Any, Step]:
        """The t-th step from theta_{t-1}: what the engine calls. By default :meth:`update` of the gradient there.

        Args:
            state: The buffers after step t - 1, or a :class:`ForeignState`. Buffers may have blocks of their own, such as one
                number (R, 1, 1) a run; those that the step does not return are dropped, those that the first step makes anew
                stay where a schedule takes that step back.
            here: Parameters, loss, gradient and learning rate.
            t: From 1.
            norm: What :meth:`geometry` gave.
        """
        state, step = self.update(state, here.gradient, t, norm)
        return state, self.decayed(step, here.scheduled)

    def decayed(self, step: Step, log_lr: Tensor) -> Step:
        """The step with what is done to theta beside it, such as weight decay; by default nothing is.

        :meth:`step_from` gives steps that have been through here; one that is written anew has to do so, too.

        Args:
            step: As :meth:`update` gives it.
            log_lr: log eta_t, of no dimension or (R,).
        """
        return step

    @property
    def shows_trained(self) -> bool:
        """Whether the parameters that records are of are those it steps from; False: :meth:`shown` is asked for them."""
        return type(self).shown is Optimizer.shown

    def shown(self, state: Any, parameters: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The parameters that records, kept weights and levels of the loss are of: those it steps from, or such as an average of
        theirs. Asked for at records alone; loss and gradient are evaluated there once more.

        Args:
            state: As :meth:`step_from` gives it.
            parameters: theta_t, one tensor (R, p, q) a block; not to be changed.

        Returns:
            Tensors of the same blocks, shapes and type.
        """
        return parameters

    def columns(self, state: Any) -> Mapping[str, Tensor]:
        """What a record shows of the state, (R,) a column; ``lr`` is put in the place of the schedule's."""
        return {}

    def caution(self, initial: Mapping[str, Tensor]) -> str | None:
        """What a user should know of a start that the method does not do well from, in a line; None where there is nothing.

        Args:
            initial: The trained blocks, (R, p, q) each.
        """
        return None

    def check_start(self, initial: Mapping[str, Tensor], norm: ParameterNorm) -> None:
        """Refuse a start that the method cannot begin at.

        Args:
            initial: The trained blocks, (R, p, q) each.
            norm: What :meth:`geometry` gave.

        Raises:
            BadInput: one line that begins with the key.
        """

    def pair_average(self, state: Any) -> Mapping[str, Tensor] | None:
        """sum_ic w_ic grad m_ic with weights w >= 0, sum w = 1, that its buffers hold beside those of the gradient, a tensor
        (R, p, q) a block: on a linear model its dual norm bounds the maximum margin. None where they hold none.

        Args:
            state: As :meth:`init` or :meth:`step_from` gives it.
        """
        return None

    def facts(self, state: Any) -> list[dict[str, Any]]:
        """What is to be known of each run at its end, for its provenance; empty where there is nothing."""
        return []

    def remarks(self, log_loss: float, facts: Mapping[str, Any]) -> list[str]:
        """What a reader of a run's table should know, in a line each.

        Args:
            log_loss: At its end.
            facts: As :meth:`facts` gave them for the run.
        """
        return []

    def incompatible(self, other: object) -> str | None:
        """As every option says it (:class:`~implicit_bias.core.options.Option`).

        A loss-based schedule divides eta_t by the loss, so that a step must shrink with it; one that backs off puts buffers back.
        """
        if isinstance(other, Schedule):
            if other.as_given and not self.brings_rate:
                return f"is for classes that bring a learning rate; optimizer={self.name} has none"
            if other.backs_off and self.foreign_state:
                return f"takes steps back, which the state of optimizer={self.name} cannot"
            if other.searches and not self.one_coordinate:
                return f"is a line search along one coordinate; optimizer={self.name} moves several"
            if other.per_loss and (self.normalised or not self.shrinks_with_gradient):
                return f"steps of optimizer={self.name} do not shrink with the loss"
        return None

    def in_one_unit(self, norm: ParameterNorm, names: Collection[str]) -> frozenset[str]:
        """The blocks of whose gradients its steps read plain numbers alone, in units of a block's largest entry: what is below
        every double there has no part in any step.

        Args:
            norm: What :meth:`geometry` gave.
            names: The blocks.

        Returns:
            Some of them; by default none.
        """
        return frozenset()

    @property
    def needs_gradient_only(self) -> bool:
        """Whether a step is :meth:`update` of buffers and gradient, which a compiler can take in.

        A class with a ``step_from`` that gives what the next class's gives, as long as a key of its own says so, has a method
        ``passes_on`` that tells whether that is the case; without one its steps are its own.
        """
        of_their_own = (cls for cls in type(self).__mro__ if "step_from" in vars(cls))
        makes_it = next(cls for cls in of_their_own if not ("passes_on" in vars(cls) and vars(cls)["passes_on"](self)))
        return makes_it is Optimizer and not self.foreign_state


def steepest(gradient: Blocks, norm: ParameterNorm) -> Step:
    """Unnormalised steepest descent: N_*(g) direction(g), the minimiser of <g, step> + N(step)^2 / 2 up to sign."""
    log_unit = torch.stack([g.log_scale.amax(dim=(-2, -1), keepdim=True) for g in gradient.values()]).amax(dim=0)
    unit = torch.where(torch.isfinite(log_unit), log_unit, torch.zeros_like(log_unit))
    plain = {name: g.relative_to(unit) for name, g in gradient.items()}
    return Step(norm.scaled_direction(gradient), norm.dual(plain)[:, None, None].log() + unit)
