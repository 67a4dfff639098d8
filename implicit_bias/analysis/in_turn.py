"""Optima of several norms of one dataset, within an allowance of time that they share."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from implicit_bias.analysis.exponent_optima import best_of
from implicit_bias.core.errors import NotSeparable
from implicit_bias.datasets import Dataset
from implicit_bias.norms import Norm
from implicit_bias.solvers.reference import Reference
from implicit_bias.sweep.references import Cache, References, solve_all

# The part of the time that is left which one optimum may take, so that one that is not found in time leaves some to the others.
SHARE = 0.5
METHOD = "exact"


def solve_in_turn(
    dataset: Dataset,
    norms: Mapping[str, Norm],
    cache: Cache,
    notify: Callable[[str], None],
    each: float,
    together: float,
    counted: Callable[[int, int], None] | None = None,
) -> References | NotSeparable:
    """The certified optima of a dataset, one after the other.

    Args:
        dataset: The data.
        norms: By label; the first ones have the most time.
        cache: Looked into first; what is solved is put there.
        notify: Told in words what is being solved.
        each: Seconds for one optimum at most.
        together: Seconds for all of them. An optimum may take half of what is left, the last one all; past that the interval
            that is proven stands in its place.

    Returns:
        The optima by label, or why there are none.
    """
    deadline = time.perf_counter() + together
    found: References = {}
    refused: NotSeparable | None = None
    for place, (label, norm) in enumerate(norms.items(), 1):
        if counted is not None:
            counted(place - 1, len(norms))
        left = max(0.0, deadline - time.perf_counter())
        if left == 0 and found and cache.get(dataset.x, dataset.y, norm, METHOD) is None:
            continue
        share = left if place == len(norms) else SHARE * left
        answer = solve_all([(dataset, {label: norm})], METHOD, cache, notify, min(each, share))[0]
        if not isinstance(answer, NotSeparable):
            found.update(answer)
        elif answer.proven:
            return answer
        else:
            refused = refused or answer
    if not found:
        assert refused is not None
        return refused
    # Where there was no time, or it ran out before a separator was found, one of another norm is a separator all the same.
    solved = list(found.values())
    for label in [label for label in norms if label not in found]:
        found[label] = _enclosed(solved, dataset, norms[label])
        cache.put(dataset.x, dataset.y, norms[label], METHOD, found[label])
    return {label: found[label] for label in norms}


def _enclosed(solved: Sequence[Reference], dataset: Dataset, norm: Norm) -> Reference:
    """What optima under other norms prove of the one under ``norm``."""
    best = best_of(solved, dataset.x, dataset.y, norm)
    return replace(best, late=not best.proven)
