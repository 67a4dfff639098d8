"""How many directions the weights use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from implicit_bias.norms.singular import singular_values
from implicit_bias.probes.base import PROBES, Columns, Probe, Record


@PROBES.register
@dataclass
class Rank(Probe):
    """Two ranks of a weight matrix that move continuously, averaged over the parameter blocks of a network.

    stable_rank = |W|_F^2 / |W|_2^2 (Rudelson and Vershynin, arXiv math/0503442); effective_rank = exp(-sum_i p_i log p_i) with
    p_i = sigma_i / sum_j sigma_j (Roy and Vetterli, EUSIPCO 2007). Both are 1 at rank one and at most the rank; empty where W
    is zero.
    """

    name: ClassVar[str] = "rank"
    columns: ClassVar[tuple[str, ...]] = ("stable_rank", "effective_rank")

    def measure(self, record: Record) -> Columns:
        pairs = [_ranks(singular_values(block)) for block in record.parameters.values()]
        stable, effective = (torch.stack(found).mean(dim=0) for found in zip(*pairs, strict=True))
        return {"stable_rank": stable, "effective_rank": effective}


def _ranks(s: Tensor) -> tuple[Tensor, Tensor]:
    """Both ranks (R,) of singular values (R, r), the largest first; nan where all are zero."""
    stable = (s / s[:, :1]).square().sum(dim=-1)
    p = s / s.sum(dim=-1, keepdim=True)
    return stable, torch.special.entr(p).sum(dim=-1).exp()
