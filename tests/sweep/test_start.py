"""Runs that start from the parameters of another, scaled or not."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from implicit_bias.config.overrides import compose
from implicit_bias.core.errors import BadInput
from implicit_bias.sweep import Outcome, execute

LINEAR = ["dataset.num_classes=3", "dataset.dim=6", "dataset.samples_per_class=4", "dataset.noise=0.3", "reference=none"]
NETWORK = ["model=mlp", "model.width=6", "dataset=digits", "dataset.task=parity", "dataset.samples=12", "optimizer=muon"]


def run(results: Path, *overrides: str) -> Outcome:
    (cell,) = compose([*overrides, f"results_dir={results}"])
    return execute([cell.spec], command="test")[0]


def first_row(outcome: Outcome, norm: str) -> "pd.Series[float]":
    assert outcome.trajectory is not None, outcome.error
    rows = outcome.trajectory
    return rows[(rows["step"] == 0) & (rows["norm"] == norm)].iloc[0]


@pytest.mark.parametrize("problem", [LINEAR, NETWORK])
def test_a_run_starts_where_another_ended(problem: list[str], tmp_path: Path) -> None:
    ended = run(tmp_path, *problem, "steps=40")
    assert ended.summary is not None
    started = run(tmp_path, *problem, "steps=5", "optimizer=signgd", f"start='{ended.directory}'")
    for norm in ("linf", "l2"):
        last = ended.summary.set_index("norm").loc[norm]
        for column in ("margin", "log_loss", "param_norm"):
            assert first_row(started, norm)[column] == pytest.approx(last[column], rel=1e-12)


@pytest.mark.slow
def test_a_separating_network_scaled_up_is_exact_below_1e_1000(tmp_path: Path) -> None:
    """Degree 3: margins stay, gaps grow by the third power of the factor."""
    ended = run(tmp_path, *NETWORK, "steps=3000", "stop_log10_loss=-3", "log.kkt_iters=0")
    assert ended.summary is not None
    far = run(tmp_path, *NETWORK, "steps=20", "log.norms=[linf,l2,spectral]", f"start='{ended.directory}'", "start_scale=10")
    assert far.trajectory is not None
    assert (far.trajectory["log_loss"] < -1000 * math.log(10)).all()
    for norm in ("linf", "l2", "spectral"):
        margin = ended.summary.set_index("norm").loc[norm, "margin"]
        assert first_row(far, norm)["margin"] == pytest.approx(margin, rel=1e-10)
    numbers = far.trajectory[["margin", "alignment", "kkt_ratio", "param_norm"]]
    assert np.isfinite(numbers.to_numpy()).all()


def test_the_folder_is_that_of_the_content(tmp_path: Path) -> None:
    one, other = (run(tmp_path, *LINEAR, "steps=10", f"seed={seed}") for seed in (1, 2))
    again = ["steps=3", "dataset.seed=1"]
    folders = [run(tmp_path, *LINEAR, *again, f"start='{o.directory}'").directory for o in (one, other, one)]
    scaled = run(tmp_path, *LINEAR, *again, f"start='{one.directory}'", "start_scale=2").directory
    assert folders[0] == folders[2] and len({*folders, scaled}) == 3


def test_runs_of_one_batch_may_start_at_different_places(tmp_path: Path) -> None:
    ended = [run(tmp_path, *LINEAR, "steps=10", f"seed={seed}").directory for seed in (1, 2)]
    sweep = [*LINEAR, "steps=3", "dataset.seed=1", f"start='{ended[0]}','{ended[1]}'", f"results_dir={tmp_path / 'sweep'}"]
    together = execute([cell.spec for cell in compose(sweep, multirun=True)], command="test")
    alone = [run(tmp_path / "alone", *LINEAR, "steps=3", "dataset.seed=1", f"start='{folder}'") for folder in ended]
    for batched, single in zip(together, alone, strict=True):
        assert batched.trajectory is not None and single.trajectory is not None
        assert batched.trajectory["margin"].tolist() == single.trajectory["margin"].tolist()


def test_a_start_that_does_not_fit_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^start="):
        compose([*LINEAR, f"start='{tmp_path / 'nowhere'}'"])
    ended = run(tmp_path, *LINEAR, "steps=5")
    narrow = run(tmp_path, *NETWORK, f"start='{ended.directory}'")
    assert narrow.error is not None and "layer1 6 x 64" in narrow.error and "it has weight 3 x 6" in narrow.error
    for nothing in ("start_scale=0", "start_scale=10"):  # the second scales the point zero
        with pytest.raises(BadInput, match=r"^start_scale"):
            compose([*LINEAR, nothing])
