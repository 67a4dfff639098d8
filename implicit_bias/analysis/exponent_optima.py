"""Certified optima of a family of norms, exponent by exponent, kept in the cache of references between commands.

The optima at p = 1, 2 and inf are those of the named norms, which runs have solved already. From there on every other exponent
starts at the best separator and the best weights of its neighbours that are known: all that have such neighbours, on all datasets
of one shape, in one batch.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from implicit_bias.core.errors import BadInput, NotSeparable
from implicit_bias.datasets import Dataset
from implicit_bias.measures.exponents import NAMED, norm_at
from implicit_bias.norms import Norm, make_norm
from implicit_bias.solvers.reference import Reference, solve_from
from implicit_bias.sweep.references import Cache, solve_all

#: The relative gap that an optimum is solved to. Norms .05 apart in 1/p tell an optimum apart by 2e-3 (l_p) and 5e-4 (Schatten)
#: where they do so least.
TOLERANCE = 5e-5
# What the cache knows these solutions by; they are no answer to those who ask for tighter ones.
METHOD = "path"
# Neighbours that an optimum may start at, and how far in 1/p from the nearest it starts.
NEIGHBOURS, REACH = 2, 0.1
# The part of the time that is left which optima that are solved at once may take.
SHARE = 0.5
# Optima that are solved at once, and numbers in the array of their data.
MOST_RUNS, BATCH_DOUBLES = 64, 2**23


class OutOfTime(Exception):
    """The time for all optima is over, and some have not been begun."""


class Memory:
    """A cache that writes nothing: what it is given it has as long as it lives."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str], Reference] = {}

    def get(self, x: np.ndarray, y: np.ndarray, norm: Norm, method: str) -> Reference | None:
        """What was put, or None."""
        return self._known.get((_digest(x, y), norm.label, method))

    def put(self, x: np.ndarray, y: np.ndarray, norm: Norm, method: str, reference: Reference) -> None:
        """Keep a reference."""
        self._known[_digest(x, y), norm.label, method] = reference


