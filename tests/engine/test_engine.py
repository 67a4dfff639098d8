"""The engine: batches against single runs, published numbers, certificates, depth."""

import io
import itertools
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from implicit_bias.datasets import make_dataset
from implicit_bias.datasets.base import Dataset
from implicit_bias.engine import Problem, Snapshot, Trajectory, simulate
from implicit_bias.engine.record_times import record_steps
from implicit_bias.engine.steppers.base import Setup
from implicit_bias.engine.steppers.choose import choose
from implicit_bias.engine.steppers.torch_compile import COMPILERS, REPAID_STEPS, refusal
from implicit_bias.losses import LOSSES
from implicit_bias.measures.margins import Optimum
from implicit_bias.models import MODELS, Data
from implicit_bias.norms import NORMS, make_norm
from implicit_bias.optimizers import OPTIMIZERS
from implicit_bias.schedules import SCHEDULES, auto_lr
from implicit_bias.solvers.reference import improve_weights, solve_certified
from implicit_bias.sweep.problem import CERTIFICATE_ITERATIONS
from tests.support.quick import quick_of

NORMS_LOGGED = ("linf", "l1", "l2", "spectral", "nuclear", "row")


@cache
def loaded(**keys: Any) -> Dataset:
    """A dataset, which is not to be changed: most tests want the same ones."""
    return make_dataset(keys).load()


def mixtures(seeds: list[int], k: int = 5, d: int = 12, per_class: int = 6, noise: float = 0.5) -> Data:
    keys: dict[str, Any] = {"num_classes": k, "dim": d, "samples_per_class": per_class, "noise": noise}
    sets = [loaded(name="gaussian_mixture", seed=s, **keys) for s in seeds]
    return Data(torch.from_numpy(np.stack([s.x for s in sets])), torch.from_numpy(np.stack([s.y for s in sets])), k)


def problem(optimizer: str, data: Data, runs: int, steps: int, lr: Any = None, *, power: Any = 0.5, **more: Any) -> Problem:
    rule, model = OPTIMIZERS.get(optimizer)(**more.pop("hyper", {})), MODELS.get("linear")()
    if lr is None:
        own = make_norm(rule.own or "l2")
        lr = auto_lr(model.unit_step(data, own), own, rule.normalised)
    return Problem(
        model=model,
        loss=LOSSES.get(more.pop("loss", "cross_entropy"))(),
        optimizer=rule,
        schedule=SCHEDULES.get("power")(lr=lr, power=power),
        data=data,
        initial=model.initial(data, range(runs)),
        steps=steps,
        measured={label: make_norm(label) for label in dict.fromkeys([*more.pop("logged", NORMS_LOGGED), rule.own or "l2"])},
        **more,
    )


def one(data: Data, r: int) -> Data:
    return Data(data.x[r : r + 1], data.y[r : r + 1], data.num_classes)


#: Steps of signs, of unit length, by singular vectors, of one entry, as long as gradients, by quotients, by weights, of torch's.
OF_EVERY_KIND = ("signgd", "ngd", "muon", "nucgd", "coordinate_descent", "gd", "adam", "lars", "torch")
#: Of a batch of fifty, past the first record of each kind and several turns of every memory.
STEPS = 15


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "shared"),
    # Optimizers are handed gradients: where all runs have the same data, these are formed otherwise, for all of them alike.
    [*((name, False) for name in sorted(OPTIMIZERS)), *((name, True) for name in OF_EVERY_KIND)],
)
def test_a_run_in_a_batch_of_fifty_is_the_run_alone_to_the_last_bit(optimizer: str, shared: bool) -> None:
    """Some optimizers amplify round-off (test_nucgd_amplifies_round_off), so nothing less than the same bits will do.

    Of plain steps; those in C are tested in test_native.py.
    """
    data = mixtures([5] if shared else list(range(50)))
    lr = torch.linspace(0.05, 0.4, 50, dtype=torch.float64)
    # Certificates are tightened after the last step, whatever the optimizer, and longer than all steps take: in one case alone.
    tightened = optimizer == "ngd" and not shared
    more: dict[str, Any] = {"certificate_iterations": 3 if tightened else 0, "points": 6, "compile": "off"}
    # What is measured depends on the weights alone, whatever moved them.
    more["logged"] = NORMS_LOGGED if optimizer in OF_EVERY_KIND else ("l2",)
    together = simulate(problem(optimizer, data, 50, STEPS, lr, **more))
    for r in (0, 49):
        own = data if shared else one(data, r)
        alone = simulate(problem(optimizer, own, 1, STEPS, lr[r : r + 1], **more))
        assert alone.steps == together.steps
        mkl = torch.backends.mkl.is_available()
        ours, its = together.parameters[STEPS]["weight"][r], alone.parameters[STEPS]["weight"][0]
        np.testing.assert_allclose(ours, its, rtol=0 if mkl else 1e-9)
        for label, columns in alone.by_norm.items():
            for key, column in columns.items():
                batched = together.by_norm[label][key][:, r]
                # The last bound comes from an iteration of its own, which is exact to round-off only.
                exact = mkl and key not in ("upper_bound", "kkt_ratio")
                np.testing.assert_allclose(batched, column[:, 0], rtol=0 if exact else 1e-9, err_msg=key)


