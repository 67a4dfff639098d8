"""A linear model whose matrix is in blocks of columns, from the command's keys to its files."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from implicit_bias.config.overrides import compose
from implicit_bias.config.spec import config_hash
from implicit_bias.engine.steppers.native.compiling import compilers
from implicit_bias.identify import command as identify
from implicit_bias.run import main
from implicit_bias.storage.runs import read_provenance, read_run
from implicit_bias.sweep import Outcome, execute

SMALL = [
    "dataset.num_classes=3",
    "dataset.dim=5",
    "dataset.samples_per_class=5",
    "dataset.noise=0.4",
    "steps=80",
    "log.points=12",
]
CUT = "model.blocks=[2,3]"
HYBRID = ["optimizer=nmd", "norm=hybrid", "norm.ratio=2", "norm.outer=l2"]


def run(tmp_path: Path, *overrides: str) -> list[Outcome]:
    return execute(
        [cell.spec for cell in compose([*SMALL, f"results_dir={tmp_path}", *overrides], multirun=True)], command="test"
    )


def margin(outcome: Outcome, norm: str) -> np.ndarray:
    assert outcome.trajectory is not None
    found: np.ndarray = outcome.trajectory[outcome.trajectory["norm"] == norm]["margin"].to_numpy()
    return found


@pytest.mark.slow
def test_every_product_norm_is_measured_beside_its_certified_optimum(tmp_path: Path) -> None:
    labels = ["hybrid2-l2-linf", "hybrid2", "hybrid0.5-max-l2", "spectral", "nuclear", "row", "schatten3", "linf", "l2"]
    (outcome,) = run(tmp_path, CUT, *HYBRID, f"log.norms=[{','.join(labels)}]", "steps=2000")
    assert outcome.status == "done"
    assert outcome.directory is not None
    summary = read_run(outcome.directory)[1].set_index("norm")
    assert list(summary.index) == labels
    assert list(summary.index[summary["own"]]) == ["hybrid2-l2-linf"]
    assert summary["ratio"]["hybrid2-l2-linf"] == summary["ratio"].max() > 0.98
    assert (summary["margin"] <= summary["max_margin"] * (1 + 1e-9)).all()
    assert (summary["max_margin"] <= summary["upper_bound"] * (1 + 1e-9)).all()
    assert summary["correlation"]["hybrid2-l2-linf"] > 0.95
    with np.load(outcome.directory / "final.npz") as final:
        assert {name: final[name].shape for name in final.files if final[name].ndim == 2} == {
            "weight1": (3, 2),
            "weight2": (3, 3),
        }
        w1, w2 = (final[name] * np.exp(final["log_scale"]) for name in ("weight1", "weight2"))
    size = np.hypot(2 * np.linalg.norm(w1, 2), np.abs(w2).max())
    assert size == pytest.approx(read_run(outcome.directory)[0].groupby("norm")["param_norm"].last()["hybrid2-l2-linf"])
    assert read_provenance(outcome.directory)["stepping"] == ("c" if compilers() else "torch")


def test_an_entrywise_method_does_not_see_the_blocks(tmp_path: Path) -> None:
    plain, cut = (run(tmp_path, key, "optimizer=signum", "compile=off", "reference=none")[0] for key in ("seed=1", CUT))
    np.testing.assert_array_equal(margin(plain, "linf"), margin(cut, "linf"))
    for norm in ("l1", "l2"):  # sums over entries in another order
        np.testing.assert_allclose(margin(plain, norm), margin(cut, norm), rtol=1e-14)
    # The larger of the blocks' spectral norms is smaller than that of both side by side.
    assert (np.abs(margin(plain, "spectral")[1:]) < np.abs(margin(cut, "spectral")[1:])).all()


@pytest.mark.slow
def test_a_batch_is_the_loop_over_its_members(tmp_path: Path) -> None:
    together = run(tmp_path / "a", CUT, *HYBRID, "seed=1,2,3", "log.norms=[spectral]")
    alone = [run(tmp_path / "b", CUT, *HYBRID, f"seed={seed}", "log.norms=[spectral]")[0] for seed in (1, 2, 3)]
    for one, other in zip(together, alone, strict=True):
        assert one.trajectory is not None and other.trajectory is not None
        pd.testing.assert_frame_equal(one.trajectory, other.trajectory)


def test_two_cuts_of_one_data_set_have_optima_of_their_own(tmp_path: Path) -> None:
    outcomes = run(tmp_path, "model.blocks=[2,3],[3,2]", "optimizer=muon", "steps=5", "log.norms=[]", "dataset.seed=1")
    best = [outcome.summary["max_margin"].item() for outcome in outcomes if outcome.summary is not None]
    assert len(best) == 2
    assert abs(best[0] - best[1]) > 1e-3 * best[0]


def test_muon_signum_takes_the_first_block_as_its_matrix(tmp_path: Path) -> None:
    (outcome,) = run(
        tmp_path, CUT, "optimizer=muon_signum", "optimizer.beta=0", "optimizer.ratio=0.5", "steps=1", "reference=none"
    )
    assert outcome.directory is not None
    with np.load(outcome.directory / "final.npz") as final:
        w1, w2 = (final[name] * np.exp(final["log_scale"]) for name in ("weight1", "weight2"))
    singular, entries = np.linalg.svd(w1, compute_uv=False), np.abs(w2)
    np.testing.assert_allclose(singular, singular[0], rtol=1e-9)  # a polar factor, and half of its size as signs
    np.testing.assert_allclose(entries, 0.5 * singular[0], rtol=1e-9)


def test_a_start_in_blocks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (first,) = run(tmp_path, CUT, "optimizer=signgd", "reference=none", "steps=10")
    (second,) = run(tmp_path, CUT, "optimizer=signgd", "reference=none", f"start={first.directory}")
    assert margin(second, "l2")[0] == margin(first, "l2")[-1]
    typed = [*SMALL, f"results_dir={tmp_path}", "optimizer=signgd", "reference=none", f"start={first.directory}", "progress=off"]
    assert main(typed) == 2
    assert "must have the model's blocks, weight 3 x 5; it has weight1 3 x 2, weight2 3 x 3" in capsys.readouterr().err


def test_what_does_not_fit_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, f"results_dir={tmp_path}", "model.blocks=[2,2]", "progress=off"]) == 2
    expected = "error: model.blocks=[2,2]: columns of 4 features; must add up to the 5 of the data\n"
    assert capsys.readouterr().err == expected
    assert not list(tmp_path.rglob("*.csv"))
    (outcome,) = run(tmp_path, CUT, "optimizer=signgd", "reference=none")
    assert identify.main([str(outcome.directory)]) == 2
    assert "model.blocks=[2,3]: must be null, l_p and Schatten norms are of one matrix" in capsys.readouterr().err


def test_no_blocks_are_no_part_of_a_hash() -> None:
    (cell,) = compose([*SMALL])
    config = cell.spec.canonical
    assert config["model"].pop("blocks") is None
    assert config_hash(config) == cell.spec.hash()
    assert compose([*SMALL, CUT])[0].spec.hash() != cell.spec.hash()
