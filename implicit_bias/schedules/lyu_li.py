"""Loss-based step sizes that go up and down with success."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from implicit_bias.core.registry import hyper
from implicit_bias.schedules.base import SCHEDULES, Evaluation, ScheduleState
from implicit_bias.schedules.loss_based import LossBased


@SCHEDULES.register
@dataclass(frozen=True)
class LyuLi(LossBased):
    """Loss-based with back-off and roll-back, eta_t = alpha_t / L(theta_{t-1}), alpha_1 = lr; for unnormalised methods.

    A step that lowers the loss is kept, and alpha grows by the factor ``up``; any other is taken back, parameters and
    buffers, and alpha shrinks by the factor ``down``; it counts as a step (Lyu and Li, arXiv 1906.05890, appendix on the
    loss-based learning rate: up 2^(1/5), down 2^(1/10), alpha_1 = .1, there once an epoch of stochastic steps).

    The state holds log alpha / lr of the next step, ``log_factor``, and of the last one, ``used``; (R,) each.
    """

    name: ClassVar[str] = "lyu_li"

    up: float = hyper(2**0.2, help="factor of alpha after a step that lowers the loss", ge=1)
    down: float = hyper(2**0.1, help="divisor of alpha after a step that is taken back", gt=1)

    def init(self, like: Tensor) -> ScheduleState:
        return {"log_factor": torch.zeros_like(like), "used": torch.zeros_like(like)}

    def log_lr(self, t: int, log_loss: Tensor | None = None, state: ScheduleState | None = None) -> Tensor:
        plain = super().log_lr(t, log_loss)
        return plain if state is None else plain + state["log_factor"]

    def accept(self, state: ScheduleState, before: Evaluation, after: Evaluation) -> tuple[Tensor, ScheduleState]:
        used, kept = state["log_factor"], after.log_loss < before.log_loss
        up, down = (torch.as_tensor(f, dtype=used.dtype, device=used.device).log() for f in (self.up, self.down))
        return kept, {"log_factor": used + torch.where(kept, up, -down), "used": used}

    def recorded(self, t: int, like: Tensor, state: ScheduleState | None = None) -> Tensor:
        plain = super().recorded(t, like)
        return plain if state is None else plain * state["used"].exp()
