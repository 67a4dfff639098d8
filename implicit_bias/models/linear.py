"""The linear multiclass model f(x; W) = W x, with closed-form gradients. W is one block, or several of columns.

Entry (c, j) of a gradient is a sum over the samples, sum_i P_ic x_ij. Where it is no larger than 8 eps (:data:`CANCELLED`) times
sum_i |P_ic x_ij|, it is exactly zero: that is all that double precision knows of it, and a sign, or a power of its size, would
otherwise be made of rounding errors. (A constant feature has such entries at W = 0 where the classes are of one size.) Momentum
and second moments that only such entries have fed are zero with them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cache, partial
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from implicit_bias.core.data import Data, Parameters
from implicit_bias.core.errors import BadInput
from implicit_bias.core.registry import hyper
from implicit_bias.core.scaled import Scaled, rescaled
from implicit_bias.losses import FLOOR, Loss, LossTerms
from implicit_bias.models.base import MODELS, Model, Objective
from implicit_bias.models.column_blocks import BlocksObjective
from implicit_bias.models.gradient import Gradient, Quick
from implicit_bias.models.perturbations import BALLS, EPS, NAMES, PERTURBATION, Perturbed, check_keys, perturbed, refused_beside
from implicit_bias.norms import Norm
from implicit_bias.norms.column_blocks import ColumnBlocks, block_names, cut_columns, joined_columns

WEIGHT = "weight"
# Coefficients are floored at e^-600 = 1e-261 (float32: 2e-35) of the largest: a row, or an entry, this much above the
# floor is exact.
SMALLEST_ROW = {torch.float64: 1e-200, torch.float32: 1e-25}
UNDERFLOW = {torch.float64: 1e-240, torch.float32: 1e-30}
# An entry of a gradient below so many eps of the sum of its contributions' absolute values is zero: the rounding of each
# contribution and of their sum, taken in pairs.
CANCELLED = 8
# Entries of the data below this part of the largest are treated like zeros: their products may be lost beside the floor.
SMALLEST_ENTRY = {torch.float64: 1e-40, torch.float32: 1e-20}
# Numbers in an array of contributions that are summed anew at a time.
CHUNK = 2**22


@MODELS.register
@dataclass(frozen=True)
class Linear(Model):
    """Linear multiclass model f(x) = W x, W of shape (classes, dim), no bias; degree 1.

    With ``blocks`` W = [W_1 | W_2 | ...] is cut into blocks of so many columns, weight1, weight2, ..., the parameter set that
    norms and optimizers see. Matrix norms are then the maximum over blocks, as in networks, and hybrid norms take the first
    block as their matrix, all others as their rest.

    With ``perturbation`` l_p training is robust: gaps are those of the worst perturbation delta, |delta|_p <= eps, of each pair
    (i, c), m_ic - eps |w_y - w_c|_p*, and margins, optima and certificates are of these gaps (Tsilivis, Frank, Srebro and Kempe,
    arXiv 2406.04981, for two classes). For two classes the loss is exactly the worst one of each sample; for more it is an upper
    bound, in which every pair has its own delta, while the maximum margin is exact: the smallest gap over all delta and c is
    the same in any order.
    """

    name: ClassVar[str] = "linear"
    linear: ClassVar[bool] = True

    init: str = hyper("zero", help="initial W: zero, or Gaussian entries from the run's seed", choices=("zero", "gaussian"))
    init_scale: float = hyper(0.01, help="standard deviation of a Gaussian initial W", gt=0)
    blocks: list[int] | None = hyper(
        None, help="columns of each block of W, such as [12,13], which add up to the features; null for one block"
    )

    perturbation: str | None = hyper(None, help=PERTURBATION, choices=NAMES)
    eps: float = hyper(0.0, help=EPS, ge=0)

    def __post_init__(self) -> None:
        check_keys(self.perturbation, self.eps)
        if self.blocks is not None and self.perturbation is not None:
            raise BadInput(
                f"model.blocks={self._sizes_in_words}: must be null with model.perturbation={self.perturbation},"
                " whose optima are of one block"
            )
        if self.blocks is not None and (not self.blocks or min(self.blocks) < 1):
            raise BadInput(f"model.blocks={self._sizes_in_words}: must be null or a list [a,b,...] of integers >= 1")

    @property
    def _sizes_in_words(self) -> str:
        return f"[{','.join(map(str, self.blocks or ()))}]"

    def incompatible(self, other: object) -> str | None:
        return refused_beside(self.perturbation, other) or super().incompatible(other)

    @property
    def perturbed(self) -> Perturbed | None:
        return perturbed(self.perturbation, self.eps)

    @property
    def robust(self) -> bool:
        return self.perturbation is not None

    @property
    def single_layer_of_units(self) -> bool:
        return self.blocks is None

    def degree(self) -> int:
        return 1

    def check(self, x: NDArray[np.float64], num_classes: int) -> None:
        if self.blocks is not None and sum(self.blocks) != x.shape[1]:
            raise BadInput(
                f"model.blocks={self._sizes_in_words}: columns of {sum(self.blocks)} features;"
                f" must add up to the {x.shape[1]} of the data"
            )

    def initial(self, data: Data, seeds: Sequence[int]) -> Parameters:
        shape = (data.num_classes, data.x.shape[-1])
        if self.init == "zero":
            return self.in_blocks(data.x.new_zeros((len(seeds), *shape)), self.block_names)
        draws = [np.random.RandomState(seed).randn(*shape) for seed in seeds]
        scale = torch.as_tensor(self.init_scale, dtype=data.x.dtype, device=data.x.device)
        drawn = torch.as_tensor(np.stack(draws), dtype=data.x.dtype, device=data.x.device)
        return self.in_blocks(scale * drawn, self.block_names)

    def objective(self, data: Data, loss: Loss, frozen: Mapping[str, Tensor] | None = None) -> Objective:
        if self.perturbation is not None:
            return robust_objective(data, loss, self.perturbation, self.eps)
        whole = LinearObjective(data, loss)
        return whole if self.blocks is None else BlocksObjective(whole, WEIGHT, self.blocks)

    def row_bases(self, data: Data) -> dict[str, Tensor]:
        return dict.fromkeys(self.block_names, zero_sum_basis(data.num_classes).to(data.x))

    @property
    def block_names(self) -> list[str]:
        """The blocks, in the order of the columns."""
        return [WEIGHT] if self.blocks is None else block_names(self.blocks)

    def hidden_matrices(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if name == self.block_names[0]]

    def in_blocks(self, w: Tensor, names: Sequence[str]) -> Parameters:
        if self.blocks is None:
            return super().in_blocks(w, names)
        return {name: block.contiguous() for name, block in cut_columns(w, self.blocks).items()}

    def as_matrix(self, parameters: Mapping[str, Tensor]) -> Tensor:
        return parameters[WEIGHT] if self.blocks is None else joined_columns(parameters)

    def matrix_norm(self, norm: Norm, shape: tuple[int, int]) -> Norm:
        if self.blocks is None or norm.entrywise:
            return super().matrix_norm(norm, shape)
        return ColumnBlocks.of_rows(norm, self.blocks, shape[0])

    def unit_step(self, data: Data, norm: Norm, initial: Parameters | None = None) -> Tensor:
        # grad m_ic = (e_y - e_c) x_i^T; every norm here is blind to zero rows and to row order, so the rows x_i and -x_i
        # are enough.
        pairs = torch.stack([data.x, -data.x], dim=-2)
        of_shape = self.matrix_norm(norm, (data.num_classes, data.x.shape[-1]))
        unit = of_shape.dual(pairs).amax(dim=-1)
        if self.perturbation is None:
            return unit
        s = BALLS[self.perturbation].corners(data.x.shape[-1]).to(data.x)
        reach = of_shape.dual(torch.stack([s, -s], dim=-2)).amax()
        return unit + torch.as_tensor(self.eps, dtype=unit.dtype, device=unit.device).flatten() * reach


def robust_objective(data: Data, loss: Loss, perturbation: str, eps: float) -> Objective:
    """:class:`implicit_bias.models.robust.RobustObjective`, which builds on this module.

    Args:
        data: The training sets.
        loss: Of the worst gaps.
        perturbation: Of the ball.
        eps: Its radius.
    """
    from implicit_bias.models.robust import RobustObjective

    return RobustObjective(data, loss, perturbation, eps)


@cache
def zero_sum_basis(k: int) -> Tensor:
    """Orthonormal basis (k, k-1) of the vectors that sum to zero (Helmert), where the columns of every multiclass
    gradient lie. One tensor whoever asks, not to be changed: norms that are given it share decompositions.

    Args:
        k: Classes.

    Returns:
        The basis, float64.
    """
    rows = torch.tril(torch.ones(k - 1, k, dtype=torch.float64))
    index = torch.arange(1, k, dtype=torch.float64)
    rows[torch.arange(k - 1), torch.arange(1, k)] = -index
    return (rows / (index * (index + 1)).sqrt()[:, None]).mT.contiguous()


def is_uneven(x: Tensor) -> Tensor:
    """Which data sets, of (R, n, d), have entries that are zero or next to nothing beside the largest: shape (R,).

    Their gradients have one scale an entry (:meth:`LinearObjective.gradient`).

    Args:
        x: Data (R, n, d).

    Returns:
        The truth values, (R,).
    """
    size = x.abs().flatten(start_dim=1)
    return size.amin(dim=1) < SMALLEST_ENTRY[x.dtype] * size.amax(dim=1)


class LinearObjective(Objective):
    """Gaps and gradients of W x for a batch of runs, layout (runs, classes, samples)."""

    def __init__(self, data: Data, loss: Loss) -> None:
        self.loss = loss
        self._take(data, uneven=bool(is_uneven(data.x).any()))

    def _take(self, data: Data, uneven: bool) -> None:
        """All that depends on the samples. Where data are uneven, so is every batch of them: gradients keep one layout."""
        self.data = data
        self.label = data.is_label()
        self.sign = torch.ones_like(self.label, dtype=data.x.dtype).masked_fill(self.label, -1.0)
        self.buffer: Tensor | None = None
        self.at_label = data.y.flatten()
        self.floor = FLOOR[data.x.dtype]
        self.underflow = UNDERFLOW[data.x.dtype]
        largest = data.x.abs().amax(dim=1)
        #: (R or 1, 1): a class row whose largest entry is below this gets a scale of its own.
        self.smallest_row = SMALLEST_ROW[data.x.dtype] * largest.amax(dim=-1, keepdim=True)
        eps = torch.finfo(data.x.dtype).eps
        self.cancelled = CANCELLED * eps
        self.unsure = (CANCELLED + data.x.shape[1]) * eps
        #: (R or 1, 1, d): times the sum of a row's coefficients, what the entries of each column are looked at closer below.
        self.doubtful = self.unsure * largest.unsqueeze(-2)
        self.index = data.y.unsqueeze(-2)
        self.x = data.x
        self.x_t = data.x.mT.contiguous()
        self.log_n = math.log(data.x.shape[1])
        self.uneven = uneven
        # Features that are zero throughout have zero gradients; the others must not lose theirs to underflow.
        self.support = ~(self.x == 0).all(dim=1, keepdim=True) if self.uneven else None

    def negative_gaps(self, parameters: Mapping[str, Tensor]) -> Tensor:
        return self._negative_gaps(parameters[WEIGHT])

    def gradient(self, parameters: Mapping[str, Tensor], batch: Tensor | None = None) -> Gradient:
        if batch is not None:
            return self._on(batch).gradient(parameters)
        return self.finished(parameters, self.quick(parameters))

    def _on(self, batch: Tensor) -> LinearObjective:
        """The same objective of these samples."""
        part = copy(self)
        part._take(self.data.batch(batch), self.uneven)  # noqa: SLF001 - a copy of this very object
        return part

    def quick(self, parameters: Mapping[str, Tensor]) -> Quick:
        """One scale a run, no further exponentials of size (k, n); not exact when some class row is too small for it, or an entry
        so small that it may be zero.

        Args:
            parameters: W, (R, k, d).

        Returns:
            The gradient, if it is exact.
        """
        w = parameters[WEIGHT]
        terms, coefficients = self._fused_coefficients(w) if torch.compiler.is_compiling() else self._coefficients(w)
        mantissa = self._times_x(coefficients)
        # No row's coefficients sum to more than the total, so this is the least of all bounds on an entry.
        exact = ~(mantissa.abs() < terms.total.sum(dim=-1)[:, None, None] * self.doubtful).any()
        return Quick({WEIGHT: Scaled(mantissa, (terms.log_unit - self.log_n).unsqueeze(-1))}, terms, coefficients, exact)

    def finished(self, parameters: Mapping[str, Tensor], quick: Quick) -> Gradient:
        terms, w = quick.terms, parameters[WEIGHT]
        block = quick.blocks[WEIGHT] if bool(quick.exact) else self._closer(w, quick)
        if self.uneven:
            block = self._without_underflow(block, w, terms)
        log_losses, largest = partial(self.loss.log_losses, terms), partial(self.loss.largest, terms)
        return Gradient({WEIGHT: block}, terms.total, terms.log_unit, log_losses, largest=largest)

    def _closer(self, w: Tensor, quick: Quick) -> Scaled:
        """The gradient with a scale of their own for the rows of runs where one is too small, and zeros where all cancels."""
        block, coefficients = quick.blocks[WEIGHT], quick.coefficients
        deep = (block.mantissa.abs().amax(dim=-1) < self.smallest_row).any(dim=-1)[:, None, None]
        if bool(deep.any()):
            # Run by run: a run's bits must not depend on the other runs of its batch.
            rows, of_rows = self._deep(w, quick.terms)
            mantissa = torch.where(deep, rows.mantissa, block.mantissa)
            block = Scaled(mantissa, torch.where(deep, rows.log_scale, block.log_scale))
            coefficients = torch.where(deep, of_rows, coefficients)
        return Scaled(self._with_zeros(block.mantissa, coefficients), block.log_scale)

    def _with_zeros(self, mantissa: Tensor, coefficients: Tensor) -> Tensor:
        """The sums over samples, exactly zero where no more than CANCELLED eps of the contributions' absolute values is left."""
        sizes = coefficients.abs()
        if not bool((mantissa.abs() < sizes.sum(dim=-1, keepdim=True) * self.doubtful).any()):
            return mantissa
        contributions = torch.bmm(sizes, self.x.abs().expand(sizes.shape[0], -1, -1))
        unsure = (mantissa.abs() < self.unsure * contributions) & (mantissa != 0)
        runs, rows, columns = unsure.nonzero(as_tuple=True)
        cleared = mantissa.clone()
        for part in torch.arange(len(runs), device=mantissa.device).split(max(1, CHUNK // self.x.shape[1])):
            r, c, j = runs[part], rows[part], columns[part]
            # Summed anew, in pairs: the product's own order of summation may be off by n eps.
            left = (coefficients[r, c] * self.x[r % self.x.shape[0], :, j]).sum(dim=-1).abs()
            cleared[r, c, j] = mantissa[r, c, j].masked_fill(left <= self.cancelled * contributions[r, c, j], 0.0)
        return cleared

    def _coefficients(self, w: Tensor) -> tuple[LossTerms, Tensor]:
        """P_ic in units of the run's scale: gradient row c is sum_i P_ic x_i, P_ic = w_ic off the label and -sum_c w_ic at it."""
        if self.buffer is None or self.buffer.shape[0] != w.shape[0]:
            self._prepare(w)
        assert self.buffer is not None
        z = torch.bmm(w, self.x_t.expand(w.shape[0], -1, -1), out=self.buffer)
        entries = z.view(-1)
        own = entries.index_select(0, self.at_label).view(w.shape[0], -1)
        entries.index_fill_(0, self.at_label, -math.inf)
        terms = self.loss.terms(z, own)
        coefficients = terms.shape.mul_(terms.share.unsqueeze(-2))
        coefficients.view(-1).index_copy_(0, self.at_label, terms.total.neg().view(-1))
        return terms, coefficients

    def _fused_coefficients(self, w: Tensor) -> tuple[LossTerms, Tensor]:
        """The same without scattered writes, so that a compiler makes one kernel of everything between the two products."""
        z = torch.bmm(w, self.x_t.expand(w.shape[0], -1, -1))
        own = z.gather(-2, self.index.expand(z.shape[0], 1, -1)).squeeze(-2)
        terms = self.loss.terms(torch.where(self.label, -math.inf, z), own)
        return terms, torch.where(self.label, -terms.total.unsqueeze(-2), terms.shape * terms.share.unsqueeze(-2))

    def _prepare(self, w: Tensor) -> None:
        """Memory for the scores of so many runs, and where in it those of the labels are."""
        runs, k, n = w.shape[0], w.shape[1], self.x.shape[1]
        self.buffer = w.new_empty(runs, k, n)
        run, sample = (torch.arange(count, device=w.device) for count in (runs, n))
        self.at_label = (run[:, None] * (k * n) + self.data.y.expand(runs, -1) * n + sample).flatten()

    def weights(self, parameters: Mapping[str, Tensor]) -> Tensor:
        log_weights = self.loss.log_weights(self.negative_gaps(parameters)).mT
        return log_weights.flatten(start_dim=1).softmax(dim=-1).reshape(log_weights.shape)

    def scores(self, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return parameters[WEIGHT] @ x.mT

    def pull(self, parameters: Mapping[str, Tensor], weights: Tensor) -> Parameters:
        own = weights.masked_fill(self.label, 0.0)
        coefficients = torch.where(self.label, own.sum(dim=-2, keepdim=True), -own)
        return {WEIGHT: self._times_x(coefficients)}

    def push(self, parameters: Mapping[str, Tensor], tangent: Mapping[str, Tensor]) -> Tensor:
        return -self.negative_gaps(tangent).masked_fill(self.label, 0.0)

    def _negative_gaps(self, w: Tensor) -> Tensor:
        """W x - (W x)_y with -inf at the label."""
        # One batched product for shared data too (a single large one is faster, but rounds differently): a run gives the
        # same bits alone and in any batch.
        z = torch.bmm(w, self.x_t.expand(w.shape[0], -1, -1))
        index = self.index.expand(z.shape[0], 1, -1)
        return z.sub_(z.gather(-2, index)).scatter_(-2, index, -math.inf)

    def _deep(self, w: Tensor, terms: LossTerms) -> tuple[Scaled, Tensor]:
        """One scale a class row, for rows may be e^-100000 apart; and the coefficients of the samples in units of it."""
        log_p = self._log_p(w, terms)
        row_scale = log_p.amax(dim=-1, keepdim=True)
        coefficients = (log_p - row_scale).clamp_(min=self.floor).exp_().mul_(self.sign)
        return Scaled(self._times_x(coefficients), row_scale - self.log_n), coefficients

    def _log_p(self, w: Tensor, terms: LossTerms) -> Tensor:
        return torch.where(self.label, self.loss.log_totals(terms).unsqueeze(-2), self.loss.log_weights(self._negative_gaps(w)))

    def _times_x(self, coefficients: Tensor) -> Tensor:
        # The same memory as in the product with W, seen as (n, d): half the data to keep in the cache, and the faster kernel.
        return torch.bmm(coefficients, self.x_t.expand(coefficients.shape[0], -1, -1).mT)

    def _without_underflow(self, block: Scaled, w: Tensor, terms: LossTerms) -> Scaled:
        """One scale per entry; entries fed only by samples too far below their row's largest are summed in the log domain."""
        per_entry = rescaled(block.mantissa, block.log_scale.expand_as(block.mantissa))
        assert self.support is not None
        lost = (block.mantissa.abs() < self.underflow) & self.support.expand_as(block.mantissa)
        if not bool(lost.any()):
            return per_entry
        runs, rows, columns = lost.nonzero(as_tuple=True)
        data_run = runs % self.x.shape[0]  # 0 throughout where the data are shared
        x = self.x[data_run, :, columns]
        logs = self._log_p(w, terms)[runs, rows] + x.abs().log()
        signs = self.sign[data_run, rows] * x.sign()
        top = logs.amax(dim=-1, keepdim=True)
        unit = torch.where(torch.isfinite(top), top, torch.zeros_like(top))
        contributions = (logs - unit).exp()
        sums = (signs * contributions).sum(dim=-1)
        sums = sums.masked_fill(sums.abs() <= self.cancelled * contributions.sum(dim=-1), 0.0)
        mantissa, log_scale = per_entry.mantissa.clone(), per_entry.log_scale.clone()
        mantissa[runs, rows, columns] = sums
        log_scale[runs, rows, columns] = top.squeeze(-1) - self.log_n
        return rescaled(mantissa, log_scale)
