"""Steps by mini-batches in C beside the plain ones, and the orders that are drawn for them."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from implicit_bias.engine import Problem, simulate
from implicit_bias.engine.mini_batches import MiniBatches, Order, mini_batches
from implicit_bias.engine.steppers.base import Setup
from implicit_bias.engine.steppers.eager import Eager
from implicit_bias.engine.steppers.native import LinearSteps, orders
from implicit_bias.engine.steppers.native import linear as native
from implicit_bias.engine.steppers.native.compiling import library
from implicit_bias.engine.steppers.native.rules import DEFINITIONS
from implicit_bias.models import Data
from tests.engine.test_native import RULES, RUNS, apart, gaussian, needs_compiler, problem, same_bits, with_zeros
from tests.support.quick import quick_of

N = 23
SEEDS = torch.tensor([3, 1, 4, 1, 5, 2**40])


def batched(rule: str, size: int, order: Order = "reshuffle", steps: int = 30, n: int = N, **more: Any) -> Problem:
    data = gaussian(5, 12, n)
    given = problem(rule, data, steps, **more)
    return replace(given, batch=mini_batches(size, order, SEEDS, n))


QUICK = ("signum", "nmgd", "muon", "adam", "signum, decay", "lion")
# And one of each kind that takes a gradient's matrix apart: of one sample it has rank one.
IN_ALL_BATCHES = (*QUICK, "nucgd", "nmd in schatten", "row_gd", "muon_ns", "nmd in column")


@needs_compiler
@pytest.mark.numeric
@pytest.mark.parametrize("rule", quick_of(sorted(RULES), *QUICK))
def test_every_step_is_the_plain_one_to_round_off(rule: str) -> None:
    """Also of data with zeros. Which samples a gradient is of is nothing to the rule: in batches of all kinds some are tried."""
    given = [batched(rule, 5, "cyclic", steps=7), batched(rule, 5, steps=7, variance_reduction="svrg")]
    zeros = [replace(of, data=with_zeros(of.data)) for of in given]
    more: list[Problem] = []
    if rule in IN_ALL_BATCHES:
        more = [batched(rule, 1, "reshuffle", steps=7), batched(rule, 23, "replace", steps=7), zeros[1]]
    for setup in map(Setup.of, [*given, zeros[0], *more]):
        with torch.no_grad():
            ours, plain, here = LinearSteps(setup), Eager(setup), setup.begun()
            for t in range(1, setup.problem.steps + 1):
                there = plain.step(here, t)
                before, after = here.parameters["weight"], there.parameters["weight"]
                moved, differ = ((a - after).abs().amax(dim=(1, 2)) for a in (before, ours.step(here, t).parameters["weight"]))
                assert (differ <= 1e-11 * moved + 1e-15 * before.abs().amax(dim=(1, 2))).all(), t
                here = there


@needs_compiler
@pytest.mark.numeric
@pytest.mark.parametrize("rule", quick_of(["signum", "nmgd", "signgd", "lion"], "signum", "nmgd"))
def test_whole_runs_agree_certificates_too(rule: str) -> None:
    plain, ours = (simulate(replace(batched(rule, 4, steps=100), compile=wanted)) for wanted in ("off", "auto"))
    assert (plain.stepping, ours.stepping) == ("torch", "c")
    assert (apart(ours, plain) <= 1e-9).all()


@needs_compiler
@pytest.mark.numeric
@pytest.mark.parametrize("rule", ["signum", "adam", "muon"])
def test_batches_of_all_samples_give_the_bits_of_the_full_batch(rule: str) -> None:
    """What is drawn is put in ascending order; made here, as mini_batches() makes none of such batches."""
    given = batched(rule, N, steps=60)
    assert given.batch is None
    drawn = replace(given, batch=MiniBatches(N, "reshuffle", SEEDS, N))
    assert same_bits(simulate(given), simulate(drawn))


@needs_compiler
@pytest.mark.numeric
@pytest.mark.parametrize(
    ("order", "reduction"), [("reshuffle", "none"), ("replace", "none"), ("cyclic", "none"), ("reshuffle", "svrg")]
)
def test_a_run_has_the_same_bits_alone_and_in_calls_of_any_length(
    order: Order, reduction: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = replace(batched("adam, eps", 4, order, steps=60, variance_reduction=reduction), points=4)
    if order == "reshuffle":
        given = replace(given, data=with_zeros(given.data))
    together = simulate(given)
    assert together.stepping == "c"
    monkeypatch.setattr(native, "MOST_STEPS", 7)
    for run in (0, 5):
        alone = replace(given.at(torch.tensor([run])), measured=given.measured)
        assert same_bits(together, simulate(alone), run)


@needs_compiler
@pytest.mark.parametrize("reduction", quick_of(["none", "svrg"], "svrg"))
@pytest.mark.parametrize("rule", quick_of(["signum", "muon", "adam", "signgd"], "adam", "muon"))
def test_it_goes_on_from_a_snapshot_to_the_last_bit(rule: str, reduction: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given = batched(rule, 4, steps=130, variance_reduction=reduction)
    usual = simulate(given)
    monkeypatch.setattr(native, "MOST_STEPS", 5)
    snapshots: dict[int, Any] = {}

    def keep(t: int, snapshot: Callable[[], Any]) -> None:
        between = t > 60 and t % 5 and t not in usual.steps and not any(step > 60 for step in snapshots)
        if t in {5, usual.steps[5]} or t >= 125 or between:
            snapshots[t] = deepcopy(snapshot())

    assert same_bits(usual, simulate(given, keep=keep))
    monkeypatch.undo()
    assert len(snapshots) >= 4
    for step in [*list(snapshots)[:3], max(snapshots)]:
        assert same_bits(usual, simulate(given, resume=snapshots[step]))


@needs_compiler
def test_an_anchor_that_is_not_there_is_asked_for() -> None:
    setup = Setup.of(batched("signum", 4, variance_reduction="svrg"))
    for stepper in (Eager(setup), LinearSteps(setup)):
        with torch.no_grad(), pytest.raises(ValueError, match="update 3 needs the parameters after update 0"):
            stepper.step(setup.begun(), 3)


@needs_compiler
def test_wrong_samples_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = orders.table
    monkeypatch.setattr(orders, "table", lambda *given: (drawn(*given) + 1) % N)
    said: list[str] = []
    given = batched("signum", 4, tell=said.append)
    assert same_bits(simulate(given), simulate(replace(given, compile="off")))
    assert len(said) == 1 and said[0].startswith("steps by c are not the plain ones")


def compiled() -> Any:
    return library(native.SOURCE, native.SYMBOLS, DEFINITIONS)


@needs_compiler
@pytest.mark.parametrize("order", ["reshuffle", "replace"])
@pytest.mark.parametrize(("n", "size"), [(1, 1), (12, 5), (100, 10), (1000, 999)])
def test_orders_drawn_in_c_are_those_of_numpy(order: Order, n: int, size: int) -> None:
    batch = MiniBatches(size, order, SEEDS, n)
    a_epoch = n // size
    first, last = a_epoch - 1, 3 * a_epoch + 1
    assert orders.as_numpy_draws(compiled())
    assert torch.equal(orders.table(batch, first, last, compiled()).long(), batch.table(first, last))


@needs_compiler
def test_where_numpy_draws_otherwise_numpy_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = MiniBatches(5, "reshuffle", SEEDS, 12)
    monkeypatch.setattr(orders, "reshuffled", lambda n, b, seed, epoch: np.arange(n)[: n // b * b].reshape(-1, b))
    orders.as_numpy_draws.cache_clear()
    monkeypatch.setattr(orders, "epochs_of", lambda *given: np.zeros((2, given[2] // given[3], given[3]), dtype=np.int32))
    assert not orders.as_numpy_draws(compiled())
    assert torch.equal(orders.table(batch, 3, 9, compiled()).long(), batch.table(3, 9))
    orders.as_numpy_draws.cache_clear()


@needs_compiler
def test_a_call_writes_down_a_bounded_number_of_samples() -> None:
    data = Data(torch.randn(1, 40_000, 2, dtype=torch.float64), torch.arange(40_000).remainder(2).unsqueeze(0), 2)
    given = replace(problem("signgd", data, 10**6, compile="on"), batch=mini_batches(20_000, "cyclic", SEEDS, 40_000))
    steps = LinearSteps(Setup.of(given)).most_steps
    assert 1 <= steps <= native.MOST_SAMPLES // (RUNS * 20_000)


@needs_compiler
def test_batches_may_be_of_data_that_are_too_large_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    part = batched("signum", 4)
    monkeypatch.setattr(native, "MOST_WORK", 5 * 12 * 10)
    assert "larger problems" in str(native.refusal(Setup.of(replace(part, batch=None))))
    assert native.refusal(Setup.of(part)) is None
    monkeypatch.setattr(native, "MOST_NUMBERS", 100)
    assert "larger problems" in str(native.refusal(Setup.of(part)))
    asked_for = Setup.of(replace(part, compile="on"))
    assert native.refusal(asked_for) is None
    monkeypatch.setattr(native, "MOST_NUMBERS_ASKED_FOR", 100)
    assert "holds copies" in str(native.refusal(asked_for))
