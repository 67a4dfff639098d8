"""The optimizer's contract: steps from parameters, loss and other points; foreign states; who takes fast steps."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from implicit_bias.core.scaled import Scaled, combine
from implicit_bias.engine import Problem, Snapshot, Trajectory, simulate
from implicit_bias.engine.snapshot_checks import misfit
from implicit_bias.engine.steppers.base import check_buffers
from implicit_bias.engine.steppers.eager import arrived
from implicit_bias.losses import LOSSES
from implicit_bias.models import MODELS, Data, Parameters
from implicit_bias.models.linear import LinearObjective
from implicit_bias.norms import make_norm
from implicit_bias.optimizers import ForeignState, Here, Optimizer, Step
from implicit_bias.optimizers.base import steepest
from implicit_bias.optimizers.signgd import SignGD
from implicit_bias.schedules import SCHEDULES
from implicit_bias.storage.checkpoints import VARIABLE, Checkpoint
from tests.support.optimizer_steps import here_with

K, D, N, RUNS, STEPS = 3, 5, 12, 2, 25
LR = torch.tensor([0.05, 0.02], dtype=torch.float64)
DECAY, THRESHOLD = 0.3, 0.02


def plain(blocks: Mapping[str, Scaled]) -> Parameters:
    return {name: g.relative_to(torch.zeros((), dtype=torch.float64)) for name, g in blocks.items()}


@dataclass(frozen=True)
class Rule(Optimizer):
    """What the optimizers below have in common."""

    name: ClassVar[str] = "tried"
    own_norm: ClassVar[str | None] = "l2"
    normalised: ClassVar[bool] = False


@dataclass(frozen=True)
class DecayedSign(Rule):
    """theta <- (1 - eta decay) theta - eta sign(g)."""

    normalised: ClassVar[bool] = True

    def step_from(self, state: Any, here: Here, t: int, norm: Any) -> tuple[Any, Step]:
        return state, Step({n: g.mantissa.sign() for n, g in here.gradient.items()}, keep=1 - DECAY * here.log_lr.exp())


@dataclass(frozen=True)
class Fromage(Rule):
    """theta <- (theta - .1 |theta| g / |g|) / sqrt(1 + .1^2), a shrinkage that needs no learning rate."""

    def step_from(self, state: Any, here: Here, t: int, norm: Any) -> tuple[Any, Step]:
        shrink = 1 / (1 + 0.1**2) ** 0.5
        log_size = norm.value(here.parameters).log() + float(np.log(0.1 * shrink))
        return state, Step(norm.scaled_direction(here.gradient), log_size, keep=shrink, whole=True)


@dataclass(frozen=True)
class Polyak(Rule):
    """theta <- theta - L / (4 |g|^2) g, whatever eta is."""

    def step_from(self, state: Any, here: Here, t: int, norm: Any) -> tuple[Any, Step]:
        step = steepest(here.gradient, norm)
        assert step.log_size is not None
        return state, Step(step.direction, here.log_loss[:, None, None] - step.log_size - np.log(4), whole=True)


@dataclass(frozen=True)
class Proximal(Rule):
    """theta <- soft threshold of theta - eta g, at eta THRESHOLD: the proximal step of an l1 penalty."""

    def step_from(self, state: Any, here: Here, t: int, norm: Any) -> tuple[Any, Step]:
        eta = here.log_lr.exp().reshape(-1, 1, 1)
        moved = {n: here.parameters[n] - eta * g for n, g in plain(here.gradient).items()}
        return state, Step(to={n: block.sign() * (block.abs() - eta * THRESHOLD).clamp(min=0) for n, block in moved.items()})


@dataclass(frozen=True)
class Extragradient(Rule):
    """theta <- theta - eta g(theta - eta g(theta))."""

    def step_from(self, state: Any, here: Here, t: int, norm: Any) -> tuple[Any, Step]:
        eta = here.log_lr.exp().reshape(-1, 1, 1)
        half = here.at({n: here.parameters[n] - eta * g for n, g in plain(here.gradient).items()})
        return state, Step(plain(half.gradient))


@dataclass(frozen=True)
class Watchful(Rule):
    """A trial step, and half of it where that does not lower the loss; what has been evaluated is not evaluated again."""

    def step_from(self, state: Any, here: Here, t: int, norm: Any) -> tuple[Any, Step]:
        eta = 40 * here.log_lr.exp().reshape(-1, 1, 1)
        g = plain(here.gradient)
        there = here.at({n: here.parameters[n] - eta * g[n] for n in g})
        worse = (there.log_loss >= here.log_loss)[:, None, None]
        if not bool(worse.any()):
            return state, Step(to=there)
        return state, Step(to=here.at({n: here.parameters[n] - torch.where(worse, eta / 2, eta) * g[n] for n in g}))


@dataclass(frozen=True)
class Anchored(Rule):
    """theta <- theta - eta (g + .1 (theta - theta_0)), with theta_0 and the sum of losses in buffers."""

    buffers: ClassVar[tuple[str, ...]] = ("start",)

    def step_from(self, state: Any, here: Here, t: int, norm: Any) -> tuple[Any, Step]:
        start = plain(state["start"]) if t > 1 else dict(here.parameters)
        total = here.log_loss.exp()[:, None, None] + (plain(state["sum"])["all"] if t > 1 else 0)
        pull = {n: g + 0.1 * (here.parameters[n] - start[n]) for n, g in plain(here.gradient).items()}
        kept = {n: Scaled(b, torch.zeros_like(b[..., :1])) for n, b in start.items()}
        return {"start": kept, "sum": {"all": Scaled(total, torch.zeros_like(total))}}, Step(pull, -0.01 * total.log1p())


# The same by torch: (theta, start, loss, eta, sum of losses) to the next theta; lists of tensors of one run.
Next = Callable[[list[Tensor], list[Tensor], Callable[[list[Tensor]], tuple[Tensor, list[Tensor]]], float, float], list[Tensor]]


def watched(w: list[Tensor], _: Any, value: Any, eta: float, __: float) -> list[Tensor]:
    loss, g = value(w)
    trial = [a - 40 * eta * b for a, b in zip(w, g, strict=True)]
    return trial if value(trial)[0] < loss else [a - 20 * eta * b for a, b in zip(w, g, strict=True)]


def length(blocks: list[Tensor]) -> Tensor:
    norm: Tensor = torch.cat([b.flatten() for b in blocks]).norm()
    return norm


def shrunk(w: list[Tensor], _: Any, value: Any, __: float, ___: float) -> list[Tensor]:
    g = value(w)[1]
    return [(a - 0.1 * length(w) * b / length(g)) / (1 + 0.1**2) ** 0.5 for a, b in zip(w, g, strict=True)]


def decayed(w: list[Tensor], _: Any, value: Any, eta: float, __: float) -> list[Tensor]:
    return [(1 - eta * DECAY) * a - eta * g.sign() for a, g in zip(w, value(w)[1], strict=True)]


def as_far_as_the_loss(w: list[Tensor], _: Any, value: Any, __: float, ___: float) -> list[Tensor]:
    loss, g = value(w)
    return [a - loss / (4 * length(g) ** 2) * b for a, b in zip(w, g, strict=True)]


def looking_ahead(w: list[Tensor], _: Any, value: Any, eta: float, __: float) -> list[Tensor]:
    half = [a - eta * g for a, g in zip(w, value(w)[1], strict=True)]
    return [a - eta * g for a, g in zip(w, value(half)[1], strict=True)]


def thresholded(w: list[Tensor], _: Any, value: Any, eta: float, __: float) -> list[Tensor]:
    return [functional.softshrink(a - eta * b, eta * THRESHOLD) for a, b in zip(w, value(w)[1], strict=True)]


def anchored(w: list[Tensor], start: list[Tensor], value: Any, eta: float, total: float) -> list[Tensor]:
    rate = eta * (1 + total + float(value(w)[0])) ** -0.01
    return [a - rate * (g + 0.1 * (a - b)) for a, b, g in zip(w, start, value(w)[1], strict=True)]


RULES: dict[str, tuple[Optimizer, Next]] = {
    "decay": (DecayedSign(), decayed),
    "fromage": (Fromage(), shrunk),
    "polyak": (Polyak(), as_far_as_the_loss),
    "proximal": (Proximal(), thresholded),
    "extragradient": (Extragradient(), looking_ahead),
    "watchful": (Watchful(), watched),
    "anchored": (Anchored(), anchored),
}


def samples() -> Data:
    rng = np.random.RandomState(0)
    y = np.tile(np.arange(K).repeat(N // K), (RUNS, 1))
    means = rng.randn(RUNS, K, D)
    return Data(torch.tensor(np.take_along_axis(means, y[..., None], axis=1) + 0.5 * rng.randn(RUNS, N, D)), torch.tensor(y), K)


def problem(optimizer: Optimizer, model: str = "linear", steps: int = STEPS, lr: Any = LR, **more: Any) -> Problem:
    made = MODELS.get(model)(
        **({"init": "gaussian", "init_scale": 0.5} if model == "linear" else {"width": 4, "init_scale": 1.0})
    )
    given: dict[str, Any] = {
        "schedule": SCHEDULES.get("power")(lr=lr, power=0.5), "measured": {"l2": make_norm("l2")}, "weights": "all",
        "points": 10 * steps, "initial": made.initial(samples(), range(RUNS)),
    }  # fmt: skip
    return Problem(made, LOSSES.get("cross_entropy")(), optimizer, data=samples(), steps=steps, **{**given, **more})


def forward(w: list[Tensor], x: Tensor) -> Tensor:
    """W x, or a two-layer network with squared ReLU."""
    return x @ w[0].T if len(w) == 1 else functional.relu(x @ w[0].T) ** 2 @ w[1].T


def value_at(x: Tensor, y: Tensor) -> Callable[[list[Tensor]], tuple[Tensor, list[Tensor]]]:
    def value(w: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        with torch.enable_grad():
            leaves = [a.detach().clone().requires_grad_() for a in w]
            loss = functional.cross_entropy(forward(leaves, x), y)
            return loss.detach(), list(torch.autograd.grad(loss, leaves))

    return value


@pytest.mark.slow
@pytest.mark.parametrize("model", ["linear", "mlp"])
@pytest.mark.parametrize("rule", RULES)
def test_a_step_from_parameters_and_loss_is_the_independent_loops(rule: str, model: str) -> None:
    """Each of 25 steps, from where the one before has led: what 25 of Polyak's on a network make of 1e-16 at their start is 1e-9,
    in the independent loop as in this one."""
    optimizer, following = RULES[rule]
    given = problem(optimizer, model, lr=torch.full((RUNS,), torch.inf) if optimizer in (Polyak(), Fromage()) else LR)
    ours = simulate(given)
    assert ours.steps == list(range(STEPS + 1))
    for r in range(RUNS):
        value = value_at(given.data.x[r], given.data.y[r])
        w = start = [block[r] for block in given.initial.values()]
        total = 0.0
        for t in range(STEPS + 1):
            loss = float(value(w)[0])
            np.testing.assert_allclose(ours.common["log_loss"][t, r], np.log(loss), rtol=1e-12, atol=1e-12)
            if t == STEPS:
                break
            expected = following(w, start, value, float(LR[r]) * (t + 1) ** -0.5, total)
            total += loss
            w = [block[r] for block in ours.parameters[t + 1].values()]
            for own, its in zip(w, expected, strict=True):
                torch.testing.assert_close(own, its, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("model", ["linear", "mlp"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("lr", [0.05, LR.float()])
def test_single_precision_stays_single(rule: str, model: str, lr: Any) -> None:
    """A schedule's rate that all runs share is a number in double precision."""
    given = problem(RULES[rule][0], model, lr=lr, steps=6, measured={}, points=1)
    data = Data(given.data.x.float(), given.data.y, K)
    ours = simulate(replace(given, data=data, initial={name: block.float() for name, block in given.initial.items()}))
    exact = simulate(replace(given, schedule=SCHEDULES.get("power")(lr=LR if isinstance(lr, Tensor) else lr, power=0.5)))
    for name, block in ours.parameters[6].items():
        assert block.dtype == torch.float32
        torch.testing.assert_close(block.double(), exact.parameters[6][name], rtol=1e-3, atol=1e-4)


