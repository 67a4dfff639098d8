"""What the report says, whatever its form: papers, figures, claims, findings. Everything is from figures and their tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from implicit_bias.figures import Claim, Figure, Finding, Preset
from implicit_bias.figures.base import one_line
from implicit_bias.figures.claims import KINDS, Counts, counted, counts_by_kind, verdict_line
from implicit_bias.figures.papers import OWN, PAPERS, Paper
from implicit_bias.plotting.matrix import Matrix
from implicit_bias.report.costs import lasting, read_hours
from implicit_bias.report.page.curves import curves
from implicit_bias.report.page.glossary import GLOSSARY, Term
from implicit_bias.report.page.heat import Heat, heat
from implicit_bias.report.page.kept import kept
from implicit_bias.report.page.kept_claims import read_claims
from implicit_bias.report.request import table_ending
from implicit_bias.report.uptodate import drawing
from implicit_bias.storage.files import read_table

TITLE = "Which margin does each optimizer maximise?"
SENTENCE = one_line("""
    Optimizers that all reach zero training error end at different solutions; theory says that each maximises the margin in its
    own norm. Here are the figures and theorems of the papers that say so, computed again, with every claim beside what was
    measured.
""")
#: The pictures that answer the title's question.
HEAT_MAPS = ("which_margin", "margin_matrix_networks")
#: Whose number a claim is held against.
KIND_WORDS = {
    "paper": "a paper's number or statement",
    "theorem": "a paper's theorem",
    "reproduction": "a reproduction by others",
    "derived": "derived here",
    "check": "own check",
}
VERDICTS = {True: "holds", False: "does not hold", None: "not testable here"}
ENDINGS = ("png", "pdf", "csv")
#: The preset, and the folder in the default one's, of what may stand beside the default figures.
LARGER: Preset = "paper"


@dataclass(frozen=True)
class Group:
    """Claims in a row that have kind, source and setting in common."""

    kind: str
    source: str
    setting: str
    claims: tuple[Claim, ...]


@dataclass(frozen=True)
class AtPaper:
    """A figure at preset=paper, beside the default one: its own claims, which the report's counts leave out.

    Attributes:
        command: What makes it.
        claims: Each with its setting.
        files: Paths beside the report, by ending.
    """

    command: str
    claims: tuple[Claim, ...]
    files: Mapping[str, str]

    @property
    def counts(self) -> Counts:
        """The counts of its claims."""
        return counted(self.claims)

    @property
    def groups(self) -> tuple[Group, ...]:
        """Its claims in their order."""
        return grouped(self.claims)


@dataclass(frozen=True)
class FigurePart:
    """A figure in the report.

    Attributes:
        name, title, caption: Of the figure.
        command: What makes it.
        minutes: Computing time of its runs; None where it is not known.
        sources: Where its claims are from, each once.
        claims: Its claims, each with its setting.
        findings: What else is found.
        curves: What its explorer draws; None where its table holds no trajectories.
        files: Paths beside the report, by ending; only what is there.
        at_paper_size: Whether its runs are those of preset=paper.
        size: How its runs compare with those, in a few words.
        matrix: Its answer as a matrix, where it is one.
        at_paper: The same figure at preset=paper, where that has been made.
    """

    name: str
    title: str
    caption: str
    command: str
    minutes: float | None
    sources: tuple[str, ...]
    claims: tuple[Claim, ...]
    findings: tuple[Finding, ...]
    curves: Mapping[str, Any] | None
    files: Mapping[str, str]
    at_paper_size: bool
    size: str
    matrix: Matrix | None = None
    at_paper: AtPaper | None = None

    @property
    def counts(self) -> Counts:
        """The counts of its claims."""
        return counted(self.claims)

    @property
    def groups(self) -> tuple[Group, ...]:
        """Its claims in their order."""
        return grouped(self.claims)

    @property
    def failed(self) -> tuple[Claim, ...]:
        """The claims that do not hold."""
        return tuple(claim for claim in self.claims if claim.holds is False)


@dataclass(frozen=True)
class PaperPart:
    """A paper with its figures, in their order."""

    paper: Paper
    figures: tuple[FigurePart, ...]


@dataclass(frozen=True)
class Content:
    """The report."""

    preset: Preset
    command: str
    papers: tuple[PaperPart, ...]
    title: str = TITLE
    sentence: str = SENTENCE
    glossary: tuple[Term, ...] = GLOSSARY

    @property
    def figures(self) -> tuple[FigurePart, ...]:
        """All figures."""
        return tuple(figure for part in self.papers for figure in part.figures)

    @property
    def claims(self) -> tuple[Claim, ...]:
        """All claims."""
        return tuple(claim for figure in self.figures for claim in figure.claims)

    @property
    def verdict(self) -> str:
        """How many of them hold, whose numbers they are held against, in one line."""
        return verdict_line(self.claims)

    @property
    def untested(self) -> int:
        """How many claims cannot be tested here."""
        return counted(self.claims).untested

    @property
    def counts(self) -> dict[str, Counts]:
        """The counts of published claims, others' reproductions and own checks."""
        return counts_by_kind(self.claims)

    @property
    def kinds(self) -> dict[str, Counts]:
        """The counts by kind, of the kinds that there are."""
        counts = {kind: counted(self.claims, (kind,)) for kind in KINDS}
        return {KIND_WORDS[kind]: count for kind, count in counts.items() if count.all}

    @property
    def heat_maps(self) -> tuple[FigurePart, ...]:
        """The figures that answer the title's question."""
        return tuple(figure for figure in self.figures if figure.name in HEAT_MAPS)

    @property
    def other_maps(self) -> tuple[FigurePart, ...]:
        """Those of them that the page shows as pictures."""
        return tuple(figure for figure in self.heat_maps if not figure.matrix)

    @property
    def heat(self) -> tuple[FigurePart, Heat] | None:
        """The answer as a heat map, and the figure whose it is."""
        drawn = [(figure.name, figure.curves) for figure in self.figures if figure.curves]
        return next(((figure, heat(figure.matrix, drawn)) for figure in self.figures if figure.matrix), None)

    @property
    def failed(self) -> tuple[FigurePart, ...]:
        """The figures with claims that do not hold."""
        return tuple(figure for figure in self.figures if figure.failed)

    @property
    def surprising(self) -> tuple[FigurePart, ...]:
        """The figures with findings."""
        return tuple(figure for figure in self.figures if figure.findings)


