"""The update that led to a record, for probes that look back."""

from __future__ import annotations

from implicit_bias.engine.steppers.base import Reached, Setup, Stepper
from implicit_bias.engine.steppers.eager import descent
from implicit_bias.measures.probe import Update
from implicit_bias.models import Parameters


def reached_by(setup: Setup, stepper: Stepper) -> Reached:
    """Where a batch is, the gradient evaluated that the next update is made from, unless that is of some samples only."""
    gradient = stepper.gradient if setup.problem.batch is None else None
    return Reached(stepper.parameters, stepper.state, gradient, stepper.schedule_state, stepper.anchor)


def update_from(setup: Setup, before: Reached, after: Parameters, t: int) -> Update:
    """The t-th update.

    Args:
        setup: The batch.
        before: Where it was made from. The rule is asked again there, which changes no state; an
            optimizer with a state that changes in place is not asked.
        after: The parameters that it led to.
        t: From 1.
    """
    optimizer = setup.problem.optimizer

    def make() -> Parameters:
        if optimizer.foreign_state:
            return {name: block - after[name] for name, block in before.parameters.items()}
        here = setup.here(before, t)
        _, step = optimizer.step_from(before.state, here, t, setup.geometry)
        return descent(step, before.parameters, here.scheduled)

    return Update(before.gradient or setup.objective.gradient(before.parameters), make)
