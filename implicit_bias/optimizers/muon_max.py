"""MuonMax: one factor for all matrices."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from implicit_bias.optimizers.adaptive_rest import AdaptiveRest
from implicit_bias.optimizers.base import OPTIMIZERS


@OPTIMIZERS.register
@dataclass(frozen=True)
class MuonMax(AdaptiveRest):
    """MuonMax, polar factors times the sum of all nuclear norms, and Adam's ratio on the rest; no norm of its own.

    W_l -= eta_t s N polar(m_l), N = sum_l ||m_l||_nuclear over all matrices, u -= eta_t m / (eps + sqrt(v)): unnormalised
    steepest descent in sqrt(max_l ||W_l||_spectral^2 / s + sum_i (eps + sqrt(v_i)) u_i^2) (Crawshaw et al., arXiv 2510.09827,
    section 3). It has no norm of its own, as the rest's changes with v (:mod:`implicit_bias.optimizers.adaptive_rest`).
    """

    name: ClassVar[str] = "muon_max"

    def log_factors(self, log_duals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not log_duals:
            return {}
        total = torch.stack(list(log_duals.values())).logsumexp(dim=0)
        return dict.fromkeys(log_duals, total)
