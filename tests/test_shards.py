"""Shards: the same bits as the whole batch, divergence by place, interrupts."""

import math
import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from test_engine import mixtures, problem

from implicit_bias.engine import Diverged, Problem, Trajectory, simulate
from implicit_bias.margins import Optimum
from implicit_bias.models import Data
from implicit_bias.norms import NORMS
from implicit_bias.optimizers import OPTIMIZERS
from implicit_bias.shards import part_of, shard_bounds, simulate_in_shards

RUNS = 7
F64 = torch.float64


def assert_same(a: Trajectory, b: Trajectory, rtol: float = 0.0) -> None:
    assert (a.own, a.steps) == (b.own, b.steps)
    for key, column in a.common.items():
        np.testing.assert_allclose(b.common[key], column, rtol=rtol, err_msg=key)
    for label, columns in a.by_norm.items():
        for key, column in columns.items():
            # The last bound comes from an iteration of its own, which is exact to round-off only.
            exact = torch.backends.mkl.is_available() and key not in ("upper_bound", "kkt_ratio")
            np.testing.assert_allclose(b.by_norm[label][key], column, rtol=rtol if exact else 1e-9, err_msg=f"{label} {key}")
    assert list(a.parameters) == list(b.parameters)
    for step, blocks in a.parameters.items():
        for name, block in blocks.items():
            np.testing.assert_allclose(b.parameters[step][name], block, rtol=rtol)


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
@pytest.mark.parametrize("shared", [False, True])
def test_shards_give_the_bits_of_the_whole_batch(optimizer: str, shared: bool) -> None:
    data = mixtures([5] if shared else list(range(RUNS)))
    lr = torch.linspace(0.05, 0.4, RUNS, dtype=F64)
    optima = {"l2": Optimum(torch.linspace(1, 2, RUNS, dtype=F64), {"weight": torch.ones(RUNS, 5, 12, dtype=F64)})}
    whole = problem(optimizer, data, RUNS, 40, lr, certificate_iterations=3, weights="all", points=8, optima=optima)
    whole = replace(whole, measured={label: whole.measured[label] for label in ("linf", "l2", "spectral")})
    assert_same(simulate(whole), simulate_in_shards(whole, 3))


def test_every_number_that_differs_between_runs_goes_with_its_run() -> None:
    beta, p = torch.linspace(0.2, 0.9, RUNS, dtype=F64).reshape(-1, 1, 1), torch.linspace(1.5, 4, RUNS, dtype=F64)
    norm = NORMS.get("lp")(p=p)
    batch = problem(
        "nmd", mixtures(list(range(RUNS))), RUNS, 60, torch.linspace(0.1, 0.2, RUNS, dtype=F64),
        power=torch.linspace(0.2, 0.6, RUNS, dtype=F64), hyper={"beta": beta}, norm=norm,
    )  # fmt: skip
    batch = replace(batch, measured={**batch.measured, norm.label: norm})
    assert_same(simulate(batch), simulate_in_shards(batch, 3), rtol=1e-9)
    part = part_of(batch, slice(2, 4), RUNS)
    assert torch.equal(part.optimizer.beta, beta[2:4])
    assert torch.equal(part.norm.p, p[2:4])
    assert torch.equal(part.measured[norm.label].p, p[2:4])
    assert torch.equal(part.schedule.power, torch.linspace(0.2, 0.6, RUNS, dtype=F64)[2:4])
    assert len(part.data.x) == len(part.data.y) == len(part.initial["weight"]) == 2


@pytest.mark.parametrize(("runs", "shards"), [(1, 4), (5, 1), (5, 2), (5, 5), (5, 9), (64, 3), (3, 0)])
def test_shards_cover_the_runs_evenly(runs: int, shards: int) -> None:
    bounds = shard_bounds(runs, shards)
    assert [r for first, last in bounds for r in range(first, last)] == list(range(runs))
    sizes = [last - first for first, last in bounds]
    assert max(sizes) - min(sizes) <= 1
    assert len(bounds) == max(1, min(runs, shards))


def broken(lost: dict[int, float], steps: int = 400) -> Problem:
    """Runs that start at points that are no numbers."""
    whole = problem("signgd", mixtures([3]), RUNS, steps, 0.1, points=6)
    initial = whole.initial["weight"].clone()
    for run, value in lost.items():
        initial[run, 0, 0] = value
    return replace(whole, initial={"weight": initial})


def test_divergence_is_told_by_place_in_the_whole_batch() -> None:
    with pytest.raises(Diverged) as caught:
        simulate_in_shards(broken({6: math.nan}), 2)
    assert (caught.value.runs, caught.value.step) == ([6], 0)
    lost = {1: math.nan, 4: math.inf, 6: math.nan}
    found: set[int] = set()
    while len(found) < len(lost):  # another shard may be stopped before it notices; the next round finds it
        with pytest.raises(Diverged) as caught:
            simulate_in_shards(broken({run: value for run, value in lost.items() if run not in found}), 3)
        assert caught.value.runs
        assert set(caught.value.runs) <= set(lost) - found
        found |= set(caught.value.runs)


def test_watch_is_called_from_the_callers_thread_and_sees_the_end() -> None:
    seen: list[tuple[int, int]] = []
    simulate_in_shards(broken({}, 200), 3, lambda steps, _: seen.append((steps, threading.get_ident())))
    assert seen[-1][0] == 200
    assert {ident for _, ident in seen} == {threading.get_ident()}


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ValueError])
def test_an_interrupt_or_error_in_one_shard_stops_the_others_promptly(kind: type[BaseException]) -> None:
    def interrupt(steps: int, ratio: float) -> None:
        raise kind("now")

    before, start = threading.active_count(), time.monotonic()
    with pytest.raises(kind, match="now"):
        simulate_in_shards(broken({}, 10_000_000), 3, interrupt)
    assert time.monotonic() - start < 5
    assert threading.active_count() == before


def test_an_error_in_a_worker_stops_the_caller_and_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_here(part: Problem, watch: Any) -> Trajectory:
        if threading.current_thread() is not threading.main_thread():
            raise OSError("worker")
        return simulate(part, watch)

    monkeypatch.setattr("implicit_bias.shards.simulate", only_here)
    start = time.monotonic()
    with pytest.raises(OSError, match="worker"):
        simulate_in_shards(broken({}, 10_000_000), 2)
    assert time.monotonic() - start < 5


def test_the_number_of_threads_is_what_it_was() -> None:
    given = torch.get_num_threads()
    simulate_in_shards(broken({}, 20), 2)
    assert torch.get_num_threads() == given


def test_data_of_one_run_are_shared_and_not_cut() -> None:
    whole = problem("signgd", mixtures([3]), RUNS, 5, 0.1)
    part = part_of(whole, slice(0, 3), RUNS)
    assert isinstance(part.data, Data)
    assert len(part.data.x) == 1
    assert part.schedule.lr == 0.1
