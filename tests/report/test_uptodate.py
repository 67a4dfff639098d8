"""What is made again, and what is not: stamps of figures, and the whole command run over and over."""

import json
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from implicit_bias.figures import FIGURES, Claim
from implicit_bias.figures.base import PerPreset
from implicit_bias.report import command as report
from implicit_bias.report import uptodate

#: Two quick figures, of no data but numbers: one with runs of its own settings, one with a table that computes.
QUICK = ("exact_tail", "newton_schulz")


def forget() -> None:
    """Digests are kept for the life of a process; here sources change."""
    for kept in (uptodate.everything, uptodate.drawing, uptodate.versions):
        kept.cache_clear()


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    forget()
    yield
    forget()


def stamped(folder: Path) -> list[Claim]:
    """A figure's files, a run folder and a stamp, all made up."""
    for kind in uptodate.endings("smoke"):
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        (folder / "figures" / f"rates.{kind}").write_text(kind)
    (folder / "runs" / "a").mkdir(parents=True)
    (folder / "runs" / "a" / "provenance.json").write_text("{}")
    claims = [
        Claim("rates", "c", "", "1", "", True, "smoke", "s", "where", kind="theorem"),
        Claim("rates", "d", "", "", "", None, "smoke", "s", kind="check"),
    ]
    uptodate.write_stamp(folder, "rates", "implicit_bias.figures.fan.rates", "smoke", [folder / "runs" / "a"], claims)
    return claims


def test_a_stamp_gives_back_the_claims_until_something_changes(tmp_path: Path) -> None:
    claims = stamped(tmp_path)
    assert uptodate.unchanged(tmp_path, "rates", "smoke") == claims
    assert uptodate.unchanged(tmp_path, "rates", "default") is None
    assert uptodate.unchanged(tmp_path, "adam_eps", "smoke") is None
    (tmp_path / "runs" / "a" / "provenance.json").write_text("{ }")
    assert uptodate.unchanged(tmp_path, "rates", "smoke") is None
    module = "implicit_bias.figures.fan.rates"
    assert uptodate.drawn_alike(tmp_path, "rates", module, "smoke")
    assert uptodate.same_runs(tmp_path, "rates", module, "smoke", [tmp_path / "runs" / "a"]) is None
    (tmp_path / "runs" / "a" / "provenance.json").write_text("{}")
    assert uptodate.same_runs(tmp_path, "rates", module, "smoke", [tmp_path / "runs" / "a"]) == claims
    assert uptodate.unchanged(tmp_path, "rates", "smoke") == claims


@pytest.mark.parametrize("kind", uptodate.endings("smoke"))
def test_a_file_that_was_edited_or_is_gone_is_no_longer_up_to_date(kind: str, tmp_path: Path) -> None:
    stamped(tmp_path)
    (tmp_path / "figures" / f"rates.{kind}").write_text("edited")
    assert uptodate.unchanged(tmp_path, "rates", "smoke") is None
    assert not uptodate.drawn_alike(tmp_path, "rates", "implicit_bias.figures.fan.rates", "smoke")
    (tmp_path / "figures" / f"rates.{kind}").unlink()
    assert uptodate.unchanged(tmp_path, "rates", "smoke") is None


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"everything": 1}', '"text"'])
def test_a_corrupt_stamp_is_no_stamp(content: str, tmp_path: Path) -> None:
    stamped(tmp_path)
    path = uptodate.stamp_path(tmp_path, "rates")
    good = json.loads(path.read_text())
    for damaged in (content, json.dumps({**good, "claims": [{"figure": "rates"}]}), json.dumps({**good, "runs": None})):
        path.write_text(damaged)
        assert uptodate.unchanged(tmp_path, "rates", "smoke") is None


def test_a_data_file_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stamped(tmp_path / "results")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train").write_text("x")
    monkeypatch.setenv("IMPLICIT_BIAS_DATA", str(tmp_path / "data"))
    uptodate.everything.cache_clear()
    assert uptodate.unchanged(tmp_path / "results", "rates", "smoke") is None


