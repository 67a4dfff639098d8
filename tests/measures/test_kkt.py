"""KKT ratios: one at KKT points known by hand, the margin ratio on linear models, never above one."""

import math
from collections.abc import Sequence
from typing import Any

import cvxpy
import numpy as np
import pytest
import torch
from torch import Tensor

from implicit_bias.engine import simulate
from implicit_bias.measures.kkt import KktRatios
from implicit_bias.measures.probe import Record
from implicit_bias.models import MODELS, Data, Objective, Parameters
from implicit_bias.models.network import NetworkObjective
from implicit_bias.norms import ParameterNorm, make_norm, over_blocks
from implicit_bias.solvers.reference import solve_exact
from tests.support.networks import F64, cnn, diagonal, mlp, objective, problem, random_blocks, taught
from tests.support.quick import quick_of


def ratio_at(target: Objective, degree: float, whole: ParameterNorm, theta: Parameters, w: Tensor, products: int) -> float:
    q = -target.negative_gaps(theta).amax(dim=(-2, -1))
    search = KktRatios(target, degree, products)
    return float(search.best("norm", whole, theta, target.pull(theta, w), w, q))


def binary(x: Sequence[Sequence[float]]) -> Data:
    """Samples of class +1 alone."""
    return Data(torch.tensor([x], dtype=F64), torch.ones(1, len(x), dtype=torch.int64), 2)


def two_layers(w: Sequence[Sequence[float]], v: Sequence[float]) -> Parameters:
    return {"layer1": torch.tensor([w], dtype=F64), "layer2": torch.tensor([[v]], dtype=F64)}


RELU = mlp(width=2, depth=2, activation="relu")


SQRT2, CUBE = math.sqrt(2.0), 0.5 ** (1 / 3)


PAIR = [[1.0, 0.25], [-1.0, 0.25]]


