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


def solve_in_turn(
    dataset: Dataset, norms: Mapping[str, Norm], cache: Cache, notify: Callable[[str], None], each: float, together: float
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
        left = max(0.0, deadline - time.perf_counter())
        if left == 0 and found:  # what follows has to do with a separator of another norm
            break
        share = left if place == len(norms) else SHARE * left
        answer = solve_all([(dataset, {label: norm})], "exact", cache, notify, min(each, share))[0]
        if not isinstance(answer, NotSeparable):
            found.update(answer)
        elif answer.proven:
            return answer
        else:
            refused = refused or answer
    if not found:
        assert refused is not None
        return refused
    solved = list(found.values())
    return {label: found[label] if label in found else _enclosed(solved, dataset, norm) for label, norm in norms.items()}


def _enclosed(solved: Sequence[Reference], dataset: Dataset, norm: Norm) -> Reference:
    """What optima under other norms prove of the one under ``norm``."""
    best = best_of(solved, dataset.x, dataset.y, norm)
    return replace(best, late=not best.proven)
