"""Steps in C beside the plain ones."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import subprocess
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from implicit_bias.config.overrides import compose
from implicit_bias.core.scaled import Scaled
from implicit_bias.datasets import Dataset
from implicit_bias.engine import Problem, Trajectory, simulate
from implicit_bias.engine.mini_batches import mini_batches
from implicit_bias.engine.steppers import verification
from implicit_bias.engine.steppers.base import Reached, Setup
from implicit_bias.engine.steppers.choose import choose
from implicit_bias.engine.steppers.native import LinearSteps, compiling, network_rules, refusal
from implicit_bias.engine.steppers.native import network as networks
from implicit_bias.engine.steppers.native.compiling import FLAGS, Definitions, compilers, foreign_hand, library, processor_flags
from implicit_bias.engine.steppers.native.linear import SOURCE
from implicit_bias.engine.steppers.native.rules import DEFINITIONS
from implicit_bias.engine.steppers.torch_compile import REPAID_STEPS
from implicit_bias.losses import FLOOR, LOSSES
from implicit_bias.losses.pair_logistic import PairLogistic
from implicit_bias.measures.probe import Columns, Probe, Record
from implicit_bias.models import MODELS, Data
from implicit_bias.norms import NORMS, Norm, make_norm
from implicit_bias.norms.singular import RANK_TOLERANCE
from implicit_bias.optimizers import OPTIMIZERS
from implicit_bias.optimizers.muon import Muon
from implicit_bias.optimizers.muon_adam import MuonAdam
from implicit_bias.schedules import SCHEDULES
from implicit_bias.schedules.lyu_li import LyuLi
from implicit_bias.sweep.plan import Cell, batches
from tests.support.quick import quick_of

needs_compiler = pytest.mark.skipif(not compilers(), reason="no C compiler here: the steps are plain")

RUNS = 6
PER_RUN = torch.linspace(0.1, 0.9, RUNS, dtype=torch.float64).view(-1, 1, 1)
# Every way through linear.c, with numbers of each run's own where they may differ.
RULES: dict[str, tuple[str, dict[str, Any]]] = {
    "signgd": ("signgd", {}),
    "signum": ("signum", {"beta": PER_RUN}),
    "signum, look-ahead": ("signum", {"nesterov": True}),
    "ngd": ("ngd", {}),
    "nmgd": ("nmgd", {"beta": PER_RUN}),
    "gd": ("gd", {}),
    "sd": ("sd", {}),
    "sd, momentum": ("sd", {"beta": 0.8}),
    "momentum_gd": ("momentum_gd", {"beta": PER_RUN}),
    "heavy ball": ("momentum_gd", {"ema": False, "nesterov": True, "beta": 0.8}),
    "spectral_gd": ("spectral_gd", {}),
    "muon": ("muon", {"beta": PER_RUN}),
    "muon, look-ahead": ("muon", {"nesterov": True}),
    "muon_ns": ("muon_ns", {"beta": PER_RUN, "ns_steps": 4}),
    # Some runs without eps, and where there is one some gradients above it, others far below.
    "muon_ns, eps": ("muon_ns", {"beta": PER_RUN, "eps": (PER_RUN - 0.3).clamp(min=0) ** 4}),
    "muon_ns, polar_express": ("muon_ns", {"nesterov": True, "ns_steps": 9, "coefficients": "polar_express", "eps": 10.0}),
    "nucgd": ("nucgd", {}),
    "coordinate_descent": ("coordinate_descent", {}),
    "row_gd": ("row_gd", {}),
    "row, momentum": ("nmd", {"beta": PER_RUN}),
    "adam": ("adam", {"beta1": PER_RUN, "beta2": PER_RUN.flip(0)}),
    "adam, eps": ("adam", {"eps": 1e-3 * PER_RUN, "bias_correction": False}),
    # Some runs without, beside others.
    "signum, decay": ("signum", {"beta": PER_RUN, "weight_decay": (PER_RUN - 0.5).clamp(min=0)}),
    "gd, decay": ("gd", {"weight_decay": PER_RUN}),
    "muon, decay": ("muon", {"weight_decay": 0.3}),
    "adam, decay": ("adam", {"weight_decay": PER_RUN}),
    "lion": ("lion", {"beta1": PER_RUN, "beta2": PER_RUN.flip(0)}),
    "lion, decay": ("lion", {"weight_decay": (PER_RUN - 0.5).clamp(min=0)}),
    "sd, clip": ("sd", {"clip": 0.05}),
    "sd in linf": ("sd", {}),
    "sd in l1": ("sd", {"beta": 0.8}),
    "sd in row": ("sd", {"clip": 0.1, "weight_decay": PER_RUN}),
    "sd in spectral": ("sd", {"beta": 0.8}),
    "sd in nuclear": ("sd", {}),
    "sd, first": ("sd", {"beta": 0.8, "first": "gradient"}),
    "nsd in lp": ("nsd", {}),
    "nmd in lp": ("nmd", {"nesterov": True, "beta": PER_RUN}),
    "sd in lp": ("sd", {"beta": 0.8, "first": "gradient"}),
    "nsd in schatten": ("nsd", {"weight_decay": PER_RUN}),
    "nmd in schatten": ("nmd", {"beta": PER_RUN}),
    "sd in schatten": ("sd", {"clip": 0.1}),
    "nmd in column": ("nmd", {"beta": PER_RUN}),
    "sd in column": ("sd", {"weight_decay": PER_RUN}),
}
# The exponents of l_p and Schatten norms.
EXPONENTS = torch.linspace(1.2, 6, RUNS, dtype=torch.float64)


def norm_of(rule: str, runs: int = RUNS) -> Norm | None:
    """The norm that a rule names."""
    label = "row" if rule == "row, momentum" else rule.partition(" in ")[2]
    if label in ("lp", "schatten"):
        found: Norm = NORMS.get(label)(EXPONENTS[:runs])
        return found
    return make_norm(label) if label else None


WHOLE_RUNS = ("signgd", "signum", "ngd", "nmgd", "gd", "momentum_gd", "spectral_gd", "muon", "adam")


def gaussian(k: int, d: int, n: int, runs: int = RUNS, shared: bool = False) -> Data:
    generator = torch.Generator().manual_seed(100 * k + d)
    sets = 1 if shared else runs
    x = torch.randn(sets, n, d, dtype=torch.float64, generator=generator)
    return Data(x, torch.randint(k, (sets, n), generator=generator), k)


def with_zeros(data: Data) -> Data:
    """Half of the entries zero, a feature that no sample has, and one that two have."""
    x = data.x.clamp(min=0)
    x[:, :, 1:3] = 0.0
    x[:, :2, 1] = torch.tensor([1.0, -1.5])
    return Data(x, data.y, data.num_classes)


def problem(rule: str, data: Data, steps: int, runs: int = RUNS, loss: str = "cross_entropy", **more: Any) -> Problem:
    name, numbers = RULES[rule]
    numbers = {key: value[:runs] if isinstance(value, torch.Tensor) else value for key, value in numbers.items()}
    optimizer, model = OPTIMIZERS.get(name)(**numbers), MODELS.get("linear")(init="gaussian", init_scale=0.5)
    # Gradient descent on an exponential loss diverges at rates that others bear.
    rate = 0.001 if loss == "exponential" and name.endswith(("gd", "sd")) else 0.1
    rate *= 0.01 if rule.startswith("sd in ") else 1.0  # the dual norms are larger than l2
    lr = rate * torch.linspace(0.2, 2, RUNS, dtype=torch.float64)[:runs]
    return Problem(
        model=model,
        loss=LOSSES.get(loss)(),
        optimizer=optimizer,
        schedule=SCHEDULES.get("power")(lr=lr, power=0.5),
        data=data,
        initial=model.initial(data, range(runs)),
        steps=steps,
        norm=norm_of(rule, runs),
        measured={label: make_norm(label) for label in ("linf", "l2", "spectral")},
        points=10,
        weights="all",
        **more,
    )


def steps_of(given: Problem) -> LinearSteps | None:
    """The compiled steps of a problem, or None."""
    setup = Setup.of(given)
    return LinearSteps(setup) if refusal(setup) is None else None


def assert_each_step_near(given: Problem) -> None:
    """Each step from the plain trajectory's own state, relative to its length, to 1e-11."""
    snapshots: list[dict[str, Any]] = []
    simulate(replace(given, compile="off", points=1, measured={}), keep=lambda _, snapshot: snapshots.append(snapshot()))
    steps = steps_of(given)
    assert steps is not None, "covered"
    for now, then in pairwise(snapshots):
        state = {buffer: {name: Scaled(*parts) for name, parts in blocks.items()} for buffer, blocks in now["state"].items()}
        before, after = now["parameters"]["weight"], then["parameters"]["weight"]
        ours = steps.step(Reached({"weight": before}, state), now["step"] + 1).parameters["weight"]
        moved, apart = ((a - after).abs().amax(dim=(1, 2)) for a in (before, ours))
        assert (apart <= 1e-11 * moved + 1e-15 * before.abs().amax(dim=(1, 2))).all(), now["step"]


