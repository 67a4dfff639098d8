"""Networks in C when losses have become e^-500 and less, far below what one log scale for all units would hold."""

from dataclasses import replace

import pytest
import torch

from implicit_bias.core.scaled import rescaled
from implicit_bias.engine.steppers.base import Reached, Setup
from implicit_bias.engine.steppers.eager import Eager
from implicit_bias.engine.steppers.native import NetworkSteps
from implicit_bias.engine.steppers.native.compiling import compilers
from implicit_bias.models import Data
from implicit_bias.schedules import SCHEDULES
from tests.support.networks import mlp, problem

#: Of a vector of eight, three lanes hold no unit; and the last unit is dead.
WIDTH, STEPS = 5, 900


@pytest.mark.slow
@pytest.mark.skipif(not compilers(), reason="no C compiler here")
@pytest.mark.parametrize("method", ["muon", "nmgd"])
def test_buffers_of_units_without_gradient_do_not_hold_the_others_up(method: str) -> None:
    """A unit that has no gradient has no log scale either: one from when the loss was large would be that of all for good."""
    torch.manual_seed(0)
    y = torch.arange(12).remainder(3)
    x = torch.randn(12, 7, dtype=torch.float64).abs() * 0.3
    x[torch.arange(12), y] += 2
    lr = torch.tensor([0.02], dtype=torch.float64)
    made = problem(
        mlp(width=WIDTH), Data(x[None], y[None], 3), method, STEPS, lr, hyper={"beta": 0.3},
        loss="exponential", weights="none", kkt_products=0, logged=("l2",),
    )  # fmt: skip
    made = replace(made, schedule=SCHEDULES.get("constant")(lr=lr))
    first = next(iter(made.initial))
    made.initial[first][:, -1] = -made.initial[first][:, -1].abs() - 0.1
    setup = Setup.of(made)
    with torch.no_grad():
        ours = NetworkSteps(setup)
        ours.load(setup.begun())
        t = 0
        for last in (400, 690, STEPS - 1):
            while t < last:
                t = ours.advance(t, min(last, t + ours.most_steps))
            here = Reached({name: block.clone() for name, block in ours.parameters.items()}, ours.state)
            state = {
                key: {name: rescaled(block.mantissa, block.log_scale) for name, block in blocks.items()}
                for key, blocks in here.state.items()
            }
            plain = Eager(setup).step(Reached(here.parameters, state), t + 1).parameters
            resumed = NetworkSteps(setup).step(here, t + 1).parameters
            t = ours.advance(t, t + 1)
            for name, block in ours.parameters.items():
                assert torch.equal(block, resumed[name])
                moved = (plain[name] - here.parameters[name]).abs().amax()
                assert (block - plain[name]).abs().amax() <= 1e-9 * moved
    assert ours.gradient.log_loss.item() < -700
