"""Compiled steps: the arithmetic of many updates of many runs in one call, where there is a C compiler."""

from implicit_bias.engine.steppers.native.linear import LinearSteps, linear_steps

__all__ = ["LinearSteps", "linear_steps"]
