"""HASD of Bai and Bullins, accelerated and plain gradient descent, on a smooth convex function."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from implicit_bias.figures.acceleration.problems import Problem, exponent
from implicit_bias.norms import Norm

#: Trials of rho in an iteration; bisection needs fewer, the interval's logarithms being at most some tens apart.
MOST_TRIALS = 60


@dataclass(frozen=True)
class Iterate:
    """Where an iteration has arrived.

    Attributes:
        x: x_t.
        ratio: |grad f(x_t)|_q / |grad f(x_t)|_2, whose mean G is that of the theorem; nan for other methods.
        evaluations: Gradients that the iteration has asked for.
    """

    x: Tensor
    ratio: float
    evaluations: int


def hasd(problem: Problem, norm: Norm, steps: int) -> Iterator[Iterate]:
    """HASD in l_p, 2 <= p (the paper's algorithm, whose p is finite; p = inf is its limit).

    A_0 = 0, v_0 = x_0. In iteration t, with L the smoothness in l_p and rho a number with r / 2 <= rho <= 2 r:
    a = (1 + sqrt(1 + 144 L rho A)) / (36 L rho), y = (A x + a v) / (A + a), x' = argmin_z <grad f(y), z - y> + L |z - y|_p^2,
    r = |grad f(x')|_2^2 / |grad f(x')|_q^2, v' = v - a grad f(x'), A' = A + a. It ends where a gradient is zero.
    rho is searched for by bisection from the last one, which is this project's choice.

    Args:
        problem: f.
        norm: l_p; its dual norm and direction make the step, x' = y - N_*(g) direction(g) / (2 L).
        steps: Iterations to make.
    """
    smooth, x, total = problem.smoothness(norm), problem.start, 0.0
    v, log_rho = x, 0.0
    low, high = -(1 - 2 / exponent(norm)) * math.log(x.numel()) - math.log(2), math.log(2)
    for _ in range(steps):
        ends, trials = [low, high], 0
        while True:
            trials += 1
            scale = smooth * math.exp(log_rho)
            a = (1 + math.sqrt(1 + 144 * scale * total)) / (36 * scale)
            y = (total * x + a * v) / (total + a)
            g = problem.gradient(y)
            there = y - norm.dual(g).item() / (2 * smooth) * norm.direction(g)
            after = problem.gradient(there)
            size, dual = after.norm().item(), norm.dual(after).item()
            if size == 0:
                yield Iterate(there, math.nan, 2 * trials)
                return
            log_r = 2 * math.log(size / dual)
            if abs(log_rho - log_r) <= math.log(2) or trials == MOST_TRIALS:
                break
            # log rho - log r(rho) is continuous, and changes its sign between the ends.
            ends[log_rho > log_r] = log_rho
            log_rho = sum(ends) / 2
        x, v, total = there, v - a * after, total + a
        yield Iterate(x, dual / size, 2 * trials)


def accelerated(problem: Problem, l2: Norm, steps: int) -> Iterator[Iterate]:
    """Nesterov's accelerated gradient descent in l2, x' = y - grad f(y) / L, y = x' + (s - 1) / s' (x' - x)."""
    smooth, x, y, s = problem.smoothness(l2), problem.start, problem.start, 1.0
    for _ in range(steps):
        there, after = y - problem.gradient(y) / smooth, (1 + math.sqrt(1 + 4 * s * s)) / 2
        y = there + (s - 1) / after * (there - x)
        x, s = there, after
        yield Iterate(x, math.nan, 1)


def steepest_descent(problem: Problem, norm: Norm, steps: int) -> Iterator[Iterate]:
    """x' = x - N_*(g) direction(g) / L."""
    smooth, x = problem.smoothness(norm), problem.start
    for _ in range(steps):
        g = problem.gradient(x)
        x = x - norm.dual(g).item() / smooth * norm.direction(g)
        yield Iterate(x, math.nan, 1)


def bounds(smooth: float, distance: float, ratios: Tensor) -> Tensor:
    """324 L |x_0 - x*|_2^2 / (G_T T)^2 for T = 1, 2, ...: what the theorem says that no gap of HASD exceeds, (T,).

    Args:
        smooth: L in l_p.
        distance: |x_0 - x*|_2.
        ratios: :attr:`Iterate.ratio` of every iteration, (T,).
    """
    t = torch.arange(1, len(ratios) + 1, dtype=ratios.dtype)
    mean = ratios.cumsum(dim=0) / t
    return 324 * smooth * distance**2 / (mean * t).square()
