"""Steps by mini-batches: plain loops and a closed form beside them, and records, which are of all samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from implicit_bias.core.scaled import Scaled
from implicit_bias.engine import Problem, Trajectory, simulate
from implicit_bias.engine.mini_batches import MiniBatches, mini_batches
from implicit_bias.engine.steppers import torch_compile
from implicit_bias.engine.steppers.base import Setup
from implicit_bias.engine.steppers.eager import Eager
from implicit_bias.engine.steppers.verification import wrong
from implicit_bias.engine.variance_reduction import Anchor
from implicit_bias.losses import LOSSES
from implicit_bias.measures.averages import StepAverage
from implicit_bias.models import Data
from implicit_bias.optimizers import OPTIMIZERS, Optimizer, Step
from implicit_bias.optimizers.base import steepest
from implicit_bias.probes import PROBES
from implicit_bias.schedules import SCHEDULES
from tests.engine.test_engine import assert_same_bits, mixtures, network_problem, one, problem, snapshots_at
from tests.support.quick import quick_of

N, K = 20, 4
ORDERS = ("reshuffle", "cyclic", "replace")


def batched(given: Problem, size: int, order: Any, seeds: Sequence[int], **more: Any) -> Problem:
    batch = mini_batches(size, order, torch.tensor(list(seeds)), given.data.x.shape[1])
    return replace(given, batch=batch, compile="off", **more)


def linear(
    optimizer: str, size: int, order: Any, seeds: Sequence[int] = (1,), steps: int = 25, data: Data | None = None, **more: Any
) -> Problem:
    data = mixtures(list(seeds), k=K, d=6, per_class=N // K) if data is None else data
    more = {"points": 8, "logged": ("linf", "l2"), **more}
    given = problem(optimizer, data, len(seeds), steps, more.pop("lr", 0.1), **more)
    return batched(given, size, order, seeds)


def rows_of(order: str, n: int, b: int, seed: int, t: int) -> list[int]:
    """The samples of update t, from 1, by the design's words."""
    epoch, within = divmod(t - 1, n // b)
    if order == "cyclic":
        return sorted(((t - 1) * b + i) % n for i in range(b))
    rng = np.random.default_rng([seed, epoch])
    if order == "reshuffle":
        return sorted(rng.permutation(n).tolist()[within * b : (within + 1) * b])
    return sorted(rng.integers(n, size=(n // b, b))[within].tolist())


# --- plain loops -----------------------------------------------------------------------------------------------------

#: Where a loop is, its gradient and t to where it goes.
Rule = Callable[[Tensor, Tensor, int], Tensor]


def signum(beta: float = 0.9) -> Rule:
    m = torch.zeros(())

    def rule(w: Tensor, g: Tensor, t: int) -> Tensor:
        nonlocal m
        m = beta * m + (1 - beta) * g
        moved: Tensor = w - 0.1 * t**-0.5 * m.sign()
        return moved

    return rule


def muon(beta: float = 0.9) -> Rule:
    m = torch.zeros(())

    def rule(w: Tensor, g: Tensor, t: int) -> Tensor:
        nonlocal m
        m = beta * m + (1 - beta) * g
        u, s, v = torch.linalg.svd(m, full_matrices=False)
        moved: Tensor = w - 0.1 * t**-0.5 * (u * (s > 1e-9 * s[0])) @ v
        return moved

    return rule


def torch_class(make: Any) -> Rule:
    state: dict[str, Any] = {}

    def rule(w: Tensor, g: Tensor, t: int) -> Tensor:
        if not state:
            state["w"] = torch.nn.Parameter(w.clone())
            state["optimizer"] = make([state["w"]])
        state["w"].grad = g
        state["optimizer"].param_groups[0]["lr"] = 0.1 * t**-0.5
        state["optimizer"].step()
        moved: Tensor = state["w"].detach().clone()
        return moved

    return rule


LOOPS: dict[str, Callable[[], Rule]] = {
    "signum": signum,
    "muon": muon,
    "adam": lambda: torch_class(lambda p: torch.optim.Adam(p, betas=(0.9, 0.95), eps=0.0)),
}


def looped(data: Data, rule: Rule, rows: Callable[[int], list[int]], steps: int) -> Tensor:
    """The last W (k, d) of the loop that one would write."""
    x, y = data.x[0], data.y[0]
    w = torch.zeros(data.num_classes, x.shape[1], dtype=x.dtype)
    for t in range(1, steps + 1):
        leaf = w.clone().requires_grad_()
        mine = rows(t)
        (g,) = torch.autograd.grad(functional.cross_entropy(x[mine] @ leaf.T, y[mine]), leaf)
        w = rule(w, g, t)
    return w


def last(trajectory: Trajectory) -> Tensor:
    return next(iter(trajectory.parameters[trajectory.steps[-1]].values()))


@pytest.mark.parametrize("order", ["cyclic", "reshuffle"])
@pytest.mark.parametrize("size", quick_of([1, 5, N // 2], 5))
@pytest.mark.parametrize("optimizer", LOOPS)
def test_steps_are_those_of_a_plain_loop(optimizer: str, size: int, order: str) -> None:
    given = linear(optimizer, size, order, seeds=(5,))
    ours = last(simulate(given))[0]
    theirs = looped(given.data, LOOPS[optimizer](), lambda t: rows_of(order, N, size, 5, t), given.steps)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


CLOSED = ("signgd", "ngd", "spectral_gd", "coordinate_descent", "row_gd", "nucgd")


@pytest.mark.parametrize("optimizer", CLOSED)
def test_one_sample_two_classes_and_no_momentum_have_a_closed_form(optimizer: str) -> None:
    """W_T = sum_t eta_t direction((e_y - e_c) x_i(t)^T) whatever the loss: the weight of the only pair cancels."""
    data, steps = mixtures([2], k=2, d=6, per_class=5), 33
    given = linear(optimizer, 1, "reshuffle", seeds=(2,), steps=steps, data=data)
    norm = given.measured[given.optimizer.own or "l2"]
    wanted = torch.zeros(1, 2, 6, dtype=torch.float64)
    for t in range(1, steps + 1):
        (i,) = rows_of("reshuffle", 10, 1, 2, t)
        pair = torch.tensor([1.0, -1.0], dtype=torch.float64) * (1 - 2 * int(data.y[0, i]))
        wanted += 0.1 * t**-0.5 * norm.direction(pair[None, :, None] * data.x[0, i])
    torch.testing.assert_close(last(simulate(given)), wanted, rtol=1e-9, atol=1e-9)


class Extragradient(Optimizer):
    """theta - eta g(theta - eta g(theta))."""

    name: ClassVar[str] = "extragradient"
    own_norm: ClassVar[str | None] = "l2"
    normalised: ClassVar[bool] = False

    def step_from(self, state: Any, here: Any, t: int, norm: Any) -> Any:
        eta = here.log_lr.exp()
        half = {n: w - eta * here.gradient[n].relative_to(torch.zeros(())) for n, w in here.parameters.items()}
        return state, steepest(here.at(half).gradient, norm)


def test_another_point_is_looked_at_with_the_same_samples() -> None:
    given = replace(linear("gd", 4, "reshuffle", seeds=(5,)), optimizer=Extragradient())
    x, y = given.data.x[0], given.data.y[0]

    def slope(w: Tensor, rows: list[int]) -> Tensor:
        leaf = w.clone().requires_grad_()
        return torch.autograd.grad(functional.cross_entropy(x[rows] @ leaf.T, y[rows]), leaf)[0]

    def rule(w: Tensor, g: Tensor, t: int) -> Tensor:
        eta = 0.1 * t**-0.5
        moved: Tensor = w - eta * slope(w - eta * g, rows_of("reshuffle", N, 4, 5, t))
        return moved

    theirs = looped(given.data, rule, lambda t: rows_of("reshuffle", N, 4, 5, t), given.steps)
    torch.testing.assert_close(last(simulate(given))[0], theirs, rtol=1e-11, atol=1e-11)


class VarianceReduced(Optimizer):
    """theta - eta (g_b(theta) - g_b(snapshot) + g(snapshot)), the snapshot renewed once an epoch (SVRG)."""

    name: ClassVar[str] = "variance_reduced"
    own_norm: ClassVar[str | None] = "l2"
    normalised: ClassVar[bool] = False

    def step_from(self, state: Any, here: Any, t: int, norm: Any) -> Any:
        if (t - 1) % here.cadence == 0:
            state = {"snapshot": {n: Scaled(w, torch.zeros_like(w[..., :1])) for n, w in here.parameters.items()}}
        snapshot = {n: block.mantissa for n, block in state["snapshot"].items()}
        there, whole, unit = here.at(snapshot), here.at(here.parameters).of_all(snapshot), torch.zeros(())
        parts = (here.gradient, there.gradient, whole.gradient)
        g, old, mean = ({n: block.relative_to(unit) for n, block in part.items()} for part in parts)
        return state, Step({n: g[n] - old[n] + mean[n] for n in g})


def test_the_gradient_of_all_samples_can_be_asked_for() -> None:
    given = replace(linear("gd", 4, "reshuffle", seeds=(5,)), optimizer=VarianceReduced())
    x, y, snapshot = given.data.x[0], given.data.y[0], torch.zeros(())

    def slope(w: Tensor, rows: list[int]) -> Tensor:
        leaf = w.clone().requires_grad_()
        return torch.autograd.grad(functional.cross_entropy(x[rows] @ leaf.T, y[rows]), leaf)[0]

    def rule(w: Tensor, g: Tensor, t: int) -> Tensor:
        nonlocal snapshot
        snapshot = w if t % 5 == 1 else snapshot
        reduced = g - slope(snapshot, rows_of("reshuffle", N, 4, 5, t)) + slope(snapshot, list(range(N)))
        moved: Tensor = w - 0.1 * t**-0.5 * reduced
        return moved

    theirs = looped(given.data, rule, lambda t: rows_of("reshuffle", N, 4, 5, t), given.steps)
    torch.testing.assert_close(last(simulate(given))[0], theirs, rtol=1e-11, atol=1e-11)
    full = replace(given, batch=None, schedule=SCHEDULES.get("power")(lr=0.1))
    plain = replace(full, optimizer=OPTIMIZERS.get("gd")())
    torch.testing.assert_close(last(simulate(full)), last(simulate(plain)), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("optimizer", "order"), [("signum", "reshuffle"), ("muon", "replace"), ("adam", "cyclic")])
def test_variance_is_reduced_as_in_a_plain_loop(optimizer: str, order: Any) -> None:
    """SVRG: the anchor is renewed every ceil(20 / 3) = 7 updates, which is no epoch of 6."""
    given = replace(linear(optimizer, 3, order, seeds=(5,)), variance_reduction="svrg")
    x, y, rule, anchor = given.data.x[0], given.data.y[0], LOOPS[optimizer](), torch.zeros(())

    def slope(w: Tensor, rows: list[int]) -> Tensor:
        leaf = w.clone().requires_grad_()
        return torch.autograd.grad(functional.cross_entropy(x[rows] @ leaf.T, y[rows]), leaf)[0]

    def corrected(w: Tensor, g: Tensor, t: int) -> Tensor:
        nonlocal anchor
        anchor = w if t % 7 == 1 else anchor
        return rule(w, g - slope(anchor, rows_of(order, N, 3, 5, t)) + slope(anchor, list(range(N))), t)

    theirs = looped(given.data, corrected, lambda t: rows_of(order, N, 3, 5, t), given.steps)
    torch.testing.assert_close(last(simulate(given))[0], theirs, rtol=1e-9, atol=1e-9)


def test_corrected_gradients_are_exact_far_below_every_double() -> None:
    """Where scores are in the thousands; in units of the largest term they are plain numbers again."""
    data = mixtures([5], k=K, d=6, per_class=N // K)
    given = replace(linear("gd", 4, "cyclic", seeds=(5,), data=data), variance_reduction="svrg", loss=LOSSES.get("exponential")())
    setup = Setup.of(given)
    far = 5e4 * (torch.linalg.pinv(data.x[0]) @ functional.one_hot(data.y[0], K).double()).T[None]
    near = torch.randn(1, K, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start = setup.begun()._replace(parameters={"weight": far + near})
    anchor = Anchor(0, {"weight": far}, setup.objective.gradient)
    found = setup.here(start._replace(anchor=anchor), 2).gradient["weight"]
    unit = float(found.top())
    assert unit < -1000
    same = setup.here(start._replace(anchor=replace(anchor, parameters=start.parameters)), 2).gradient["weight"]
    whole = setup.objective.gradient(start.parameters).blocks["weight"]
    torch.testing.assert_close(same.log_abs(), whole.log_abs(), rtol=1e-14, atol=0.0)

    def slope(at: Tensor, rows: list[int]) -> Tensor:
        """e^-unit times the gradient of the mean over samples and wrong classes of e^(z_c - z_y)."""
        x, y = data.x[0, rows], data.y[0, rows]
        z = x @ at[0].T
        weights = (z - z.gather(1, y[:, None]) - unit).exp().scatter(1, y[:, None], 0.0) / len(rows)
        total: Tensor = weights.T @ x
        for row, label, sum_ in zip(x, y, weights.sum(dim=1), strict=True):
            total[label] -= sum_ * row
        return total

    mine, (here, there) = [4, 5, 6, 7], (start.parameters["weight"], anchor.parameters["weight"])
    wanted = slope(here, mine) - slope(there, mine) + slope(there, list(range(N)))
    torch.testing.assert_close(found.relative_to(found.top())[0], wanted, rtol=1e-9, atol=1e-10)


def test_what_reads_the_loss_is_refused_a_corrected_gradient() -> None:
    given = replace(linear("gd", 5, "cyclic"), variance_reduction="svrg")
    polyak = OPTIMIZERS.get("sd")(truncate=True, beta=0.0)
    for more in ({"schedule": SCHEDULES.get("loss_based")(lr=0.1)}, {"optimizer": polyak}):
        with pytest.raises(ValueError, match="reads the loss"):
            simulate(replace(given, **more))
    with pytest.raises(ValueError, match="the loss is read"):
        Setup.of(given).here(Setup.of(given).begun(), 1).log_loss  # noqa: B018


@pytest.mark.parametrize("target", ["torch.optim.AdamW", "torch.optim.LBFGS"])
def test_classes_of_torch_are_handed_the_loss_of_their_batch(target: str) -> None:
    foreign = OPTIMIZERS.get("torch")(target=target, kwargs={} if target.endswith("W") else {"max_iter": 3})
    given = replace(linear("gd", 4, "reshuffle", seeds=(5,), steps=12), optimizer=foreign)
    x, y = given.data.x[0], given.data.y[0]
    w = torch.nn.Parameter(torch.zeros(K, 6, dtype=torch.float64))
    theirs = eval(target)([w], lr=0.1, **foreign.kwargs)
    for t in range(1, 13):
        rows = rows_of("reshuffle", N, 4, 5, t)

        def closure(rows: list[int] = rows) -> Tensor:
            theirs.zero_grad()
            loss = functional.cross_entropy(x[rows] @ w.T, y[rows])
            loss.backward()
            return loss

        theirs.param_groups[0]["lr"] = 0.1 * t**-0.5
        theirs.step(closure)
    torch.testing.assert_close(last(simulate(given))[0], w.detach(), rtol=1e-8, atol=1e-8)


def test_a_loss_based_rate_is_divided_by_the_loss_of_the_batch() -> None:
    given = replace(linear("gd", 5, "cyclic"), schedule=SCHEDULES.get("loss_based")(lr=0.05))
    x, y = given.data.x[0], given.data.y[0]

    def rule(w: Tensor, g: Tensor, t: int) -> Tensor:
        rows = rows_of("cyclic", N, 5, 1, t)
        return w - 0.05 * g / functional.cross_entropy(x[rows] @ w.T, y[rows])

    theirs = looped(given.data, rule, lambda t: rows_of("cyclic", N, 5, 1, t), given.steps)
    torch.testing.assert_close(last(simulate(given))[0], theirs, rtol=1e-10, atol=1e-10)


def test_a_network_makes_the_steps_of_a_plain_loop() -> None:
    given = batched(network_problem("constant", "nmgd"), 5, "reshuffle", [0, 1, 2], steps=40, kkt_products=0, points=2)
    trajectory = simulate(given)
    for run in range(3):
        blocks = {name: block[run].clone() for name, block in given.initial.items()}
        m = {name: torch.zeros_like(block) for name, block in blocks.items()}
        for t in range(1, 41):
            rows = rows_of("reshuffle", 12, 5, run, t)
            leaves = [block.requires_grad_() for block in blocks.values()]
            scores = torch.relu(given.data.x[run, rows] @ blocks["layer1"].T).square() @ blocks["layer2"].T
            g = torch.autograd.grad(functional.cross_entropy(scores, given.data.y[run, rows]), leaves)
            m = {name: 0.9 * m[name] + 0.1 * part for name, part in zip(blocks, g, strict=True)}
            size = torch.stack([block.square().sum() for block in m.values()]).sum().sqrt()
            blocks = {name: (block - 0.1 * m[name] / size).detach() for name, block in blocks.items()}
        for name, block in blocks.items():
            torch.testing.assert_close(trajectory.parameters[40][name][run], block, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("optimizer", ["adam", "signum"])
def test_data_with_zeros_keep_a_scale_an_entry_whatever_the_batch(optimizer: str) -> None:
    """A batch of one sample may be without zeros, or have them elsewhere: buffers are laid out by all samples."""
    data = mixtures([5], k=K, d=6, per_class=N // K)
    x = data.x * (torch.rand(data.x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) > 0.4)
    x[0, ::4] = data.x[0, ::4]
    given = linear(optimizer, 1, "cyclic", seeds=(5,), steps=30, data=Data(x, data.y, K))
    layouts: set[tuple[int, ...]] = set()

    def keep(t: int, snapshot: Any) -> None:
        scales = [log_scale for blocks in snapshot()["state"].values() for _, log_scale in blocks.values()]
        layouts.update(tuple(scale.shape) for scale in scales)

    trajectory = simulate(given, keep=keep)
    assert layouts == {(1, K, 6)}
    # A feature that no sample has fed yet has m = v = 0, which torch makes a nan of.
    rule = (lambda: signum()) if optimizer == "signum" else (lambda: torch_class(zero_over_zero(torch.optim.Adam)))
    theirs = looped(given.data, rule(), lambda t: rows_of("cyclic", N, 1, 5, t), 30)
    torch.testing.assert_close(last(trajectory)[0], theirs, rtol=1e-9, atol=1e-9)


def zero_over_zero(cls: Any) -> Any:
    """An Adam whose eps is far below every gradient here, for 0 / 0 = 0."""
    return lambda parameters: cls(parameters, betas=(0.9, 0.95), eps=1e-100)


# --- all samples -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["cyclic", "reshuffle"])
@pytest.mark.parametrize("optimizer", ["signum", "muon", "adam", "sd"])
def test_a_batch_of_all_samples_is_the_full_batch_to_the_last_bit(optimizer: str, order: Any) -> None:
    full = replace(problem(optimizer, mixtures([1, 2]), 2, 12, 0.1, points=4), compile="off")
    batch = MiniBatches(full.data.x.shape[1], order, torch.tensor([1, 2]), full.data.x.shape[1])
    assert_same_bits(simulate(replace(full, batch=batch)), simulate(full))


@pytest.mark.slow
def test_a_network_on_batches_of_all_samples_is_the_full_batch_to_the_last_bit() -> None:
    full = replace(network_problem("constant", "muon_adam", levels=3), points=6, kkt_products=2)
    batch = MiniBatches(12, "reshuffle", torch.tensor([1, 2, 3]), 12)
    assert_same_bits(simulate(replace(full, batch=batch, steps=40)), simulate(replace(full, steps=40)))


def test_records_are_of_all_samples() -> None:
    given = linear("signum", 3, "reshuffle", seeds=(1, 2), steps=60, probes=[PROBES.get("natural_gradient")()], points=12)
    given = replace(given, weights="all")
    trajectory, before = simulate(given), {}

    def keep(t: int, snapshot: Any) -> None:
        before[t] = snapshot()["parameters"]["weight"].clone()

    simulate(given, keep=keep)
    for place, t in enumerate(trajectory.steps):
        w = trajectory.parameters[t]["weight"].requires_grad_()
        z = torch.bmm(w, given.data.x.mT)
        losses = functional.cross_entropy(z, given.data.y, reduction="none").mean(dim=1)
        np.testing.assert_allclose(trajectory.common["log_loss"][place], losses.detach().log(), rtol=1e-10)
        if t - 1 in before:
            was = before[t - 1].requires_grad_()
            loss = functional.cross_entropy(torch.bmm(was, given.data.x.mT), given.data.y, reduction="none").mean(dim=1)
            (g,) = torch.autograd.grad(loss.sum(), was)
            cosine = functional.cosine_similarity(g.flatten(1), (was - w).detach().flatten(1), dim=1)
            np.testing.assert_allclose(trajectory.common["cos_psi"][place], cosine, rtol=1e-6, atol=1e-9)
    assert (trajectory.common["cos_psi"][2:] < 0.95).all()  # with its own batch the first steps of a sign have more


def test_certificates_average_gradients_of_all_samples_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    from implicit_bias.measures.certificate import Certificate

    met: list[tuple[int, Tensor]] = []
    monkeypatch.setattr(Certificate, "collect", lambda self, t, gradient: met.append((t, gradient.total)))
    monkeypatch.setattr(Certificate, "bound", lambda self, norm, c, average: c.dual(norm))
    given = linear("signgd", 8, "reshuffle", steps=150, points=12)
    simulate(given)
    wanted = [3 * j for j in range(51) if StepAverage.wants(j)]
    assert [t for t, _ in met] == wanted
    assert all(total.shape == (1, N) for _, total in met)


def test_bounds_hold_under_mini_batches() -> None:
    given = linear("nmgd", 3, "replace", seeds=(1, 2, 3), steps=120)
    trajectory = simulate(given)
    for columns in trajectory.by_norm.values():
        best = np.nanmax(columns["margin"], axis=0)
        assert (best <= columns["upper_bound"][-1]).all()


def test_levels_and_stops_are_looked_for_once_an_epoch() -> None:
    given = linear("nmgd", 8, "reshuffle", seeds=(1, 2), steps=120, levels=2.0, lr=0.3)
    free = simulate(given)
    stop = float(np.median(free.common["log_loss"][-1])) * 0.7
    trajectory = simulate(replace(given, stop_log_loss=stop))
    fixed = set(simulate(replace(given, levels=0)).steps)
    assert given.cadence == 3
    assert set(trajectory.steps) - fixed and all(t % 3 == 0 for t in set(trajectory.steps) - fixed)
    for run in range(2):
        mine = [place for place, there in enumerate(trajectory.recorded[:, run]) if there]
        end = trajectory.steps[mine[-1]]
        assert end == 120 or (end % 3 == 0 and trajectory.common["log_loss"][mine[-1], run] < stop)
        looked = [place for place in mine[:-1] if trajectory.steps[place] % 3 == 0]
        assert (trajectory.common["log_loss"][looked, run] >= stop).all()
    assert min(trajectory.steps[np.flatnonzero(trajectory.recorded[:, run])[-1]] for run in range(2)) < 120


def test_the_automatic_rate_does_not_depend_on_the_batch() -> None:
    from implicit_bias.config.overrides import compose
    from implicit_bias.sweep.loading import located
    from implicit_bias.sweep.problem import build_problem

    typed = ["optimizer=gd", "dataset.num_classes=3", "dataset.dim=5"]
    rates = []
    for more in ([], ["batch.size=4"]):
        (cell,) = located([compose([*typed, *more])[0].spec])
        rates.append(build_problem([cell], [{}]).schedule.lr)  # type: ignore[list-item]
    assert rates[0] == rates[1]


# --- bits ------------------------------------------------------------------------------------------------------------


REDUCED = {order: "svrg" if order == "replace" else "none" for order in ORDERS}


@pytest.mark.parametrize("order", quick_of(ORDERS, "replace"))
@pytest.mark.parametrize(("optimizer", "shared"), [("muon", False), ("adam", True)])
def test_a_run_has_the_same_bits_alone_and_beside_others(optimizer: str, shared: bool, order: Any) -> None:
    seeds = (4, 9, 4)
    data = mixtures([5] if shared else list(seeds), k=K, d=6, per_class=N // K)
    reduced: Any = {"variance_reduction": REDUCED[order]}
    together = simulate(replace(linear(optimizer, 3, order, seeds, 20, data), **reduced))
    for run, seed in enumerate(seeds):
        alone = simulate(replace(linear(optimizer, 3, order, [seed], 20, data if shared else one(data, run)), **reduced))
        for label, columns in alone.by_norm.items():
            np.testing.assert_array_equal(together.by_norm[label]["margin"][:, run], columns["margin"][:, 0])
            np.testing.assert_array_equal(together.by_norm[label]["upper_bound"][:, run], columns["upper_bound"][:, 0])
        np.testing.assert_array_equal(together.common["log_loss"][:, run], alone.common["log_loss"][:, 0])


@pytest.mark.parametrize("order", quick_of(ORDERS, "reshuffle"))
def test_a_run_that_goes_on_at_any_step_has_the_bits_of_an_undisturbed_one(order: Any) -> None:
    given = linear("adam", 3, order, (1, 2), 10, levels=1.0, certificate_iterations=2, points=6)
    reduced: Any = {"variance_reduction": REDUCED[order]}
    given = replace(given, weights="all", **reduced)
    steps = tuple(range(1, 10))
    snapshots, undisturbed = snapshots_at(steps, given)
    assert [snapshot["step"] for snapshot in snapshots] == list(steps)
    for snapshot in snapshots:
        assert_same_bits(simulate(given, resume=snapshot), undisturbed)


@pytest.mark.slow
def test_a_network_goes_on_with_its_batches_to_the_last_bit() -> None:
    given = batched(network_problem("constant", "muon_adam", levels=3), 5, "reshuffle", [0, 1, 2], steps=40, points=6)
    given = replace(given, variance_reduction="svrg")
    snapshots, undisturbed = snapshots_at((7, 30), given)
    for snapshot in snapshots:
        assert_same_bits(simulate(given, resume=snapshot), undisturbed)


# --- what goes with them ---------------------------------------------------------------------------------------------


def test_the_comparison_with_plain_steps_sees_the_batches() -> None:
    """A stepper of full batches is told apart; one of the same batches is not, also where another gradient would be."""
    given = linear("nmgd", 5, "reshuffle", (1, 2))
    setup, other = Setup.of(given), Setup.of(replace(given, batch=None))
    assert wrong(setup, Eager(setup), Eager, setup.begun(), 0) is None
    assert wrong(setup, Eager(other), Eager, setup.begun(), 0) is not None


def test_a_part_of_the_runs_keeps_their_batches() -> None:
    given = linear("signum", 5, "reshuffle", (1, 2, 3))
    part = given.at(torch.tensor([2, 0]))
    assert part.batch is not None
    assert part.batch.seeds.tolist() == [3, 1]


def test_what_takes_steps_back_needs_full_batches() -> None:
    given = linear("gd", 5, "cyclic")
    with pytest.raises(ValueError, match="needs full batches"):
        simulate(replace(given, schedule=SCHEDULES.get("lyu_li")(lr=0.1)))


def test_a_run_that_diverges_is_found_between_records() -> None:
    from implicit_bias.engine import Diverged

    @dataclass(frozen=True)
    class Grows(Optimizer):
        name: ClassVar[str] = "grows"
        own_norm: ClassVar[str | None] = "l2"

        def update(self, state: Any, gradient: Any, t: int, norm: Any) -> Any:
            return state, Step({n: torch.full_like(g.mantissa, 10.0 ** (4 * t)) for n, g in gradient.items()})

    given = replace(linear("ngd", 3, "cyclic", steps=500, points=2), optimizer=Grows(), measured={})
    with pytest.raises(Diverged, match=r"diverged by step 30"):
        simulate(given)


def test_fast_steps_that_do_not_know_batches_say_so() -> None:
    setup = Setup.of(replace(linear("signum", 5, "cyclic"), compile="auto"))
    assert "mini-batches" in (torch_compile.refusal(setup) or "")


def test_buffers_take_batches_of_any_scale() -> None:
    """Batches have losses e^-20 apart: an average of their gradients is what exact arithmetic has."""
    scaled = [
        Scaled(torch.ones(1, 1, 1, dtype=torch.float64), torch.full((1, 1, 1), s, dtype=torch.float64)) for s in (-48.0, -28.0)
    ]
    from implicit_bias.core.scaled import average

    found = average(scaled[0], scaled[1], 0.9)
    assert float(found.log_abs()) == pytest.approx(math.log(0.9 * math.exp(-20) + 0.1) - 28, rel=1e-14)
