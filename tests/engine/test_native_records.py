"""What records take from C beside what PyTorch finds at the same parameters: loss, gradient, gaps and the sizes of norms."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent import futures
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from implicit_bias.engine import Problem, simulate
from implicit_bias.engine.mini_batches import mini_batches
from implicit_bias.engine.steppers.base import Setup
from implicit_bias.engine.steppers.native import LinearSteps, records, threads
from implicit_bias.engine.steppers.native.compiling import library
from implicit_bias.engine.steppers.native.linear import SOURCE, SYMBOLS
from implicit_bias.engine.steppers.native.records import MOST_ENTRIES
from implicit_bias.engine.steppers.native.rules import DEFINITIONS
from implicit_bias.engine.steppers.native.structures import declared
from implicit_bias.engine.trajectory import Diverged
from implicit_bias.measures.margins import accuracy_and_margin
from implicit_bias.models import Data, Gradient
from implicit_bias.norms import make_norm
from implicit_bias.norms.sizes import Routines
from tests.engine.test_native import gaussian, needs_compiler, problem, with_zeros

pytestmark = needs_compiler
NORMS = ("linf", "l1", "l2", "lp3", "spectral", "nuclear", "schatten1.5", "row", "hybrid0.5")


def routines(given: Problem) -> Routines:
    found = LinearSteps(Setup.of(given)).routines
    assert found is not None
    return found


def off(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference in units of the other's largest entry in every row, beyond what is next to no number."""
    size = theirs.abs().amax(dim=-1, keepdim=True).clamp(min=1e-290)
    return float(((ours - theirs).abs() / size).max())


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("loss", ["cross_entropy", "exponential"])
@pytest.mark.parametrize("runs", [1, 6])
def test_a_record_at_any_depth_is_the_plain_one(runs: int, loss: str, zeros: bool) -> None:
    """Of runs alone and of groups, from gaps of 1e-300 on to losses of e^-1,000,000."""
    data = with_zeros(gaussian(5, 12, 23, runs)) if zeros else gaussian(5, 12, 23, runs)
    given = problem("signgd", data, 3, runs, loss)
    for size in (0.0, 1e-300, 1.0, 100.0, 1e6):
        given = replace(given, initial={"weight": size * given.model.initial(data, range(runs))["weight"]})
        setup = Setup.of(given)
        steps, plain = LinearSteps(setup), setup.objective.gradient(given.initial)
        steps.load(setup.begun())
        ours = steps.gradient
        assert ours.found is not None
        share, q = accuracy_and_margin(setup.objective.negative_gaps(given.initial).amax(dim=-2))
        torch.testing.assert_close(ours.log_loss, plain.log_loss, rtol=1e-14, atol=1e-15)
        torch.testing.assert_close(ours.found.q, q, rtol=1e-14, atol=0)
        torch.testing.assert_close(ours.found.accuracy, share, rtol=0, atol=0)
        # PyTorch takes the unit's logarithm from that of each row, and rounds both.
        tolerance = 1e-14 + 1e-15 * float(plain.log_unit.abs().max())
        assert off(ours.per_weight()["weight"], plain.per_weight()["weight"]) < tolerance
        top = plain.blocks["weight"].log_abs().amax(dim=-1, keepdim=True).clamp(min=-1e300)
        assert off(ours.blocks["weight"].relative_to(top), plain.blocks["weight"].relative_to(top)) < tolerance
        assert torch.equal(ours.log_losses(), plain.log_losses())


def test_scores_that_no_double_holds_are_seen() -> None:
    data = gaussian(3, 4, 9, 2)
    given = problem("signgd", data, 3, 2)
    data.x[1] *= 1e200
    given = replace(given, initial={"weight": torch.full_like(given.initial["weight"], 1e120).cumsum(dim=1)})
    setup = Setup.of(given)
    steps = LinearSteps(setup)
    steps.load(setup.begun())
    assert steps.gradient.log_loss.isfinite().tolist() == [True, False]
    with pytest.raises(Diverged):
        simulate(given)


@pytest.mark.parametrize("labels", [("spectral", "linf"), ("linf",)])
@pytest.mark.parametrize("compiled", ["off", "on"])
def test_a_gradient_that_no_double_holds_is_an_error_whatever_is_measured(compiled: Any, labels: tuple[str, ...]) -> None:
    """Scores and losses are numbers, the sum over samples is none."""
    y = torch.arange(8).remainder(2).unsqueeze(0)
    x = (1 - 2 * y).double().mul(1.7e308).unsqueeze(-1).repeat(1, 1, 3)
    given = problem("signgd", Data(x, y, 2), 3)
    start = {"weight": torch.zeros_like(given.initial["weight"])}
    measured = {label: make_norm(label) for label in labels}
    given = replace(given, initial=start, schedule=replace(given.schedule, lr=1e-308), measured=measured, compile=compiled)
    with pytest.raises(OverflowError, match="beyond every double; choose a smaller"):
        simulate(given)


