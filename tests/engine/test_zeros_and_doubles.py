"""Exact zeros of gradients, numbers that single precision cannot hold, and data of very different sizes, plain and in C."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from implicit_bias.core.registry import hyper_fields
from implicit_bias.engine import Problem, simulate
from implicit_bias.engine.problem import Compile
from implicit_bias.losses import LOSSES
from implicit_bias.models import MODELS, Data
from implicit_bias.norms import NORMS, make_norm
from implicit_bias.optimizers import OPTIMIZERS
from implicit_bias.schedules import SCHEDULES
from tests.engine.test_native import RULES, RUNS, gaussian, needs_compiler, problem, same_bits, steps_of
from tests.support.quick import quick_of

WAYS: tuple[Compile, ...] = ("off", "auto")


def from_zero(optimizer: Any, x: torch.Tensor, y: torch.Tensor, steps: int = 1, lr: float = 1.0, norm: Any = None) -> Problem:
    model, data = MODELS.get("linear")(), Data(x.unsqueeze(0), y.unsqueeze(0), int(y.max()) + 1)
    return Problem(
        model=model,
        loss=LOSSES.get("cross_entropy")(),
        optimizer=optimizer,
        schedule=SCHEDULES.get("power")(lr=lr, power=0.5),
        data=data,
        initial=model.initial(data, [0]),
        steps=steps,
        norm=norm,
        measured={"linf": make_norm("linf")},
        weights="all",
    )


def first_weights(given: Problem) -> list[torch.Tensor]:
    return [simulate(replace(given, measured={}, compile=wanted)).parameters[1]["weight"][0] for wanted in WAYS]


@pytest.mark.parametrize("k", quick_of([2, 3, 4, 5, 6, 7, 8, 9, 10, 300], 2, 7, 10, 300))
@pytest.mark.parametrize(
    ("optimizer", "norm"), [("signgd", None), ("signum", None), ("adam", None), ("nsd", 7.0), ("nmd", 7.0), ("row_gd", None)]
)
@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_a_constant_feature_of_equal_classes_does_not_move_at_first(
    optimizer: str, norm: float | None, k: int, scale: float
) -> None:
    x = torch.stack([torch.full((k,), scale, dtype=torch.float64), torch.arange(1, k + 1, dtype=torch.float64)], dim=1)
    given = from_zero(OPTIMIZERS.get(optimizer)(), x, torch.arange(k), norm=make_norm("lp", p=norm) if norm else None)
    for w in first_weights(given):
        assert (w[:, 0] == 0).all()
        assert (w[:, 1] != 0).sum() >= k - 1  # of an odd number of classes the middle one's is zero, too


@pytest.mark.numeric
@needs_compiler
@pytest.mark.parametrize("samples", [10, 100])
def test_with_a_column_of_ones_steps_in_c_are_the_plain_ones(samples: int) -> None:
    generator = torch.Generator().manual_seed(1)
    means = torch.randn(10, 1, 25, dtype=torch.float64, generator=generator)
    x = (means + torch.randn(10, samples, 25, dtype=torch.float64, generator=generator)).flatten(0, 1)
    x = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
    given = from_zero(OPTIMIZERS.get("signgd")(), x, torch.arange(10).repeat_interleave(samples), steps=60, lr=0.1)
    plain, ours = (simulate(replace(given, compile=wanted)) for wanted in WAYS)
    assert ours.stepping == "c"
    assert (plain.parameters[1]["weight"][0, :, -1] == 0).all()
    for step, blocks in plain.parameters.items():
        assert torch.allclose(blocks["weight"], ours.parameters[step]["weight"], rtol=1e-11, atol=1e-13), step


@pytest.mark.numeric
@pytest.mark.parametrize("seed", range(12))
def test_first_signs_of_integer_data_are_those_of_exact_arithmetic(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    k, d = 2 + seed % 4, 5
    y = torch.arange(3 * k).remainder(k)
    x = torch.randint(-2, 3, (len(y), d), generator=generator)
    if seed % 2:
        x = x + 3  # no entry is zero: steps in C
    share = Fraction(1, k)
    exact = [
        [sum((share - (1 if int(y[i]) == c else 0)) * int(x[i, j]) for i in range(len(y))) for j in range(d)] for c in range(k)
    ]
    signs = torch.tensor([[(g > 0) - (g < 0) for g in row] for row in exact], dtype=torch.float64)
    for w in first_weights(from_zero(OPTIMIZERS.get("signgd")(), x.double(), y)):
        assert torch.equal(w, -signs)


@pytest.mark.numeric
@pytest.mark.parametrize(("part", "zero"), [(0.0, True), (8, True), (128, False), (1e5, False)])
def test_an_entry_is_zero_below_the_rule_and_not_above(part: float, zero: bool) -> None:
    """Column 0 sums to ``part`` eps of the first sample, of contributions four times that."""
    x = torch.tensor([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0], [1.0, 5.0]], dtype=torch.float64)
    x[0, 0] += part * torch.finfo(torch.float64).eps
    for w in first_weights(from_zero(OPTIMIZERS.get("signgd")(), x, torch.tensor([0, 0, 1, 1]))):
        assert bool((w[:, 0] == 0).all()) == zero


NUMBERS = {"beta": (0.9, 0.1), "beta1": (0.9, 0.1), "beta2": (0.9, 0.1), "eps": (1e-50, 0.3), "lower": (1e-50, 0.3)}
NUMBERS |= {"weight_decay": (0.9, 0.1), "d0": (1e-2, 0.3), "exponent": (0.3, 0.45), "interpolation": (0.9, 0.1)}
#: What else a key needs to be allowed.
NEEDS: dict[str, dict[str, Any]] = {"lower": {"truncate": True}, "interpolation": {"average": "schedule_free"}}


def keys() -> list[tuple[str, str]]:
    """Every numeric key of every optimizer that may differ in a batch."""
    return [
        (name, key)
        for name in OPTIMIZERS.names()
        for key, field in hyper_fields(OPTIMIZERS.get(name)).items()
        if isinstance(field.default, float) and field.metadata["hyper"].batch
    ]


def assert_alone_and_beside(given: Problem, swept: Problem, covered: bool) -> None:
    """Run 0 of a batch that sweeps a number is the run alone, with a Python number; in C to the bit, and to round-off what it is
    in plain steps, which the run alone has made itself where there are none in C."""
    alone = replace(given.at(torch.tensor([0])), measured=given.measured)
    ours, batch = simulate(alone), simulate(swept)
    assert ours.stepping == batch.stepping == ("c" if covered else "torch")
    if covered:
        assert same_bits(batch, ours, 0)
    plain = simulate(replace(alone, compile="off")) if covered else ours
    for step, blocks in plain.parameters.items():
        for found in (ours, batch) if covered else (batch,):
            other = found.parameters[step]["weight"][:1]
            assert torch.allclose(blocks["weight"], other, rtol=1e-11, atol=1e-13), step


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(("name", "key"), keys())
def test_no_number_of_an_optimizer_passes_through_single_precision(name: str, key: str, index: int) -> None:
    number = NUMBERS[key][index]
    rule = name if name in RULES else "row, momentum" if name == "nmd" else "signgd"
    given = replace(problem(rule, gaussian(4, 6, 10), 5), norm=make_norm("row") if name == "nmd" else None)
    optimizer = OPTIMIZERS.get(name)(**{key: number}, **NEEDS.get(key, {}))
    given = replace(given, optimizer=optimizer, measured={"l2": make_norm("l2")})
    numbers = torch.full((RUNS, 1, 1), number, dtype=torch.float64)
    numbers[1:] *= 0.5
    swept = replace(given, optimizer=replace(given.optimizer, **{key: numbers}))
    assert_alone_and_beside(given, swept, covered=steps_of(given) is not None)


@needs_compiler
@pytest.mark.parametrize("key", ["lr", "power"])
def test_no_number_of_a_schedule_passes_through_single_precision(key: str) -> None:
    base = problem("ngd", gaussian(4, 6, 10), 5)
    numbers = torch.linspace(0.3, 0.4, RUNS, dtype=torch.float64)
    swept = replace(base, schedule=replace(base.schedule, **{"lr": 0.1, "power": 0.5, key: numbers}))
    alone = replace(base, schedule=replace(base.schedule, **{"lr": 0.1, "power": 0.5, key: 0.3}))
    assert_alone_and_beside(alone, swept, covered=True)


@needs_compiler
@pytest.mark.parametrize("name", [name for name in NORMS.names() if "p" in hyper_fields(NORMS.get(name))])
def test_no_exponent_of_a_norm_passes_through_single_precision(name: str) -> None:
    p = 1.1 + 1e-9
    base = replace(problem("signgd", gaussian(4, 6, 10), 5), optimizer=OPTIMIZERS.get("nsd")(), norm=make_norm(name, p=p))
    swept = replace(base, norm=NORMS.get(name)(p=torch.linspace(p, 3, RUNS, dtype=torch.float64)))
    assert_alone_and_beside(base, swept, covered=name in ("lp", "schatten"))


@pytest.mark.numeric
@needs_compiler
@pytest.mark.parametrize("eps", [1e-50, 1e-300, 0.3, 1e-3])
def test_adams_eps_is_a_double_alone_too(eps: float) -> None:
    given = problem("adam", gaussian(3, 4, 6), 40)
    given = replace(
        given, optimizer=OPTIMIZERS.get("adam")(beta1=0.0, beta2=0.0, eps=eps), schedule=SCHEDULES.get("constant")(lr=0.5)
    )
    plain, ours = (simulate(replace(given, compile=wanted)) for wanted in WAYS)
    assert ours.stepping == "c"
    np.testing.assert_allclose(ours.common["log_loss"], plain.common["log_loss"], rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1e-250, 1e-180])
def test_a_column_next_to_nothing_keeps_its_signs(size: float) -> None:
    """Steps of signs hardly know of a column whose scores are nothing: those of 1e-60 are the same."""
    data = gaussian(4, 6, 30, runs=1)
    ends = []
    for factor in (1e-60, size):
        x = data.x[0].clone()
        x[:, 0] *= factor
        given = from_zero(OPTIMIZERS.get("signgd")(), x, data.y[0], steps=300, lr=2.0)
        ends += [simulate(replace(given, compile=wanted)).parameters[300]["weight"] for wanted in WAYS]
    assert all(torch.allclose(ends[0], end, rtol=1e-9, atol=1e-12) for end in ends)


def test_alignment_keeps_its_digits_where_the_gradient_vanishes_beside_the_loss() -> None:
    """A sample of zeros keeps its weight for ever; all other weights go to e^-100,000."""
    x = torch.tensor([[0.0, 0.0, 0.0], [-3.35, 1.67, 1.75]], dtype=torch.float64)
    made = simulate(from_zero(OPTIMIZERS.get("adam")(), x, torch.tensor([0, 1]), steps=200, lr=10.0))
    alignment = made.by_norm["linf"]["alignment"][1:, 0]
    exact = 6.77 / math.fsum([3.35, 1.67, 1.75])
    np.testing.assert_allclose(alignment, exact, rtol=1e-12)
