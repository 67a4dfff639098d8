"""Steps on networks against torch.optim."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from implicit_bias.engine import simulate
from implicit_bias.models import Data
from implicit_bias.optimizers import OPTIMIZERS
from implicit_bias.schedules import SCHEDULES
from tests.support.networks import F64, SquaredReLU, mlp, objective, problem, six, torch_loss, torch_mlp
from tests.support.optimizer_steps import step_with

TORCH_RULES: dict[str, tuple[str, dict[str, Any], Callable[[Any], torch.optim.Optimizer]]] = {
    "gd": ("gd", {}, lambda p: torch.optim.SGD(p, lr=0.05)),
    "momentum": ("momentum_gd", {"beta": 0.8}, lambda p: torch.optim.SGD(p, lr=0.05 * (1 - 0.8), momentum=0.8)),
    "heavy ball": ("momentum_gd", {"beta": 0.8, "ema": False}, lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8)),
    "adam": ("adam", {"eps": 1e-12}, lambda p: torch.optim.Adam(p, lr=0.05, betas=(0.9, 0.95), eps=1e-12)),
    "adam eps": ("adam", {"eps": 1e-3}, lambda p: torch.optim.Adam(p, lr=0.05, betas=(0.9, 0.95), eps=1e-3)),
}


@pytest.mark.parametrize("rule", TORCH_RULES)
@pytest.mark.parametrize("k", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_twenty_steps_equal_torch_optim(rule: str, k: int) -> None:
    name, hyper, make = TORCH_RULES[rule]
    data, _ = six(k)
    model = mlp(width=5, depth=3, activation="squared_relu", bias="first", init_scale=1.0, init="normal")
    schedule = SCHEDULES.get("constant")(lr=0.05)
    ours = simulate(
        problem(model, data, name, 20, None, hyper=hyper, schedule=schedule, points=500, weights="all", kkt_products=0, logged=())
    )
    start = ours.parameters[0]
    for r in (0, 4):
        module = torch_mlp(start, r, SquaredReLU)
        theirs = make(module.parameters())
        for t in range(1, 21):
            theirs.zero_grad()
            value = torch_loss(module(data.x[r]), data.y[r])
            value.backward()
            theirs.step()
            for block, parameter in zip(ours.parameters[t].values(), module.parameters(), strict=True):
                torch.testing.assert_close(block[r], parameter.detach().reshape(block[r].shape), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("nesterov", [False, True])
def test_muon_ns_on_a_network_equals_torch_muon(nesterov: bool) -> None:
    """A step from the same buffer, to bfloat16; the head's null direction (rows that sum to zero) is taken out."""
    model = mlp(width=6, depth=2, init="normal", init_scale=1.0)
    rng = np.random.RandomState(0)
    data = Data(torch.tensor(rng.randn(1, 40, 8)), torch.tensor(rng.randint(0, 4, (1, 40))), 4)
    target, ours = objective(model, data), OPTIMIZERS.get("muon_ns")(beta=0.9, nesterov=nesterov)
    module = torch_mlp(model.initial(data, [0]), 0, SquaredReLU)
    theirs = torch.optim.Muon(module.parameters(), lr=0.02, momentum=0.9, weight_decay=0.0, nesterov=nesterov)
    state = None
    for t in range(1, 20):
        parameters = dict(zip(("layer1", "layer2"), module.parameters(), strict=True))
        before = {n: p.detach().clone() for n, p in parameters.items()}
        gradient = target.gradient({n: p[None] for n, p in before.items()})
        state, step = step_with(ours, state or ours.init(gradient.blocks), gradient.blocks, t, ours.geometry(list(before), None))
        theirs.zero_grad()
        torch_loss(module(data.x[0]), data.y[0]).backward()
        theirs.step()
        for name, p in parameters.items():
            buffer = theirs.state[p]["momentum_buffer"]
            mine = state["momentum"][name].relative_to(torch.zeros((), dtype=F64))[0]
            assert (mine - buffer).norm() <= 1e-5 * buffer.norm()
            moved = (before[name] - p.detach()) / 0.02
            if name == "layer2":
                moved = moved - moved.mean(dim=0)
            assert (step.direction[name][0] - moved).norm() <= 3e-2 * moved.norm()
