"""The path of :mod:`implicit_bias.core.registry` in 0.1, for options that were written then."""

from implicit_bias.core.registry import HyperSpec, Registry, hyper, hyper_fields

__all__ = ["HyperSpec", "Registry", "hyper", "hyper_fields"]
