"""Degrees of homogeneity, and models that are refused for want of one."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from implicit_bias.core.errors import BadInput
from implicit_bias.engine import simulate
from implicit_bias.models.activations import ACTIVATIONS
from implicit_bias.run import main
from tests.support.networks import (
    cnn,
    diagonal,
    mlp,
    objective,
    problem,
    random_blocks,
    taught,
    trained,
)

HOMOGENEOUS = {"linear": 1.0, "relu": 1.0, "leaky_relu": 1.0, "squared_relu": 2.0, "relu_power": 1.5, "quadratic": 2.0}


def assert_degree(model: Any, dim: int, outputs: int, seed: int) -> None:
    """f(x; c theta) = c^L f(x; theta), theta without the frozen blocks."""
    blocks = random_blocks(model, dim, outputs, seed)
    x = torch.tensor(np.random.RandomState(seed + 1).randn(1, 7, dim))
    f = model.forward(blocks, model.prepared(x))
    assert f.shape == (1, outputs, 7)
    for c in (0.6, 1.7):
        scaled = {**blocks, **{name: c * block for name, block in trained(model, blocks).items()}}
        torch.testing.assert_close(model.forward(scaled, model.prepared(x)), c ** model.degree() * f, rtol=1e-10, atol=1e-14)


def test_every_activation_is_covered_here() -> None:
    assert {name for name, a in ACTIVATIONS.items() if a.order is not None} == set(HOMOGENEOUS)


@pytest.mark.parametrize("activation", HOMOGENEOUS)
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("bias", ["none", "first"])
def test_degree_of_an_mlp(activation: str, depth: int, bias: str) -> None:
    model = mlp(activation=activation, depth=depth, bias=bias, width=3, power=1.5, slope=0.3)
    p = HOMOGENEOUS[activation]
    assert model.homogeneous
    assert model.degree() == (depth if p == 1 else (p**depth - 1) / (p - 1))  # 2^k - 1 for squared ReLU
    for outputs in (1, 3):
        assert_degree(model, 5, outputs, depth)


@pytest.mark.parametrize("activation", HOMOGENEOUS)
@pytest.mark.parametrize("frozen", [f for m in (1, 2) for f in itertools.combinations(["layer1", "layer2", "layer3"], m)])
def test_degree_with_frozen_layers(activation: str, frozen: tuple[str, ...]) -> None:
    model = mlp(activation=activation, depth=3, width=3, power=1.5, frozen=list(frozen))
    assert_degree(model, 5, 2, 3)


@pytest.mark.parametrize("pool", ["max", "average", "none"])
@pytest.mark.parametrize("channels", [[2], [2, 3]])
@pytest.mark.parametrize("activation", HOMOGENEOUS)
@pytest.mark.parametrize("bias", ["none", "first"])
def test_degree_of_a_cnn(pool: str, channels: list[int], activation: str, bias: str) -> None:
    model = cnn(pool=pool, channels=channels, kernel=3, activation=activation, bias=bias, power=1.5)
    assert_degree(model, 121, 3, len(channels))
    assert model.degree() == mlp(depth=len(channels) + 1, activation=activation, power=1.5).degree()


def test_degree_of_a_cnn_with_a_frozen_layer() -> None:
    assert_degree(cnn(channels=[2, 3], frozen=["layer2"]), 121, 3, 1)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_degree_of_a_diagonal_network(depth: int) -> None:
    assert diagonal(depth=depth).degree() == depth
    for outputs in (1, 3):
        assert_degree(diagonal(depth=depth), 5, outputs, depth)
    if depth > 1:
        assert diagonal(depth=depth, frozen=["layer2"]).degree() == depth - 1
        assert_degree(diagonal(depth=depth, frozen=["layer2"]), 5, 2, depth)


def test_features_that_are_not_trained_may_be_anything() -> None:
    model = mlp(activation="tanh", bias="first", frozen=["layer1", "bias1"], width=4)
    assert model.degree() == 1
    assert_degree(model, 5, 2, 0)


REFUSED = [
    (["model=mlp", "model.activation=sigmoid"], "model.activation=sigmoid: "),
    (["model=mlp", "model.activation=tanh", "model.depth=3"], "model.activation=tanh: "),
    (["model=cnn", "model.activation=tanh"], "model.activation=tanh: "),
    (["model=mlp", "model.bias=all"], "model.bias=all: "),
    (["model=mlp", "model.bias=first", "model.frozen=[layer1]"], "model.bias=first: "),
    (["model=mlp", "model.frozen=[layer1,layer2]"], "model.frozen=['layer1', 'layer2']: nothing is left to train"),
    (["model=mlp", "model.frozen=[layer3]"], "model.frozen=['layer3']: there is no block layer3"),
    (["model=cnn", "model.frozen=[head]"], "model.frozen=['head']: there is no block head"),
    (["model=mlp", "model.depth=20"], "model.depth=20: the degree of homogeneity is 1.04858e+06"),
    (["model=diagonal", "model.depth=300"], "model.depth=300: the degree of homogeneity is 300"),
    (["model=mlp", "model.width=0"], "model.width=0: must be an integer >= 1"),
    (["model=cnn", "model.channels=[]"], "model.channels=[]: "),
    (["model=cnn", "model.channels=[4,0]"], "model.channels=[4, 0]: "),
    (["model=cnn", "model.kernel=9"], "model.kernel=9: images of 8 x 8 pixels are too small"),
    (["model=cnn", "model.kernel=4", "model.channels=[2,2]"], "model.kernel=4: images of 8 x 8 pixels are too small"),
    (["model=cnn", "dataset=gaussian_mixture", "dataset.dim=24"], "model=cnn: needs square images"),
    (["model=mlp", "model.head=binary"], "model.head=binary: the data have 10 classes"),
    (["model=mlp", "reference=exact"], "reference=exact"),
    (["model=mlp", "reference=certified"], "reference=certified"),
    (["model=mlp", "optimizer=muon_adam", "optimizer.matrices=[nope]"], "optimizer.matrices=['nope']: no block nope"),
    (["optimizer=muon_signum", "optimizer.matrices=[layer1]"], "optimizer.matrices=['layer1']: no block layer1"),
]


@pytest.mark.parametrize(("arguments", "line"), REFUSED)
def test_refused_in_one_line(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = [] if any(word.startswith("dataset=") for word in arguments) else ["dataset=digits"]
    assert main([*data, "steps=1", "progress=off", f"results_dir={tmp_path}", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {line}"), error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("runs/*"))


def test_what_data_refuse_is_one_line_where_a_key_is_given_twice_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["dataset=digits", "dataset=gaussian_mixture", "dataset.dim=24", "model=cnn", "steps=1", "progress=off"]
    assert main([*words, f"results_dir={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: model=cnn: needs square images") and error.count("\n") == 1


@pytest.mark.parametrize("wanted", [{"activation": "sigmoid"}, {"activation": "tanh"}, {"bias": "all"}])
def test_an_inhomogeneous_model_is_trained_on_request(wanted: dict[str, str]) -> None:
    with pytest.raises(BadInput, match="allow_inhomogeneous=true"):
        mlp(**wanted)
    model = mlp(**wanted, allow_inhomogeneous=True, width=3)
    assert not model.homogeneous
    assert model.degree() == 1
    blocks = random_blocks(model, 4, 1, 0)
    trajectory = simulate(problem(model, taught(model, blocks, 6, 4, 2, 0), "signgd", 10, 0.05, initial=blocks))
    columns = trajectory.by_norm["l2"]
    assert np.isnan(columns["kkt_ratio"]).all()
    final = trajectory.parameters[10]
    q = -objective(model, taught(model, blocks, 6, 4, 2, 0)).negative_gaps(final).amax(dim=(-2, -1))
    size = torch.cat([b.flatten() for b in final.values()]).norm()
    assert columns["margin"][-1, 0] == pytest.approx(float(q / size), rel=1e-12)
