"""Columns that are asked for by name: what they cost is nothing but themselves."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from implicit_bias.config.files import options_of
from implicit_bias.config.overrides import compose
from implicit_bias.core.errors import BadInput
from implicit_bias.engine import Problem, Trajectory, simulate
from implicit_bias.engine.snapshot_checks import misfit
from implicit_bias.engine.steppers.native import LinearSteps
from implicit_bias.measures.averages import StepAverage
from implicit_bias.models import Gradient
from implicit_bias.norms import ParameterNorm
from implicit_bias.probes import PROBES, Columns, Probe, Record
from implicit_bias.probes.base import TAKEN
from implicit_bias.probes.rank import Rank
from implicit_bias.run import main, run
from implicit_bias.storage.runs import COLUMNS, EXTRA_COLUMNS
from implicit_bias.storage.tables import CONSTANT_COLUMN, INTERVAL_COLUMNS, SUMMARY_COLUMNS
from implicit_bias.sweep.table import COLUMNS as SWEEP_COLUMNS
from tests.engine.test_engine import network_problem
from tests.engine.test_native import gaussian, needs_compiler, same_bits
from tests.engine.test_native import problem as native_problem

SMALL: dict[str, Any] = {"dataset.num_classes": 3, "dataset.dim": 5, "dataset.samples_per_class": 3, "reference": "none"}


@dataclass
class Travelled(Probe):
    """The sum of log losses over every third step, and the gradient's dual norm beside each margin."""

    name: ClassVar[str] = "travelled"
    columns: ClassVar[tuple[str, ...]] = ("sum_log_loss", "dual")

    seen: list[int] = field(default_factory=list)
    total: Tensor | None = None

    def wants(self, t: int) -> bool:
        return t % 3 == 1

    def collect(self, t: int, gradient: Gradient) -> None:
        self.seen.append(t)
        self.total = gradient.log_loss if self.total is None else self.total + gradient.log_loss

    def measure(self, record: Record) -> Columns:
        return {"sum_log_loss": torch.zeros_like(record.q) if self.total is None else self.total}

    def under(self, record: Record, label: str, norm: ParameterNorm, columns: Mapping[str, Tensor]) -> Columns:
        return {"dual": norm.dual(record.c)}

    def snapshot(self) -> dict[str, Any]:
        return {"seen": self.seen, "total": self.total}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        if set(snapshot) != {"seen", "total"} or not isinstance(snapshot["seen"], list):
            raise ValueError("no such thing")
        self.seen, self.total = list(snapshot["seen"]), snapshot["total"]


@dataclass
class SecondAverage(Probe):
    """An average as the certificate's, which the steps in C have no room for."""

    name: ClassVar[str] = "second"
    average: StepAverage = field(default_factory=StepAverage)

    @property
    def averaged(self) -> StepAverage:  # type: ignore[override]
        return self.average

    def wants(self, t: int) -> bool:
        return self.average.wants(t)

    def collect(self, t: int, gradient: Gradient) -> None:
        self.average.add(gradient.per_weight())

    def measure(self, record: Record) -> Columns:
        return {"second": self.average.value["weight"].square().sum(dim=(1, 2))}


def without_probes(trajectory: Trajectory) -> Trajectory:
    kept = {label: {k: c for k, c in columns.items() if k != "dual"} for label, columns in trajectory.by_norm.items()}
    return replace(trajectory, by_norm=kept)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("compiled", ["off", "auto"])
