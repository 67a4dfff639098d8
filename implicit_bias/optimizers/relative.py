"""What Fromage and LARS share: in every block a step whose length is a share of the block's own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from implicit_bias.core.scaled import Scaled
from implicit_bias.norms import ParameterNorm
from implicit_bias.norms.l2 import L2
from implicit_bias.optimizers.base import Here, Optimizer, Step

FROBENIUS = L2()


@dataclass(frozen=True)
class RelativeDescent(Optimizer, ABC):
    """W <- c (W - eta_t (|W|_F / |g|_F) g) in every block W with gradient g, c = 1 or what keeps |W| from growing.

    Where W = 0 the block takes the step of gradient descent, W <- -c eta_t g, as published.
    """

    own_norm: ClassVar[str | None] = "l2"

    @property
    def rate(self) -> float:
        """A step is this share of the parameters, whatever the data's unit."""
        return 0.3

    def caution(self, initial: Mapping[str, Tensor]) -> str | None:
        zero = [name for name, block in initial.items() if not bool(block.any())]
        if not zero:
            return None
        blocks = f"{', '.join(zero)} {'starts' if len(zero) == 1 else 'start'}"
        return (
            f"optimizer={self.name}: {blocks} at zero, of which no step is a share; the first step there is gradient descent's"
            " (on a linear model model.init=gaussian starts elsewhere)"
        )

    @abstractmethod
    def shrinkage(self, eta: Tensor) -> Tensor:
        """c, of the shape of eta."""

    def step_from(self, state: Any, here: Here, t: int, norm: ParameterNorm) -> tuple[Any, Step]:
        keep = self.shrinkage(here.log_lr.exp())
        direction = {name: _share(block, here.gradient[name]) for name, block in here.parameters.items()}
        return state, Step(direction, keep.log(), keep=keep)


def _share(w: Tensor, g: Scaled) -> Tensor:
    """|W|_F g / |g|_F; g where W is 0."""
    size = FROBENIUS.value(w)[..., None, None]
    relative = size * FROBENIUS.scaled_direction(g)
    zero = size == 0
    return torch.where(zero, g.relative_to(torch.zeros_like(size)), relative) if bool(zero.any()) else relative
