"""Cells to run folders: what is batched, what is skipped, what fails alone; and the learning-rate rule."""

import re
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from implicit_bias.config.overrides import compose
from implicit_bias.config.spec import RunSpec
from implicit_bias.core.errors import BadInput
from implicit_bias.datasets import make_dataset
from implicit_bias.losses import LOSSES
from implicit_bias.models import MODELS, Data
from implicit_bias.norms import NORMS, make_norm
from implicit_bias.schedules import AUTO_GAP_CHANGE, AUTO_GAP_CHANGE_SATURATING, SCHEDULES, auto_lr
from implicit_bias.storage.runs import read_run
from implicit_bias.sweep import Outcome, execute, loading
from implicit_bias.sweep import batch_size as fitting
from implicit_bias.sweep.plan import Cell, batch_size, batches, group_key
from implicit_bias.sweep.table import sweep_table

SMALL = [
    "dataset.num_classes=4",
    "dataset.dim=8",
    "dataset.samples_per_class=5",
    "dataset.noise=0.5",
    "steps=60",
    "reference=none",
]

NETWORK = ["model=mlp", "model.width=6", "model.depth=3", "model.init_scale=1"]


def specs(tmp_path: Path, *overrides: str) -> list[RunSpec]:
    return [cell.spec for cell in compose([*SMALL, f"results_dir={tmp_path}", *overrides], multirun=True)]


def prepared(spec: RunSpec) -> Cell:
    return Cell(0, spec, spec.dataset.load(), Path("unused"))


def run(tmp_path: Path, *overrides: str) -> list[Outcome]:
    return execute(specs(tmp_path, *overrides), command="test")


@pytest.mark.parametrize(
    ("sweep", "groups"),
    [
        (["seed=range(6)"], 1),
        (["schedule.lr=auto,0.1,0.2", "schedule.power=0.3,0.5"], 1),
        (["optimizer=nmd", "norm=lp", "norm.p=1.5,2,7"], 1),
        (["optimizer=nmd", "norm=lp", "norm.p=1,inf,7"], 3),
        (["optimizer=adam", "optimizer.beta1=0.5,0.9", "optimizer.eps=0,1e-3"], 1),
        (["optimizer=adam", "optimizer.bias_correction=true,false"], 2),
        (["optimizer=signgd,muon"], 2),
        (["steps=10,20"], 2),
        (["dataset.noise=0.1,0.5"], 1),
        (["dataset.dim=8,9"], 2),
        (["loss=cross_entropy,exponential"], 2),
        (["dataset=gaussian_mixture,random_labels"], 2),
        (["log.points=5,6"], 2),
    ],
)
def test_cells_are_batched_exactly_when_they_differ_in_numbers_only(tmp_path: Path, sweep: list[str], groups: int) -> None:
    overrides = [s for s in SMALL if not (sweep[0].startswith("dataset=") and s.startswith("dataset."))]
    cells = compose([*overrides, f"results_dir={tmp_path}", *sweep], multirun=True)
    assert len({group_key(prepared(cell.spec)) for cell in cells}) == groups


def test_large_groups_are_cut_into_equal_batches(tmp_path: Path) -> None:
    cells = [prepared(spec) for spec in specs(tmp_path, "dataset.samples_per_class=500", "seed=range(70)")]
    most = batch_size(cells[0].dataset)
    sizes = [len(batch) for batch in batches(cells)]
    assert sum(sizes) == 70
    assert max(sizes) <= most
    assert min(sizes) > max(sizes) / 2


@pytest.mark.slow
def test_a_cell_of_a_sweep_writes_what_it_writes_alone(tmp_path: Path) -> None:
    swept = run(
        tmp_path / "a", "optimizer=nmd", "norm=lp", "norm.p=2.5,5", "schedule.lr=auto,0.2", "seed=1,2", "log.norms=[linf,lp5]"
    )
    for outcome in swept:
        spec = outcome.spec.altered({"results_dir": str(tmp_path / "b")})
        (alone,) = execute([spec], command="test")
        assert alone.directory is not None
        assert outcome.directory is not None
        assert alone.directory.name == outcome.directory.name
        # Different exponents in one batch go through another pow than a single one: the last bit, not the bytes.
        pd.testing.assert_frame_equal(read_run(alone.directory)[0], read_run(outcome.directory)[0], rtol=1e-9, atol=1e-12)
        labels = set(pd.read_csv(alone.directory / "trajectory.csv")["norm"])
        assert labels == {"linf", "lp5", spec.working_norm.label}