def test_runs_of_a_batch_may_differ_in_lr_power_momentum_and_exponent() -> None:
    data = mixtures([3])
    both = Data(data.x.expand(2, -1, -1), data.y.expand(2, -1), data.num_classes)
    lr, power, beta, p = ([0.05, 0.2], [0.5, 0.3], [0.9, 0.4], [1.7, 4.0])
    batch = problem(
        "nmd", both, 2, 25, torch.tensor(lr, dtype=torch.float64), power=torch.tensor(power, dtype=torch.float64),
        hyper={"beta": torch.tensor(beta, dtype=torch.float64).reshape(2, 1, 1)},
        norm=NORMS.get("lp")(p=torch.tensor(p, dtype=torch.float64)),
    )  # fmt: skip
    together = simulate(batch)
    for r in range(2):
        alone = simulate(
            problem("nmd", data, 1, 25, lr[r], power=power[r], hyper={"beta": beta[r]}, norm=make_norm("lp", p=p[r]))
        )
        for label in NORMS_LOGGED:
            a, b = together.by_norm[label], alone.by_norm[label]
            np.testing.assert_allclose(a["margin"][:, r], b["margin"][:, 0], rtol=1e-9, atol=1e-10)
            np.testing.assert_allclose(a["upper_bound"][:, r], b["upper_bound"][:, 0], rtol=1e-9)
        np.testing.assert_allclose(together.common["lr"][:, r], alone.common["lr"][:, 0], rtol=1e-12)


PUBLISHED = {
    "signgd": (0.01, (0.167, 0.313, 0.430), 610),
    "ngd": (0.1, (0.544, 0.176, 0.336), 890),
    "spectral_gd": (0.05, (0.618, 0.285, 0.150), 660),
    "muon": (0.05, (0.617, 0.285, 0.150), 670),
}
PUBLISHED_OPTIMA = {"linf": 4.00182, "l2": 0.407561, "spectral": 0.980568}


