"""Maximum margins of Gaussian features in the proportional limit: n samples, p features, p / n -> psi.

For features x_i ~ N(0, I_p) and labels y_i = +-1, Gaussian comparison turns max_{|theta| <= 1} min_i y_i <x_i, theta> into
a problem in a few numbers. With Z standard normal, independent of V = y <x, w*> along the direction w* of the signal, a margin
kappa can be had in the limit just where

    E (kappa - c_1 V - c_2 Z)_+^2 <= psi B^2,

where, of the separator's coordinates, c_1 is their mean product with the signal's, c_1^2 + c_2^2 their mean square, and B their
mean product with the Gaussian direction that the samples leave to be chosen. Which (c_1, c_2, B) there are is a matter of the
ball; the best separator of each is a coordinate-wise function of that direction (soft threshold for l1, proportional for l2,
clipped for max-norm), so that one scalar is left to be chosen, with a signal two.

Labels that say nothing (V as Z): c_1 = 0. The l1 ball agrees in structure with Liang and Sur, "A precise high-dimensional
asymptotic theory for boosting and minimum-l1-norm interpolated classifiers" (arXiv 2002.01586); the formulas here, and those of
the other two balls, are derived independently.

Margins are returned scaled so that they have a limit: sqrt(p) gamma for l1, gamma for l2, gamma / sqrt(p) for the max-norm. They
are of the separator of two classes as one vector, theta = w_1 - w_0; a model with a weight vector a class has gamma_l1,
sqrt(2) gamma_l2, 2 gamma_linf.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq, minimize, minimize_scalar
from scipy.special import expit, ndtr

#: Nodes of the Gauss-Hermite rule over the signal's direction.
NODES = 80


@dataclass(frozen=True)
class MarginLimit:
    """A maximum margin in the limit, and what its separator is like.

    Attributes:
        margin: Scaled, see the module.
        share: Of the coordinates: those that are not zero (l1), or at the bound (max-norm); nan for l2.
        cosine: Between the separator and the signal; 0 without one.
        error: Probability of a wrong label on a new sample; 1/2 without a signal.
    """

    margin: float
    share: float
    cosine: float = 0.0
    error: float = 0.5


def random_label_limit(norm: str, psi: float) -> MarginLimit:
    """The maximum margin where labels are independent of Gaussian features.

    Args:
        norm: ``l1``, ``l2`` or ``linf``.
        psi: p / n > 1/2; below, the classes cannot be separated (Cover).

    Returns:
        The limit.

    Raises:
        ValueError: another norm, or psi <= 1/2.
    """
    if psi <= 0.5:
        raise ValueError(f"psi={psi}: must be > 1/2, classes cannot be separated below")
    if norm == "l2":
        return MarginLimit(_margin_at(0.0, 1.0, math.sqrt(psi), *_NO_SIGNAL), math.nan)
    if norm not in BALLS:
        raise ValueError(f"norm {norm}: must be l1, l2 or linf")
    ball = BALLS[norm]

    def negative(log_scalar: float) -> float:
        size, product, _ = ball(math.exp(log_scalar))
        return -_margin_at(0.0, size, math.sqrt(psi) * product, *_NO_SIGNAL)

    found = minimize_scalar(negative, bounds=(-6, 6), method="bounded", options={"xatol": 1e-9})
    return MarginLimit(-float(found.fun), ball(math.exp(found.x))[2])


def logistic_label_limit(psi: float, strength: float) -> MarginLimit:
    """The maximum l1 margin where P(y = 1 | x) = 1 / (1 + exp(-strength <x, w*>)), w* a Gaussian direction of length one.

    Args:
        psi: p / n, so large that the classes can be separated.
        strength: rho > 0; with 0 :func:`random_label_limit` has the answer.

    Returns:
        The limit, with cosine and test error.

    Raises:
        ValueError: the classes cannot be separated in the limit.
    """
    nodes, weights = _signal(strength)

    def parts(logs: np.ndarray) -> tuple[float, float, float, float]:
        threshold, slope = np.exp(logs)
        spread = math.hypot(1, slope)
        first, second = _excess(threshold)
        product = (second + threshold * first) / (spread * first)
        along = slope * product
        return along, math.sqrt(max(second / first**2 - along**2, 1e-12)), product, 2 * float(ndtr(-threshold))

    def negative(logs: np.ndarray) -> float:
        along, across, product, _ = parts(logs)
        return -_margin_at(along, across, math.sqrt(psi) * product, nodes, weights)

    starts = [np.array([-1.0, -1.0]), np.array([0.0, 0.0])]
    options = {"xatol": 1e-7, "fatol": 1e-10}
    best = min((minimize(negative, start, method="Nelder-Mead", options=options) for start in starts), key=lambda r: float(r.fun))
    if best.fun >= 0:
        raise ValueError(f"psi={psi}, strength={strength}: the classes cannot be separated in the limit")
    along, across, _, active = parts(best.x)
    cosine = float(along / math.hypot(along, across))
    return MarginLimit(-float(best.fun), active, cosine, label_error(cosine, strength))


def label_error(cosine: float, strength: float) -> float:
    """P(y <x, theta> < 0) for logistic labels, theta at this cosine to the signal: E Phi(-cos V / sin).

    Args:
        cosine: In (-1, 1).
        strength: rho.
    """
    nodes, weights = _signal(strength)
    return float((weights * ndtr(-cosine * nodes / math.sqrt(1 - cosine**2))).sum())


def _l1_ball(threshold: float) -> tuple[float, float, float]:
    """c, B and the share of non-zero coordinates of theta_j ~ (|G| - s)_+, mean |theta_j| = 1."""
    first, second = _excess(threshold)
    return math.sqrt(second) / first, (second + threshold * first) / first, 2 * float(ndtr(-threshold))


def _linf_ball(slope: float) -> tuple[float, float, float]:
    """c, B and the share of coordinates at the bound of theta_j = min(a |G|, 1)."""
    edge = 1 / slope
    inside = 2 * float(ndtr(edge)) - 1
    square = inside - 2 * edge * _density(edge)
    return math.sqrt(slope**2 * square + 1 - inside), slope * square + 2 * _density(edge), 1 - inside


BALLS: dict[str, Callable[[float], tuple[float, float, float]]] = {"l1": _l1_ball, "linf": _linf_ball}


def _excess(threshold: float) -> tuple[float, float]:
    """E (|G| - s)_+ and E (|G| - s)_+^2."""
    tail, density = float(ndtr(-threshold)), _density(threshold)
    return 2 * (density - threshold * tail), 2 * ((1 + threshold**2) * tail - threshold * density)


def _density(x: float) -> float:
    return math.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


_NO_SIGNAL = np.zeros(1), np.ones(1)


def _signal(strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of V, whose density is 2 phi(v) / (1 + exp(-rho v))."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    return nodes, weights / weights.sum() * 2 * expit(strength * nodes)


def _margin_at(along: float, across: float, target: float, nodes: np.ndarray, weights: np.ndarray) -> float:
    """The kappa with E (kappa - c_1 V - c_2 Z)_+^2 = target^2; it may be negative."""

    def excess(margin: float) -> float:
        r = (margin - along * nodes) / across
        square = (r**2 + 1) * ndtr(r) + r * np.exp(-(r**2) / 2) / math.sqrt(2 * math.pi)
        return across * math.sqrt(float((weights * np.maximum(square, 0)).sum())) - target

    # The root of the mean square is at least the mean, kappa - c_1 E V.
    most = target + along * float((weights * nodes).sum()) + across
    least = -10.0 * (across + abs(along))
    while excess(least) > 0:
        least *= 2
    return float(brentq(excess, least, most, xtol=1e-12))