@pytest.mark.slow
def test_finished_cells_are_skipped_and_force_recomputes(tmp_path: Path) -> None:
    first = run(tmp_path, "seed=1,2")
    assert [o.status for o in first] == ["done", "done"]
    again = run(tmp_path, "seed=1,2,3")
    assert [o.status for o in again] == ["skipped", "skipped", "done"]
    assert first[0].trajectory is not None
    assert again[0].trajectory is not None
    pd.testing.assert_frame_equal(again[0].trajectory, first[0].trajectory)
    assert [o.status for o in run(tmp_path, "seed=1", "force=true")] == ["done"]


def test_a_cell_that_cannot_be_separated_fails_alone(tmp_path: Path) -> None:
    outcomes = run(
        tmp_path, "dataset.noise=0.5,50", "dataset.samples_per_class=40", "reference=certified", "log.norms=[l2]", "optimizer=ngd"
    )
    assert [o.status for o in outcomes] == ["done", "failed"]
    assert outcomes[1].error_kind == "not_separable"
    assert outcomes[1].error is not None
    assert "reference=none" in outcomes[1].error
    assert "\n" not in outcomes[1].error
    (without,) = run(
        tmp_path, "dataset.noise=50", "dataset.samples_per_class=40", "reference=none", "log.norms=[l2]", "optimizer=ngd"
    )
    assert without.summary is not None
    assert without.summary["margin"].item() < 0
    assert np.isnan(without.summary["kkt_ratio"].item())


def test_a_cell_whose_data_cannot_be_loaded_fails_alone(tmp_path: Path) -> None:
    good, bad = specs(tmp_path, "seed=1,2")
    bad = bad.altered({"dataset": {"name": "file", "path": str(tmp_path / "absent.npz"), "label": "label"}})
    outcomes = execute([bad, good], command="test")
    assert [o.status for o in outcomes] == ["failed", "done"]
    assert outcomes[0].error_kind == "bad_input"
    assert outcomes[0].error is not None
    assert outcomes[0].error.startswith("dataset.path")


def test_divergence_is_said_and_writes_nothing(tmp_path: Path) -> None:
    (outcome,) = run(tmp_path, "optimizer=gd", "loss=exponential", "schedule.lr=100", "dataset.noise=5")
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert "schedule.lr" in outcome.error
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.slow
def test_runs_that_diverge_are_stopped_and_named_and_the_others_are_as_without_them(tmp_path: Path) -> None:
    sweep = [*NETWORK, "optimizer=gd", "schedule=constant", "steps=40", "reference=none", "log.kkt_iters=0"]
    cells = specs(tmp_path / "all", *sweep, "schedule.lr=0.1,30,300,0.2")
    outcomes = execute(cells, command="test")
    assert [o.status for o in outcomes] == ["done", "failed", "failed", "done"]
    table = sweep_table([{"schedule.lr": cell.schedule.lr} for cell in cells], outcomes)
    for lr, outcome in zip((30, 300), outcomes[1:3], strict=True):
        assert outcome.error_kind == "diverged"
        assert outcome.error is not None
        assert re.fullmatch(r"diverged at step \d+: the parameters .*; choose a smaller schedule\.lr", outcome.error)
        (row,) = table[table["schedule.lr"] == lr].to_dict("records")
        assert (row["step"], row["error"]) == (outcome.diverged_at, outcome.error)
        assert 0 < row["step"] < 40
    assert table.loc[table["schedule.lr"] < 1, "error"].isna().all()
    alone = execute(specs(tmp_path / "alone", *sweep, "schedule.lr=0.1,0.2"), command="test")
    for among, without in zip((outcomes[0], outcomes[3]), alone, strict=True):
        assert among.trajectory is not None
        assert without.trajectory is not None
        pd.testing.assert_frame_equal(among.trajectory, without.trajectory, check_exact=True)