@pytest.fixture(scope="module")
def published() -> Data:
    return mixtures([1], k=10, d=25, per_class=50, noise=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", PUBLISHED)
def test_published_relative_gaps(optimizer: str, published: Data) -> None:
    """Fan et al., Figure 1 at the last of 10,000 steps, and the step at which the data are first separated."""
    lr, gaps, separation = PUBLISHED[optimizer]
    optima = {label: Optimum(torch.tensor([g], dtype=torch.float64)) for label, g in PUBLISHED_OPTIMA.items()}
    trajectory = simulate(problem(optimizer, published, 1, 10_000, lr, optima=optima, points=200, logged=optima))
    measured = [trajectory.by_norm[label]["relative_gap"][-1, 0] for label in PUBLISHED_OPTIMA]
    np.testing.assert_allclose(measured, gaps, atol=0.003)
    margins = trajectory.by_norm["l2"]["margin"][:, 0]
    first = next(s for s, m in zip(trajectory.steps, margins, strict=True) if m > 0)
    assert first == pytest.approx(separation, rel=0.08)


def violations(trajectory: Trajectory, optima: dict[str, np.ndarray]) -> tuple[int, int]:
    """Rows, and rows whose interval [margin, upper_bound] does not contain the optimum (round-off of 1e-9 allowed)."""
    rows = wrong = 0
    for label, optimum in optima.items():
        margin, upper = trajectory.by_norm[label]["margin"], trajectory.by_norm[label]["upper_bound"]
        assert np.isfinite(upper).all()
        bad = (margin > optimum * (1 + 1e-9)) | (upper < optimum * (1 - 1e-9))
        rows, wrong = rows + bad.size, wrong + int(bad.sum())
    return rows, wrong


@pytest.mark.slow
def test_the_certified_interval_contains_the_optimum_on_twenty_thousand_rows() -> None:
    data = mixtures(list(range(16)), k=4, d=8, per_class=5)
    rows = wrong = 0
    # Brackets from a solver that nobody has to trust: lower and upper are recomputed from its primal and dual points.
    solved = {label: solve_certified(data.x, data.y, 4, make_norm(label), tol=1e-8) for label in NORMS_LOGGED}
    lower = {label: np.array([r.lower for r in solved[label]]) for label in NORMS_LOGGED}
    for optimizer, loss in zip(sorted(OPTIMIZERS), itertools.cycle(LOSSES), strict=False):
        # Bounds are tightened from the last weights, whatever the optimizer.
        tightened = 5 if optimizer in OF_EVERY_KIND[:3] else 0
        trajectory = simulate(problem(optimizer, data, 16, 60, loss=loss, points=8, certificate_iterations=tightened))
        more, bad = violations(trajectory, lower)
        rows, wrong = rows + more, wrong + bad
    assert rows >= 20_000
    assert wrong == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "label", "bound"), [("signgd", "linf", 0.008), ("ngd", "l2", 0.001), ("spectral_gd", "spectral", 0.004)]
)
def test_certificates_on_the_published_data(optimizer: str, label: str, bound: float, published: Data) -> None:
    """At 10,000 steps certified and true ratio differ little from the free weights, less after improving the last ones."""
    free = simulate(replace(problem(optimizer, published, 1, 10_000, points=2), measured={label: make_norm(label)}))
    columns = {key: values[-1, 0] for key, values in free.by_norm[label].items()}
    true = columns["margin"] / PUBLISHED_OPTIMA[label]
    assert true - columns["margin"] / columns["upper_bound"] < bound
    assert columns["kkt_ratio"] == pytest.approx(columns["margin"] / columns["upper_bound"], rel=1e-12)
    w = free.parameters[10_000]["weight"]
    weights = MODELS.get("linear")().objective(published, LOSSES.get("cross_entropy")()).weights({"weight": w})
    _, upper = improve_weights(published.x, published.y, make_norm(label), weights, w, CERTIFICATE_ITERATIONS)
    better = min(float(upper[0]), columns["upper_bound"])
    assert better >= PUBLISHED_OPTIMA[label] * (1 - 1e-5)
    assert true - columns["margin"] / better < 0.002


@cache
def far_below() -> tuple[Data, torch.Tensor]:
    """Two sets of data, and a separating point scaled up to losses of e^-10,500."""
    data = mixtures([2, 5])
    early = simulate(problem("ngd", data, 2, 100, logged=()))
    margin = early.by_norm["l2"]["margin"][-1] * early.by_norm["l2"]["param_norm"][-1]
    return data, early.parameters[100]["weight"] * torch.from_numpy(10_500 / margin)[:, None, None]


# momentum_gd, muon_max and polar_grad are left out: a plain step is nothing at e^-10000, and one relative to the loss is
# unstable once the loss falls faster than beta (truncated steps: test_truncation.py). A class of torch's is handed plain numbers,
# and there is none so small.
@pytest.mark.slow
@pytest.mark.parametrize("optimizer", sorted(set(OPTIMIZERS) - {"momentum_gd", "muon_max", "polar_grad", "torch"}))
def test_runs_below_a_log_loss_of_minus_ten_thousand(optimizer: str) -> None:
    """From a separating point scaled up: every column is finite, and the own-norm ratio still rises; nothing stalls for
    want of precision."""
    data, deep = far_below()
    logged = NORMS_LOGGED if optimizer in OF_EVERY_KIND else ("l2",)
    calm = replace(problem(optimizer, data, 2, 150, logged=logged, points=10), initial={"weight": deep})
    if not calm.optimizer.normalised:  # at e^-10000 only steps relative to the loss are any
        calm = replace(calm, schedule=SCHEDULES.get("loss_based")(lr=calm.schedule.lr))
    if optimizer in ("fromage", "lars"):  # the rate is a share of the weights
        calm = replace(calm, schedule=replace(calm.schedule, lr=0.01))
    trajectory = simulate(calm)
    log_loss = trajectory.common["log_loss"]
    assert (log_loss < -10_000).all()
    assert (log_loss[-1] < log_loss[0]).all()
    assert np.isfinite(trajectory.common["lr"][1:]).all()
    for columns in trajectory.by_norm.values():
        for key in ("margin", "upper_bound", "alignment", "kkt_ratio", "param_norm"):
            assert np.isfinite(columns[key]).all(), key
    own = trajectory.by_norm[trajectory.own]["margin"]
    assert (own[-1] > own[0]).all()


