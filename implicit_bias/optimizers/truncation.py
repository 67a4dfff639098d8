"""Steps truncated where the averaged linear model of the loss meets a lower bound: Momo, and Polyak's step size.

The model of the loss at step t is the average of the tangents at the points so far, sum_s a_s (L_s + <g_s, theta - theta_s>),
with the weights a_s of the average of gradients m_t. A step -tau S_t along which it falls at the rate <m_t, S_t> goes no further
than to where the model is ``lower``:

    tau_t = min(eta_t, (model_t(theta_{t-1}) - lower)_+ / <m_t, S_t>)

(Schaipp et al., MoMo, arXiv 2305.07583; Crawshaw et al., arXiv 2510.09827, in any norm). <m_t, S_t> is the square of the dual
norm for steps S = m's steepest descent, unnormalised, and the dual norm itself for normalised ones. With beta = 0 and eta_t = inf
this is Polyak's step size.

The buffer is what the model exceeds ``lower`` by at the point arrived at, x_t = model_t(theta_t) - lower: it is
excess_t - tau_t <m_t, S_t>, where excess_t = beta x_{t-1} + (1 - beta)(L_t - lower) is the same at the point where the step
begins. So no L - <g, theta> is formed, whose digits cancel where parameters are large, and all sizes are logarithms.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from implicit_bias.core.errors import BadInput
from implicit_bias.core.registry import hyper
from implicit_bias.core.scaled import Scaled, combine, log_inner
from implicit_bias.norms import ParameterNorm
from implicit_bias.optimizers.base import Blocks, Here, Number, Optimizer, State, Step

EXCESS, DUALS, ALL = "excess", "duals", "all"


class Move(NamedTuple):
    """A step before it is truncated.

    Attributes:
        step: At eta = 1, S.
        log_descent: log <m, S>, (R, 1, 1).
        log_assumed: The same as the method reckons it, which with stale dual norms is something else.
    """

    step: Step
    log_descent: Tensor
    log_assumed: Tensor


@dataclass(frozen=True)
class Truncated(Optimizer, ABC):
    """A method whose steps may be truncated; a subclass writes ``update`` and :meth:`move`."""

    beta: Number = hyper(0.9, help="momentum, weight of the past in the moving average", ge=0, lt=1)
    truncate: bool = hyper(False, help="stop steps where the averaged linear model of the loss is `lower` (Momo)")
    lower: Number = hyper(0.0, help="lower bound of the loss, for truncate=true", ge=0)
    stale: bool = hyper(False, help="dual norms of the step before in place of this step's, for truncate=true")

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("stale", "lower"):
            value = getattr(self, key)
            if not self.truncate and not isinstance(value, Tensor) and value:
                shown = "true" if value is True else f"{value:g}"
                raise BadInput(f"optimizer.{key}={shown}: is for optimizer.truncate=true only")
        decay = getattr(self, "weight_decay", 0.0)
        if self.truncate and (isinstance(decay, Tensor) or decay):
            # The model would have to be followed to the point that decay leads to, which its buffer does not know.
            told = "" if isinstance(decay, Tensor) else f"={decay:g}"
            raise BadInput(
                f"optimizer.weight_decay{told}: must be 0 with optimizer.truncate=true, whose model ends a step itself"
            )
        if self.truncate and getattr(self, "nesterov", False):
            raise BadInput("optimizer.nesterov=true: must be false with optimizer.truncate=true, whose model has one average")

    @property
    def from_first(self) -> bool:
        """Whether averages begin with the first gradient; else with zero."""
        return False

    @property
    def takes_any_rate(self) -> bool:
        return self.truncate

    @property
    def reads_loss(self) -> bool:
        return self.truncate

    def passes_on(self) -> bool:
        """Whether its ``step_from`` is the next class's, as :attr:`Optimizer.needs_gradient_only` asks."""
        return not self.truncate

    def init(self, gradient: Blocks) -> State:
        state = super().init(gradient)
        if self.truncate:
            state[EXCESS] = {ALL: Scaled.zeros(next(iter(gradient.values())).mantissa[:, :1, :1])}
        return state

    def weight_of_past(self, average_so_far: Blocks) -> Number:
        """The weight of an average so far in the next one: beta; 0, with ``from_first``, where it is of nothing yet."""
        return since_first(average_so_far, self.beta) if self.from_first else self.beta

    @abstractmethod
    def move(self, state: State, gradient: Blocks, t: int, norm: ParameterNorm) -> tuple[State, Move]:
        """The step of :meth:`update`, and the rate at which the model falls along it. Arguments as there."""

    @abstractmethod
    def averages_so_far(self, state: State) -> Blocks:
        """The buffer of averaged gradients."""

    def step_from(self, state: Any, here: Here, t: int, norm: ParameterNorm) -> tuple[Any, Step]:
        if not self.truncate:
            return super().step_from(state, here, t, norm)
        past = self.weight_of_past(self.averages_so_far(state))
        excess = combine(state[EXCESS][ALL], self._above(here.log_loss), past, 1 - past)
        buffers, move = self.move(state, here.gradient, t, norm)
        left, log_tau = _truncated(excess, here.log_lr.reshape(-1, 1, 1), move)
        log_size = log_tau if move.step.log_size is None else log_tau + move.step.log_size
        return {**buffers, EXCESS: {ALL: left}}, Step(move.step.direction, log_size, whole=True)

    def _above(self, log_loss: Tensor) -> Scaled:
        """L - lower, (R, 1, 1)."""
        log_loss = log_loss[:, None, None]
        if not isinstance(self.lower, Tensor) and self.lower == 0:
            return Scaled((log_loss > -math.inf).to(log_loss), log_loss)
        log_lower = torch.as_tensor(self.lower, dtype=log_loss.dtype, device=log_loss.device).log().expand_as(log_loss)
        one = torch.ones_like(log_loss)
        return combine(Scaled(one, log_loss), Scaled(-one, log_lower), 1.0, 1.0)


