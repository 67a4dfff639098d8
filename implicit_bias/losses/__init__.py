"""Losses of the gaps, in the log domain: one file and one yaml each."""

from implicit_bias.losses.base import FLOOR, LOSSES, Loss, LossTerms

__all__ = ["FLOOR", "LOSSES", "Loss", "LossTerms"]
