"""Muon with the Newton-Schulz iteration."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from implicit_bias.core.registry import hyper
from implicit_bias.norms import ParameterNorm
from implicit_bias.optimizers.base import OPTIMIZERS, Blocks, State, Step
from implicit_bias.optimizers.descent import WithMomentum
from implicit_bias.optimizers.weight_decay import WithWeightDecay

# Jordan's quintic: maximal slope at 0, so that it lifts small singular values fast; it does not converge to 1.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


@OPTIMIZERS.register
@dataclass(frozen=True)
class MuonNS(WithWeightDecay, WithMomentum):
    """Muon as practised: five Newton-Schulz steps instead of the polar factor; singular values land in about 0.7 to 1.2.

    X_0 = m / ||m||_F, then X <- a X + b (X X^T) X + c (X X^T)^2 X with (a, b, c) = (3.4445, -4.7750, 2.0315) (Jordan et al.,
    Muon, 2024), in the run's own precision. No factor for the matrix's shape is applied. Its implicit bias is its own; see the
    newton_schulz figure.
    """

    name: ClassVar[str] = "muon_ns"
    own_norm: ClassVar[str | None] = "spectral"

    ns_steps: int = hyper(5, help="Newton-Schulz steps", ge=1, le=100)

    def update(self, state: State, gradient: Blocks, t: int, norm: ParameterNorm) -> tuple[State, Step]:
        state, momentum = self.averaged(state, gradient)
        return state, Step({name: newton_schulz(m.collapse(), self.ns_steps) for name, m in momentum.items()})


def newton_schulz(g: Tensor, steps: int) -> Tensor:
    """``steps`` quintic Newton-Schulz iterations on every matrix of ``g`` (..., p, q), which may be at any scale; 0 stays 0.

    Args:
        g: Matrices (..., p, q).
        steps: Iterations.

    Returns:
        Approximate polar factors, (..., p, q).
    """
    tall = g.shape[-2] > g.shape[-1]
    x = g.mT if tall else g
    norm = torch.linalg.matrix_norm(x, keepdim=True)
    x = x / torch.where(norm == 0, torch.ones_like(norm), norm)
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