@dataclass(frozen=True)
class TruncatedFromFirst(Truncated):
    """The same, with the choice of how averages begin."""

    first: Literal["zero", "gradient"] = hyper(
        "zero", help="what averages begin with: zero, or the first gradient", choices=("zero", "gradient")
    )

    @property
    def from_first(self) -> bool:
        return self.first == "gradient"


def since_first(average_so_far: Blocks, beta: Number) -> Number:
    """beta, (R, 1, 1), but 0 in runs whose average is still of nothing, so that the next is the gradient itself."""
    if not average_so_far:
        return beta
    blocks = average_so_far.values()
    empty = torch.stack([b.log_scale.amax(dim=(-2, -1), keepdim=True) for b in blocks]).amax(dim=0) == -math.inf
    like = next(iter(blocks)).mantissa
    return torch.where(empty, 0, torch.as_tensor(beta, dtype=like.dtype, device=like.device))


def remembered(state: State, log_duals: dict[str, Tensor], stale: bool) -> tuple[State, dict[str, Tensor]]:
    """The buffer of dual norms, and those to reckon with: this step's, or if ``stale`` the last step's, where there was one.

    Args:
        state: With the buffer of the step before, if there was one.
        log_duals: The logarithms of this step's, (R, 1, 1) a block.
        stale: Whether to keep and use them.
    """
    if not stale:
        return {}, log_duals
    kept = {DUALS: {name: Scaled(torch.ones_like(d), d) for name, d in log_duals.items()}}
    before = {name: state[DUALS][name].log_scale for name in log_duals} if DUALS in state else log_duals
    return kept, {name: torch.where(before[name] == -math.inf, d, before[name]) for name, d in log_duals.items()}


def moved_by(
    state: State, direction: Mapping[str, Tensor], momentum: Blocks, matrices: Sequence[str], stale: bool
) -> tuple[State, Move]:
    """The buffer of dual norms, and the move by the direction of a normalised method.

    Args:
        state: With the buffer of the step before, if there was one.
        direction: The step at eta = 1.
        momentum: The average of gradients, of every block.
        matrices: The blocks whose dual norms may be stale.
        stale: Whether they are.
    """
    falls = {name: log_inner(momentum[name], d) for name, d in direction.items()}
    kept, reckoned = remembered(state, {name: falls[name] for name in matrices}, stale)
    descent, assumed = (torch.stack(list(f.values())).logsumexp(dim=0) for f in (falls, {**falls, **reckoned}))
    return kept, Move(Step(direction), descent, assumed)


def _truncated(excess: Scaled, log_lr: Tensor, move: Move) -> tuple[Scaled, Tensor]:
    """What the model exceeds ``lower`` by after the step, and log tau; (R, 1, 1)."""
    moves = (excess.mantissa > 0) & (move.log_assumed > -math.inf)
    log_excess = excess.mantissa.clamp(min=0).log() + excess.log_scale
    log_tau = torch.minimum(log_lr, log_excess - move.log_assumed).masked_fill(~moves, -math.inf)
    # The share of the excess that the step takes by the method's reckoning: exactly 1 where it is truncated.
    share = (log_lr + move.log_assumed - log_excess).clamp(max=0).exp() * (move.log_descent - move.log_assumed).exp()
    left = torch.where(moves, 1 - share, 1)
    return Scaled(excess.mantissa * left, excess.log_scale), log_tau
