"""Steps recorded as a CUDA graph: on a CPU by a recorder that does the work again into the memory that was written first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from implicit_bias.core.scaled import Scaled
from implicit_bias.engine import simulate
from implicit_bias.engine.steppers import choose, cuda_graph
from implicit_bias.engine.steppers.base import Setup
from implicit_bias.engine.steppers.cuda_graph import MOST_GRAPHS, CudaGraph, Replay, layout_of, mapped, tensors_in
from implicit_bias.engine.steppers.eager import Eager
from tests.engine.test_native import gaussian, problem, same_bits
from tests.support.devices import on
from tests.support.pretended_cuda import pretended_cuda

STEPS = 12


def again(work: Callable[[], Any]) -> tuple[Replay, Any]:
    """What a graph does, as far as memory goes."""
    made = work()

    def replay() -> None:
        for mine, theirs in zip(tensors_in(made), tensors_in(work()), strict=True):
            mine.copy_(theirs)

    return replay, made


def once(work: Callable[[], Any]) -> tuple[Replay, Any]:
    """A recording that is never played."""
    return lambda: None, work()


def unable(work: Callable[[], Any]) -> tuple[Replay, Any]:
    raise RuntimeError("called a synchronizing CUDA operation\nin detail")


def made_by(record: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are recorded in such a way."""
    kind = choose.Kind("cuda graph", lambda setup: None, partial(CudaGraph, record=record))
    monkeypatch.setattr(choose, "KINDS", (kind,))


@pytest.mark.parametrize("rule", ["signum, decay", "ngd", "adam, eps"])
def test_recorded_steps_are_the_plain_ones_to_the_last_bit(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base, said = problem(rule, gaussian(4, 6, 10), STEPS), list[str]()
    plain = simulate(replace(base, compile="off"))
    made_by(again, monkeypatch)
    ours = simulate(replace(base, tell=said.append))
    assert said == [] and ours.stepping == "cuda graph" and ours.stepping_refused == {}
    assert plain.stepping == "torch" and same_bits(ours, plain)


@pytest.mark.parametrize("rule", ["signum, decay", "ngd", "gd", "adam", "adam, eps", "lion"])
def test_no_step_that_is_recorded_waits_for_the_host(rule: str) -> None:
    """A number that the host writes to the device, or reads from it, could not be recorded."""
    with pretended_cuda() as device:
        setup = Setup.of(on(device, replace(problem(rule, gaussian(4, 6, 10), 150), compile="on")))
        assert cuda_graph.refusal(setup) is None
        stepper, start = CudaGraph(setup), setup.begun()
        there, plain = stepper.step(start, 1), Eager(setup).step(start, 1)
        assert stepper.stepping == "cuda graph", stepper.refused
        assert torch.equal(there.parameters["weight"].cpu(), plain.parameters["weight"].cpu())


def test_a_step_that_waits_for_the_host_is_not_recorded() -> None:
    said: list[str] = []
    with pretended_cuda() as device:
        setup = Setup.of(on(device, problem("muon", gaussian(4, 6, 10), 150, tell=said.append)))
        CudaGraph(setup).step(setup.begun(), 1)
    assert len(said) == 1 and "called a synchronizing CUDA operation (_linalg_eigh); plain" in said[0].replace(")); ", "); ")


def test_data_with_zeros_blocks_and_levels_are_recorded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    data = gaussian(3, 6, 9)
    data.x[:, ::2, 1] = 0.0
    base = problem("adam", data, STEPS, levels=2.0)
    plain = simulate(replace(base, compile="off"))
    made_by(again, monkeypatch)
    assert same_bits(simulate(base), plain)


def test_what_cannot_be_recorded_takes_plain_steps_with_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    base = problem("signgd", gaussian(4, 6, 10), STEPS)
    plain = simulate(replace(base, compile="off"))
    made_by(unable, monkeypatch)
    said: list[str] = []
    ours = simulate(replace(base, tell=said.append))
    reason = "the step cannot be recorded as a CUDA graph (RuntimeError: called a synchronizing CUDA operation)"
    assert said == [f"{reason}; plain steps are taken"] and ours.stepping_refused == {"cuda graph": reason}
    assert ours.stepping == "torch" and same_bits(ours, plain)


def test_a_recording_that_does_something_else_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    base = problem("signum", gaussian(4, 6, 10), STEPS)
    plain = simulate(replace(base, compile="off"))
    made_by(once, monkeypatch)
    said: list[str] = []
    ours = simulate(replace(base, tell=said.append))
    assert len(said) == 1 and said[0].startswith("steps by cuda graph are not the plain ones (step 2 of run 1 of 6 differs by ")
    assert ours.stepping == "torch" and same_bits(ours, plain)


def test_a_layout_that_never_stays_is_given_up() -> None:
    setup = Setup.of(problem("signgd", gaussian(3, 4, 6), STEPS))
    stepper, start = CudaGraph(setup, again), setup.begun()
    for count in range(MOST_GRAPHS + 1):
        state = {f"buffer {count}": {"weight": Scaled.zeros(start.parameters["weight"])}}
        assert stepper.refused is None
        stepper.step(start._replace(state=state), 1)
    assert stepper.stepping == "torch" and "another layout in every update" in str(stepper.refused)


def test_the_reasons_why_there_is_no_graph() -> None:
    signgd, muon = (problem(rule, gaussian(3, 4, 6), 150) for rule in ("signgd", "muon"))
    assert cuda_graph.refusal(Setup.of(signgd)) == "needs a CUDA GPU"
    assert "cuda graph" not in simulate(replace(signgd, steps=3)).stepping_refused, "where there is no GPU it is not in question"
    with pretended_cuda() as device:

        def there(given: Any, **changes: Any) -> str | None:
            return cuda_graph.refusal(Setup.of(replace(on(device, given), **changes)))

        assert there(signgd) is None
        assert there(signgd, compile="off") == "compile=off"
        assert there(muon) == "steps that work on matrices wait for the host"
        assert there(signgd, steps=50) == "fewer than 100 steps do not repay recording"


def test_nested_values_keep_their_order() -> None:
    a, b = torch.zeros(2, 1), torch.ones(2, 1)
    value = ({"x": Scaled(a, b), "n": 3}, (b, None))
    doubled = mapped(lambda tensor: 2 * tensor, value)
    assert torch.equal(doubled[0]["x"].log_scale, 2 * b) and doubled[1][1] is None and doubled[0]["n"] == 3
    assert [id(tensor) for tensor in tensors_in(value)] == [id(a), id(b), id(b)]
    assert layout_of(value) == layout_of(doubled) != layout_of(({"x": Scaled(a, a[:1]), "n": 3}, (b, None)))
