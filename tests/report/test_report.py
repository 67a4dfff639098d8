"""The report's two forms say what the figures' tables and claims say, and the page works in a browser, from disk, alone."""

from __future__ import annotations

import base64
import gzip
import inspect
import json
import re
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from implicit_bias.figures import FIGURES, Claim, Figure, Finding
from implicit_bias.figures.claims import COUNTED_AS, OWN_KINDS, claims_table
from implicit_bias.figures.fan.fan_fig1 import FanFig1
from implicit_bias.figures.fan.which_margin import WhichMargin
from implicit_bias.figures.papers import OWN, PAPERS
from implicit_bias.plotting.explorer import STEP, Explorer, Quantity
from implicit_bias.plotting.style import Look, of_few_colours
from implicit_bias.report.command import write_tables
from implicit_bias.report.make import made_at
from implicit_bias.report.page import read_claims, write_report
from implicit_bias.report.page.content import KIND_WORDS, content
from implicit_bias.report.page.curves import curves
from implicit_bias.report.page.html import html
from implicit_bias.report.page.kept import kept
from implicit_bias.report.page.markdown import markdown
from implicit_bias.report.page.pictures import MADE_BY
from implicit_bias.report.page.templating import formula
from implicit_bias.report.page.text import plain
from implicit_bias.report.request import Request
from implicit_bias.storage.files import csv_bytes, read_table
from tests.support.browser import CHROMIUM, Browser, browser
from tests.support.quick import quick_of

# On one worker: the page is written once, and opened once.
pytestmark = pytest.mark.xdist_group("page")
RESULTS = Path(__file__).resolve().parents[2] / "results"
MINUTES = json.loads((RESULTS / "figures" / "minutes.json").read_text())
#: What no claim has yet: a verdict that is none, a reason, a setting, and signs that mean something in HTML or Markdown.
ODD = Claim(
    "fan_fig1",
    "the <b>odd</b> claim & co",
    "1 | 2",
    "3 < 4",
    '"half"',
    False,
    "default",
    "here",
    "one sample",
    "a reason | why",
    "paper",
)
UNTESTED = replace(ODD, claim="the claim beyond reach", holds=None, setting="", reason="needs a larger machine")
FOUND = Finding("a finding's title", "a finding's text", "a finding's evidence")


def figures() -> list[Figure]:
    """All, in the report's order."""
    made: list[Figure] = [FIGURES.get(name)() for name in FIGURES.names()]
    return sorted(made, key=lambda figure: (figure.order, figure.name))


@pytest.fixture(scope="module")
def claims() -> list[Claim]:
    return [*read_claims(RESULTS / "claims.csv"), ODD, UNTESTED]


