"""estimate=true: what figures cost, from the start of their batches."""

from pathlib import Path

import pandas as pd
import pytest

from implicit_bias.config.overrides import compose
from implicit_bias.core.errors import NoData
from implicit_bias.report import costs
from implicit_bias.report.command import main
from implicit_bias.sweep.loading import located


@pytest.mark.parametrize(
    ("steps", "most_seconds", "made"), [(1000, 1e9, range(10, 13)), (1000, 2.5, range(3, 6)), (2, 1e9, range(2, 3))]
)
def test_start_of_a_batch(monkeypatch: pytest.MonkeyPatch, steps: int, most_seconds: float, made: range) -> None:
    """A hundredth of the steps is made, fewer where they take long, all where there are few; a tick a look is one a step."""
    monkeypatch.setattr(costs, "SECONDS", most_seconds)
    cells = compose(["optimizer=signgd", f"steps={steps}", "compile=off", "seed=1,2"], multirun=True)
    batch = list(located([cell.spec for cell in cells], tell=False))
    ticks = iter(range(100_000))
    count, seconds = costs.started(batch, lambda: float(next(ticks)))  # type: ignore[arg-type]
    assert count in made
    assert 0 < seconds <= 3


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line a figure and a table; no figure is made, and what is known of others stays."""
    folder = tmp_path / "smoke"
    folder.mkdir()
    pd.DataFrame([{"figure": "rates", "runs": 1, "hours": 2.0}]).to_csv(folder / "costs.csv", index=False)
    asked = ["estimate=true", "preset=smoke", f"results_dir={tmp_path}"]
    assert main([*asked, "only=exact_tail"]) == 0
    assert "exact_tail: 1 run, 1 batch, 300 steps in all of " in capsys.readouterr().out
    table = pd.read_csv(folder / "costs.csv", index_col="figure")
    assert list(table.index) == ["exact_tail", "rates"]
    row = table.loc["exact_tail"]
    assert 0 < row["measured_steps"] <= row["steps"]
    assert row["hours"] == pytest.approx(row["ms_per_step"] * row["steps"] / 3.6e6, rel=0.01)
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
