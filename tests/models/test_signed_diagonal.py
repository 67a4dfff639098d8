"""The diagonal network with two signs: its function, its start, its flow."""

import numpy as np
import pytest
import torch

from implicit_bias.core.errors import BadInput
from implicit_bias.models import MODELS, Data
from tests.support.datasets import load
from tests.support.networks import F64, objective


def test_it_starts_at_the_zero_function_and_is_homogeneous() -> None:
    source = load("linear_teacher", dim=7, samples=6)
    data = Data(torch.from_numpy(source.x)[None], torch.from_numpy(source.y)[None], 2)
    model = MODELS.get("signed_diagonal")(init_scale=3.0, depth=3)
    theta = model.initial(data, [0, 1])
    assert all(torch.equal(block, torch.full((2, 1, 7), 3.0, dtype=F64)) for block in theta.values())
    target = objective(model, data)
    assert not target.scores(theta, data.x).any()
    rng = torch.Generator().manual_seed(0)
    theta = {name: torch.randn(block.shape, generator=rng, dtype=F64) for name, block in theta.items()}
    w = theta["plus"] ** 3 - theta["minus"] ** 3
    torch.testing.assert_close(target.scores(theta, data.x), w @ data.x.mT)
    torch.testing.assert_close(target.scores({n: 2 * b for n, b in theta.items()}, data.x), 8 * target.scores(theta, data.x))
    assert model.degree() == 3
    with pytest.raises(BadInput, match=r"model.frozen=\['minus'\]: .* breaks homogeneity"):
        MODELS.get("signed_diagonal")(frozen=["minus"])


def test_a_majority_of_signs() -> None:
    data = load("linear_teacher", features="signs", dim=30, samples=50, teacher_active=3, test_samples=400, seed=4)
    assert data.x_test is not None and set(np.unique(data.x)) == {-1.0, 1.0}
    teacher = np.linalg.lstsq(data.x_test, 2.0 * (data.y_test == 1) - 1, rcond=None)[0]
    active = np.argsort(np.abs(teacher))[-3:]
    votes = np.sign(teacher[active])
    assert np.array_equal(data.y == 1, data.x[:, active] @ votes > 0)
