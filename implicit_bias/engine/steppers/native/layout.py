"""Where linear.c has the numbers of runs: groups of LANES runs, a lane each."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from implicit_bias.models import Data

#: Weights in the certificates' average, one a step.
Shares = NDArray[np.float64]


class Layout(NamedTuple):
    """R runs in groups.

    Attributes:
        runs: R.
        lanes: Runs of a group; those of the last that are left over repeat the last run.
    """

    runs: int
    lanes: int

    @property
    def groups(self) -> int:
        """How many there are."""
        return -(-self.runs // self.lanes)

    def in_lanes(self, tensor: Tensor) -> Tensor:
        """(runs, rows, columns) to (groups, rows, columns, LANES), of all runs or of the first ones alone."""
        spare = -len(tensor) % self.lanes
        padded = torch.cat([tensor, tensor[-1:].expand(spare, *tensor.shape[1:])]) if spare else tensor
        grouped = padded.reshape(len(padded) // self.lanes, self.lanes, *tensor.shape[1:])
        return grouped.permute(0, 2, 3, 1).contiguous()

    def by_run(self, tensor: Tensor) -> Tensor:
        """And back."""
        # Laid out run by run: a sum over a run's entries rounds by how they lie in memory.
        runs = tensor.permute(0, 3, 1, 2).reshape(-1, *tensor.shape[1:3])[: self.runs]
        return runs.clone(memory_format=torch.contiguous_format)

    def per_run(self, number: Any) -> Tensor:
        """A number, or one a run, as (groups, LANES)."""
        if not isinstance(number, Tensor):
            return torch.full((self.groups, self.lanes), number, dtype=torch.float64)
        tensor = numbers(number).view(-1, 1, 1).expand(self.runs, 1, 1)
        return self.in_lanes(tensor)[:, 0, 0].contiguous()

    def in_vectors(self, tensor: Tensor) -> Tensor:
        """Of runs that are stepped alone: rows filled up to whole vectors, by their last entry."""
        length = tensor.shape[-1]
        places = torch.arange(-(-length // self.lanes) * self.lanes).clamp(max=length - 1)
        return tensor[..., places].contiguous()

    def data(self, data: Data, alone: int) -> tuple[Tensor, Tensor]:
        """Samples (groups, n, d, LANES) and labels (groups, n, LANES) of all runs but the last ``alone``; one group where all
        share them."""
        runs = self.runs - alone
        x, y = data.x[:runs], data.y[:runs]
        if runs and len(x) == len(y) == 1:
            lanes = self.lanes
            return x.unsqueeze(-1).expand(-1, -1, -1, lanes).contiguous(), y.unsqueeze(-1).expand(-1, -1, lanes).contiguous()
        labels = self.in_lanes(y.expand(runs, -1).unsqueeze(-1))
        return self.in_lanes(x.expand(runs, -1, -1)), labels.squeeze(2).contiguous()

    def data_alone(self, data: Data, alone: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of the last ``alone`` runs: samples (runs, n, d), the same transposed, and labels (runs, n), in whole vectors; one run
        where all share them."""
        x, y = (part[-alone:] if alone else part[:0] for part in (data.x, data.y))
        return self.in_vectors(x), self.in_vectors(x.mT), self.in_vectors(y)


def numbers(number: Any) -> Tensor:
    """A hyper-parameter, one number or one a run, as a flat tensor of doubles: torch by itself makes a Python number single."""
    return torch.as_tensor(number, dtype=torch.float64).flatten()


def log(number: float) -> float:
    """The natural logarithm of a number that is not below zero; of zero, -inf."""
    return math.log(number) if number > 0 else -math.inf
