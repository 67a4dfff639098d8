"""What is committed is true: the README's table, the claims, and the recipe for adding an optimizer."""

import re
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


@pytest.mark.slow
def test_an_optimizer_is_added_by_the_readmes_two_files(tmp_path: Path) -> None:
    """Copy the checkout, add exactly what README.md shows, and run the command with it."""
    copy = tmp_path / "checkout"
    for part in ("implicit_bias", "configs"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text[text.index("## Adding an optimizer") : text.index("## Findings")]
    python, yaml = re.findall(r"```(?:python|yaml)\n(.*?)```", section, re.DOTALL)
    paths = re.findall(r"`((?:implicit_bias|configs)/optimizer\S*?\.(?:py|yaml))`", section)
    assert len(paths) == 2
    (copy / paths[0]).write_text(python)
    (copy / paths[1]).write_text(yaml)
    command = [
        "-m",
        "implicit_bias.run",
        f"optimizer={Path(paths[1]).stem}",
        "steps=50",
        "reference=none",
        f"results_dir={tmp_path}/results",
    ]
    answer = subprocess.run([sys.executable, *command], cwd=copy, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    (summary,) = tmp_path.glob("results/runs/*/summary.csv")
    table = pd.read_csv(summary).set_index("norm")
    assert bool(table.loc["linf", "own"])
    assert float(str(table.loc["linf", "margin"])) > 0
    help_text = subprocess.run(
        [sys.executable, "-m", "implicit_bias.run", "--help"], cwd=copy, capture_output=True, text=True
    ).stdout
    assert Path(paths[1]).stem in help_text
