"""The benchmark: what it says follows from what it measures, and it writes what it says. Nothing here judges a speed."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from implicit_bias.bench import command, linear, mini_batches, networks, scaling
from implicit_bias.bench.machine import Rates, measured_rates, processor
from implicit_bias.bench.scaling import AXES, METHODS, Shape, log_slope, scaling_table


def test_slopes_are_exponents() -> None:
    assert log_slope([1, 2, 4, 8], [3.0, 12.0, 48.0, 192.0]) == pytest.approx(2)

    def cost(name: str, shape: Shape) -> float:
        seconds: float = shape.per_class * shape.k**2 * shape.d**0.5 * shape.runs * shape.steps
        return seconds

    table = scaling_table(cost)
    slopes = table.groupby("axis")["slope"].first()
    assert slopes[["n", "d", "runs", "steps", "k"]].tolist() == pytest.approx([1, 0.5, 1, 1, 2])
    assert len(table) == len(METHODS) * sum(map(len, AXES.values()))


def test_the_roofline_counts_products_and_exponentials() -> None:
    assert Rates(matrix=4e6, exponential=1e3).least_seconds(n=100, k=10, d=25) == pytest.approx(0.025 + 1.0)


def test_rates_of_this_machine_are_those_of_a_computer() -> None:
    rates = measured_rates()
    assert 1e8 < rates.matrix < 1e15 and 1e6 < rates.exponential < 1e13 and processor()


def test_a_row_of_networks_says_what_was_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every loop comes to the engine's gaps first; the products alone are a part of what the batch takes."""
    monkeypatch.setattr(networks, "CASES", (networks.Case("mlp", 12, 3, 3, width=4), networks.Case("cnn", 6, 10, 3)))
    monkeypatch.setattr(networks, "TIMES", 1)
    rows = pd.DataFrame(networks.network_rows(1))
    assert rows["lean_by"].tolist() == ["closed form"] * 2 + ["autograd"] * 2
    assert rows["ratio_lean"].tolist() == pytest.approx((rows["lean_us"] / rows["batched_us"]).tolist())
    assert rows["ratio_usual"].tolist() == pytest.approx((rows["usual_us"] / rows["batched_us"]).tolist())
    assert (rows["roofline_us"] > 0).all() and (rows["of_roofline"] < 1).all()
    monkeypatch.setattr(networks, "polar", lambda m: m)
    with pytest.raises(AssertionError, match="leanest"):
        list(networks.network_rows(1))


@pytest.mark.slow
def test_a_small_bench_writes_tables_and_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(command, "SIZES", (linear.Size(3, 4, 5, noise=0.3),))
    monkeypatch.setattr(linear, "BATCHES", (1, 3))
    for module in (command, linear):
        monkeypatch.setattr(module, "LEARNING_RATES", {"signgd": 0.01, "muon": 0.05})
    monkeypatch.setattr(linear, "STEPS", 12)
    monkeypatch.setattr(command, "network_rows", lambda threads: iter(()))
    for key, value in {"RUNS": 3, "STEPS": 12, "TIMES": 1, "CHECKED_STEPS": 12, "METHODS": ("muon",)}.items():
        monkeypatch.setattr(mini_batches, key, value)
    monkeypatch.setattr(scaling, "AXES", {axis: values[:2] for axis, values in AXES.items()})
    monkeypatch.setattr(scaling, "METHODS", ("signgd",))
    monkeypatch.setattr(scaling, "LAST", 2)
    monkeypatch.setattr(command, "step_seconds", lambda name, data, steps, threads: linear.step_seconds(name, data, 12, threads))
    assert command.main([]) == 0
    folder = tmp_path / "results" / "bench"
    assert {path.name for path in folder.iterdir()} == {"bench.csv", "scaling.csv", "bench.png", "bench.pdf"}
    table = pd.read_csv(folder / "bench.csv")
    by_batches = table[table["size"].str.endswith("b=10")]
    assert (by_batches[["usual_us", "tight_us", "batched_us"]] > 0).all(axis=None)
    assert by_batches["stepping"].isin(["c", "torch"]).all() and len(by_batches) == 1
    assert len(table) == 2 * len(linear.LEARNING_RATES) + 1 and (table["machine"] == processor()).all()
    assert table["ratio_usual"].to_numpy() == pytest.approx((table["usual_us"] / table["batched_us"]).to_numpy(), rel=1e-2)
    assert (table["peak_mb"].dropna() > 0).all()
    assert "GFLOP/s" in capsys.readouterr().out
