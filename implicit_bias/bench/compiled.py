"""The steps in C alone, without records."""

from __future__ import annotations

from collections.abc import Callable

from implicit_bias.engine import Problem
from implicit_bias.engine.steppers.base import Setup
from implicit_bias.engine.steppers.native import LinearSteps, refusal, steps


def compiled_steps(problem: Problem) -> Callable[[int], None] | None:
    """Makes so many updates of a batch, at most ``problem.steps``, from its initial point; None: there are no steps of it in C.

    Args:
        problem: The batch.
    """
    setup = Setup.of(problem)
    if refusal(setup) is not None:
        return None
    native, start = steps(setup), setup.begun()
    if isinstance(native, LinearSteps):
        native._recorded = frozenset()  # noqa: SLF001 - else a call that ends at a record looks at it, too

    def advance(updates: int) -> None:
        native.load(start)
        done = 0
        while done < updates:
            done = native.advance(done, min(updates, done + native.most_steps))

    return advance
