"""Which norm of a family separating parameters fit: the curve p -> kappa(p), its peak, its interval, and what may be said.

With q(W) the smallest gap and gamma*_p the maximum margin under the norm N_p of a family (entrywise l_p, or Schatten-p),

    kappa_p(W) = q(W) / (N_p(W) gamma*_p)  <=  1,

with equality exactly where W maximises the margin under N_p. An optimum that is proven to lie in [lower, upper] encloses kappa_p
in [q / (N_p upper), q / (N_p lower)]. Everything here is in u = 1/p in [0, 1]: the curve is smooth in it, and p = inf is a point
as any other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from implicit_bias.norms import Norm, make_norm

Array = NDArray[np.float64]

FAMILIES = ("lp", "schatten")
#: Exponents are certified at u = j / LATTICE: where the curve is looked for first, and around its peak.
LATTICE = 40
GRID: tuple[float, ...] = tuple(j / LATTICE for j in (0, 1, 2, *range(4, LATTICE + 1, 4)))
# Norms that have a name of their own, and solvers of their own, by 1/p.
NAMED = {
    "lp": {0.0: "linf", 0.5: "l2", 1.0: "l1"},
    "schatten": {0.0: "spectral", 0.5: "l2", 1.0: "nuclear"},
}

#: The interval holds the exponents whose kappa is within so much of 1 - kappa of the peak's. Calibrated, not proven: the true
#: exponent of normalised steepest descent fell short by .13 of it at most (four shapes of data, 16 norms, up to 10,000 steps).
SHARE = 0.25
#: Two families that both hold p = 2 are both named where their peaks differ by no more than this part of 1 - kappa. Calibrated,
#: too: in l_2 they differ by .002 of it at most, in l_2.3 by .29 and in Schatten-2.3 by .08 at least (10,000 steps, 5 seeds).
TIED = 0.05
#: From these on parameters are near an optimum, and at one.
NEAR, AT = 0.9, 0.97
#: By what 1 - kappa falls a decade of steps, at least, where it goes to zero: sqrt(10) for steps of t^-1/2.
FALLING = 2.0
#: Data whose optima of all exponents are within this of each other cannot tell them apart.
FLAT = 1e-3
# How far the record that a trend is measured from may be from the last one, as a factor of steps.
SHORTEST = 2.0
# A random matrix is as far as this from being invariant by chance.
INVARIANT = 1e-9

MAXIMISES, NEAREST, NONE_OF_THESE = "maximises", "nearest so far", "none of these"
CANNOT_TELL, NOT_SEPARATED = "data cannot tell", "not separated"
VERDICTS = (MAXIMISES, NEAREST, NONE_OF_THESE, CANNOT_TELL, NOT_SEPARATED)


def exponent(u: float) -> float:
    """p = 1/u; inf for 0.

    Args:
        u: 1/p, in [0, 1].

    Returns:
        p.
    """
    return math.inf if u == 0 else 1 / u


def norm_at(family: str, u: float) -> Norm:
    """The norm of a family at p = 1/u.

    Args:
        family: One of FAMILIES.
        u: 1/p, in [0, 1].

    Returns:
        The norm; the one with a name of its own where there is one.
    """
    named = NAMED[family].get(u)
    return make_norm(named) if named else make_norm(family, p=exponent(u))


def margins(gaps: Tensor, w: Tensor, family: str, us: Sequence[float]) -> Array:
    """q(W) / N_p(W) at every exponent, shape (S, len(us)); nan where W is 0.

    Args:
        gaps: The smallest gap q of each W, (S,).
        w: W of each record, (S, k, d).
        family: One of FAMILIES.
        us: The exponents, as 1/p.

    Returns:
        Normalised margins.
    """
    sizes = torch.stack([norm_at(family, u).value(w) for u in us], dim=-1)
    found = gaps[:, None] / torch.where(sizes == 0, torch.nan, sizes)
    return found.double().cpu().numpy()


@dataclass(frozen=True)
class Curve:
    """u -> [lower, upper], which is proven to hold kappa; ascending in u. All nan where nothing is separated."""

    u: Array
    lower: Array
    upper: Array

    @staticmethod
    def of(us: Sequence[float], margin: Array, optimum_lower: Array, optimum_upper: Array) -> Curve:
        """From normalised margins (m,) and the interval of each optimum.

        Args:
            us: The exponents, as 1/p, ascending.
            margin: q / N_p at each, (m,).
            optimum_lower: Proven lower bounds on gamma*_p, (m,).
            optimum_upper: Proven upper bounds on it, (m,).

        Returns:
            The curve.
        """
        kept = np.where(margin > 0, margin, np.nan)
        return Curve(np.asarray(us, dtype=float), kept / optimum_upper, np.minimum(kept / optimum_lower, 1.0))

    @property
    def separated(self) -> bool:
        """Whether the margin is positive."""
        return bool(np.isfinite(self.lower).all())

    def peak(self) -> tuple[float, float]:
        """Where log kappa is largest, by the parabola through the best point and its two neighbours; and kappa there."""
        best = int(self.lower.argmax())
        first = min(max(best - 1, 0), len(self.u) - 3)
        place, logs = self.u[first : first + 3], np.log(self.lower[first : first + 3])
        bend, slope, height = np.polyfit(place - self.u[best], logs, 2)
        if bend >= 0:
            return float(self.u[best]), float(self.lower[best])
        nearest = self.u[max(best - 1, 0)], self.u[min(best + 1, len(self.u) - 1)]
        step = float(np.clip(self.u[best] - slope / (2 * bend), *nearest) - self.u[best])
        return float(self.u[best]) + step, min(1.0, math.exp(bend * step**2 + slope * step + height))

    def interval(self) -> tuple[float, float]:
        """The u around the peak at which kappa may be as large as the peak's, less SHARE of what that lacks to 1.

        Between the points where it is certified, kappa is interpolated (a cubic spline of its logarithm).
        """
        from scipy.interpolate import CubicSpline

        best = float(self.lower.max())
        threshold = math.log(max(best - SHARE * (1 - best), np.finfo(float).tiny))
        mesh = np.union1d(np.linspace(0, 1, 401), self.u)
        above = CubicSpline(self.u, np.log(self.upper))(mesh) - threshold
        peak = self.peak()[0]
        start = int(np.abs(mesh - self.u[self.lower.argmax()]).argmin())
        ends = [_crossing(mesh, above, start, step) for step in (-1, 1)]
        return min(peak, ends[0]), max(peak, ends[1])


def _crossing(mesh: Array, above: Array, start: int, step: int) -> float:
    """Where ``above`` first falls below zero from ``start`` on, or the end of the mesh."""
    place = start
    while 0 <= place + step < len(mesh) and above[place + step] >= 0:
        place += step
    after = place + step
    if not 0 <= after < len(mesh) or above[place] < 0:
        return float(mesh[place])
    share = above[place] / (above[place] - above[after])
    return float(mesh[place] + share * (mesh[after] - mesh[place]))


def neighbourhood(u: float) -> list[float]:
    """The point of the lattice nearest to u, and its neighbours: where a peak at u has to be certified.

    Args:
        u: 1/p, in [0, 1].

    Returns:
        Two or three points, ascending.
    """
    j = min(max(round(u * LATTICE), 0), LATTICE)
    return [i / LATTICE for i in (j - 1, j, j + 1) if 0 <= i <= LATTICE]


def trend(steps: Sequence[int], kappa: Sequence[float]) -> float:
    """The factor by which 1 - kappa falls in the last decade of steps, from the record nearest to a tenth of the last step.

    Args:
        steps: Ascending; kappa is nan where nothing was separated.
        kappa: The ratio at each step.

    Returns:
        nan where there is no earlier record to compare the last one with.
    """
    last = steps[-1]
    known = [(t, k) for t, k in zip(steps, kappa, strict=True) if 0 < t <= last / SHORTEST and math.isfinite(k)]
    if not known or not math.isfinite(kappa[-1]):
        return math.nan
    earlier, before = min(known, key=lambda record: abs(math.log(10 * record[0] / last)))
    tiny = float(np.finfo(float).eps)
    return float((max(1 - before, tiny) / max(1 - kappa[-1], tiny)) ** (1 / math.log10(last / earlier)))


@dataclass(frozen=True)
class Fit:
    """How parameters fit a family.

    Attributes:
        u, low, high: The exponent 1/p of the peak, and the interval around it.
        kappa: The largest that is proven.
        upper: What is proven of kappa at the exponent of ``kappa`` from above.
        trend: By what 1 - kappa falls a decade; nan where that is not known.
        flat: Whether the data cannot tell the exponents of the family apart.
        possible: Whether the optimizer's symmetries leave any exponent of the family but 2.
        network: Whether kappa is a KKT ratio. Then p = 2 is two norms (a Schatten norm of a network is the largest of its
            matrices'), and no verdict rests on parameters at one step alone.
    """

    u: float
    low: float
    high: float
    kappa: float
    upper: float
    trend: float = math.nan
    flat: bool = False
    possible: bool = True
    network: bool = False

    @property
    def holds_two(self) -> bool:
        """Whether p = 2, where the families are one norm, is in the interval."""
        return not self.network and self.low <= 0.5 <= self.high


def verdict(fit: Fit | None, other: Fit | None = None) -> str:
    """What may be said of a family; one of VERDICTS.

    ``maximises`` needs kappa >= AT; a 1 - kappa that falls by FALLING a decade, where that is known; a family that symmetry
    allows; and no other family that is proven to fit better. At p = 2 the families are one norm: symmetry rules out neither, and
    peaks that agree are of both.

    Args:
        fit: None where nothing is separated.
        other: The fit of the same parameters to the other family, if there is one.

    Returns:
        The verdict.
    """
    if fit is None:
        return NOT_SEPARATED
    if fit.flat:
        return CANNOT_TELL
    if fit.kappa < NEAR:
        return NONE_OF_THESE
    rising = not fit.network if math.isnan(fit.trend) else fit.trend >= FALLING
    beaten = other is not None and other.kappa > fit.upper and not _tied(fit, other)
    ruled_out = not fit.possible and not fit.holds_two
    return MAXIMISES if fit.kappa >= AT and rising and not beaten and not ruled_out else NEAREST


def _tied(fit: Fit, other: Fit) -> bool:
    """Whether both fits are of p = 2, as far as can be told."""
    return fit.holds_two and other.holds_two and abs(other.kappa - fit.kappa) <= TIED * (1 - max(fit.kappa, other.kappa))


def possible_families(norm: Norm) -> list[str]:
    """The families that hold, besides p = 2, a norm with all symmetries of ``norm``, the norm that an optimizer steps in.

    Steepest descent in N, with or without momentum, moves with every linear isometry of N: data that are transformed by it give
    the transformed iterates. A norm whose margin it maximises on all data has that symmetry, too. For p != 2 no l_p norm is
    unchanged when the features are rotated, and no Schatten norm when single entries are permuted.

    Args:
        norm: N.

    Returns:
        Some of FAMILIES.
    """
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64)).Q
    permuted = w.flatten()[torch.randperm(w.numel(), generator=generator)].view_as(w)
    size = float(norm.value(w))
    ruled_out = {"lp": float(norm.value(w @ rotation)), "schatten": float(norm.value(permuted))}
    return [family for family in FAMILIES if abs(ruled_out[family] - size) > INVARIANT * size]
