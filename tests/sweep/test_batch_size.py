"""What a record of a network holds for its Jacobian products, and what a batch is measured by."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from implicit_bias.engine import Problem, recorder, simulate
from implicit_bias.models import Data
from implicit_bias.runtime.memory import peak_bytes
from implicit_bias.sweep import batch_size
from tests.support.networks import cnn
from tests.support.networks import problem as of_model


def of_images(runs: int = 4) -> Problem:
    """Of a network whose outputs between layers are more than its parameters and scores."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(runs, 40, 196, dtype=torch.float64, generator=generator)
    data = Data(x, torch.randint(2, (runs, 40), generator=generator), 2)
    lr = torch.full((runs,), 0.1, dtype=torch.float64)
    return of_model(cnn(channels=[8, 16], kernel=3, init_scale=1.0), data, "gd", 2, lr, kkt_products=6)


def test_no_less_is_measured_than_a_search_for_a_ratio_holds() -> None:
    problem = of_images()
    objective: Any = problem.model.objective(problem.data, problem.loss, problem.frozen)

    def search() -> None:
        weights, at = objective.even_weights(problem.runs), objective.derivatives(problem.initial)
        at.pull(at.push(at.pull_once(weights)))

    with torch.no_grad():
        assert peak_bytes(lambda: batch_size._jacobian_products(problem)) >= peak_bytes(search)


def test_the_last_record_of_a_network_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(recorder.Recorder, "_tighten", lambda self, _: kept.append(self._last))
    simulate(replace(of_images(2), points=2))
    assert kept == [None]
