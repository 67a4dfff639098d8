"""Any runs in one picture and one table: ``python -m implicit_bias.compare``."""

from implicit_bias.compare.command import main

__all__ = ["main"]