@dataclass
class ExponentOptima:
    """The optima of one family on datasets of one shape.

    Attributes:
        datasets: All of one number of samples, features and classes.
        family: ``lp`` or ``schatten``.
        cache: Looked into first; what is solved is put there.
        timeout: Seconds for one optimum; past them the interval that is proven by then stands in its place.
        notify: Told in words what is being solved.
        shared: Told which share of what is wanted is known.
        deadline: Of time.perf_counter(), for all of them: what is solved at once may take half of what is left, or an equal part
            if that is more; past its time an optimum is enclosed by what is proven by then.
        known: For each dataset its optima by u = 1/p.
        late: Likewise those out of the cache that are to be tried again.
    """

    datasets: Sequence[Dataset]
    family: str
    cache: Cache
    timeout: float
    notify: Callable[[str], None]
    deadline: float = math.inf
    shared: Callable[[float], None] | None = None
    known: list[dict[float, Reference]] = field(init=False)
    late: list[dict[float, Reference]] = field(init=False)

    def __post_init__(self) -> None:
        self.known, self.late = [{} for _ in self.datasets], [{} for _ in self.datasets]

    def want(self, wanted: Sequence[Iterable[float]]) -> None:
        """Have the optima at these u, for each dataset its own, and those of the named norms.

        Raises:
            BadInput: the classes of a dataset cannot be separated.
            OutOfTime: some were not begun before the deadline; the others are known.
        """
        named = NAMED[self.family]
        # All others begin at those of the named norms.
        sets = [set(us) for us in wanted]
        lacking = [us - set(known) if known or not us else us | set(named) for us, known in zip(sets, self.known, strict=True)]
        self._solve_named([[u for u in named if u in us] for us in lacking], sum(map(len, lacking)))
        self._read([us - set(named) for us in lacking])
        self._tell(lacking)
        while wave := self._wave(self._open(lacking)):
            size = max(1, min(MOST_RUNS, BATCH_DOUBLES // self.datasets[0].x.size))
            for start in range(0, len(wave), size):
                if time.perf_counter() > self.deadline:
                    raise OutOfTime
                self._solve(wave[start : start + size], sum(map(len, self._open(lacking))))
                self._tell(lacking)

    def check_separable(self, places: Sequence[int]) -> None:
        """Have it proven that the classes of these datasets can be separated, by the l2 optimum, the cheapest.

        Raises:
            BadInput: they cannot be.
        """
        wanted = [(self.datasets[place], {"l2": make_norm("l2")}) for place in places]
        solved = solve_all(wanted, "exact", self.cache, self.notify, self._seconds(len(places), len(places)))
        for place, found in zip(places, solved, strict=True):
            if isinstance(found, NotSeparable):
                raise _refusal(self.datasets[place], found)

    def _open(self, lacking: Sequence[set[float]]) -> list[set[float]]:
        """Of the exponents that are lacking, those that have not been solved since."""
        return [us - set(known) for us, known in zip(lacking, self.known, strict=True)]

    def _tell(self, lacking: Sequence[set[float]]) -> None:
        """Tell which share of all that was ever wanted is known."""
        if self.shared is not None:
            known, still = sum(map(len, self.known)), sum(map(len, self._open(lacking)))
            self.shared(known / max(1, known + still))

    def _seconds(self, count: int, left: int) -> float:
        """For each of ``count`` optima that are solved now, of ``left``."""
        part = max(SHARE, count / left) if count else 1.0
        return min(self.timeout, max(0.0, self.deadline - time.perf_counter()) * part / max(1, count))

    def _wave(self, lacking: Sequence[Iterable[float]]) -> list[tuple[int, float]]:
        """Datasets, by place, with exponents to solve next: those near one that is known, else the nearest."""
        far = {(place, u): self._distance(place, u) for place, us in enumerate(lacking) for u in sorted(us)}
        reach = max(REACH, min(far.values(), default=0.0))
        return [key for key, distance in far.items() if distance <= reach]

    def _distance(self, place: int, u: float) -> float:
        return round(min(abs(other - u) for other in self.known[place]), 9)

    def _solve_named(self, lacking: Sequence[Sequence[float]], left: int) -> None:
        """The optima of named norms, by the solvers and in the cache that runs use; of ``left`` that are to be solved."""
        seconds = self._seconds(sum(map(len, lacking)), left)
        labels = NAMED[self.family]
        wanted = [
            (dataset, {labels[u]: make_norm(labels[u]) for u in us}) for dataset, us in zip(self.datasets, lacking, strict=True)
        ]
        for place, found in enumerate(solve_all(wanted, "exact", self.cache, self.notify, seconds)):
            if isinstance(found, NotSeparable):
                raise _refusal(self.datasets[place], found)
            self.known[place].update({u: found[labels[u]] for u in lacking[place]})

    def _read(self, lacking: Sequence[Iterable[float]]) -> None:
        """Read optima from the cache; those that had run out of time serve only as starting points."""
        for place, us in enumerate(lacking):
            dataset = self.datasets[place]
            for u in us:
                cached = self.cache.get(dataset.x, dataset.y, norm_at(self.family, u), METHOD)
                if cached is not None:
                    found = self.late if cached.late and not cached.proven else self.known
                    found[place][u] = cached

    def _solve(self, wave: Sequence[tuple[int, float]], left: int) -> None:
        """Optima of datasets by place, each at an exponent, in one batch; of ``left`` that are to be solved."""
        seconds = self._seconds(len(wave), left)
        datasets = [self.datasets[place] for place, _ in wave]
        norms = [norm_at(self.family, u) for _, u in wave]
        self.notify(f"solving {len(wave)} {self.family} optima")
        starts = [best_of(self._starts(place, u), d.x, d.y, n) for (place, u), d, n in zip(wave, datasets, norms, strict=True)]
        x, y = (np.stack([getattr(dataset, name) for dataset in datasets]) for name in ("x", "y"))
        k = datasets[0].num_classes
        try:
            solved = solve_from(starts, x, y, k, norms, tol=TOLERANCE, timeout=seconds)
        except NotSeparable as error:
            raise _refusal(datasets[0], error) from None
        for (place, u), dataset, norm, reference in zip(wave, datasets, norms, solved, strict=True):
            self.known[place][u] = reference
            self.cache.put(dataset.x, dataset.y, norm, METHOD, reference)

    def _starts(self, place: int, u: float) -> list[Reference]:
        """The optima at the nearest exponents that are known, and what was found at this one before time ran out."""
        known, late = self.known[place], self.late[place]
        nearest = sorted(known, key=lambda other: (round(abs(other - u), 9), abs(other - 0.5)))
        return [*(known[other] for other in nearest[:NEIGHBOURS]), *([late[u]] if u in late else [])]


def _digest(x: np.ndarray, y: np.ndarray) -> str:
    digest = hashlib.sha256(f"{x.dtype} {x.shape} {y.dtype}".encode())
    for array in (x, y):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _refusal(dataset: Dataset, error: NotSeparable) -> BadInput:
    """The message for data without an optimum, without the advice that concerns runs."""
    reason = str(error).partition(": use reference=none")[0]
    return BadInput(f"{dataset.origin or 'dataset'}: there is no optimum to compare with: {reason}")


def best_of(candidates: Sequence[Reference], x: np.ndarray, y: np.ndarray, norm: Norm) -> Reference:
    """The separator and the weights among those of several references that prove most under ``norm``, as one reference."""
    proven = [candidate.recomputed(x, y, norm) for candidate in candidates]
    primal, dual = max(proven, key=lambda r: r.lower), min(proven, key=lambda r: r.upper)
    return Reference(
        norm.label, primal.separator, primal.lower, dual.upper, dual.weights, primal.solver, primal.seconds, primal.late
    )
