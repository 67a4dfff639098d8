"""The general rules: steepest descent with and without momentum, normalised or not, in any norm."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from implicit_bias.core.registry import hyper
from implicit_bias.core.scaled import Scaled, average, combine
from implicit_bias.norms import ParameterNorm
from implicit_bias.optimizers.base import Blocks, Number, Optimizer, State, Step, steepest
from implicit_bias.optimizers.weight_decay import WithWeightDecay

MOMENTUM = "momentum"
#: What makes a step of a gradient.
MADE_BY = ("update", "move", "averaged")


@dataclass(frozen=True)
class NormalisedDescent(WithWeightDecay):
    """theta -= eta_t direction(g_t)."""

    def in_one_unit(self, norm: ParameterNorm, names: Collection[str]) -> frozenset[str]:
        return read_by(norm, names, self, NormalisedDescent)

    def update(self, state: State, gradient: Blocks, t: int, norm: ParameterNorm) -> tuple[State, Step]:
        return state, Step(norm.scaled_direction(gradient))


@dataclass(frozen=True)
class SteepestDescent(WithWeightDecay):
    """theta -= eta_t N_*(g_t) direction(g_t)."""

    normalised: ClassVar[bool] = False

    def in_one_unit(self, norm: ParameterNorm, names: Collection[str]) -> frozenset[str]:
        return read_by(norm, names, self, SteepestDescent)

    def update(self, state: State, gradient: Blocks, t: int, norm: ParameterNorm) -> tuple[State, Step]:
        return state, steepest(gradient, norm)


@dataclass(frozen=True)
class WithMomentum(Optimizer):
    """The moving average of gradients, m_t = beta m_{t-1} + (1 - beta) g_t, and Nesterov's look-ahead beta m_t + (1 -
    beta) g_t."""

    buffers: ClassVar[tuple[str, ...]] = (MOMENTUM,)

    beta: Number = hyper(0.9, help="momentum, weight of the past in the moving average", ge=0, lt=1)
    nesterov: bool = hyper(False, help="use beta * average + (1 - beta) * gradient instead of the average")

    def weight_of_past(self, average_so_far: Blocks) -> Number:
        """The weight of the average so far in the next one: beta."""
        return self.beta

    def averaged(self, state: State, gradient: Blocks) -> tuple[State, dict[str, Scaled]]:
        """The new buffer, and the average that the step is taken from.

        Args:
            state: The buffer m_{t-1}.
            gradient: g_t, one scaled tensor (R, p, q) a block.

        Returns:
            The state with m_t, and m_t or the look-ahead, scaled tensors (R, p, q).
        """
        past = self.weight_of_past(state[MOMENTUM])
        momentum = {name: average(state[MOMENTUM][name], g, past) for name, g in gradient.items()}
        if not self.nesterov:
            return {MOMENTUM: momentum}, momentum
        return {MOMENTUM: momentum}, {name: combine(momentum[name], g, self.beta, 1 - self.beta) for name, g in gradient.items()}


@dataclass(frozen=True)
class NormalisedMomentumDescent(WithWeightDecay, WithMomentum):
    """theta -= eta_t direction(m_t)."""

    def in_one_unit(self, norm: ParameterNorm, names: Collection[str]) -> frozenset[str]:
        return read_by(norm, names, self, NormalisedMomentumDescent)

    def update(self, state: State, gradient: Blocks, t: int, norm: ParameterNorm) -> tuple[State, Step]:
        state, momentum = self.averaged(state, gradient)
        return state, Step(norm.scaled_direction(momentum))


def read_by(norm: ParameterNorm, names: Collection[str], optimizer: Optimizer, owner: type[Optimizer]) -> frozenset[str]:
    """Blocks whose gradients the norm's direction alone reads, in one unit; none where a subclass makes its steps in its own way.

    Args:
        norm: The optimizer's.
        names: The blocks.
        optimizer: Any.
        owner: The class whose steps are made of the norm's directions of gradients, or of averages of theirs.
    """
    same = all(getattr(type(optimizer), method, None) is getattr(owner, method, None) for method in MADE_BY)
    return norm.in_one_unit(names) if same and optimizer.needs_gradient_only else frozenset()
