"""Muon on the hidden matrices, Signum on the rest."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from implicit_bias.norms import ParameterNorm
from implicit_bias.optimizers.base import OPTIMIZERS, Blocks, State, Step
from implicit_bias.optimizers.descent import read_by
from implicit_bias.optimizers.hybrid import MuonHybrid


@OPTIMIZERS.register
@dataclass(frozen=True)
class MuonSignum(MuonHybrid):
    """Muon on hidden matrices, Signum with ratio times its rate on the rest; hybrid-norm margin.

    theta -= eta_t r direction(m_t) in the norm max(r max_k ||W_k||_spectral, ||u||_inf): polar factors with rate eta_t, signs
    with rate r eta_t (Gronich and Vardi, arXiv 2602.16340, whose rates are equal: r = 1).
    """

    name: ClassVar[str] = "muon_signum"

    def in_one_unit(self, norm: ParameterNorm, names: Collection[str]) -> frozenset[str]:
        return read_by(norm, names, self, MuonSignum)

    def update(self, state: State, gradient: Blocks, t: int, norm: ParameterNorm) -> tuple[State, Step]:
        state, momentum = self.averaged(state, gradient)
        return state, Step({name: self.ratio * d for name, d in norm.scaled_direction(momentum).items()})