def test_a_figure_depends_on_all_that_computes_or_draws_but_other_figures() -> None:
    def names(figure: str) -> set[str]:
        return {str(path.relative_to(uptodate.ROOT)) for path in uptodate.sources(FIGURES.get(figure).__module__)}

    first, momentum = names("fan_fig1"), names("fan_fig1_momentum")
    assert first ^ momentum == {"figures/fan/fan_fig1.py", "figures/fan/fan_fig1_momentum.py"}
    assert {"figures/fan/gaps.py", "figures/fan/common.py", "figures/base.py", "plotting/style.py", "report/files.py"} <= first
    assert {"models/linear.py", "losses/base.py", "datasets/gaussian_mixture.py"} <= first
    assert any(name.endswith("linear.c") for name in first)
    assert not any(name.startswith(("bench/", "sweep/", "compare/")) for name in first)
    for name in FIGURES.names():
        assert any(path.endswith(f"/{name}.py") for path in names(name))


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the sources that stamps are compared with, which may be edited; figures at sizes that take a second."""
    shutil.copytree(uptodate.ROOT, tmp_path / "implicit_bias", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(uptodate, "ROOT", tmp_path / "implicit_bias")
    # Pictures take most of the time; that they are drawn is tested elsewhere. One that stays the same would not be written.
    drawn = count()
    monkeypatch.setattr("implicit_bias.report.files.saved", lambda picture, kind: f"{kind} {next(drawn)}".encode())
    monkeypatch.setattr("implicit_bias.report.page.write_report", lambda *given: None)
    for name in QUICK:
        monkeypatch.setattr(f"{FIGURES.get(name).__module__}.STEPS", PerPreset(20, 20, 20))
    return tmp_path


def made_again(checkout: Path, *arguments: str) -> set[str]:
    """Give the command again; which of the figures' pictures were written."""
    forget()
    pictures = {name: checkout / "results" / "smoke" / "figures" / f"{name}.png" for name in QUICK}
    before = {name: path.stat().st_mtime_ns if path.exists() else 0 for name, path in pictures.items()}
    common = ["preset=smoke", f"only={','.join(QUICK)}", f"results_dir={checkout / 'results'}"]
    assert report.main([*common, *arguments]) == 0
    return {name for name, path in pictures.items() if path.stat().st_mtime_ns != before[name]}


def add_a_line(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8") + "# edited\n", encoding="utf-8")


@pytest.mark.slow
def test_again_makes_only_what_depends_on_what_was_edited(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tail, stall = QUICK
    assert made_again(checkout) == set(QUICK)
    with monkeypatch.context() as nothing:
        nothing.setattr("implicit_bias.config.overrides.compose", lambda *a, **k: pytest.fail("composed"))
        assert made_again(checkout) == set()
    assert f"{len(QUICK)} figures are up to date" in capsys.readouterr().err
    # What draws no figure: looked into, and nothing made, nor looked into again.
    add_a_line(checkout / "implicit_bias" / "bench" / "command.py")
    assert made_again(checkout) == set()
    add_a_line(checkout / "implicit_bias" / "figures" / "own" / f"{tail}.py")
    assert made_again(checkout) == {tail}
    add_a_line(checkout / "implicit_bias" / "plotting" / "style.py")
    assert made_again(checkout) == set(QUICK)
    # A sweep of other runs, the sources of the picture being the same.
    add_a_line(checkout / "implicit_bias" / "bench" / "command.py")
    monkeypatch.setattr(f"{FIGURES.get(stall).__module__}.STEPS", PerPreset(30, 30, 30))
    assert made_again(checkout) == {stall}
    # A damaged run is computed again.
    (damaged, *_) = sorted((checkout / "results" / "smoke" / "runs").glob("gaussian_mixture-*"))
    (damaged / "provenance.json").unlink()
    assert made_again(checkout) == {tail}
    (checkout / "results" / "smoke" / "figures" / f"{stall}.pdf").unlink()
    assert made_again(checkout) == {stall}
    assert made_again(checkout, "force=true") == set(QUICK)
    assert made_again(checkout, "redraw=true") == set(QUICK)


def test_an_empty_choice_of_figures_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["only="]) == 2
    assert "only=: no such figure" in capsys.readouterr().err
