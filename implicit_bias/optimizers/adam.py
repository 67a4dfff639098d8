"""Adam, without a stability constant by default."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from implicit_bias.core.registry import hyper
from implicit_bias.core.scaled import Scaled, average, root_mean_square
from implicit_bias.norms import ParameterNorm
from implicit_bias.optimizers.base import OPTIMIZERS, Blocks, Number, State, Step
from implicit_bias.optimizers.weight_decay import WithWeightDecay

FIRST, SECOND_ROOT = "first_moment", "second_moment_root"


@OPTIMIZERS.register
@dataclass(frozen=True)
class Adam(WithWeightDecay):
    """Adam; with eps = 0 it maximises the max-norm margin, with eps > 0 it hands over to l2 late.

    m_t = beta1 m_{t-1} + (1 - beta1) g_t, v_t = beta2 v_{t-1} + (1 - beta2) g_t^2, step = m^ / (sqrt(v^) + eps), 0/0 := 0,
    where m^ = m / (1 - beta1^t) and v^ = v / (1 - beta2^t), or m and v themselves without bias correction (Fan et al., arXiv
    2502.04664, eqs. 33a-c; Theorem 5 needs beta1 <= beta2).

    The buffer is r = sqrt(v), by hypot: v would underflow twice as early. eps is absolute: it is compared with the gradient's
    true size.
    """

    name: ClassVar[str] = "adam"
    own_norm: ClassVar[str | None] = "linf"
    buffers: ClassVar[tuple[str, ...]] = (FIRST, SECOND_ROOT)

    beta1: Number = hyper(0.9, help="weight of the past in the average of gradients", ge=0, lt=1)
    beta2: Number = hyper(0.95, help="weight of the past in the average of squared gradients", ge=0, lt=1)
    eps: Number = hyper(0.0, help="stability constant added to sqrt(v); 0 is the theory's", ge=0)
    bias_correction: bool = hyper(True, help="divide the averages by 1 - beta^t; false is the paper's form")

    def update(self, state: State, gradient: Blocks, t: int, norm: ParameterNorm) -> tuple[State, Step]:
        first = {name: average(state[FIRST][name], g, self.beta1) for name, g in gradient.items()}
        root = {name: root_mean_square(state[SECOND_ROOT][name], g, self.beta2) for name, g in gradient.items()}
        corrections = (1 - self.beta1**t, (1 - self.beta2**t) ** 0.5) if self.bias_correction else (1.0, 1.0)
        direction = {name: over_root(first[name], root[name], self.eps, *corrections) for name in gradient}
        return {FIRST: first, SECOND_ROOT: root}, Step(direction)


def over_root(m: Scaled, r: Scaled, eps: Number, correct_m: Number = 1.0, correct_r: Number = 1.0) -> Tensor:
    """(m / correct_m) / (r / correct_r + eps), entry by entry, with 0/0 := 0; (R, p, q).

    Args:
        m: What is divided, such as an average of gradients.
        r: The root of an average of squares, at a scale of its own.
        eps: In the true unit of both.
        correct_m: What the weights of the average m sum to.
        correct_r: The root of what the weights of the average of squares sum to.
    """
    # A number is written on the device, not copied to it, for which the host would have to wait.
    eps = eps if isinstance(eps, Tensor) else m.mantissa.new_full((), eps)
    log_eps = eps.to(m.mantissa).log()
    # Both in units of r's scale, where eps becomes eps e^-scale: late in training it dominates, as it does in exact
    # arithmetic.
    denominator = r.mantissa / correct_r + torch.exp(log_eps - r.log_scale)
    ratio = m.mantissa * torch.exp(m.log_scale - r.log_scale) / (correct_m * denominator)
    return torch.where(m.mantissa == 0, torch.zeros_like(ratio), ratio)
