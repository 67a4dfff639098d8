"""The game between a separator and weights on pairs, whose value is the maximum margin.

For data x (n, d) with labels y in [k] and a norm N on (k, d) matrices,

    gamma* = max_{N(W) <= 1} min_{q in simplex} sum_ic q_ic m_ic(W),    m_ic(W) = <W, (e_{y_i} - e_c) x_i^T>,  c != y_i.

With A W = (m_ic) and A^T q = sum_ic q_ic (e_{y_i} - e_c) x_i^T, every W gives the lower bound min_ic m_ic(W) / N(W), every q
the upper bound N_*(A^T q).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from implicit_bias.norms import Norm

POWER_ITERATIONS = 80


@dataclass(frozen=True)
class Game:
    """The pairs of R datasets of one shape: the map A from W to gaps, its transpose, and both bounds.

    Gaps and weights are laid out class by sample, (R, k, n): with few classes, products with the data then take half the time.
    """

    x: Tensor  # (R, n, d)
    transposed: Tensor  # (R, d, n), contiguous
    y: Tensor  # (R, n)
    onehot: Tensor  # (R, k, n)

    @staticmethod
    def of(x: Tensor, y: Tensor, num_classes: int) -> Game:
        return Game(x, x.mT.contiguous(), y, one_hot(y, num_classes).to(x.dtype).mT.contiguous())

    def gaps(self, w: Tensor) -> Tensor:
        """A W: m_ic = <W, (e_{y_i} - e_c) x_i^T>, shape (R, k, d) to (R, k, n); 0 at the label.

        Args:
            w: W (R, k, d).

        Returns:
            The gaps (R, k, n).
        """
        logits = w @ self.transposed
        return logits.gather(1, self.y.unsqueeze(1)) - logits

    def combine(self, weights: Tensor) -> Tensor:
        """A^T w = sum_ic w_ic (e_{y_i} - e_c) x_i^T, shape (R, k, n) to (R, k, d). Entries at the label do not matter.

        Args:
            weights: w (R, k, n).

        Returns:
            The combination (R, k, d).
        """
        return torch.addcmul(-weights, self.onehot, weights.sum(dim=1, keepdim=True)) @ self.x

    def lower(self, w: Tensor, norm: Norm) -> Tensor:
        """The normalised margin min_ic m_ic(W) / N(W), shape (R,); 0 where W is 0.

        Args:
            w: W (R, k, d).
            norm: N.

        Returns:
            The lower bound on gamma*, (R,).
        """
        margin = self.gaps(w).masked_fill(self.onehot > 0, torch.inf).amin(dim=(1, 2))
        size = norm.value(w)
        return torch.where(size > 0, margin / positive(size), torch.zeros_like(size))

    def upper(self, weights: Tensor, norm: Norm) -> Tensor:
        """The dual value N_*(A^T w), shape (R,): no separator of norm 1 has a larger margin, where w is in the simplex.

        Args:
            weights: w (R, k, n), >= 0, summing to one.
            norm: N.

        Returns:
            The upper bound on gamma*, (R,).
        """
        return norm.dual(self.combine(weights))

    def pair_size(self, norm: Norm) -> Tensor:
        """N_* of one pair of the longest sample, shape (R,): the order of magnitude that margins of this data can have.

        Args:
            norm: N.

        Returns:
            The dual norm of the pair, (R,).
        """
        longest = torch.linalg.vector_norm(self.x, dim=2).argmax(dim=1)
        runs = torch.arange(len(self.x), device=self.x.device)
        label = self.onehot[runs, :, longest]
        return norm.dual((label - label.roll(1, dims=1)).unsqueeze(-1) * self.x[runs, longest].unsqueeze(1))

    def uniform(self) -> Tensor:
        """Equal weights on all pairs, shape (R, k, n)."""
        pairs = 1 - self.onehot
        return pairs / pairs.sum(dim=(1, 2), keepdim=True)

    def operator_norm(self) -> Tensor:
        """||A||, shape (R,), by the power method from a fixed random start."""
        generator = torch.Generator().manual_seed(0)
        shape = (1, self.onehot.shape[1], self.x.shape[-1])
        w = torch.randn(shape, generator=generator, dtype=torch.float64).to(self.x).expand(len(self.x), -1, -1)
        size = torch.ones_like(self.x[:, 0, 0])
        for _ in range(POWER_ITERATIONS):
            w = self.combine(self.gaps(w))
            size = frobenius(w)
            w = w / size.clamp(min=torch.finfo(w.dtype).tiny)[:, None, None]
        return size.sqrt()

    def at(self, index: Tensor) -> Game:
        return Game(*(getattr(self, f.name)[index] for f in fields(self)))

    def divided(self, scale: Tensor) -> Game:
        """The same pairs, the data of each run divided by ``scale`` (R,).

        Args:
            scale: What to divide by, (R,), > 0.

        Returns:
            The game on the scaled data.
        """
        by = scale[:, None, None]
        return replace(self, x=self.x / by, transposed=self.transposed / by)


def frobenius(w: Tensor) -> Tensor:
    """||w||_2 of every run, shape (R, p, q) to (R,).

    Args:
        w: (R, p, q).

    Returns:
        The norms, (R,).
    """
    size: Tensor = torch.linalg.vector_norm(w, dim=(1, 2))
    return size


def positive(x: Tensor) -> Tensor:
    """x with its zeros replaced by ones, for use as a divisor.

    Args:
        x: Any shape, >= 0.

    Returns:
        The same shape, > 0.
    """
    return torch.where(x > 0, x, torch.ones_like(x))


def relative_gap(lower: Tensor, upper: Tensor) -> Tensor:
    """(upper - lower) / upper, shape (R,).

    Args:
        lower: Lower bounds (R,).
        upper: Upper bounds (R,).

    Returns:
        The gaps, without a unit.
    """
    return (upper - lower) / positive(upper)
