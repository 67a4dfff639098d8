"""What docs/your-data.md says to type: it works as it stands, on a file that the reader has by then, and gives what is shown."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from implicit_bias.run import main
from tests.support.commands import ROOT

PAGE = (ROOT / "docs" / "your-data.md").read_text(encoding="utf-8")
COMMAND = "python -m implicit_bias.run "


def test_the_first_example_makes_its_file_and_says_what_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    block = re.search(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None
    made, run = block[1].splitlines()
    assert made.startswith("python -c ") and run.startswith(COMMAND)
    subprocess.run([sys.executable, *shlex.split(made, comments=True)[1:]], check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["wine.csv"]
    assert main([*shlex.split(run.removeprefix(COMMAND)), "steps=5", "reference=none"]) == 0
    assert capsys.readouterr().err.splitlines()[0] in PAGE.splitlines()


def test_a_set_that_cannot_be_separated_is_refused_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = re.search(rf"\$ {COMMAND}(.*)\nerror: (.*), \.\.\.; (.*)\n", PAGE)
    assert shown is not None
    assert main(shlex.split(shown[1])) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"error: {shown[2]}") and said.endswith(shown[3])
