"""What is prepared for a GPU, as far as it goes without one."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from implicit_bias.bench import command, machine, timing
from implicit_bias.cli.exit_codes import BAD_INPUT, DONE
from tests.bench.test_bench import small  # noqa: F401 - a fixture
from tests.support.pretended_cuda import pretended_cuda


def script() -> Any:
    """The program, as a module."""
    spec = importlib.util.spec_from_file_location("gpu", Path(__file__).parents[2] / "scripts" / "gpu.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


gpu = script()


def test_without_a_gpu_nothing_is_begun(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == BAD_INPUT
    captured = capsys.readouterr()
    assert (
        captured.out == "" and captured.err.startswith("error: no CUDA GPU is available here") and captured.err.count("\n") == 1
    )
    assert gpu.main(["bench", "figures"]) == BAD_INPUT
    assert capsys.readouterr().err == "error: figures: no such part; allowed: tests, bench, smoke, paper\n"


def test_every_part_is_done_whatever_becomes_of_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, ...]] = []

    def run(*typed: str) -> int:
        asked.append(typed)
        return -9 if "only=gv_fig2" in typed else int("pytest" in typed)  # as of a process that was killed

    monkeypatch.setattr(gpu, "run", run)
    monkeypatch.setattr(pd, "read_csv", lambda path: table())
    with pretended_cuda():
        assert gpu.main([]) == 1
        assert capsys.readouterr().out.endswith("failed: tests\n")
        assert [typed[1] for typed in asked] == ["pytest", "implicit_bias.bench", "implicit_bias.report"]
        assert gpu.main(["bench"]) == DONE and capsys.readouterr().out.endswith("done: bench\n")
        asked.clear()
        assert gpu.main(["paper"]) == 1 and [typed[-1] for typed in asked] == [f"only={figure}" for figure in gpu.FIGURES]


def table(**changes: Any) -> pd.DataFrame:
    """A table of gpu.csv."""
    row = {"size": "n=100, k=10, d=25", "optimizer": "signgd", "runs": 4096, "batched_us": 0.3, "ratio_usual": 1300.0}
    row |= {"differs": 1e-13, "stepping": "cuda graph"}
    return pd.DataFrame([{**row, "runs": 64, "ratio_usual": 20.0}, {**row, **changes}])


def test_the_table_is_held_against_the_aims() -> None:
    lines, right = gpu.judged(table())
    assert right and lines == [
        "n=100, k=10, d=25, signgd, 4096 runs: 0.3 us an update and run, 1300 times the usual loop (1000 reached), by cuda graph"
    ]
    assert "(1000 not reached)" in gpu.judged(table(ratio_usual=999.0))[0][0]
    for wrong in (1e-6, float("nan")):
        lines, right = gpu.judged(table(differs=wrong))
        assert not right and "margins differ from the CPU's by" in lines[-1]


@pytest.mark.slow
def test_the_figures_are_there() -> None:
    from implicit_bias.figures import FIGURES

    assert all(figure in FIGURES for figure in gpu.FIGURES)


@pytest.mark.slow
def test_the_table_of_a_gpu_is_written_beside_the_other(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    for module, key, value in (
        (command, "GPU_BATCHES", (2,)), (command, "LEARNING_RATES", {"muon": 0.05}), (timing, "TIMES", 1),
        (machine, "GPU_MATRIX_SIDE", 16), (machine, "GPU_EXPONENTIALS", 64), (machine, "REPEATS", 1),
    ):  # fmt: skip
        monkeypatch.setattr(module, key, value)
    with pretended_cuda():
        assert command.main(["device=cuda"]) == DONE
    assert {path.name for path in small.iterdir()} == {"gpu.csv"}
    made = pd.read_csv(small / "gpu.csv")
    assert (made["device"] == "cuda").all() and (made["gpu"] == "a pretended GPU").all() and (made["differs"] <= 1e-12).all()
    assert set(made["runs"]) == {2} and (made["plain_us"] > 0).all() and made["stepping"].notna().all()
    assert gpu.judged(made)[1]
