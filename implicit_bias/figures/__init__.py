"""Figures, one file each: which runs they need, how they are drawn, and what is claimed about them."""

from implicit_bias.figures.base import FIGURES, Claim, Figure, Finding, Preset, Run

__all__ = ["FIGURES", "Claim", "Figure", "Finding", "Preset", "Run"]
