"""Runs under perturbations: alone and in a batch, resumed, by mini-batches, what they record and reach, and what is refused."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from implicit_bias import run
from implicit_bias.core.errors import BadInput
from implicit_bias.engine import Problem, Trajectory, simulate
from implicit_bias.engine.mini_batches import mini_batches
from implicit_bias.losses import LOSSES
from implicit_bias.models import MODELS, Data
from implicit_bias.norms import make_norm
from implicit_bias.optimizers import OPTIMIZERS
from implicit_bias.schedules import SCHEDULES

RUNS, N, D = 3, 9, 12
TEACHER: dict[str, Any] = {
    "dataset": "linear_teacher",
    "dataset.dim": 20,
    "dataset.samples": 12,
    "dataset.test_samples": 50,
    "loss": "exponential",
    "schedule": "loss_based",
    "log.points": 10,
    "log.norms": ["l2"],
    "device": "cpu",
    "progress": "off",
}


def problem(k: int, optimizer: str, norm: str | None = None, *, size: int | None = None, **keys: Any) -> Problem:
    rng = np.random.RandomState(0)
    y = np.arange(N) % k
    data = Data(torch.tensor(rng.randn(RUNS, N, D)), torch.tensor(np.tile(y, (RUNS, 1))), k)
    model: Any = MODELS.get("linear")(
        perturbation="linf", eps=torch.tensor([0.0, 0.05, 0.1], dtype=torch.float64).reshape(-1, 1, 1)
    )
    rule, named = OPTIMIZERS.get(optimizer)(**keys), None if norm is None else make_norm(norm)
    own = named or make_norm(rule.own or "l2")
    return Problem(
        model=model,
        loss=LOSSES.get("cross_entropy")(),
        optimizer=rule,
        schedule=SCHEDULES.get("power")(lr=0.1, power=0.5),
        data=data,
        initial=model.initial(data, range(RUNS)),
        steps=60,
        batch=mini_batches(size, "reshuffle", torch.arange(RUNS), N),
        measured={own.label: own},
        norm=named,
        points=10,
    )


def same(a: Trajectory, b: Trajectory, run: int | None = None) -> None:
    """To the last bit; with ``run`` b is that run of a, alone."""
    one = slice(None) if run is None else slice(run, run + 1)
    for key, column in {**a.common, **next(iter(a.by_norm.values()))}.items():
        other = {**b.common, **next(iter(b.by_norm.values()))}[key]
        assert column[:, one].tobytes() == other.tobytes(), key


@pytest.mark.parametrize(
    ("k", "optimizer", "norm", "size"),
    [
        (2, "coordinate_descent", None, None),
        pytest.param(3, "nsd", "l1", None, marks=pytest.mark.slow),
        pytest.param(3, "signum", None, 4, marks=pytest.mark.slow),
    ],
)
def test_a_run_is_the_same_alone_and_resumed(k: int, optimizer: str, norm: str | None, size: int | None) -> None:
    batch, file = problem(k, optimizer, norm, size=size), io.BytesIO()

    def keep(t: int, snapshot: Any) -> None:
        if t >= 23 and not file.getvalue():
            torch.save(snapshot(), file)

    whole = simulate(batch, keep=keep)
    assert whole.stepping == "torch"
    assert whole.stepping_refused["c"] == "gaps under perturbations (model.perturbation) have no steps in C"
    same(whole, simulate(batch, resume=torch.load(io.BytesIO(file.getvalue()), weights_only=True)))
    for r in (0, 2):
        several: Any = batch.model
        model = replace(several, eps=several.eps[r : r + 1])
        same(whole, simulate(replace(batch.at(torch.tensor([r])), model=model, measured=batch.measured)), r)


def test_a_radius_of_zero_makes_the_plain_steps() -> None:
    batch = problem(3, "nsd", "l2")
    plain = simulate(replace(batch, model=MODELS.get("linear")(), compile="off"))
    robust = simulate(batch)
    for key, column in plain.by_norm["l2"].items():
        np.testing.assert_allclose(robust.by_norm["l2"][key][:, 0], column[:, 0], rtol=1e-9, err_msg=key)


def test_what_a_run_records(tmp_path: Path) -> None:
    keys = {**TEACHER, "results_dir": str(tmp_path), "steps": 300, "optimizer": "gd", "schedule.lr": 0.05}
    trajectory, summary = run(**{"model.perturbation": "linf", "model.eps": 0.1, **keys})
    last = summary[summary["own"]].iloc[0]
    assert last["ratio"] > 0.97
    assert (trajectory["upper_bound"].dropna() >= last["max_margin"]).all()
    assert (trajectory["robust_accuracy"] <= trajectory["test_accuracy"]).all()
    assert 0 < last["robust_accuracy"] < last["test_accuracy"]
    plain, _ = run(**keys)
    assert "robust_accuracy" not in plain
    assert plain["max_margin"].iloc[-1] > last["max_margin"]
    assert isinstance(trajectory, pd.DataFrame)


@pytest.mark.slow
def test_gd_ends_at_the_robust_l2_optimum_and_coordinate_descent_near_that_of_l1(tmp_path: Path) -> None:
    largest = 0.3387  # of these data, the l1 maximum margin
    keys = {**TEACHER, "results_dir": str(tmp_path), "model.perturbation": "linf", "model.eps": largest / 2}
    _, l1 = run(**{**keys, "model.eps": 0.0, "optimizer": "sd", "norm": "l1", "steps": 10, "schedule.lr": 0.3})
    assert l1[l1["own"]]["max_margin"].iloc[0] == pytest.approx(largest, abs=1e-4)
    _, gd = run(**{**keys, "optimizer": "gd", "steps": 600, "schedule.lr": 0.1})
    _, cd = run(**{**keys, "optimizer": "sd", "norm": "l1", "steps": 1000, "schedule.lr": 0.3})
    assert gd[gd["own"]]["ratio"].iloc[0] >= 0.99
    assert cd[cd["own"]]["ratio"].iloc[0] >= 0.95


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"model.eps": 0.1}, r"model\.eps=0\.1: has no effect with model\.perturbation=null"),
        ({"model.perturbation": "l3"}, r"model\.perturbation=.?l3.?: must be .*linf, l2.*l1"),
        ({"model.perturbation": "l2", "model.eps": -1}, r"model\.eps=-1: must be a number >= 0"),
        ({"model.perturbation": "l2", "model.blocks": [10, 10]}, r"model\.blocks=\[10,10\]: must be null"),
        ({"model.perturbation": "l2", "model.eps": 0.1, "reference": "certified"}, "reference=certified: .*must be exact"),
        ({"model.perturbation": "l2", "optimizer": "coordinate_descent", "schedule": "edge"}, "schedule=edge: gaps are linear"),
        ({"model": "mlp", "model.perturbation": "l2"}, "model=mlp has no such key; .*needs model=diagonal or model=linear"),
    ],
)
def test_what_does_not_go_with_it_is_refused_in_a_line(keys: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=told) as error:
        run(**{**TEACHER, "results_dir": str(tmp_path), "steps": 5, **keys})
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
