"""Unnormalised steepest descent in any norm."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from implicit_bias.core.errors import BadInput
from implicit_bias.core.registry import hyper
from implicit_bias.core.scaled import average
from implicit_bias.norms import ParameterNorm
from implicit_bias.optimizers.base import OPTIMIZERS, Blocks, State, Step, steepest
from implicit_bias.optimizers.descent import MOMENTUM, SteepestDescent, read_by
from implicit_bias.optimizers.schedule_free import ScheduleFree
from implicit_bias.optimizers.truncation import ALL, Move, TruncatedFromFirst, remembered


@OPTIMIZERS.register
@dataclass(frozen=True)
class SD(ScheduleFree, TruncatedFromFirst, SteepestDescent):
    """Unnormalised steepest descent in the norm that `norm` names.

    theta -= eta_t N_*(m_t) direction(m_t), m_t = beta m_{t-1} + (1 - beta) g_t, by default g_t itself (Gunasekar et al., arXiv
    1802.08246, section 3). ``clip`` bounds the step's length by eta_t clip (generalised gradient norm clipping, arXiv
    2506.01913). ``truncate=true`` stops it where the averaged linear model of the loss is ``lower``
    (:mod:`implicit_bias.optimizers.truncation`): Polyak's step size is beta = 0 and schedule.lr=inf.
    """

    name: ClassVar[str] = "sd"

    beta: float = hyper(0.0, help="momentum, weight of the past in the moving average; 0: no average", ge=0, lt=1, batch=False)
    clip: float | None = hyper(None, help="largest length of a step over eta, in the norm; null: any", gt=0, batch=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.from_first and not self.beta:
            raise BadInput("optimizer.first=gradient: is for optimizer.beta > 0, without an average there is no beginning of one")
        if self.truncate and self.clip is not None:
            raise BadInput(f"optimizer.clip={self.clip:g}: must be null with optimizer.truncate=true, which bounds steps itself")

    @property
    def buffers(self) -> tuple[str, ...]:  # type: ignore[override]
        return (MOMENTUM,) if self.beta else ()

    def in_one_unit(self, norm: ParameterNorm, names: Collection[str]) -> frozenset[str]:
        return read_by(norm, names, self, SD)

    def update(self, state: State, gradient: Blocks, t: int, norm: ParameterNorm) -> tuple[State, Step]:
        buffers, momentum = self._averaged(state, gradient)
        step = steepest(momentum, norm)
        if self.clip is None or step.log_size is None:
            return buffers, step
        return buffers, step._replace(log_size=step.log_size.clamp(max=math.log(self.clip)))

    def averages_so_far(self, state: State) -> Blocks:
        return state.get(MOMENTUM, {})

    def weight_of_past(self, average_so_far: Blocks) -> float:
        return super().weight_of_past(average_so_far) if self.beta else 0.0

    def move(self, state: State, gradient: Blocks, t: int, norm: ParameterNorm) -> tuple[State, Move]:
        buffers, momentum = self._averaged(state, gradient)
        step = steepest(momentum, norm)
        assert step.log_size is not None
        kept, reckoned = remembered(state, {ALL: step.log_size}, self.stale)
        log_dual = reckoned[ALL]
        return {**buffers, **kept}, Move(Step(step.direction, log_dual), log_dual + step.log_size, 2 * log_dual)

    def _averaged(self, state: State, gradient: Blocks) -> tuple[State, Blocks]:
        if self.beta == 0:
            return {}, gradient
        past = self.weight_of_past(state[MOMENTUM])
        momentum = {name: average(state[MOMENTUM][name], g, past) for name, g in gradient.items()}
        return {MOMENTUM: momentum}, momentum
