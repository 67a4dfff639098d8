"""Figures, one file each: which runs they need, how they are drawn, and what is claimed about them."""

from implicit_bias.analysis.runs import Run
from implicit_bias.figures.base import FIGURES, Figure, Preset
from implicit_bias.figures.claims import Claim, Finding

__all__ = ["FIGURES", "Claim", "Figure", "Finding", "Preset", "Run"]
