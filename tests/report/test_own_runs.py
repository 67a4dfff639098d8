"""``report runs=``: what the page of one's own runs says, what is refused, and that it works in a browser."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from implicit_bias.analysis.comparison import Source
from implicit_bias.core.errors import BadInput
from implicit_bias.report import command
from implicit_bias.report.page.runs import own_runs, runs_page
from tests.support.browser import CHROMIUM, Browser, browser

STEPS = [0, 1, 10, 100]


def source(optimizer: str, lr: float, seed: int, best: float = 2.0, **columns: Any) -> Source:
    """A run whose linf margin ends at lr, and whose l2 margin at half of that."""
    linf = {"norm": "linf", "margin": [np.nan, -0.5, 0.1, lr], "max_margin": best}
    l2 = {"norm": "l2", "margin": [np.nan, -0.1, 0.2, lr / 2], "max_margin": np.nan}
    rows = [pd.DataFrame({"seed": seed, "step": STEPS, "log_loss": [1.0, 0.0, -1.0, -2.0], **norm}) for norm in (linf, l2)]
    config = {"optimizer": {"name": optimizer}, "schedule": {"lr": lr}, "seed": seed}
    return Source(f"{optimizer}-{lr}-{seed}", pd.concat(rows).assign(**columns), "", config, "linf")


SOURCES = [source("muon", 0.1, 1), source("muon", 1.5, 1), source("muon", 1.5, 2), source("adam", 0.5, 1)]


def test_the_table_has_means_and_spreads_and_the_best_of_each_norm() -> None:
    said = own_runs([*SOURCES, SOURCES[0]], "the command")  # a run that is named twice counts once
    assert (said.runs, said.norms, said.shown) == (4, ("\N{SCRIPT SMALL L}∞", "\N{SCRIPT SMALL L}₂"), "margin / optimum")
    cells = {row.label: row.cells for row in said.rows}
    assert list(cells) == ["muon lr 0.1", "muon lr 1.5", "adam"]
    best, other = cells["muon lr 1.5"][0], cells["muon lr 0.1"][0]
    assert best and other and (best.mean, best.spread, best.best, best.own) == ("0.75", "± 0", True, True)
    assert (other.mean, other.spread, other.best) == ("0.05", "", False)
    assert [row[1] for row in cells.values()] == [None] * 3  # l2 has no optimum
    assert {row.loss for row in said.rows} == {"\N{MINUS SIGN}0.869"} and {row.steps for row in said.rows} == {"100"}
    assert said.notes == ("The curves are of different seeds.",)


def test_without_optima_the_table_shows_margins() -> None:
    said = own_runs([source("muon", 0.1, 1, best=np.nan)], "the command")
    assert said.shown == "margin" and [cell and cell.mean for cell in said.rows[0].cells] == ["0.1", "0.05"]
    assert said.curves["levels"] == [] and [y["label"] for y in said.curves["y"]] == ["margin", "log10 loss"]


@pytest.mark.parametrize(("other", "values"), [(2.0, [1, 2]), (3.0, [1])])
def test_margins_have_a_line_where_all_runs_have_one_optimum(other: float, values: list[float]) -> None:
    drawn = own_runs([source("muon", 0.1, 1), source("adam", 0.1, 2, best=other)], "the command").curves
    assert [level["value"] for level in drawn["levels"]] == values
    assert {tuple(level["at"]) for level in drawn["levels"]} == {(0,)}  # linf alone has optima
    assert [drawn["y"][level["y"]]["label"] for level in drawn["levels"]] == ["margin / optimum", "margin"][: len(values)]


def test_runs_that_count_as_one_curve_are_its_range() -> None:
    drawn = own_runs([source("muon", 1.5, 1), source("muon", 1.5, 2, margin=1.0)], "the command").curves
    place = [y["label"] for y in drawn["y"]].index("margin")
    mean, least, largest = (drawn["arrays"][i] for i in drawn["curves"][0]["y"][place])
    assert (mean[-1], least[-1], largest[-1]) == (1.25, 1, 1.5)


def test_too_many_configurations_and_empty_ones_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="nothing was recorded"):
        own_runs([source("muon", 0.1, 1, margin=np.nan, max_margin=np.nan, log_loss=np.nan)], "")
    monkeypatch.setattr("implicit_bias.report.page.runs.MOST_CURVES", 2)
    with pytest.raises(BadInput, match="3 configurations; must be at most 2"):
        own_runs(SOURCES, "")


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two tables, from where commands are typed."""
    monkeypatch.chdir(tmp_path)
    for one in SOURCES[:2]:
        (tmp_path / one.name).mkdir()
        one.trajectory.to_csv(tmp_path / one.name / "trajectory.csv", index=False)
    return tmp_path