@pytest.mark.parametrize("rule", ["signum", "muon", "adam, eps"])
def test_a_probe_that_looks_at_steps_changes_no_other_number(rule: str, compiled: Any) -> None:
    given = native_problem(rule, gaussian(4, 6, 10), 130, compile=compiled)
    plain, probed = simulate(given), simulate(replace(given, probes=[Travelled(), SecondAverage(), Rank()]))
    assert same_bits(plain, without_probes(probed))
    assert probed.stepping == plain.stepping == ("c" if compiled == "auto" else "torch")
    assert probed.probed == ("sum_log_loss", "dual", "second", "stable_rank", "effective_rank")
    every: list[Any] = []
    simulate(replace(given, compile="off"), keep=lambda t, snapshot: every.append(snapshot()["gradient"]["log_losses"]))
    logs = torch.stack(every).logsumexp(dim=-1) - np.log(10)
    known = logs[0::3].cumsum(0)  # of steps 1, 4, ...
    at = probed.steps.index(100)
    np.testing.assert_allclose(probed.common["sum_log_loss"][at], known[33].numpy(), rtol=1e-6)


@needs_compiler
def test_what_steps_in_c_average_is_what_a_probe_is_handed() -> None:
    given = native_problem("ngd", gaussian(4, 6, 10), 130)
    plain, ours = (simulate(replace(given, compile=wanted, probes=[SecondAverage()])) for wanted in ("off", "auto"))
    np.testing.assert_allclose(ours.common["second"], plain.common["second"], rtol=1e-10)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("compiled", ["off", "auto"])
def test_a_probe_goes_on_from_a_snapshot(compiled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("implicit_bias.engine.steppers.native.linear.MOST_STEPS", 7)
    given = native_problem("signum", gaussian(4, 6, 10), 130, compile=compiled, probes=[Travelled()])
    snapshots: dict[int, Any] = {}
    undisturbed = simulate(given, keep=lambda t, snapshot: snapshots.update({t: deepcopy(snapshot())}))
    step = next(t for t in snapshots if t > 60)
    assert misfit(given, snapshots[step]) is None
    assert same_bits(simulate(given, resume=snapshots[step]), undisturbed)
    for wrong in ({}, {"seen": 3, "total": None}, None):
        probes = {**snapshots[step]["probes"], "travelled": wrong}
        assert misfit(given, {**snapshots[step], "probes": probes})
    assert misfit(replace(given, probes=[]), snapshots[step]) == "of another form (probes)"


@dataclass
class Broken(Probe):
    """Columns of the wrong kind."""

    name: ClassVar[str] = "broken"
    given: dict[str, Any] = field(default_factory=dict)

    def measure(self, record: Record) -> Columns:
        return self.given


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "probe broken: column broken is not there; must be (6,), one number a run"),
        ({"broken": torch.zeros(3)}, "probe broken: column broken is (3,); must be (6,), one number a run"),
        ({"lr": torch.zeros(6)}, "probe broken: column lr is not its own; must be of broken"),
        ({"broken": torch.zeros(6), "more": torch.zeros(6)}, "probe broken: column more is not its own; must be of broken"),
        ({"broken": torch.zeros(6) * 1j}, "probe broken: column broken is complex; must be a tensor of real numbers"),
        ({"broken": 1.0}, "probe broken: column broken is a float; must be a tensor of real numbers"),
    ],
)
def test_what_a_probe_must_give_is_said(given: Any, says: str) -> None:
    with pytest.raises(ValueError) as caught:
        simulate(native_problem("ngd", gaussian(4, 6, 10), 5, probes=[Broken(given)]))
    assert str(caught.value) == says


def test_truth_values_are_written_as_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    separated = torch.tensor([True, False, True, True, False, False])
    given = native_problem("ngd", gaussian(4, 6, 10), 5, probes=[Broken({"broken": separated})])
    found = simulate(given).common["broken"]
    assert found.dtype == np.float64 and found.tolist() == [[1, 0, 1, 1, 0, 0]] * len(found)
    monkeypatch.setattr(Broken, "measure", lambda self, record: {})
    monkeypatch.setattr(Broken, "complete", lambda self, steps: {"broken": separated.expand(len(steps), 6)})
    assert simulate(given).common["broken"].tolist() == found.tolist()


