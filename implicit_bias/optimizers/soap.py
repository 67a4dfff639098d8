"""SOAP: Adam in the eigenbasis of Shampoo's Gram matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from implicit_bias.core.registry import hyper
from implicit_bias.core.scaled import Scaled, average, root_mean_square
from implicit_bias.norms import ParameterNorm
from implicit_bias.optimizers.base import OPTIMIZERS, Blocks, Number, State, Step
from implicit_bias.optimizers.kronecker import LEFT, RIGHT, added_grams, eigen, no_grams
from implicit_bias.optimizers.weight_decay import WithWeightDecay

FIRST, SECOND_ROOT = "first_moment", "second_moment_root"
# Rotated entries of the gradient below this share of the largest are round-off of the rotation, in directions that carry nothing.
CARRIES = {torch.float64: 1e-10, torch.float32: 1e-4}


@OPTIMIZERS.register
@dataclass(frozen=True)
class Soap(WithWeightDecay):
    """SOAP, Adam in the eigenbasis of averaged Gram matrices, renewed at every step; no margin of its own.

    L <- beta2 L + (1 - beta2) G G^T and R likewise, with eigenvectors Q_L and Q_R; r^2 <- beta2 r^2 + (1 - beta2) (Q_L^T G
    Q_R)^2, and W -= eta_t Q_L (Q_L^T M^ Q_R / r^) Q_R^T with M the average of gradients and bias corrections as in Adam (Vyas
    et al., arXiv 2409.11321, Algorithm 3, eps = 0, with a basis that is renewed at every step). r stays with the place of an
    eigenvector, not with the vector. Where L or R is singular the basis is arbitrary, and r round-off: entries of it below
    1e-10 of the gradient's largest give no step.
    """

    name: ClassVar[str] = "soap"
    buffers: ClassVar[tuple[str, ...]] = (FIRST,)

    beta1: Number = hyper(0.9, help="weight of the past in the average of gradients", ge=0, lt=1)
    beta2: Number = hyper(0.95, help="weight of the past in the averages of squares and Gram matrices", ge=0, lt=1)

    @classmethod
    def reads_norm(cls) -> bool:
        return False

    @property
    def working_norm(self) -> str:
        return "spectral"

    def init(self, gradient: Blocks) -> State:
        root = {name: Scaled.zeros(g.mantissa, per_entry=True) for name, g in gradient.items()}
        return {**super().init(gradient), SECOND_ROOT: root, **no_grams(gradient)}

    def update(self, state: State, gradient: Blocks, t: int, norm: ParameterNorm) -> tuple[State, Step]:
        grams = added_grams(state, gradient, self.beta2, 1 - self.beta2)
        first = {name: average(state[FIRST][name], g, self.beta1) for name, g in gradient.items()}
        root, direction = {}, {}
        for name, g in gradient.items():
            left, right = eigen(grams[LEFT][name]).vectors, eigen(grams[RIGHT][name]).vectors
            unit = g.top()
            rotated = left.mT @ g.relative_to(unit) @ right
            root[name] = root_mean_square(state[SECOND_ROOT][name], Scaled(rotated, unit.expand_as(rotated)), self.beta2)
            ratio = self._ratio(first[name], root[name], unit, left, right)
            direction[name] = left @ (ratio * (1 - self.beta2**t) ** 0.5 / (1 - self.beta1**t)) @ right.mT
        return {FIRST: first, SECOND_ROOT: root, **grams}, Step(direction)

    @property
    def needs_gradient_only(self) -> bool:
        """Decompositions are not compiled."""
        return False

    def _ratio(self, m: Scaled, r: Scaled, unit: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """Q_L^T M Q_R / r where r is more than round-off."""
        size = m.top()
        rotated = left.mT @ m.relative_to(size) @ right
        carries = r.log_abs() > unit + torch.as_tensor(CARRIES[r.mantissa.dtype]).log()
        return torch.where(carries, rotated * torch.exp(size - r.log_abs()), torch.zeros_like(rotated))
