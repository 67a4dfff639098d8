"""Muon on the hidden matrices, Adam on the rest."""

from dataclasses import dataclass
from typing import ClassVar

from implicit_bias.core.registry import hyper
from implicit_bias.norms import ParameterNorm, ProductNorm
from implicit_bias.optimizers.adam import Adam
from implicit_bias.optimizers.base import OPTIMIZERS, Blocks, Number, State, Step
from implicit_bias.optimizers.hybrid import MuonHybrid


@OPTIMIZERS.register
@dataclass(frozen=True)
class MuonAdam(MuonHybrid):
    """Muon on hidden matrices, Adam with ratio times its rate on the rest; hybrid-norm margin.

    Matrices: W -= eta_t polar(m_t); the rest: u -= r eta_t m^_t / (sqrt(v^_t) + eps). With eps = 0 it is steepest descent in
    max(r max_k ||W_k||_spectral, ||u||_inf) in the limit (Gronich and Vardi, arXiv 2602.16340; needs beta1 <= beta2).
    """

    name: ClassVar[str] = "muon_adam"
    buffers: ClassVar[tuple[str, ...]] = (*MuonHybrid.buffers, *Adam.buffers)

    beta1: Number = hyper(0.9, help="Adam's weight of the past in the average of gradients", ge=0, lt=1)
    beta2: Number = hyper(0.95, help="Adam's weight of the past in the average of squared gradients", ge=0, lt=1)
    eps: Number = hyper(0.0, help="Adam's stability constant; 0 is the theory's", ge=0)
    bias_correction: bool = hyper(True, help="divide Adam's averages by 1 - beta^t")

    def update(self, state: State, gradient: Blocks, t: int, norm: ParameterNorm) -> tuple[State, Step]:
        matrices, rest = _parts(norm, gradient)
        averaged, momentum = self.averaged(state, matrices)
        polar = norm.scaled_direction({**gradient, **momentum})
        adam = Adam(self.beta1, self.beta2, self.eps, self.bias_correction)
        moments, step = adam.update(state, rest, t, norm)
        direction = {name: self.ratio * (polar if name in matrices else step.direction)[name] for name in gradient}
        return {**averaged, **moments}, Step(direction)


def _parts(norm: ParameterNorm, gradient: Blocks) -> tuple[Blocks, Blocks]:
    """Muon's blocks, and the rest: in a hybrid of several parts that in which more than matrices may be, which comes last."""
    rest = norm.rest if isinstance(norm, ProductNorm) else ()
    return {n: g for n, g in gradient.items() if n not in rest}, {n: g for n, g in gradient.items() if n in rest}
