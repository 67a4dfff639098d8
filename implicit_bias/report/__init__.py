"""Figures, their claims and the report: ``python -m implicit_bias.report``."""

from implicit_bias.report.command import main

__all__ = ["main"]
