"""Optimizers against torch.optim and mpmath, and the traps that other implementations fell into."""

from dataclasses import fields, replace
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor

from implicit_bias.core.registry import hyper_fields
from implicit_bias.core.scaled import Scaled, average, combine, root_mean_square
from implicit_bias.engine.steppers.eager import arrived
from implicit_bias.losses import LOSSES
from implicit_bias.models import MODELS, Data, Objective
from implicit_bias.norms import make_norm
from implicit_bias.optimizers import OPTIMIZERS, Here, Optimizer
from implicit_bias.optimizers.muon_ns import newton_schulz
from tests.support.optimizer_steps import step_with
from tests.support.quick import quick_of

K, D, N = 4, 6, 20
#: Those that are written here; tests/test_torch.py is of classes that are written elsewhere.
OURS = [name for name in OPTIMIZERS if not OPTIMIZERS.get(name).foreign_state]
#: Those whose steps have a length of eta times their unit in the own norm.
#: Whose steps are not of length eta, or not in a norm of their own.
OTHERWISE_LONG = {
    "adam", "dual_acceleration", "fromage", "gd", "lars", "mirror", "momentum_gd", "muon_max", "muon_ns", "mvn_grad",
    "polar_grad", "prodigy", "sd", "soap",
}  # fmt: skip
NORMALISED = sorted(set(OURS) - OTHERWISE_LONG)
#: Whose steps are made from gradients over their weights' sum (test_mirror.py has them at any depth).
OF_WEIGHTS = {"dual_acceleration", "mirror"}


