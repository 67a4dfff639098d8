"""Steps of networks in C beside the plain ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from implicit_bias.core.scaled import Scaled
from implicit_bias.engine import Diverged, Problem, simulate
from implicit_bias.engine.mini_batches import mini_batches
from implicit_bias.engine.steppers.base import Reached, Setup
from implicit_bias.engine.steppers.native import NetworkSteps, refusal
from implicit_bias.engine.steppers.native.compiling import compilers
from implicit_bias.models import MODELS as MODEL_CLASSES
from implicit_bias.models import Data
from implicit_bias.norms import make_norm
from implicit_bias.schedules import SCHEDULES
from tests.support.networks import cnn, mlp
from tests.support.networks import problem as of_model
from tests.support.quick import quick_of

pytestmark = pytest.mark.skipif(not compilers(), reason="no C compiler here: the steps are plain")

RUNS, EPS = 4, torch.finfo(torch.float64).eps
PER_RUN = torch.linspace(0.1, 0.9, RUNS, dtype=torch.float64).view(-1, 1, 1)
# Every way through network.c, with numbers of each run's own where they may differ.
RULES: dict[str, tuple[str, dict[str, Any]]] = {
    "signgd": ("signgd", {}),
    "signum, look-ahead": ("signum", {"nesterov": True, "beta": PER_RUN}),
    "signum, decay": ("signum", {"weight_decay": (PER_RUN - 0.5).clamp(min=0)}),
    "ngd": ("ngd", {}),
    "nmgd": ("nmgd", {"beta": PER_RUN}),
    "gd": ("gd", {}),
    "momentum_gd": ("momentum_gd", {"beta": PER_RUN}),
    "spectral_gd": ("spectral_gd", {}),
    "muon": ("muon", {"beta": PER_RUN}),
    "muon_signum": ("muon_signum", {"ratio": 0.3}),
    "adam": ("adam", {"beta1": PER_RUN, "beta2": PER_RUN.flip(0)}),
    "adam, eps": ("adam", {"eps": 1e-3 * PER_RUN, "bias_correction": False, "weight_decay": 0.1}),
    # By the norm that they are given.
    "sd in l2": ("sd", {"weight_decay": PER_RUN}),
    "nmd in linf": ("nmd", {"beta": PER_RUN}),
    "nsd in spectral": ("nsd", {}),
    "nsd in hybrid0.1": ("nsd", {}),
}
# Matrices that are wide, high and a row; units that fill vectors, and do not.
MODELS: dict[str, tuple[Any, int, int]] = {
    "two layers": (mlp(width=8, init_scale=1.0), 2, 7),
    "three layers": (mlp(width=11, depth=3, init_scale=1.0, activation="relu"), 3, 7),
    "leaky": (mlp(width=5, init_scale=1.0, activation="leaky_relu", slope=PER_RUN), 3, 7),
    "quadratic": (mlp(width=5, init_scale=1.0, activation="quadratic"), 3, 7),
    "linear": (mlp(width=9, depth=3, init_scale=1.0, activation="linear"), 2, 7),
    # Polar factors of 10 to 20 rows: of matrices that are wide and high, and square ones of deficient rank.
    "widens": (mlp(width=17, init_scale=1.0), 2, 12),
    "narrows": (mlp(width=11, init_scale=1.0, activation="relu"), 3, 13),
    "square": (mlp(width=17, depth=3, init_scale=1.0), 2, 10),
    # Matrices of many rows, high and wide, of less than full rank: there are fewer samples than rows.
    "high matrix": (mlp(width=25, init_scale=1.0), 2, 30),
    "wide matrix": (mlp(width=37, init_scale=1.0, activation="relu"), 3, 26),
    # Sides that pooling divides, and does not.
    "largest": (cnn(channels=[3, 6], kernel=2, init_scale=1.0), 2, 64),
    "average": (cnn(channels=[5, 2], kernel=2, pool="average", init_scale=1.0, activation="quadratic"), 3, 64),
    "unpooled": (cnn(channels=[4], kernel=3, pool="none", init_scale=1.0, activation="relu"), 3, 49),
    "largest of leaky": (cnn(channels=[9], kernel=3, init_scale=1.0, activation="leaky_relu"), 2, 64),
    "sigmoid": (mlp(width=11, init_scale=1.0, activation="sigmoid", allow_inhomogeneous=True), 3, 7),
    "largest of sigmoid": (
        cnn(channels=[3], kernel=2, init_scale=1.0, activation="sigmoid", bias="none", allow_inhomogeneous=True),
        3,
        64,
    ),
    # Layers that are not trained: the first, one between others, the last.
    "first frozen": (mlp(width=11, depth=3, init_scale=1.0, activation="relu", frozen=["layer1"]), 3, 7),
    "second frozen": (mlp(width=11, depth=3, init_scale=1.0, activation="relu", frozen=["layer2"]), 2, 7),
    "last frozen": (mlp(width=8, init_scale=1.0, frozen=["layer2"]), 2, 7),
    "kernel frozen": (cnn(channels=[3, 6], kernel=2, init_scale=1.0, frozen=["layer1"]), 2, 64),
    "head frozen": (cnn(channels=[3, 6], kernel=2, init_scale=1.0, frozen=["layer2", "layer3"]), 3, 64),
}


def given(rule: str = "signgd", model: str = "two layers", steps: int = 12, loss: str = "cross_entropy", **more: Any) -> Problem:
    name, hyper = RULES[rule]
    network, k, features = MODELS[model]
    generator = torch.Generator().manual_seed(k)
    x = torch.randn(RUNS, 13, features, dtype=torch.float64, generator=generator)
    data = Data(x, torch.randint(k, (RUNS, 13), generator=generator), k)
    lr = 0.01 * torch.linspace(0.5, 2, RUNS, dtype=torch.float64)
    label = rule.partition(" in ")[2]
    more = {"kkt_products": 0, "logged": ("l2",), "norm": make_norm(label) if label else None, **more}
    return of_model(network, data, name, steps, lr, hyper=hyper, loss=loss, weights="all", **more)


#: Of a buffer's block, in units of eps: what terms of its size leave of a row where they cancel differs between instruction sets,
#: by up to 3.5 of them (under x86-64-v2).
CANCELLED = 16


def assert_each_step_near(problem: Problem, cancelled: float = CANCELLED) -> None:
    """Each step from the plain trajectory's own state, relative to its length, to 1e-11, and the buffers after it, row by row.

    Args:
        problem: What is trained.
        cancelled: So many eps of its block a row of a buffer may differ by, beside 1e-11 of its own size.
    """
    setup = Setup.of(problem)
    assert refusal(setup) is None
    snapshots: list[dict[str, Any]] = []
    simulate(replace(problem, compile="off", points=1, measured={}), keep=lambda _, snapshot: snapshots.append(snapshot()))
    steps = NetworkSteps(setup)
    for now, then in pairwise(snapshots):
        states = [{k: {n: Scaled(*b) for n, b in of.items()} for k, of in at["state"].items()} for at in (now, then)]
        ours = steps.step(Reached(now["parameters"], states[0]), now["step"] + 1)
        before, plain = now["parameters"], then["parameters"]
        moved = torch.stack([(plain[n] - b).abs().amax(dim=(1, 2)) for n, b in before.items()]).amax(dim=0)
        for name, block in before.items():
            apart = (ours.parameters[name] - plain[name]).abs().amax(dim=(1, 2))
            assert (apart <= 1e-11 * moved + 1e-15 * block.abs().amax(dim=(1, 2))).all(), (name, now["step"])
        for key, blocks in states[1].items():
            for name, block in blocks.items():
                row, top = block.log_abs().amax(dim=-1, keepdim=True), block.top()
                row = torch.where(row.isfinite(), row, top)  # of zeros
                differ = (ours.state[key][name].relative_to(row) - block.relative_to(row)).abs()
                allowed = 1e-11 + (cancelled * EPS * (top - row).exp() if cancelled else 0.0)
                assert (differ <= allowed).all(), (key, name, now["step"], float((differ - allowed).max()))


@pytest.mark.numeric
@pytest.mark.parametrize("loss", ["cross_entropy", "exponential"])
@pytest.mark.parametrize("rule", quick_of(sorted(RULES), "signgd", "nmgd", "muon", "adam"))
def test_every_step_is_the_plain_one_to_round_off(rule: str, loss: str) -> None:
    for model in ("two layers", "three layers", "largest"):
        assert_each_step_near(given(rule, model, loss=loss))


@pytest.mark.numeric
@pytest.mark.parametrize("model", ["high matrix", "wide matrix"])
@pytest.mark.parametrize("rule", quick_of(["muon", "muon_signum", "spectral_gd"], "muon"))
def test_every_step_by_polar_factors_of_many_rows_is_the_plain_one_to_round_off(rule: str, model: str) -> None:
    """Of less than full rank, and of full rank."""
    deficient = given(rule, model)
    assert_each_step_near(deficient)
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(RUNS, 90, deficient.data.x.shape[-1], dtype=torch.float64, generator=generator)
    data = Data(x, torch.randint(deficient.data.num_classes, (RUNS, 90), generator=generator), deficient.data.num_classes)
    assert_each_step_near(replace(deficient, data=data))


@pytest.mark.numeric
@pytest.mark.parametrize("model", ["leaky", "quadratic", "linear", "average", "unpooled", "largest of leaky"])
def test_every_step_of_other_activations_and_poolings_is_the_plain_one_to_round_off(model: str) -> None:
    for rule in ("signum, look-ahead", "ngd"):
        assert_each_step_near(given(rule, model))


@pytest.mark.numeric
@pytest.mark.parametrize("model", ["sigmoid", "largest of sigmoid"])
def test_every_step_of_sigmoids_is_the_plain_one_to_round_off(model: str) -> None:
    for rule in ("nmgd", "muon", "adam"):
        assert_each_step_near(given(rule, model))


@pytest.mark.parametrize("argument", [-705.0, -712.0, -800.0])
def test_units_at_which_a_sigmoid_is_all_but_zero_or_zero_move_as_by_plain_steps(argument: float) -> None:
    """Exponentials in C are cut, and leave a gradient whose sign means nothing."""
    for rule in ("signgd", "adam"):
        problem = given(rule, "sigmoid", steps=6)
        first = problem.initial["layer1"].clone()
        first[:, 0, :] = argument / first.shape[-1]
        data = replace(problem.data, x=torch.ones_like(problem.data.x))
        assert_each_step_near(replace(problem, data=data, initial={**problem.initial, "layer1": first}))


@pytest.mark.parametrize("model", quick_of(sorted(name for name in MODELS if name.endswith("frozen")), "second frozen"))
def test_every_step_beside_frozen_layers_is_the_plain_one_to_round_off(model: str) -> None:
    """Of a rule that knows no layers, of those by layer, and of the norm of all that is trained."""
    for rule in ("signum, decay", "signum, look-ahead", "nmgd", "muon", "momentum_gd", "adam"):
        problem = given(rule, model, steps=8)
        assert problem.frozen
        assert_each_step_near(problem)
        assert simulate(problem).stepping == "c"


@pytest.mark.numeric
@pytest.mark.parametrize("model", ["widens", "narrows", "square"])
def test_every_step_with_polar_factors_of_10_to_20_rows_is_the_plain_one_to_round_off(model: str) -> None:
    """Without momentum where a gradient is deficient in rank: an average of two has no rank that round-off leaves as it is."""
    for rule in ("spectral_gd", "nsd in spectral") if model == "square" else ("muon", "nsd in spectral"):
        assert_each_step_near(given(rule, model))


def far_apart(rule: str, sizes: list[float], **more: Any) -> Problem:
    """A unit for every feature, samples of one feature each and gaps of very different size: what a run's units are fed with is
    that far apart in size, the further the larger its weights are."""
    x = torch.diag_embed(torch.linspace(0.2, 3, 7, dtype=torch.float64)).expand(RUNS, 7, 7)
    data = Data(x, torch.arange(7).remainder(2).expand(RUNS, 7), 2)
    first = (2 * torch.eye(8, 7, dtype=torch.float64) - 1).expand(RUNS, 8, 7)
    second = (2 * torch.arange(8, dtype=torch.float64).remainder(2) - 1).expand(RUNS, 1, 8)
    scale = torch.tensor(sizes, dtype=torch.float64).view(-1, 1, 1)
    start = {"layer1": scale * (first + 0.01 * PER_RUN), "layer2": scale * second}
    return replace(given(rule, **more), data=data, initial=start)


@pytest.mark.numeric
@pytest.mark.parametrize("rule", quick_of(["signgd", "muon", "adam"], "signgd"))
def test_every_step_where_no_double_spans_the_weights_is_the_plain_one_to_round_off(rule: str) -> None:
    """Alone, and in one run of several. Rows of very different size are each held to their own."""
    for sizes in ([8.0, 9.0, 10.0, 11.0], [1.0, 2.0, 9.0, 3.0]):
        problem = far_apart(rule, sizes, steps=5)
        plain = Setup.of(problem).objective.gradient(problem.initial).blocks["layer1"]
        assert plain.log_scale.shape[-1] > 1, "some entry has a log scale of its own"
        assert_each_step_near(problem, cancelled=0)


def test_runs_do_not_make_many_steps_again_for_one_that_ends_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third makes plain updates all the time, the others' calls end with it."""
    asked: list[int] = []
    call = NetworkSteps._call

    def counted(self: NetworkSteps, first: int, steps: int, active: Any) -> Any:
        asked.append(steps)
        return call(self, first, steps, active)

    monkeypatch.setattr(NetworkSteps, "_call", counted)
    steps = 60
    assert simulate(far_apart("signgd", [1.0, 2.0, 9.0, 3.0], steps=steps, points=2)).stepping == "c"
    assert steps <= sum(asked) <= 5 * steps


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def same(a: Any, b: Any, run: int) -> None:
    for t, blocks in b.parameters.items():
        for name, block in blocks.items():
            assert torch.equal(a.parameters[t][name][run], block[0]), (t, name)