@pytest.fixture(scope="module")
def folder(claims: list[Claim], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the committed tables, with a few odd claims and a finding."""
    path = tmp_path_factory.mktemp("report")
    (path / "figures").symlink_to(RESULTS / "figures")
    (path / "claims.csv").write_bytes(csv_bytes(claims_table(claims)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FanFig1, "findings", lambda self, table, preset: [FOUND])
        write_report(path, "default", figures(), claims, MINUTES)
    return path


class Page(HTMLParser):
    """The elements of a page: that they are closed in order, what they point to, and the text."""

    VOID = frozenset({"meta", "link", "img", "br", "input", "hr"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.targets: list[tuple[str, str]] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.targets += [(tag, known[name] or "") for name in ("src", "href") if name in known]
        self.ids += [known["id"] or ""] if "id" in known else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.words.append(data)

    @cached_property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    parser = Page()
    parser.feed((folder / "report.html").read_text(encoding="utf-8"))
    parser.close()
    return parser


@pytest.mark.slow
def test_the_page_is_whole_and_needs_nothing_beside_it(page: Page, folder: Path) -> None:
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    papers = {paper.url for paper in PAPERS.values() if paper.url}
    links = {target for tag, target in page.targets if tag == "a"}
    assert papers <= links
    for target in links - papers:
        assert target[1:] in page.ids if target.startswith("#") else (folder / target).exists(), target
    embedded = [target for tag, target in page.targets if tag != "a"]
    assert len(embedded) > len(figures()) and all(target.startswith("data:") for target in embedded)


@pytest.mark.parametrize("written", quick_of(["committed", "odd"], "committed"))
def test_the_page_is_small(written: str, request: pytest.FixtureRequest) -> None:
    path = (RESULTS if written == "committed" else request.getfixturevalue("folder")) / "report.html"
    assert 500_000 < path.stat().st_size < 4_000_000


@pytest.mark.slow
def test_the_answer_comes_first_and_the_ledger_last(page: Page, folder: Path) -> None:
    sections = ["top", "failed", "paper-fan", "paper-own", "findings", "glossary", "ledger"]
    assert [name for name in page.ids if name in sections] == sections
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert text.count('<details class="claims">') > len(figures()) / 2 and '<details class="claims" open' not in text
    assert text.count('<span class="size') == len(figures()) + 1  # beside every figure, and the heat map


@pytest.mark.slow
def test_every_claim_and_finding_is_in_both_forms(page: Page, folder: Path, claims: list[Claim]) -> None:
    text = (folder / "REPORT.md").read_text(encoding="utf-8")
    shared, told = "", set()
    for line in text.splitlines():
        shared = line if line.startswith("*Source:*") else shared
        if line.startswith("| "):
            told.add((shared, *(cell.replace("\\|", "|") for cell in re.split(r"(?<!\\) \| ", line.strip("| ")))))
    for claim in claims:
        words = {True: "holds", False: "**does not hold**", None: "*not testable here*"}[claim.holds]
        setting = claim.setting or ("" if claim.holds is None else FIGURES.get(claim.figure)().setting("default"))
        verdict = words + (f": {claim.reason}" if claim.reason else "")
        above = f"*Source:* {claim.source} ({KIND_WORDS[claim.kind]})." + (f" *Setting:* {setting}" if setting else "")
        cells = (claim.claim, claim.expected, claim.measured, claim.tolerance, verdict)
        assert (above, *(" ".join(cell.split()) for cell in cells)) in told, claim
        for part in (claim.claim, claim.expected, claim.measured, claim.tolerance, claim.reason, setting, claim.source):
            assert " ".join(part.split()) in page.text
    for part in (FOUND.title, FOUND.text, FOUND.evidence):
        assert part in page.text and part in text
    told_of = {words: [c.holds for c in claims if c.kind in kinds] for words, kinds in COUNTED_AS.items()}
    assert min(map(len, told_of.values())) > 0
    for words, verdicts in told_of.items():
        line = f"{verdicts.count(True)} of {verdicts.count(True) + verdicts.count(False)} {words}"
        assert line in page.text and line in text


@pytest.mark.slow
def test_the_committed_report_is_what_the_results_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its text: of curves, which the page above is made with, there is none, and nothing is kept beside the results."""
    monkeypatch.setattr("implicit_bias.report.page.content.kept", lambda path, made_from, make: None)
    said = content(RESULTS, "default", figures(), read_claims(RESULTS / "claims.csv"), MINUTES)
    assert (RESULTS / "REPORT.md").read_text(encoding="utf-8") == markdown(said)
    assert said.figures and {figure.name for figure in said.figures} == set(FIGURES.names())
    page = unescape((RESULTS / "report.html").read_text(encoding="utf-8"))
    assert all(" ".join(claim.measured.split()) in page for figure in said.figures for claim in figure.claims)


def test_what_takes_long_is_kept_until_what_it_is_made_from_is_others(tmp_path: Path) -> None:
    path, made, rest = tmp_path / "kept.json", iter([None, 1, 2, 3, 4, 5]), iter([4, 5])
    assert [kept(path, ("a",), lambda: next(made)) for _ in range(3)] == [None, 1, 1]  # that there is nothing is not kept
    assert [kept(path, ("ab", b""), lambda: next(made)), kept(path, ("a", b"b"), lambda: next(made))] == [2, 3]
    for damaged in ("{", json.dumps({**json.loads(path.read_text()), "value": None})):
        path.write_text(damaged)
        assert kept(path, ("a", b"b"), lambda: next(made)) == next(rest)


def test_a_kept_picture_depends_on_how_its_colours_are_chosen() -> None:
    assert inspect.getsource(of_few_colours) in MADE_BY


def test_what_was_made_at_preset_paper_stands_beside_and_is_not_counted(tmp_path: Path) -> None:
    (tmp_path / "paper" / "figures").mkdir(parents=True)
    (tmp_path / "figures").symlink_to(RESULTS / "figures")
    larger = replace(ODD, claim="the claim at length", preset="paper", setting="many steps")
    (tmp_path / "paper" / "claims.csv").write_bytes(csv_bytes(claims_table([larger])))
    assert content(tmp_path, "default", [FanFig1()], [UNTESTED], {}).figures[0].at_paper is None  # without a table
    (tmp_path / "paper" / "figures" / "fan_fig1.csv.gz").write_bytes(gzip.compress(b"a\n1\n"))
    said = content(tmp_path, "default", [FanFig1()], [UNTESTED], {})
    assert [(counts.all, counts.fails) for counts in said.counts.values()] == [(1, 0)]
    for text in (markdown(said), unescape(html(said, tmp_path))):
        assert "At preset paper 0 of 1 claims hold" in text and "the claim at length" in text and "many steps" in text
        assert "paper/figures/fan_fig1.csv.gz" in text and "preset=paper only=fan_fig1" in text
    assert content(tmp_path, "paper", [FanFig1()], [], {}).figures[0].at_paper is None


@pytest.mark.parametrize(("figure", "size"), [(FanFig1, "sizes of the paper"), (WhichMargin, "smaller than the paper")])
def test_a_figure_says_whether_it_is_of_the_papers_size(figure: type[Figure], size: str, tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / f"{figure.name}.png").symlink_to(RESULTS / "figures" / f"{figure.name}.png")
    (part,) = content(tmp_path, "default", [figure()], [], {}).figures
    assert (part.size, part.at_paper_size) == (size, size.startswith("sizes"))
    (part,) = content(tmp_path, "paper", [figure()], [], {}).figures
    assert part.at_paper_size


def test_figures_stand_under_the_paper_they_name() -> None:
    for figure in figures():
        assert PAPERS[figure.paper].arxiv in figure.source
        assert figure.paper != OWN.key or figure.kind in {*OWN_KINDS, "reproduction"}


def test_claims_of_a_figure_that_this_preset_leaves_out_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("implicit_bias.report.page.write_report", lambda *given: None)
    larger, path = replace(ODD, preset="paper"), tmp_path / "paper" / "claims.csv"
    path.parent.mkdir()
    for only, kept_too in ((None, True), (("which_margin",), True), (("fan_fig1",), False)):
        request = Request(preset="paper", only=only, results_dir=str(tmp_path))
        assert ("fan_fig1" in {figure.name for figure in made_at(request)}) != kept_too
        path.write_bytes(csv_bytes(claims_table([larger, replace(larger, figure="which_margin")])))
        write_tables(request, [])
        expected = {"fan_fig1"} if kept_too else {"which_margin"}
        assert {claim.figure for claim in read_claims(path)} == expected


def test_claims_files_are_read_whatever_their_age(tmp_path: Path) -> None:
    path = tmp_path / "claims.csv"
    assert read_claims(path) == []
    path.write_bytes(csv_bytes(claims_table([ODD, UNTESTED, replace(ODD, holds=True)])))
    assert read_claims(path) == [ODD, UNTESTED, replace(ODD, holds=True)]
    path.write_bytes(csv_bytes(claims_table([ODD]).drop(columns=["setting", "reason"])))
    assert read_claims(path) == [replace(ODD, setting="", reason="")]
    for other in (
        claims_table([ODD]).drop(columns=["measured"]),
        claims_table([ODD]).drop(columns=["kind"]),
        claims_table([ODD]).assign(kind="own"),
        claims_table([ODD]).rename(columns={"expected": "paper"}),
    ):
        path.write_bytes(csv_bytes(other))
        assert read_claims(path) == []


def test_curves_are_means_and_ranges_over_the_seeds() -> None:
    rows = pd.DataFrame(
        [("a", s, t, s * 10.0**-t, s) for s in (1, 4) for t in (1, 2, 3)] + [("a", 1, 4, 1.0, 9), ("b", 1, 1, -1.0, np.nan)],
        columns=["method", "seed", "step", "gap", "level"],
    )
    looks = {"a": Look("$\\ell_2$", "#123456", "o"), "b": Look("b", "#654321", "s", ":"), "c": Look("c", "#000000", "x")}
    quantities = (Quantity("gap", "gap", log=True), Quantity("level", "level"), Quantity("absent", "absent"))
    drawn = curves(Explorer(rows, "method", looks, (STEP,), quantities))
    assert drawn is not None
    assert [quantity["label"] for quantity in drawn["y"]] == ["gap", "level"]
    numbers = lambda places: [None if place is None else drawn["arrays"][place] for place in places]  # noqa: E731
    first, second = drawn["curves"]
    assert (first["label"], second["label"], second["dash"]) == ("ℓ₂", "b", [1, 1.3])
    # The fourth step is of one seed only. The gap's mean is geometric, the level's is not.
    assert numbers(first["x"]) == [[1, 2, 3]]
    assert numbers(first["y"][0]) == [[0.2, 0.02, 0.002], [0.1, 0.01, 0.001], [0.4, 0.04, 0.004]]
    assert numbers(first["y"][1]) == [[2.5] * 3, [1] * 3, [4] * 3]
    assert numbers(second["y"][0]) == [[-1], None, None] and second["y"][1] is None
    assert curves(Explorer(rows[:0], "method", looks, (STEP,), quantities)) is None


def test_formulas_and_labels_in_signs() -> None:
    assert formula("a_{y_i}^T < 1") == "a<sub>y<sub>i</sub></sub><sup>T</sup> &lt; 1"
    assert plain(r"$\ell_\infty$ and $t^{-1}$, $t^{-0.8}$ at 5 $") == "ℓ∞ and t⁻¹, t^\N{MINUS SIGN}0.8 at 5 $"  # noqa: RUF001


needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def opened(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as window:
        window.open(folder / "report.html")
        yield window


SHOW = "document.querySelector('#fan_fig1 .explorer').scrollIntoView()"
DRAWN = "document.querySelector('#fan_fig1 .explorer').explorer"


def drawn_numbers(opened: Browser) -> list[Any]:
    """x and the first curve, as drawn."""
    numbers: list[Any] = opened.value(f"{DRAWN}.plot.data.slice(0, 2)")
    return numbers


def pick(opened: Browser, choice: str, place: int) -> None:
    """Choose in one of the explorer's lists, as a reader does."""
    select = f"document.querySelector('#fan_fig1 select[data-choice={choice}]')"
    opened.value(f"{select}.value = {place}; {select}.dispatchEvent(new Event('change'))")


@pytest.mark.system
@pytest.mark.slow
@needs_chromium
def test_curves_can_be_explored(opened: Browser) -> None:
    assert opened.value(f"{DRAWN} === undefined")  # nothing is drawn before it is seen
    opened.value(SHOW)
    opened.until(f"{DRAWN} && {DRAWN}.plot")
    table = read_table(RESULTS / "figures" / "fan_fig1.csv")

    def expected(norm: str, quantity: str) -> Any:
        rows = table[(table["norm"] == norm) & (table["method"] == "SignGD")]
        return pytest.approx(
            (1 - rows["relative_gap"] if quantity == "ratio" else rows["relative_gap"]).to_list(), rel=1e-3, abs=1e-4
        )

    assert drawn_numbers(opened)[1] == expected("linf", "relative_gap")
    pick(opened, "norm", 2)
    assert drawn_numbers(opened)[1] == expected("spectral", "relative_gap")
    pick(opened, "quantity", 1)
    assert drawn_numbers(opened)[1] == expected("spectral", "ratio")
    # A log axis has no place for what is not positive.
    assert opened.value(f"{DRAWN}.plot.scales.y.distr") == 1
    opened.value("document.querySelector('#fan_fig1 button[data-axis=y]').click()")
    assert opened.value(f"{DRAWN}.plot.scales.y.distr") == 3
    kept = [value for value in drawn_numbers(opened)[1] if value is not None]
    assert 0 < len(kept) < len(table[table["norm"] == "spectral"]) / 4 and min(kept) > 0
    pick(opened, "quantity", 0)
    opened.value("document.querySelector('#fan_fig1 button[data-axis=x]').click()")
    assert opened.value(f"{DRAWN}.plot.scales.x.distr") == 1


@pytest.mark.system
@pytest.mark.slow
@needs_chromium
def test_pointing_tells_values_and_a_name_hides_its_curve(opened: Browser) -> None:
    opened.value(SHOW)
    opened.until(f"{DRAWN} && {DRAWN}.plot")
    pick(opened, "norm", 2)
    first = "document.querySelector('#fan_fig1 .legend button')"
    for attempt in range(50):  # what is drawn above it meanwhile moves the picture
        opened.value(SHOW)
        left, top, width, height = opened.value(
            f"(() => {{ const r = {DRAWN}.plot.over.getBoundingClientRect(); return [r.left, r.top, r.width, r.height] }})()"
        )
        opened.move(left + width - 2 - attempt % 2, top + height / 2)
        shown = f"{first}.querySelector('.value').textContent"
        # Both at once: the page may still be scrolling under the pointer.
        told, pointed = opened.value(f"[{shown}, {DRAWN}.plot.data[1][{DRAWN}.plot.cursor.idx]]")
        if told:
            break
        time.sleep(0.1)
    assert float(told) == pytest.approx(pointed, rel=6e-3)  # that the numbers are the table's: test_curves_can_be_explored
    opened.value(f"{first}.click()")
    assert opened.value(f"{DRAWN}.plot.series.slice(1, 5).map((s) => s.show)") == [False, False, False, True]
    opened.value(f"{first}.click()")
    assert opened.value(f"{DRAWN}.plot.series[1].show")


@pytest.mark.system
@pytest.mark.slow
@needs_chromium
def test_every_explorer_draws_without_a_complaint(opened: Browser) -> None:
    for i in range(opened.value("document.querySelectorAll('.explorer').length")):
        one = f"document.querySelectorAll('.explorer')[{i}]"
        opened.value(f"{one}.scrollIntoView()")
        opened.until(f"{one}.explorer && {one}.explorer.plot")
        assert opened.value(f"{one}.explorer.plot.data[0].length") > 5
    assert opened.complaints == []


@pytest.mark.system
@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("width", [390, 820])
def test_nothing_is_wider_than_a_narrow_window(opened: Browser, folder: Path, width: int) -> None:
    opened.open(folder / "report.html", width=width, height=844)
    opened.value(SHOW)
    opened.until(f"{DRAWN} && {DRAWN}.plot")
    assert opened.value("document.documentElement.scrollWidth") <= width
    wide = "[...document.querySelectorAll('main *')].filter((e) => e.getBoundingClientRect().right > innerWidth + 1)"
    assert opened.value(f"{wide}.filter((e) => !e.closest('.formula, thead')).map((e) => e.outerHTML.slice(0, 80))") == []
    assert opened.complaints == []


@pytest.mark.system
@pytest.mark.slow
@needs_chromium
def test_without_programs_the_pictures_are_still_there(opened: Browser, folder: Path) -> None:
    opened.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        opened.open(folder / "report.html")
        assert opened.value("[...document.images].every((i) => i.complete && i.naturalWidth > 0)")
        assert opened.value("[...document.querySelectorAll('.explorer, .copy')].every((e) => e.offsetParent === null)")
    finally:
        opened.call("Emulation.setScriptExecutionDisabled", value=False)


@pytest.mark.system
@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_the_first_screen_needs_nothing_that_follows(
    opened: Browser, folder: Path, tmp_path: Path, width: int, height: int
) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    (tmp_path / "cut.html").write_text(text[: text.index("</header>")], encoding="utf-8")
    assert (tmp_path / "cut.html").stat().st_size < 100_000
    opened.open(tmp_path / "cut.html", width=width, height=height)
    cells = "[...document.querySelectorAll('.heat button')]"
    left, top, seen = opened.value(
        f"(() => {{ const r = {cells}[0].getBoundingClientRect();"
        f" return [r.left + 5, r.top + 5, {cells}.filter((c) => c.getBoundingClientRect().bottom < innerHeight).length] }})()"
    )
    assert seen > 60
    opened.move(left, top)
    opened.until("document.querySelector('.heat-told').textContent.startsWith('SignGD under')")
    assert opened.complaints == []


@pytest.mark.system
@pytest.mark.slow
@needs_chromium
def test_a_cell_of_the_heat_map_leads_to_command_and_curve(opened: Browser, folder: Path) -> None:
    opened.open(folder / "report.html")
    muon = "[...document.querySelectorAll('.heat tbody tr')].find((r) => r.cells[0].textContent === 'Muon')"
    opened.value(f"{muon}.cells[3].firstElementChild.click()")
    assert "optimizer=muon" in opened.value("document.querySelector('.heat-more code').textContent")
    opened.value("document.querySelector('.heat-more a').click()")
    opened.until(f"{DRAWN} && {DRAWN}.plot")
    assert opened.value("location.hash") == "#explorer-fan_fig1"
    assert opened.value("document.querySelector('#fan_fig1 select').selectedOptions[0].textContent") == "spectral"
    assert opened.value(f"{DRAWN}.shown.some((one) => one.curve.label === 'Muon')")


@pytest.mark.system
@pytest.mark.slow
@needs_chromium
def test_printing_draws_every_plot_and_unfolds_every_claim(opened: Browser, folder: Path) -> None:
    opened.open(folder / "report.html")
    hosts, folded = "[...document.querySelectorAll('.explorer')]", "document.querySelectorAll('main details:not([open])').length"
    opened.until(f"{hosts}.every((host) => host.data)")
    before = opened.value(folded)
    opened.value("dispatchEvent(new Event('beforeprint'))")
    assert opened.value(f"{hosts}.every((host) => host.explorer.plot.width === 640)") and opened.value(folded) == 0
    opened.value("dispatchEvent(new Event('afterprint'))")
    assert opened.value(folded) == before > 0
    assert opened.complaints == []


@pytest.mark.slow
def test_curves_in_the_page_are_those_of_the_tables(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    packed = dict(re.findall(r'id="curves-(\w+)">([^<]*)</script>', text))
    explored = {figure.name for figure in figures() if figure.explorer(read_table(RESULTS / "figures" / f"{figure.name}.csv"))}
    assert set(packed) == explored >= {"fan_fig1", "fan_fig1_momentum", "rates", "gv_fig1", "flow_conditions"}
    for name, data in packed.items():
        drawn = json.loads(zlib.decompress(base64.b64decode(data)))
        places = [place for curve in drawn["curves"] for part in (curve["x"], *curve["y"]) for place in part or []]
        assert {place for place in places if place is not None} == set(range(len(drawn["arrays"]))), name
        chosen = {tuple(curve["at"]) for curve in drawn["curves"]}
        assert len(chosen) == int(np.prod([len(choice["names"]) for choice in drawn["choose"]])), name
