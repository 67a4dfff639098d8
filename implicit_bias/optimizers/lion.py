"""Lion."""

from dataclasses import dataclass
from typing import ClassVar

from implicit_bias.core.registry import hyper
from implicit_bias.core.scaled import average
from implicit_bias.norms import ParameterNorm
from implicit_bias.optimizers.base import OPTIMIZERS, Blocks, Number, State, Step
from implicit_bias.optimizers.descent import MOMENTUM
from implicit_bias.optimizers.weight_decay import WithWeightDecay


@OPTIMIZERS.register
@dataclass(frozen=True)
class Lion(WithWeightDecay):
    """Lion, signs of an average of another memory than the buffer's; maximises the max-norm margin where that is short.

    theta -= eta_t sign(beta1 m_{t-1} + (1 - beta1) g_t), m_t = beta2 m_{t-1} + (1 - beta2) g_t (Chen et al., arXiv 2302.06675,
    Algorithm 2). With beta1 = beta2 it is Signum. Where beta2 is near 1 the buffer remembers gradients that were larger by the
    factor that the loss has fallen by since.
    """

    name: ClassVar[str] = "lion"
    own_norm: ClassVar[str | None] = "linf"
    buffers: ClassVar[tuple[str, ...]] = (MOMENTUM,)

    beta1: Number = hyper(0.9, help="weight of the past in the average whose sign is taken", ge=0, lt=1)
    beta2: Number = hyper(0.99, help="weight of the past in the buffer", ge=0, lt=1)

    def update(self, state: State, gradient: Blocks, t: int, norm: ParameterNorm) -> tuple[State, Step]:
        past = state[MOMENTUM]
        shown = {name: average(past[name], g, self.beta1) for name, g in gradient.items()}
        return {MOMENTUM: {n: average(past[n], g, self.beta2) for n, g in gradient.items()}}, Step(norm.scaled_direction(shown))
