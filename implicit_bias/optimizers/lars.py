"""LARS: layer-wise rates, without momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from implicit_bias.optimizers.base import OPTIMIZERS
from implicit_bias.optimizers.relative import RelativeDescent


@OPTIMIZERS.register
@dataclass(frozen=True)
class Lars(RelativeDescent):
    """LARS, in each block a step that is a share eta of the block, which grows by it; l2-norm margin, block by block.

    W <- W - eta_t (|W|_F / |g|_F) g: Fromage without its factor, so that a loss that is blind to the size of W makes |W|_F grow
    by sqrt(1 + eta_t^2) a step (Bernstein et al., arXiv 2002.03432, section 4; You et al., arXiv 1708.03888, without momentum
    and decay).
    """

    name: ClassVar[str] = "lars"

    def shrinkage(self, eta: Tensor) -> Tensor:
        return torch.ones_like(eta)