def test_final_weights_reproduce_the_summary(tmp_path: Path) -> None:
    (outcome,) = run(tmp_path, "optimizer=signgd", "log.weights=all", "log.points=10")
    assert outcome.directory is not None
    assert outcome.summary is not None
    with np.load(outcome.directory / "final.npz") as file:
        assert set(file.files) == {"weight", "log_scale", "log_loss", "steps", "weight_all"}
        w = file["weight"] * np.exp(file["log_scale"])
        np.testing.assert_array_equal(file["weight_all"][-1], file["weight"])
        assert file["steps"].tolist() == sorted(set(outcome.trajectory["step"]))  # type: ignore[index]
    row = outcome.summary.set_index("norm").loc["linf"]
    assert row["param_norm"] == np.abs(w).max()
    assert bool(row["own"])
    assert row["optimizer"] == "signgd"


@pytest.mark.slow
def test_every_logged_norm_has_its_reference_and_interval(tmp_path: Path) -> None:
    (outcome,) = run(
        tmp_path,
        "optimizer=muon",
        "reference=certified",
        "log.norms=[linf,l1,l2,spectral,nuclear,row,lp3,schatten1.5]",
        "steps=300",
    )
    assert outcome.summary is not None
    s = outcome.summary
    assert s["norm"].tolist() == ["linf", "l1", "l2", "spectral", "nuclear", "row", "lp3", "schatten1.5"]
    assert (s["margin"] <= s["max_margin"] * (1 + 1e-6)).all()
    assert (s["max_margin"] <= s["upper_bound"] * (1 + 1e-6)).all()
    np.testing.assert_allclose(s["ratio"], s["margin"] / s["max_margin"])
    np.testing.assert_allclose(s["kkt_ratio"], s["margin"] / s["upper_bound"])
    assert s["correlation"].between(-1, 1).all()


def test_learning_rates_of_the_trajectory_are_the_schedules(tmp_path: Path) -> None:
    (outcome,) = run(tmp_path, "optimizer=signgd", "schedule.lr=0.3", "schedule.power=0.7")
    assert outcome.trajectory is not None
    steps = outcome.trajectory.drop_duplicates("step").set_index("step")["lr"]
    assert np.isnan(steps[0])
    np.testing.assert_allclose(steps[1:], 0.3 * steps.index[1:].to_numpy(float) ** -0.7, rtol=1e-12)


@pytest.mark.parametrize("label", sorted(NORMS))
def test_auto_lr_is_in_units_of_the_data(label: str) -> None:
    source = make_dataset(
        {"name": "gaussian_mixture", "num_classes": 4, "dim": 6, "samples_per_class": 5, "noise": 0.5, "seed": 0}
    ).load()
    norm = make_norm(label)

    def rule(size: float, normalised: bool = True) -> float:
        data = Data(size * torch.from_numpy(source.x)[None], torch.from_numpy(source.y)[None], 4)
        return float(auto_lr(MODELS.get("linear")().unit_step(data, norm), norm, normalised))

    pairs = [torch.eye(4)[y] - torch.eye(4)[c] for y in source.y for c in range(4) if c != y]
    x = torch.from_numpy(source.x).repeat_interleave(3, dim=0)
    largest = max(float(norm.dual(torch.outer(p.double(), row))) for p, row in zip(pairs, x, strict=True))
    assert rule(1.0) == pytest.approx((AUTO_GAP_CHANGE_SATURATING if norm.saturating else AUTO_GAP_CHANGE) / largest, rel=1e-12)
    assert rule(7.0) == pytest.approx(rule(1.0) / 7, rel=1e-12)
    assert rule(7.0, normalised=False) == pytest.approx(rule(1.0, normalised=False) / 49, rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["gd", "momentum_gd", "sd"])
