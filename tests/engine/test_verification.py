"""Fast steps are the rule that the user wrote, or none: exact types, and the first updates made both ways."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from implicit_bias.core.registry import hyper_fields
from implicit_bias.core.scaled import Scaled, combine
from implicit_bias.engine import Problem, simulate
from implicit_bias.engine.steppers import choose, torch_compile, verification
from implicit_bias.engine.steppers.base import Reached, Setup, Stepping
from implicit_bias.engine.steppers.eager import Eager
from implicit_bias.engine.steppers.native import LinearSteps
from implicit_bias.engine.steppers.native import linear as native
from implicit_bias.engine.steppers.native.rules import LOOK_AHEAD, NEWTON_SCHULZ, SIGN, Part
from implicit_bias.engine.steppers.native.rules import rule_of as rule_of_steps
from implicit_bias.losses.cross_entropy import CrossEntropy
from implicit_bias.models import Data
from implicit_bias.models.linear import Linear, LinearObjective
from implicit_bias.norms.linf import Linf
from implicit_bias.optimizers.base import Here, Step
from implicit_bias.optimizers.muon_ns import MuonNS
from implicit_bias.optimizers.nmd import NMD
from implicit_bias.schedules import Power
from tests.engine.test_native import RULES, RUNS, gaussian, needs_compiler, problem, same_bits
from tests.support.quick import quick_of

NAMES = sorted({name for name, _ in RULES.values()})


def changed(base: type, hook: str, weight: float) -> type:
    """A subclass of an optimizer that overrides one hook."""

    def averaged(self: Any, state: Any, gradient: Any) -> Any:
        state, momentum = base.averaged(self, state, gradient)  # type: ignore[attr-defined]
        turned = {name: Scaled(block.mantissa.roll(1, -1), block.log_scale) for name, block in momentum.items()}
        return state, {name: combine(block, gradient[name], 1.0, 0.1 * weight) for name, block in turned.items()}

    def ratio(self: Any, m: Scaled, r: Scaled, t: int) -> Any:
        return base._ratio(self, m, r, t) * (1 + weight * m.mantissa.abs())  # type: ignore[attr-defined]

    def update(self: Any, state: Any, gradient: Any, t: int, norm: Any) -> Any:
        state, step = base.update(self, state, gradient, t, norm)  # type: ignore[attr-defined]
        return state, Step({name: block * (1 + weight / t) for name, block in step.direction.items()}, step.log_size)

    def init(self: Any, gradient: Any) -> Any:
        state = base.init(self, gradient)  # type: ignore[attr-defined]
        return {key: {n: combine(b, gradient[n], 1.0, weight) for n, b in blocks.items()} for key, blocks in state.items()}

    hooks: dict[str, Callable[..., Any]] = {"averaged": averaged, "_ratio": ratio, "update": update, "init": init}
    made = type(f"Changed{base.__name__}", (base,), {} if hook == "nothing" else {hook: hooks[hook]})
    return dataclass(frozen=True)(made)


def hooks_of(name: str) -> list[str]:
    there = type(problem(rule_of(name), gaussian(3, 4, 9), 1).optimizer)
    return [hook for hook in ("averaged", "_ratio", "update", "init", "nothing") if hook == "nothing" or hasattr(there, hook)]


def rule_of(name: str) -> str:
    return name if name in RULES else next(rule for rule, (named, _) in sorted(RULES.items()) if named == name)


def assert_plain(changed: Problem, base: Problem) -> None:
    """The same with compile off and auto, silently; and, so that this says something, not what the base class does."""
    said: list[str] = []
    off, auto = (simulate(replace(changed, compile=wanted, tell=said.append)) for wanted in ("off", "auto"))
    assert same_bits(off, auto)
    assert (auto.stepping, said) == ("torch", [])
    assert not same_bits(simulate(replace(base, compile="off")), off)


@pytest.mark.slow
@needs_compiler
@settings(max_examples=20, deadline=None)
@given(name=st.sampled_from(NAMES), hook=st.data(), weight=st.floats(0.125, 4), seed=st.integers(0, 99))
def test_subclasses_of_optimizers_take_their_own_steps(name: str, hook: st.DataObject, weight: float, seed: int) -> None:
    base = problem(rule_of(name), gaussian(3, 4 + seed % 3, 9), 12)
    chosen = hook.draw(st.sampled_from(hooks_of(name)))
    fields = {key: getattr(base.optimizer, key) for key in hyper_fields(type(base.optimizer))}
    mine = replace(base, optimizer=changed(type(base.optimizer), chosen, weight)(**fields))
    if chosen in ("nothing", "init"):  # the steps of the base class, or where there is no buffer
        off, auto = (simulate(replace(mine, compile=wanted)) for wanted in ("off", "auto"))
        assert same_bits(off, auto) and auto.stepping == "torch"
    else:
        assert_plain(mine, base)


class Decayed(LinearObjective):
    """Weight decay as a part of the gradient."""

    def finished(self, parameters: Any, quick: Any) -> Any:
        gradient = super().finished(parameters, quick)
        w = parameters["weight"]
        decay = Scaled(w, torch.zeros_like(w[..., :1]))
        return replace(gradient, blocks={"weight": combine(gradient.blocks["weight"], decay, 1.0, 0.1)})


@dataclass(frozen=True)
class WithDecay(Linear):
    def objective(self, data: Data, loss: Any, frozen: Any = None) -> LinearObjective:
        return Decayed(data, loss)


@dataclass(frozen=True)
class Halved(CrossEntropy):
    def terms(self, u: torch.Tensor, offset: torch.Tensor | None = None) -> Any:
        return super().terms(u.mul_(0.5), None if offset is None else 0.5 * offset)


@dataclass(frozen=True)
class Slower(Power):
    def log_relative(self, t: int) -> Any:
        return super().log_relative(t) - 0.1 * t


@dataclass(frozen=True)
class Softer(Linf):
    def scaled_direction(self, g: Scaled) -> torch.Tensor:
        return g.mantissa.tanh()


@needs_compiler
@pytest.mark.parametrize("what", ["model", "loss", "schedule", "norm"])
@pytest.mark.parametrize("rule", ["ngd", "signum"])
def test_subclasses_of_anything_else_take_their_own_steps(rule: str, what: str) -> None:
    base = problem(rule, gaussian(4, 6, 10), 12)
    if what == "norm":
        base = replace(base, optimizer=NMD(), norm=Linf())
    mine: dict[str, dict[str, Any]] = {
        "model": {"model": WithDecay()},
        "loss": {"loss": Halved()},
        "schedule": {"schedule": Slower(base.schedule.lr, 0.5)},
        "norm": {"norm": Softer()},
    }
    given = replace(base, **mine[what])
    assert_plain(given, base)
    if what == "loss":  # its records are of the gaps themselves, whatever its terms are made of
        done = simulate(given)
        u = given.model.objective(given.data, given.loss).negative_gaps(done.parameters[given.steps])
        values = next(iter(done.by_norm.values()))
        smallest = values["margin"][-1] * values["param_norm"][-1]
        np.testing.assert_allclose(smallest, -u.amax(dim=(-2, -1)), rtol=1e-12)


def wrong(monkeypatch: pytest.MonkeyPatch, **parts: Any) -> None:
    """Let the C steps be those of another rule."""
    right: Callable[..., Any] = rule_of_steps
    monkeypatch.setattr(native, "rule_of", lambda *given: replace(right(*given), **parts))


@needs_compiler
@pytest.mark.parametrize(
    ("rule", "parts"),
    [
        ("ngd", {"parts": (Part(SIGN, 0, 6),)}),
        ("signum", {"beta": 0.99}),  # the first step is the right one
        ("nmgd", {"momentum": LOOK_AHEAD}),
        ("adam", {"eps": 1e-7}),
        ("adam", {"bias_correction": False}),
        ("muon", {"parts": (Part(NEWTON_SCHULZ, 0, 6),), "triples": MuonNS().triples}),
    ],
)
def test_steps_in_c_that_are_not_the_plain_ones_are_not_taken(
    rule: str, parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = problem(rule, gaussian(4, 6, 10), 12)
    plain = simulate(replace(base, compile="off"))
    wrong(monkeypatch, **parts)
    said: list[str] = []
    ours = simulate(replace(base, tell=said.append))
    assert same_bits(plain, ours)
    assert ours.stepping == "torch"
    assert len(said) == 1 and said[0].startswith("steps by c are not the plain ones (step ")


@needs_compiler
def test_a_wrong_step_is_seen_in_a_batch_of_any_size_a_short_run_and_one_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    data = gaussian(4, 6, 10, runs=RUNS)
    base = problem("ngd", data, 60)
    snapshots: dict[int, Any] = {}
    monkeypatch.setattr(native, "MOST_STEPS", 10)
    simulate(base, keep=lambda t, snapshot: snapshots.update({t: deepcopy(snapshot())}))
    many = torch.arange(40) % RUNS
    large = replace(base.at(many), measured=base.measured)
    wrong(monkeypatch, parts=(Part(SIGN, 0, 6),))
    said: list[str] = []
    simulate(replace(large, tell=said.append))
    simulate(replace(base, steps=1, tell=said.append))
    assert len(said) == 2
    later = next(t for t in snapshots if t > 20)
    assert simulate(replace(base, tell=said.append), resume=snapshots[later]).stepping == "torch"
    assert len(said) == 3 and f"(step {later + 1} of run 1" in said[2]
    simulate(replace(base, steps=0, tell=said.append))
    assert len(said) == 3


@needs_compiler
@pytest.mark.parametrize("rule", ["signum", "muon", "adam, eps"])
def test_the_check_leaves_no_trace(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = problem(rule, gaussian(4, 6, 10), 40)
    checked = simulate(base)
    monkeypatch.setattr(verification, "CHECKED_STEPS", 0)
    monkeypatch.setattr(LinearSteps, "step", lambda *_: pytest.fail("checked"))
    unchecked = simulate(base)
    assert same_bits(unchecked, checked)
    assert checked.stepping == unchecked.stepping == "c"


HARD = ("signs", "copies", "a line", "nearly a line", "a line to round-off", "scales", "bias", "tiny", "zeros")


def hard(kinds: tuple[str, ...], k: int, d: int, n: int) -> Data:
    """Data on which some directions of steepest descent are not known to a double, or only just; a kind a run."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(n, d, dtype=torch.float64, generator=generator)
    line = x[:, :1] * torch.randn(1, d, dtype=torch.float64, generator=generator)
    made = {
        "signs": x.sign(),
        "copies": x[:, :1].expand(-1, d),
        "a line": line,
        "nearly a line": line + 1e-7 * x,
        "a line to round-off": line + 1e-13 * x,
        "scales": x * 10.0 ** torch.linspace(-12, 12, d, dtype=torch.float64),
        "bias": torch.cat([x[:, 1:], torch.ones(n, 1, dtype=torch.float64)], dim=-1),
        "tiny": 1e-90 * x,
        "zeros": x.clamp(min=0),
    }
    return Data(torch.stack([made[kind] for kind in kinds]), torch.arange(n).remainder(k).expand(len(kinds), n), k)