def test_an_infinite_learning_rate_is_no_factor_of_a_whole_length_down_to_any_depth() -> None:
    """Polyak's steps in l2 go on where the loss is below the smallest double."""
    given = problem(Polyak(), steps=60, lr=torch.inf)
    deep = {"weight": 3e4 * simulate(replace(given, steps=20)).parameters[20]["weight"]}
    ours = simulate(replace(given, initial=deep))
    assert (ours.common["log_loss"][0] < -1000).all()
    assert np.isfinite(ours.by_norm["l2"]["margin"]).all()
    assert (ours.common["log_loss"][-1] < ours.common["log_loss"][0]).all()


def same(a: Trajectory, b: Trajectory) -> bool:
    columns = [(a.common[key], b.common[key]) for key in a.common]
    columns += [(a.by_norm["l2"][key], b.by_norm["l2"][key]) for key in a.by_norm["l2"]]
    blocks = [torch.equal(x, b.parameters[t][n]) for t, kept in a.parameters.items() for n, x in kept.items()]
    return a.steps == b.steps and all(blocks) and all(np.array_equal(x, y, equal_nan=True) for x, y in columns)


def kept(given: Problem, at: int) -> tuple[Trajectory, Snapshot]:
    """A trajectory, and what a file would hold of it at a step."""
    found: dict[str, Any] = {}

    def keep(t: int, snapshot: Callable[[], Snapshot]) -> None:
        if t == at:
            torch.save(snapshot(), buffer := io.BytesIO())
            found["file"] = buffer.getvalue()

    trajectory = simulate(given, keep=keep)
    return trajectory, torch.load(io.BytesIO(found["file"]), weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["linear", "mlp"])
