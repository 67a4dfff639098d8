"""What a model is to the rest: parameter blocks, scores, and the exact gradient of a loss in scaled form."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from implicit_bias.losses import Loss, LossTerms
from implicit_bias.norms import Norm
from implicit_bias.registry import Registry
from implicit_bias.scaled import Scaled

MODELS = Registry("implicit_bias.models", "model")

Parameters = dict[str, Tensor]

# Entries this far below the largest number still have all their digits when the largest entry of a tensor is of this size.
LOSES_DIGITS = {torch.float64: 1e-200, torch.float32: 1e-20}


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

    def batch(self, samples: Tensor) -> Data:
        """The training sets of the samples with these indices, in the order given.

        Args:
            samples: Integers in [0, n), of shape (b,), the same in every run, or (R, b).

        Raises:
            ValueError: other shapes, types or indices.
        """
        runs, n = self.x.shape[0], self.x.shape[1]
        fits = samples.dim() == 1 or (samples.dim() == 2 and (runs == 1 or samples.shape[0] == runs))
        if not fits or samples.numel() == 0 or samples.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"a batch of shape {tuple(samples.shape)} ({samples.dtype}); must be integers (b,) or ({runs}, b)")
        if bool(((samples < 0) | (samples >= n)).any()):
            raise ValueError(f"a batch has samples from {int(samples.min())} to {int(samples.max())}; must be in 0..{n - 1}")
        if samples.dim() == 1:
            return Data(self.x[:, samples], self.y[:, samples], self.num_classes)
        run = torch.arange(runs, device=samples.device)[:, None]
        return Data(self.x[run, samples], self.y[run, samples], self.num_classes)


@dataclass(frozen=True)
class Gradient:
    """The gradient of the mean loss, exact at any depth.

    Attributes:
        blocks: Gradient of L, one scaled tensor a block.
        total: sum_c w_ic exp(-log_unit) of every sample, shape (R, n), where -grad L = (1 / n) sum_ic w_ic grad m_ic.
        log_unit: The scale of the totals, shape (R, 1).
        log_losses: Gives the log loss of every sample, shape (R, n).
        weights: Gives w_ic, normalised to sum one, (R, pairs, n), where the model is not linear.
    """

    blocks: dict[str, Scaled]
    total: Tensor
    log_unit: Tensor
    log_losses: Callable[[], Tensor]
    weights: Callable[[], Tensor] | None = None

    @cached_property
    def log_weight(self) -> Tensor:
        """log of the mean over samples of sum_c w_ic, shape (R,); computed when first asked for."""
        return self.total.mean(dim=-1).log() + self.log_unit.squeeze(-1)

    @cached_property
    def log_loss(self) -> Tensor:
        """log L, the natural log of the mean loss, shape (R,); computed when first asked for."""
        return log_mean(self.log_losses())

    def per_weight(self) -> Parameters:
        """-grad L / sum w = sum_ic w_ic grad m_ic with weights that sum to one, as plain tensors."""
        unit = self.log_weight[:, None, None]
        return {name: -block.relative_to(unit) for name, block in self.blocks.items()}

    def downhill(self) -> Parameters:
        """-grad L as plain tensors, in a unit of each run's own: sum w, as in :meth:`per_weight`, or where grad L is so small
        beside it that digits would be lost, the largest scale of the gradient itself."""
        c = self.per_weight()
        largest = torch.stack([block.abs().amax(dim=(-2, -1)) for block in c.values()]).amax(dim=0)
        small = (largest < LOSES_DIGITS[largest.dtype])[:, None, None]
        if not bool(small.any()):
            return c
        scales = torch.stack([block.log_scale.amax(dim=(-2, -1), keepdim=True) for block in self.blocks.values()]).amax(dim=0)
        unit = torch.where(torch.isfinite(scales), scales, torch.zeros_like(scales))
        return {name: torch.where(small, -block.relative_to(unit), c[name]) for name, block in self.blocks.items()}


class Quick(NamedTuple):
    """A gradient that is exact as long as no part of it is too small: tensors alone, so that a compiler can make it.

    Attributes:
        blocks, terms: As in :class:`Gradient`, and what the rest of that is made from.
        coefficients: The weights of the samples in every row of the gradient, (R, k, n), in units of the blocks' scale.
        exact: Whether the gradient may be used as it is, a truth value without dimension.
    """

    blocks: dict[str, Scaled]
    terms: LossTerms
    coefficients: Tensor
    exact: Tensor


class Objective(ABC):
    """A model with a loss on given data: what the engine evaluates at every step."""

    data: Data

    def quick(self, parameters: Mapping[str, Tensor]) -> Quick | None:
        """The first part of :meth:`gradient`, without a look at any number; None where it cannot be split like that."""
        return None

    def finished(self, parameters: Mapping[str, Tensor], quick: Quick) -> Gradient:
        """What :meth:`gradient` of all samples returns, from its first part."""
        return self.gradient(parameters)

    @abstractmethod
    def negative_gaps(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """u_ic = f_c(x_i) - f_{y_i}(x_i), shape (R, k, n); -inf at the label."""

    @abstractmethod
    def gradient(self, parameters: Mapping[str, Tensor], batch: Tensor | None = None) -> Gradient:
        """Gradient of the mean loss, with log loss and weights.

        Args:
            parameters: One tensor (R, p, q) a block.
            batch: Indices of the samples that the mean is over, (b,) or (R, b), as in :meth:`Data.batch`; None for all. All of
                them in their order give the same bits as None.

        Raises:
            ValueError: no such samples.
        """

    @abstractmethod
    def weights(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The loss gradient's weights w_ic, normalised to sum one: (R, n, pairs), 0 at the label."""

    @abstractmethod
    def scores(self, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """f_c(x_i) for samples x (R or 1, m, d): shape (R, k, m), or (R, 1, m) for a scalar output."""

    @abstractmethod
    def pull(self, parameters: Mapping[str, Tensor], weights: Tensor) -> Parameters:
        """sum_ic w_ic grad m_ic, a vector-Jacobian product with weights (R, pairs, n)."""

    @abstractmethod
    def push(self, parameters: Mapping[str, Tensor], tangent: Mapping[str, Tensor]) -> Tensor:
        """<grad m_ic, v> for a parameter set v, a Jacobian-vector product: (R, pairs, n), 0 at the label."""


@dataclass(frozen=True)
class Model(ABC):
    """A family f(x; theta) in R^k, positively homogeneous of a known degree in theta."""

    name: ClassVar[str]
    #: True when f is linear in theta, so that weights on the gaps certify an upper bound on the margin.
    linear: ClassVar[bool] = False

    @property
    def homogeneous(self) -> bool:
        """Whether f(x; c theta) = c^L f(x; theta). Where it is not, margins are q / N, with the exponent 1."""
        return True

    @abstractmethod
    def degree(self) -> float:
        """L with f(x; c theta) = c^L f(x; theta), c > 0; 1 for a model that is not homogeneous."""

    def check(self, x: NDArray[np.float64], num_classes: int) -> None:  # noqa: B027 - most models fit any data
        """Raises BadInput, naming the key, where the model cannot be put on samples (n, d) of so many classes."""

    def numbers(self, dim: int, num_classes: int) -> int:
        """Parameters of one run on samples of ``dim`` features, where they can be told before they are made."""
        return 0

    @abstractmethod
    def initial(self, data: Data, seeds: Sequence[int]) -> Parameters:
        """Initial parameters of each run, frozen ones included, blocks of shape (R, p, q); run r depends on ``seeds[r]`` only."""

    def frozen_blocks(self) -> tuple[str, ...]:
        """The blocks that are not trained: no part of theta, of its norms or of the degree."""
        return ()

    def hidden_matrices(self, names: Sequence[str]) -> list[str]:
        """Those of the blocks that are matrices of hidden layers: Muon's part in a hybrid. All of them in a linear model."""
        return list(names)

    @abstractmethod
    def objective(self, data: Data, loss: Loss, frozen: Mapping[str, Tensor] | None = None) -> Objective:
        """The model with ``loss`` on ``data``, and the values of its frozen blocks."""

    def row_bases(self, data: Data) -> dict[str, Tensor]:
        """For blocks whose gradients' columns always lie in a subspace, an orthonormal basis of it (p, r)."""
        return {}

    @abstractmethod
    def unit_step(self, data: Data, norm: Norm, initial: Parameters | None = None) -> Tensor:
        """B, per run (R or 1,), the unit of learning rates: max_i,c N_*(grad m_ic), by how much a step of size one can change a
        gap, for a linear model; for others see their own.
        """


def log_mean(log_values: Tensor) -> Tensor:
    """log of the mean of exp(log_values) over the last axis."""
    return log_values.logsumexp(dim=-1) - math.log(log_values.shape[-1])
