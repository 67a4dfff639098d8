"""Measurements beside the runs: metrics by eigenvalues, one step at a Gaussian gradient, and steps of any length."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from implicit_bias.losses import LOSSES
from implicit_bias.measures.natural_gradient import best_metric, cosine_and_sine, metric_condition
from implicit_bias.models import MODELS, Data
from implicit_bias.norms import make_norm

METRIC, GAUSSIAN, DISCRETE = "metric", "gaussian", "discrete"
#: Rows and columns of the small problems whose metrics are made, and random metrics that are tried on each.
SMALL = (4, 3)
#: Rows and columns of the Gaussian gradient.
LARGE = (64, 32)
#: Norms by whose steepest descent a Gaussian gradient is followed.
FOLLOWED = ("l2", "linf", "spectral", "nuclear")
#: Points of the mean gradient along a step, by Gauss and Legendre.
POINTS = 20
#: Lengths of random steps on a linear model.
LENGTHS = (1e-2, 10.0)


def metric_rows(problems: int, tried: int, seed: int = 0) -> pd.DataFrame:
    """x: least condition number by the closed form; y: of the best metric by eigenvalues; value: least of random metrics."""
    generator = torch.Generator().manual_seed(seed)
    size, rows = math.prod(SMALL), []
    for _ in range(problems):
        g, d = torch.randn(2, size, dtype=torch.float64, generator=generator)
        d = d * (g @ d).sign()
        closed = float(metric_condition(*_angle(d.view(SMALL), g.view(SMALL))))
        values = np.linalg.eigvalsh(best_metric(d, g).numpy())
        rows.append((closed, values[-1] / values[0], _least_condition(g, d, tried, generator)))
    return _part(METRIC, "", *map(np.array, zip(*rows, strict=True)))


def _least_condition(g: Tensor, d: Tensor, tried: int, generator: torch.Generator) -> float:
    """Of random metrics M with M d = g, all of which are g g^T / <g, d> + B B^T with B^T d = 0."""
    size = len(g)
    b = torch.randn(tried, size, size - 1, dtype=torch.float64, generator=generator)
    b = b * torch.logspace(-1, 1, tried, dtype=torch.float64)[:, None, None]
    b = b - d[:, None] * (d @ b)[:, None] / (d @ d)
    values = np.linalg.eigvalsh((torch.outer(g, g) / (g @ d) + b @ b.transpose(1, 2)).numpy())
    return float((values[:, -1] / values[:, 0]).min())


def gaussian_rows(draws: int, seed: int = 0) -> pd.DataFrame:
    """x: cosine of a step of steepest descent with a Gaussian gradient; y: its least condition number; by norm."""
    generator = torch.Generator().manual_seed(seed)
    g = torch.randn(draws, *LARGE, dtype=torch.float64, generator=generator)
    parts = []
    for label in FOLLOWED:
        angle = cosine_and_sine({"w": make_norm(label).direction(g)}, {"w": g})
        parts.append(_part(GAUSSIAN, label, angle[0].numpy(), metric_condition(*angle).numpy(), np.nan))
    return pd.concat(parts, ignore_index=True)


def discrete_rows(steps: int, seed: int = 0) -> pd.DataFrame:
    """Random steps D from random points of a linear model with cross entropy. x: L(theta) - L(theta + D); y: <ybar, D> with ybar
    the mean of -grad L along the step; value: the least condition number of a metric with M D = ybar."""
    rng = np.random.default_rng(seed)
    x, y = torch.tensor(rng.standard_normal((1, 30, 6))), torch.tensor(rng.integers(4, size=(1, 30)))
    model = MODELS.get("linear")()
    objective = model.objective(Data(x, y, 4), LOSSES.get("cross_entropy")())
    nodes, shares = np.polynomial.legendre.leggauss(POINTS)

    def loss(theta: Tensor) -> float:
        return float(objective.gradient({"weight": theta}).log_loss.exp())

    def descent_at(theta: Tensor) -> Tensor:
        uphill: Tensor = objective.gradient({"weight": theta}).blocks["weight"].relative_to(theta.new_zeros(1, 1, 1))
        return -uphill

    rows = []
    for length in np.geomspace(*LENGTHS, steps):
        theta, step = (torch.tensor(rng.standard_normal((1, 4, 6))) for _ in range(2))
        # About half of the steps go downhill at first.
        step = step + rng.choice([-1, 1]) * descent_at(theta) * step.norm() / descent_at(theta).norm()
        step = step * length / step.norm()
        along = [w / 2 * descent_at(theta + (1 + s) / 2 * step) for s, w in zip(nodes, shares, strict=True)]
        mean = torch.stack(along).sum(dim=0)
        condition = float(metric_condition(*_angle(step[0], mean[0])))
        rows.append((loss(theta) - loss(theta + step), float((mean * step).sum()), condition))
    return _part(DISCRETE, "", *map(np.array, zip(*rows, strict=True)))


def _angle(step: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    return cosine_and_sine({"w": step[None]}, {"w": gradient[None]})


def _part(part: str, method: str, x: np.ndarray, y: np.ndarray, value: np.ndarray | float) -> pd.DataFrame:
    return pd.DataFrame({"part": part, "method": method, "x": x, "y": y, "value": value})