def test_unnormalised_methods_come_near_their_margin_by_default(tmp_path: Path, optimizer: str) -> None:
    """A ratio to the proven upper bound is at most the one to the optimum."""
    typed = [f"optimizer={optimizer}", "dataset.seed=range(1,11)", "log.norms=[l2]", "log.points=5", "reference=none"]
    cells = compose([*typed, f"results_dir={tmp_path}"], multirun=True)
    ends = pd.concat([outcome.summary for outcome in execute([cell.spec for cell in cells], command="test")])
    ratio = ends["margin"] / ends["upper_bound"]
    assert len(ratio) == 10
    assert ratio.mean() > 0.5
    assert ratio.min() > 0.3


def shifted(tmp_path: Path, name: str) -> Path:
    """Data whose features differ in size or have a large mean in common, the worst there is for a constant step."""
    rng = np.random.RandomState(0)
    y = np.repeat(np.arange(6), 5)
    x = rng.randn(6, 12)[y] + 0.5 * rng.randn(30, 12)
    x = x * 10.0 ** np.linspace(-4, 4, 12) if name == "scaled" else x + 100
    np.savez(tmp_path / f"{name}.npz", x=x, y=y)
    return tmp_path / f"{name}.npz"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "loss"),
    [
        *product(["gaussian_mixture", "digits", "teacher_student", "random_labels", "scaled", "shifted"], ["cross_entropy"]),
        *product(["gaussian_mixture", "shifted"], ["exponential", "pair_logistic"]),
    ],
)
def test_the_default_constant_step_lowers_the_loss_at_every_step(tmp_path: Path, data: str, loss: str) -> None:
    dataset = [f"dataset={data}"]
    if data in ("scaled", "shifted"):
        dataset = ["dataset=file", f"dataset.path={shifted(tmp_path, data)}"]
    elif data == "digits":
        dataset.append("dataset.samples_per_class=3")
    elif data == "teacher_student":
        dataset += ["dataset.dim=100", "dataset.samples=20"]
    common = [*dataset, f"loss={loss}", f"results_dir={tmp_path}", "steps=20", "log.points=500", "log.norms=[]", "reference=none"]
    methods = ["optimizer=gd"], ["optimizer=sd", "norm=linf,l1,spectral,nuclear,row"]
    cells = [cell for method in methods for cell in compose([*common, *method], multirun=True)]
    for outcome in execute([cell.spec for cell in cells], command="test"):
        assert outcome.trajectory is not None, outcome.error
        assert (np.diff(outcome.trajectory["log_loss"]) < 1e-12).all(), outcome.directory


def test_the_curvature_of_a_loss_bounds_a_constant_step() -> None:
    start = torch.tensor([0.0, np.log(9.0)], dtype=torch.float64)
    expected = {"cross_entropy": [0.25, 0.25], "exponential": [1.0, 9.0], "pair_logistic": [2.25, 2.25]}
    for loss, bound in expected.items():
        curvature = LOSSES.get(loss)().curvature(start, 9)
        torch.testing.assert_close(curvature, torch.tensor(bound, dtype=torch.float64))
        unit, norm = torch.tensor([2.0], dtype=torch.float64), make_norm("l2")
        steady = auto_lr(unit, norm, normalised=False, curvature=curvature)
        torch.testing.assert_close(steady, 0.25 / torch.tensor(bound, dtype=torch.float64).clamp(min=1))


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_the_curvature_of_a_loss_is_a_bound(loss: str) -> None:
    """Second differences along changes of the gaps of at most 1, from points of any loss."""
    rng, h = np.random.RandomState(0), 1e-3
    f = LOSSES.get(loss)()
    scores, change = (torch.tensor(rng.randn(200, 5, 7)) for _ in range(2))
    change = change / (change.amax(dim=1, keepdim=True) - change.amin(dim=1, keepdim=True))
    y = torch.tensor(rng.randint(5, size=(200, 1, 7)))

    def loss_of(at: torch.Tensor) -> torch.Tensor:
        mean: torch.Tensor = f.log_losses(f.terms((at - at.gather(1, y)).scatter(1, y, -torch.inf))).exp().mean(dim=-1)
        return mean

    low, mid, high = (loss_of(scores + s * change) for s in (-h, 0, h))
    highest = torch.stack([low, mid, high]).amax(dim=0)
    assert ((low - 2 * mid + high) / h**2 <= f.curvature(highest.log(), 4) + 1e-6).all()