def test_alignment_and_margins_mean_what_they_say() -> None:
    data = mixtures([4])
    trajectory = simulate(problem("ngd", data, 1, 50, weights="all"))
    final = trajectory.parameters[50]["weight"][0].numpy()
    z = data.x[0].numpy() @ final.T
    y = data.y[0].numpy()
    gaps = z[np.arange(len(y)), y][:, None] - z
    gaps[np.arange(len(y)), y] = np.inf
    assert trajectory.by_norm["l2"]["margin"][-1, 0] == pytest.approx(gaps.min() / np.linalg.norm(final), rel=1e-12)
    assert trajectory.common["accuracy"][-1, 0] == pytest.approx((gaps.min(axis=1) > 0).mean())
    # Autograd's p_y - 1 has lost ten digits here; extended precision has enough.
    x, w = data.x[0].numpy().astype(np.longdouble), final.astype(np.longdouble)
    scores = x @ w.T
    shape = np.exp(scores - scores[np.arange(len(y)), y][:, None])
    shape[np.arange(len(y)), y] = 0
    loss = np.log1p(shape.sum(axis=1)).mean()
    p = shape / (1 + shape.sum(axis=1, keepdims=True))
    p[np.arange(len(y)), y] = -p.sum(axis=1)
    gradient = p.T @ x
    cosine = -(gradient * w).sum() / np.sqrt((gradient**2).sum() * (w**2).sum())
    assert trajectory.by_norm["l2"]["alignment"][-1, 0] == pytest.approx(float(cosine), rel=1e-14)
    assert trajectory.common["log_loss"][-1, 0] == pytest.approx(float(np.log(loss)), rel=1e-13)
    assert trajectory.steps[0] == 0
    assert np.isnan(trajectory.by_norm["l2"]["margin"][0, 0])
    assert np.isnan(trajectory.common["lr"][0, 0])
    assert sorted(trajectory.parameters) == trajectory.steps


def test_correlation_is_the_cosine_with_the_separator() -> None:
    data = mixtures([4])
    reference = solve_certified(data.x, data.y, 5, make_norm("l2"))[0]
    optimum = Optimum(torch.tensor([reference.lower]), {"weight": torch.from_numpy(reference.separator)[None]})
    trajectory = simulate(problem("ngd", data, 1, 3000, optima={"l2": optimum}, logged=("l2",), points=10))
    correlation = trajectory.by_norm["l2"]["correlation"][:, 0]
    final = trajectory.parameters[3000]["weight"][0].numpy()
    expected = (final * reference.separator).sum() / np.linalg.norm(final) / np.linalg.norm(reference.separator)
    assert correlation[-1] == pytest.approx(expected, rel=1e-12)
    assert correlation[-1] > 0.98
    assert np.isnan(correlation[0])


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 1000, 12345])
def test_records_are_log_spaced_and_contain_the_landmarks(steps: int) -> None:
    records = record_steps(steps, 40)
    assert records == sorted(set(records))
    assert records[0] == 0
    assert records[-1] == steps
    assert {10**e for e in range(6) if 10**e <= steps} <= set(records)
    ratios = np.diff(np.log([r for r in records if r >= 30]))
    assert (ratios < 0.5).all()


def test_different_seeds_give_different_runs() -> None:
    """Peers' seeds shared data and start, and drew error bars of width zero."""
    trajectory = simulate(problem("signgd", mixtures([1, 2, 3]), 3, 50))
    assert len(set(trajectory.by_norm["linf"]["margin"][-1].tolist())) == 3


def test_float32_runs_and_stays_float32() -> None:
    data = mixtures([1])
    single = Data(data.x.float(), data.y, data.num_classes)
    low, high = (simulate(problem("signgd", d, 1, 200, 0.05, logged=("linf",))) for d in (single, data))
    assert low.parameters[200]["weight"].dtype == torch.float32
    assert low.by_norm["linf"]["margin"][-1, 0] == pytest.approx(high.by_norm["linf"]["margin"][-1, 0], rel=0.05)


