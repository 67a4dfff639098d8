"""Training data and parameters, the tensors that models, norms and solvers share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

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

    def batch(self, samples: Tensor) -> Data:
        """The training sets of the samples with these indices, in the order given.

        Args:
            samples: Integers in [0, n), of shape (b,), the same in every run, or (R, b).

        Returns:
            The samples; ``self`` where these are all, in their order.

        Raises:
            ValueError: other shapes, types or indices.
        """
        runs, n = self.x.shape[0], self.x.shape[1]
        fits = samples.dim() == 1 or (samples.dim() == 2 and (runs == 1 or samples.shape[0] == runs))
        if not fits or samples.numel() == 0 or samples.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"a batch of shape {tuple(samples.shape)} ({samples.dtype}); must be integers (b,) or ({runs}, b)")
        if bool(((samples < 0) | (samples >= n)).any()):
            raise ValueError(f"a batch has samples from {int(samples.min())} to {int(samples.max())}; must be in 0..{n - 1}")
        if samples.shape[-1] == n and bool((samples == torch.arange(n, device=samples.device)).all()):
            return self
        if samples.dim() == 1:
            return Data(self.x[:, samples], self.y[:, samples], self.num_classes)
        run = torch.arange(runs, device=samples.device)[:, None]
        return Data(self.x[run, samples], self.y[run, samples], self.num_classes)
