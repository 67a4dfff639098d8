"""The report as REPORT.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from implicit_bias.figures import Claim
from implicit_bias.report.page.content import KIND_WORDS, VERDICTS, AtPaper, Content, FigurePart, Group, PaperPart

MARKS = {True: "holds", False: "**does not hold**", None: "*not testable here*"}
CLAIM_HEAD = ("claim", "expected", "measured", "tolerance", "verdict")


def markdown(said: Content) -> str:
    """The text of REPORT.md; pictures are beside it, in figures/."""
    return "\n".join(_lines(said)) + "\n"


def _lines(said: Content) -> Iterator[str]:
    yield from (f"# {said.title}", "", said.sentence, "")
    yield f"Made by `{said.command}`, preset {said.preset}. {said.verdict or 'Claims are judged from preset=default on'}."
    yield "The page [report.html](report.html) is the same with curves to explore; [claims.csv](claims.csv) has every claim."
    yield "Minutes are the computing time of the runs and references that a figure needs, on one core; figures may share runs."
    yield ""
    if said.claims:
        yield from _table(
            ("whose number", "holds", "does not", "not testable"),
            ((words, str(c.holds), str(c.fails), str(c.untested)) for words, c in said.kinds.items()),
        )
        yield ""
    yield from _table(
        ("paper", "figure", "holds", "does not", "not testable", "minutes", "command"),
        (_summary(part, figure) for part in said.papers for figure in part.figures),
    )
    for figure in said.heat_maps:
        yield from ("", f"[![{figure.title}]({figure.files['png']})](#{figure.name})")
    for part in said.papers:
        yield from _paper(part)
    yield from _findings(said)
    yield from ("", "## Glossary", "")
    yield from _table(
        ("word", "formula", "meaning"), ((f"**{term.name}**", f"`{term.formula}`", term.text) for term in said.glossary)
    )


def _summary(part: PaperPart, figure: FigurePart) -> tuple[str, ...]:
    counts = figure.counts
    numbers = (str(counts.holds), f"**{counts.fails}**" if counts.fails else "0", str(counts.untested))
    return (part.paper.short, f"[{figure.name}](#{figure.name})", *numbers, _minutes(figure), f"`{figure.command}`")


def _paper(part: PaperPart) -> Iterator[str]:
    yield from ("", f"## {part.paper.title}", "")
    if part.paper.url:
        yield from (f"{part.paper.authors}, [arXiv {part.paper.arxiv}]({part.paper.url})", "")
    elif part.paper.authors:
        yield from (part.paper.authors, "")
    for figure in part.figures:
        yield from _figure(figure)


def _figure(figure: FigurePart) -> Iterator[str]:
    yield from (f'<a id="{figure.name}"></a>', "", f"### {figure.name}: {figure.title}", "")
    yield from (f"![{figure.title}]({figure.files['png']})", "", figure.caption, "")
    links = ", ".join(f"[{kind.upper()}]({path})" for kind, path in figure.files.items())
    took = f" ({_minutes(figure)} minutes)" if figure.minutes is not None else ""
    yield from (f"`{figure.command}`{took}. {links}. Sources: {'; '.join(figure.sources)}.", "")
    yield from _claims(figure.groups)
    if figure.at_paper is not None:
        yield from _at_paper(figure.at_paper)


def _at_paper(larger: AtPaper) -> Iterator[str]:
    counts, links = larger.counts, ", ".join(f"[{kind.upper()}]({path})" for kind, path in larger.files.items())
    yield from (f"At preset paper {counts.holds} of {counts.all} claims hold: `{larger.command}`. {links}.", "")
    yield from _claims(larger.groups)


def _claims(groups: Iterable[Group]) -> Iterator[str]:
    """A table of each group's claims, under what they have in common."""
    for group in groups:
        setting = f" *Setting:* {group.setting}" if group.setting else ""
        yield from (f"*Source:* {group.source} ({KIND_WORDS[group.kind]}).{setting}", "")
        yield from _table(CLAIM_HEAD, map(_claim, group.claims))
        yield ""


def _claim(claim: Claim) -> tuple[str, ...]:
    verdict = MARKS[claim.holds] + (f": {claim.reason}" if claim.reason else "")
    return (claim.claim, claim.expected, claim.measured, claim.tolerance, verdict)


def _findings(said: Content) -> Iterator[str]:
    yield from ("## Findings", "")
    if not said.failed and not said.surprising:
        yield "None."
    for figure in said.failed:
        yield from (f"### [{figure.name}](#{figure.name}): claims that do not hold", "")
        yield from (_failed(claim) for claim in figure.failed)
        yield ""
    for figure in said.surprising:
        for finding in figure.findings:
            yield from (
                f"### {finding.title}",
                "",
                f"{finding.text} *Evidence:* {finding.evidence} ([{figure.name}](#{figure.name}))",
                "",
            )


def _failed(claim: Claim) -> str:
    expected = f"expected {claim.expected} ({KIND_WORDS[claim.kind]}), " if claim.expected else ""
    reason = f" {claim.reason}" if claim.reason else ""
    measured = f"{expected}measured {claim.measured} (tolerance: {claim.tolerance})"
    return f"- **{VERDICTS[claim.holds]}:** {claim.claim}: {measured}.{reason}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield _row(head)
    yield _row(["---"] * len(head))
    yield from map(_row, rows)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def _minutes(figure: FigurePart) -> str:
    return "" if figure.minutes is None else f"{figure.minutes:.1f}"