# A dead neuron, zero pre-activations, a local optimum; diagonal of depth 2 and 3.
KNOWN: dict[str, tuple[Any, Data, Parameters, float]] = {
    "D1": (RELU, binary(PAIR), two_layers([[0.0, 2.0], [0.0, 0.0]], [2.0, 0.0]), 8.0),
    "D2": (RELU, binary([[1.0, 0.0], [0.0, 1.0]]), two_layers([[1.0, 0.0], [0.0, 1.0]], [1.0, 1.0]), 4.0),
    "D3": (RELU, binary(PAIR), two_layers([[0.0, SQRT2], [0.0, SQRT2]], [SQRT2, SQRT2]), 8.0),
    "D4": (
        diagonal(depth=2), binary([[1.0, 2.0]]),
        {f"layer{j}": torch.tensor([[[1.0, 0.0]]], dtype=F64) for j in (1, 2)}, 2.0,
    ),
    "D5": (
        diagonal(depth=3), binary([[1.0, 1.0]]),
        {f"layer{j}": torch.tensor([[[CUBE, CUBE]]], dtype=F64) for j in (1, 2, 3)}, 3.7798,
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_kkt_ratio_is_one_at_known_kkt_points(name: str, scale: float) -> None:
    model, data, theta, size = KNOWN[name]
    target, l2 = objective(model, data), over_blocks(make_norm("l2"), list(theta))
    assert float(l2.value(theta)) ** 2 == pytest.approx(size, rel=1e-4)
    torch.testing.assert_close(target.negative_gaps(theta), -torch.ones(1, 1, data.x.shape[1], dtype=F64))
    theta = {n: scale * b for n, b in theta.items()}
    skewed = torch.tensor([[[0.9, 0.1][: data.x.shape[1]]]], dtype=F64)
    skewed = skewed / skewed.sum()
    assert ratio_at(target, model.degree(), l2, theta, skewed, 150) == pytest.approx(1, abs=1e-6)
    if data.x.shape[1] == 2:
        assert ratio_at(target, model.degree(), l2, theta, skewed, 0) < 0.9
    elsewhere = {n: b + 0.3 * scale * torch.arange(1.0, b.numel() + 1, dtype=F64).reshape(b.shape) for n, b in theta.items()}
    assert ratio_at(target, model.degree(), l2, elsewhere, skewed, 150) < 0.999


def test_kkt_ratio_is_empty_before_separation() -> None:
    _, data, theta, _ = KNOWN["D1"]
    wrong = {**theta, "layer2": -theta["layer2"]}
    even = torch.full((1, 1, 2), 0.5, dtype=F64)
    l2 = over_blocks(make_norm("l2"), list(theta))
    assert math.isnan(ratio_at(objective(RELU, data), 2, l2, wrong, even, 20))


# How near the search comes with a thousand products; on norms whose dual has corners it is slow.
LINEAR = {
    "l2": ("ngd", 2e-3), "spectral": ("spectral_gd", 1e-3), "nuclear": ("nucgd", 0.01),
    "l1": ("coordinate_descent", 0.03), "linf": ("signgd", 0.05),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("label", LINEAR)
def test_the_best_kkt_ratio_of_a_linear_model_is_its_margin_ratio(label: str) -> None:
    """At the optimal weights, from cvxpy, to its precision; the search stays below and comes near."""
    rng = np.random.RandomState(3)
    y = np.arange(3).repeat(5)
    x = 2 * rng.randn(3, 6)[y] + 0.4 * rng.randn(15, 6)
    data = Data(torch.tensor(x)[None], torch.tensor(y)[None], 3)
    norm, model = make_norm(label), MODELS.get("linear")()
    target, whole, optimum = objective(model, data), over_blocks(norm, ["weight"]), solve_exact(x, y, 3, norm)
    weights = cvxpy.Variable((3, 15), nonneg=True)  # [c, i]; row c of sum w grad m is sum_i (own_ic - w_ci) x_i
    own = np.eye(3)[y].T
    c = (cvxpy.multiply(own, np.ones((3, 1)) @ cvxpy.sum(weights, axis=0, keepdims=True)) - weights) @ x
    duals = {
        "l2": cvxpy.norm(c, "fro"), "spectral": cvxpy.normNuc(c), "nuclear": cvxpy.sigma_max(c),
        "l1": cvxpy.max(cvxpy.abs(c)), "linf": cvxpy.sum(cvxpy.abs(c)),
    }  # fmt: skip
    constraints = [cvxpy.sum(weights) == 1, cvxpy.multiply(own, weights) == 0]
    cvxpy.Problem(cvxpy.Minimize(duals[label]), constraints).solve(solver="CLARABEL")
    assert weights.value is not None
    best = torch.tensor(np.maximum(weights.value, 0))[None].masked_fill(data.is_label(), 0.0)
    best = best / best.sum()
    rule, near = LINEAR[label]
    trajectory = simulate(problem(model, data, rule, 1000, 1.0, weights="all", points=2))
    for step in (100, 1000):
        blocks = trajectory.parameters[step]
        true = float(-target.negative_gaps(blocks).amax() / norm.value(blocks["weight"])[0]) / optimum.lower
        assert 0 < true < 1 + 1e-6
        assert ratio_at(target, 1, whole, blocks, best, 0) == pytest.approx(true, rel=1e-5)
        plain = ratio_at(target, 1, whole, blocks, target.weights(blocks).mT, 0)
        found = ratio_at(target, 1, whole, blocks, target.weights(blocks).mT, 1000)
        assert plain <= found <= true * (1 + 1e-5)
        assert found > true * (1 - near)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", quick_of(["ngd", "signgd", "muon", "adam", "muon_signum", "gd", "shampoo"], "ngd", "adam"))
@pytest.mark.parametrize(
    ("model", "dim", "k"),
    [
        (mlp(width=5, depth=2, init_scale=1.0), 4, 3),
        (mlp(width=5, depth=3, activation="relu", init_scale=1.0), 4, 2),
        (cnn(channels=[2], kernel=2, init_scale=1.0), 16, 3),
        (diagonal(depth=2, init_scale=1.0), 4, 3),
        (mlp(width=5, depth=2, init_scale=1.0, frozen=["layer2"]), 4, 2),
    ],
    ids=["mlp", "relu", "cnn", "diagonal", "frozen"],
)
def test_kkt_ratios_and_alignments_never_exceed_one(optimizer: str, model: Any, dim: int, k: int) -> None:
    rng = np.random.RandomState(0)
    y = np.arange(k).repeat(3)
    x = 2 * rng.randn(2, k, dim)[:, y] + 0.2 * rng.randn(2, 3 * k, dim)
    data = Data(torch.tensor(x), torch.tensor(y)[None].expand(2, -1), k)
    trajectory = simulate(problem(model, data, optimizer, 40, 0.1, points=6))
    for columns in trajectory.by_norm.values():
        positive = columns["margin"] > 0
        assert np.isnan(columns["kkt_ratio"][~positive]).all()
        assert (columns["kkt_ratio"][positive] <= 1 + 1e-9).all()
        assert (columns["kkt_ratio"][positive] > 0).all()
        assert np.nanmax(np.abs(columns["alignment"])) <= 1 + 1e-9
        assert np.isfinite(columns["alignment"]).mean() > 0.9  # empty where all units have died and the gradient is 0
        assert (columns["soft_margin"] <= columns["margin"] * (1 + 1e-9) + 1e-15).all()


@pytest.mark.parametrize("model", [mlp(width=4), cnn(channels=[2], kernel=2, activation="leaky_relu")], ids=["mlp", "cnn"])
def test_norms_share_what_a_record_differentiates(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One forward pass for all Jacobian products, one product with the average, and the ratios of searches alone."""
    blocks = random_blocks(model, 16, 1, seed=0, runs=2)
    data = taught(model, blocks, 8, 16, 2, 0)
    target, degree = objective(model, data), model.degree()
    gradient, q = target.gradient(blocks), -target.negative_gaps(blocks).amax(dim=(-2, -1))
    assert bool((q > 0).all()) and gradient.weights is not None
    record = Record(0, torch.ones(2, dtype=torch.bool), blocks, gradient, target, degree, q)
    together, alone = KktRatios(target, degree, 8), KktRatios(target, degree, 8)
    for search in (together, alone):
        search.collect(0, target.gradient({name: 0.5 * block for name, block in blocks.items()}))
    forward: list[str] = []
    pull: list[str] = []
    linearised, jacobian = NetworkObjective._linearised, NetworkObjective._vector_jacobian

    def counted(made: list[str], of: Any) -> Any:
        def call(*told: Any) -> Any:
            made.append("once")
            return of(*told)

        return call

    monkeypatch.setattr(NetworkObjective, "_linearised", counted(forward, linearised))
    monkeypatch.setattr(NetworkObjective, "_vector_jacobian", counted(pull, jacobian))
    labels, found = ("l2", "linf", "spectral"), {}
    norms = {label: over_blocks(make_norm(label), list(blocks)) for label in labels}
    for label, norm in norms.items():
        found[label] = together.under(record, label, norm, {"param_norm": norm.value(blocks)})["kkt_ratio"]
    # Of each three moves, and the average once for all.
    assert len(forward) == 1 and len(pull) == 3 * len(labels) + 1
    for label, norm in norms.items():
        ratio = alone.best(label, norm, blocks, gradient.per_weight(), gradient.weights(), q)
        torch.testing.assert_close(found[label], ratio, rtol=1e-12, atol=0)


def test_without_products_a_ratio_is_that_of_the_losses_own_weights() -> None:
    model = mlp(width=4)
    blocks = random_blocks(model, 16, 1, seed=0, runs=2)
    target = objective(model, taught(model, blocks, 8, 16, 2, 0))
    gradient, q = target.gradient(blocks), -target.negative_gaps(blocks).amax(dim=(-2, -1))
    q[1] = -1.0
    record = Record(0, torch.ones(2, dtype=torch.bool), blocks, gradient, target, model.degree(), q)
    norm, search = over_blocks(make_norm("l1"), list(blocks)), KktRatios(target, model.degree(), 0)
    assert gradient.weights is not None
    ratio = search.best("l1", norm, blocks, gradient.per_weight(), gradient.weights(), q)
    ours = search.under(record, "l1", norm, {"param_norm": norm.value(blocks)})["kkt_ratio"]
    assert torch.equal(ours.isnan(), q < 0) and torch.allclose(ours, ratio, rtol=1e-15, atol=0, equal_nan=True)
