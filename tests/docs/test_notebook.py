"""The notebook in docs/: it runs from its first cell to its last, writes nothing, and says what its text promises."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import ROOT

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
NOTEBOOK = ROOT / "docs" / "your_optimizer.ipynb"


def executed(notebook: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What each cell of code shows as text, run in a kernel of its own that leaves the user's settings alone."""
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"):
        (folder / name).mkdir()
        monkeypatch.setenv(name, str(folder / name))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    place = folder / "place"
    place.mkdir()
    client = nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(place)}})
    client.execute()
    assert not list(place.iterdir()), "nothing is written"
    cells = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    # What is being done is told on stderr, where it takes longer than a few seconds.
    return ["\n".join(_text(output) for output in outputs if output.get("name") != "stderr") for outputs in cells]


def _text(output: Any) -> str:
    return str(output.get("text") or output.get("data", {}).get("text/plain", ""))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (judged,) = [cell for cell in notebook.cells if "steps=4000" in cell.source]
    assert "judge(SignMomentum, data=(X, y), lr=0.1, steps=4000)" in judged.source
    judged.source = judged.source.replace("steps=4000", 'steps=1500, family="lp"')
    (looped,) = [cell for cell in notebook.cells if "range(1, 1001)" in cell.source]
    looped.source = looped.source.replace("range(1, 1001)", "range(1, 201)")
    made = [cell for cell in notebook.cells if "(8, 12)" in cell.source or "zeros(3, 12" in cell.source]
    assert len(made) == 2, "the data and a loop of one's own"
    for cell in made:
        cell.source = cell.source.replace(", 12", ", 6")  # features
    # A class of the session is known to ``run``, too, by the source of its cell.
    notebook.cells.append(
        nbformat.v4.new_code_cell(
            "from implicit_bias import run\n"
            f'keys = {{"steps": 5, "schedule.lr": 0.1, "reference": "none", "progress": "off", "results_dir": r"{tmp_path}/r"}}\n'
            'print(run("optimizer=torch", **{"optimizer.target": SignMomentum}, **keys)[1]["own"].tolist())'
        )
    )
    shown = executed(notebook, tmp_path, monkeypatch)
    sentences = [text for text in shown if text.startswith("SignMomentum, ")]
    assert len(sentences) == 1 and re.search(r"nearest exponent: lp p = inf in \[\S+, inf\] \(maximises\)$", sentences[0])
    assert any("steepest descent in linf (alignment 1.0000)" in text for text in shown)
    assert any(re.search(r"my loop.*lp", text) for text in shown)
    assert any(text.startswith("<Figure") for text in shown)
    assert shown[-1].strip() == "[True, False, False, False, False]"


def test_its_outputs_are_left_out() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and all(not cell.outputs and cell.execution_count is None for cell in code)
