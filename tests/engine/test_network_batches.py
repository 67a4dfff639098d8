"""Networks in a batch are the networks alone, to round-off; levels of the loss and early stops."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from implicit_bias.engine import simulate
from implicit_bias.optimizers import OPTIMIZERS
from tests.support.networks import (
    BATCH,
    SIX,
    alone,
    assert_same_columns,
    problem,
    six,
)

ALL = sorted(set(OPTIMIZERS) - {"coordinate_descent"})


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_one_step_of_a_batch_is_the_step_alone(optimizer: str) -> None:
    data, lr = six()
    batch = problem(BATCH, data, optimizer, 1, lr, kkt_products=0, logged=())
    together = simulate(batch).parameters[1]
    for r in (0, SIX - 1):
        single = simulate(alone(batch, r)).parameters[1]
        for name, block in single.items():
            torch.testing.assert_close(together[name][r], block[0], rtol=1e-11, atol=1e-11 * block.abs().max().item())


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["signgd", "nmgd", "adam", "muon_signum"])
def test_a_hundred_steps_of_a_batch_are_the_steps_alone(optimizer: str) -> None:
    """All columns, with loss levels and runs that stop early."""
    data, lr = six()
    test, _ = six()
    stop = -0.7 if optimizer in ("ngd", "nmgd") else -3.0
    batch = problem(
        BATCH, data, optimizer, 100, lr, levels=2, stop_log_loss=stop, points=10, test=replace(test, x=test.x + 0.5)
    )  # fmt: skip
    together = simulate(batch)
    assert {"later_cosine", "test_accuracy"} <= set(together.common)
    ends = set()
    for r in (0, 5):
        single = simulate(alone(batch, r))
        assert_same_columns(together, single, r, 1e-9)
        ends.add(single.steps[-1])
        assert (single.common["log_loss"][:-1] >= stop).all()
        for j in range(3):  # the first step below every half decade is recorded
            below = single.common["log_loss"][:, 0] <= -j / 2 * math.log(10)
            assert below.any() == (single.common["log_loss"].min() <= -j / 2 * math.log(10))
    assert len(ends) > 1


@pytest.mark.slow
def test_muon_of_a_batch_is_muon_alone_within_its_round_off() -> None:
    data, lr = six()
    batch = problem(BATCH, data, "muon", 150, lr, kkt_products=0)
    together = simulate(batch)
    for r in (0, 5):
        single = simulate(alone(batch, r))
        assert_same_columns(together, single, r, 1e-9, until=100)
        a, b = together.by_norm["spectral"]["margin"][-1, r], single.by_norm["spectral"]["margin"][-1, 0]
        assert a == pytest.approx(b, rel=2e-3)


@pytest.mark.slow
def test_levels_are_recorded_when_first_reached() -> None:
    """Against the records of every step."""
    data, lr = six()
    batch = problem(BATCH, data, "ngd", 200, lr, kkt_products=0, logged=())
    every = simulate(replace(batch, points=2000))
    assert every.steps == list(range(201))
    leveled = simulate(replace(batch, points=2, levels=4, stop_log_loss=-4.0))
    for r in range(SIX):
        log_loss = every.common["log_loss"][:, r]
        end = int(np.argmax(log_loss < -4.0)) if (log_loss < -4.0).any() else 200
        wanted = {0, 1, 10, 100, 200, end}
        for j in range(int(-log_loss.min() / math.log(10) * 4) + 1):
            wanted.add(int(np.argmax(log_loss <= -j * math.log(10) / 4)))
        found = [s for s, recorded in zip(leveled.steps, leveled.recorded[:, r], strict=True) if recorded]
        assert found == sorted(s for s in wanted if s <= end)
