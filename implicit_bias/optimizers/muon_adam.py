"""Muon on the hidden matrices, Adam on the rest."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from implicit_bias.core.errors import BadInput
from implicit_bias.core.registry import hyper
from implicit_bias.core.scaled import Scaled, average, root_mean_square
from implicit_bias.norms import ParameterNorm
from implicit_bias.optimizers.adam import FIRST, SECOND_ROOT, Adam, over_root
from implicit_bias.optimizers.base import OPTIMIZERS, Blocks, Number, State, Step
from implicit_bias.optimizers.descent import MOMENTUM, read_by
from implicit_bias.optimizers.hybrid import MuonHybrid, matrices_and_rest
from implicit_bias.optimizers.truncation import Move, Truncated, moved_by, since_first


@OPTIMIZERS.register
@dataclass(frozen=True)
class MuonAdam(Truncated, MuonHybrid):
    """Muon on hidden matrices, Adam with ratio times its rate on the rest; hybrid-norm margin.

    Matrices: W -= eta_t polar(m_t); the rest: u -= r eta_t m^_t / (sqrt(v^_t) + eps). With eps = 0 it is steepest descent in
    max(r max_k ||W_k||_spectral, ||u||_inf) in the limit (Gronich and Vardi, arXiv 2602.16340; needs beta1 <= beta2).

    ``published=true`` is the MuonAdam of Crawshaw et al., arXiv 2510.09827: W -= (eta_t / r) polar(m_t), u -= eta_t m_t /
    (eps + sqrt(v_t)) without bias correction, and all averages begin with the first gradient; there beta = beta1 = beta2 = .95,
    eps = 1e-8 and s = 1 / r = 10.
    """

    name: ClassVar[str] = "muon_adam"
    buffers: ClassVar[tuple[str, ...]] = (*MuonHybrid.buffers, *Adam.buffers)

    beta1: Number = hyper(0.9, help="Adam's weight of the past in the average of gradients", ge=0, lt=1)
    beta2: Number = hyper(0.95, help="Adam's weight of the past in the average of squared gradients", ge=0, lt=1)
    eps: Number = hyper(0.0, help="Adam's stability constant; 0 is the theory's", ge=0)
    bias_correction: bool = hyper(True, help="divide Adam's averages by 1 - beta^t")
    published: bool = hyper(False, help="rates 1 / ratio and 1, averages that begin with the first gradient, uncorrected")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.truncate and not isinstance(self.beta, Tensor) and not isinstance(self.beta1, Tensor) and self.beta != self.beta1:
            raise BadInput(f"optimizer.beta1={self.beta1:g}: must be optimizer.beta={self.beta:g} with optimizer.truncate=true")

    @property
    def unit(self) -> float:
        return 1.0 if self.published else self.ratio

    @property
    def from_first(self) -> bool:
        return self.published

    def averages_so_far(self, state: State) -> Blocks:
        return state[MOMENTUM] or state[FIRST]

    def in_one_unit(self, norm: ParameterNorm, names: Collection[str]) -> frozenset[str]:
        return read_by(norm, names, self, MuonAdam)

    def update(self, state: State, gradient: Blocks, t: int, norm: ParameterNorm) -> tuple[State, Step]:
        buffers, direction = self._stepped(state, gradient, t, norm)
        return buffers, Step(direction)

    def move(self, state: State, gradient: Blocks, t: int, norm: ParameterNorm) -> tuple[State, Move]:
        buffers, direction = self._stepped(state, gradient, t, norm)
        kept, move = moved_by(state, direction, {**buffers[FIRST], **buffers[MOMENTUM]}, list(buffers[MOMENTUM]), self.stale)
        return {**buffers, **kept}, move

    def _stepped(self, state: State, gradient: Blocks, t: int, norm: ParameterNorm) -> tuple[State, dict[str, Tensor]]:
        matrices, rest = matrices_and_rest(norm, gradient)
        averaged, momentum = self.averaged(state, matrices)
        polar = norm.scaled_direction({**gradient, **momentum})
        if self.published:
            moments, adaptive = self._uncorrected(state, rest)
            return {**averaged, **moments}, {name: (polar if name in matrices else adaptive)[name] for name in gradient}
        adam = Adam(self.beta1, self.beta2, self.eps, self.bias_correction)
        moments, step = adam.update(state, rest, t, norm)
        direction = {name: self.ratio * (polar if name in matrices else step.direction)[name] for name in gradient}
        return {**averaged, **moments}, direction

    def _uncorrected(self, state: State, rest: Blocks) -> tuple[State, dict[str, Tensor]]:
        """The buffers of the rest, and m / (eps + sqrt(v))."""
        if not rest:
            return {FIRST: {}, SECOND_ROOT: {}}, {}
        past, past_root = since_first(state[FIRST], self.beta1), since_first(state[SECOND_ROOT], self.beta2)
        first: dict[str, Scaled] = {name: average(state[FIRST][name], g, past) for name, g in rest.items()}
        root = {name: root_mean_square(state[SECOND_ROOT][name], g, past_root) for name, g in rest.items()}
        return {FIRST: first, SECOND_ROOT: root}, {name: over_root(first[name], root[name], self.eps) for name in rest}
