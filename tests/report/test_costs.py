"""estimate=true: what figures cost, from the start of their batches."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from implicit_bias.config.overrides import compose
from implicit_bias.core.errors import NoData
from implicit_bias.engine import Problem
from implicit_bias.engine.record_times import record_steps
from implicit_bias.engine.snapshot import Snapshot
from implicit_bias.engine.trajectory import Trajectory
from implicit_bias.measures.kkt import STARTS
from implicit_bias.models.network import Network
from implicit_bias.report import costs, trials
from implicit_bias.report.command import main
from implicit_bias.runtime.processors import processor
from implicit_bias.sweep.loading import located
from implicit_bias.sweep.plan import Cell
from implicit_bias.sweep.problem import build_problem

NETWORK = ["model=mlp", "model.width=8", "dataset.num_classes=2", "dataset.dim=6", "dataset.samples_per_class=8"]


def batch_of(*words: str) -> list[Cell]:
    """The cells of a sweep, their runs made light."""
    specs = [trials.light(cell.spec) for cell in compose(list(words), multirun=True)]
    return [cell for cell in located(specs, tell=False) if isinstance(cell, Cell)]


@pytest.mark.parametrize(
    ("steps", "most_seconds", "made"), [(1000, 1e9, range(10, 13)), (1000, 2.5, range(3, 6)), (2, 1e9, range(2, 3))]
)
def test_start_of_a_batch(steps: int, most_seconds: float, made: range) -> None:
    """A hundredth of the steps is made, fewer where they take long, all where there are few; a tick a look is one a step."""
    batch = batch_of("optimizer=signgd", f"steps={steps}", "compile=off", "seed=1,2")
    ticks = iter(range(100_000))
    problem = build_problem(batch, [{} for _ in batch])
    count, seconds = trials.stepped(problem, most_seconds, lambda: float(next(ticks)))
    assert count in made
    assert 0 < seconds <= 3


class Simulated:
    """Stands in the place of the engine: a batch takes what its set-up, steps and records are said to take.

    Attributes:
        setup, step, record, product: Seconds, of each run; a product is one of a record.
        now: What the clock shows.
    """

    def __init__(self, setup: float, step: float, record: float, product: float = 0.0) -> None:
        self.setup, self.step, self.record, self.product = setup, step, record, product
        self.now = 0.0
        self.problems: list[Problem] = []

    def __call__(self, problem: Problem, keep: Callable[[int, Callable[[], Snapshot]], None] | None = None) -> Trajectory:
        self.problems.append(problem)
        self.now += self.setup
        due = set(record_steps(problem.steps, problem.points)) - ({1} if problem.steps == 0 else set())
        for t in range(problem.steps + 1):
            self.now += problem.runs * (self.step if t else 0.0)
            if t in due:
                self.now += problem.runs * (self.record + self.product * problem.kkt_products)
            if t and t < problem.steps and keep is not None:
                keep(t, dict)
        return None  # type: ignore[return-value]


def tried(monkeypatch: pytest.MonkeyPatch, machine: Simulated, batch: list[Cell], tested: int = 0) -> trials.Trial:
    monkeypatch.setattr(trials, "simulate", machine)
    return trials.trial_of(batch, tested, 1e9, lambda: machine.now)


def test_steps_and_records_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the set-up takes, and however close the first records are: seconds of the whole batch."""
    batch = batch_of("optimizer=signgd", "steps=10000", "seed=1,2,3")
    found = tried(monkeypatch, Simulated(setup=50.0, step=0.01, record=0.5), batch)
    assert found.steps == 100
    assert found.record == pytest.approx(3 * 0.5)
    assert found.step == pytest.approx(3 * (0.01 + 0.5 / 50))  # one record among the later fifty
    spec = batch[0].spec
    there = len(record_steps(10_000, spec.log.points))
    assert found.seconds(spec) == pytest.approx(10_000 * found.step + there * found.record)


def test_few_products_stand_for_all_of_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_of("optimizer=signgd", "steps=10000", "log.kkt_iters=200", *NETWORK)
    machine = Simulated(setup=0.0, step=0.01, record=0.5, product=0.1)
    found = tried(monkeypatch, machine, batch)
    assert found.record == pytest.approx(0.5 + 200 * 0.1)
    assert max(problem.kkt_products for problem in machine.problems) == STARTS + trials.PRODUCTS
    assert found.step == pytest.approx(0.01 + 0.5 / 50)  # and no product is among the steps