@pytest.mark.parametrize("rule", quick_of(["signgd", "muon", "adam"], "signgd"))
@pytest.mark.parametrize(
    "kind", ["two layers", "widens", "wide matrix", "largest", "second frozen", "kernel frozen", "sigmoid", "deep"]
)
def test_a_run_has_the_same_bits_alone_in_a_batch_and_over_calls(
    rule: str, kind: str, threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = kind == "deep"
    problem = far_apart(rule, [1.0, 2.0, 9.0, 3.0], steps=6, points=3) if deep else given(rule, kind, steps=40, points=4)
    snapshots: dict[int, Any] = {}
    torch.set_num_threads(1)
    together = simulate(problem)
    assert together.stepping == "c"
    for run in (0, RUNS - 1):
        same(together, simulate(problem.at(torch.tensor([run]))), run)
    monkeypatch.setattr(NetworkSteps, "_steps_of_a_call", lambda self: 7)
    torch.set_num_threads(2)
    pieces = simulate(problem, keep=lambda t, snapshot: snapshots.update({t: snapshot()}))
    resumed = simulate(problem, resume=snapshots[min(t for t in snapshots if t > 2)])
    for other in (pieces, resumed):
        for t, blocks in together.parameters.items():
            assert all(torch.equal(block, other.parameters[t][name]) for name, block in blocks.items()), t


def test_losses_that_are_watched_are_met_at_the_plain_steps() -> None:
    """Levels of the loss, and runs that stop."""
    problem = given("ngd", steps=300, points=2, levels=4, stop_log_loss=-2.0)
    problem = replace(problem, schedule=SCHEDULES.get("constant")(lr=0.05 * torch.linspace(0.5, 2, RUNS, dtype=torch.float64)))
    ours, plain = simulate(problem), simulate(replace(problem, compile="off"))
    assert ours.stepping == "c" and len(plain.steps) > 8
    assert ours.steps == plain.steps
    assert np.array_equal(ours.recorded, plain.recorded)


@pytest.mark.parametrize("rate", [1e40, 0.9e152])
def test_a_run_that_diverges_does_so_at_the_plain_step(rate: float) -> None:
    """By steps that grow, and by one after which the loss is no number."""
    lr = torch.tensor([0.01, 0.02, rate, 0.01], dtype=torch.float64)
    problem = replace(given("gd", steps=50), schedule=SCHEDULES.get("constant")(lr=lr))
    found = []
    for stepping in ("auto", "off"):
        with pytest.raises(Diverged) as diverged:
            simulate(replace(problem, compile=stepping))
        found.append((diverged.value.args, vars(diverged.value)))
    assert found[0] == found[1]


def in_single(problem: Problem) -> Problem:
    return replace(
        problem,
        data=replace(problem.data, x=problem.data.x.float()),
        initial={name: block.float() for name, block in problem.initial.items()},
    )


def test_what_is_not_covered_is_refused_in_words() -> None:
    data = given().data

    def refused(problem: Problem) -> str:
        return refusal(Setup.of(problem)) or ""

    def of(model: Any, name: str = "signgd", **more: Any) -> str:
        return refused(of_model(model, more.pop("data", data), name, 5, 0.1, kkt_products=0, logged=("l2",), **more))

    assert refused(given()) == ""
    assert "biases" in of(mlp(width=4, bias="first")) and of(mlp(width=4, frozen=["layer2"])) == ""
    assert "model.activation=tanh" in of(mlp(width=4, activation="tanh", allow_inhomogeneous=True))
    assert "layers" in of(mlp(width=2, depth=17, activation="relu")) and "layers" in of(mlp(depth=1))
    assert "model=signed_diagonal" in of(MODEL_CLASSES.get("signed_diagonal")())
    images = replace(data, x=data.x[..., :4])
    assert "model.pool=max" in of(cnn(channels=[2], kernel=1, activation="quadratic"), data=images)
    assert "optimizer=muon_adam" in of(mlp(width=4), "muon_adam") and "optimizer=lion" in of(mlp(width=4), "lion")
    assert "polar factors" in of(mlp(width=257), "muon", data=replace(data, x=data.x.repeat(1, 1, 37)))
    assert "model.slope" in of(mlp(width=4, activation="leaky_relu", slope=-0.1))
    assert "schedule=lyu_li" in of(mlp(width=4), "gd", schedule=SCHEDULES.get("lyu_li")(lr=0.1))
    assert "mini-batches" in of(mlp(width=4), batch=mini_batches(3, "reshuffle", torch.arange(RUNS), 13))
    assert "float64" in refused(in_single(given()))
    assert refused(replace(given(), compile="off")) == "compile=off"
    wide = of_model(mlp(width=15_000), replace(data, x=data.x.repeat(1, 20, 4), y=data.y.repeat(1, 20)), "signgd", 5, 0.1)
    assert "larger" in refused(wide) and refused(replace(wide, compile="on")) == ""
    told = simulate(of_model(mlp(width=4, bias="first"), data, "signgd", 3, 0.1, kkt_products=0)).stepping_refused
    assert "biases" in told["c"]
