"""Gradient descent with momentum."""

from dataclasses import dataclass
from typing import ClassVar

from implicit_bias.core.registry import hyper
from implicit_bias.core.scaled import combine
from implicit_bias.norms import ParameterNorm
from implicit_bias.optimizers.base import OPTIMIZERS, Blocks, State, Step, steepest
from implicit_bias.optimizers.descent import MOMENTUM, WithMomentum


@OPTIMIZERS.register
@dataclass(frozen=True)
class MomentumGD(WithMomentum):
    """Gradient descent with momentum, theta -= eta_t m_t; l2 margin.

    The average is m_t = beta m_{t-1} + (1 - beta) g_t as everywhere in this package. ``ema=false`` gives
    torch.optim.SGD's heavy ball, m_t = beta m_{t-1} + g_t, which is the same trajectory at (1 - beta) times the step size.
    """

    name: ClassVar[str] = "momentum_gd"
    own_norm: ClassVar[str | None] = "l2"
    normalised: ClassVar[bool] = False

    ema: bool = hyper(True, help="true: average with weight 1 - beta on the gradient; false: weight 1, as in torch.optim.SGD")

    def update(self, state: State, gradient: Blocks, t: int, norm: ParameterNorm) -> tuple[State, Step]:
        if self.ema:
            state, momentum = self.averaged(state, gradient)
            return state, steepest(momentum, norm)
        momentum = {name: combine(state[MOMENTUM][name], g, self.beta, 1.0) for name, g in gradient.items()}
        ahead = {name: combine(momentum[name], g, self.beta, 1.0) for name, g in gradient.items()} if self.nesterov else momentum
        return {MOMENTUM: momentum}, steepest(ahead, norm)
