"""The scores of a network with what pulls weights on them back to its blocks: by autograd, or in closed form layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from implicit_bias.core.data import Parameters


class Linearised(NamedTuple):
    """A network at a point, on its samples.

    Attributes:
        scores: f_c(x_i), (R, outputs, m).
        pull: Weights c (R, outputs, m) to sum_ic c_ic grad f_c(x_i), one tensor (R, p, q) a trained block; any number of times.
        push: A parameter set v, trained blocks (R, p, q), to <grad f_c(x_i), v>, (R, outputs, m); None: it is not known.
    """

    scores: Tensor
    pull: Callable[[Tensor], Parameters]
    push: Callable[[Mapping[str, Tensor]], Tensor] | None = None


def by_autograd(forward: Callable[[Mapping[str, Tensor]], Tensor], trained: Mapping[str, Tensor]) -> Linearised:
    """The scores of a function of the trained blocks, differentiated by autograd.

    Args:
        forward: The blocks to the scores.
        trained: Where, one tensor (R, p, q) a block.

    Returns:
        The scores, and their vector-Jacobian products.
    """
    leaves = {name: block.detach().requires_grad_() for name, block in trained.items()}
    with torch.enable_grad():
        f = forward(leaves)

    def pull(weights: Tensor) -> Parameters:
        gradients = torch.autograd.grad(f, list(leaves.values()), weights, retain_graph=True)
        return dict(zip(leaves, gradients, strict=True))

    return Linearised(f.detach(), pull)
