"""The typed run: its objects, its settings, what is shared between the runs of a sweep, and what is written down of it."""

import json
import math
from typing import Any

import pytest
import torch

from implicit_bias.config.overrides import compose
from implicit_bias.config.run_settings import LogSettings
from implicit_bias.config.spec import Parts, RunSpec, config_hash
from implicit_bias.core.errors import BadInput
from implicit_bias.datasets import DATASETS
from implicit_bias.models import MODELS
from implicit_bias.norms import make_norm
from implicit_bias.optimizers import OPTIMIZERS


def specs(*overrides: str) -> list[RunSpec]:
    return [cell.spec for cell in compose(overrides, multirun=True)]


def spec(*overrides: str) -> RunSpec:
    (found,) = specs(*overrides)
    return found


def test_settings_and_objects_are_those_of_the_configuration() -> None:
    run = spec("optimizer=adam", "optimizer.beta1=0.5", "model=mlp", "model.width=7", "steps=1e3", "log.points=5", "seed=3")
    assert (run.steps, run.seed, run.precision, run.name) == (1000, 3, "float64", None)
    assert run.optimizer == OPTIMIZERS.get("adam")(beta1=0.5)
    assert run.model == MODELS.get("mlp")(width=7)
    assert run.dataset == DATASETS.get("gaussian_mixture")(seed=3)
    assert (run.loss.name, run.schedule.lr, run.launcher.cluster) == ("cross_entropy", "auto", "inline")
    assert run.log == LogSettings(norms=run.log.norms, probes=[], points=5)
    assert run.dtype == torch.float64 and spec("precision=float32").dtype == torch.float32
    assert spec("device=cpu").torch_device == torch.device("cpu")


@pytest.mark.parametrize(
    ("overrides", "named", "own", "measured", "method"),
    [
        (["log.norms=[l1,linf]"], None, "spectral", ["l1", "linf", "spectral"], "muon"),
        (["log.norms=[spectral,l1]"], None, "spectral", ["spectral", "l1"], "muon"),
        (["optimizer=nsd", "norm=lp", "norm.p=4", "log.norms=[lp4.0,lp4]"], "lp4", "lp4", ["lp4"], "nsd lp4"),
        (["optimizer=nsd", "log.norms=[]"], "l2", "l2", ["l2"], "nsd l2"),
        (["optimizer=muon_signum", "optimizer.ratio=0.5", "log.norms=[]"], None, "hybrid0.5", ["hybrid0.5"], "muon_signum"),
    ],
)
def test_the_norms_of_a_run(overrides: list[str], named: str | None, own: str, measured: list[str], method: str) -> None:
    run = spec(*overrides)
    assert (None if run.norm is None else run.norm.label) == named
    assert run.own_norm == make_norm(own)
    assert [(label, norm.label) for label, norm in run.measured.items()] == [(label, label) for label in measured]
    assert run.measured[own] is run.own_norm
    assert run.method == method


def test_runs_with_equal_sections_share_their_objects() -> None:
    first, second = specs("seed=1,2")
    for part in ("model", "loss", "optimizer", "schedule", "own_norm", "measured"):
        assert getattr(first, part) is getattr(second, part)
    assert first.dataset != second.dataset and first.dataset is first.dataset
    fast, slow = specs("schedule.lr=1,0.1")
    assert (fast.schedule.lr, slow.schedule.lr) == (1.0, 0.1) and fast.dataset is slow.dataset


def test_runs_are_equal_when_their_configurations_are() -> None:
    assert spec("schedule.lr=.1") == spec("schedule.lr=0.1") != spec("schedule.lr=0.2")
    assert len({*specs("seed=1,2"), *specs("seed=2,3")}) == 3
    assert spec() != 1


def test_nobody_can_change_a_run_through_what_is_written_of_it() -> None:
    run = spec("model=cnn")
    text = run.text
    run.canonical["optimizer"]["beta"] = 0.5
    run.canonical["log"]["norms"].clear()
    run.config_yaml["model"]["channels"].clear()
    assert run.text == text == json.dumps(run.canonical, sort_keys=True)
    with pytest.raises(AttributeError):
        run.steps = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["optimizer=nsd", "norm=lp", "norm.p=inf"],
        ["model=cnn"],
        ["dataset=file", "dataset.path=a.csv"],
        ["steps=5", "name=a"],
    ],
)
def test_a_run_written_as_json_is_built_again(overrides: list[str]) -> None:
    """As workers and jobs get theirs."""
    run = spec(*overrides)
    again = Parts().spec(json.loads(json.dumps(run.canonical)))
    assert again == run and again.hash("data") == run.hash("data") == config_hash(run.canonical, "data")
    assert (again.optimizer, again.model, again.norm) == (run.optimizer, run.model, run.norm)
    assert run.config_yaml == {key: value for key, value in run.canonical.items() if key != "launcher"}


def test_an_altered_run_shares_what_stays() -> None:
    run = spec("seed=2")
    other = run.altered({"schedule.lr": 1.0, "precision": "float32", "force": True})
    assert (other.schedule.lr, other.dtype, other.force) == (1.0, torch.float32, True)
    assert (run.schedule.lr, run.dtype, run.force) == ("auto", torch.float64, False)
    assert other.model is run.model and other.dataset is run.dataset and other.optimizer is run.optimizer
    expected: dict[str, Any] = {**run.canonical, "precision": "float32", "force": True}
    expected["schedule"]["lr"] = 1.0
    assert other.canonical == expected


def test_a_dataset_that_refuses_its_keys_does_so_when_it_is_asked_for() -> None:
    good, bad = specs("dataset=random_labels", "dataset.num_classes=10", "dataset.samples=20,5")
    assert good.dataset.numbers() > 0
    assert (bad.dataset_name, bad.data_file) == ("random_labels", None)
    with pytest.raises(BadInput, match=r"dataset\.samples=5"):
        bad.dataset  # noqa: B018
    assert spec("dataset=file", "dataset.path=a.csv").data_file == "a.csv"


def test_an_exponent_of_infinity_survives() -> None:
    run = spec("optimizer=nsd", "norm=lp", "norm.p=inf")
    assert run.own_norm == make_norm("lp", p=math.inf) and run.own_norm.label == "lpinf"