def mixture(seed: int = 0, runs: int = 1) -> Data:
    rng = np.random.RandomState(seed)
    means = rng.randn(runs, K, D)
    y = np.tile(np.arange(K).repeat(N // K), (runs, 1))
    x = np.take_along_axis(means, y[..., None], axis=1) + 0.3 * rng.randn(runs, N, D)
    return Data(torch.tensor(x), torch.tensor(y), K)


def objective(data: Data, loss: str = "cross_entropy") -> Objective:
    made: Objective = MODELS.get("linear")().objective(data, LOSSES.get(loss)())
    return made


def run(
    optimizer: Optimizer, data: Data, steps: int, lr: Any, start: Tensor | None = None, norm: str | None = None
) -> list[Tensor]:
    """The plain loop over the public pieces; W after every step."""
    target = objective(data)
    w = torch.zeros(data.x.shape[0], K, D, dtype=data.x.dtype) if start is None else start.clone()
    geometry = optimizer.geometry(["weight"], make_norm(norm) if norm else None, MODELS.get("linear")().row_bases(data))
    gradient = target.gradient({"weight": w})
    state, path = optimizer.init(gradient.blocks), []
    log_lr = torch.as_tensor(lr, dtype=w.dtype).log()
    for t in range(1, steps + 1):
        here = Here({"weight": w}, target.gradient, log_lr, gradient)
        state, step = optimizer.step_from(state, here, t, geometry)
        w = arrived(step, {"weight": w}, log_lr)["weight"]
        gradient = target.gradient({"weight": w})
        path.append(w)
    return path


TORCH = {
    "gd": (OPTIMIZERS.get("gd")(), lambda p: torch.optim.SGD(p, lr=0.3)),
    "momentum_gd": (OPTIMIZERS.get("momentum_gd")(beta=0.8), lambda p: torch.optim.SGD(p, lr=0.3 * (1 - 0.8), momentum=0.8)),
    "momentum_gd nesterov": (
        OPTIMIZERS.get("momentum_gd")(beta=0.8, nesterov=True),
        lambda p: torch.optim.SGD(p, lr=0.3 * (1 - 0.8), momentum=0.8, nesterov=True),
    ),
    "momentum_gd heavy ball": (
        OPTIMIZERS.get("momentum_gd")(beta=0.8, ema=False),
        lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.8),
    ),
    "momentum_gd heavy ball nesterov": (
        OPTIMIZERS.get("momentum_gd")(beta=0.8, ema=False, nesterov=True),
        lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.8, nesterov=True),
    ),
    "adam eps=0": (OPTIMIZERS.get("adam")(beta2=0.99), lambda p: torch.optim.Adam(p, lr=0.3, betas=(0.9, 0.99), eps=0.0)),
    "adam eps=1e-3": (
        OPTIMIZERS.get("adam")(beta1=0.5, beta2=0.9, eps=1e-3),
        lambda p: torch.optim.Adam(p, lr=0.3, betas=(0.5, 0.9), eps=1e-3),
    ),
}


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize("init", quick_of(["zero", "random"], "random"))
def test_forty_steps_equal_torch_optim(name: str, init: str) -> None:
    ours, make = TORCH[name]
    data = mixture()
    start = torch.zeros(1, K, D, dtype=torch.float64)
    if init == "random":
        start = torch.randn(1, K, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    w = start[0].clone().requires_grad_()
    theirs = make([w])
    for own in run(ours, data, 40, 0.3, start):
        theirs.zero_grad()
        torch.nn.functional.cross_entropy(data.x[0] @ w.T, data.y[0]).backward()
        theirs.step()
        torch.testing.assert_close(own[0], w.detach(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("full_rank", [False, True])
def test_muon_ns_equals_torch_muon_step_by_step(nesterov: bool, full_rank: bool) -> None:
    """torch iterates in bfloat16: 3e-2 on a step from the same buffer, 1e-5 on the buffer.

    A multiclass gradient's columns sum to zero; five quintic steps lift bfloat16's round-off along that null direction
    some 480 times, to 10% of
    torch's step. It is no part of the algorithm (and changes no gap), so it is taken out before the comparison.
    """
    k, d = 10, 25
    rng = np.random.RandomState(0)
    y = np.arange(k).repeat(8)
    data = Data(torch.tensor(rng.randn(k, d)[y] + 0.5 * rng.randn(8 * k, d))[None], torch.tensor(y)[None], k)
    target, ours = objective(data), OPTIMIZERS.get("muon_ns")(beta=0.9, nesterov=nesterov)
    w = torch.zeros(k, d, dtype=torch.float64).requires_grad_()
    theirs = torch.optim.Muon([w], lr=0.1, momentum=0.9, weight_decay=0.0, nesterov=nesterov)
    noise = torch.randn(30, k, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    state = None
    for t in range(1, 30):
        before = w.detach().clone()
        g = noise[t] if full_rank else target.gradient({"weight": before[None]}).blocks["weight"].relative_to(torch.zeros(()))[0]
        gradient = {"weight": Scaled(g[None], torch.zeros(1, k, 1, dtype=torch.float64))}
        state, step = step_with(ours, state or ours.init(gradient), gradient, t, ours.geometry(["weight"], None))
        w.grad = g.clone()
        theirs.step()
        buffer = theirs.state[w]["momentum_buffer"]
        mine = state["momentum"]["weight"].relative_to(torch.zeros(()))[0]
        assert (mine - buffer).norm() <= 1e-5 * buffer.norm()
        their_step = (before - w.detach()) / 0.1
        if not full_rank:
            their_step = their_step - their_step.mean(dim=0)
        assert (step.direction["weight"][0] - their_step).norm() <= 3e-2 * their_step.norm()


def mp_run(name: str, x: np.ndarray, y: np.ndarray, lr: float, steps: int) -> list[list[list[mpmath.mpf]]]:
    """signgd, signum or adam (eps 0, bias correction) in exact arithmetic; the directions of every step."""
    n, d = x.shape
    k = int(y.max()) + 1
    w = [[mpmath.mpf(0)] * d for _ in range(k)]
    m = [[mpmath.mpf(0)] * d for _ in range(k)]
    v = [[mpmath.mpf(0)] * d for _ in range(k)]
    b1, b2, directions = mpmath.mpf(0.9), mpmath.mpf(0.95), []
    for t in range(1, steps + 1):
        g = [[mpmath.mpf(0)] * d for _ in range(k)]
        for xi, yi in zip(x, y, strict=True):
            z = [mpmath.fdot(row, map(mpmath.mpf, xi)) for row in w]
            e = [mpmath.e ** (zc - z[yi]) for zc in z]
            for c in range(k):
                if c != yi:
                    for j in range(d):
                        g[c][j] += e[c] / sum(e) * mpmath.mpf(xi[j]) / n
                        g[yi][j] -= e[c] / sum(e) * mpmath.mpf(xi[j]) / n
        step = [[mpmath.mpf(0)] * d for _ in range(k)]
        for c in range(k):
            for j in range(d):
                m[c][j] = b1 * m[c][j] + (1 - b1) * g[c][j]
                v[c][j] = b2 * v[c][j] + (1 - b2) * g[c][j] ** 2
                if name == "adam":
                    step[c][j] = (m[c][j] / (1 - b1**t)) / mpmath.sqrt(v[c][j] / (1 - b2**t)) if v[c][j] else mpmath.mpf(0)
                else:
                    step[c][j] = mpmath.mpf(int(mpmath.sign(g[c][j] if name == "signgd" else m[c][j])))
                w[c][j] -= mpmath.mpf(lr) * step[c][j]
        directions.append(step)
    return directions


@pytest.mark.slow
@pytest.mark.parametrize("name", ["signgd", "signum", "adam"])
@pytest.mark.parametrize("zeros", [False, True])
def test_directions_equal_mpmath_down_to_a_log_loss_of_minus_ten_thousand(name: str, zeros: bool) -> None:
    rng = np.random.RandomState(3)
    means = rng.randn(3, 4)
    y = np.array([0, 1, 2, 0, 1, 2])
    x = means[y] + 0.3 * rng.randn(6, 4)
    if zeros:  # a feature that a single sample has: fed by that sample's weight alone
        x[1:, 3], x[0, 3] = 0, 0.01
    steps, lr = 60, 8000.0
    data = Data(torch.tensor(x)[None], torch.tensor(y)[None], 3)
    target, optimizer = objective(data), OPTIMIZERS.get(name)()
    w = torch.zeros(1, 3, 4, dtype=torch.float64)
    gradient = target.gradient({"weight": w})
    state, geometry = optimizer.init(gradient.blocks), optimizer.geometry(["weight"], None)
    with mpmath.workdps(30):
        exact = mp_run(name, x, y, lr, steps)
    deepest = 0.0
    for t in range(1, steps + 1):
        state, step = step_with(optimizer, state, gradient.blocks, t, geometry)
        expected = np.array([[float(v) for v in row] for row in exact[t - 1]])
        np.testing.assert_array_equal(np.sign(step.direction["weight"][0].numpy()), np.sign(expected), err_msg=f"step {t}")
        np.testing.assert_allclose(step.direction["weight"][0].numpy(), expected, rtol=1e-6, atol=1e-300)
        w = w - lr * step.direction["weight"]
        gradient = target.gradient({"weight": w})
        deepest = min(deepest, gradient.log_loss.item())
    assert deepest < -10_000


@pytest.mark.parametrize("name", sorted(set(OURS) - OF_WEIGHTS))
def test_directions_do_not_depend_on_the_gradients_scale(name: str) -> None:
    """g and e^-5000 g give the same normalised steps; a plain g^2 or ||g|| would be 0. SOAP's basis turns with the last digit of
    the logarithms of its Gram matrices, which at e^-10000 is 2e-12: there e^-1000 has to do.
    """
    optimizer = OPTIMIZERS.get(name)()
    generator = torch.Generator().manual_seed(0)
    geometry = optimizer.geometry(["weight"], make_norm("l2"))
    paths = []
    at, *mantissas = [torch.randn(2, K, D, generator=generator, dtype=torch.float64) for _ in range(6)]
    for shift in (0.0, -1000.0 if name == "soap" else -5000.0):
        gradients = [{"weight": Scaled(m, torch.full_like(m[..., :1], shift))} for m in mantissas]
        state, steps = optimizer.init(gradients[0]), []
        for t, g in enumerate(gradients, 1):
            state, step = step_with(optimizer, state, g, t, geometry, {"weight": at})
            if step.log_size is not None:
                steps.append(step.log_size if optimizer.normalised else step.log_size - shift)
            steps.append(step.direction["weight"])
        paths.append(steps)
    for a, b in zip(*paths, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", NORMALISED)
def test_normalised_steps_have_norm_one_in_the_own_norm(name: str) -> None:
    """In a hybrid's norm, r: matrices move by the rate itself."""
    optimizer = OPTIMIZERS.get(name)()
    path = run(optimizer, mixture(), 20, 0.5, norm="row")
    geometry = optimizer.geometry(["weight"], make_norm("row"))
    for before, after in zip([torch.zeros_like(path[0]), *path], path, strict=False):
        assert geometry.value({"weight": after - before}).item() == pytest.approx(0.5 * optimizer.unit, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", OURS)
def test_every_hyper_parameter_changes_the_trajectory(name: str) -> None:
    """Peers shipped ns_steps that were ignored, eps that was dropped, momentum that was reset at every step."""
    changed = {
        "beta": 0.5,
        "beta1": 0.5,
        "beta2": 0.6,
        "eps": 0.1,
        "ns_steps": 2,
        "coefficients": "polar_express",
        "dtype": "bfloat16",
        "nesterov": True,
        "bias_correction": False,
        "ema": False,
        "matrices": [],
        "ratio": 0.5,
        "accumulation": "sum",
        "exponent": 0.5,
        "d0": 1e-2,
        "scale": 2.0,
        "clip": 0.1,
        "truncate": True,
        "lower": 0.05,
        "stale": True,
        "first": "gradient",
        "published": True,
        "weight_decay": 0.1,
        "average": "schedule_free",
        "interpolation": 0.5,
        "potential": "square",
    }
    # What else a key needs to have an effect: steps that are long enough to be truncated, an average.
    needs: dict[str, dict[str, Any]] = {"lower": {"truncate": True}, "stale": {"truncate": True}, "first": {"beta": 0.7}}
    changed |= {"eps": 100.0} if name == "muon_ns" else {}  # below 485 times the gradient its steps stay all but normalised
    needs["interpolation"] = {"average": "schedule_free"}
    long_steps = {"truncate", "lower", "stale"}
    # Which of a hybrid's two methods reads it; in a linear model all is Muon's unless `matrices` says otherwise.
    of_the_rest = {"ratio", "beta1", "beta2", "eps", "bias_correction"} - ({"ratio"} if name == "scion" else set())
    optimizer = OPTIMIZERS.get(name)()
    ends: dict[str, torch.Tensor] = {}  # of bases that several keys have

    def end(of: Any, lr: float, norm: str | None) -> torch.Tensor:
        which = f"{of} {lr} {norm}"
        if which not in ends:
            ends[which] = run(of, mixture(), 12, lr, norm=norm)[-1]
        return ends[which]

    for key in hyper_fields(type(optimizer)):
        base = replace(optimizer, matrices=[]) if hasattr(optimizer, "matrices") and key in of_the_rest else optimizer
        if hasattr(optimizer, "accumulation") and key == "beta2":
            base = replace(optimizer, accumulation="average")
        if hasattr(optimizer, "d0") and key != "d0":
            base = replace(optimizer, d0=0.1)
        base, lr = replace(base, **needs.get(key, {})), 300.0 if key in long_steps else 0.3
        other = replace(base, **{key: changed[key]})
        norm = "lp3" if key == "potential" else None  # in l2 the two are one
        assert (end(other, lr, norm) - end(base, lr, norm)).abs().max() > 1e-6, key


@pytest.mark.parametrize("name", quick_of(OURS, "signgd", "muon", "adam", "shampoo"))
def test_updates_leave_their_inputs_alone_and_batches_equal_single_runs(name: str) -> None:
    optimizer = OPTIMIZERS.get(name)()
    data = mixture(runs=5)
    together = run(optimizer, data, 20, 0.4)
    for r in (0, 2, 4):
        alone = run(optimizer, Data(data.x[r : r + 1], data.y[r : r + 1], K), 20, 0.4)
        torch.testing.assert_close(together[-1][r], alone[-1][0], rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(together[0][r], alone[0][0], rtol=1e-11, atol=1e-13)
    gradient = objective(data).gradient({"weight": together[3]})
    state = optimizer.init(gradient.blocks)
    state, _ = step_with(optimizer, state, gradient.blocks, 1, optimizer.geometry(["weight"], None))
    kept = [b.mantissa.clone() for buffer in [gradient.blocks, *state.values()] for b in buffer.values()]
    step_with(optimizer, state, gradient.blocks, 2, optimizer.geometry(["weight"], None))
    for before, after in zip(
        kept, [b.mantissa for buffer in [gradient.blocks, *state.values()] for b in buffer.values()], strict=True
    ):
        assert torch.equal(before, after)


def test_numeric_hyper_parameters_may_differ_inside_a_batch() -> None:
    data = mixture()
    both = Data(data.x.expand(2, -1, -1), data.y.expand(2, -1), K)
    for name in ("adam", "signum", "muon", "muon_ns", "momentum_gd"):
        cls = OPTIMIZERS.get(name)
        keys = [f.name for f in fields(cls) if isinstance(f.default, float)]
        values = {key: (0.5, 0.75) if key != "eps" else (0.0, 1e-3) for key in keys}
        tensors = {key: torch.tensor(pair, dtype=torch.float64).reshape(2, 1, 1) for key, pair in values.items()}
        together = run(cls(**tensors), both, 15, 0.3)[-1]
        for r in range(2):
            alone = run(cls(**{key: pair[r] for key, pair in values.items()}), data, 15, 0.3)[-1]
            torch.testing.assert_close(together[r], alone[0], rtol=1e-10, atol=1e-12)


def test_newton_schulz_singular_values_land_where_its_authors_say() -> None:
    g = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    s = torch.linalg.svdvals(newton_schulz(g, 5))
    assert s.max() < 1.25
    assert s.median() > 0.65
    assert newton_schulz(torch.zeros(1, 3, 5), 5).abs().max() == 0
    tall = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(newton_schulz(tall, 5), newton_schulz(tall.mT, 5).mT)


def test_averages_are_exact_across_scales() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, 3, 4, generator=generator, dtype=torch.float64) for _ in range(2))

    def scaled(x: Tensor, log: float) -> Scaled:
        return Scaled(x, torch.full_like(x[..., :1], log))

    def plain(x: Scaled, log: float = 0.0) -> Tensor:
        return x.relative_to(torch.tensor(log, dtype=torch.float64))

    torch.testing.assert_close(plain(average(scaled(a, -2.0), scaled(b, 1.0), 0.9)), 0.9 * a * np.exp(-2.0) + 0.1 * b * np.e)
    torch.testing.assert_close(plain(combine(scaled(a, 0.0), scaled(b, 0.0), 2.0, 3.0)), 2 * a + 3 * b)
    deep = root_mean_square(scaled(a, -9000.0), scaled(b, -9001.0), 0.9)
    torch.testing.assert_close(plain(deep, -9000.0), (0.9 * a**2 + 0.1 * (b / np.e) ** 2).sqrt())
    # The loss fell by more than beta: the oldest gradient dominates, and stays as it was but for its weight.
    old = average(scaled(a, 0.0), scaled(b, -5000.0), 0.9)
    torch.testing.assert_close(plain(old), 0.9 * a, rtol=1e-14, atol=0)
    zero = Scaled.zeros(a)
    torch.testing.assert_close(plain(average(zero, scaled(b, -5000.0), 0.9), -5000.0), 0.1 * b)
