"""Compiled steps: the arithmetic of many updates of many runs in one call, where there is a C compiler."""

from implicit_bias.engine.steppers.native.linear import LinearSteps, refusal

__all__ = ["LinearSteps", "refusal"]