@pytest.mark.parametrize(
    ("complete", "says"),
    [
        ({"broken": torch.zeros(4, 6) * 1j}, "probe broken: column broken is complex; must be a tensor of real numbers"),
        ({"broken": torch.zeros(6)}, r"probe broken: column broken is \(6,\); must be \(\d+, 6\), \(records, runs\)"),
        ({"lr": torch.zeros(4, 6)}, "probe broken: column lr is not its own; must be of broken"),
    ],
)
def test_what_a_probe_must_give_at_the_end_is_said(complete: Any, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Broken, "measure", lambda self, record: {})
    monkeypatch.setattr(Broken, "complete", lambda self, steps: complete)
    with pytest.raises(ValueError, match=says):
        simulate(native_problem("ngd", gaussian(4, 6, 10), 5, probes=[Broken()]))


@pytest.mark.parametrize("column", ["steps", "dataset"])
def test_a_column_that_is_called_as_a_key_is_refused(column: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROBES.classes, "broken", type("Named", (Broken,), {"columns": (column,)}))
    with pytest.raises(BadInput, match=rf"log.probes=\[broken\]: broken writes a column {column}, as a swept key is called in"):
        compose(["log.probes=[broken]"])


def test_two_probes_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two probes have one name"):
        simulate(native_problem("ngd", gaussian(4, 6, 10), 5, probes=[Broken(), Broken()]))


def test_columns_that_are_there_without_it_are_not_a_probes() -> None:
    assert {*COLUMNS, *EXTRA_COLUMNS, *SUMMARY_COLUMNS, *INTERVAL_COLUMNS, CONSTANT_COLUMN, "wall_seconds", "folder"} == TAKEN
    with pytest.raises(ValueError, match="column margin is written without it"):
        PROBES.register(type("Margin", (Probe,), {"name": "margin"}))
    assert "margin" not in PROBES


def test_every_probe_has_a_page_and_columns_of_its_own() -> None:
    pages = options_of("probe")
    assert sorted(pages) == PROBES.names()
    assert all(page.help for page in pages.values())
    columns = [column for name in PROBES for column in PROBES.get(name).writes()]
    assert len(columns) == len(set(columns))


def ranks(w: np.ndarray) -> tuple[float, float]:
    s = np.linalg.svd(w, compute_uv=False)
    p = s[s > 0] / s.sum()
    return float((s**2).sum() / s[0] ** 2), float(np.exp(-(p * np.log(p)).sum()))


def test_the_ranks_are_those_of_a_singular_value_decomposition() -> None:
    given: list[Problem] = [
        native_problem("muon", gaussian(4, 6, 10), 20, probes=[Rank()]),
        network_problem("constant", weights="all", probes=[Rank()]),
    ]
    for problem in given:
        trajectory = simulate(problem)
        for record, step in enumerate(trajectory.steps):
            for r in range(problem.runs):
                known = [ranks(block[r].numpy()) for block in trajectory.parameters[step].values()]
                ours = [trajectory.common[key][record, r] for key in ("stable_rank", "effective_rank")]
                np.testing.assert_allclose(ours, np.mean(known, axis=0), rtol=1e-10)
    (zero,) = {
        t for t in simulate(replace(given[0], initial={"weight": torch.zeros(6, 4, 6, dtype=torch.float64)})).steps if t == 0
    }
    assert zero == 0


def test_the_ranks_of_zero_are_empty() -> None:
    given = native_problem("muon", gaussian(4, 6, 10), 2, probes=[Rank()])
    trajectory = simulate(replace(given, initial={"weight": torch.zeros(6, 4, 6, dtype=torch.float64)}))
    assert np.isnan(trajectory.common["stable_rank"][0]).all()
    assert np.isfinite(trajectory.common["stable_rank"][1:]).all()


