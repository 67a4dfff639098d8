"""Infinite Descent as it can be reconstructed from its abstract: a step leads to a root of the gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

#: A, alpha, omega and phi of the neuron that made the data, and how far starts are from them in the wide draw.
TRUE = np.array([1.5, -0.5, 3.0, 0.4])
WIDE = np.array([0.6, 0.5, 0.8, 0.6])
#: Starts of the near draw are within this share of the true parameters.
NEAR = 0.2
POINTS = np.linspace(0.0, 2.0, 60)
#: A start has arrived where L is below this.
SOLVED = 1e-12
MOST = 5000


@dataclass(frozen=True)
class Fit:
    """L(theta) = mean_i (u(x_i) - y_i)^2 / 2 of one neuron u(x) = A exp(alpha x) sin(omega x + phi), y from the true one.

    u(x; theta + Delta) is of the same form, so that the Taylor series of grad L in Delta is summed by evaluating it there: the
    equation grad L(theta + Delta) = 0 of an infinite-descent step is exact.
    """

    x: Vector
    y: Vector

    def residual(self, theta: Vector) -> Vector:
        """u - y, (n,)."""
        a, alpha, omega, phi = theta
        difference: Vector = a * np.exp(alpha * self.x) * np.sin(omega * self.x + phi) - self.y
        return difference

    def loss(self, theta: Vector) -> float:
        """L."""
        return float(np.mean(self.residual(theta) ** 2) / 2)

    def _derivatives(self, theta: Vector) -> tuple[Vector, Vector]:
        """Of u: the first ones (4, n), the second ones (4, 4, n)."""
        a, alpha, omega, phi = theta
        e, x = np.exp(alpha * self.x), self.x
        s, c = e * np.sin(omega * x + phi), e * np.cos(omega * x + phi)
        zero = np.zeros_like(x)
        first = np.stack([s, a * x * s, a * x * c, a * c])
        second = np.stack(
            [
                np.stack([zero, x * s, x * c, c]),
                np.stack([x * s, a * x * x * s, a * x * x * c, a * x * c]),
                np.stack([x * c, a * x * x * c, -a * x * x * s, -a * x * s]),
                np.stack([c, a * x * c, -a * x * s, -a * s]),
            ]
        )
        return first, second

    def gradient(self, theta: Vector) -> Vector:
        """grad L, (4,)."""
        first, _ = self._derivatives(theta)
        slope: Vector = first @ self.residual(theta) / len(self.x)
        return slope

    def hessian(self, theta: Vector) -> Vector:
        """(4, 4)."""
        first, second = self._derivatives(theta)
        curvature: Vector = (first @ first.T + second @ self.residual(theta)) / len(self.x)
        return curvature


def neuron() -> Fit:
    """The problem of the reconstruction."""
    a, alpha, omega, phi = TRUE
    return Fit(POINTS, a * np.exp(alpha * POINTS) * np.sin(omega * POINTS + phi))


@dataclass
class Counted:
    """A function of a point that counts its calls."""

    function: Callable[[Vector], Vector]
    calls: int = 0

    def __call__(self, theta: Vector) -> Vector:
        self.calls += 1
        return self.function(theta)


@dataclass(frozen=True)
class Arrived:
    """Where a method ended.

    Attributes:
        theta: The point.
        steps: Of the method, as it counts them: one of infinite descent.
        evaluations: Gradients and Hessians that were evaluated.
    """

    theta: Vector
    steps: int
    evaluations: int


def infinite_descent(gradient: Callable[[Vector], Vector], hessian: Callable[[Vector], Vector], start: Vector) -> Arrived:
    """One step theta_1 = theta_0 + Delta, grad L(theta_0 + Delta) = 0, by Levenberg and Marquardt's method from Delta = 0.

    Args:
        gradient, hessian: Of L.
        start: theta_0.
    """
    from scipy.optimize import root  # takes long, and whoever lists the figures needs none

    slope, curvature = Counted(gradient), Counted(hessian)
    with np.errstate(all="ignore"):  # where the search runs off, parameters overflow
        found = root(
            lambda delta: slope(start + delta),
            np.zeros_like(start),
            jac=lambda delta: curvature(start + delta),
            method="lm",
            options={"xtol": 1e-15, "ftol": 1e-15, "maxiter": MOST},
        )
    return Arrived(start + found.x, 1, slope.calls + curvature.calls)


def newton_cg(fit: Fit, start: Vector) -> Arrived:
    """Newton's method with conjugate gradients inside and a line search (scipy's Newton-CG)."""
    from scipy.optimize import minimize  # as above

    slope, curvature = Counted(fit.gradient), Counted(fit.hessian)
    found = minimize(fit.loss, start, jac=slope, hess=curvature, method="Newton-CG", options={"xtol": 1e-14, "maxiter": 200})
    return Arrived(found.x, int(found.nit), slope.calls + curvature.calls)


def steepest_descent(fit: Fit, start: Vector) -> Arrived:
    """theta' = theta - s grad L, s doubled after each step and halved until L falls by s |grad L|^2 / 2; until L is SOLVED."""
    theta, size, steps, evaluations = start, 1.0, 0, 0
    while fit.loss(theta) >= SOLVED and evaluations < MOST:
        g = fit.gradient(theta)
        evaluations, steps = evaluations + 1, steps + 1
        while size > 1e-12 and not fit.loss(theta - size * g) <= fit.loss(theta) - size * float(g @ g) / 2:
            size /= 2
        theta, size = theta - size * g, 2 * size
    return Arrived(theta, steps, evaluations)


def starts(seed: int, count: int) -> Iterator[tuple[str, Vector]]:
    """Starts of both draws, uniform in a box around the true parameters.

    Args:
        seed: Of the draw.
        count: Of each draw.
    """
    rng = np.random.RandomState(seed)
    for draw, reach in (("near", NEAR * np.abs(TRUE)), ("wide", WIDE)):
        for _ in range(count):
            yield draw, TRUE + reach * rng.uniform(-1, 1, len(TRUE))


def logistic(z: Vector) -> tuple[Callable[[Vector], Vector], Callable[[Vector], Vector]]:
    """Gradient and Hessian of mean_i log(1 + exp(-<w, z_i>)), whose gradient has no root where the data can be separated.

    Args:
        z: y_i x_i, (n, d).
    """

    def shares(w: Vector) -> Vector:
        s: Vector = 1 / (1 + np.exp(np.clip(z @ w, -700, 700)))
        return s

    def gradient(w: Vector) -> Vector:
        g: Vector = -shares(w) @ z / len(z)
        return g

    def hessian(w: Vector) -> Vector:
        s = shares(w)
        h: Vector = (z.T * (s * (1 - s))) @ z / len(z)
        return h

    return gradient, hessian