@pytest.mark.parametrize("rule", RULES)
def test_it_goes_on_from_a_snapshot_to_the_bit_and_alone_as_in_a_batch(rule: str, model: str) -> None:
    given = problem(RULES[rule][0], model)
    whole, snapshot = kept(given, 9)
    assert misfit(given, snapshot) is None
    assert same(simulate(given, resume=snapshot), whole)
    schedule = SCHEDULES.get("power")(lr=float(LR[1]), power=0.5)
    data = Data(given.data.x[1:], given.data.y[1:], K)
    alone = simulate(replace(given, data=data, initial={n: b[1:] for n, b in given.initial.items()}, schedule=schedule))
    for name, block in alone.parameters[STEPS].items():
        torch.testing.assert_close(block[0], whole.parameters[STEPS][name][1], rtol=1e-11, atol=1e-13)


def test_a_step_is_taken_back_with_its_buffers() -> None:
    """Lyu and Li's schedule keeps only what lowers the loss, run by run, whatever the step looks like."""
    for optimizer in (Watchful(), Anchored(), Proximal()):
        schedule = SCHEDULES.get("lyu_li")(lr=torch.tensor([20.0, 0.1], dtype=torch.float64))
        losses = simulate(problem(optimizer, schedule=schedule)).common["log_loss"]
        assert (np.diff(losses, axis=0) <= 0).all()
        assert (np.diff(losses, axis=0) == 0).any()


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows with every evaluation of a linear model's gradient."""
    calls: list[int] = []
    gradient = LinearObjective.gradient

    def counting(self: Any, *given: Any) -> Any:
        calls.append(1)
        return gradient(self, *given)

    monkeypatch.setattr(LinearObjective, "gradient", counting)
    return calls