FAULTS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "the smallest gap": ("q", lambda q: 1.5 * q),
    "accuracy": ("accuracy", lambda accuracy: 0 * accuracy),
    "the gradient over the weights' sum": ("per_weight", lambda blocks: {name: block / 2 for name, block in blocks.items()}),
    "the largest entry": ("largest", lambda largest: 2 * largest),
    "the largest parameter": ("parameter", lambda largest: 2 * largest),
    "log_loss": ("log_loss", lambda log_loss: log_loss - 3),
    "the samples' weight": ("total", lambda total: 2 * total),
    "the certificates' average": ("average", lambda average: average / 2),
    "a singular value": ("singular_values", lambda values: 2 * values),
    "the linf norm": ("largest", lambda largest: 2 * largest),
    "the l1 norm": ("total", lambda total: 2 * total),
    "the l2 norm": ("length", lambda length: length * (1 + 1e-12)),
}


def with_fault(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let something of what records take from C be wrong."""
    field, change = FAULTS[what]
    gradient_of, routines_by = records.Seen.gradient, records.routines_by

    def wrong_gradient(self: Any, *given: Any) -> Gradient:
        right = gradient_of(self, *given)
        if field == "total":
            return replace(right, total=change(right.total))
        assert right.found is not None
        return replace(right, found=right.found._replace(**{field: change(getattr(right.found, field))}))

    def wrong_average(self: Any, *given: Any) -> Gradient:
        self.average = None if self.average is None else change(self.average)
        return gradient_of(self, *given)

    def wrong_routines(*given: Any) -> Routines:
        right = routines_by(*given)
        if field == "singular_values":
            return right._replace(singular_values=lambda w: change(right.singular_values(w)))

        def sizes(vectors: Tensor) -> Any:
            found = right.entry_sizes(vectors)
            return found._replace(**{field: change(getattr(found, field))})

        return right._replace(entry_sizes=sizes)

    if "norm" in what or "singular" in what:
        monkeypatch.setattr(records, "routines_by", wrong_routines)
    else:
        monkeypatch.setattr(records.Seen, "gradient", wrong_average if field == "average" else wrong_gradient)


@pytest.mark.parametrize("batch", [None, 4])
@pytest.mark.parametrize("what", FAULTS)
def test_wrong_records_in_c_are_not_taken(what: str, batch: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    given = problem("adam", gaussian(4, 6, 10, 2), 12, 2)
    given = replace(given, batch=mini_batches(batch, "reshuffle", torch.arange(2), 10))
    said: list[str] = []
    with_fault(what, monkeypatch)
    assert simulate(replace(given, tell=said.append)).stepping == "torch"
    assert len(said) == 1 and said[0].startswith(f"steps by c are not the plain ones ({what} of run 1 of 2 after step 5 ")


def test_weights_over_the_loss_are_of_one_evaluation() -> None:
    """At losses of e^-50,000,000,000,000 logarithms of two evaluations differ by a hundredth."""
    given = problem("signgd", gaussian(3, 12, 9, 1), 1, 1)
    separator = torch.linalg.lstsq(given.data.x[0], functional.one_hot(given.data.y[0], 3).double()).solution.T[None]
    setup = Setup.of(replace(given, initial={"weight": 5e13 * separator.contiguous()}))
    steps, plain = LinearSteps(setup), setup.begun().gradient
    steps.load(setup.begun())
    assert plain is not None and float(steps.gradient.log_loss) < -1e13
    assert torch.equal(steps.gradient.weight_over_loss, plain.weight_over_loss)


def test_an_interrupt_is_raised_when_no_thread_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of them, while others still write."""
    interrupts, wait, done = [KeyboardInterrupt("first"), KeyboardInterrupt("second")], futures.wait, threading.Event()

    def interrupted(others: Any) -> Any:
        if interrupts:
            raise interrupts.pop(0)
        done.set()
        return wait(others)

    monkeypatch.setattr(threads, "wait", interrupted)
    ended: list[int] = []

    def work(thread: int) -> int:
        if thread:
            assert done.wait(10)
            ended.append(thread)
        return 3

    with futures.ThreadPoolExecutor(2) as pool:
        with pytest.raises(KeyboardInterrupt, match="first"):
            threads.by_all(work, 3, pool)
        assert sorted(ended) == [1, 2]
        assert threads.by_all(lambda thread: thread, 3, pool) == 0


MATRICES = ((64, 10, 25), (5, 12, 2), (3, 1, 6), (3, 6, 1), (2, 30, 30))


@pytest.mark.parametrize("shape", MATRICES)
def test_singular_values_are_lapacks_and_a_matrix_has_its_own(shape: tuple[int, int, int]) -> None:
    values_of = routines(problem("signgd", gaussian(3, 4, 9), 1)).singular_values
    assert shape[1] * shape[2] <= MOST_ENTRIES
    w = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    far_apart = w * torch.logspace(0, -14, shape[1], dtype=torch.float64)[:, None]
    tied = torch.linalg.svd(w, full_matrices=False)
    one_rank = w[:, :, :1] @ w[:, :1]
    for matrices in (w, far_apart, tied.U @ tied.Vh, one_rank, 1e300 * w, 1e-300 * w, 0 * w, w.mT):
        ours, lapack = values_of(matrices), torch.linalg.svdvals(matrices)
        assert ((ours - lapack).abs().amax(dim=-1) <= 1e-14 * lapack[:, 0]).all()
        assert torch.equal(ours[-1:], values_of(matrices[-1:])) and (ours.diff(dim=-1) <= 0).all()
    w[1, 0, 0] = torch.nan
    assert values_of(w).isnan().all(dim=-1).nonzero().flatten().tolist() == [1]


@pytest.mark.parametrize("numbers", [1, 7, 8, 250])
def test_sizes_of_entries(numbers: int) -> None:
    sizes_of = routines(problem("signgd", gaussian(3, 4, 9), 1)).entry_sizes
    w = torch.randn(5, numbers, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for vectors in (w, 1e300 * w, 1e-300 * w, 1e-310 * w, 0 * w):
        found, top = sizes_of(vectors), vectors.abs().amax(dim=1)
        unit = top.clamp(min=1e-323)
        assert torch.equal(found.largest, top)
        torch.testing.assert_close(found.total, vectors.abs().sum(dim=1), rtol=1e-14, atol=0)
        # Of denormal numbers a step of 5e-324 is left.
        torch.testing.assert_close(found.length, (vectors / unit[:, None]).norm(dim=1) * unit, rtol=1e-14, atol=1e-323)
    w[2, -1] = torch.nan
    for column in sizes_of(w):
        assert column.isnan().tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("count", [1, 8, 21])
def test_threads_that_share_out_matrices_and_entries_leave_their_bits(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of records one after the other, and of two matrices, which are fewer than the threads."""
    compiled = library(SOURCE, SYMBOLS, DEFINITIONS)
    assert compiled is not None and declared(compiled)
    monkeypatch.setattr(records, "LEAST_OF_MATRICES", 1)
    monkeypatch.setattr(records, "LEAST_OF_ENTRIES", 1)
    w = torch.randn(count, 2, 4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with futures.ThreadPoolExecutor(2) as pool:
        alone, shared = records.routines_by(compiled), records.routines_by(compiled, 3, pool)
        for mine, theirs in ((alone, w), (shared, w), (shared, w.flatten(0, 1))):
            assert torch.equal(mine.singular_values(theirs).flatten(), alone.singular_values(w).flatten())
            for ours, expected in zip(mine.entry_sizes(theirs.flatten(-2)), alone.entry_sizes(w.flatten(-2)), strict=True):
                assert ours.shape == theirs.shape[:-2] and torch.equal(ours.flatten(), expected.flatten())


@pytest.mark.parametrize("rule", ["muon", "adam"])
def test_all_columns_are_those_of_plain_records(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same steps, recorded by PyTorch: margins, bounds, alignments and sizes under every norm, to 1e-12."""
    given = replace(problem(rule, gaussian(5, 12, 23), 200), measured={label: make_norm(label) for label in NORMS})
    ours = simulate(given)

    def plainly(self: Any) -> Gradient:
        found: Gradient = Setup.of(given).objective.gradient(self.parameters)
        return found

    monkeypatch.setattr("implicit_bias.engine.steppers.native.records.routines_by", lambda *_: None)
    monkeypatch.setattr(LinearSteps, "gradient", property(plainly))
    theirs = simulate(given)
    assert ours.stepping == theirs.stepping == "c" and ours.steps == theirs.steps
    assert torch.equal(ours.parameters[200]["weight"], theirs.parameters[200]["weight"])
    pairs = [(column, theirs.by_norm[label][key]) for label, columns in ours.by_norm.items() for key, column in columns.items()]
    for column, plain in [*pairs, *((column, theirs.common[key]) for key, column in ours.common.items())]:
        np.testing.assert_allclose(column, plain, rtol=1e-12, atol=1e-14)
