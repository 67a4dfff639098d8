"""The step of AdaBoost: an exact line search along the coordinate that moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from implicit_bias.core.errors import BadInput
from implicit_bias.core.registry import hyper
from implicit_bias.losses import Loss
from implicit_bias.losses.exponential import Exponential
from implicit_bias.schedules.base import SCHEDULES, Schedule


@SCHEDULES.register
@dataclass(frozen=True)
class Edge(Schedule):
    """eta_t = lr / 2 log((1 + r_t) / (1 - r_t)), r_t the edge; with lr = 1 coordinate descent is AdaBoost.

    With w_ic the weights of the exponential loss and z_ic in [-1, 1] the derivatives of the gaps along the step,
    r = sum w z / sum w over the pairs with z != 0. For features of -1 and 1 it is the exact minimum along the coordinate,
    log(W+ / W-) / 2 with W+- the weights of the pairs that gain and lose: for two classes AdaBoost of Freund and Schapire (1997),
    for more boosting by pairs. For smaller features it is the minimum of Schapire and Singer's bound (1999), and the loss still
    falls.
    lr < 1 shrinks the steps.

    The `lr` column holds lr, the share of that step.
    """

    name: ClassVar[str] = "edge"

    lr: Any = hyper(1.0, help="share of the line search's step; 1: AdaBoost", gt=0, le=1)

    def log_relative(self, t: int) -> Tensor | float:
        return 0.0

    def incompatible(self, other: object) -> str | None:
        if isinstance(other, Loss) and not isinstance(other, Exponential):
            return "schedule=edge is a line search of the exponential loss"
        if getattr(other, "linear", True) is False:
            return "gaps are not linear in its parameters, as the line search of schedule=edge wants"
        return super().incompatible(other)

    def check(self, x: NDArray[np.float64]) -> None:
        largest = float(np.abs(x).max())
        if largest > 1:
            raise BadInput(f"schedule=edge: needs features between -1 and 1, as classifiers give; the largest is {largest:g}")

    def log_search(self, derivatives: Tensor, weights: Tensor) -> Tensor:
        touched = (weights * (derivatives != 0)).flatten(start_dim=1).sum(dim=1)
        gained = (weights * derivatives).flatten(start_dim=1).sum(dim=1)
        if bool((gained >= touched).any()):
            raise OverflowError("schedule=edge: one feature alone separates what it touches, so that its step has no end")
        return (torch.log((touched + gained) / (touched - gained)) / 2).log()
