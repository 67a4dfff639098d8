"""Fill the generated parts of README.md (the output of the default run, and the table figure -> command -> minutes -> number)
and of docs/papers.md (the table paper -> figures -> verdicts).

python scripts/readme_tables.py          rewrite both from results/claims.csv and a run
python scripts/readme_tables.py --check  exit 1 if a table of them is not what results/ says
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
from implicit_bias.figures.papers import PAPERS

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


def papers_table(claims: pd.DataFrame) -> str:
    """One row a paper that has figures: which, and how many of their claims hold, do not, and cannot be tested here."""
    rows = ["| paper | figures | claims | hold | do not | not testable here |", "| --- | --- | --- | --- | --- | --- |"]
    drawn = list(dict.fromkeys(claims["figure"]))
    for paper in PAPERS.values():
        figures = sorted(
            (name for name in drawn if FIGURES.get(name).paper == paper.key), key=lambda n: (FIGURES.get(n).order, n)
        )
        if not figures:
            continue
        verdicts = claims[claims["figure"].isin(figures)]["holds"]
        holding, untested = int((verdicts.astype(str) == "True").sum()), int(verdicts.isna().sum())
        title = f"{paper.authors}, *{paper.title}*" if paper.authors else paper.title
        title += f", [{paper.arxiv}]({paper.url})" if paper.url else ""
        links = ", ".join(f"[{name}](../results/figures/{name}.png)" for name in figures)
        failing = len(verdicts) - holding - untested
        rows.append(f"| {title} | {links} | {len(verdicts)} | {holding} | {failing} | {untested} |")
    return "\n".join(rows)


def run_output() -> str:
    """What the default run prints."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "implicit_bias.run", "optimizer=muon", f"results_dir={folder}/results"]
        printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return "```\n" + printed.replace(f"{folder}/", "").rstrip() + "\n```"


def replaced(page: Path, text: str, mark: str, content: str) -> str:
    """The ``text`` of a page with what stands between the two comments of ``mark`` replaced."""
    pattern = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"{page.name} has no part called {mark}")
    return pattern.sub(lambda match: f"{match[1]}{content}\n{match[2]}", text)


def main() -> int:
    """Rewrite or check README.md and docs/papers.md."""
    readme, papers = ROOT / "README.md", ROOT / "docs" / "papers.md"
    claims = pd.read_csv(ROOT / "results" / "claims.csv")
    minutes = json.loads((ROOT / "results" / "figures" / "minutes.json").read_text())
    before = {page: page.read_text(encoding="utf-8") for page in (readme, papers)}
    after = {
        readme: replaced(readme, before[readme], "figures", figures_table(claims, minutes)),
        papers: replaced(papers, before[papers], "papers", papers_table(claims)),
    }
    if "--check" in sys.argv[1:]:
        stale = [page.name for page in before if after[page] != before[page]]
        for name in stale:
            print(f"{name}: the table of figures is out of date; run python scripts/readme_tables.py", file=sys.stderr)
        return int(bool(stale))
    after[readme] = replaced(readme, after[readme], "run", run_output())
    for page, text in after.items():
        page.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
