"""What a model is to the rest: parameter blocks, scores, and the exact gradient of a loss in scaled form."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from implicit_bias.losses import Loss
from implicit_bias.norms import Norm
from implicit_bias.registry import Registry
from implicit_bias.scaled import Scaled

MODELS = Registry("implicit_bias.models", "model")

Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class Data:
    """The training sets of a batch of runs, one each or one for all.

    Attributes:
        x: Features (R, n, d), or (1, n, d) shared by every run.
        y: Labels (R, n) or (1, n), int64 in [0, num_classes).
        num_classes: k.
    """

    x: Tensor
    y: Tensor
    num_classes: int

    def is_label(self) -> Tensor:
        """(R or 1, k, n), True where class c is the label of sample i."""
        classes = torch.arange(self.num_classes, device=self.y.device)
        return self.y.unsqueeze(-2) == classes[:, None]


@dataclass(frozen=True)
class Gradient:
    """The gradient of the mean loss, exact at any depth.

    Attributes:
        blocks: Gradient of L, one scaled tensor a block.
        log_totals: log sum_c w_ic of every sample, shape (R, n).
        log_losses: Gives the log loss of every sample, shape (R, n).
    """

    blocks: dict[str, Scaled]
    log_totals: Tensor
    log_losses: Callable[[], Tensor]

    @cached_property
    def log_weight(self) -> Tensor:
        """log of the mean over samples of sum_c w_ic, shape (R,), where -grad L = (1 / n) sum_ic w_ic grad m_ic; computed when
        first asked for.
        """
        return log_mean(self.log_totals)

    @cached_property
    def log_loss(self) -> Tensor:
        """log L, the natural log of the mean loss, shape (R,); computed when first asked for."""
        return log_mean(self.log_losses())

    def per_weight(self) -> Parameters:
        """-grad L / sum w = sum_ic w_ic grad m_ic with weights that sum to one, as plain tensors."""
        unit = self.log_weight[:, None, None]
        return {name: -block.relative_to(unit) for name, block in self.blocks.items()}


class Objective(ABC):
    """A model with a loss on given data: what the engine evaluates at every step."""

    data: Data

    @abstractmethod
    def negative_gaps(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """u_ic = f_c(x_i) - f_{y_i}(x_i), shape (R, k, n); -inf at the label."""

    @abstractmethod
    def gradient(self, parameters: Mapping[str, Tensor]) -> Gradient:
        """Gradient of the mean loss, with log loss and weights."""

    @abstractmethod
    def weights(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The loss gradient's weights w_ic, normalised to sum one: (R, n, k), 0 at the label."""


@dataclass(frozen=True)
class Model(ABC):
    """A family f(x; theta) in R^k, positively homogeneous of a known degree in theta."""

    name: ClassVar[str]
    #: True when f is linear in theta, so that weights on the gaps certify an upper bound on the margin.
    linear: ClassVar[bool] = False

    @abstractmethod
    def degree(self) -> int:
        """L with f(x; c theta) = c^L f(x; theta), c > 0."""

    @abstractmethod
    def initial(self, data: Data, seeds: Sequence[int]) -> Parameters:
        """Initial parameters of each run, blocks of shape (R, p, q); run r depends on ``seeds[r]`` only."""

    @abstractmethod
    def objective(self, data: Data, loss: Loss) -> Objective:
        """The model with ``loss`` on ``data``."""

    def row_bases(self, data: Data) -> dict[str, Tensor]:
        """For blocks whose gradients' columns always lie in a subspace, an orthonormal basis of it (p, r)."""
        return {}

    @abstractmethod
    def unit_step(self, data: Data, norm: Norm) -> Tensor:
        """max_i,c N_*(grad m_ic) at a typical point, per run (R or 1,): by how much a step of size one can change a gap."""


def log_mean(log_values: Tensor) -> Tensor:
    """log of the mean of exp(log_values) over the last axis."""
    return log_values.logsumexp(dim=-1) - math.log(log_values.shape[-1])
