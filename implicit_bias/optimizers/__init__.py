"""Optimizers as pure functions of scaled gradients; one file each."""

from implicit_bias.optimizers.base import OPTIMIZERS, ForeignState, Here, Optimizer, State, Step

__all__ = ["OPTIMIZERS", "ForeignState", "Here", "Optimizer", "State", "Step"]