@needs_compiler
@pytest.mark.numeric
@pytest.mark.parametrize("loss", ["cross_entropy", "exponential"])
@pytest.mark.parametrize("rule", quick_of(sorted(RULES), "signgd", "signum", "muon", "adam", "lion", "sd in spectral"))
def test_every_step_is_the_plain_one_to_round_off(rule: str, loss: str) -> None:
    assert_each_step_near(problem(rule, gaussian(5, 12, 23), 15, loss=loss))


@needs_compiler
@pytest.mark.numeric
@pytest.mark.parametrize("rule", quick_of(sorted(RULES), "signum", "muon", "adam", "lion", "signum, look-ahead"))
def test_every_step_on_data_with_zeros_is_the_plain_one_to_round_off(rule: str) -> None:
    """Near, and where entries of gradients are e^-10,000 of others in their row."""
    near = problem(rule, with_zeros(gaussian(5, 12, 23)), 12)
    for size in (1.0, 1e4):
        assert_each_step_near(replace(near, initial={"weight": size * near.initial["weight"]}))


@needs_compiler
@pytest.mark.numeric
@pytest.mark.parametrize("loss", ["cross_entropy", "exponential"])
@pytest.mark.parametrize(("rule", "size"), [("gd", None), ("gd", 7), ("sd, clip", 7), ("sd in lp", None), ("momentum_gd", None)])
def test_every_step_over_the_loss_is_the_plain_one_to_round_off(rule: str, loss: str, size: int | None) -> None:
    """Where losses are about one, and e^-300; by the loss of a batch, too."""
    given = problem(rule, gaussian(5, 12, 23), 12, loss=loss)
    batch = None if size is None else mini_batches(size, "reshuffle", torch.arange(RUNS), 23)
    given = replace(given, schedule=SCHEDULES.get("loss_based")(lr=given.schedule.lr), batch=batch)
    for scale in (0.0, 200.0):
        assert_each_step_near(replace(given, initial={"weight": scale * given.initial["weight"]}))


