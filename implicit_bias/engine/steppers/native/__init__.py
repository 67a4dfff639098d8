"""Compiled steps: the arithmetic of many updates of many runs in one call, where there is a C compiler."""

from implicit_bias.engine.steppers.base import Setup, Stepper
from implicit_bias.engine.steppers.native import linear, network
from implicit_bias.engine.steppers.native.linear import LinearSteps
from implicit_bias.engine.steppers.native.network import NetworkSteps
from implicit_bias.models.network import Network

__all__ = ["LinearSteps", "NetworkSteps", "refusal", "steps"]


def refusal(setup: Setup) -> str | None:
    """Why there are no steps in C; None: there are."""
    return network.refusal(setup) if isinstance(setup.problem.model, Network) else linear.refusal(setup)


def steps(setup: Setup) -> Stepper:
    """What makes them, of a batch that there is no :func:`refusal` of."""
    return NetworkSteps(setup) if isinstance(setup.problem.model, Network) else LinearSteps(setup)
