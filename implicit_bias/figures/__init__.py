"""Figures, one file each in the folder of their paper: which runs they need, how they are drawn, what is claimed about them."""

from implicit_bias.analysis.runs import Run
from implicit_bias.figures.base import FIGURES, PRESETS, Figure, PerPreset, Preset
from implicit_bias.figures.claims import Claim, Finding

__all__ = ["FIGURES", "PRESETS", "Claim", "Figure", "Finding", "PerPreset", "Preset", "Run"]
