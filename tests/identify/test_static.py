"""``identify optimizer=...``: the study of an optimizer before it sees data, by the command."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from implicit_bias.identify import command
from tests.support.foreign_runs import mine


def test_what_an_optimizer_is_is_printed_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.main(["optimizer=nsd,signgd", "norm=null", "progress=off", "results_dir=there"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[1:] for line in out.splitlines() if line.startswith("optimizer ")] == [["nsd", "l2"], ["signgd"]]
    assert out.count("changes: how far") == 1
    assert "steps at a constant gradient are steepest descent in linf (alignment 1.0000)\n" in out
    assert not list(tmp_path.iterdir())


def test_a_norm_and_its_exponent_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["optimizer=nsd", "norm=lp", "norm.p=3"]) == 0
    out = capsys.readouterr().out
    assert "nsd lp3" in out and "p = 3, alignment 1.0000" in out and "no Schatten norm can be its own" in out


def test_a_class_of_a_file_and_one_whose_automatic_rate_means_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = mine(tmp_path)
    assert command.main(["optimizer=torch", f"optimizer.target={path}:SignDescent", "optimizer.kwargs.decay=0"]) == 0
    assert "steepest descent in linf" in capsys.readouterr().out
    assert command.main(["optimizer=torch", "optimizer.target=torch.optim.Adafactor"]) == 0
    assert "no l_p and no Schatten norm can be its own" in capsys.readouterr().out
    assert command.main(["optimizer=torch", f"optimizer.target={path}:Still"]) == 0
    assert "it does not move at a constant gradient" in capsys.readouterr().out


def test_a_class_that_raises_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["optimizer=torch", f"optimizer.target={mine(tmp_path)}:Raises"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert re.search(r"ValueError in step 1, line \d+: no step today nor tomorrow", captured.err)


def test_a_class_whose_steps_are_no_numbers_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "lost.py"
    step = (
        "    @torch.no_grad()\n    def step(self, closure=None):\n        self.param_groups[0]['params'][0].fill_(float('nan'))\n"
    )
    path.write_text(f"import torch\n\n\nclass Lost(torch.optim.SGD):\n{step}")
    assert command.main(["optimizer=torch", f"optimizer.target={path}:Lost"]) == 1
    assert capsys.readouterr().err == f"error: torch {path}:Lost: its steps at a constant gradient are no finite numbers\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["optimizer=mun"], "optimizer=mun: no such option; did you mean muon?"),
        (["optimizer.target=torch.optim.Adam"], "optimizer.target=torch.optim.Adam: names no optimizer; must stand beside"),
        (["norm=lp"], "norm=lp: names no optimizer; must stand beside optimizer=<name>"),
        (["optimizer=muon", "out=there"], "out: is read with runs only"),
        (["optimizer=muon", "family=lp"], "family: is read with runs only"),
        (["optimizer=muon", "dataset=digits"], "dataset=digits: runs and data have no place beside optimizer=muon"),
        (["optimizer=muon", "results/runs/a"], "results/runs/a: runs and data have no place beside optimizer=muon"),
        (["optimizer=muon", "steps=3"], "steps: unknown key"),
        (["optimizer=muon", "optimizer.betta=0.9"], "optimizer.betta: unknown key"),
        (["optimizer=adam", "optimizer.beta1=2"], "optimizer.beta1=2: must be a number in [0, 1)"),
        (["optimizer=muon", "norm=lp"], "norm=lp: norm is read by optimizer=dual_acceleration, mirror, nmd, nsd or sd only"),
        (["optimizer=torch", "optimizer.target=no.py:X"], "optimizer.target=no.py:X: no.py cannot be read"),
        (["optimizer=torch", "optimizer.kwargs.epps=1"], "optimizer.kwargs.epps: unknown key for torch.optim.AdamW"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {says}") and captured.err.count("\n") == 1 and captured.out == ""
    assert not list(tmp_path.iterdir())
