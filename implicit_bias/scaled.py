"""The path of :mod:`implicit_bias.core.scaled` in 0.1, for optimizers that were written then."""

from implicit_bias.core.scaled import Scaled, average, combine

__all__ = ["Scaled", "average", "combine"]