@pytest.mark.parametrize(("extra", "path"), [([], "results/report-runs.html"), (["out=a/page.html"], "a/page.html")])
def test_the_command_writes_the_page_and_how_to_make_it(
    mine: Path, extra: list[str], path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["runs=muon-*/trajectory.csv", *extra]) == 0
    assert capsys.readouterr().out == f"page of your runs: {path}\n"
    text = (mine / path).read_text(encoding="utf-8")
    assert "python -m implicit_bias.report 'runs=muon-*/trajectory.csv'" in unescape(text)
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text)
    packed = re.search(r'id="curves-runs">([^<]*)</script>', text)
    assert packed and len(json.loads(zlib.decompress(base64.b64decode(packed[1])))["curves"]) == 4


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["runs=nothing*"], "runs=nothing*: no run matches"),
        (["runs=muon-0.1-1/*,"], "runs=muon-0.1-1/*,: must be"),
        (["runs=muon-0.1-1"], "runs=muon-0.1-1: damaged, "),
        (["out=page.html"], "out=page.html: only with runs="),
        (["runs=muon-*/*.csv", "out=muon-0.1-1"], "out=muon-0.1-1: must be a file"),
        (["runs=muon-*/*.csv", "out=page.pdf"], "out=page.pdf: must end in .html"),
        (["runs=muon-*/*.csv", "redraw=true"], "redraw: not with runs="),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    mine: Path, typed: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(mine.rglob("*"))
    assert command.main(typed) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"error: {said}") and err.count("\n") == 1
    assert sorted(mine.rglob("*")) == before


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Browser, Path]]:
    page = tmp_path_factory.mktemp("own") / "page.html"
    page.write_text(runs_page(SOURCES, "the command"), encoding="utf-8")
    with browser(tmp_path_factory.mktemp("profile")) as window:
        yield window, page


@pytest.mark.system
@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_filters_overlays_and_draws_optima(opened: tuple[Browser, Path], width: int) -> None:
    window, page = opened
    window.open(page, width=width)
    explorer = "document.querySelector('.explorer').explorer"
    window.until(f"{explorer} && {explorer}.plot")
    labels = f"{explorer}.shown.map((one) => one.curve.label)"
    rows = "[...document.querySelectorAll('tr[data-label]')].filter((r) => !r.hidden).map((r) => r.dataset.label)"
    assert window.value(labels) == window.value(rows) == ["muon lr 0.1", "muon lr 1.5", "adam"]
    words = "document.querySelector('[data-filters]')"
    window.value(f"{words}.value = 'LR 1.5'; {words}.dispatchEvent(new Event('input'))")
    assert window.value(labels) == window.value(rows) == ["muon lr 1.5"]
    quantity = "document.querySelector('[data-choice=quantity]')"
    window.value(f"{quantity}.value = 1; {quantity}.dispatchEvent(new Event('change'))")
    assert window.value(f"{explorer}.plot.series.at(-1).label") == "optimum"
    assert {v for v in window.value(f"{explorer}.plot.data.at(-1)") if v is not None} == {1}
    window.value(f"{words}.value = 'nobody'; {words}.dispatchEvent(new Event('input'))")
    assert window.value(rows) == [] and "No name" in window.value("document.querySelector('.hint').textContent")
    assert window.value("document.documentElement.scrollWidth") <= width
    assert window.complaints == []
