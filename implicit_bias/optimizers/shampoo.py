"""Shampoo, without accumulation or with sums or averages of its Gram matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from implicit_bias.core.registry import hyper
from implicit_bias.core.scaled import Scaled
from implicit_bias.norms import ParameterNorm
from implicit_bias.optimizers.base import OPTIMIZERS, Blocks, Number, State, Step
from implicit_bias.optimizers.descent import NormalisedDescent
from implicit_bias.optimizers.kronecker import LEFT, RIGHT, added_grams, eigen, no_grams, times_power

NONE, AVERAGE, SUM = "none", "average", "sum"
QUARTER = 0.25


@OPTIMIZERS.register
@dataclass(frozen=True)
class Shampoo(NormalisedDescent):
    """Shampoo, by default without accumulation; maximises the spectral-norm margin.

    W -= eta_t (L_t + eps)^(-p) G (R_t + eps)^(-p) in every matrix, with pseudo-inverse powers where eps = 0.
    accumulation=none: L = G G^T and R = G^T G; with p = 1/4 and eps = 0 that is U V^T for G = U S V^T, the step of spectral
    descent, and is computed as such (Tsilivis et al., arXiv 2410.22069, section 2). sum: L_t = L_{t-1} + G G^T, as published
    (Gupta et al., arXiv 1802.09568, Algorithm 1, whose eps I is L_0). average: L_t = beta2 L_{t-1} + (1 - beta2) G G^T,
    divided by 1 - beta2^t.

    L and R are kept with their scales, eps is compared with their true size. Eigenvalues below 1e-12 of the largest, singular
    values below 1e-6 of it, count as zero.
    """

    name: ClassVar[str] = "shampoo"
    own_norm: ClassVar[str | None] = "spectral"

    accumulation: str = hyper(
        NONE, help="Gram matrices of the last gradient, their average, or their sum as published", choices=(NONE, AVERAGE, SUM)
    )
    beta2: Number = hyper(0.95, help="weight of the past in the averages, where they are averages", ge=0, lt=1)
    eps: Number = hyper(0.0, help="ridge added to the Gram matrices; 0 is the theory's", ge=0)
    exponent: Number = hyper(QUARTER, help="power p of the inverse on each side", gt=0, le=1)

    @property
    def spectral(self) -> bool:
        """Whether its step is that of spectral descent."""
        exact = all(isinstance(number, float) for number in (self.eps, self.exponent))
        return exact and self.accumulation == NONE and self.eps == 0 and self.exponent == QUARTER

    @property
    def decay(self) -> float:
        """Sums of t equal gradients grow like t, and are taken to the power -p twice."""
        return 2 * float(torch.as_tensor(self.exponent).amax()) if self.accumulation == SUM else 0.0

    @property
    def needs_gradient_only(self) -> bool:
        """As of spectral descent: of the others decompositions and logarithms are not compiled."""
        return self.spectral

    def init(self, gradient: Blocks) -> State:
        return no_grams(gradient) if self.accumulation != NONE else {}

    def update(self, state: State, gradient: Blocks, t: int, norm: ParameterNorm) -> tuple[State, Step]:
        if self.spectral:
            return super().update(state, gradient, t, norm)
        if self.accumulation == NONE:
            return state, self._step(added_grams(no_grams(gradient), gradient, 1.0, 1.0), gradient, 0.0)
        if self.accumulation == SUM:
            grams = added_grams(state, gradient, 1.0, 1.0)
            return grams, self._step(grams, gradient, 0.0)
        grams = added_grams(state, gradient, self.beta2, 1 - self.beta2)
        log_correction = -torch.log1p(-(torch.as_tensor(self.beta2, dtype=torch.float64) ** t))
        return grams, self._step(grams, gradient, log_correction.to(next(iter(gradient.values())).mantissa))

    def _step(self, grams: State, gradient: Blocks, log_correction: Tensor | float) -> Step:
        preconditioned = {name: self._one(grams, name, g, log_correction) for name, g in gradient.items()}
        log_size = torch.stack([product.top() for product in preconditioned.values()]).amax(dim=0)
        return Step({name: product.relative_to(log_size) for name, product in preconditioned.items()}, log_size)

    def _one(self, grams: State, name: str, g: Scaled, log_correction: Tensor | float) -> Scaled:
        """L^-p G R^-p of one block."""
        unit = g.top()
        correction = log_correction.reshape(-1, 1) if isinstance(log_correction, Tensor) else log_correction
        log_eps = torch.as_tensor(self.eps, dtype=unit.dtype, device=unit.device).log()
        half, left = times_power(g.relative_to(unit), eigen(grams[LEFT][name], correction), log_eps, self.exponent, left=True)
        whole, right = times_power(half, eigen(grams[RIGHT][name], correction), log_eps, self.exponent, left=False)
        return Scaled(whole, unit + left + right)