def test_auto_lr_refuses_data_without_a_size() -> None:
    with pytest.raises(BadInput, match=r"^schedule\.lr=auto: "):
        auto_lr(torch.zeros(1), make_norm("l2"), True)


def test_schedules() -> None:
    loss = torch.tensor([-3.0, -20_000.0], dtype=torch.float64)
    power = SCHEDULES.get("power")(lr=0.5, power=0.5)
    torch.testing.assert_close(power.recorded(4, loss), torch.full((2,), 0.25, dtype=torch.float64))
    relative = SCHEDULES.get("loss_based")(lr=0.5)
    torch.testing.assert_close(relative.log_lr(9, loss), np.log(0.5) - loss)
    torch.testing.assert_close(relative.recorded(9, loss), torch.full((2,), 0.5, dtype=torch.float64))
    torch.testing.assert_close(SCHEDULES.get("constant")(lr=0.5).recorded(9, loss), torch.full((2,), 0.5, dtype=torch.float64))
    still: list[tuple[str, dict[str, float]]] = [("power", {"power": 0.0}), ("constant", {})]
    moving: list[tuple[str, dict[str, float]]] = [("power", {}), ("power", {"power": 0.5}), ("loss_based", {}), ("lyu_li", {})]
    assert all(SCHEDULES.get(name)(**keys).constant for name, keys in still)
    assert not any(SCHEDULES.get(name)(**keys).constant for name, keys in moving)


TESTED = ["dataset=gaussian_clusters", "dataset.num_classes=3", "dataset.dim=5", "dataset.test_samples=40", "reference=none"]


def test_test_samples_that_are_loaded_again_are_those_that_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for held in (10**9, 3 * 40 * 5, 0):  # all of them, those of three seeds, none
        monkeypatch.setattr(loading, "HELD_TEST", held)
        words = [*TESTED, "optimizer=signgd,ngd", "seed=range(1,6)", "steps=20", f"results_dir={tmp_path / str(held)}"]
        mine = [cell.spec for cell in compose(words, multirun=True)]
        left_out = [isinstance(cell, Cell) and cell.dataset.test_left_out for cell in loading.located(mine)]
        assert left_out == 2 * [held < 40 * 5 * seed for seed in range(1, 6)]
        found.append([outcome.trajectory for outcome in execute(mine, command="test")])
    for tables in zip(*found, strict=True):
        assert tables[0] is not None and tables[0]["test_accuracy"].notna().all()
        for other in tables[1:]:
            pd.testing.assert_frame_equal(tables[0], other)


def test_test_samples_that_are_left_out_take_no_memory_and_are_counted_for_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "HELD_TEST", 0)
    words = [*TESTED, "dataset.test_samples=100000", "seed=range(1,5)", "steps=20", f"results_dir={tmp_path}"]
    cells = [cell for cell in loading.located([one.spec for one in compose(words, multirun=True)]) if isinstance(cell, Cell)]
    for cell in cells:
        assert cell.dataset.x_test is not None and cell.dataset.x_test.shape == (100_000, 5)
        assert cell.dataset.x_test.base is not None and cell.dataset.x_test.base.nbytes == 8
        assert cell.dataset.without_test().x_test is not None and cell.dataset.x is cell.dataset.without_test().x
    assert fitting.fitting(cells) == 4
    each = 8 * 100_000 * (5 + 3)  # the samples and their scores
    monkeypatch.setattr(fitting, "available", lambda _: 3 * each)
    assert fitting.fitting(cells) < 3
