"""Mirror descent: gradient descent in dual coordinates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from implicit_bias.core.errors import BadInput
from implicit_bias.core.registry import hyper
from implicit_bias.core.scaled import Scaled
from implicit_bias.norms import Norm, ParameterNorm
from implicit_bias.norms.blocks import WholeVector
from implicit_bias.norms.l2 import L2
from implicit_bias.norms.lp import Lp
from implicit_bias.norms.vectors import Exponent, along, is_inf
from implicit_bias.optimizers.base import OPTIMIZERS, Blocks, Here, Number, Optimizer, State, Step

DUAL = "dual"
POWER, SQUARE = "power", "square"
#: Below this exponent |w| = |z|^(1/(p-1)) leaves the doubles within some ten thousand steps.
LEAST_P = 1.01
#: For p > 2 steps change gaps by less, the larger these are: at the automatic rate by at most 1 from this size on.
GAP = 100.0


@OPTIMIZERS.register
@dataclass(frozen=True)
class Mirror(Optimizer):
    """Mirror descent, z <- z - eta_t g_t with z = grad psi(theta); margin of the norm that `norm` names.

    ``potential=power``: psi(w) = ||w||_p^p / p, so that w = sign(z) |z|^(1/(p-1)) entry by entry, p-GD (Sun, Ahn, Thrampoulidis
    and Azizan, arXiv 2205.12808, section 2), for l2 and lp. ``potential=square``: psi(w) = N(w)^2 / 2, so that w = N_*(z)
    direction(z), for any norm N (2306.13853 has such homogeneous potentials). In l2 both are gradient descent.

    The state is z itself, a plain sum of numbers of order one where the schedule divides by the loss: w is made anew from it,
    by log|w| = log|z| / (p - 1), and no power of w is taken again. schedule.lr=auto is 1 / L_N, L_N = max N_*(grad m_ic)^2 / c
    with c the modulus of strong convexity of N^2 / 2 (p - 1 in l_p, p <= 2; 1 where it has none), and for ``power`` (p - 1)
    100^max(0, p - 2) B^-p, B = max N_*(grad m_ic), which at p = 2 is the same.
    """

    name: ClassVar[str] = "mirror"
    normalised: ClassVar[bool] = False
    buffers: ClassVar[tuple[str, ...]] = (DUAL,)

    potential: Literal["power", "square"] = hyper(
        POWER, help="power: ||w||_p^p / p, of norm l2 or lp; square: N(w)^2 / 2 of any norm N", choices=(POWER, SQUARE)
    )

    def incompatible(self, other: object) -> str | None:
        if isinstance(other, Norm) and self.potential == POWER:
            p = _exponent(other)
            if p is None:
                return f"optimizer={self.name} with optimizer.potential={POWER} needs l2 or lp; with {SQUARE} it takes any norm"
            if not isinstance(p, Tensor) and p < LEAST_P:
                return (
                    f"p is {p:g}; with optimizer.potential={POWER} it must be at least {LEAST_P}, below which weights are beyond"
                    f" every double, with {SQUARE} it may be any"
                )
        return super().incompatible(other)

    @property
    def reads_loss(self) -> bool:
        """True: its steps are made from weights of the pairs, as shares of the loss."""
        return True

    def geometry(
        self,
        names: Sequence[str],
        norm: Norm | None,
        row_bases: Mapping[str, Tensor] | None = None,
        hidden: Sequence[str] | None = None,
    ) -> ParameterNorm:
        # A start need not lie in the row space of gradients; smooth maps of singular values need no basis of it.
        return super().geometry(names, norm, None if norm is not None and norm.smooth else row_bases, hidden)

    def unit_in(self, norm: Norm, unit_step: Tensor) -> Number:
        if self.potential == POWER:
            p = torch.as_tensor(_exponent(norm), dtype=unit_step.dtype, device=unit_step.device)
            return unit_step ** (p - 2) * GAP ** -(p - 2).clamp(min=0) / (p - 1)
        return 1 / modulus(norm)

    def check_start(self, initial: Mapping[str, Tensor], norm: ParameterNorm) -> None:
        if self.potential == SQUARE and norm.dual_norm is None and any(bool(block.any()) for block in initial.values()):
            raise BadInput(
                f"optimizer.potential={SQUARE}: in norm {norm.label} a start other than zero has no dual point that leads back"
                f" to it; needs model=linear with model.init=zero, or a norm l2, lp or (one matrix) schatten with 1 < p < inf"
            )

    def init(self, gradient: Blocks) -> State:
        return {DUAL: {name: Scaled.zeros(g.mantissa) for name, g in gradient.items()}}

    def step_from(self, state: State, here: Here, t: int, norm: ParameterNorm) -> tuple[State, Step]:
        log_rate = here.log_loss_rate + here.evaluation.weight_over_loss.log()
        rate, downhill = log_rate.exp()[:, None, None], here.evaluation.per_weight()
        dual = {name: z + rate * downhill[name] for name, z in self._begun(state[DUAL], here.parameters, norm).items()}
        kept = {name: Scaled(z, torch.zeros_like(z[..., :1])) for name, z in dual.items()}
        return {DUAL: kept}, Step(to=self.primal(dual, norm))

    def primal(self, dual: Mapping[str, Tensor], norm: ParameterNorm) -> dict[str, Tensor]:
        """w = grad psi*(z).

        Args:
            dual: z, one tensor (R, p, q) a block.
            norm: What :meth:`geometry` gave.
        """
        if self.potential == POWER:
            return {name: _power(z, 1 / _less_one(norm, z)) for name, z in dual.items()}
        size = norm.dual(dual)[:, None, None]
        return {name: size * block for name, block in norm.direction(dual).items()}

    def dual(self, primal: Mapping[str, Tensor], norm: ParameterNorm) -> dict[str, Tensor]:
        """z = grad psi(w), the inverse of :meth:`primal`.

        Args:
            primal: w, one tensor (R, p, q) a block; zero, where the norm has no dual norm.
            norm: What :meth:`geometry` gave.
        """
        if self.potential == POWER:
            return {name: _power(w, _less_one(norm, w)) for name, w in primal.items()}
        if norm.dual_norm is None:
            return {name: torch.zeros_like(w) for name, w in primal.items()}
        size = norm.value(primal)[:, None, None]
        return {name: size * block for name, block in norm.dual_norm.direction(primal).items()}

    def _begun(self, buffer: Blocks, parameters: Mapping[str, Tensor], norm: ParameterNorm) -> dict[str, Tensor]:
        """z: what is kept; before the first step, and where that was taken back, that of the start."""
        fresh = {name: block.log_scale == -torch.inf for name, block in buffer.items()}
        if not any(bool(runs.any()) for runs in fresh.values()):
            return {name: block.mantissa for name, block in buffer.items()}
        start = self.dual(parameters, norm)
        return {name: torch.where(fresh[name], start[name], block.mantissa) for name, block in buffer.items()}


def modulus(norm: Norm) -> Tensor | float:
    """The modulus of strong convexity of N^2 / 2, 1 where it has none; (R,) where the norm has a parameter a run."""
    found = norm.strong_convexity
    return torch.where(found > 0, found, 1.0) if isinstance(found, Tensor) else found or 1.0


def _exponent(norm: Norm) -> Exponent | None:
    """p of an entrywise l_p norm that a power stands for, of the others None."""
    if isinstance(norm, L2):
        return 2.0
    return norm.p if isinstance(norm, Lp) and not is_inf(norm.p) else None


def _less_one(norm: ParameterNorm, like: Tensor) -> Tensor:
    """p - 1, of no dimension or (R, 1, 1)."""
    p = _exponent(norm.norm) if isinstance(norm, WholeVector) else None
    assert p is not None, "refused where it was chosen"
    return torch.as_tensor(along(p, like), dtype=like.dtype, device=like.device) - 1


def _power(x: Tensor, exponent: Tensor) -> Tensor:
    """sign(x) |x|^exponent by logarithms, 0 at 0, one rule at any size."""
    return x.sign() * torch.exp(x.abs().log() * exponent)
