"""What MuonMax and PolarGrad share: unnormalised descent in a product norm with an adaptive norm on the rest."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from implicit_bias.core.registry import hyper
from implicit_bias.core.scaled import average, log_inner, root_mean_square
from implicit_bias.norms import Norm, ParameterNorm, make_norm, over_blocks
from implicit_bias.optimizers.adam import SECOND_ROOT, over_root
from implicit_bias.optimizers.base import Blocks, Number, State, Step
from implicit_bias.optimizers.descent import MOMENTUM, read_by
from implicit_bias.optimizers.hybrid import MATRICES_HELP, matrices_among, matrices_and_rest
from implicit_bias.optimizers.truncation import Move, TruncatedFromFirst, remembered, since_first
from implicit_bias.optimizers.weight_decay import WithWeightDecay


@dataclass(frozen=True)
class AdaptiveRest(TruncatedFromFirst, WithWeightDecay):
    """W_l -= eta_t s c_l polar(m_l), u -= eta_t m / (eps + sqrt(v)), with a factor c_l of the matrices' nuclear norms.

    m and v are the moving averages of g and g^2, without bias correction (Crawshaw et al., arXiv 2510.09827, section 3). The
    norm of the rest, ||u||^2 = sum_i (eps + sqrt(v_i)) u_i^2, changes from step to step, and with it the ball: D^2 = s sum_l
    c_l d_l + sum_i m_i^2 / (eps + sqrt(v_i)) adds a term of first order in the gradient to one of second. As the loss falls,
    matrices stop and the rest goes on, so that there is no norm whose margin is maximised. Without a rest it is steepest
    descent in the spectral norm, unnormalised.
    """

    own_norm: ClassVar[str | None] = None
    normalised: ClassVar[bool] = False
    buffers: ClassVar[tuple[str, ...]] = (MOMENTUM, SECOND_ROOT)

    beta: Number = hyper(0.95, help="momentum, weight of the past in the moving average", ge=0, lt=1)
    beta2: Number = hyper(0.95, help="weight of the past in the average of squared gradients", ge=0, lt=1)
    eps: Number = hyper(0.0, help="stability constant added to sqrt(v); the paper's is 1e-8", ge=0)
    scale: float = hyper(10.0, help="s, the matrices' factor", gt=0, batch=False)
    matrices: list[str] | None = hyper(None, help=MATRICES_HELP)

    @classmethod
    def reads_norm(cls) -> bool:
        return False

    @property
    def working_norm(self) -> str:
        return "spectral"

    @property
    def unit(self) -> float:
        return self.scale

    @property
    def shrinks_with_gradient(self) -> bool:
        return False  # the rest's step does not

    def geometry(
        self,
        names: Sequence[str],
        norm: Norm | None,
        row_bases: Mapping[str, Tensor] | None = None,
        hidden: Sequence[str] | None = None,
    ) -> ParameterNorm:
        """Which block is whose: a hybrid norm of ratio 1, in whose directions matrices have polar factors.

        Arguments as in :meth:`Optimizer.geometry`; ``norm`` is not read. Raises BadInput as :func:`matrices_among`.
        """
        return over_blocks(make_norm("hybrid", ratio=1.0), names, row_bases, matrices_among(names, self.matrices, hidden))

    @abstractmethod
    def log_factors(self, log_duals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """log c_l of every matrix, (R, 1, 1).

        Args:
            log_duals: log of their nuclear norms d_l, or of those of the step before.
        """

    def averages_so_far(self, state: State) -> Blocks:
        return state[MOMENTUM]

    def in_one_unit(self, norm: ParameterNorm, names: Collection[str]) -> frozenset[str]:
        return read_by(norm, names, self, AdaptiveRest)

    def update(self, state: State, gradient: Blocks, t: int, norm: ParameterNorm) -> tuple[State, Step]:
        state, move = self.move(state, gradient, t, norm)
        return state, move.step

    def move(self, state: State, gradient: Blocks, t: int, norm: ParameterNorm) -> tuple[State, Move]:
        matrices, rest = matrices_and_rest(norm, gradient)
        buffers = self._averaged(state, gradient)
        momentum, root = buffers[MOMENTUM], buffers[SECOND_ROOT]
        polar = norm.scaled_direction(momentum)
        adaptive = {name: over_root(momentum[name], root[name], self.eps) for name in rest}
        log_duals = {name: log_inner(momentum[name], polar[name]) for name in matrices}
        kept, reckoned = remembered(state, log_duals, self.stale)
        log_factors = {name: math.log(self.scale) + c for name, c in self.log_factors(reckoned).items()}
        log_rest = [log_inner(momentum[name], d) for name, d in adaptive.items()]
        log_size = _largest([*log_factors.values(), *(torch.zeros_like(d) for d in log_rest)])
        direction = {name: polar[name] * (c - log_size).exp() for name, c in log_factors.items()}
        direction |= {name: d * (-log_size).exp() for name, d in adaptive.items()}
        descent, assumed = (
            torch.stack([*(log_factors[name] + d[name] for name in matrices), *log_rest]).logsumexp(dim=0)
            for d in (log_duals, reckoned)
        )
        return {**buffers, **kept}, Move(Step({name: direction[name] for name in gradient}, log_size), descent, assumed)

    def _averaged(self, state: State, gradient: Blocks) -> State:
        past, past_root = (
            (since_first(state[buffer], beta) if self.from_first else beta)
            for buffer, beta in ((MOMENTUM, self.beta), (SECOND_ROOT, self.beta2))
        )
        return {
            MOMENTUM: {name: average(state[MOMENTUM][name], g, past) for name, g in gradient.items()},
            SECOND_ROOT: {name: root_mean_square(state[SECOND_ROOT][name], g, past_root) for name, g in gradient.items()},
        }


def _largest(logs: list[Tensor]) -> Tensor:
    """The largest of each run, (R, 1, 1); 0 where all are -inf."""
    top = torch.stack(logs).amax(dim=0)
    return torch.where(top == -math.inf, torch.zeros_like(top), top)