@pytest.mark.parametrize(("optimizer", "amplifies"), [("nucgd", True), ("signgd", False)])
def test_nucgd_amplifies_round_off(optimizer: str, amplifies: bool) -> None:
    """A finding of docs/findings.md: W0 changed by 1e-16, and the own-norm margin over 200 steps of eight runs."""
    calm = problem(optimizer, mixtures(list(range(8))), 8, 200, logged=())
    noise = 1e-16 * torch.randn(8, 5, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a, b = simulate(calm), simulate(replace(calm, initial={"weight": noise}))
    moved = np.abs(a.by_norm[a.own]["margin"][1:] - b.by_norm[a.own]["margin"][1:]).max()
    assert moved > 1e-3 if amplifies else moved < 1e-12


def test_with_a_constant_step_sign_and_spectral_descent_stall_and_normalised_gd_does_not() -> None:
    """A finding of docs/findings.md, at half the automatic step."""
    data = mixtures([2, 5])
    ratios = {}
    for optimizer, label in (("signgd", "linf"), ("spectral_gd", "spectral"), ("ngd", "l2")):
        optimum = np.array([r.lower for r in solve_certified(data.x, data.y, 5, make_norm(label))])
        lr = 0.5 * problem(optimizer, data, 2, 1).schedule.lr
        trajectory = simulate(problem(optimizer, data, 2, 10_000, lr, power=0.0, logged=(label,), points=10))
        ratios[optimizer] = trajectory.by_norm[label]["margin"][[trajectory.steps.index(1000), -1]] / optimum
    # What is left of the gap from 1,000 to 10,000 steps. (Late gradients of the first data set have a condition number of 1e12:
    # round-off in their spectral direction moves its last ratio by .003.)
    left = {optimizer: (1 - ratio[-1]) / (1 - ratio[0]) for optimizer, ratio in ratios.items()}
    assert (ratios["ngd"][-1] > 0.999).all()
    assert (left["ngd"] < 0.2).all()
    for optimizer in ("signgd", "spectral_gd"):
        assert (ratios[optimizer][-1] < 0.99).all()
        assert (left[optimizer] > 0.8).all()


def snapshots_at(steps: Sequence[int], batch: Problem) -> tuple[list[Snapshot], Trajectory]:
    """What a batch leaves in files after each of ``steps`` steps, and its trajectory, undisturbed."""
    files: list[io.BytesIO] = []

    def keep(t: int, snapshot: Any) -> None:
        if len(files) < len(steps) and t >= steps[len(files)]:
            files.append(io.BytesIO())
            torch.save(snapshot(), files[-1])

    trajectory = simulate(batch, keep=keep)
    return [torch.load(io.BytesIO(file.getvalue()), weights_only=True) for file in files], trajectory


def assert_same_bits(a: Trajectory, b: Trajectory) -> None:
    assert a.steps == b.steps
    np.testing.assert_array_equal(a.recorded, b.recorded)
    assert list(a.common) == list(b.common)
    assert list(a.by_norm) == list(b.by_norm)
    for one_part, other_part in [(a.common, b.common), *((a.by_norm[label], b.by_norm[label]) for label in a.by_norm)]:
        for key, column in one_part.items():
            assert column.dtype == other_part[key].dtype
            assert column.tobytes() == other_part[key].tobytes(), key
    assert list(a.parameters) == list(b.parameters)
    for step, blocks in a.parameters.items():
        for name, block in blocks.items():
            assert torch.equal(block, b.parameters[step][name])


@pytest.mark.parametrize("optimizer", quick_of(sorted(OPTIMIZERS), "signgd", "muon", "adam"))
def test_a_batch_that_goes_on_from_a_snapshot_is_the_undisturbed_one_to_the_last_bit(optimizer: str) -> None:
    lr = torch.linspace(0.05, 0.4, 3, dtype=torch.float64)
    logged = NORMS_LOGGED if optimizer in OF_EVERY_KIND else ("l2",)
    # Certificates are tightened after the last step, whatever the optimizer.
    tightened = 3 if optimizer in OF_EVERY_KIND[:3] else 0
    more: dict[str, Any] = {"certificate_iterations": tightened, "weights": "all", "points": 10, "logged": logged}
    batch = problem(optimizer, mixtures(list(range(3))), 3, 36, lr, **more)
    snapshots, undisturbed = snapshots_at((1, 21), batch)
    for step, snapshot in zip((1, 21), snapshots, strict=True):
        assert step <= snapshot["step"] < 36
        assert_same_bits(simulate(batch, resume=snapshot), undisturbed)


def network_problem(schedule: str, optimizer: str = "gd", **more: Any) -> Problem:
    data, test = mixtures([0, 1, 2], k=3, d=4, per_class=4), mixtures([10, 11, 12], k=3, d=4, per_class=4)
    model, rule = MODELS.get("mlp")(width=6, depth=2), OPTIMIZERS.get(optimizer)()
    return Problem(
        model=model,
        loss=LOSSES.get("cross_entropy")(),
        optimizer=rule,
        schedule=SCHEDULES.get(schedule)(lr=0.1),
        data=data,
        initial=model.initial(data, range(3)),
        steps=100,
        measured={label: make_norm(label) for label in dict.fromkeys(["linf", "l2", "spectral", rule.own or "l2"])},
        kkt_products=6,
        test=test,
        **more,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("schedule", "weights"), [("constant", "all"), ("lyu_li", "last")])
def test_a_network_goes_on_from_a_snapshot_to_the_last_bit(schedule: str, weights: Any) -> None:
    """With KKT ratios, levels of loss, runs that stop early, a test set and cosines with later iterates."""
    free = simulate(replace(network_problem(schedule), steps=60, kkt_products=0))
    stop = float(np.median(free.common["log_loss"][-1]))
    batch = replace(network_problem(schedule, levels=3, stop_log_loss=stop, weights=weights), steps=60)
    (snapshot,), undisturbed = snapshots_at((41,), batch)
    assert undisturbed.steps[-1] > 41
    assert not undisturbed.recorded[-1].all()
    assert {"test_accuracy", "later_cosine"} <= set(undisturbed.common)
    assert snapshot["probes"]["later_cosine"]["past"]
    assert snapshot["probes"]["kkt"]["average"]
    if schedule == "lyu_li":
        assert not torch.equal(*snapshot["schedule"].values())
    assert_same_bits(simulate(batch, resume=snapshot), undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", quick_of(["muon_adam", "signum"], "muon_adam"))
def test_a_network_with_momentum_goes_on_from_a_snapshot_to_the_last_bit(optimizer: str) -> None:
    batch = replace(network_problem("constant", optimizer), steps=50)
    (snapshot,), undisturbed = snapshots_at((30,), batch)
    assert_same_bits(simulate(batch, resume=snapshot), undisturbed)


def test_snapshots_are_asked_for_between_steps_only() -> None:
    asked: list[int] = []
    simulate(problem("signgd", mixtures([1]), 1, 5, compile="off"), keep=lambda t, _: asked.append(t))
    assert asked == [1, 2, 3, 4]


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="no C++ compiler here: the step cannot be compiled")
@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_the_compiled_step_is_the_plain_one_to_round_off(optimizer: str) -> None:
    data = mixtures([1, 2, 3])
    # A loss that has no steps in C.
    plain, compiled = (
        simulate(problem(optimizer, data, 3, 20, compile=wanted, loss="pair_logistic")) for wanted in ("off", "on")
    )
    assert compiled.stepping == "torch.compile"
    for label, columns in plain.by_norm.items():
        np.testing.assert_allclose(compiled.by_norm[label]["margin"], columns["margin"], rtol=1e-11, atol=1e-13)


def test_auto_does_not_compile_a_step_with_a_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("compiled"))
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    given = problem("muon", mixtures([1]), 1, REPAID_STEPS)
    assert refusal(Setup.of(given)) == "steps that work on matrices gain nothing; compile=on compiles them"


