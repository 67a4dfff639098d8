"""The steps alone, without records: in C, or by the kernel on a GPU."""

from __future__ import annotations

from collections.abc import Callable

from implicit_bias.engine import Problem
from implicit_bias.engine.steppers import cuda_kernel, native
from implicit_bias.engine.steppers.base import Setup, Stepper


def compiled_steps(problem: Problem) -> Callable[[int], None] | None:
    """Makes so many updates of a batch, at most ``problem.steps``, from its initial point; None: there are no such steps of it.

    Args:
        problem: The batch.
    """
    setup = Setup.of(problem)
    stepper, start = _stepper(setup), setup.begun()
    if stepper is None:
        return None

    def advance(updates: int) -> None:
        stepper.load(start)
        done = 0
        while done < updates:
            done = stepper.advance(done, min(updates, done + stepper.most_steps))

    return advance


def _stepper(setup: Setup) -> Stepper | None:
    if native.refusal(setup) is None:
        made = native.steps(setup)
        if isinstance(made, native.LinearSteps):
            made._recorded = frozenset()  # noqa: SLF001 - else a call that ends at a record looks at it, too
        return made
    return cuda_kernel.CudaKernel(setup) if cuda_kernel.refusal(setup) is None else None
