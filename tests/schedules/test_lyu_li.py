"""Lyu and Li's schedule against a loop written out, in a batch, and deep below zero loss."""

from typing import Any

import numpy as np
import pytest
import torch

from implicit_bias.engine import simulate
from implicit_bias.models import MODELS, Data
from implicit_bias.schedules import SCHEDULES
from tests.support.networks import BATCH, SquaredReLU, alone, assert_same_columns, plain_loss, problem, six, torch_mlp


@pytest.mark.slow
@pytest.mark.parametrize("lr", [0.3, 300.0])
@pytest.mark.parametrize(("optimizer", "beta"), [("gd", 0.0), ("momentum_gd", 0.6)])
def test_lyu_li_equals_a_loop_written_out(optimizer: str, beta: float, lr: float) -> None:
    """Parameters of every step against autograd; parameters and momentum of a step that is taken back are those before it."""
    every, _ = six()
    # The last goes down to e^-500,000.
    data = Data(every.x[[0, 3, 5]], every.y[[0, 3, 5]], every.num_classes)
    schedule = SCHEDULES.get("lyu_li")(lr=lr, up=1.3, down=1.7)
    hyper = {"beta": beta} if optimizer == "momentum_gd" else {}
    ours = simulate(
        problem(
            BATCH, data, optimizer, 40, None, schedule=schedule, hyper=hyper, points=500, weights="all", kkt_products=0, logged=()
        )
    )
    assert ours.steps == list(range(41))
    assert (np.diff(ours.common["log_loss"], axis=0) <= 0).all()
    back = 0
    for r in (0, 1):
        module = torch_mlp(ours.parameters[0], r, SquaredReLU)
        parameters, alpha = list(module.parameters()), lr
        momentum = [torch.zeros_like(p) for p in parameters]
        for t in range(1, 41):
            loss = plain_loss("cross_entropy", module(data.x[r]), data.y[r])
            if loss < 1e-200:  # ours goes on; the plain loss soon is 0
                break
            gradients = torch.autograd.grad(loss, parameters)
            averages = [beta * m + (1 - beta) * g for m, g in zip(momentum, gradients, strict=True)]
            with torch.no_grad():
                before = [p.clone() for p in parameters]
                for p, m in zip(parameters, averages, strict=True):
                    p.sub_(alpha / loss * m)
                kept = bool(plain_loss("cross_entropy", module(data.x[r]), data.y[r]) < loss)
                assert ours.common["lr"][t, r] == pytest.approx(alpha, rel=1e-12)
                if kept:
                    momentum, alpha = averages, 1.3 * alpha
                else:
                    for p, old in zip(parameters, before, strict=True):
                        p.copy_(old)
                    alpha /= 1.7
                    back += 1
                    for name, block in ours.parameters[t].items():
                        assert torch.equal(block[r], ours.parameters[t - 1][name][r])
            for block, p in zip(ours.parameters[t].values(), parameters, strict=True):
                torch.testing.assert_close(block[r], p.detach(), rtol=1e-9, atol=1e-9)
    assert back > 5


@pytest.mark.slow
def test_lyu_li_in_a_batch_is_lyu_li_alone() -> None:
    data, lr = six()
    batch = problem(BATCH, data, "momentum_gd", 50, None, schedule=SCHEDULES.get("lyu_li")(lr=30 * lr), kkt_products=4)
    together = simulate(batch)
    for r in (0, 4):
        assert_same_columns(together, simulate(alone(batch, r)), r, 1e-9)


@pytest.mark.parametrize("model", [MODELS.get("linear")(), BATCH], ids=["linear", "mlp"])
def test_lyu_li_reaches_a_log_loss_of_minus_a_thousand(model: Any) -> None:
    data, _ = six(2)
    data = Data(data.x[:1, :2], data.y[:1, :2], 2)
    schedule = SCHEDULES.get("lyu_li")(lr=0.1)
    trajectory = simulate(problem(model, data, "gd", 400, None, schedule=schedule, stop_log_loss=-1000.0))
    assert (np.diff(trajectory.common["log_loss"], axis=0) <= 0).all()
    assert (trajectory.common["log_loss"][-1] < -1000).all()
    assert trajectory.steps[-1] < 400
    for columns in trajectory.by_norm.values():
        for key in ("margin", "alignment", "kkt_ratio", "param_norm"):
            assert np.isfinite(columns[key][-1]).all(), key
