"""Muon with the Newton-Schulz iteration."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from implicit_bias.core.registry import hyper
from implicit_bias.core.scaled import Scaled
from implicit_bias.norms import ParameterNorm
from implicit_bias.optimizers.base import OPTIMIZERS, Blocks, Number, State, Step
from implicit_bias.optimizers.descent import WithMomentum
from implicit_bias.optimizers.weight_decay import WithWeightDecay

Triples = tuple[tuple[float, float, float], ...]

JORDAN, POLAR_EXPRESS = "jordan", "polar_express"
# Divides the argument of all but the last polynomial, so that rounding in bfloat16 does not leave their range.
SAFETY = 1.01
#: (a, b, c) of one iteration after another; the last is repeated.
COEFFICIENTS: Mapping[str, Triples] = MappingProxyType(
    {
        # The quintic of largest slope at 0: it lifts small singular values fast, and does not converge to 1.
        JORDAN: ((3.4445, -4.7750, 2.0315),),
        # Each the best for what the ones before it leave of [1e-3, 1]: they converge.
        POLAR_EXPRESS: (
            *(
                (a / SAFETY, b / SAFETY**3, c / SAFETY**5)
                for a, b, c in (
                    (8.28721201814563, -23.595886519098837, 17.300387312530933),
                    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
                    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
                    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
                    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
                    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
                    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
                )
            ),
            (1.875, -1.25, 0.375),
        ),
    }
)
#: ``float64`` stands for the precision of the run.
OWN, BFLOAT16 = "float64", "bfloat16"
LOG_2 = math.log(2)


@OPTIMIZERS.register
@dataclass(frozen=True)
class MuonNS(WithWeightDecay, WithMomentum):
    """Muon as practised: five Newton-Schulz steps instead of the polar factor; singular values land in about 0.7 to 1.2.

    X_0 = m / max(||m||_F, eps), then X <- a X + b (X X^T) X + c (X X^T)^2 X. ``coefficients=jordan``: (a, b, c) = (3.4445,
    -4.7750, 2.0315) in every step (Jordan et al., Muon, 2024). ``polar_express``: another triple in each step, those of Algorithm
    1 of Amsel, Persson, Musco and Gower, arXiv 2505.16932, with its safety factor (the norm itself is not multiplied by 1.01, as
    it is there). No factor for the matrix's shape is applied. Its implicit bias is its own; see the newton_schulz figure.

    eps is absolute: it is compared with the true size of m, at any depth of training. As torch.optim.Muon has it (eps = 1e-7),
    the step is no longer normalised once ||m||_F is below eps: it is a_1 a_2 ... m / eps for small m, that of momentum gradient
    descent, and is shorter than a normalised one from about ||m||_F = eps / 485 on with five steps of Jordan's (3.4445^5 = 485).
    See the muon_eps figure.

    ``dtype=bfloat16`` iterates in that precision, as torch.optim.Muon does; m is rounded to it first.
    """

    name: ClassVar[str] = "muon_ns"
    own_norm: ClassVar[str | None] = "spectral"

    ns_steps: int = hyper(5, help="Newton-Schulz steps", ge=1, le=100)
    eps: Number = hyper(0.0, help="the average is divided by max(its norm, eps); torch.optim.Muon has 1e-7", ge=0)
    coefficients: str = hyper(
        JORDAN, help="of the polynomials: Jordan's in every step, or the schedule of Polar Express", choices=tuple(COEFFICIENTS)
    )
    dtype: str = hyper(OWN, help="the iteration's precision: float64 is the run's own", choices=(OWN, BFLOAT16))

    @property
    def triples(self) -> Triples:
        """(a, b, c) of each of its Newton-Schulz steps."""
        return triples(self.coefficients, self.ns_steps)

    def update(self, state: State, gradient: Blocks, t: int, norm: ParameterNorm) -> tuple[State, Step]:
        state, momentum = self.averaged(state, gradient)
        return state, Step({name: self._iterated(m) for name, m in momentum.items()})

    def _iterated(self, m: Scaled) -> Tensor:
        """The step that is taken from an average, (R, p, q)."""
        unit = m.unit()
        if self.dtype == BFLOAT16:
            # A power of two, in units of which bfloat16 rounds as it does in those of m; for a zero m the least finite one.
            unit = (unit / LOG_2).round().clamp(min=torch.finfo(unit.dtype).min) * LOG_2
        g, eps = m.relative_to(unit), (torch.as_tensor(self.eps, dtype=unit.dtype, device=unit.device).log() - unit).exp()
        if self.dtype == BFLOAT16:
            g, eps = g.bfloat16(), eps.bfloat16()
        return newton_schulz(g, self.ns_steps, self.coefficients, eps).to(unit.dtype)


def triples(coefficients: str, steps: int) -> Triples:
    """(a, b, c) of each of so many iterations with the coefficients of that name."""
    named = COEFFICIENTS[coefficients]
    return named[:steps] + named[-1:] * (steps - len(named))


def newton_schulz(g: Tensor, steps: int, coefficients: str = JORDAN, eps: Tensor | None = None) -> Tensor:
    """``steps`` quintic Newton-Schulz iterations on every matrix of ``g`` (..., p, q); 0 stays 0.

    Args:
        g: Matrices (..., p, q), in bfloat16 (R, p, q); without eps they may be at any scale.
        steps: Iterations.
        coefficients: A name of :data:`COEFFICIENTS`.
        eps: What a matrix is divided by where its Frobenius norm is less; a tensor that broadcasts against (..., 1, 1), in the
            unit of ``g``.

    Returns:
        Approximate polar factors, (..., p, q).
    """
    tall = g.shape[-2] > g.shape[-1]
    x = g.mT if tall else g
    norm = torch.linalg.matrix_norm(x, keepdim=True)
    divisor = norm if eps is None else torch.maximum(norm, eps)
    x = x / torch.where(divisor == 0, torch.ones_like(divisor), divisor)
    for a, b, c in triples(coefficients, steps):
        gram = x @ x.mT
        if x.dtype == torch.bfloat16:
            # In one operation each, as torch.optim.Muon: rounded once, where three of them lose several per cent.
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        else:
            x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