def test_a_step_that_cannot_be_compiled_is_taken_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no compiler today")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: broken)
    data = mixtures([1, 2])
    plain, fallen_back = (
        simulate(problem("muon", data, 2, 20, compile=wanted, loss="pair_logistic")) for wanted in ("off", "on")
    )
    assert np.array_equal(plain.by_norm["spectral"]["margin"], fallen_back.by_norm["spectral"]["margin"], equal_nan=True)


@pytest.mark.parametrize(
    ("wanted", "steps", "compiled"), [("auto", 1000, False), ("auto", REPAID_STEPS, True), ("on", 1, True), ("off", 10**6, False)]
)
def test_the_step_is_compiled_where_that_is_wanted_or_repaid(
    wanted: Any, steps: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def compiler(step: object, **_: Any) -> object:
        asked.append(step)
        return step

    monkeypatch.setattr(torch, "compile", compiler)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    # A loss that has no steps in C.
    setup = Setup.of(problem("signgd", mixtures([1]), 1, steps, compile=wanted, loss="pair_logistic"))
    assert (choose(setup).stepper.stepping == "torch.compile") == bool(asked) == compiled
    monkeypatch.setattr(shutil, "which", lambda name: None)
    asked.clear()
    assert choose(setup).stepper.stepping == "torch"
    assert not asked
