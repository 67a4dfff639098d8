"""What a report says before it begins: how many figures, about how long, and how fewer are chosen."""

import json
from pathlib import Path

import pytest

from implicit_bias.report.command import _outlook
from implicit_bias.report.make import chosen
from implicit_bias.report.request import Request

CHOICE = "; only=NAME,... makes some (--help has the names)"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """All figures took two minutes, and three the last time on this machine, but for rates, of which nothing is known."""
    names = [figure.name for figure in chosen(()) if figure.name != "rates"]
    for folder, minutes in (("figures", 2.0), ("cache", [2.5, 0.5])):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "minutes.json").write_text(json.dumps(dict.fromkeys(names, minutes)))
    return tmp_path


def test_all_figures_are_announced_with_their_time_and_how_some_are_chosen(results: Path) -> None:
    figures = chosen(())
    (rates,) = chosen(["rates"])
    alone = 3 * (len(figures) - 1) + 2 * rates.minutes.at("default")
    began = f"{len(figures)} figures, preset default: about"
    said = _outlook(figures, figures, Request(results_dir=str(results)))
    assert said == f"{began} {alone / 60:.1f} hours of one process if nothing is there yet{CHOICE}, workers=2 computes on two"
    said = _outlook(figures, figures, Request(results_dir=str(results), workers=2))
    assert said == f"{began} {alone / 2:.0f} minutes on 2 processes if nothing is there yet{CHOICE}"


def test_figures_that_were_named_are_announced_without(results: Path) -> None:
    figures = chosen(["boosting", "fan_fig1"])
    said = _outlook(figures, figures[:1], Request(results_dir=str(results), only=("boosting", "fan_fig1")))
    assert said == "1 figure, preset default: about 3 minutes of one process if nothing is there yet; 1 more is up to date"
