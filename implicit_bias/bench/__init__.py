"""The speed of the engine compared with ordinary PyTorch loops: ``python -m implicit_bias.bench``."""

from implicit_bias.bench.command import main

__all__ = ["main"]
