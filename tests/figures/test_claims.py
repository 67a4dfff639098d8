"""The committed claims are what the committed tables say, and every one of them can turn."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from implicit_bias.figures import FIGURES, Claim, Figure
from implicit_bias.figures.base import PRESETS
from implicit_bias.figures.claims import KINDS, OWN_KINDS, UNKNOWN, claims_table, counts_by_kind, verdict_line
from implicit_bias.storage.files import csv_bytes, read_table
from tests.support.turning import Turning, measured_columns

RESULTS = Path(__file__).resolve().parents[2] / "results"
NAMES = FIGURES.names()


def made(name: str) -> Figure:
    figure: Figure = FIGURES.get(name)()
    return figure


@cache
def committed(name: str) -> pd.DataFrame:
    return read_table(RESULTS / "figures" / f"{name}.csv")


@cache
def judged(name: str) -> list[Claim]:
    return made(name).claims(committed(name), "default")


def test_the_committed_claims_are_those_of_the_committed_tables() -> None:
    ordered = sorted((made(name) for name in NAMES), key=lambda figure: (figure.order, figure.name))
    again = csv_bytes(claims_table([claim for figure in ordered for claim in judged(figure.name)])).decode()
    assert again.splitlines() == (RESULTS / "claims.csv").read_text(encoding="utf-8").splitlines()


def test_the_committed_claims_at_preset_paper_are_those_of_their_tables() -> None:
    folder = RESULTS / "paper"
    paths = {path.name.removesuffix(".csv.gz"): path for path in (folder / "figures").glob("*.csv.gz")}
    there = sorted(map(made, paths), key=lambda figure: (figure.order, figure.name))
    tables = {name: read_table(path) for name, path in paths.items()}
    again = csv_bytes(claims_table([claim for f in there for claim in f.claims(tables[f.name], "paper")])).decode()
    assert there and again.splitlines() == (folder / "claims.csv").read_text(encoding="utf-8").splitlines()


FEWER = [name for name in NAMES if made(name).records_a_decade or type(made(name)).kept is not Figure.kept]


@pytest.mark.parametrize("name", FEWER)
def test_what_is_kept_of_a_table_at_the_papers_sizes_gives_the_same_verdicts(name: str) -> None:
    figure, table = made(name), committed(name)
    pd.testing.assert_frame_equal(figure.kept(table, "default"), table)
    few = figure.kept(table, "paper")
    assert 0 < len(few) < len(table) and few.index.equals(pd.RangeIndex(len(few)))
    assert [(claim.claim, claim.holds) for claim in figure.claims(few, "default")] == [(c.claim, c.holds) for c in judged(name)]


@pytest.mark.parametrize("name", NAMES)
def test_a_claim_says_where_it_was_measured_or_why_it_was_not(name: str) -> None:
    figure = made(name)
    for claim in judged(name):
        assert (claim.figure, claim.preset) == (name, "default")
        if claim.holds is None:
            assert claim.reason and not claim.measured, claim.claim
        else:
            of_runs = "seed" in claim.setting and "step" in claim.setting
            assert claim.measured and (of_runs or re.search(r"random|Gaussian|iterations|draws", claim.setting)), claim.claim
            assert bool(claim.reason) == (not claim.holds), claim.claim
            assert "nan" not in claim.measured, claim.claim
    assert len({claim.claim for claim in judged(name)}) == len(judged(name))
    for preset in PRESETS:
        assert "\n" not in figure.setting(preset) and re.search("seed|Gaussian", figure.setting(preset))
        assert re.search("seed|Gaussian", figure.caption(preset)), "a caption names its seeds, or what is drawn"


#: What names something published, and what this project's own work is called.
OF_OTHERS = re.compile(r"arXiv \d|JMLR|blog|\"From Geometry to Generalization|Bernstein and Newhouse|Crawshaw|Frank and Wolfe")
OF_OURS = re.compile(r"this project|derived here")


@pytest.mark.parametrize("name", NAMES)
def test_every_claim_says_whose_number_it_is_held_against(name: str) -> None:
    for claim in judged(name):
        assert claim.kind in KINDS, claim.claim
        ours = OF_OURS.search(claim.source) is not None
        assert ours == (claim.kind in OWN_KINDS), f"{claim.kind}, but the source is {claim.source!r}: {claim.claim}"
        assert ours or OF_OTHERS.search(claim.source), claim.source
        assert not re.search("independent|sheet|note|reproduction:", f"{claim.source} {claim.expected}"), claim.claim


def test_a_claim_without_a_kind_is_refused_and_told_why() -> None:
    class NoKind(FIGURES.get("fan_fig1")):  # type: ignore[misc]
        kind = ""

    cases: list[tuple[Figure, dict[str, Any]]] = [
        (NoKind(), {}),
        (made("fan_fig1"), {"source": "elsewhere"}),
        (made("fan_fig1"), {"kind": "own"}),
    ]
    for figure, given in cases:
        with pytest.raises(ValueError, match=r"figure fan_fig1: the claim 'it ends' has the kind .* one of paper, theorem"):
            figure.claim("default", "it ends", measured="1", holds=True, **given)
        with pytest.raises(ValueError, match="has the kind"):
            figure.not_testable("default", "it ends", "too large", **given)
    assert made("fan_fig1").claim("default", "it ends", measured="1", holds=True).kind == "paper"


def test_counts_are_told_by_kind() -> None:
    def claim(kind: str, holds: bool | None) -> Claim:
        return Claim("rates", "c", "", "1", "", holds, "default", "s", kind=kind)

    claims = [
        claim("paper", True),
        claim("theorem", False),
        claim("theorem", None),
        claim("derived", True),
        claim("check", False),
    ]
    assert verdict_line(claims) == "1 of 2 published claims hold here; 1 of 2 own checks; 1 more cannot be tested here"
    assert verdict_line([claim("reproduction", True)]) == "1 of 1 reproductions by others hold here"
    assert verdict_line([]) == ""
    assert set(counts_by_kind(claims)) == {"published claims", "own checks"}


def test_what_is_not_known_is_said_of_few_claims() -> None:
    unexplained = [claim for name in NAMES for claim in judged(name) if claim.reason == UNKNOWN]
    assert not unexplained


@pytest.mark.parametrize("name", NAMES)
def test_findings_are_whole_sentences_with_numbers_of_the_table(name: str) -> None:
    table = committed(name)
    for finding in made(name).findings(table, "default"):
        assert finding.title and not finding.title.endswith(".")
        assert finding.text.endswith(".") and "\n" not in finding.text
        assert any(character.isdigit() for character in finding.evidence) and "nan" not in finding.evidence
        # Typed numbers would not notice.
        order = np.random.default_rng(1).permutation(len(table))
        shuffled = table.assign(**{column: table[column].to_numpy()[order] for column in measured_columns(table)})
        (other,) = [f for f in made(name).findings(shuffled, "default") if f.title == finding.title]
        assert other.evidence != finding.evidence, finding.title


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_claim_turns_when_what_it_was_measured_on_does(name: str) -> None:
    turning = Turning(made(name), committed(name), judged(name))
    assert turning.waiting
    turning.try_known()
    turning.search()
    assert not turning.waiting
