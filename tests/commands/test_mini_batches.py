"""The keys batch.size and batch.order in the command: refusals, batches of runs, and what a sweep of seeds computes."""

from pathlib import Path

import pandas as pd
import pytest

from implicit_bias import run
from implicit_bias.analysis.comparison import Source, labels
from implicit_bias.compare import command as compare
from implicit_bias.config.overrides import cannot_differ, compose
from implicit_bias.run import main
from implicit_bias.sweep.loading import located
from implicit_bias.sweep.plan import Cell, batches

SMALL = ["dataset.num_classes=3", "dataset.dim=5", "dataset.samples_per_class=4", "steps=30", "progress=off", "reference=none"]
REFUSED = {
    "batch.size=0": "batch.size=0: must be null or an integer >= 1",
    "batch.size=1.5": "batch.size=1.5: must be null or an integer >= 1",
    "batch.size=13": "batch.size=13: the data have 12 samples; must be null or an integer in [1, 12]",
    "batch.size=4 batch.order=shuffle": "batch.order=shuffle: must be reshuffle, cyclic or replace",
    "batch.order=cyclic": "batch.order=cyclic: is the order of mini-batches, and batch.size=null has none; give batch.size",
    "batch.size=4 optimizer=gd schedule=lyu_li": "batch.size=4: schedule=lyu_li takes steps back by the loss of all samples,"
    " which mini-batches do not evaluate; allowed: batch.size=null, or schedule=constant, loss_based or power",
    "batch.variance_reduction=svrg": "batch.variance_reduction=svrg: corrects gradients of mini-batches, and batch.size=null has"
    " none; give batch.size",
    "batch.size=4 batch.variance_reduction=svrg optimizer=gd schedule=loss_based": "batch.variance_reduction=svrg:"
    " schedule=loss_based reads the loss, which a corrected gradient has none of; allowed here: none",
    "batch.size=4 batch.variance_reduction=svrg schedule.lr=1 optimizer=torch optimizer.target=torch.optim.LBFGS": ""
    "batch.variance_reduction=svrg: optimizer=torch torch.optim.LBFGS as it is set reads the loss, which a corrected",
    "batch.size=4 batch.variance_reduction=spider": "batch.variance_reduction=spider: must be none or svrg",
    "batch.sizes=4": "batch.sizes: unknown key",
}


@pytest.mark.parametrize("typed", REFUSED)
def test_what_cannot_be_is_one_line_and_exit_code_2(typed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, *typed.split(), f"results_dir={tmp_path / 'results'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {REFUSED[typed]}")
    assert not (tmp_path / "results").exists()


def test_runs_share_a_batch_where_only_their_seeds_differ() -> None:
    cells = compose([*SMALL, "seed=1,2", "batch.size=4,6", "dataset.seed=1"], multirun=True)
    found = list(located([cell.spec for cell in cells]))
    ready = [cell for cell in found if isinstance(cell, Cell)]
    assert len(ready) == len(found) == 4
    assert [[(cell.spec.batch.size, cell.spec.seed) for cell in batch] for batch in batches(ready)] == [
        [(4, 1), (4, 2)],
        [(6, 1), (6, 2)],
    ]


def test_a_sweep_of_seeds_on_the_same_data_is_one_of_orders() -> None:
    typed = [*SMALL, "seed=1,2", "dataset.seed=1"]
    assert cannot_differ(compose([*typed, "batch.size=4"], multirun=True)) is None
    assert cannot_differ(compose([*typed, "batch.size=4", "batch.order=cyclic"], multirun=True)) is not None
    assert cannot_differ(compose(typed, multirun=True)) is not None


@pytest.mark.slow
def test_a_batch_of_all_samples_gives_the_numbers_of_the_full_one(tmp_path: Path) -> None:
    keys = [*SMALL, f"results_dir={tmp_path}", "optimizer=muon"]
    full, _ = run(keys)
    for order in ("cyclic", "reshuffle"):
        trajectory, _ = run(keys, "batch.size=12", f"batch.order={order}", "batch.variance_reduction=svrg")
        assert trajectory.equals(full)
    other, _ = run(keys, "batch.size=12", "batch.order=replace")
    assert not other.equals(full)


def test_epochs_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = [*SMALL, f"results_dir={tmp_path}"]
    assert main([*keys, "batch.size=8"]) == 0
    assert "updates from 8 of 12 samples, 20 epochs" in " ".join(capsys.readouterr().out.split())
    assert main([*keys, "batch.size=8", "batch.variance_reduction=svrg"]) == 0
    assert "updates from 8 of 12 samples, corrected (svrg), 20 epochs" in " ".join(capsys.readouterr().out.split())
    assert main(["-m", *keys, "batch.size=8,null"]) == 0
    (path,) = tmp_path.glob("sweeps/*/table.csv")
    epochs = pd.read_csv(path).groupby("batch.size", dropna=False)["epochs"].first()
    assert epochs[8.0] == 20 and epochs.isna().sum() == 1


def test_a_curve_of_mini_batches_says_so_and_one_of_an_earlier_version_is_no_other() -> None:
    full, some = (compose([*SMALL, *more])[0].spec.config_yaml for more in ([], ["batch.size=4"]))
    earlier = {key: value for key, value in full.items() if key != "batch"}
    table = pd.DataFrame({"seed": [1], "step": [1], "norm": ["l2"], "margin": [1.0]})
    sources = [Source(str(i), table, config=config) for i, config in enumerate((full, some, earlier))]
    assert labels(sources) == ["muon", "muon size 4", "muon"]


@pytest.mark.slow
def test_runs_are_compared_by_epochs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = ["-m", *SMALL, f"results_dir={tmp_path}", "batch.size=6,null"]
    assert main(keys) == 0
    (sweep,) = tmp_path.glob("sweeps/*")
    capsys.readouterr()
    assert compare.main([str(sweep), "x=epoch", f"out={tmp_path / 'out'}"]) == 0
    table = pd.read_csv(tmp_path / "out" / "comparison.csv")
    shares = {"muon": 1.0, "muon size 6": 0.5}
    assert set(table["label"]) == set(shares)
    assert (table["epoch"] == table["step"] * table["label"].map(shares)).all()
    own = pd.DataFrame({"seed": [1, 1], "step": [0, 1], "norm": ["linf", "linf"], "margin": [0.0, 1.0]})
    own.to_csv(tmp_path / "mine.csv", index=False)
    assert compare.main([str(sweep), str(tmp_path / "mine.csv"), "x=epoch"]) == 2
    assert capsys.readouterr().err == "error: x=epoch: mine has none; allowed here: step\n"
