"""Runs stepped alone, a vector of neighbouring samples or features, beside the same runs as lanes of a group: the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from implicit_bias.engine import Problem
from implicit_bias.engine.mini_batches import mini_batches
from implicit_bias.engine.steppers.base import Reached, Setup
from implicit_bias.engine.steppers.native import LinearSteps
from implicit_bias.engine.steppers.native import linear as native
from implicit_bias.engine.steppers.verification import CHECKED_RUNS
from implicit_bias.measures.averages import StepAverage
from implicit_bias.optimizers.muon import Muon
from tests.engine.test_native import RULES, RUNS, gaussian, needs_compiler, problem
from tests.engine.test_native_blocks import cut
from tests.support.quick import quick_of

# Classes, features and samples: more than a vector of each, no whole ones; one feature; more classes than features.
SHAPES = ((10, 13, 37), (2, 1, 8), (12, 2, 25))
CALLS = ((0, 1), (1, 8), (8, 25))


def reached(setup: Setup, start: Reached, alone: int, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Parameters, buffers and the certificate after some calls, where so many runs at most are stepped alone."""
    monkeypatch.setattr(native, "MOST_ALONE", alone)
    steps, average = LinearSteps(setup), StepAverage()
    steps.load(start)
    assert steps.serve(average)
    for first, last in CALLS:
        steps.advance(first, last)
    buffers = [part for blocks in steps.state.values() for block in blocks.values() for part in (block.mantissa, block.log_scale)]
    return [*steps.parameters.values(), *buffers, *average.value.values()]


def assert_same_bits(given: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup.of(given)
    start = setup.begun()
    for one, other in zip(*(reached(setup, start, alone, monkeypatch) for alone in (0, RUNS)), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@needs_compiler
@pytest.mark.numeric
@pytest.mark.parametrize("loss", ["cross_entropy", "exponential"])
@pytest.mark.parametrize(
    "rule", quick_of(sorted(RULES), "signgd", "nmgd", "muon", "muon_ns, eps", "nucgd", "adam", "coordinate_descent", "sd in row")
)
def test_a_run_alone_has_the_bits_of_a_lane(rule: str, loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where losses are e^-1000 too, and, with exponential losses, where a run overflows."""
    for k, d, n in SHAPES:
        given = problem(rule, gaussian(k, d, n), 25, loss=loss)
        deep = 300.0 ** torch.arange(RUNS).remainder(2).view(-1, 1, 1)
        assert_same_bits(replace(given, initial={"weight": deep * given.initial["weight"]}), monkeypatch)


@needs_compiler
@pytest.mark.numeric
@pytest.mark.parametrize("reduction", ["none", "svrg"])
@pytest.mark.parametrize("rule", ["muon", "adam, eps"])
def test_by_mini_batches_too(rule: str, reduction: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for order, size in (("reshuffle", 4), ("cyclic", 9), ("replace", 1)):
        given = problem(rule, gaussian(5, 12, 23), 25, variance_reduction=reduction)
        batch = mini_batches(size, order, torch.arange(RUNS), 23)  # type: ignore[arg-type]
        assert_same_bits(replace(given, batch=batch), monkeypatch)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@needs_compiler
@pytest.mark.numeric
@pytest.mark.parametrize("shared", [False, True])
def test_runs_left_over_have_the_bits_of_any_batch(shared: bool, two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One and three are alone, eight are groups, and of eleven the last three are alone beside them."""
    given = problem("muon", gaussian(5, 12, 23, shared=shared), 25)
    given = replace(given, optimizer=Muon(beta=0.9)).at(torch.arange(11) % RUNS)
    setup = Setup.of(given)
    together = reached(setup, setup.begun(), 0, monkeypatch)[0]
    for runs in (1, 3, 8, 11):
        own = Setup.of(given.at(torch.arange(11 - runs, 11)))
        assert torch.equal(reached(own, own.begun(), 3, monkeypatch)[0], together[11 - runs :])


def of_runs(runs: int, given: Problem) -> LinearSteps:
    return LinearSteps(Setup.of(given.at(torch.zeros(runs, dtype=torch.long))))


@needs_compiler
def test_which_runs_are_alone_and_that_both_kinds_are_verified() -> None:
    """As few as pay; none of a product of blocks, whose columns begin anywhere."""
    one, most = problem("signgd", gaussian(5, 12, 23), 1), native.MOST_ALONE
    lanes = of_runs(1, one).lanes
    for runs, alone in ((1, 1), (lanes, 0), (lanes + most, most), (2 * lanes + 1, 1)):
        steps = of_runs(runs, one)
        assert steps.alone == alone and steps.check_on == CHECKED_RUNS + bool(alone)
    assert of_runs(1, cut("nmd, l2, linf", [5, 7])).alone == 0


@needs_compiler
def test_a_run_alone_takes_a_fraction_of_the_memory_of_a_group() -> None:
    def doubles(steps: LinearSteps) -> int:
        held = [part for value in vars(steps).values() for part in (value if isinstance(value, list | tuple) else [value])]
        return sum(part.numel() for part in held if isinstance(part, torch.Tensor))

    given = problem("signgd", gaussian(5, 40, 200), 1)
    assert doubles(of_runs(1, given)) < doubles(of_runs(8, given)) / 3