def test_the_command_appends_the_columns_and_leaves_other_runs_alone(tmp_path: Path) -> None:
    keys = {**SMALL, "steps": 30, "results_dir": str(tmp_path)}
    plain, _ = run(optimizer="muon", **keys)
    empty, _ = run("log.probes=[]", optimizer="muon", **keys)
    assert len(list((tmp_path / "runs").iterdir())) == 1, "one hash"
    probed, summary = run(optimizer="muon", **{**keys, "log.probes": ["rank", "rank"]})
    assert list(probed.columns) == [*plain.columns, "stable_rank", "effective_rank"]
    assert list(summary.columns[-2:]) == ["stable_rank", "effective_rank"]
    pd.testing.assert_frame_equal(probed[plain.columns], plain, check_exact=True)
    pd.testing.assert_frame_equal(empty, plain, check_exact=True)
    again, _ = run(optimizer="muon", **{**keys, "log.probes": ["rank"]})
    pd.testing.assert_frame_equal(again, probed, check_exact=True)
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_a_sweep_over_probes_is_one_table(tmp_path: Path) -> None:
    table, _ = run(
        "optimizer=ngd,signgd", multirun=True, **{**SMALL, "steps": 10, "log.probes": ["rank"]}, results_dir=str(tmp_path)
    )
    assert table["stable_rank"].notna().any()


def test_the_table_of_a_sweep_has_the_columns_of_probes_behind_the_others(tmp_path: Path) -> None:
    typed = ["-m", "optimizer=ngd,signgd", "steps=10", "log.norms=[l1]", "progress=off"]
    typed += [f"{key}={value}" for key, value in SMALL.items()]

    def table(name: str, *more: str) -> pd.DataFrame:
        assert main([*typed, *more, f"results_dir={tmp_path / name}"]) == 0
        (path,) = (tmp_path / name).glob("sweeps/*/table.csv")
        return pd.read_csv(path)

    plain, probed = table("plain"), table("probed", "log.probes=[rank]")
    assert list(plain.columns) == [*SWEEP_COLUMNS, "wall_seconds", "folder"]
    assert list(probed.columns) == [*plain.columns, "stable_rank", "effective_rank"]
    pd.testing.assert_frame_equal(probed[list(SWEEP_COLUMNS)], plain[list(SWEEP_COLUMNS)], check_exact=True)
    for _, row in probed.iterrows():
        summary = pd.read_csv(tmp_path / "probed" / "runs" / row["folder"] / "summary.csv")
        assert set(summary["effective_rank"]) == {row["effective_rank"]}
    both = table("both", "log.probes=[],[rank]")
    assert list(both.columns) == ["log.probes", *probed.columns]
    assert both["stable_rank"].notna().tolist() == both["log.probes"].eq("['rank']").tolist()


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (
            "log.probes=[rnk]",
            "error: log.probes=[rnk]: no probe is called 'rnk'; did you mean rank? allowed: natural_gradient, rank",
        ),
        ("log.probes=rank", "error: log.probes=rank: must be a list [a,b,...] of texts"),
    ],
)
def test_what_is_no_probe_is_one_line(typed: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([typed, "steps=3"]) == 2
    assert capsys.readouterr().err.startswith(says)


def test_help_lists_the_probes(capsys: pytest.CaptureFixture[str]) -> None:
    for topic in ("log.probes", "probes", "probe", "probe=rank"):
        assert main(["--help", topic]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "rank Columns stable_rank and effective_rank of the weights" in said
        assert "Columns: stable_rank, effective_rank" in said
    assert main(["--help", "probe=rnk"]) == 2
    assert capsys.readouterr().err == "error: probe=rnk: no such option; did you mean rank? allowed: natural_gradient, rank\n"


@needs_compiler
def test_only_one_average_is_taken_in_c() -> None:
    from implicit_bias.engine.steppers.base import Setup

    steps = LinearSteps(Setup.of(native_problem("ngd", gaussian(4, 6, 10), 5)))
    assert steps.serve(StepAverage()) and not steps.serve(StepAverage())
