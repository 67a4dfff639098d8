"""Activations, and what each does to the degree of homogeneity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Activation:
    """An entrywise function s.

    Attributes:
        apply: (z, q, slope) to s(z); q and slope are read by those that need them.
        monotone: Whether s never falls, so that it commutes with a maximum.
        order: q -> p with s(c z) = c^p s(z) for c > 0; None where there is no such p.
    """

    apply: Callable[[Tensor, float, Tensor | float], Tensor]
    order: Callable[[float], float] | None
    monotone: bool = True


def _leaky(z: Tensor, slope: Tensor | float) -> Tensor:
    return torch.where(z > 0, z, slope * z)


#: ``relu_power`` is relu(z)^q and ``leaky_relu`` has ``slope`` below zero. At the kink every derivative is that of the left.
ACTIVATIONS: Mapping[str, Activation] = {
    "linear": Activation(lambda z, q, slope: z, lambda q: 1.0),
    "relu": Activation(lambda z, q, slope: z.relu(), lambda q: 1.0),
    "leaky_relu": Activation(lambda z, q, slope: _leaky(z, slope), lambda q: 1.0),
    "squared_relu": Activation(lambda z, q, slope: z.relu().square(), lambda q: 2.0),
    "relu_power": Activation(lambda z, q, slope: z.relu().pow(q), lambda q: q),
    "quadratic": Activation(lambda z, q, slope: z.square(), lambda q: 2.0, monotone=False),
    "sigmoid": Activation(lambda z, q, slope: z.sigmoid(), None),
    "tanh": Activation(lambda z, q, slope: z.tanh(), None),
}
