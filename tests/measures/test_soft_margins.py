"""Soft margins: the gap that a loss inverts to, below the margin by at most log n."""

import math

import mpmath
import numpy as np
import pytest
import torch

from implicit_bias.engine import simulate
from implicit_bias.losses import LOSSES
from tests.support.networks import (
    BATCH,
    F64,
    problem,
    six,
)


@pytest.mark.parametrize("name", ["cross_entropy", "pair_logistic"])
def test_soft_gap_inverts_the_logistic_loss(name: str) -> None:
    with mpmath.workdps(1200):
        gaps = [-5.0, -1.0, -1e-6, 0.0, 0.3, 5.0, 20.0, 36.9, 37.1, 100.0, 744.0, 2000.0]
        logs = torch.tensor([float(mpmath.log(mpmath.log1p(mpmath.exp(-mpmath.mpf(m))))) for m in gaps], dtype=F64)
    soft = LOSSES.get(name)().soft_gap(logs)
    np.testing.assert_allclose(soft.numpy(), gaps, rtol=1e-14, atol=2e-14)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["exponential", "cross_entropy", "pair_logistic"])
def test_the_soft_margin_is_below_the_margin_by_at_most_log_n(loss: str) -> None:
    """Binary: log n for the exponential loss (q - log n <= log 1/L), and for the logistic as well, phi^-1 being 1-Lipschitz in
    the tail."""
    data, lr = six(2)
    trajectory = simulate(problem(BATCH, data, "ngd", 200, lr, loss=loss))
    n, degree = data.x.shape[1], BATCH.degree()
    for columns in trajectory.by_norm.values():
        margin, soft, power = columns["margin"], columns["soft_margin"], columns["param_norm"] ** degree
        assert (soft <= margin + 1e-12 * np.abs(margin)).all()
        if loss == "exponential":
            assert (soft >= margin - math.log(n) / power - 1e-12 * np.abs(margin)).all()
        total = np.exp(trajectory.common["log_loss"]) * n
        expected = -np.log(total) if loss == "exponential" else -np.log(np.expm1(total))
        np.testing.assert_allclose(soft * power, expected, rtol=1e-9, atol=1e-9)
