"""The command on networks: files, columns, and sweeps that are their runs one by one."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from implicit_bias.run import main, run
from implicit_bias.storage.runs import COLUMNS, EXTRA_COLUMNS


@pytest.mark.parametrize(
    ("arguments", "tested"),
    [
        (["model=mlp", "model.width=6", "optimizer=muon_adam"], True),
        (["model=cnn", "model.channels=[2]", "optimizer=muon_signum", "log.levels=2"], False),
        (["model=cnn", "model.channels=[2]", "optimizer=muon_signum", "log.levels=2"], True),
        (["model=diagonal", "optimizer=gd", "schedule=lyu_li"], True),
        (["model=mlp", "model.width=4", "optimizer=shampoo", "model.frozen=[layer2]", "loss=exponential"], False),
    ],
)
def test_the_command_trains_networks(
    arguments: list[str], tested: bool, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    more = ["dataset.test_samples=50"] if tested else []
    shared = ["dataset=digits", "dataset.samples=60", "steps=20", "log.points=5", "log.kkt_iters=4", "progress=off"]
    assert main([*shared, f"results_dir={tmp_path}", *arguments, *more]) == 0
    assert capsys.readouterr().err == ""
    (folder,) = (tmp_path / "runs").iterdir()
    assert {p.name for p in folder.iterdir()} == {
        "trajectory.csv", "summary.csv", "config.yaml", "final.npz", "provenance.json",
    }  # fmt: skip
    table = pd.read_csv(folder / "trajectory.csv")
    behind = ["soft_margin", "later_cosine", *(["test_accuracy"] if tested else []), "layer_margin", "layer_alignment"]
    assert list(table.columns) == [*COLUMNS, *behind] == [*COLUMNS, *(c for c in EXTRA_COLUMNS if c in behind)]
    assert table["layer_alignment"].dropna().between(-1, 1).all()
    assert {0, 1, 10, 20} <= set(table["step"])
    assert table[["max_margin", "relative_gap", "upper_bound", "correlation"]].isna().all(axis=None)
    assert table[["margin", "alignment", "param_norm", "log_loss", "soft_margin"]].notna().all(axis=None)
    assert table.loc[table["step"] == 1, "later_cosine"].between(-1, 1).all()
    assert table.loc[table["step"] == 20, "later_cosine"].isna().all()
    if tested:
        assert table["test_accuracy"].between(0, 1).all()
    with np.load(folder / "final.npz") as file:
        assert {"layer1", "layer2", "log_loss", "log_scale"} <= set(file.files)


@pytest.mark.slow
def test_a_sweep_over_networks_is_its_runs_one_by_one(tmp_path: Path) -> None:
    shared = ["model=mlp", "model.width=4", "optimizer=ngd", "dataset.num_classes=3", "dataset.dim=5", "steps=60", "log.levels=2"]
    together, _ = run(*shared, "stop_log10_loss=-1", f"results_dir={tmp_path / 'a'}", "seed=1,2,3", multirun=True)
    for seed in (1, 2, 3):
        single, _ = run(*shared, "stop_log10_loss=-1", f"results_dir={tmp_path / 'b'}", f"seed={seed}")
        mine = together[together["seed"] == seed].reset_index(drop=True)
        pd.testing.assert_frame_equal(mine[single.columns], single, rtol=1e-9)
