"""Speed beside the usual and the leanest plain loop: ``python -m implicit_bias.bench``."""

from implicit_bias.bench.command import main

__all__ = ["main"]
