"""Whether a norm keeps the identities that every proof about it rests on: tried on a few matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from implicit_bias.norms.base import Norm

# Values of a norm that is found by an iteration may be as far off as this, relative.
TOLERANCE = 1e-6


def flaw(norm: Norm) -> str | None:
    """What is wrong with a norm's value, dual and direction: N(u) = 1 and <G, u> = N_*(G) for u = direction(G), and
    N(2 G) = 2 N(G).

    Args:
        norm: Not batched.

    Returns:
        The identity that does not hold, in words; None where all do on the matrices that were tried.
    """
    g = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u = norm.direction(g)
    if u.shape != g.shape:
        return f"direction of a matrix {tuple(g.shape[1:])} has the shape {tuple(u.shape[1:])}"
    if not _equal(norm.value(u), torch.ones(4, dtype=g.dtype)):
        return "value(direction(G)) is not 1"
    if not _equal((g * u).sum(dim=(-2, -1)), norm.dual(g)):
        return "<G, direction(G)> is not dual(G)"
    return None if _equal(norm.value(2 * g), 2 * norm.value(g)) else "value(2 G) is not 2 value(G)"


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(((one - other).abs() <= TOLERANCE * other.abs()).all())