def test_nothing_is_evaluated_before_it_is_asked_for_and_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    for optimizer, a_step in ((SignGD(), 1), (DecayedSign(), 1), (Extragradient(), 2)):
        calls.clear()
        simulate(problem(optimizer, compile="off"))
        assert len(calls) == 1 + a_step * STEPS
    calls.clear()
    simulate(problem(Watchful(), lr=LR / 100))  # every trial is taken: its gradient is the next step's
    assert len(calls) == 1 + STEPS
    here = here_with({"weight": Scaled(torch.ones(1, 2, 2), torch.zeros(1, 2, 1))})
    there = here.at(here.parameters)
    with pytest.raises(AssertionError, match="at one point only"):
        there.log_loss  # noqa: B018 - the look itself is what counts


def test_the_parts_of_a_step() -> None:
    theta, one = {"a": torch.full((2, 1, 2), 3.0), "b": torch.full((2, 1, 1), 5.0)}, torch.ones(2, 1, 2)
    away = {"a": one, "b": one[..., :1]}
    log_lr = torch.tensor([0.5, 0.25]).log()

    def first(step: Step, lr: Tensor = log_lr) -> list[list[float]]:
        return [[round(v, 6) for v in block[:, 0, 0].tolist()] for block in arrived(step, theta, lr).values()]

    assert first(Step(away)) == [[2.5, 2.75], [4.5, 4.75]]
    assert first(Step(away), torch.tensor(2.0).log()) == [[1, 1], [3, 3]]
    assert first(Step(away, torch.tensor([2.0, 4.0]).log())) == [[2, 2], [4, 4]]
    assert first(Step(away, torch.tensor([2.0, 4.0]).log()[:, None, None], keep=0.5)) == [[0.5, 0.5], [1.5, 1.5]]
    assert first(Step(away, whole=True), torch.tensor(torch.inf)) == [[2, 2], [4, 4]]
    assert first(Step(away, torch.tensor([2.0, 0.0]).log(), whole=True)) == [[1, 3], [3, 5]]
    assert first(Step(keep=torch.tensor([0.0, 2.0]))) == [[0, 6], [0, 10]]
    assert first(Step()) == [[3, 3], [5, 5]]
    assert first(Step(to={"b": theta["b"] + 1, "a": theta["a"] + 1})) == [[4, 4], [6, 6]]
    for wrong in (Step(away, to=theta), Step(to=theta, whole=True), Step(to=theta, keep=1.0)):
        with pytest.raises(ValueError, match="a step that names the point arrived at has no direction"):
            first(wrong)
    for other in ({"a": theta["a"]}, {**theta, "b": one}, {**theta, "b": theta["b"].double()}):
        with pytest.raises(ValueError, match="a step leads to parameters of other blocks, shapes or types"):
            first(Step(to=other))


