"""Activations, their derivatives, and what each does to the degree of homogeneity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

#: Of relu_power and of leaky_relu.
Power = float
Slope = Tensor | float


@dataclass(frozen=True)
class Activation:
    """An entrywise function s, with its derivative.

    Attributes:
        kept: z to the tensor h that s(z) and s'(z) are both made from, which is all that is remembered of z.
        value: (h, q, slope) to s(z).
        pull: (g, h, q, slope) to g s'(z). ``g`` may be overwritten.
        order: q -> p with s(c z) = c^p s(z) for c > 0; None where there is no such p.
        monotone: Whether s never falls, so that it commutes with a maximum.
    """

    kept: Callable[[Tensor], Tensor]
    value: Callable[[Tensor, Power, Slope], Tensor]
    pull: Callable[[Tensor, Tensor, Power, Slope], Tensor]
    order: Callable[[float], float] | None
    monotone: bool = True

    def apply(self, z: Tensor, q: Power, slope: Slope) -> Tensor:
        """s(z).

        Args:
            z: Any shape.
            q: The exponent of relu_power.
            slope: That of leaky_relu below zero.

        Returns:
            s(z), the same shape.
        """
        return self.value(self.kept(z), q, slope)


def _itself(z: Tensor) -> Tensor:
    return z


def _leaky(z: Tensor, slope: Slope) -> Tensor:
    return torch.where(z > 0, z, slope * z)


def _pull_leaky(g: Tensor, z: Tensor, slope: Slope) -> Tensor:
    return torch.where(z > 0, g, slope * g)


def _where_positive(g: Tensor, h: Tensor) -> Tensor:
    """g where h > 0, else 0, in one pass over memory."""
    passed: Tensor = torch.ops.aten.threshold_backward(g, h, 0)
    return passed


def _twice(g: Tensor, h: Tensor) -> Tensor:
    """2 g h in one pass, rounded once, in the memory of g."""
    return torch.addcmul(_zero(g.dtype, g.device), g, h, value=2, out=g)


@cache
def _zero(dtype: torch.dtype, device: torch.device) -> Tensor:
    """0 without dimension."""
    return torch.zeros((), dtype=dtype, device=device)


def _pull_power(g: Tensor, h: Tensor, q: Power) -> Tensor:
    # h^0 is 1 at the kink, too.
    return _where_positive(g * (q * h.pow(q - 1)), h)


#: ``relu_power`` is relu(z)^q and ``leaky_relu`` has ``slope`` below zero. At the kink every derivative is that of the left.
ACTIVATIONS: Mapping[str, Activation] = {
    "linear": Activation(_itself, lambda h, q, slope: h, lambda g, h, q, slope: g, lambda q: 1.0),
    "relu": Activation(torch.relu, lambda h, q, slope: h, lambda g, h, q, slope: _where_positive(g, h), lambda q: 1.0),
    "leaky_relu": Activation(
        _itself, lambda h, q, slope: _leaky(h, slope), lambda g, h, q, slope: _pull_leaky(g, h, slope), lambda q: 1.0
    ),
    "squared_relu": Activation(torch.relu, lambda h, q, slope: h * h, lambda g, h, q, slope: _twice(g, h), lambda q: 2.0),
    "relu_power": Activation(torch.relu, lambda h, q, slope: h.pow(q), lambda g, h, q, slope: _pull_power(g, h, q), lambda q: q),
    "quadratic": Activation(
        _itself, lambda h, q, slope: h * h, lambda g, h, q, slope: _twice(g, h), lambda q: 2.0, monotone=False
    ),
    "sigmoid": Activation(torch.sigmoid, lambda h, q, slope: h, lambda g, h, q, slope: g * (1 - h) * h, None),
    "tanh": Activation(torch.tanh, lambda h, q, slope: h, lambda g, h, q, slope: g * (1 - h * h), None),
}
