"""Sums and averages of G G^T and G^T G at any scale, and their powers: what Shampoo and SOAP share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from implicit_bias.core.scaled import Scaled, combine
from implicit_bias.optimizers.base import Blocks

LEFT, RIGHT = "left", "right"
# Eigenvalues of a Gram matrix below this fraction of the largest are round-off: singular values below its root are cut.
GRAM_RANK = {torch.float64: 1e-12, torch.float32: 1e-5}


class Eigen(NamedTuple):
    """A positive semi-definite matrix V diag(e^log_values) V^T, (R, p, p).

    Attributes:
        log_values: (R, p), -inf for eigenvalues that are round-off: below e^log_cut, (R, 1).
        vectors: V.
    """

    log_values: Tensor
    log_cut: Tensor
    vectors: Tensor


def no_grams(gradient: Blocks) -> dict[str, dict[str, Scaled]]:
    """Zeros in the shapes of G G^T and G^T G, for every block."""

    def square(g: Scaled, side: int) -> Scaled:
        runs, size = len(g.mantissa), g.mantissa.shape[side]
        return Scaled.zeros(g.mantissa.new_zeros(runs, size, size))

    return {LEFT: {n: square(g, -2) for n, g in gradient.items()}, RIGHT: {n: square(g, -1) for n, g in gradient.items()}}


def added_grams(
    state: Mapping[str, Mapping[str, Scaled]], gradient: Blocks, kept: Any, gain: Any
) -> dict[str, dict[str, Scaled]]:
    """kept L + gain G G^T and kept R + gain G^T G of every block."""
    new: dict[str, dict[str, Scaled]] = {LEFT: {}, RIGHT: {}}
    for name, g in gradient.items():
        unit = g.top()
        plain = g.relative_to(unit)
        for side, gram in ((LEFT, plain @ plain.mT), (RIGHT, plain.mT @ plain)):
            scale = (2 * unit).expand(-1, gram.shape[-1], 1)
            new[side][name] = combine(state[side][name], Scaled(gram, scale), kept, gain)
    return new


def eigen(gram: Scaled, log_factor: Any = 0.0) -> Eigen:
    """Eigenvalues and eigenvectors of a Gram matrix times e^log_factor."""
    top = gram.top()
    plain = gram.relative_to(top)
    values, vectors = torch.linalg.eigh((plain + plain.mT) / 2)
    cut = GRAM_RANK[values.dtype] * values[..., -1:].clamp(min=0.0)
    log_unit = top.squeeze(-1) + log_factor
    logs = torch.where(values > cut, values.clamp(min=torch.finfo(values.dtype).tiny).log(), -torch.inf)
    return Eigen(logs + log_unit, cut.log() + log_unit, vectors)


def times_power(m: Tensor, of: Eigen, log_eps: Tensor, exponent: Any, *, left: bool) -> tuple[Tensor, Tensor]:
    """(A + e^log_eps)^-exponent M, or M (A + e^log_eps)^-exponent, in units of e^log_size.

    With e^log_eps = 0, or so small that it is nothing but round-off of A, it is the power of the pseudo-inverse: M, which A
    holds, has no part in the directions that A has not.

    Returns:
        The product (R, p, q), and log_size, (R, 1, 1).
    """
    log_ridge = log_eps.reshape(-1, 1)
    log_values = torch.logaddexp(of.log_values, log_ridge)
    counts = of.log_values.isfinite() | (log_ridge > of.log_cut)
    # The unit is the largest factor's, of the smallest eigenvalue: nothing overflows.
    least = torch.where(counts, log_values, torch.inf).amin(dim=-1, keepdim=True)
    least = torch.where(least.isfinite(), least, torch.zeros_like(least))
    power = torch.as_tensor(exponent, dtype=m.dtype, device=m.device).reshape(-1, 1)
    factors = torch.where(counts, torch.exp(-power * (log_values - least)), torch.zeros_like(log_values))
    root = (of.vectors * factors.unsqueeze(-2)) @ of.vectors.mT
    return (root @ m if left else m @ root), (-power * least).unsqueeze(-1)