def test_some_runs_of_a_large_network_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_of("optimizer=signgd", "steps=1000", "seed=1,2,3,4,5,6", *NETWORK)
    monkeypatch.setattr(trials, "ELEMENTS", 1)
    machine = Simulated(setup=0.0, step=0.01, record=0.0)
    assert tried(monkeypatch, machine, batch).step == pytest.approx(6 * 0.01)
    assert {problem.runs for problem in machine.problems} == {1}


def test_a_record_is_timed_where_all_gaps_are_positive() -> None:
    """The network's own answers for labels: only there KKT ratios are searched for."""
    batch = batch_of("optimizer=signgd", "steps=10", "seed=1,2", *NETWORK)
    problem = build_problem(batch, [{} for _ in batch])
    answered = trials._answered(problem)
    objective = problem.model.objective(answered, problem.loss, problem.frozen)
    assert (objective.negative_gaps(problem.initial) < 0).all()


def test_what_a_trial_can_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """No search for a network's rate, and few test samples: the time of the others follows from theirs."""

    def never(*_: object) -> None:
        raise AssertionError("searched")

    monkeypatch.setattr(Network, "unit_step", never)
    words = ["dataset=teacher_student", "dataset.samples=10", "dataset.dim=4", "dataset.neurons=2", "dataset.test_samples=5000"]
    batch = batch_of("optimizer=signgd", "steps=10", "model=mlp", "model.width=3", *words)
    assert batch[0].dataset.x_test is not None
    assert len(batch[0].dataset.x_test) == trials.TEST_SAMPLES
    ticks = iter(range(100_000))
    one, five = (trials.trial_of(batch, asked, 1e9, lambda: float(next(ticks))).record for asked in (1000, 5000))
    assert five - one == pytest.approx(4.0)  # a tick between two looks, of a fifth of the samples


def test_records_at_levels_of_the_loss() -> None:
    (cell,) = compose(["steps=1000", "log.levels=2", "stop_log10_loss=-8", "log.points=2"], multirun=True)
    assert trials.records(cell.spec) == len(record_steps(1000, 2)) + 16


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line a figure and a table; no figure is made, and what is known of others stays."""
    folder = tmp_path / "smoke"
    folder.mkdir()
    pd.DataFrame([{"figure": "rates", "runs": 1, "hours": 2.0}]).to_csv(folder / "costs.csv", index=False)
    asked = ["estimate=true", "preset=smoke", f"results_dir={tmp_path}"]
    assert main([*asked, "only=exact_tail"]) == 0
    said = capsys.readouterr().out
    assert "exact_tail: 1 run, 1 batch, 300 steps in all of " in said
    left_out = "without optima, the search for a network's rate and what comes after the last record"
    assert said.splitlines()[-1].startswith("all together: ") and said.splitlines()[-1].endswith(f" of one processor, {left_out}")
    table = pd.read_csv(folder / "costs.csv", index_col="figure")
    assert list(table.index) == ["exact_tail", "rates"]
    row = table.loc["exact_tail"]
    assert 0 < row["measured_steps"] <= row["steps"]
    assert row["hours"] == pytest.approx(row["ms_per_step"] * row["steps"] / 3.6e6, rel=0.01)
    assert row["machine"] == processor()
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["costs.csv"]
    assert main([*asked, "redraw=true"]) == 2
    assert "estimate=true: not with redraw=true" in capsys.readouterr().err


def test_without_its_data_a_figure_has_no_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def without(*_: object) -> costs.Cost:
        raise NoData("no such files")

    monkeypatch.setattr(costs, "cost_of", without)
    assert main(["estimate=true", "preset=smoke", f"results_dir={tmp_path}", "only=rates"]) == 1
    assert "left out: rates: no such files" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.csv"))


def test_told_in_words() -> None:
    assert [costs.lasting(hours) for hours in (0.001, 0.2, 3.21, 254.0)] == [
        "less than a minute",
        "about 12 minutes",
        "about 3.2 hours",
        "about 250 hours",
    ]
