"""Steps in C on a matrix cut into blocks of columns, beside the plain ones."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch

from implicit_bias.engine import Problem, Trajectory, simulate
from implicit_bias.engine.mini_batches import mini_batches
from implicit_bias.engine.steppers.base import Setup
from implicit_bias.engine.steppers.eager import Eager
from implicit_bias.engine.steppers.native import LinearSteps, refusal
from implicit_bias.engine.steppers.native import linear as native
from implicit_bias.models import MODELS
from implicit_bias.norms import make_norm
from implicit_bias.optimizers import OPTIMIZERS
from tests.engine.test_native import PER_RUN, RUNS, gaussian, needs_compiler, problem, with_zeros
from tests.support.quick import quick_of

# Optimizer, its keys, and the norm where it is named.
METHODS: dict[str, tuple[str, dict[str, Any], Any]] = {
    "muon": ("muon", {"beta": PER_RUN}, None),
    "spectral_gd": ("spectral_gd", {"weight_decay": 0.3}, None),
    "nucgd": ("nucgd", {}, None),
    "row_gd": ("row_gd", {}, None),
    "muon_ns": ("muon_ns", {"ns_steps": 4}, None),
    "signum": ("signum", {"nesterov": True}, None),
    "nmgd": ("nmgd", {}, None),
    "gd": ("gd", {}, None),
    "adam": ("adam", {"beta1": PER_RUN}, None),
    "lion": ("lion", {}, None),
    "muon_signum": ("muon_signum", {"ratio": 0.3, "weight_decay": 0.2}, None),
    "sd, spectral": ("sd", {"clip": 0.2}, make_norm("spectral")),
    "nmd, weighted": ("nmd", {}, make_norm("spectral", layer_weights="rms")),
    "sd, hybrid, weighted": ("sd", {}, make_norm("hybrid", ratio=0.3, outer="l2", layer_weights="rms")),
    "nmd, schatten": ("nmd", {"beta": PER_RUN}, make_norm("schatten", p=3.0)),
    "sd, lp": ("sd", {"beta": 0.8}, make_norm("lp", p=1.5)),
    **{
        f"{name}, {outer}, {rest}": (name, keys, make_norm("hybrid", ratio=0.3, outer=outer, rest=rest))
        for name, keys in (("nsd", {}), ("nmd", {"beta": PER_RUN}), ("sd", {}))
        for outer in ("max", "l2")
        for rest in ("linf", "l2")
    },
}


def cut(method: str, sizes: list[int], steps: int = 25, **more: Any) -> Problem:
    name, keys, norm = METHODS[method]
    given = problem("ngd", gaussian(5, sum(sizes), 23), steps)
    model = MODELS.get("linear")(init="gaussian", init_scale=0.5, blocks=sizes)
    initial = model.initial(given.data, range(RUNS))
    return replace(given, model=model, initial=initial, optimizer=OPTIMIZERS.get(name)(**keys), norm=norm, **more)


@needs_compiler
@pytest.mark.numeric
@pytest.mark.parametrize("method", quick_of(METHODS, "muon", "adam", "muon_signum", "nmd, l2, linf", "sd, max, l2", "muon_ns"))
def test_every_step_is_the_plain_one_to_round_off(method: str) -> None:
    setup = Setup.of(cut(method, [3, 5, 4]))
    assert refusal(setup) is None
    with torch.no_grad():
        ours, plain, here = LinearSteps(setup), Eager(setup), setup.begun()
        for t in range(1, setup.problem.steps + 1):
            there = plain.step(here, t)
            reached = ours.step(here, t).parameters
            assert list(reached) == list(there.parameters)
            for name, after in there.parameters.items():
                before = here.parameters[name]
                moved, apart = ((a - after).abs().amax(dim=(1, 2)) for a in (before, reached[name]))
                assert (apart <= 1e-11 * moved + 1e-15 * before.abs().amax(dim=(1, 2))).all(), (t, name)
            here = there


def same_bits(a: Trajectory, b: Trajectory, own: slice = slice(None)) -> bool:
    """Whether all parameters and columns are the same; of some runs of ``a`` where ``b`` has those alone."""
    pairs = [(a.parameters[step][name][own], block) for step, blocks in b.parameters.items() for name, block in blocks.items()]
    columns = [(a.by_norm[label][key], column) for label, found in b.by_norm.items() for key, column in found.items()]
    return all(torch.equal(*pair) for pair in pairs) and all(x[:, own].tobytes() == y.tobytes() for x, y in columns)


@pytest.mark.slow
@needs_compiler
@pytest.mark.numeric
@pytest.mark.parametrize("method", ["nmd, l2, linf", "muon"])
def test_bits_alone_gone_on_with_and_in_calls_of_any_length(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By mini-batches, too, whose full gradients the certificates take."""
    for batch in (None, mini_batches(5, "reshuffle", torch.arange(RUNS), 23)):
        given = cut(method, [5, 7], steps=80, batch=batch)
        if batch is not None and method != "muon":
            given = replace(given, data=with_zeros(given.data))
        usual = simulate(given)
        assert usual.stepping == "c"
        alone = replace(given.at(torch.tensor([3])), measured=given.measured)
        assert same_bits(usual, simulate(alone), slice(3, 4))
        snapshots: dict[int, Any] = {}
        with monkeypatch.context() as short:
            short.setattr(native, "MOST_STEPS", 7)

            def keep(t: int, snapshot: Any, kept: dict[int, Any] = snapshots) -> None:
                kept[t] = deepcopy(snapshot())

            assert same_bits(usual, simulate(given, keep=keep))
        assert same_bits(usual, simulate(given, resume=snapshots[max(t for t in snapshots if t < 60)]))


@needs_compiler
def test_certificates_are_those_of_plain_steps() -> None:
    plain, ours = (simulate(cut("nmgd", [5, 7], steps=200, compile=wanted)) for wanted in ("off", "auto"))
    for label, columns in plain.by_norm.items():
        found = torch.from_numpy(ours.by_norm[label]["upper_bound"])
        torch.testing.assert_close(found, torch.from_numpy(columns["upper_bound"]), rtol=1e-9, atol=0)


@needs_compiler
def test_one_block_of_all_columns_is_the_whole_matrix() -> None:
    one, whole = cut("muon", [12]), problem("muon", gaussian(5, 12, 23), 25)
    ours, theirs = simulate(one), simulate(replace(whole, initial={"weight": one.initial["weight1"]}))
    last = max(ours.parameters)
    assert torch.equal(ours.parameters[last]["weight1"], theirs.parameters[last]["weight"])


@needs_compiler
def test_blocks_in_any_order_are_the_same_columns() -> None:
    given = cut("nmd, l2, linf", [5, 7])
    turned = dict(reversed(given.initial.items()))
    ours, theirs = simulate(given), simulate(replace(given, initial=turned))
    last = max(ours.parameters)
    assert theirs.stepping == "c"
    assert all(torch.equal(theirs.parameters[last][name], block) for name, block in ours.parameters[last].items())


def test_equal_entries_are_left_to_plain_steps() -> None:
    """Coordinate descent takes the first of them: that of the first block, not of the first row."""
    given = cut("nmgd", [5, 7])
    told = refusal(Setup.of(replace(given, optimizer=OPTIMIZERS.get("coordinate_descent")())))
    assert told is not None and "optimizer=coordinate_descent" in told
