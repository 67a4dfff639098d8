"""Standard output that is closed, full or left by its reader costs neither results nor the exit code, and is said in one line."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import pytest

from implicit_bias.cli.streams import Guarded, unharmed_by_output
from implicit_bias.compare import command as compare
from implicit_bias.report import command as report
from implicit_bias.run import main
from tests.support.commands import finish

SMALL = ["steps=20", "dataset.num_classes=3", "dataset.dim=6", "dataset.samples_per_class=3", "dataset.noise=0.3"]
SMALL += ["log.norms=[linf,l2]", "log.points=5", "progress=off", "reference=none", "compile=off"]
LOST = re.compile(r"warning: standard output could not be written \((.*)\); results and exit code are not affected\n")


@contextmanager
def full() -> Iterator[TextIO]:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with open("/dev/full", "w") as stream:
        yield stream


@contextmanager
def left() -> Iterator[TextIO]:
    """A pipe whose reader has gone."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        yield stream


@contextmanager
def closed() -> Iterator[None]:
    yield None


@contextmanager
def closed_by_python() -> Iterator[TextIO]:
    stream = open(os.devnull, "w")  # noqa: SIM115 - closed is what it is to be
    stream.close()
    yield stream


OUTPUTS = {"full": full, "left": left, "closed": closed, "closed by python": closed_by_python}
REASONS = {
    "full": "No space left on device",
    "left": "Broken pipe",
    "closed": "it is closed",
    "closed by python": "it is closed",
}


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("multirun", [False, True])
def test_a_run_is_written_whatever_becomes_of_its_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, output: str, multirun: bool
) -> None:
    arguments = [*(["-m", "seed=1,2"] if multirun else []), *SMALL, f"results_dir={tmp_path}"]
    with OUTPUTS[output]() as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        assert main(arguments) == 0
        assert sys.stdout is stream
    assert LOST.fullmatch(capsys.readouterr().err)[1] == REASONS[output]  # type: ignore[index]
    assert len(list(tmp_path.glob("runs/*/summary.csv"))) == 1 + multirun
    assert len(list(tmp_path.glob("sweeps/*/table.csv"))) == multirun
    assert main(arguments) == 0  # all is there
    captured = capsys.readouterr()
    assert captured.err == "" and "finished before" in captured.out


@pytest.mark.parametrize("output", OUTPUTS)
def test_the_exit_code_of_work_that_fails_stays_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    with OUTPUTS[output]() as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        assert main([*SMALL, "dataset.noise=-1"]) == 2  # nothing was to be printed, so nothing is said of it
        assert capsys.readouterr().err == "error: dataset.noise=-1: must be a number >= 0\n"
        file = tmp_path / "file"
        file.write_text("")
        assert main([*SMALL, f"results_dir={file / 'below'}"]) == 2
        assert capsys.readouterr().err.startswith("error: results_dir=")
        swept = [word.replace("noise=0.3", "noise=0.3,1e150") for word in SMALL]
        assert main(["-m", *swept, f"results_dir={tmp_path}/out"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "1 of 2 cells failed:"
    assert LOST.fullmatch(f"{lines[-1]}\n")


@pytest.mark.slow
@pytest.mark.parametrize("output", ["full", "closed by python"])
def test_so_do_comparisons_and_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    table = tmp_path / "mine.csv"
    table.write_text("seed,step,norm,margin\n1,1,l2,.5\n1,2,l2,.6\n")
    with OUTPUTS[output]() as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        assert compare.main([str(table), f"out={tmp_path}/out"]) == 0
        assert LOST.fullmatch(capsys.readouterr().err)
        assert report.main(["--help"]) == 0
    assert (tmp_path / "out" / "comparison.png").is_file()


@pytest.mark.parametrize("output", OUTPUTS)
def test_text_that_was_asked_for_may_be_left_by_its_reader(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    for arguments in (["--help"], ["--version"], ["--cfg", "steps=5"]):
        with OUTPUTS[output]() as stream, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            assert main(arguments) == 0
        error = capsys.readouterr().err
        assert error == "" if output == "left" else LOST.fullmatch(error)


def no_output() -> None:
    """In a command: as ``>&-`` leaves it."""
    os.close(1)
    sys.stdout = None


@pytest.mark.slow
def test_a_file_does_not_take_the_number_of_a_closed_output(tmp_path: Path) -> None:
    ended = finish(*SMALL, f"results_dir={tmp_path}", before=no_output)
    assert ended.returncode == 0 and LOST.fullmatch(ended.stderr)
    assert main([*SMALL, f"results_dir={tmp_path}"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("redirection", ["> /dev/full", ">&-", "2>&1 | true", "> /dev/full 2>&1", ">&- 2>&-"])
def test_python_has_nothing_to_add_at_its_end(redirection: str) -> None:
    """It flushes its streams once more, complains of what fails, and then ends with 120."""
    script = "import sys; from implicit_bias.run import main; sys.exit(main(['optimizr=muon'] if sys.argv[1:] else ['--help']))"
    command = f"""{{ "{sys.executable}" -c "{script}" $1; echo "code $?" >&3; }} {redirection}"""
    for argument, code in (("", 0), ("bad", 2)):
        done = subprocess.run(
            ["bash", "-c", f"exec 3>&1; {command}", "bash", argument], capture_output=True, text=True, env=dict(os.environ)
        )
        assert done.stdout == f"code {code}\n"
        assert "Exception ignored" not in done.stderr and "Traceback" not in done.stderr
        assert done.stderr.count("\n") <= 1


def test_what_an_encoding_lacks_is_a_question_mark(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with path.open("w", encoding="ascii") as stream:
        guarded = Guarded(stream)
        guarded.writelines(["a ─ b", "\n"])
        assert guarded.error is None
    assert path.read_text() == "a ? b\n"


def test_standard_error_that_is_full_does_not_stop_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    @unharmed_by_output
    def work(argv: Any = None) -> int:
        for _ in range(3):
            print("0 min: still here", file=sys.stderr, flush=True)
        return 7

    with full() as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        assert work() == 7
