"""Fill the generated parts of README.md (the output of the default run, how many claims hold), of docs/figures.md (figure ->
minutes -> number) and of docs/papers.md (paper -> figures -> verdicts, verdicts by whose number it is, and those at the papers'
sizes).

python scripts/readme_tables.py          rewrite them from results/claims.csv and a run
python scripts/readme_tables.py --check  exit 1 if a table of them is not what results/ says
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from implicit_bias.figures import FIGURES, Claim
from implicit_bias.figures.claims import COUNTED_AS, counted, counts_by_kind, verdict_line
from implicit_bias.figures.papers import PAPERS
from implicit_bias.report.page import read_claims
from implicit_bias.report.page.content import KIND_WORDS

ROOT = Path(__file__).resolve().parent.parent


def figures_table(claims: Sequence[Claim], minutes: dict[str, float]) -> str:
    """One row a figure: minutes, a claim, the number that is expected, whose that is, and ours; and how many of the tested claims
    hold, published ones and own checks apart."""
    head = "| figure | minutes | a claim | expected | whose | ours | claims that hold |"
    rows = [head, "| --- | --- | --- | --- | --- | --- | --- |"]
    for name in dict.fromkeys(claim.figure for claim in claims):
        mine = [claim for claim in claims if claim.figure == name]
        told = example(name, mine)
        holding = ", ".join(f"{c.holds} of {c.tested} {words}" for words, c in counts_by_kind(mine).items() if c.tested)
        rows.append(
            f"| [{name}](../results/figures/{name}.png) | {minutes[name]:.1f} "
            f"| {_cell(told.claim)} | {_cell(told.expected)} | {KIND_WORDS[told.kind]} | {_cell(told.measured)} | {holding} |"
        )
    return "\n".join(rows)


def example(name: str, claims: Sequence[Claim]) -> Claim:
    """The claim of a figure that says most: its headline, or the first that was tested."""
    wanted = FIGURES.get(name).headline
    tested = [claim for claim in claims if claim.holds is not None]
    return next((claim for claim in tested if wanted and wanted in claim.claim), tested[0])


def papers_table(claims: Sequence[Claim]) -> str:
    """One row a paper that has figures: which, and of how many claims; of published ones, how many hold, do not, and cannot be
    tested here; and how many of others' reproductions and of own checks beside them hold."""
    rows = [
        "| paper | figures | published claims | hold | do not | not testable here | reproductions by others | own checks |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    drawn = list(dict.fromkeys(claim.figure for claim in claims))
    for paper in PAPERS.values():
        figures = sorted(
            (name for name in drawn if FIGURES.get(name).paper == paper.key), key=lambda n: (FIGURES.get(n).order, n)
        )
        if not figures:
            continue
        mine = [claim for claim in claims if claim.figure in figures]
        published, others, own = (counted(mine, kinds) for kinds in COUNTED_AS.values())
        title = f"{paper.authors}, *{paper.title}*" if paper.authors else paper.title
        title += f", [{paper.arxiv}]({paper.url})" if paper.url else ""
        links = ", ".join(f"[{name}](../results/figures/{name}.png)" for name in figures)
        beside = " | ".join(f"{c.holds} of {c.tested} hold" if c.tested else "" for c in (others, own))
        rows.append(
            f"| {title} | {links} | {published.all} | {published.holds} | {published.fails} | {published.untested} | {beside} |"
        )
    return "\n".join(rows)


def kinds_table(claims: Sequence[Claim]) -> str:
    """One row a kind of claims: how many hold, do not, and cannot be tested here."""
    rows = ["| whose number | claims | hold | do not | not testable here |", "| --- | --- | --- | --- | --- |"]
    for kind, words in KIND_WORDS.items():
        c = counted(claims, (kind,))
        rows.append(f"| {words} (`{kind}`) | {c.all} | {c.holds} | {c.fails} | {c.untested} |")
    return "\n".join(rows)


def larger_table(claims: Sequence[Claim], larger: Sequence[Claim]) -> str:
    """One row a figure that was made at the papers' sizes: how many of its claims hold there and at the default ones, and which
    verdicts differ."""
    rows = ["| figure | claims that hold | at the default sizes | what differs |", "| --- | --- | --- | --- |"]
    for name in dict.fromkeys(claim.figure for claim in larger):
        here, there = ([claim for claim in found if claim.figure == name] for found in (larger, claims))
        counts = [f"{counted(found).holds} of {counted(found).tested}" for found in (here, there)]
        told = "; ".join(_differing(here, there))
        rows.append(f"| [{name}](../results/paper/figures/{name}.png) | {' | '.join([*counts, told])} |")
    return "\n".join(rows)


def _differing(here: Sequence[Claim], there: Sequence[Claim]) -> Iterator[str]:
    """The claims of a figure with another verdict than at the default sizes, or none there that holds."""
    by_wording = {_wording(claim): claim for claim in there}
    same = there if len(here) == len(there) else [by_wording.get(_wording(claim)) for claim in here]
    for claim, other in zip(here, same, strict=True):
        before = None if other is None else other.holds
        if claim.holds and before is False:
            yield _cell(f"holds: {claim.claim}: {claim.measured}")
        elif claim.holds is False and before is not False:
            yield _cell(f"does not hold: {claim.claim}: {claim.measured}")


def _cell(text: str) -> str:
    """A text as it stands in a cell of a table."""
    return text.replace("|", "\\|")


def _wording(claim: Claim) -> str:
    """A claim without its numbers."""
    return re.sub(r"(\d[\d.,e+-]*(, )?)+", "#", claim.claim)


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
    """Rewrite or check README.md, docs/figures.md and docs/papers.md."""
    readme, figures, papers = ROOT / "README.md", ROOT / "docs" / "figures.md", ROOT / "docs" / "papers.md"
    claims = read_claims(ROOT / "results" / "claims.csv")
    larger = read_claims(ROOT / "results" / "paper" / "claims.csv")
    minutes = json.loads((ROOT / "results" / "figures" / "minutes.json").read_text())
    before = {page: page.read_text(encoding="utf-8") for page in (readme, figures, papers)}
    after = {
        readme: replaced(
            readme,
            before[readme],
            "verdict",
            f"{verdict_line(claims)} ([by whose number each is held against](docs/papers.md#whose-number)).",
        ),
        figures: replaced(figures, before[figures], "figures", figures_table(claims, minutes)),
        papers: before[papers],
    }
    tables = {"papers": papers_table(claims), "kinds": kinds_table(claims), "larger": larger_table(claims, larger)}
    for mark, table in tables.items():
        after[papers] = replaced(papers, after[papers], mark, table)
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
