"""Diagonal linear networks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from implicit_bias.core.data import Data
from implicit_bias.core.registry import hyper
from implicit_bias.losses import Loss
from implicit_bias.models.base import MODELS, Objective
from implicit_bias.models.linearised import Linearised, by_autograd
from implicit_bias.models.network import Network, NetworkObjective, Shape
from implicit_bias.models.perturbations import BALLS, EPS, NAMES, PERTURBATION, Perturbed, check_keys, perturbed, refused_beside


@MODELS.register
@dataclass(frozen=True)
class Diagonal(Network):
    """Diagonal linear network f(x) = (w_1 * w_2 * ... * w_k) x, entrywise products, k = depth; degree k.

    Blocks layer1, ..., layerk of shape (outputs, d). With different entries at the start, coordinates compete.

    With ``perturbation`` gaps are those of the worst perturbations of the samples, as for model=linear with this map.
    """

    name: ClassVar[str] = "diagonal"

    depth: int = hyper(2, help="factors", ge=1, most=10_000)
    perturbation: str | None = hyper(None, help=PERTURBATION, choices=NAMES)
    eps: float = hyper(0.0, help=EPS, ge=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_keys(self.perturbation, self.eps)

    def incompatible(self, other: object) -> str | None:
        return refused_beside(self.perturbation, other) or super().incompatible(other)

    @property
    def perturbed(self) -> Perturbed | None:
        return perturbed(self.perturbation, self.eps)

    @property
    def robust(self) -> bool:
        return self.perturbation is not None

    def objective(self, data: Data, loss: Loss, frozen: Mapping[str, Tensor] | None = None) -> Objective:
        return (
            super().objective(data, loss, frozen) if self.perturbation is None else RobustDiagonal(self, data, loss, frozen or {})
        )

    def block_names(self) -> list[str]:
        return [f"layer{j}" for j in range(1, self.depth + 1)]

    def shapes(self, dim: int, outputs: int) -> dict[str, Shape]:
        return {name: Shape(outputs, dim, dim) for name in self.block_names()}

    def forward(self, blocks: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        return self.product(blocks) @ inputs

    def product(self, blocks: Mapping[str, Tensor]) -> Tensor:
        """The linear map that the network is, w_1 * ... * w_k.

        Args:
            blocks: All of them, (R, outputs, d) each.

        Returns:
            (R, outputs, d).
        """
        return math.prod((blocks[name] for name in self.block_names()[1:]), start=blocks["layer1"])

    def _degree(self) -> float | str:
        return float(len(set(self.block_names()) - set(self.frozen_blocks())))

    def layer_degrees(self) -> dict[str, float]:
        return {name: 1.0 for name in self.block_names() if name not in self.frozen_blocks()}

    def _degree_keys(self) -> str:
        return f"model.depth={self.depth}"


class RobustDiagonal(NetworkObjective):
    """A diagonal network under perturbations: scores with what the worst perturbation of each pair adds to the others' scores.

    f_c + eps |w_y - w_c|_p*, or for one output f - y eps |w|_p* with y = +-1, w the network's linear map: their gaps are the
    worst ones, and all that networks do to differentiate scores is right for them. At kinks of |.|_p* it is torch's derivative.
    """

    network: Diagonal

    def _outputs(self, parameters: Mapping[str, Tensor]) -> Tensor:
        w, ball = self.network.product({**parameters, **self.frozen}), BALLS[str(self.network.perturbation)]
        eps = torch.as_tensor(self.network.eps, dtype=w.dtype, device=w.device)
        f = w @ self.inputs
        if self.binary:
            return f - self.sign * eps * ball.dual(w).unsqueeze(-1)
        sizes = ball.dual(w.unsqueeze(2) - w.unsqueeze(1))
        labels = self.data.y.expand(len(w), -1).unsqueeze(1).expand_as(f)
        return f + (eps * sizes).gather(2, labels)

    def _linearised(self, parameters: Mapping[str, Tensor]) -> Linearised:
        return by_autograd(self._outputs, parameters)

    def unperturbed_gaps(self, parameters: Mapping[str, Tensor]) -> Tensor:
        return self._negative_gaps(super()._outputs(parameters))
