"""Convex problems with known smoothness in every l_p, and, where it is known, their minimum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from implicit_bias.datasets import Dataset
from implicit_bias.norms import Norm


@dataclass(frozen=True)
class Problem:
    """A smooth convex function f of a tensor (1, rows, columns).

    Attributes:
        start: x_0.
        gradient: grad f.
        gap: f(x) - f*, without cancellation where that can be had; f(x) where f* is not known.
        smoothness: Norm to an L with N_*(grad f(x) - grad f(y)) <= L N(x - y).
        distance: |x_0 - x*| in l2; nan where x* is not known.
    """

    start: Tensor
    gradient: Callable[[Tensor], Tensor]
    gap: Callable[[Tensor], float]
    smoothness: Callable[[Norm], float]
    distance: float = float("nan")


def quadratic(dim: int, seed: int = 0) -> Problem:
    """f = sum_j lambda_j (x_j - x*_j)^2 / 2 with lambda = (1, 1/d, ..., 1/d), x* ~ N(0, 1/d), from x_0 = 0.

    In l_p its smoothness is max over |x|_p <= 1 of |lambda x|_q, which is |lambda|_{p / (p - 2)}: the dual norm of l_{p/2}.
    """
    rng = np.random.default_rng(seed)
    eigenvalues = torch.full((1, 1, dim), 1 / dim, dtype=torch.float64)
    eigenvalues[..., 0] = 1
    minimiser = torch.tensor(rng.standard_normal((1, 1, dim)) / dim**0.5)

    def smoothness(norm: Norm) -> float:
        p = exponent(norm)
        power = np.inf if p == 2 else 1.0 if np.isinf(p) else p / (p - 2)
        return float(torch.linalg.vector_norm(eigenvalues, power))

    return Problem(
        torch.zeros_like(minimiser),
        lambda x: eigenvalues * (x - minimiser),
        lambda x: float((eigenvalues * (x - minimiser).square()).sum() / 2),
        smoothness,
        float(minimiser.norm()),
    )


def largest_residual(rows: int, columns: int, seed: int = 0) -> Problem:
    """f = log sum_i (e^r_i + e^-r_i), r = A x - b with b = A x*: a smooth largest residual; f* = log(2 rows) at x*.

    A is Gaussian with variance 1/16, fewer rows than columns. The Hessian A^T (diag(w) - v v^T) A, with weights w that sum to
    one, has <d, H d> <= max_i <a_i, d>^2 <= max_i N_*(a_i)^2 N(d)^2.
    """
    rng = np.random.default_rng(seed)
    a = torch.tensor(rng.standard_normal((rows, columns)) / 4)
    minimiser = torch.tensor(rng.standard_normal(columns) / columns**0.5)
    b = a @ minimiser

    def terms(x: Tensor) -> Tensor:
        residual = a @ x.flatten() - b
        return torch.cat([residual, -residual])

    def gradient(x: Tensor) -> Tensor:
        plus, minus = terms(x).softmax(dim=0).chunk(2)
        return ((plus - minus) @ a).view_as(x)

    return Problem(
        torch.zeros(1, 1, columns, dtype=torch.float64),
        gradient,
        lambda x: float((terms(x).cosh().mean()).log()),
        lambda norm: float(norm.dual(a[:, None]).square().max()),
        float(minimiser.norm()),
    )


def classification(data: Dataset) -> Problem:
    """The mean cross entropy of a linear model, W (1, k, d), from W = 0; its infimum, 0, is not attained where classes separate.

    <D, H D> is the variance of (D x)_c over classes, at most (max - min)^2 / 4, and <D, (e_b - e_c) x^T> is at most
    N_*((e_b - e_c) x^T) N(D), which entrywise norms make the same for all pairs.
    """
    x, y = torch.tensor(data.x, dtype=torch.float64), torch.tensor(data.y)
    hot = torch.nn.functional.one_hot(y, data.num_classes).double()
    pair = torch.zeros(data.num_classes, dtype=torch.float64)
    pair[0], pair[1] = 1, -1

    def gradient(w: Tensor) -> Tensor:
        return ((((x @ w[0].T).softmax(dim=1) - hot).T @ x) / len(x))[None]

    def loss(w: Tensor) -> float:
        return float(torch.nn.functional.cross_entropy(x @ w[0].T, y))

    def smoothness(norm: Norm) -> float:
        return float(norm.dual(pair[None, :, None] * x[:, None, :]).square().mean() / 4)

    return Problem(torch.zeros(1, data.num_classes, x.shape[1], dtype=torch.float64), gradient, loss, smoothness)


def exponent(norm: Norm) -> float:
    """p of an entrywise l_p norm."""
    return float(getattr(norm, "p", {"l1": 1.0, "l2": 2.0, "linf": np.inf}.get(norm.name, np.nan)))