def content(
    folder: Path, preset: Preset, figures: Sequence[Figure], claims: Sequence[Claim], minutes: Mapping[str, float]
) -> Content:
    """The report of the figures drawn in ``folder``, in their order; papers by their first figure, our own checks last.

    Beside figures of the default preset stand those that ``folder/paper`` has.
    """
    option = "" if preset == "default" else f" preset={preset}"
    command = f"python -m implicit_bias.report{option}"
    drawn = [figure for figure in figures if (folder / "figures" / f"{figure.name}.png").exists()]
    parts: dict[str, list[FigurePart]] = {}
    larger = read_claims(folder / LARGER / "claims.csv") if preset == "default" else []
    hours = read_hours(folder / LARGER) if preset == "default" else {}
    for figure in drawn:
        mine = tuple(_settled(claim, figure, preset) for claim in claims if claim.figure == figure.name)
        beside = _at_paper(folder, figure, larger)
        own, took, expected = f"{command} only={figure.name}", minutes.get(figure.name), hours.get(figure.name)
        part = _figure_part(folder, preset, figure, mine, own, took, beside, expected)
        parts.setdefault(figure.paper, []).append(part)
    keys = sorted(parts, key=lambda key: key == OWN.key)  # a stable sort: the others stay as they are
    return Content(preset, command, tuple(PaperPart(PAPERS[key], tuple(parts[key])) for key in keys))


def grouped(claims: Sequence[Claim]) -> tuple[Group, ...]:
    """Claims in their order, those in a row with one kind, source and setting together."""
    parts = groupby(claims, key=lambda claim: (claim.kind, claim.source, claim.setting))
    return tuple(Group(*shared, tuple(mine)) for shared, mine in parts)


def _settled(claim: Claim, figure: Figure, preset: Preset) -> Claim:
    """The claim with its setting; what cannot be tested here was measured nowhere."""
    return claim if claim.setting or claim.holds is None else replace(claim, setting=figure.setting(preset))


def _at_paper(folder: Path, figure: Figure, claims: Sequence[Claim]) -> AtPaper | None:
    mine = tuple(_settled(claim, figure, LARGER) for claim in claims if claim.figure == figure.name)
    # Without PDF, which is not committed at that size: the page is the same wherever it is made.
    endings = {"png": "png", "csv": table_ending(LARGER)}
    paths = {kind: f"{LARGER}/figures/{figure.name}.{ending}" for kind, ending in endings.items()}
    files = {kind: path for kind, path in paths.items() if (folder / path).exists()}
    return AtPaper(f"python -m implicit_bias.report preset={LARGER} only={figure.name}", mine, files) if mine and files else None


def _size(figure: Figure, full: bool, has_larger: bool, hours: float | None) -> str:
    """How the runs of a figure compare with those at the paper's sizes; our own figures have no paper.

    Args:
        hours: What those would take, where that has been measured.
    """
    paper = "preset=paper" if figure.paper == OWN.key else "the paper"
    if full:
        return f"sizes of {paper}"
    if has_larger:
        return f"smaller than {paper}, whose sizes are below"
    return f"smaller than {paper}" + (f", whose sizes take {lasting(hours)} of one processor" if hours else "")


def _figure_part(
    folder: Path,
    preset: Preset,
    figure: Figure,
    claims: tuple[Claim, ...],
    command: str,
    minutes: float | None,
    at_paper: AtPaper | None,
    hours: float | None,
) -> FigurePart:
    files = {kind: f"figures/{figure.name}.{kind}" for kind in ENDINGS}
    found: tuple[Finding, ...] = ()
    drawn, matrix = None, None
    full = figure.alike(preset, LARGER)
    if (folder / files["csv"]).exists():
        table = read_table(folder / files["csv"])
        explorer = figure.explorer(table)
        source = (folder / files["csv"]).read_bytes(), drawing(type(figure).__module__)
        place = folder / "cache" / "page" / f"{figure.name}-curves.json"
        drawn = None if explorer is None else kept(place, source, lambda: curves(explorer))
        matrix = figure.matrix(table, preset)
        # As claims: at the sizes of smoke there is nothing to find.
        found = () if preset == "smoke" else tuple(figure.findings(table, preset))
    return FigurePart(
        name=figure.name,
        title=figure.title,
        caption=figure.caption(preset),
        command=command,
        minutes=minutes,
        sources=tuple(dict.fromkeys([figure.source, *(claim.source for claim in claims)])),
        claims=claims,
        findings=found,
        curves=drawn,
        files={kind: path for kind, path in files.items() if (folder / path).exists()},
        at_paper_size=full,
        size=_size(figure, full, at_paper is not None, hours),
        matrix=matrix,
        at_paper=at_paper,
    )
