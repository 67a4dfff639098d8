"""The linear multiclass model f(x; W) = W x, with closed-form gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from implicit_bias.losses import Loss, LossTerms
from implicit_bias.models.base import MODELS, Data, Gradient, Model, Objective, Parameters, log_mean
from implicit_bias.norms import Norm
from implicit_bias.registry import hyper
from implicit_bias.scaled import Scaled, rescaled

WEIGHT = "weight"
# A mantissa below this may have lost terms to underflow (terms below 1e-308 of the row's largest vanish).
UNDERFLOW = 1e-280


@MODELS.register
@dataclass(frozen=True)
class Linear(Model):
    """Linear multiclass model f(x) = W x, W of shape (classes, dim), no bias; degree 1."""

    name: ClassVar[str] = "linear"
    linear: ClassVar[bool] = True

    init: str = hyper("zero", help="initial W: zero, or Gaussian entries from the run's seed", choices=("zero", "gaussian"))
    init_scale: float = hyper(0.01, help="standard deviation of a Gaussian initial W", gt=0)

    def degree(self) -> int:
        return 1

    def initial(self, data: Data, seeds: Sequence[int]) -> Parameters:
        shape = (data.num_classes, data.x.shape[-1])
        if self.init == "zero":
            return {WEIGHT: data.x.new_zeros((len(seeds), *shape))}
        draws = [np.random.RandomState(seed).randn(*shape) for seed in seeds]
        scale = torch.as_tensor(self.init_scale, dtype=data.x.dtype, device=data.x.device)
        return {WEIGHT: scale * torch.as_tensor(np.stack(draws), dtype=data.x.dtype, device=data.x.device)}

    def objective(self, data: Data, loss: Loss) -> Objective:
        return LinearObjective(data, loss)

    def row_bases(self, data: Data) -> dict[str, Tensor]:
        return {WEIGHT: zero_sum_basis(data.num_classes).to(data.x)}

    def unit_step(self, data: Data, norm: Norm) -> Tensor:
        # grad m_ic = (e_y - e_c) x_i^T; every norm here is blind to zero rows and to row order, so the rows x_i and -x_i are enough.
        pairs = torch.stack([data.x, -data.x], dim=-2)
        return norm.dual(pairs).amax(dim=-1)


def zero_sum_basis(k: int) -> Tensor:
    """Orthonormal basis (k, k-1) of the vectors that sum to zero (Helmert), where the columns of every multiclass gradient lie."""
    rows = torch.tril(torch.ones(k - 1, k, dtype=torch.float64))
    index = torch.arange(1, k, dtype=torch.float64)
    rows[torch.arange(k - 1), torch.arange(1, k)] = -index
    return (rows / (index * (index + 1)).sqrt()[:, None]).mT.contiguous()


class LinearObjective(Objective):
    """Gaps and gradients of W x for a batch of runs, layout (runs, classes, samples)."""

    def __init__(self, data: Data, loss: Loss) -> None:
        self.data = data
        self.loss = loss
        self.shared = data.x.shape[0] == 1
        self.label = data.is_label()
        self.barrier = torch.zeros_like(self.label, dtype=data.x.dtype).masked_fill(self.label, -math.inf)
        self.sign = torch.ones_like(self.barrier).masked_fill(self.label, -1.0)
        self.index = data.y.unsqueeze(-2)
        self.x = data.x.contiguous()
        self.x_t = data.x.mT.contiguous()
        self.log_n = math.log(data.x.shape[1])
        zero = self.x == 0
        self.sparse = bool(zero.any())
        # Features that are zero throughout have zero gradients; the others must not lose theirs to underflow.
        self.support = ~zero.all(dim=1, keepdim=True) if self.sparse else None

    def scores(self, w: Tensor) -> Tensor:
        """W x: (R, k, d) to (R, k, n)."""
        if self.shared:
            return (w.flatten(end_dim=1) @ self.x_t[0]).unflatten(0, w.shape[:2])
        return w @ self.x_t

    def negative_gaps(self, parameters: Mapping[str, Tensor]) -> Tensor:
        z = self.scores(parameters[WEIGHT])
        own = z.gather(-2, self.index.expand(z.shape[0], 1, -1))
        return z.sub_(own).add_(self.barrier)

    def gradient(self, parameters: Mapping[str, Tensor]) -> Gradient:
        terms = self.loss.terms(self.negative_gaps(parameters))
        # Gradient row c is sum_i P_ic x_i with P_ic = w_ic off the label and -sum_c w_ic at it: log|P| and a fixed sign.
        log_p = torch.where(self.label, terms.log_total.unsqueeze(-2), terms.log_weights)
        row_scale = log_p.amax(dim=-1, keepdim=True)
        coefficients = (log_p - row_scale).exp_().mul_(self.sign)
        mantissa = self._times_x(coefficients)
        block = Scaled(mantissa, row_scale - self.log_n)
        if self.sparse:
            block = self._without_underflow(block, log_p)
        return Gradient({WEIGHT: block}, log_mean(terms.log_loss), log_mean(terms.log_total))

    def weights(self, parameters: Mapping[str, Tensor]) -> Tensor:
        terms: LossTerms = self.loss.terms(self.negative_gaps(parameters))
        flat = terms.log_weights.mT.flatten(start_dim=1)
        return flat.softmax(dim=-1).reshape(terms.log_weights.mT.shape)

    def _times_x(self, coefficients: Tensor) -> Tensor:
        if self.shared:
            return (coefficients.flatten(end_dim=1) @ self.x[0]).unflatten(0, coefficients.shape[:2])
        return coefficients @ self.x

    def _without_underflow(self, block: Scaled, log_p: Tensor) -> Scaled:
        """One scale per entry; entries fed only by samples too far below their row's largest are summed in the log domain."""
        per_entry = rescaled(block.mantissa, block.log_scale.expand_as(block.mantissa))
        assert self.support is not None
        lost = (block.mantissa.abs() < UNDERFLOW) & self.support.expand_as(block.mantissa)
        if not bool(lost.any()):
            return per_entry
        runs, rows, columns = lost.nonzero(as_tuple=True)
        data_run = torch.zeros_like(runs) if self.shared else runs
        x = self.x[data_run, :, columns]
        logs = log_p[runs, rows] + x.abs().log()
        signs = self.sign[data_run, rows] * x.sign()
        top = logs.amax(dim=-1, keepdim=True)
        unit = torch.where(torch.isfinite(top), top, torch.zeros_like(top))
        sums = (signs * (logs - unit).exp()).sum(dim=-1)
        mantissa, log_scale = per_entry.mantissa.clone(), per_entry.log_scale.clone()
        mantissa[runs, rows, columns] = sums
        log_scale[runs, rows, columns] = top.squeeze(-1) - self.log_n
        return rescaled(mantissa, log_scale)
