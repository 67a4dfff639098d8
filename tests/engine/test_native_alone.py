"""Runs stepped alone, a vector of neighbouring samples or features, beside the same runs as lanes of a group: the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from implicit_bias.engine import Problem
from implicit_bias.engine.mini_batches import mini_batches
from implicit_bias.engine.steppers.base import Setup
from implicit_bias.engine.steppers.native import LinearSteps
from implicit_bias.engine.steppers.native import linear as native
from implicit_bias.engine.steppers.verification import CHECKED_RUNS
from implicit_bias.measures.averages import StepAverage
from tests.engine.test_native import RULES, RUNS, gaussian, needs_compiler, problem
from tests.engine.test_native_blocks import cut
from tests.support.quick import quick_of

# Classes, features and samples: no whole vectors, whole ones, one feature, fewer features than classes by one and by many.
SHAPES = ((5, 12, 23), (2, 1, 6), (6, 5, 16), (12, 2, 37), (10, 25, 60))
CALLS = ((0, 1), (1, 8), (8, 40))


def reached(given: Problem, alone: int, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Parameters, buffers and the certificate after some calls, where so many runs at most are stepped alone."""
    monkeypatch.setattr(native, "MOST_ALONE", alone)
    setup = Setup.of(given)
    steps, average = LinearSteps(setup), StepAverage()
    steps.load(setup.begun())
    assert steps.serve(average)
    for first, last in CALLS:
        steps.advance(first, last)
    buffers = [part for blocks in steps.state.values() for block in blocks.values() for part in (block.mantissa, block.log_scale)]
    return [*steps.parameters.values(), *buffers, *average.value.values()]


def assert_same_bits(given: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    for one, other in zip(reached(given, 0, monkeypatch), reached(given, RUNS, monkeypatch), strict=True):
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
        for scale in (1.0, 300.0):
            given = problem(rule, gaussian(k, d, n), 40, loss=loss)
            assert_same_bits(replace(given, initial={"weight": scale * given.initial["weight"]}), monkeypatch)


@needs_compiler
@pytest.mark.numeric
@pytest.mark.parametrize("reduction", ["none", "svrg"])
@pytest.mark.parametrize("rule", ["muon", "adam, eps"])
def test_by_mini_batches_too(rule: str, reduction: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for order, size in (("reshuffle", 4), ("cyclic", 9), ("replace", 1)):
        given = problem(rule, gaussian(5, 12, 23), 40, variance_reduction=reduction)
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
@pytest.mark.parametrize("runs", [1, 3, 8, 11])
def test_runs_left_over_have_the_bits_of_any_batch(
    runs: int, shared: bool, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One and three are alone, eight are a group, or two, of eleven three are alone beside it."""
    many = problem("muon", gaussian(5, 12, 23, shared=shared), 40)
    many = replace(many, optimizer=replace(many.optimizer, beta=0.9)).at(torch.arange(11) % RUNS)
    (all_runs, *_) = reached(many, 0, monkeypatch)
    found = reached(many.at(torch.arange(11 - runs, 11)), native.lanes_left(11, 8), monkeypatch)
    assert torch.equal(found[0], all_runs[11 - runs :])


@needs_compiler
def test_which_runs_are_alone_and_that_both_kinds_are_verified() -> None:
    """As few as pay; none of a product of blocks, whose columns begin anywhere."""
    one = problem("signgd", gaussian(5, 12, 23), 1).at(torch.tensor([0]))
    lanes = LinearSteps(Setup.of(one)).lanes
    for runs, alone in ((1, 1), (lanes - 1, 0), (lanes, 0), (2 * lanes + 1, 1)):
        steps = LinearSteps(Setup.of(one.at(torch.zeros(runs, dtype=torch.long))))
        assert steps.alone == alone and steps.check_on == CHECKED_RUNS + bool(alone)
    assert LinearSteps(Setup.of(cut("muon", [5, 7]).at(torch.tensor([0])))).alone == 0


@needs_compiler
def test_a_run_alone_takes_a_fraction_of_the_memory_of_a_group() -> None:
    one = problem("signgd", gaussian(5, 40, 200), 1).at(torch.tensor([0]))
    alone, group = (LinearSteps(Setup.of(one.at(torch.zeros(runs, dtype=torch.long)))) for runs in (1, 8))
    assert alone.bytes_held < group.bytes_held / 2
