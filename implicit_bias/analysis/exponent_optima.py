"""Certified optima of a family of norms, exponent by exponent, kept in the cache of references between commands.

The optima at p = 1, 2 and inf are those of the named norms, which runs have solved already. From p = 2 outwards every other exponent
starts at the best separator and the best weights of its neighbours that are known, all datasets of one shape in one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from implicit_bias.datasets import Dataset
from implicit_bias.errors import BadInput, NotSeparable
from implicit_bias.measures.exponents import NAMED, norm_at
from implicit_bias.norms import Norm
from implicit_bias.reference import Reference, solve_from
from implicit_bias.sweep.references import TOGETHER, Cache, solve_all

#: The relative gap that an optimum is solved to. The optima of norms .05 apart in 1/p differ by 2e-3 (l_p) and 5e-4 (Schatten) where
#: they differ least.
TOLERANCE = {"lp": 1e-4, "schatten": 5e-5}
# What the cache knows these solutions by; they are no answer to those who ask for tighter ones.
METHOD = "path"
# Neighbours that an optimum may start at.
NEIGHBOURS = 2


class Memory:
    """A cache that keeps nothing between commands."""

    def get(self, x: np.ndarray, y: np.ndarray, label: str, method: str) -> Reference | None:
        """Nothing."""
        return None

    def put(self, x: np.ndarray, y: np.ndarray, label: str, method: str, reference: Reference) -> None:
        """Nothing is kept."""


@dataclass
class ExponentOptima:
    """The optima of one family on datasets of one shape.

    Attributes:
        datasets: All of one number of samples, features and classes.
        family: ``lp`` or ``schatten``.
        cache: Looked into first; what is solved is put there.
        timeout: Seconds for one optimum; past them the interval that is proven by then stands in its place.
        notify: Told in words what is being solved.
        known: For each dataset its optima by u = 1/p.
    """

    datasets: Sequence[Dataset]
    family: str
    cache: Cache
    timeout: float
    notify: Callable[[str], None]
    known: list[dict[float, Reference]] = field(init=False)

    def __post_init__(self) -> None:
        self.known = [{} for _ in self.datasets]

    def want(self, wanted: Sequence[Iterable[float]]) -> None:
        """Have the optima at these u, for each dataset its own.

        Raises:
            BadInput: the classes of a dataset cannot be separated.
        """
        lacking = [set(us) - set(known) for us, known in zip(wanted, self.known, strict=True)]
        named = NAMED[self.family]
        self._solve_named([[u for u in named if u in us] for us in lacking])
        for u in sorted({u for us in lacking for u in us if u not in named}, key=lambda u: (abs(u - 0.5), u)):
            places = [place for place, us in enumerate(lacking) if u in us]
            for start in range(0, len(places), TOGETHER):
                self._solve(places[start : start + TOGETHER], u)

    def _solve_named(self, lacking: Sequence[Sequence[float]]) -> None:
        """The optima of named norms, by the solvers and in the cache that runs use."""
        labels = NAMED[self.family]
        wanted = [(dataset, [labels[u] for u in us]) for dataset, us in zip(self.datasets, lacking, strict=True)]
        for place, found in enumerate(solve_all(wanted, "exact", self.cache, self.notify, self.timeout)):
            if isinstance(found, NotSeparable):
                what = self.datasets[place].origin or "dataset"
                reason = str(found).partition(": use reference=none")[0]
                raise BadInput(f"{what}: there is no optimum to compare with: {reason}")
            self.known[place].update({u: found[labels[u]] for u in lacking[place]})

    def _solve(self, places: Sequence[int], u: float) -> None:
        """The optimum at u of the datasets at ``places``: out of the cache, or from the neighbours'."""
        norm = norm_at(self.family, u)
        starts: dict[int, Reference] = {}
        for place in places:
            x, y = self.datasets[place].x, self.datasets[place].y
            cached = self.cache.get(x, y, norm.label, METHOD)
            if cached is not None and not (cached.late and not cached.proven):
                self.known[place][u] = cached
                continue
            starts[place] = best_of([*self._neighbours(place, u), *([cached] if cached is not None else [])], x, y, norm)
        if not starts:
            return
        self.notify(f"solving the {norm.label} optimum" + (f" of {len(starts)} datasets" if len(starts) > 1 else ""))
        x, y = (np.stack([getattr(self.datasets[place], name) for place in starts]) for name in ("x", "y"))
        k = self.datasets[0].num_classes
        solved = solve_from(list(starts.values()), x, y, k, norm, tol=TOLERANCE[self.family], timeout=self.timeout)
        for place, reference in zip(starts, solved, strict=True):
            dataset = self.datasets[place]
            self.known[place][u] = reference
            self.cache.put(dataset.x, dataset.y, norm.label, METHOD, reference)

    def _neighbours(self, place: int, u: float) -> list[Reference]:
        """The optima at the nearest exponents that are known; where two are as near, first the one nearer to p = 2."""
        known = self.known[place]
        nearest = sorted(known, key=lambda other: (round(abs(other - u), 9), abs(other - 0.5)))
        return [known[other] for other in nearest[:NEIGHBOURS]]


def best_of(candidates: Sequence[Reference], x: np.ndarray, y: np.ndarray, norm: Norm) -> Reference:
    """The separator and the weights among those of several references that prove most under ``norm``, as one reference."""
    proven = [candidate.recomputed(x, y, norm) for candidate in candidates]
    primal, dual = max(proven, key=lambda r: r.lower), min(proven, key=lambda r: r.upper)
    return Reference(
        norm.label, primal.separator, primal.lower, dual.upper, dual.weights, primal.solver, primal.seconds, primal.late
    )
