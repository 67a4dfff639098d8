"""The gradient of a loss, of any size, and the part of it that a compiler can make."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from implicit_bias.core.data import Parameters
from implicit_bias.core.scaled import Scaled, largest_size
from implicit_bias.losses import LossTerms

# From this size of a logarithm on, sums of it and of numbers of order one are off by more than 1e-10.
FAR = 1e6
# Entries this far below the largest number still have all their digits when the largest entry of a tensor is of this size.
LOSES_DIGITS = {torch.float64: 1e-200, torch.float32: 1e-20}


class Sized(NamedTuple):
    """The largest |entry|, the sum of all |entry| and the root of the sum of squares of every one of B blocks, and after them of
    all together, (3, B + 1, R), of the parameters and of -grad L / sum w; and their inner product, block by block, (B, R)."""

    parameters: Tensor
    per_weight: Tensor
    inner: Tensor


class Found(NamedTuple):
    """What is known beside a gradient, where it has been found with it.

    Attributes:
        log_loss: log L, (R,).
        per_weight: -grad L / sum w, one tensor (R, p, q) a block.
        largest: Its largest absolute entry, (R,).
        accuracy: The share of samples whose gaps are all positive, (R,).
        q: The smallest gap, (R,).
        parameter: The largest absolute entry of the parameters, (R,); nan where one is no finite number.
        evaluate: Evaluates the gradient once more, with all that is not known.
        sized: Of the parameters and of ``per_weight``; None: it is computed where it is asked for.
    """

    log_loss: Tensor
    per_weight: Parameters
    largest: Tensor
    accuracy: Tensor
    q: Tensor
    parameter: Tensor
    evaluate: Callable[[], Gradient]
    sized: Sized | None = None


@dataclass(frozen=True)
class Gradient:
    """The gradient of the mean loss, exact at any depth.

    Attributes:
        blocks: Gradient of L, one scaled tensor a block.
        total: sum_c w_ic exp(-log_unit) of every sample, shape (R, n), where -grad L = (1 / n) sum_ic w_ic grad m_ic.
        log_unit: The scale of the totals, shape (R, 1).
        log_losses: Gives the log loss of every sample, shape (R, n).
        weights: Gives w_ic, normalised to sum one, (R, pairs, n), where the model is not linear.
        largest: Gives the largest negative gap of every sample there, (R, n), where it is known without evaluating gaps again.
        found: What else is known; None: it is computed when it is first asked for.
    """

    blocks: dict[str, Scaled]
    total: Tensor
    log_unit: Tensor
    log_losses: Callable[[], Tensor]
    weights: Callable[[], Tensor] | None = None
    largest: Callable[[], Tensor | None] | None = None
    found: Found | None = None

    def of(self, runs: Tensor) -> Gradient:
        """The same of these runs alone.

        Args:
            runs: Their places.
        """
        blocks = {name: Scaled(block.mantissa[runs], block.log_scale[runs]) for name, block in self.blocks.items()}
        weights = self.weights
        return Gradient(
            blocks, self.total[runs], self.log_unit[runs], lambda: self.log_losses()[runs],
            None if weights is None else lambda: weights()[runs],
        )  # fmt: skip

    @cached_property
    def log_weight(self) -> Tensor:
        """log of the mean over samples of sum_c w_ic, shape (R,); computed when first asked for."""
        return self.total.mean(dim=-1).log() + self.log_unit.squeeze(-1)

    @cached_property
    def log_loss(self) -> Tensor:
        """log L, the natural log of the mean loss, shape (R,); computed when first asked for."""
        return log_mean(self.log_losses()) if self.found is None else self.found.log_loss

    def per_weight(self) -> Parameters:
        """-grad L / sum w = sum_ic w_ic grad m_ic with weights that sum to one, as plain tensors, not to be changed."""
        return self._per_weight

    @cached_property
    def _per_weight(self) -> Parameters:
        if self.found is not None:
            return self.found.per_weight
        unit = self.log_weight[:, None, None]
        far = (self.log_unit.abs() > FAR).unsqueeze(-1)
        if not bool(far.any()):
            return {name: -block.relative_to(unit) for name, block in self.blocks.items()}
        # The sum's logarithm has lost the digits that tell it from the unit; the scales of the blocks are made from the unit.
        unit = torch.where(far, (self.log_unit - math.log(self.total.shape[-1])).unsqueeze(-1), unit)
        sums = torch.where(far, self.total.sum(dim=-1)[:, None, None], 1)
        return {name: -block.relative_to(unit) / sums for name, block in self.blocks.items()}

    @cached_property
    def weight_over_loss(self) -> Tensor:
        """sum w / L, the size of -grad log L in units of :meth:`per_weight`, (R,): 1 in the tail of losses that are exponential
        there. Of numbers of one evaluation in one unit: off by no more than the last digit of log L, however small the loss."""
        if self.found is not None:
            return self.found.evaluate().weight_over_loss
        ratio: Tensor = self.total.sum(dim=-1) / (self.log_losses() - self.log_unit).exp().sum(dim=-1)
        return ratio

    @cached_property
    def largest_entry(self) -> Tensor:
        """The largest absolute entry of :meth:`per_weight`, (R,); nan where one is."""
        return largest_entry(self.per_weight()) if self.found is None else self.found.largest

    def downhill(self) -> Parameters:
        """-grad L as plain tensors, not to be changed, in a unit of each run's own: sum w, as in :meth:`per_weight`, or where
        grad L is so small beside it that digits would be lost, the largest scale of the gradient itself."""
        return self._downhill

    @cached_property
    def _downhill(self) -> Parameters:
        c, largest = self.per_weight(), self.largest_entry
        if float(largest.amin()) >= LOSES_DIGITS[largest.dtype]:
            return c
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


def largest_entry(blocks: Mapping[str, Tensor]) -> Tensor:
    """The largest absolute entry of each run, over all blocks.

    Args:
        blocks: One tensor (R, p, q) a block.

    Returns:
        (R,); nan where an entry is.
    """
    sizes = [largest_size(block, (-2, -1)).flatten(start_dim=-3) for block in blocks.values()]
    return sizes[0] if len(sizes) == 1 else torch.stack(sizes).amax(dim=0)


def log_mean(log_values: Tensor) -> Tensor:
    """log of the mean of exp(log_values) over the last axis.

    Args:
        log_values: (..., m).

    Returns:
        (...).
    """
    return log_values.logsumexp(dim=-1) - math.log(log_values.shape[-1])