# --- fast steps ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@dataclass(frozen=True)
class DecayedSignGD(SignGD):
    """A subclass of an optimizer with steps in C, which sees the parameters."""

    def step_from(self, state: Any, here: Here, t: int, norm: Any) -> tuple[Any, Step]:
        state, step = super().step_from(state, here, t, norm)
        return state, step._replace(keep=1 - DECAY * here.log_lr.exp())


def test_who_sees_more_than_the_gradient_takes_plain_steps_and_says_why_once() -> None:
    assert SignGD().needs_gradient_only
    assert not DecayedSignGD().needs_gradient_only
    for optimizer, reason in ((DecayedSignGD(), "looks at more than the gradient"), (Sgd(), "keeps a state of its own")):
        said: list[str] = []
        made = {
            wanted: simulate(problem(optimizer, compile=wanted, tell=said.append, lr=0.05)) for wanted in ("off", "auto", "on")
        }
        assert {t.stepping for t in made.values()} == {"torch"}
        assert said == [f"steps are not compiled: optimizer={optimizer.name} {reason}; plain steps are taken"]
        assert same(made["off"], made["auto"])
        assert same(made["off"], made["on"])
    other, mine = simulate(problem(DecayedSign(), lr=0.05)), simulate(problem(DecayedSignGD(), lr=0.05))
    assert torch.equal(other.parameters[STEPS]["weight"], mine.parameters[STEPS]["weight"])


@dataclass(frozen=True)
class Shrinking(Rule):
    """Keep and whole in a step that the gradient alone decides: a compiler may have it."""

    def update(self, state: Any, gradient: Any, t: int, norm: Any) -> tuple[Any, Step]:
        return state, Step(norm.scaled_direction(gradient), keep=0.99, whole=True)


def test_a_compiled_step_carries_out_what_the_plain_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def compiler(step: object, **_: Any) -> object:
        asked.append(step)
        return step

    monkeypatch.setattr(torch, "compile", compiler)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    off, on = (simulate(problem(Shrinking(), compile=wanted)) for wanted in ("off", "on"))
    assert len(asked) == 1
    assert on.stepping == "torch.compile"
    assert same(off, on)


# --- foreign states --------------------------------------------------------------------------------------------------


class SgdState:
    """torch.optim.SGD with momentum on copies of the parameters."""

    def __init__(self, like: Mapping[str, Tensor]) -> None:
        self.leaves = {name: torch.zeros_like(block) for name, block in like.items()}
        self.optimizer = torch.optim.SGD(self.leaves.values(), lr=1.0, momentum=0.9)

    def snapshot(self) -> dict[str, Any]:
        return {"sgd": self.optimizer.state_dict()}

    def restore(self, snapshot: Mapping[str, Any]) -> SgdState:
        if set(snapshot) != {"sgd"}:
            raise ValueError("no state of SGD")
        self.optimizer.load_state_dict(snapshot["sgd"])
        return self


