"""Sums over weights that no double spans: exact, and without a product for every band."""

from __future__ import annotations

import math
from dataclasses import dataclass

import mpmath
import pytest
import torch
from torch import Tensor

from implicit_bias.core.data import Parameters
from implicit_bias.core.scaled import Scaled
from implicit_bias.models import bands
from implicit_bias.models.bands import sum_in_bands

RUNS, PAIRS, SAMPLES, P, Q = 2, 3, 40, 4, 5


@dataclass
class Sums:
    """sum_ic w_ic J_ic with J given, (R, pairs, n, p, q); counts how often it is asked for."""

    jacobian: Tensor
    calls: int = 0

    def __call__(self, weights: Tensor) -> Parameters:
        self.calls += 1
        return {"w": torch.einsum("rcn,rcnpq->rpq", weights, self.jacobian)}

    def some(self, runs: Tensor, samples: Tensor, weights: Tensor) -> Parameters:
        jacobian = torch.stack([self.jacobian[r][:, own] for r, own in zip(runs, samples, strict=True)])
        return {"w": torch.einsum("rcn,rcnpq->rpq", weights, jacobian)}


def summed(log_weights: Tensor, log_unit: float, sums: Sums) -> Scaled:
    return sum_in_bands(log_weights, log_unit, sums, sums.some)["w"]


def problem(spread: float, fed: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Log weights that are ``spread`` apart, and Jacobians of which the share ``fed`` is not zero."""
    generator = torch.Generator().manual_seed(seed)
    log_weights = -spread * torch.rand(RUNS, PAIRS, SAMPLES, generator=generator, dtype=torch.float64)
    log_weights[:, 0, ::3] = -math.inf
    jacobian = torch.randn(RUNS, PAIRS, SAMPLES, P, Q, generator=generator, dtype=torch.float64)
    return log_weights, jacobian * (torch.rand(jacobian.shape, generator=generator) < fed)


def all_bands(log_weights: Tensor, jacobian: Tensor) -> dict[str, Scaled]:
    """The same with a product for every band."""
    given = bands._Bands.of(log_weights, -1.0)
    total: dict[str, Scaled] = {}
    for j in range(given.count):
        total = dict(bands._added(given, j, total, Sums(jacobian)))
    return total


@pytest.mark.parametrize("spread", [1.0, 800.0, 3e3, 1e5, 1e9])
@pytest.mark.parametrize("fed", [1.0, 0.3, 0.02])
def test_what_is_left_out_changes_no_bit(spread: float, fed: float) -> None:
    log_weights, jacobian = problem(spread, fed)
    sums = Sums(jacobian)
    ours, every = summed(log_weights, -1.0, sums), all_bands(log_weights, jacobian)["w"]
    assert torch.equal(ours.mantissa, every.mantissa)
    assert torch.equal(ours.log_scale, every.log_scale)
    if spread >= 1e5 and fed == 1.0:
        assert sums.calls == 1  # the heaviest sample's; there are 106 bands
    if spread >= 1e5 and fed == 0.02:
        assert sums.calls < 40  # those that are the first to feed one of 20 entries of two runs


def test_the_sums_are_those_of_exact_arithmetic() -> None:
    log_weights, jacobian = problem(1e5, 0.05, seed=1)
    ours = summed(log_weights, 0.0, Sums(jacobian))
    with mpmath.workdps(40):
        for r, p, q in ((r, p, q) for r in range(RUNS) for p in range(P) for q in range(Q)):
            exact = mpmath.fsum(
                mpmath.e ** mpmath.mpf(float(log_weights[r, c, i])) * mpmath.mpf(float(jacobian[r, c, i, p, q]))
                for c in range(PAIRS)
                for i in range(SAMPLES)
                if math.isfinite(log_weights[r, c, i])
            )
            assert math.copysign(1, ours.mantissa[r, p, q]) * (exact != 0) == mpmath.sign(exact)
            if exact != 0:
                assert float(ours.log_abs()[r, p, q]) == pytest.approx(float(mpmath.log(abs(exact))), rel=1e-14)


def test_a_run_whose_weights_are_no_numbers_harms_no_other() -> None:
    log_weights, jacobian = problem(1e4, 0.2)
    broken = torch.cat([log_weights, torch.full_like(log_weights[:1], math.nan)])
    both = summed(broken, 0.0, Sums(torch.cat([jacobian, jacobian[:1]])))
    assert torch.equal(both.log_abs()[:RUNS], summed(log_weights, 0.0, Sums(jacobian)).log_abs())
    assert not bool(summed(broken[RUNS:], 0.0, Sums(jacobian[:1])).mantissa.any())


def test_in_one_unit_no_plain_number_changes_and_far_bands_are_left_out() -> None:
    """Jacobians such that most entries are fed by light samples alone: the whole sum needs their bands, plain numbers do not."""
    log_weights, jacobian = problem(1e5, 0.02, seed=2)
    whole, near = Sums(jacobian), Sums(jacobian)
    every = sum_in_bands(log_weights, -1.0, whole, whole.some)["w"]
    ours = sum_in_bands(log_weights, -1.0, near, near.some, ["w"])["w"]
    assert torch.equal(ours.collapse(), every.collapse())
    assert ours.collapse().any()
    assert near.calls <= 4 < 20 < whole.calls
