"""Fromage, the Frobenius matched gradient descent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from implicit_bias.optimizers.base import OPTIMIZERS
from implicit_bias.optimizers.relative import RelativeDescent


@OPTIMIZERS.register
@dataclass(frozen=True)
class Fromage(RelativeDescent):
    """Fromage, in each block a step that is a share eta of the block; l2-norm margin, block by block.

    W <- (W - eta_t (|W|_F / |g|_F) g) / sqrt(1 + eta_t^2): a step at right angles to W leaves |W|_F as it is (Bernstein et al.,
    arXiv 2002.03432, Algorithm 1). On separable data g points along -W in the end, and |W|_F grows by about eta_t a step.
    """

    name: ClassVar[str] = "fromage"

    def shrinkage(self, eta: Tensor) -> Tensor:
        return 1 / (1 + eta * eta).sqrt()
