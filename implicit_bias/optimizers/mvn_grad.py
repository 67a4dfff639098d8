"""MVN-Grad: gradients over their own deviation."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from implicit_bias.core.registry import hyper
from implicit_bias.core.scaled import Scaled, average, combine, root_mean_square
from implicit_bias.norms import ParameterNorm
from implicit_bias.optimizers.adam import FIRST, over_root
from implicit_bias.optimizers.base import OPTIMIZERS, Blocks, Number, State, Step
from implicit_bias.optimizers.weight_decay import WithWeightDecay

DEVIATION, NORMALISED = "deviation", "normalised"


@OPTIMIZERS.register
@dataclass(frozen=True)
class MVNGrad(WithWeightDecay):
    """Gradients divided by their deviation from their average, averaged after the division; no norm of its own.

    m_t = beta1 m_{t-1} + (1 - beta1) g_t, v_t = beta2 v_{t-1} + (1 - beta2) (g_t - m_t)^2, z_t = g_t / (sqrt(v^_t) + eps), u_t =
    beta1 u_{t-1} + (1 - beta1) z_t, theta -= eta_t u^_t, with v^ = v / (1 - beta2^t), u^ = u / (1 - beta1^t), 0/0 := 0
    (arXiv 2602.10204). It has no norm of its own: entries are divided by how much they change, and not by how large they are. At
    a constant gradient the two are in proportion, and steps are signs; along a run they are not, and its margin is nearer to the
    largest of l2 than of the max-norm (figure more_methods). beta1 = 0 has no deviation, and is refused.
    """

    name: ClassVar[str] = "mvn_grad"
    own_norm: ClassVar[str | None] = None
    buffers: ClassVar[tuple[str, ...]] = (FIRST, DEVIATION, NORMALISED)

    beta1: Number = hyper(0.9, help="weight of the past in the averages of gradients and of normalised ones", gt=0, lt=1)
    beta2: Number = hyper(0.99, help="weight of the past in the average of squared deviations", ge=0, lt=1)
    eps: Number = hyper(0.0, help="stability constant added to sqrt(v)", ge=0)

    @classmethod
    def reads_norm(cls) -> bool:
        return False

    @property
    def working_norm(self) -> str:
        return "linf"

    def update(self, state: State, gradient: Blocks, t: int, norm: ParameterNorm) -> tuple[State, Step]:
        first = {name: average(state[FIRST][name], g, self.beta1) for name, g in gradient.items()}
        root, normalised, direction = {}, {}, {}
        for name, g in gradient.items():
            away = combine(g, Scaled(-first[name].mantissa, first[name].log_scale), 1.0, 1.0)
            root[name] = root_mean_square(state[DEVIATION][name], away, self.beta2)
            z = over_root(g, root[name], self.eps, 1.0, (1 - self.beta2**t) ** 0.5)
            z = torch.where(root[name].mantissa == 0, torch.zeros_like(z), z)  # it has never changed, nor moves then
            new = Scaled(z, torch.zeros_like(g.log_scale))
            normalised[name] = average(state[NORMALISED][name], new, self.beta1)
            direction[name] = normalised[name].relative_to(torch.zeros_like(g.log_scale)) / (1 - self.beta1**t)
        return {FIRST: first, DEVIATION: root, NORMALISED: normalised}, Step(direction)
