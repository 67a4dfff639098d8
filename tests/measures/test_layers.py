"""Margins and alignments layer by layer: by numpy, and what no rescaling between layers changes."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from implicit_bias.measures.layers import LayerMargins
from implicit_bias.measures.probe import Columns, Record
from implicit_bias.models import Objective, Parameters
from implicit_bias.norms import make_norm, over_blocks
from tests.support.networks import cnn, diagonal, mlp, objective, random_blocks, taught

NETWORKS: dict[str, tuple[Any, int, dict[str, float]]] = {
    "squared relu": (mlp(width=4, depth=3), 6, {"layer1": 4, "layer2": 2, "layer3": 1}),
    "relu": (mlp(width=4, depth=3, activation="relu"), 6, {"layer1": 1, "layer2": 1, "layer3": 1}),
    "cnn": (cnn(channels=[2], kernel=2), 16, {"layer1": 2, "layer2": 1}),
    "diagonal": (diagonal(depth=3), 6, {"layer1": 1, "layer2": 1, "layer3": 1}),
    "frozen": (mlp(width=4, frozen=["layer2"]), 6, {"layer1": 2}),
}
NORMS = ["l2", "linf", "l1", "spectral", "nuclear", "row", "hybrid0.5", "hybrid3-l2-l2"]


def made(name: str) -> tuple[Any, Objective, Parameters]:
    model, dim, _ = NETWORKS[name]
    k = 2 if name == "diagonal" else 3
    blocks = random_blocks(model, dim, model.outputs(k), 0, runs=2)
    data = taught(model, blocks, 8, dim, k, 0)
    frozen = {block: blocks[block] for block in model.frozen_blocks()}
    return model, objective(model, data, frozen=frozen), {b: w for b, w in blocks.items() if b not in frozen}


def columns(model: Any, target: Objective, theta: Parameters, label: str) -> Columns:
    q = -target.negative_gaps(theta).amax(dim=(-2, -1))
    record = Record(0, torch.ones(2, dtype=torch.bool), theta, target.gradient(theta), target, model.degree(), q)
    probe = LayerMargins(model.layer_degrees())
    assert probe.measure(record) == {}
    whole = over_blocks(make_norm(label), list(theta), None, model.hidden_matrices(list(theta)))
    return probe.under(record, label, whole, {})


@pytest.mark.parametrize("name", NETWORKS)
def test_degrees_of_layers_sum_to_the_degree_and_are_eulers(name: str) -> None:
    model, target, theta = made(name)
    degrees = model.layer_degrees()
    assert degrees == NETWORKS[name][2]
    assert sum(degrees.values()) == model.degree()
    f = target.scores(theta, target.data.x)
    for block, degree in degrees.items():
        torch.testing.assert_close(target.scores({**theta, block: 3 * theta[block]}, target.data.x), 3**degree * f)


@pytest.mark.parametrize("label", NORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_rescaling_between_layers_changes_neither(name: str, label: str) -> None:
    model, target, theta = made(name)
    degrees = model.layer_degrees()
    found = columns(model, target, theta, label)
    first, last = next(iter(degrees)), list(degrees)[-1]
    moved = dict(theta)
    if first != last:
        moved[first], moved[last] = theta[first] * 2, theta[last] * 2 ** (-degrees[first] / degrees[last])
    again = columns(model, target, moved, label)
    for column in ("layer_margin", "layer_alignment"):
        torch.testing.assert_close(again[column], found[column], rtol=1e-9, atol=0)
    assert (found["layer_margin"] >= 0).all()  # 0 where all units of a network are dead at some sample
    assert (found["layer_alignment"].abs() <= 1 + 1e-12).all()


def test_they_are_what_numpy_says() -> None:
    model, target, theta = made("squared relu")
    gradient = {name: -block for name, block in target.gradient(theta).downhill().items()}
    q = -target.negative_gaps(theta).amax(dim=(-2, -1)).numpy()

    def of(norm: Any, blocks: Parameters, name: str) -> np.ndarray:
        return np.array([norm(one) for one in blocks[name].numpy()])

    def spectral(w: Tensor) -> Any:
        return np.linalg.norm(w, 2)

    sizes = {name: of(spectral, theta, name) for name in theta}
    duals = {name: of(lambda w: np.linalg.norm(w, "nuc"), gradient, name) for name in theta}
    slopes = {name: -(theta[name] * gradient[name]).sum(dim=(-2, -1)).numpy() for name in theta}
    found = columns(model, target, theta, "spectral")
    expected = q / (sizes["layer1"] ** 4 * sizes["layer2"] ** 2 * sizes["layer3"])
    np.testing.assert_allclose(found["layer_margin"].numpy(), expected, rtol=1e-10)
    least = np.min([slopes[name] / (sizes[name] * duals[name]) for name in theta], axis=0)
    np.testing.assert_allclose(found["layer_alignment"].numpy(), least, rtol=1e-10)


@pytest.mark.parametrize(
    "keys", [{"bias": "first"}, {"bias": "all", "allow_inhomogeneous": True}, {"activation": "tanh", "allow_inhomogeneous": True}]
)
def test_nothing_is_said_where_a_layer_alone_is_not_homogeneous(keys: dict[str, Any]) -> None:
    model = mlp(width=4, **keys)
    assert model.layer_degrees() == {}
    blocks = random_blocks(model, 6, 3, 0, runs=2)
    found = columns(model, objective(model, taught(model, blocks, 8, 6, 3, 0)), blocks, "l2")
    assert all(bool(column.isnan().all()) for column in found.values())


def test_a_layer_that_is_zero_has_no_margin() -> None:
    model, target, theta = made("relu")
    theta["layer2"][1] = 0
    found = columns(model, target, theta, "l2")
    assert found["layer_margin"].isnan().tolist() == [False, True]
