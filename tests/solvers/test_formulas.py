"""Maximum margins of networks in closed form: against solved linear problems, networks that reach them, and trained ones."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from implicit_bias import run
from implicit_bias.core.errors import BadInput
from implicit_bias.datasets import Dataset
from implicit_bias.models import Data, Parameters
from implicit_bias.norms import make_norm, over_blocks
from implicit_bias.solvers.formulas import known_optima
from implicit_bias.solvers.reference import solve_exact
from tests.support.datasets import load
from tests.support.networks import F64, mlp, objective


def known(model: Any, data: Dataset, *labels: str) -> dict[str, float]:
    found = known_optima(model, data.x, data.y, data.num_classes, [make_norm(label) for label in labels])
    return {label: optimum.lower for label, optimum in found.items()}


def linear(depth: int, width: int = 8, **keys: Any) -> Any:
    return mlp(activation="linear", depth=depth, width=width, **keys)


@pytest.mark.parametrize(("k", "each"), [(4, 3), (3, 2), (2, 2)])
def test_unconstrained_features_are_the_solved_problem_of_the_scores(k: int, each: int) -> None:
    """The scores of a linear model on identity inputs are free, too: the solver knows their least Schatten norms."""
    data = load("unconstrained_features", num_classes=k, samples_per_class=each)
    solved = {label: solve_exact(data.x, data.y, k, make_norm(label)).lower for label in ("l2", "spectral", "nuclear")}
    heads: dict[str, Any] = {"head": "multiclass"}
    assert known(linear(1, **heads), data, *solved) == pytest.approx(solved, rel=1e-5)
    expected = {
        "l2": solved["nuclear"] / 2,
        "spectral": solved["spectral"],
        "schatten2": solved["nuclear"],
        "schatten4": solved["l2"],
    }
    assert known(linear(2, **heads), data, *expected) == pytest.approx(expected, rel=1e-5)
    assert known(linear(2, **heads), data, "l2")["l2"] == pytest.approx(1 / (2 * (k - 1) * math.sqrt(each)), rel=1e-14)
    assert set(known(linear(3, **heads), data, "l2", "nuclear", "spectral", "schatten3", "linf")) == (
        {"spectral", "schatten3"} if k > 2 else {"l2", "nuclear", "spectral", "schatten3"}
    )


def test_with_one_output_the_scores_are_a_row_of_signs() -> None:
    data = load("unconstrained_features", num_classes=2, samples_per_class=8, rotate=3)
    assert known(linear(2), data, "l2", "spectral", "nuclear") == pytest.approx(
        {"l2": 1 / 8, "spectral": 1 / 4, "nuclear": 1 / 4}
    )


def units_of_every_frequency(p: int) -> Parameters:
    """Eight units a frequency: phases of u and v that cancel but in the product, and both signs of v and w."""
    turns = 2 * math.pi * torch.arange(p, dtype=F64) / p
    first, second = [], []
    for k in range(1, (p - 1) // 2 + 1):
        for a, b, sign in itertools.product((0, math.pi / 2), (0, math.pi / 2), (1, -1)):
            first.append(torch.cat([torch.cos(k * turns + a), sign * torch.cos(k * turns + b)]))
            second.append(sign * torch.cos(k * turns + a + b))
    return {"layer1": torch.stack(first)[None], "layer2": torch.stack(second, dim=1)[None]}


@pytest.mark.parametrize("p", [3, 5, 9])
def test_modular_addition_is_reached_by_eight_units_a_frequency(p: int) -> None:
    data, model = load("modular_addition", modulus=p), mlp(activation="quadratic", width=4 * (p - 1))
    optimum = known(model, data, "neuron3", "l2")
    assert optimum == {"neuron3": pytest.approx(math.sqrt(2 / 27) / (math.sqrt(p) * (p - 1)), rel=1e-14)}
    samples = Data(torch.from_numpy(data.x)[None], torch.from_numpy(data.y)[None], p)
    target, theta = objective(model, samples), units_of_every_frequency(p)
    norm = over_blocks(make_norm("neuron3"), list(theta), None, ["layer1"])

    def margin(theta: Parameters) -> float:
        return float((-target.negative_gaps(theta)).amin() / norm.value(theta) ** 3)

    assert margin(theta) == pytest.approx(optimum["neuron3"], rel=1e-12)
    # It is a maximum: nothing near it has more.
    rng = torch.Generator().manual_seed(p)
    for _ in range(20):
        near = {name: block + 0.05 * torch.randn(block.shape, generator=rng, dtype=F64) for name, block in theta.items()}
        assert margin(near) < optimum["neuron3"]


def test_a_trained_network_has_an_optimum_and_a_ratio(tmp_path: Path) -> None:
    keys = ["dataset=unconstrained_features", "model=mlp", "model.activation=linear", "optimizer=ngd", "reference=formula"]
    trajectory, summary = run([*keys, "steps=400", "log.norms=[l1,spectral]", "log.kkt_iters=0"], results_dir=tmp_path)
    rows: Any = summary.set_index("norm").to_dict("index")
    assert rows["l2"]["max_margin"] == pytest.approx(1 / (6 * math.sqrt(3)), rel=1e-14)
    assert rows["spectral"]["max_margin"] == pytest.approx(1 / math.sqrt(3), rel=1e-14)
    assert math.isnan(rows["l1"]["max_margin"]) and math.isnan(rows["l1"]["ratio"])
    assert 0.99 < rows["l2"]["ratio"] < 1 and rows["l2"]["own"]
    gaps = trajectory[trajectory["norm"] == "l2"]
    assert np.allclose(gaps["relative_gap"], (gaps["max_margin"] - gaps["margin"]).abs() / gaps["max_margin"], equal_nan=True)


@pytest.mark.parametrize(
    ("model", "source", "labels", "words"),
    [
        (
            {"activation": "relu"},
            {},
            ["l2"],
            "no closed form is known for model=mlp on these data; allowed: dataset=",
        ),
        ({"activation": "linear", "width": 2}, {}, ["l2"], "model.width >= k - 1"),
        ({"activation": "linear", "frozen": ["layer2"]}, {}, ["l2"], "model.frozen=null"),
        ({"activation": "linear"}, {}, ["linf", "l1"], "there is none in linf, l1; allowed: log.norms with some of l2"),
        ({"activation": "quadratic", "width": 12}, {"modulus": 4}, ["neuron3"], "an odd dataset.modulus=p"),
        ({"activation": "quadratic", "width": 15}, {"modulus": 5}, ["neuron3"], "model.width >= 4 (p - 1)"),
        ({"activation": "quadratic", "width": 16}, {"modulus": 5}, ["neuron2"], "there is none in neuron2; allowed: log.norms"),
    ],
)
def test_without_a_formula_one_line_says_what_has_one(
    model: dict[str, Any], source: dict[str, Any], labels: list[str], words: str
) -> None:
    data = load("modular_addition" if source else "unconstrained_features", **source)
    with pytest.raises(BadInput) as raised:
        known(mlp(**model), data, *labels)
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_samples_that_are_nearly_of_the_family_are_none_of_it() -> None:
    table = load("modular_addition", modulus=5)
    other = Dataset(table.x, np.roll(table.y, 1), 5)
    with pytest.raises(BadInput, match="no closed form"):
        known(mlp(activation="quadratic", width=16), other, "neuron3")
    shuffled = np.random.RandomState(0).permutation(25)
    assert known(mlp(activation="quadratic", width=16), Dataset(table.x[shuffled], table.y[shuffled], 5), "neuron3")
    unit = load("unconstrained_features")
    for x, y in ((2 * unit.x, unit.y), (unit.x, np.arange(12) % 4 * (np.arange(12) > 3))):
        with pytest.raises(BadInput, match="no closed form"):
            known(linear(2), Dataset(x, y, 4), "l2")


def test_the_command_refuses_it_where_optima_are_solved_for(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="reference=formula: is for networks; model=linear has exact, certified, none or auto"):
        run(["reference=formula"], results_dir=tmp_path)
    with pytest.raises(BadInput, match="reference=exact: maximum margins are solved for model=linear only; model=mlp needs none"):
        run(["model=mlp", "reference=exact"], results_dir=tmp_path)