COLUMNS = ("margin", "upper_bound", "alignment", "param_norm")


def apart(a: Trajectory, b: Trajectory) -> np.ndarray:
    """The largest relative difference of each run's columns, beyond 1e-12; ``a`` may have the runs of ``b`` several times."""
    times = (1, a.recorded.shape[1] // b.recorded.shape[1])
    pairs = [(columns[key], np.tile(b.by_norm[label][key], times)) for label, columns in a.by_norm.items() for key in COLUMNS]
    largest: np.ndarray = np.max([(np.abs(x - y) - 1e-12).clip(0) / np.abs(y) for x, y in pairs], axis=(0, 1))
    return largest


def amplified(given: Problem, plain: Trajectory) -> np.ndarray:
    """What a change of W0 by 1e-16 becomes in the columns of each run, of four such changes the worst."""
    shape, seeds = given.initial["weight"].shape, range(4)
    noise = [torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    many = given.at(torch.arange(RUNS).repeat(len(seeds)))
    start = {"weight": many.initial["weight"] + 1e-16 * torch.cat(noise)}
    moved = simulate(replace(many, initial=start, measured=given.measured, compile="off"))
    largest: np.ndarray = apart(moved, plain).reshape(len(seeds), RUNS).max(axis=0)
    return largest


@needs_compiler
@pytest.mark.numeric
@pytest.mark.parametrize("optimizer", quick_of(WHOLE_RUNS, "signgd", "muon", "nmgd"))
def test_whole_runs_agree(optimizer: str) -> None:
    """To 1e-9 over 100 steps. Certificates too.

    A run that is shown to amplify round-off (a singular value of its gradient all but vanishes) is another on every processor: it
    agrees to some times what a change of W0 by 1e-16 makes of it. At most one in six may be such a run.
    """
    given = problem(optimizer, gaussian(5, 12, 23), 100)
    given = replace(given, optimizer=OPTIMIZERS.get(optimizer)())
    plain, ours = (simulate(replace(given, compile=wanted)) for wanted in ("off", "auto"))
    known = amplified(given, plain)
    assert ours.stepping == "c"
    assert (known < 1e-10).sum() >= RUNS - 1
    assert (apart(ours, plain) <= np.where(known < 1e-10, 1e-9, 30 * known)).all()


@needs_compiler
@pytest.mark.numeric
@pytest.mark.parametrize(("k", "d"), [(2, 1), (2, 7), (9, 3), (6, 5), (12, 2)])
@pytest.mark.parametrize(
    "rule", quick_of(["signum", "nmgd", "muon", "adam", "nucgd", "muon_ns", "row, momentum"], "muon", "adam")
)
def test_any_shape_is_covered(rule: str, k: int, d: int) -> None:
    """Fewer features than classes, one more class than features, two classes, one feature."""
    assert_each_step_near(problem(rule, gaussian(k, d, 3 * k), 12))


@needs_compiler
@settings(max_examples=25, deadline=None)
@given(
    exponent=st.integers(-3, 5),
    apart=st.integers(0, 4),
    rule=st.sampled_from(sorted(RULES)),
    seed=st.integers(0, 1000),
    zeros=st.booleans(),
)
def test_a_step_at_any_depth_is_the_plain_one(exponent: int, apart: int, rule: str, seed: int, zeros: bool) -> None:
    """Parameters of any size, losses down to e^-1,000,000, and class rows whose gradients differ by as much."""
    generator = torch.Generator().manual_seed(seed)
    given = problem(rule, with_zeros(gaussian(4, 9, 12)) if zeros else gaussian(4, 9, 12), 1)
    w = torch.randn(RUNS, 4, 9, dtype=torch.float64, generator=generator) * 10.0**exponent
    given.data.x[:, :, 0] = given.data.x[:, :, 0].abs() + 0.5
    w[:, 1, 0] -= 10.0**apart  # this class is far below the others on every sample
    given = replace(given, initial={"weight": w})
    plain, ours = (simulate(replace(given, compile=wanted)).parameters[1]["weight"] for wanted in ("off", "auto"))
    size = torch.maximum((plain - w).abs(), 1e-16 * w.abs()).amax(dim=(1, 2), keepdim=True)
    polar = RULES[rule][0] in ("muon", "spectral_gd", "nucgd") or rule.endswith(("spectral", "nuclear", "schatten"))
    # A gradient whose rows are far apart has singular values below round-off of the largest, and no known direction there.
    rounding = condition(given) if polar else torch.ones(RUNS, dtype=torch.float64)
    if (zeros and RULES[rule][0] == "adam") or rule.endswith("lp"):  # ratios of numbers by their logarithms, rounded to some ulps
        logs = given.model.objective(given.data, given.loss).gradient(given.initial).blocks["weight"].log_scale
        rounding = rounding + 1e-4 * logs.masked_fill(logs == -torch.inf, 0.0).abs().amax(dim=(1, 2))
    known = rounding < 1e6
    assert ((plain - ours).abs() <= 1e-11 * rounding.view(-1, 1, 1) * size)[known].all()


def condition(given: Problem) -> torch.Tensor:
    """The condition number of each run's first gradient in its row space."""
    gradient = given.model.objective(given.data, given.loss).gradient(given.initial).blocks["weight"].collapse()
    s = torch.linalg.svdvals(gradient)
    ratio: torch.Tensor = s[:, 0] / s[:, 2].clamp(min=1e-300)
    return ratio


def same_bits(a: Trajectory, b: Trajectory, run: int | None = None) -> bool:
    """Whether all columns and parameters are the same; of one run of ``a`` where ``b`` is that run alone."""
    own = slice(None) if run is None else slice(run, run + 1)
    pairs = [(a.by_norm[label][key], column) for label, columns in b.by_norm.items() for key, column in columns.items()]
    parameters = all(torch.equal(a.parameters[step]["weight"][own], blocks["weight"]) for step, blocks in b.parameters.items())
    return parameters and all(theirs[:, own].tobytes() == mine.tobytes() for theirs, mine in pairs)


@needs_compiler
@pytest.mark.numeric
@pytest.mark.parametrize(
    ("rule", "shared", "zeros"),
    [
        *(
            (rule, shared, False)
            for rule in ("signgd", "muon", "adam, eps", "lion", "sd in spectral")
            for shared in (False, True)
        ),
        *(("signum, decay", False, zeros) for zeros in (False, True)),
        ("adam, eps", True, True),
        *(("nmd in lp", shared, shared) for shared in (False, True)),
        ("sd in schatten", False, False),
    ],
)
def test_a_run_has_the_same_bits_alone_and_beside_any_others(rule: str, shared: bool, zeros: bool) -> None:
    """Also where the others have other momenta, which plain steps only match to round-off."""
    data = gaussian(5, 7, 16, shared=shared)
    if zeros:
        data = with_zeros(data)
    given = replace(problem(rule, data, 40), points=4)
    if zeros:  # so far that entries of gradients are lost beside others in their row
        given = replace(given, initial={"weight": 1e4 * given.initial["weight"]})
    together = simulate(given)
    assert together.stepping == "c"
    for run in (0, 5):
        assert same_bits(together, simulate(replace(given.at(torch.tensor([run])), measured=given.measured)), run)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@needs_compiler
@pytest.mark.numeric
@pytest.mark.parametrize("rule", ["signum", "muon", "adam"])
def test_threads_and_the_length_of_calls_do_not_show(rule: str, threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    given = problem(rule, gaussian(4, 6, 10, runs=RUNS), 150)
    torch.set_num_threads(1)
    usual = simulate(given)
    monkeypatch.setattr("implicit_bias.engine.steppers.native.linear.MOST_STEPS", 7)
    torch.set_num_threads(3)
    assert same_bits(usual, simulate(given))


GONE_ON_WITH = ("signum", "muon", "adam on zeros", "gd", "lion")


@needs_compiler
@pytest.mark.parametrize("case", quick_of([*sorted(RULES), "adam on zeros"], *GONE_ON_WITH))
def test_it_goes_on_from_a_snapshot_to_the_last_bit(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first step and between two records; of some rules, for it is the same for all, at a record and near the end, too.

    Steps in C are not compared with plain ones here, which would take most of the time.
    """
    rule, _, zeros = case.partition(" on ")
    given = problem(rule, with_zeros(gaussian(4, 6, 10)) if zeros else gaussian(4, 6, 10), 50)
    monkeypatch.setattr(verification, "CHECKED_STEPS", 0)
    usual = simulate(given)
    assert usual.stepping == "c"
    chosen = (1, 26, 9, 47) if case in GONE_ON_WITH else (1, 26)
    assert [t in usual.steps for t in chosen] == [True, False, True, False][: len(chosen)]
    snapshots: dict[int, Any] = {}

    def keep(t: int, snapshot: Callable[[], Any]) -> None:
        if t in chosen:
            snapshots[t] = deepcopy(snapshot())

    with monkeypatch.context() as shorter:
        shorter.setattr("implicit_bias.engine.steppers.native.linear.MOST_STEPS", 5)
        assert same_bits(usual, simulate(given, keep=keep))
    for t in chosen:
        assert same_bits(usual, simulate(given, resume=snapshots[t]))


@pytest.mark.parametrize("compiled", ["off", pytest.param("auto", marks=needs_compiler)])
def test_steps_that_decay_with_power_zero_are_the_constant_ones(compiled: Any) -> None:
    given = replace(problem("momentum_gd", gaussian(5, 12, 23), 40), compile=compiled)
    lr = given.schedule.lr
    decaying, constant = (
        simulate(replace(given, schedule=schedule)).by_norm["l2"]["margin"]
        for schedule in (SCHEDULES.get("power")(lr=lr, power=0.0), SCHEDULES.get("constant")(lr=lr))
    )
    np.testing.assert_array_equal(decaying, constant)


@needs_compiler
def test_the_watch_and_the_finite_check_are_kept() -> None:
    seen: list[int] = []
    simulate(problem("signgd", gaussian(3, 4, 9), 50), watch=lambda t, _: seen.append(t))
    assert seen[-1] == 50
    wild = problem("gd", gaussian(3, 4, 9), 50)
    wild = replace(wild, initial={"weight": wild.initial["weight"].index_fill(0, torch.tensor([2]), math.nan)})
    with pytest.raises(ArithmeticError) as caught:
        simulate(wild)
    assert caught.value.runs == [2]  # type: ignore[attr-defined]


@needs_compiler
@pytest.mark.parametrize(
    "what",
    [
        {"loss": LOSSES.get("pair_logistic")()},
        {"schedule": SCHEDULES.get("lyu_li")(lr=0.1), "optimizer": OPTIMIZERS.get("gd")()},
        {"optimizer": OPTIMIZERS.get("muon_adam")()},
        {"optimizer": OPTIMIZERS.get("muon_ns")(dtype="bfloat16")},
        {"optimizer": OPTIMIZERS.get("nsd")(), "norm": make_norm("neuron2")},
        {"data": Data(gaussian(5, 12, 23).x.float(), gaussian(5, 12, 23).y, 5)},
    ],
)
def test_what_is_not_covered_is_left_to_plain_steps(what: dict[str, Any]) -> None:
    given = problem("signgd", gaussian(5, 12, 23), 3)
    assert steps_of(given) is not None
    assert steps_of(replace(given, **what)) is None


class LooksBack(Probe):
    """Wants the update before every record, wherever the loss says that one is."""

    name = "looked_back"
    looks_back = True

    def measure(self, record: Record) -> Columns:
        assert (record.update is None) == (record.t == 0)
        return {"looked_back": record.q}


@needs_compiler
@pytest.mark.parametrize("what", [{"compile": "off"}, {"levels": 2.0, "probes": (LooksBack(),)}])
def test_runs_are_stepped_one_by_one_where_every_step_has_to_be_seen(
    what: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = LinearSteps.advance
    monkeypatch.setattr(LinearSteps, "advance", lambda self, t, last: advance(self, t, last) if last == t + 1 else pytest.fail())
    simulate(replace(problem("signgd", gaussian(3, 4, 9), 12), **what))


@needs_compiler
@pytest.mark.parametrize("compiled", ["off", "auto"])
def test_mini_batches_have_the_update_before_records_at_levels_too(compiled: Any) -> None:
    base = problem("signum", gaussian(5, 12, 23), 90, levels=3.0)
    given = replace(base, batch=mini_batches(4, "reshuffle", torch.arange(RUNS), 23), compile=compiled)
    seen = simulate(replace(given, probes=(LooksBack(),)))
    alone = simulate(given)
    assert given.cadence == 6 and seen.steps == alone.steps and seen.stepping == alone.stepping
    assert sum(t % 6 == 0 for t in seen.steps) > 8, "records at levels, which are looked for every six updates"
    assert all(torch.equal(seen.parameters[t]["weight"], alone.parameters[t]["weight"]) for t in seen.steps)


@needs_compiler
@pytest.mark.parametrize(
    ("rule", "loss", "size", "reduction"),
    [
        ("signgd", "cross_entropy", None, "none"),
        ("signum", "exponential", None, "none"),
        ("signum", "cross_entropy", 4, "none"),
        ("signum", "cross_entropy", 4, "svrg"),
    ],
)
def test_levels_and_stops_are_those_of_plain_steps(rule: str, loss: str, size: int | None, reduction: Any) -> None:
    """In several groups of runs, each of which comes to a level of its own first; and to the last bit those of a run alone."""
    base = problem(rule, gaussian(5, 12, 23), 60, loss=loss, levels=3.0, stop_log_loss=-0.7)
    batch = None if size is None else mini_batches(size, "reshuffle", torch.arange(3 * RUNS), 23)
    given = replace(base.at(torch.arange(3 * RUNS) % RUNS), measured=base.measured, batch=batch, variance_reduction=reduction)
    plain, ours = (simulate(replace(given, compile=wanted)) for wanted in ("off", "auto"))
    assert ours.stepping == "c" and ours.steps == plain.steps and len(ours.steps) > 12
    np.testing.assert_array_equal(ours.recorded, plain.recorded)
    assert not plain.recorded[-1].all(), "some have stopped"
    assert (apart(ours, plain) <= 1e-9).all()
    for run in (0, 10):
        alone = simulate(replace(given.at(torch.tensor([run])), measured=given.measured))
        mine = ours.recorded[:, run]
        assert alone.steps == [t for t, recorded in zip(ours.steps, mine, strict=True) if recorded]
        theirs = [torch.equal(alone.parameters[t]["weight"][0], ours.parameters[t]["weight"][run]) for t in alone.steps]
        assert all(theirs)
        bounds = ours.by_norm["l2"]["upper_bound"][mine, run]
        assert bounds.tobytes() == alone.by_norm["l2"]["upper_bound"][:, 0].tobytes(), "certificates are of the same steps"


@pytest.fixture
def fresh_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Nothing loaded, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library.cache_clear()
    yield tmp_path / "implicit_bias"
    library.cache_clear()


@pytest.fixture
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source that is compiled in no time."""
    source = tmp_path_factory.mktemp("source") / "tiny.c"
    source.write_text("long one(void) { return 1; }\n")
    return source


TINY = ("one",)


@needs_compiler
def test_a_library_is_compiled_once_and_again_where_it_is_damaged(fresh_library: Path, tiny: Path) -> None:
    assert library(tiny, TINY) is not None
    (kept,) = fresh_library.iterdir()
    made = kept.stat().st_mtime_ns
    library.cache_clear()
    assert library(tiny, TINY) is not None
    assert kept.stat().st_mtime_ns == made
    kept.unlink()  # not overwritten in place: it is still mapped
    kept.write_bytes(b"\x7fELF and then nothing")
    library.cache_clear()
    assert library(tiny, TINY) is not None
    assert kept.read_bytes()[:30] != b"\x7fELF and then nothing"


@needs_compiler
def test_a_library_is_compiled_anew_where_a_header_has_changed(fresh_library: Path, tmp_path: Path) -> None:
    source, header = tmp_path / "answer.c", tmp_path / "answer.h"
    source.write_text('#include "answer.h"\nlong answer(void) { return ANSWER; }\n')
    for answer in (1, 2):
        header.write_text(f"#define ANSWER {answer}\n")
        library.cache_clear()
        made = library(source, ("answer",))
        assert made is not None and made.answer() == answer


NOBODY = 65534


def given_away(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    os.chown(path, NOBODY, NOBODY)


def opened(mode: int) -> Callable[[Path], None]:
    return lambda path: path.chmod(path.stat().st_mode | mode)


def linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


FOREIGN_FOLDERS = {"of another user": given_away, "open to all": opened(0o007), "open to the group": opened(0o020)}


@needs_compiler
@pytest.mark.parametrize("where", ["implicit_bias", "."])
@pytest.mark.parametrize("change", FOREIGN_FOLDERS)
def test_a_library_where_others_can_write_is_not_loaded_and_no_other_is_put_there(
    fresh_library: Path, tiny: Path, capsys: pytest.CaptureFixture[str], change: str, where: str
) -> None:
    assert library(tiny) is not None
    (kept,) = fresh_library.iterdir()
    FOREIGN_FOLDERS[change](fresh_library.parent / where)
    capsys.readouterr()
    for _ in range(2):
        library.cache_clear()
        made = library(tiny)
        assert made is not None and Path(made._name).parent != fresh_library
    assert list(fresh_library.iterdir()) == [kept]
    error = capsys.readouterr().err
    assert error.startswith("warning: ") and error.count("\n") == 1 and str(fresh_library.parent) in error


@needs_compiler
@pytest.mark.parametrize("change", [given_away, opened(0o002), opened(0o020), linked])
def test_a_library_that_another_may_have_written_is_made_anew(
    fresh_library: Path, tiny: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], None]
) -> None:
    assert library(tiny) is not None
    (kept,) = fresh_library.iterdir()
    change(kept)
    before = kept.lstat().st_ctime_ns
    capsys.readouterr()
    library.cache_clear()
    assert library(tiny) is not None
    assert kept.lstat().st_ctime_ns != before and foreign_hand(kept) is None
    assert capsys.readouterr().err.count("warning: ") == 1
    library.cache_clear()
    assert library(tiny) is not None
    assert capsys.readouterr().err == ""


@needs_compiler
@pytest.mark.parametrize("umask", [0o000, 0o002, 0o077])
def test_what_is_made_here_is_this_users_alone_whatever_the_umask(fresh_library: Path, tiny: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        assert library(tiny) is not None
    finally:
        os.umask(before)
    (kept,) = fresh_library.iterdir()
    assert foreign_hand(kept) is None and foreign_hand(fresh_library) is None


@needs_compiler
def test_a_folder_that_cannot_be_written_is_no_obstacle(fresh_library: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh_library.parent.joinpath("file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(fresh_library.parent / "file"))
    assert library(tiny, TINY) is not None


@pytest.mark.parametrize("command", ["#!/bin/sh\nexit 1\n", None])
def test_without_a_working_compiler_steps_are_plain(
    command: str | None, fresh_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("cc", "gcc", "clang"):
        if command:
            (folder / name).write_text(command)
            (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CC", raising=False)
    given = problem("muon", gaussian(3, 4, 9), 30)
    assert steps_of(given) is None
    assert same_bits(simulate(replace(given, compile="off")), simulate(given))


@needs_compiler
def test_a_compiler_that_fails_leaves_it_to_the_next(
    fresh_library: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, script in (("fails", "exit 1"), ("empty", "exit 0")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("CC", str(tmp_path / name))
        library.cache_clear()
        assert library(tiny, TINY) is not None


@needs_compiler
def test_a_library_without_the_functions_is_none(fresh_library: Path, tiny: Path) -> None:
    assert library(tiny, ("no_such_function",)) is None


def test_data_with_zeros_are_batched_apart(tmp_path: Path) -> None:
    """Their gradients have one scale an entry: beside them another run would get other bits than alone."""
    dense, holed = (np.random.RandomState(seed).randn(6, 3) for seed in (0, 1))
    holed[0, 0] = 0.0
    spec = compose(["steps=1"], multirun=False)[0].spec
    made = [
        Cell(i, spec, Dataset(x, np.array([0, 1] * 3), 2), tmp_path / str(i)) for i, x in enumerate([dense, holed, 2 * dense])
    ]
    assert [[c.index for c in batch] for batch in batches(made)] == [[0, 2], [1]]


@needs_compiler
def test_larger_problems_are_left_to_torch_unless_told() -> None:
    large = problem("signgd", gaussian(10, 60, 2100, shared=True), 1)
    wide = problem("muon", gaussian(30, 40, 60, shared=True), 1)
    for big in (large, wide):
        assert steps_of(big) is None
        assert steps_of(replace(big, compile="on")) is not None


@needs_compiler
@pytest.mark.parametrize("wanted", ["off", "auto"])
@pytest.mark.parametrize(
    ("free", "named", "numbers"),
    [("ngd", "nmgd", {"beta": 0.0}), ("signgd", "adam", {"beta1": 0.0, "beta2": 0.0}), ("gd", "momentum_gd", {"beta": 0.0})],
)
def test_momentum_zero_is_no_momentum_however_fast_the_loss_falls(
    wanted: Any, free: str, named: str, numbers: dict[str, float]
) -> None:
    """By e^700 and more in a step, where an old gradient in the average's scale would make the new one underflow."""
    rate = 1.0 if free == "gd" else 1e5
    without = problem(free, gaussian(4, 9, 12), 8, compile=wanted)
    without = replace(without, measured={}, schedule=replace(without.schedule, lr=rate * without.schedule.lr))
    for value in (numbers, {key: torch.full((RUNS, 1, 1), number, dtype=torch.float64) for key, number in numbers.items()}):
        momentum = replace(without, optimizer=OPTIMIZERS.get(named)(**value))
        a, b = (simulate(p).parameters[8]["weight"] for p in (without, momentum))
        assert ((a - b).abs().amax(dim=(1, 2)) <= 1e-9 * a.abs().amax(dim=(1, 2))).all()


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(("source", "definitions"), [(SOURCE, DEFINITIONS), (networks.SOURCE, network_rules.DEFINITIONS)])
def test_a_source_compiles_without_a_warning_and_with_its_numbers_only(
    source: Path, definitions: Definitions, tmp_path: Path
) -> None:
    """At -O1 flows are followed, of which some warnings come, and a third of the time goes."""
    macros = [f"-D{name}={number!r}" for name, number in definitions] + ['-DCOMPILED_WITH="a test"']
    strict = ["-Wall", "-Wextra", "-Wshadow", "-Werror", "-o", str(tmp_path / "made.so"), str(source), "-lm"]
    compiled = subprocess.run(
        [compilers()[0], *FLAGS, "-O1", *processor_flags()[1], *macros, *strict], capture_output=True, text=True
    )
    assert compiled.returncode == 0, compiled.stderr
    bare = subprocess.run([compilers()[0], *FLAGS, *strict], capture_output=True, text=True)
    assert bare.returncode != 0 and "compiling.py" in bare.stderr


@needs_compiler
@pytest.mark.skipif(platform.machine() != "x86_64", reason="an option of gcc for x86-64")
@pytest.mark.parametrize("tuned_for", ["znver2", "haswell"])
def test_sums_of_products_round_once_in_every_loop(
    tuned_for: str, fresh_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For Zen gcc rounds the products of such a loop by themselves, and a run alone had other bits than in a group."""
    known = Path("/proc/cpuinfo")
    if not known.exists() or "avx2" not in known.read_text():
        pytest.skip("needs a processor that is known to have AVX2")
    monkeypatch.delenv(compiling.VARIABLE, raising=False)
    source = tmp_path / "sums.c"
    source.write_text(
        "typedef double vec __attribute__((vector_size(32)));\n"
        "void sums(const vec *a, const vec *b, vec *to, int count)\n"
        "{\n    vec s = {-1, -1, -1, -1};\n    for (int i = 0; i < count; i++) s += a[i] * b[i];\n    *to = s;\n}\n"
    )
    monkeypatch.setattr(compiling, "PROCESSOR_FLAGS", (("-march=x86-64-v3", f"-mtune={tuned_for}"),))
    compiled = library(source, ("sums",))
    assert compiled is not None
    near_one = torch.full((4,), 1 + 2.0**-30, dtype=torch.float64)  # its square is 1 + 2^-29 + 2^-60
    a, b = torch.stack([near_one, torch.ones_like(near_one)]), torch.stack([near_one, torch.full_like(near_one, -(2.0**-29))])
    found = torch.empty_like(near_one)
    compiled.sums(*(ctypes.c_void_p(held.data_ptr()) for held in (a, b, found)), 2)
    assert found.tolist() == [2.0**-60] * 4


@needs_compiler
def test_constants_that_others_have_too_are_theirs_to_the_bit() -> None:
    """As the compiler reads them: the sources have no copy of their own."""
    known = dict(network_rules.DEFINITIONS)  # linear.c's, and more
    assert known["RANK_TOLERANCE"] == RANK_TOLERANCE[torch.float64] and known["FLOOR"] == FLOOR[torch.float64]
    rules = [known[name] for name in ("SIGN", "NORMALISED", "GRADIENT", "POLAR", "ADAM", "COORDINATE", "ROWS", "RANK_ONE")]
    assert len(set(rules)) == len(rules)
    for path in SOURCE.parent.glob("*.[ch]"):
        assert not [name for name in known if f"#define {name} " in path.read_text()]


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "off": ({"compile": "off"}, "compile=off", "compile=off"),
    "schedule": ({"schedule": LyuLi(lr=0.1)}, "schedule=lyu_li has no steps in C", "do not repay compiling"),
    "optimizer": ({"optimizer": MuonAdam()}, "optimizer=muon_adam, or its norm, has no steps in C", "do not repay"),
    "loss": ({"loss": PairLogistic()}, "model=linear with loss=pair_logistic has no steps in C", "do not repay compiling"),
    "matrices": ({"loss": PairLogistic(), "optimizer": Muon(), "steps": REPAID_STEPS}, "pair_logistic has no", "gain nothing"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_every_refusal_of_fast_steps_has_a_reason(what: str) -> None:
    changed, in_c, compiled = REFUSED[what]
    choice = choose(Setup.of(replace(problem("ngd", gaussian(3, 4, 9), 5), **changed)))
    assert choice.stepper.stepping == "torch"
    assert in_c in choice.refused["c"] and compiled in choice.refused["torch.compile"]


@needs_compiler
def test_a_run_says_what_its_steps_were_made_with() -> None:
    ours, other = (simulate(problem("ngd", gaussian(3, 4, 9), 5, loss=loss)) for loss in ("cross_entropy", "pair_logistic"))
    assert ours.stepping_refused == {} and "-O3" in ours.compiled_with["flags"] and ours.compiled_with["compiler"]
    assert "has no steps in C" in other.stepping_refused["c"] and other.compiled_with == {}


@needs_compiler
def test_source_that_does_not_compile_gives_no_library(fresh_library: Path, tmp_path: Path) -> None:
    source = tmp_path / "broken.c"
    source.write_text("int f(void) { return 0 }\n")
    assert library(source) is None
    assert not list(fresh_library.glob("*.so"))
