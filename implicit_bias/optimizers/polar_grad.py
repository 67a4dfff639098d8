"""PolarGrad: every matrix by its own nuclear norm."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from implicit_bias.optimizers.adaptive_rest import AdaptiveRest
from implicit_bias.optimizers.base import OPTIMIZERS


@OPTIMIZERS.register
@dataclass(frozen=True)
class PolarGrad(AdaptiveRest):
    """PolarGrad, polar factors times each matrix's nuclear norm, and Adam's ratio on the rest; no norm of its own.

    W_l -= eta_t s ||m_l||_nuclear polar(m_l), u -= eta_t m / (eps + sqrt(v)): unnormalised steepest descent in sqrt(sum_l
    ||W_l||_spectral^2 / s + sum_i (eps + sqrt(v_i)) u_i^2) (Lau et al., arXiv 2505.21799; Crawshaw et al., arXiv 2510.09827,
    section 3). It has no norm of its own, as the rest's changes with v (:mod:`implicit_bias.optimizers.adaptive_rest`).
    """

    name: ClassVar[str] = "polar_grad"

    def log_factors(self, log_duals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(log_duals)
