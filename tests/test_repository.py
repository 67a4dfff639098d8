"""What is committed is true: the README's table, the claims, and the recipes for adding things."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_readme_table_is_what_results_say() -> None:
    answer = subprocess.run([sys.executable, "scripts/readme_tables.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr


def test_published_numbers_of_the_committed_claims_hold() -> None:
    claims = pd.read_csv(ROOT / "results" / "claims.csv")
    assert set(claims["preset"]) == {"default"}
    published = claims[claims["figure"].str.startswith("fan_fig") & claims["claim"].str.contains("10,000 steps|maximum margins")]
    assert len(published) >= 12
    assert published["holds"].all()


def test_links_between_the_pages_lead_somewhere() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    links = [
        (page, link) for page in pages for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    ]
    assert len(links) > 20
    assert [(page.name, link) for page, link in links if not (page.parent / link).exists()] == []


def followed(section: str, folder: Path) -> Path:
    """A copy of the package in which a section of docs/extending.md was followed to the letter. Returns its folder of results."""
    for part in ("implicit_bias", "configs"):
        shutil.copytree(ROOT / part, folder / part)
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    body = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    files = re.findall(r"`(\S+)`:\n\n```(?:python|yaml)\n(.*?)```", body, re.DOTALL)
    assert [Path(path).suffix for path, _ in files] == [".py", ".yaml"]
    for path, content in files:
        assert not (folder / path).exists()
        (folder / path).write_text(content)
    (command,) = re.findall(r"```console\n\$ python (.*)\n```", body)
    answer = subprocess.run([sys.executable, *shlex.split(command)], cwd=folder, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return folder / "results"


def summary_of(results: Path) -> pd.DataFrame:
    """The summary of the only run there is, by norm."""
    (path,) = results.glob("runs/*/summary.csv")
    return pd.read_csv(path).set_index("norm")


@pytest.mark.slow
def test_an_optimizer_is_added_by_two_files(tmp_path: Path) -> None:
    table = summary_of(followed("An optimizer", tmp_path))
    assert table["optimizer"].eq("half_sign").all()
    assert bool(table.loc["linf", "own"])
    assert float(str(table.loc["linf", "margin"])) > 0
    command = [sys.executable, "-m", "implicit_bias.run", "--help"]
    assert "half_sign" in subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_an_optimizer_that_needs_parameters_and_loss_is_added_by_two_files(tmp_path: Path) -> None:
    results = followed("An optimizer that needs more than the gradient", tmp_path)
    table = summary_of(results)
    assert table["optimizer"].eq("capped_polyak").all()
    assert bool(table.loc["linf", "own"])
    assert float(str(table.loc["linf", "margin"])) > 0
    (run,) = results.glob("runs/*")
    assert "decay: 0.01" in (run / "config.yaml").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_norm_is_added_by_two_files(tmp_path: Path) -> None:
    own = summary_of(followed("A norm", tmp_path)).loc["column"]
    assert bool(own["own"])
    assert 0.8 < float(str(own["ratio"])) <= 1


@pytest.mark.slow
def test_a_loss_is_added_by_two_files(tmp_path: Path) -> None:
    results = followed("A loss", tmp_path)
    assert bool(summary_of(results).loc["l2", "own"])
    (run,) = results.glob("runs/*")
    assert "scale: 3.0" in (run / "config.yaml").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_dataset_is_added_by_two_files(tmp_path: Path) -> None:
    own = summary_of(followed("A dataset", tmp_path)).loc["l2"]
    # Two vectors of opposite sign: the gap is at least 2 * 1 * |w| for |W| = sqrt(2) |w|.
    assert float(str(own["max_margin"])) >= 2**0.5
    assert float(str(own["ratio"])) > 0.9


@pytest.mark.slow
def test_a_figure_is_added_by_two_files(tmp_path: Path) -> None:
    results = followed("A figure", tmp_path) / "smoke"
    assert {path.suffix for path in (results / "figures").glob("sign_momentum.*")} == {".png", ".pdf", ".csv"}
    claims = pd.read_csv(results / "claims.csv")
    assert claims["figure"].tolist() == ["sign_momentum"]
    assert claims["holds"].all()
    assert "Sign descent and momentum" in (results / "REPORT.md").read_text(encoding="utf-8")
