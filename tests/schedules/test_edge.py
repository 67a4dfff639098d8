"""AdaBoost's step: against AdaBoost written out, a numeric line search, and on the data on which it cycles."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from implicit_bias import run
from implicit_bias.core.errors import BadInput
from implicit_bias.schedules import Edge
from tests.support.datasets import load

BOOST = ("loss=exponential", "optimizer=coordinate_descent", "schedule=edge", "progress=off", "log.kkt_iters=0")


def boosted(tmp_path: Path, *words: str) -> tuple[Any, Any]:
    return run(*BOOST, f"results_dir={tmp_path}", *words)


def adaboost(z: np.ndarray, theta: np.ndarray, rounds: int, share: float = 1.0) -> list[np.ndarray]:
    """The gaps after every round, for z_ij = y_i h_j(x_i), by the textbook's update of the samples' weights."""
    gaps = [z @ theta]
    weights = np.exp(-gaps[0])
    for _ in range(rounds):
        weights /= weights.sum()
        edges = weights @ z
        j = int(np.abs(edges).argmax())
        step = share * 0.5 * math.log((1 + edges[j]) / (1 - edges[j]))
        weights *= np.exp(-step * z[:, j])
        gaps.append(gaps[-1] + step * z[:, j])
    return gaps


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_coordinate_descent_with_the_edge_is_adaboost(tmp_path: Path, share: float) -> None:
    """From a start without ties; losses of every round."""
    data = ("dataset=scaled_rademacher", "dataset.spread=0", "dataset.dim=30", "dataset.samples=24", "model.init=gaussian")
    trajectory, _ = boosted(tmp_path, *data, "model.init_scale=0.1", f"schedule.lr={share}", "steps=30", "log.points=31")
    x, y = (getattr(load("scaled_rademacher", spread=0.0, dim=30, samples=24), name) for name in "xy")
    start = 0.1 * np.random.RandomState(1).randn(2, 30)
    expected = adaboost(np.where(y == 1, 1, -1)[:, None] * x, start[1] - start[0], 30, share)
    rows = trajectory[trajectory["norm"] == "l1"].set_index("step")
    assert len(rows) > 20
    for step, log_loss in rows["log_loss"].items():
        assert log_loss == pytest.approx(math.log(np.exp(-expected[step]).mean()), abs=1e-11)
    assert (rows["lr"].iloc[1:] == share).all()


def test_the_step_by_pairs_is_the_line_searchs_minimum() -> None:
    """Four classes, features of -1 and 1: one entry gains some pairs, loses others, and leaves the rest alone."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        z = rng.choice([-1.0, 0.0, 1.0], size=(4, 15))
        weights = rng.exponential(size=(4, 15))
        z = z if (weights * z).sum() > 0 else -z
        found = float(Edge().log_search(torch.tensor(z)[None], torch.tensor(weights)[None]).exp())
        numeric = minimize_scalar(lambda s, z=z, w=weights: float((w * np.exp(-s * z)).sum()), bounds=(0, 20), method="bounded",
                                  options={"xatol": 1e-12})  # fmt: skip
        assert found == pytest.approx(numeric.x, abs=1e-6)


@pytest.mark.slow
def test_several_classes_fall_at_every_round_and_runs_of_a_batch_are_runs_alone(tmp_path: Path) -> None:
    words = ("dataset=scaled_rademacher", "dataset.spread=0", "dataset.num_classes=3", "dataset.samples=30", "dataset.dim=40",
             "steps=80", "log.points=81")  # fmt: skip
    both, _ = run(*BOOST, *words, "schedule.lr=1,0.3", f"results_dir={tmp_path / 'both'}", multirun=True)
    for share in (1.0, 0.3):
        alone, _ = boosted(tmp_path / "alone", *words, f"schedule.lr={share}")
        losses = alone[alone["norm"] == "l1"]["log_loss"].to_numpy()
        assert (np.diff(losses) < 0).all()
        theirs = both[(both["norm"] == "l1") & (both["lr"] == share)]["log_loss"].to_numpy()
        assert np.array_equal(theirs, losses[1:])


@pytest.mark.slow
def test_adaboost_cycles_where_smaller_steps_reach_the_optimum(tmp_path: Path) -> None:
    """Rudin, Daubechies and Schapire (2004): 1/3 and 3/8."""
    _, full = boosted(tmp_path, "dataset=rudin", "steps=2000")
    _, part = boosted(tmp_path, "dataset=rudin", "steps=2000", "schedule.lr=0.1")
    margins = [float(summary.loc[summary["norm"] == "l1", "margin"].iloc[0]) for summary in (full, part)]
    optimum = float(full.loc[full["norm"] == "l1", "max_margin"].iloc[0])
    assert optimum == pytest.approx(3 / 8, abs=1e-9)
    assert margins[0] == pytest.approx(1 / 3, abs=1e-3) and margins[1] > 0.37


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("dataset=rudin", "optimizer=signgd"), "schedule=edge: is a line search along one coordinate; optimizer=signgd moves"),
        (("dataset=rudin", "loss=cross_entropy"), "loss=cross_entropy: schedule=edge is a line search of the exponential loss"),
        (("dataset=rudin", "batch.size=4"), "batch.size=4: schedule=edge looks along a step at all samples"),
        (("dataset=rudin", "schedule.lr=2"), "schedule.lr=2: must be"),
        (("dataset=rudin", "optimizer.weight_decay=0.1"), "optimizer.weight_decay=0.1"),
        (("dataset=gaussian_mixture",), "schedule=edge: needs features between -1 and 1"),
        (("dataset=rudin", "model=mlp"), "model=mlp: gaps are not linear in its parameters"),
    ],
)
def test_refused_in_a_line(tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    with pytest.raises(BadInput) as caught:
        boosted(tmp_path, *words)
    assert told in str(caught.value) and "\n" not in str(caught.value)
    assert not any(tmp_path.iterdir())


def test_a_feature_that_separates_by_itself_has_no_step() -> None:
    with pytest.raises(OverflowError, match="one feature alone separates"):
        Edge().log_search(torch.ones(1, 2, 3), torch.ones(1, 2, 3))
