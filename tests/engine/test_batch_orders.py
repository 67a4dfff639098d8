"""Which samples updates are made from: the formulas, asked for in any order."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from implicit_bias.config.run_settings import BatchSettings
from implicit_bias.engine.mini_batches import MiniBatches, mini_batches
from tests.engine.test_mini_batches import ORDERS, rows_of


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("n", "b"), [(20, 1), (20, 20), (23, 5), (7, 4)])
def test_batches_are_those_of_the_formula(order: Any, n: int, b: int) -> None:
    seeds = [3, 2**32 - 1, 3]
    batches = MiniBatches(b, order, torch.tensor(seeds), n)
    wanted = np.array([[rows_of(order, n, b, seed, t) for t in range(1, 61)] for seed in seeds])
    found = batches.table(0, 60).expand(3, -1, -1)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(batches.table(13, 31).expand(3, -1, -1), wanted[:, 13:31])
    for t in (1, 9, 60, 2):  # in no order: nothing is remembered
        np.testing.assert_array_equal(batches.of(t).expand(3, -1), wanted[:, t - 1])
    assert batches.cadence == math.ceil(n / b)


def test_runs_of_one_seed_share_a_row_and_full_batches_are_none() -> None:
    alike = torch.tensor([7, 7])
    assert (
        MiniBatches(2, "reshuffle", alike, 6).of(1).shape == MiniBatches(2, "cyclic", torch.tensor([1, 2]), 6).of(1).shape == (2,)
    )
    assert (
        mini_batches(None, "replace", alike, 6) is mini_batches(6, "cyclic", alike, 6) is mini_batches(6, "reshuffle", alike, 6)
    )
    assert mini_batches(6, "replace", alike, 6) == MiniBatches(6, "replace", alike, 6)
    for size in (0, 7):
        with pytest.raises(ValueError, match=f"batches of {size} of 6 samples; must be of 1 to 6"):
            mini_batches(size, "reshuffle", alike, 6)
    assert BatchSettings.__dataclass_fields__["order"].metadata["hyper"].choices == ORDERS