#: Rules whose directions come from a matrix's singular vectors, which data that is nearly of a rank makes uncertain.
BY_SINGULAR_VECTORS = ("spectral_gd", "muon", "muon_ns", "nucgd", "sd in spectral", "sd in nuclear", "sd in schatten")
#: Classes, features and samples; in the last fewer samples than would make a gradient of full rank.
SHAPES = ((2, 3, 4), (5, 6, 20), (3, 4, 3))
FEW = ("copies", "nearly a line", "scales")


def kinds_for(rule: str) -> tuple[str, ...]:
    """Few for rules that only add a memory, a decay or a bound to the directions of others."""
    if rule in BY_SINGULAR_VECTORS:
        return HARD
    return FEW if "," in rule or rule == "heavy ball" else (*FEW, "signs", "tiny", "zeros")


# Gradients of data with zeros have a scale for every entry, others one for every row: such runs are no batch together.
ON_DATA = [f"{rule}{zeros}" for rule in sorted(RULES) for zeros in ("", " on zeros") if not zeros or "zeros" in kinds_for(rule)]


@needs_compiler
@pytest.mark.parametrize("case", quick_of(ON_DATA, "signgd", "muon", "adam", "gd"))
def test_no_shipped_rule_is_doubted_on_any_data(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the point zero, from one of order one over the data's size, and from one where losses are e^-300."""
    rule, _, zeros = case.partition(" on ")
    kinds = ("zeros",) if zeros else tuple(kind for kind in kinds_for(rule) if kind != "zeros")
    said: list[str] = []
    found: list[str | None] = []
    disagreement = verification.disagreement

    def noted(*given: Any) -> str | None:
        found.append(disagreement(*given))
        return found[-1]

    monkeypatch.setattr(verification, "disagreement", noted)
    monkeypatch.setattr(LinearSteps, "check_on", None)  # every run
    shapes = SHAPES if rule in BY_SINGULAR_VECTORS else SHAPES[1:2] if kinds_for(rule) == FEW else SHAPES[:2]
    for shape in shapes:
        data = hard(kinds, *shape)
        base = problem(rule, gaussian(*shape), 5, tell=said.append, compile="on")
        base = base.at(torch.arange(RUNS).repeat(len(kinds) * 3))
        of_kind = torch.arange(len(kinds)).repeat_interleave(3 * RUNS)
        size = data.x.abs().amax(dim=(1, 2))[of_kind]
        rate = 1 / size**2 if RULES[rule][0] in ("gd", "momentum_gd") else 1 / size
        if "weight_decay" in RULES[rule][1]:  # its unit is the inverse of the step size's
            decays: Any = base.optimizer
            base = replace(base, optimizer=replace(decays, weight_decay=decays.weight_decay / rate.view(-1, 1, 1)))
        scales = torch.tensor([0.0, 1.0, 300.0], dtype=torch.float64).repeat_interleave(RUNS).repeat(len(kinds)) / size
        start = {"weight": scales.view(-1, 1, 1) * base.initial["weight"]}
        schedule = replace(base.schedule, lr=rate * base.schedule.lr)
        each = data if zeros else Data(data.x[of_kind], data.y[of_kind], data.num_classes)  # shared, and one a run
        given = replace(base, initial=start, schedule=schedule, data=each, weights="none")
        assert simulate(given).stepping == "c" or said
    assert said == []
    assert found == [None] * len(shapes)  # compared, not given up


class Wrong(torch_compile.Compiled):
    """Steps by torch.compile that are half as long as they should be."""

    def __call__(self, state: Any, here: Here, t: int) -> Any:
        return self._plain(state, Here(here.parameters, here._evaluate, here.scheduled - 0.5, here.evaluation), t)


@pytest.mark.parametrize("optimizer", ["signgd", "adam"])
def test_compiled_steps_that_are_not_the_plain_ones_are_not_taken(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = problem(optimizer, gaussian(4, 6, 10), 20, loss="pair_logistic")
    plain = simulate(replace(base, compile="off"))
    monkeypatch.setattr(torch_compile, "Compiled", Wrong)
    monkeypatch.setattr(torch, "compile", lambda step, **_: step)
    said: list[str] = []
    ours = simulate(replace(base, compile="on", tell=said.append))
    assert same_bits(plain, ours)
    assert len(said) == 1 and "steps by torch.compile are not the plain ones" in said[0]


class Many(Eager):
    """A stepper as a kernel of one's own might be: several updates a call."""

    stepping: Stepping = "c"
    most_steps: ClassVar[int] = 7
    check_on: ClassVar[int | None] = 3


class Short(Many):
    """The same with steps that are a third too short from the second on, as a forgotten buffer would make them."""

    def step(self, start: Reached, t: int, whole: bool = True) -> Reached:
        there = super().step(start, t)
        share = 1.0 if t == 1 else 2 / 3
        moved = {name: block.lerp(there.parameters[name], share) for name, block in start.parameters.items()}
        return there._replace(parameters=moved)


@pytest.mark.parametrize("made", [Many, Short])
def test_a_stepper_that_nobody_knows_is_compared_all_the_same(made: type[Eager], monkeypatch: pytest.MonkeyPatch) -> None:
    base = problem("signum", gaussian(4, 6, 10, runs=RUNS), 40)
    asked: list[int] = []

    def make(setup: Setup) -> Eager:
        asked.append(setup.problem.runs)
        return made(setup)

    monkeypatch.setattr(choose, "KINDS", (choose.Kind("c", lambda setup: None, make),))
    said: list[str] = []
    ours, plain = simulate(replace(base, tell=said.append)), simulate(replace(base, compile="off"))
    assert same_bits(plain, ours)
    assert asked[:2] == [RUNS, 3], "made for the batch, and for the comparison"
    if made is Many:
        assert ours.stepping == "c" and said == [] and ours.stepping_refused == {}
    else:
        assert ours.stepping == "torch" and len(said) == 1 and said[0].startswith("steps by c are not the plain ones (step 2 ")
        assert ours.stepping_refused["c"] in said[0]


class Kernel(Short):
    """A wrong one by another name."""

    stepping = "cuda kernel"


class Graph(Many):
    """A right one by another name."""

    stepping = "cuda graph"


class WrongGraph(Short):
    """A wrong one by that name."""

    stepping = "cuda graph"


@pytest.mark.parametrize(
    ("graph", "made_by", "tried"),
    [
        (Graph, "cuda graph", ["cuda kernel", "cuda graph"]),
        (WrongGraph, "torch", ["cuda kernel", "cuda graph", "plain"]),
    ],
)
def test_where_one_kind_fails_the_next_that_does_not_refuse_is_verified_in_its_turn(
    graph: type[Many], made_by: str, tried: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = problem("signum", gaussian(4, 6, 10, runs=RUNS), 40)
    kinds = (
        choose.Kind("c", lambda setup: "not for these data", Many),
        choose.Kind("cuda kernel", lambda setup: None, Kernel),
        choose.Kind("torch.compile", lambda setup: "too few steps", Many),
        choose.Kind("cuda graph", lambda setup: None, graph),
    )
    monkeypatch.setattr(choose, "KINDS", kinds)
    said: list[str] = []
    ours, plain = simulate(replace(base, tell=said.append)), simulate(replace(base, compile="off"))
    assert same_bits(plain, ours)
    assert ours.stepping == made_by
    *failed, taken = tried
    assert len(said) == 1 and said[0].count("are taken") == 1  # one that fails in its turn is not said to be taken
    for kind in failed:
        assert f"steps by {kind} are not the plain ones (step 2 " in said[0]
    assert said[0].endswith("; plain steps are taken" if taken == "plain" else f"; steps by {taken} are taken")
    reasons = dict(ours.stepping_refused)
    assert (reasons.pop("c"), reasons.pop("torch.compile")) == ("not for these data", "too few steps")
    assert list(reasons) == failed
    assert all("are not the plain ones" in reason for reason in reasons.values())


def test_a_kind_for_another_device_is_not_next(monkeypatch: pytest.MonkeyPatch) -> None:
    base = problem("signum", gaussian(4, 6, 10, runs=RUNS), 40)
    kinds = (choose.Kind("c", lambda setup: None, Short), choose.Kind("cuda graph", lambda setup: None, Graph, device="cuda"))
    monkeypatch.setattr(choose, "KINDS", kinds)
    said: list[str] = []
    ours = simulate(replace(base, tell=said.append))
    assert ours.stepping == "torch" and list(ours.stepping_refused) == ["c"]
    assert len(said) == 1 and said[0].endswith("; plain steps are taken")
