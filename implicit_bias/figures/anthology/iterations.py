"""The anthology's two iterations: Newton-Schulz for the polar factor, and Prodigy's learning rate."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from implicit_bias.optimizers.muon_ns import newton_schulz

POLAR, PRODIGY, RANGE = "polar", "prodigy", "range"
CUBIC, QUINTIC = "cubic", "quintic"
SIDE = 64
LINEAR = "linear"
#: First learning rates of Prodigy on the quadratic.
FIRST = (1e-8, 1e-6, 1e-4)
#: Largest singular values of a start of the cubic iteration, on both sides of sqrt 3.
STARTS = (1.5, 1.7, 1.73, 1.74, 1.8)


def cubic(x: Tensor, steps: int) -> Tensor:
    """X <- 1.5 X - 0.5 X X^T X, which leads singular values in (0, sqrt 3) to 1.

    Args:
        x: Matrices (..., p, q), at the scale at which the iteration starts.
        steps: Iterations.
    """
    for _ in range(steps):
        x = 1.5 * x - 0.5 * x @ x.mT @ x
    return x


def polar_rows(steps: int, draws: int) -> pd.DataFrame:
    """Part polar: |X - U V^T|_F / sqrt n after x iterations from G / |G|_F. Part range: the same after ``steps`` iterations of
    the cubic from matrices whose largest singular value is x."""
    generator = torch.Generator().manual_seed(3)
    rows: list[tuple[str, str, int, float, float]] = []
    for draw in range(draws):
        g = torch.randn(SIDE, SIDE, dtype=torch.float64, generator=generator)
        u, s, v = torch.linalg.svd(g)
        for name, iterate in ((CUBIC, lambda x, n: cubic(x / x.norm(), n)), (QUINTIC, newton_schulz)):
            rows += [(POLAR, name, draw, n, float((iterate(g, n) - u @ v).norm() / SIDE**0.5)) for n in range(steps + 1)]
        for top in STARTS:
            x = cubic(u @ torch.diag(torch.linspace(top, 0.5, SIDE, dtype=s.dtype)) @ v, steps)
            apart = float((x - u @ v).norm() / SIDE**0.5)
            rows.append((RANGE, CUBIC, draw, top, min(apart, 1e9) if np.isfinite(apart) else 1e9))
    return pd.DataFrame(rows, columns=["part", "method", "seed", "x", "value"])


def prodigy_rows(linear_steps: int, steps: int, dim: int, draws: int) -> pd.DataFrame:
    """Part prodigy: eta_t against t = x. linear: on <g, w>, in units of eta_0; else on a quadratic with eigenvalues .1 to 10 from
    the eta_0 that ``method`` says."""
    g = np.random.default_rng(4).standard_normal(dim)
    parts = [_prodigy(LINEAR, 0, lambda w: g, 1.0, linear_steps, dim)]
    for draw in range(draws):
        uphill = _quadratic(dim, draw)
        parts += [_prodigy(f"{first:.0e}", draw, uphill, first, steps, dim) for first in FIRST]
    return pd.concat(parts, ignore_index=True)


def _quadratic(dim: int, draw: int) -> Callable[[np.ndarray], np.ndarray]:
    eigenvalues, minimiser = np.geomspace(0.1, 10, dim), np.random.default_rng(draw).standard_normal(dim)
    return lambda w: eigenvalues * (w - minimiser)


def _prodigy(
    name: str, draw: int, gradient: Callable[[np.ndarray], np.ndarray], first: float, steps: int, dim: int
) -> pd.DataFrame:
    """Without averages: eta_{t+1} = max(eta_t, <g_t, w_0 - w_t> / |g_t|_1), w_{t+1} = w_t - eta_t sign(g_t), from w_0 = 0."""
    w, eta, rates = np.zeros(dim), first, []
    for _ in range(steps):
        rates.append(eta)
        g = gradient(w)
        following = max(eta, float(-g @ w) / float(np.abs(g).sum()))
        w, eta = w - eta * np.sign(g), following
    return pd.DataFrame({"part": PRODIGY, "method": name, "seed": draw, "x": np.arange(steps), "value": rates})
