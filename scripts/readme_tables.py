"""Fill the generated parts of README.md: the output of the default run, and the table figure -> command -> minutes -> number.

python scripts/readme_tables.py          rewrite README.md from results/claims.csv and a run
python scripts/readme_tables.py --check  exit 1 if the table of figures is not what results/ says
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

from implicit_bias.figures import FIGURES

ROOT = Path(__file__).resolve().parent.parent


def figures_table(claims: pd.DataFrame, minutes: dict[str, float]) -> str:
    """One row a figure: command, minutes, a claim with the paper's number and ours, and how many of the tested claims hold."""
    head = "| figure | command | minutes | a number: paper | ours | claims that hold |"
    rows = [head, "| --- | --- | --- | --- | --- | --- |"]
    for name, group in claims.groupby("figure", sort=False):
        wanted = FIGURES.get(str(name)).headline
        tested = group[group["holds"].notna()]
        holding = (tested["holds"].astype(str) == "True").sum()
        chosen = group[group["claim"].str.contains(wanted, regex=False)] if wanted else group
        first = (chosen if len(chosen) else group).iloc[0]
        paper = "" if pd.isna(first["paper"]) else first["paper"]
        rows.append(
            f"| [{name}](results/figures/{name}.png) | `python -m implicit_bias.report only={name}` | {minutes[str(name)]:.1f} "
            f"| {first['claim']}{': ' * bool(paper)}{paper} | {first['measured']} | {holding} of {len(tested)} |"
        )
    return "\n".join(rows)


def run_output() -> str:
    """What the default run prints."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "implicit_bias.run", "optimizer=muon", f"results_dir={folder}/results"]
        printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return "```\n" + printed.replace(f"{folder}/", "").rstrip() + "\n```"


def replaced(text: str, mark: str, content: str) -> str:
    """``text`` with what stands between the two comments of ``mark`` replaced."""
    pattern = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"README.md has no part called {mark}")
    return pattern.sub(lambda match: f"{match[1]}{content}\n{match[2]}", text)


def main() -> int:
    """Rewrite or check README.md."""
    readme = ROOT / "README.md"
    claims = pd.read_csv(ROOT / "results" / "claims.csv")
    minutes = json.loads((ROOT / "results" / "figures" / "minutes.json").read_text())
    before = readme.read_text(encoding="utf-8")
    after = replaced(before, "figures", figures_table(claims, minutes))
    if "--check" in sys.argv[1:]:
        if after != before:
            print("README.md: the table of figures is out of date; run python scripts/readme_tables.py", file=sys.stderr)
        return int(after != before)
    readme.write_text(replaced(after, "run", run_output()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
