"""What records describe: the parameters that an optimizer shows, which need not be those that it steps from."""

from __future__ import annotations

from typing import NamedTuple

from implicit_bias.engine.steppers.base import Setup, Stepper
from implicit_bias.engine.steppers.eager import check_blocks
from implicit_bias.models import Gradient, Parameters


class Shown(NamedTuple):
    """A point that a record may be of.

    Attributes:
        parameters: One tensor (R, p, q) a block.
        gradient: Loss and gradient there.
    """

    parameters: Parameters
    gradient: Gradient


def trained_by(stepper: Stepper) -> Shown:
    """Where the next step starts."""
    gradient = stepper.gradient  # first: with it the parameters may be found
    return Shown(stepper.parameters, gradient)


def shown_by(setup: Setup, stepper: Stepper) -> Shown:
    """What is to be recorded: where the next step starts, or what the optimizer shows in its place, evaluated there.

    Raises:
        ValueError: the optimizer shows parameters of other blocks, shapes or types.
    """
    optimizer = setup.problem.optimizer
    if optimizer.shows_trained:
        return trained_by(stepper)
    trained = stepper.parameters
    found = optimizer.shown(stepper.state, trained)
    check_blocks("what an optimizer shows is of", found, trained)
    parameters = {name: found[name] for name in trained}
    return Shown(parameters, setup.objective.gradient(parameters))
