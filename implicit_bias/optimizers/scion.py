"""Scion: normalised momentum descent in the hybrid norm."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from implicit_bias.core.registry import hyper
from implicit_bias.norms import ParameterNorm
from implicit_bias.optimizers.base import OPTIMIZERS, Blocks, Number, State, Step
from implicit_bias.optimizers.descent import MOMENTUM, read_by
from implicit_bias.optimizers.hybrid import MuonHybrid, matrices_and_rest
from implicit_bias.optimizers.truncation import Move, TruncatedFromFirst, moved_by


@OPTIMIZERS.register
@dataclass(frozen=True)
class Scion(TruncatedFromFirst, MuonHybrid):
    """Scion, polar factors on hidden matrices, signs on the rest; hybrid-norm margin.

    W -= (eta_t / r) polar(m_t), u -= eta_t sign(m_t): steepest descent of length eta_t in max(r max_k ||W_k||_spectral,
    ||u||_inf) (Pethick et al., arXiv 2502.07529; Crawshaw et al., arXiv 2510.09827, whose scale is s = 1 / r). Muon-Signum at
    1 / r times its rate. The code of the second paper begins with the first gradient, ``first=gradient``.
    """

    name: ClassVar[str] = "scion"

    beta: Number = hyper(0.95, help="momentum, weight of the past in the moving average", ge=0, lt=1)

    @property
    def unit(self) -> float:
        return 1.0

    def averages_so_far(self, state: State) -> Blocks:
        return state[MOMENTUM]

    def in_one_unit(self, norm: ParameterNorm, names: Collection[str]) -> frozenset[str]:
        return read_by(norm, names, self, Scion)

    def update(self, state: State, gradient: Blocks, t: int, norm: ParameterNorm) -> tuple[State, Step]:
        state, momentum = self.averaged(state, gradient)
        return state, Step(norm.scaled_direction(momentum))

    def move(self, state: State, gradient: Blocks, t: int, norm: ParameterNorm) -> tuple[State, Move]:
        buffers, momentum = self.averaged(state, gradient)
        matrices, _ = matrices_and_rest(norm, gradient)
        kept, move = moved_by(state, norm.scaled_direction(momentum), momentum, list(matrices), self.stale)
        return {**buffers, **kept}, move
