"""Muon's Newton-Schulz iteration: its eps, its coefficients and its precision, against torch's and against scalars."""

import math

import pytest
import torch
from torch.optim._muon import DEFAULT_A, DEFAULT_B, DEFAULT_C, _zeropower_via_newtonschulz

from implicit_bias.core.scaled import Scaled
from implicit_bias.optimizers import OPTIMIZERS
from implicit_bias.optimizers.muon_ns import COEFFICIENTS, newton_schulz, triples
from tests.support.optimizer_steps import step_with

F64 = torch.float64
JORDAN = (DEFAULT_A, DEFAULT_B, DEFAULT_C)
MUON_NS = OPTIMIZERS.get("muon_ns")
EPS = 1e-7
#: How near to torch's: bfloat16 has a unit of .004; float64, or three roundings in place of one, are further away than this.
ROUNDED = 1e-2


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def direction(g: torch.Tensor, log_scale: float = 0.0, **keys: object) -> torch.Tensor:
    """The first step of muon_ns without momentum at the gradient g e^log_scale."""
    optimizer = MUON_NS(beta=0.0, **keys)
    gradient = {"weight": Scaled(g[None], torch.full((1, len(g), 1), log_scale, dtype=F64))}
    _, step = step_with(optimizer, optimizer.init(gradient), gradient, 1, optimizer.geometry(["weight"], None))
    return step.direction["weight"][0]


@pytest.mark.parametrize(
    ("scale", "length"), [(1.0, 1.13), (1e-8, 1.13), (1e-9, 1.2), (1e-10, 0.25), (1e-12, 0.0025), (1e-16, 2.5e-7)]
)
def test_its_eps_is_that_of_torch(scale: float, length: float) -> None:
    """In bfloat16 torch's own matrix; the lengths to 10 %: the step is normalised down to 1e-9, and not below."""
    g = normal(8, 16)
    g /= g.norm()
    theirs = _zeropower_via_newtonschulz(g * scale, JORDAN, 5, EPS).to(F64)
    rounded, exact = (direction(g, math.log(scale), eps=EPS, dtype=dtype) for dtype in ("bfloat16", "float64"))
    assert (rounded - theirs).norm() <= ROUNDED * theirs.norm()
    assert (exact - theirs).norm() <= 3e-2 * theirs.norm()
    assert float(torch.linalg.matrix_norm(exact, 2)) == pytest.approx(length, rel=0.1)


@pytest.mark.parametrize("scale", [1e-2, 1e-9, 1e-11])
def test_its_steps_are_those_of_torch_muon(scale: float) -> None:
    """From the same gradients, which shrink through the hand-over; torch keeps its own buffer."""
    w = torch.zeros(4, 6, dtype=F64).requires_grad_()
    keys = {"weight_decay": 0.0, "nesterov": False, "eps": EPS, "adjust_lr_fn": "match_rms_adamw"}
    theirs = torch.optim.Muon([w], lr=1.0, momentum=0.9, **keys)  # type: ignore[arg-type]
    ours, state = MUON_NS(beta=0.9, eps=EPS, dtype="bfloat16"), None
    for t in range(1, 9):
        g = normal(4, 6, seed=t) * scale * 0.7**t
        gradient = {"weight": Scaled(g[None], torch.zeros(1, 4, 1, dtype=F64))}
        state, step = step_with(ours, state or ours.init(gradient), gradient, t, ours.geometry(["weight"], None))
        before, w.grad = w.detach().clone(), g
        theirs.step()
        moved = (before - w.detach()) / (0.2 * math.sqrt(6))  # what adjust_lr_fn multiplies by
        assert (step.direction["weight"][0] - moved).norm() <= ROUNDED * moved.norm()


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_eps_is_in_the_unit_of_the_gradient_at_any_depth(dtype: str) -> None:
    """2^-900 beside 2^-900 is 1 beside 1; without eps the size is of no account, and far below it the step is zero."""
    g, halved = normal(3, 5), -math.log(2)
    near = direction(g, eps=500.0, dtype=dtype)
    torch.testing.assert_close(direction(g, 900 * halved, eps=500 * 2.0**-900, dtype=dtype), near, rtol=1e-9, atol=0)
    free = direction(g, dtype=dtype)
    torch.testing.assert_close(direction(g, 100_000 * halved, dtype=dtype), free, rtol=1e-9, atol=0)
    assert not torch.allclose(near, free, rtol=1e-2)
    assert direction(g, 100_000 * halved, eps=1e-300, dtype=dtype).abs().max() == 0
    for eps in (0.0, 1e-7):
        assert direction(torch.zeros(3, 5, dtype=F64), -math.inf, eps=eps, dtype=dtype).abs().max() == 0


def test_far_below_eps_the_step_is_that_of_descent() -> None:
    g = 1e-6 * normal(3, 5)
    assert direction(g, eps=1.0) == pytest.approx(DEFAULT_A**5 * g, rel=1e-6)
    assert direction(g, eps=1.0, ns_steps=2, coefficients="polar_express") == pytest.approx(
        8.28721201814563 * 4.107059111542203 / 1.01**2 * g, rel=1e-6
    )


@pytest.mark.parametrize("steps", [1, 4, 9])
def test_coefficients_act_on_singular_values_one_after_another(steps: int) -> None:
    u, _, v = torch.linalg.svd(normal(4, 7), full_matrices=False)
    values = torch.tensor([0.9, 0.3, 0.05, 0.003], dtype=F64)
    values /= values.norm()
    for name in COEFFICIENTS:
        wanted = values
        for a, b, c in triples(name, steps):
            wanted = a * wanted + b * wanted**3 + c * wanted**5
        found = newton_schulz((u * values) @ v, steps, name)
        torch.testing.assert_close(found, (u * wanted) @ v, rtol=1e-10, atol=1e-12)


def test_the_schedule_of_polar_express_converges_where_jordans_does_not() -> None:
    """Singular values from 1e-3 of the norm on: within 4e-3 of 1 after six, exact after ten; Jordan's swing about it by .3."""
    g = torch.diag(torch.logspace(-2.6, 0, 9, dtype=F64))
    off = {
        (name, steps): float((torch.linalg.svdvals(newton_schulz(g, steps, name)) - 1).abs().max())
        for name in COEFFICIENTS
        for steps in (6, 10)
    }
    assert off["polar_express", 6] < 4e-3 and off["polar_express", 10] < 1e-12
    assert off["jordan", 10] > 0.1
    assert triples("polar_express", 12)[7:] == ((1.875, -1.25, 0.375),) * 5