@dataclass(frozen=True)
class Sgd(Rule):
    """Momentum by torch.optim; its state is an object that changes in place."""

    name: ClassVar[str] = "foreign"
    foreign_state: ClassVar[bool] = True

    def init(self, gradient: Any) -> Any:
        return SgdState(plain(gradient))

    def step_from(self, state: Any, here: Here, t: int, norm: Any) -> tuple[Any, Step]:
        for name, g in plain(here.gradient).items():
            state.leaves[name].copy_(here.parameters[name])
            state.leaves[name].grad = g
        state.optimizer.param_groups[0]["lr"] = float(here.log_lr.exp())
        state.optimizer.step()
        return state, Step(to={name: leaf.clone() for name, leaf in state.leaves.items()})


@pytest.mark.parametrize("model", ["linear", "mlp"])
def test_a_foreign_state_goes_through_checkpoints(model: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "0")
    given = problem(Sgd(), model, lr=0.05)
    assert isinstance(Sgd().init({n: Scaled(b, b[..., :1]) for n, b in given.initial.items()}), ForeignState)

    def checkpoint() -> Checkpoint:
        return Checkpoint(tmp_path, ["a run"], torch.device("cpu"), "float64")

    def keep(t: int, snapshot: Callable[[], Snapshot]) -> None:
        if t == 9:
            checkpoint().keep(t, snapshot)

    whole = simulate(given, keep=keep)
    heavy_ball = simulate(problem(HeavyBall(), model, lr=0.05))
    for name, block in heavy_ball.parameters[STEPS].items():
        torch.testing.assert_close(whole.parameters[STEPS][name], block, rtol=1e-9, atol=1e-11)
    saved = checkpoint().read(given, lambda: "torch")
    assert saved is not None
    assert saved.step == 9
    assert same(simulate(given, resume=saved.snapshot), whole)
    assert misfit(given, {**deepcopy(saved.snapshot), "state": {"other": 1}}) == "of another form (state)"


@dataclass(frozen=True)
class HeavyBall(Rule):
    """What torch calls momentum, by the constant step of the same rate: b <- .9 b + g, theta <- theta - eta b."""

    buffers: ClassVar[tuple[str, ...]] = ("b",)

    def update(self, state: Any, gradient: Any, t: int, norm: Any) -> tuple[Any, Step]:
        b = {name: combine(state["b"][name], g, 0.9, 1.0) for name, g in gradient.items()}
        return {"b": b}, Step(plain(b))


def test_a_state_that_cannot_be_rolled_back_or_is_not_announced_is_refused() -> None:
    with pytest.raises(ValueError, match="optimizer foreign: its state cannot be rolled back"):
        simulate(problem(Sgd(), schedule=SCHEDULES.get("lyu_li")(lr=0.1)))

    @dataclass(frozen=True)
    class Silent(Sgd):
        foreign_state: ClassVar[bool] = False

    with pytest.raises(TypeError, match="foreign_state must say"):
        simulate(problem(Silent(), lr=0.1))
    with pytest.raises(NotImplementedError, match="optimizer tried has neither update nor step_from"):
        simulate(problem(Rule()))


@pytest.mark.parametrize(
    ("step", "line"),
    [
        (lambda g: Step({"weight": g[..., :1]}), r"weight is \(\(2, 3, 1\), 'float64'\); must be \(\(2, 3, 5\), 'float64'\)"),
        (lambda g: Step({"weight": g[:1]}), r"weight is \(\(1, 3, 5\), 'float64'\)"),
        (lambda g: Step({"weight": g.float()}), r"weight is \(\(2, 3, 5\), 'float32'\)"),
        (lambda g: Step({"bias": g}), "other blocks, shapes or types: bias; must be weight"),
        (lambda g: Step({}, torch.zeros(2)), "a step of a size has a direction"),
    ],
)
def test_a_step_of_other_shapes_is_refused_and_not_broadcast(step: Callable[[Tensor], Step], line: str) -> None:
    parameters = {"weight": torch.ones(2, 3, 5, dtype=torch.float64)}
    with pytest.raises(ValueError, match=line):
        arrived(step(torch.ones(2, 3, 5, dtype=torch.float64)), parameters, torch.tensor(0.0, dtype=torch.float64))


def test_a_state_that_no_checkpoint_could_hold_is_refused_before_the_first_step() -> None:
    check_buffers("mine", {"momentum": {"weight": Scaled(torch.ones(1, 2, 2), torch.zeros(1, 1, 1))}})
    for state in ({"momentum": {"weight": torch.ones(2)}}, {"steps": 3}, [1.0], None):
        with pytest.raises(TypeError, match="optimizer mine: its state must be buffers"):
            check_buffers("mine", state)
