"""Optimizers as pure functions of scaled gradients; one file each."""

from implicit_bias.optimizers.base import OPTIMIZERS, Optimizer, State, Step

__all__ = ["OPTIMIZERS", "Optimizer", "State", "Step"]
