"""Tables that are made again: how far they are from those that are kept, and what is written then."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from implicit_bias.figures.base import PerPreset, Preset
from implicit_bias.figures.own.newton_schulz import NewtonSchulz
from implicit_bias.report import command as report
from implicit_bias.report.agreement import difference, kept_beside, relative
from implicit_bias.report.files import table_path, write_table
from implicit_bias.report.minutes import Minutes, keep_minutes, last_minutes, read_minutes
from implicit_bias.storage.files import csv_bytes, read_table

FIGURE = NewtonSchulz()
KEPT = pd.DataFrame({"method": ["exact", "NS5"], "step": [1, 2], "ratio": [0.5, np.nan]})


def test_differences_are_relative_and_missing_numbers_are_none() -> None:
    def apart(kept: list[float], made: list[float]) -> list[float]:
        return [float(f"{share:.3g}") for share in relative(np.array(kept), np.array(made))]

    assert apart([100.0, 1e-6], [101.0, 2e-6]) == [0.0099, 0.5]
    assert apart([0.0, 1e-12, np.nan, np.inf], [1e-10, 5e-11, np.nan, np.inf]) == [0, 0, 0, 0]
    assert apart([1.0, np.nan, 1.0], [np.nan, 1.0, np.inf]) == [np.inf] * 3
    # A number that passes through zero is held against the size that the column usually has.
    assert apart([-1.0, 0.001, 1.0], [-1.0, 0.002, 1.0]) == [0, 0.001, 0]


def test_two_tables_differ_by_a_column_or_cannot_be_compared() -> None:
    near, far = KEPT.assign(ratio=[0.5002, np.nan]), KEPT.assign(ratio=[0.51, np.nan])
    assert str(difference(FIGURE, KEPT, near)) == "largest difference 4e-4, within 1e-3"
    assert str(difference(FIGURE, KEPT, far)) == "largest difference 2e-2 in ratio, beyond 1e-3"
    assert difference(FIGURE, KEPT, KEPT).within and not difference(FIGURE, KEPT, far).within
    loose = type("Loose", (NewtonSchulz,), {"tolerances": {"ratio": 0.1}})()
    assert difference(loose, KEPT, far).within
    for other, reason in (
        (KEPT.assign(method=["exact", "NS10"]), "other names in column method"),
        (KEPT.iloc[:1], "1 rows; 2 are kept"),
        (KEPT.rename(columns={"ratio": "share"}), "columns method, step, share; those kept are method, step, ratio"),
    ):
        assert str(difference(FIGURE, KEPT, other)) == reason and not difference(FIGURE, KEPT, other).within


def test_minutes_beside_a_figure_change_with_its_table_alone_and_those_of_the_cache_always(tmp_path: Path) -> None:
    for table, moved, shown in ((0.5, False, 1.5), (9.0, False, 1.5), (1.2, True, 2.2), (0.0, False, 2.2)):
        keep_minutes(tmp_path, "rates", Minutes(1.0, table), moved=moved)
        assert read_minutes(tmp_path) == {"rates": shown}
        assert last_minutes(tmp_path) == {"rates": (1.0, table)}
    (tmp_path / "cache" / "minutes.json").write_text("[3")
    assert last_minutes(tmp_path) == {}


@pytest.mark.parametrize("damaged", ['"a"', "null", "-1", "NaN", "Infinity", "true", "[]"])
def test_minutes_that_are_no_times_are_not_known(damaged: str, tmp_path: Path) -> None:
    keep_minutes(tmp_path, "rates", Minutes(1.0, 0.5), moved=True)
    for kind, told in (("cache", f"[1.0, {damaged}]"), ("figures", damaged)):
        (tmp_path / kind / "minutes.json").write_text(f'{{"rates": {told}, "fan_fig1": {told.replace(damaged, "2")}}}')
    assert last_minutes(tmp_path) == {"fan_fig1": (1.0, 2.0)} and read_minutes(tmp_path) == {"fan_fig1": 2.0}


@pytest.mark.slow
def test_what_agrees_is_left_as_it_is_and_what_does_not_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("implicit_bias.figures.own.newton_schulz.STEPS", PerPreset(20, 20, 20))
    # Pictures take most of the time; that they are drawn is tested elsewhere.
    monkeypatch.setattr("implicit_bias.report.files.saved", lambda picture, kind: kind.encode())
    monkeypatch.setattr("implicit_bias.report.page.write_report", lambda *given: None)
    arguments = ["only=newton_schulz", f"results_dir={tmp_path}"]
    assert report.main([*arguments, "verify=true"]) == 2
    said = f"there is no {tmp_path}/figures/newton_schulz.csv; must be made first, without verify=true"
    assert capsys.readouterr().err == f"error: verify=true: {said}\n" and list(tmp_path.iterdir()) == []
    assert report.main(arguments) == 0
    path = tmp_path / "figures" / "newton_schulz.csv"
    kept = read_table(path)
    for factor, code in ((1 + 1e-4, 0), (1.1, 1)):
        changed = csv_bytes(kept.assign(ratio=kept["ratio"] * factor))
        path.write_bytes(changed)
        before = {file: file.read_bytes() for file in tmp_path.rglob("figures/*") if "cache" not in file.parts}
        capsys.readouterr()
        assert report.main([*arguments, "verify=true"]) == code
        told = capsys.readouterr().out.splitlines()
        assert told[-2].startswith(
            "newton_schulz: largest difference 1" if code == 0 else "newton_schulz: largest difference 9.1e-2 in"
        )
        assert told[-1] == f"{1 - code} of 1 tables agree"
        assert {file: file.read_bytes() for file in before} == before
        assert report.main(arguments) == 0
        assert (path.read_bytes() == changed) == (code == 0)
    assert path.read_bytes() == csv_bytes(kept)


def test_verify_is_not_for_tables_that_are_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["verify=true", "redraw=true", f"results_dir={tmp_path}"]) == 2
    assert capsys.readouterr().err == "error: verify=true: not with redraw=true, which makes no table\n"
    assert list(tmp_path.iterdir()) == []


def test_a_table_at_the_papers_sizes_is_compressed_and_says_the_same(tmp_path: Path) -> None:
    table = pd.DataFrame({"method": ["a", "b"], "step": [1, 2], "ratio": [1 / 3, np.nan]})
    presets: tuple[tuple[Preset, str], ...] = (("default", "csv"), ("paper", "csv.gz"))
    found = []
    for preset, ending in presets:
        path = table_path(tmp_path / "figure", preset)
        assert path == tmp_path / f"figure.{ending}"
        write_table(table, path)
        first = path.read_bytes()
        write_table(table, path)
        assert path.read_bytes() == first
        found.append(read_table(path))
    pd.testing.assert_frame_equal(found[0], found[1])
    assert gzip.decompress(first) == (tmp_path / "figure.csv").read_bytes()
    figure = NewtonSchulz()
    for damaged in (first[: len(first) // 2], first[:12] + bytes(8) + first[20:]):
        path.write_bytes(damaged)
        assert kept_beside(figure, path, table) is None, "it is made again"


@pytest.mark.parametrize(("preset", "rows"), [("default", 1000), ("paper", 10)])
def test_fewer_records_are_kept_at_the_papers_sizes_alone(preset: Preset, rows: int) -> None:
    class Few(NewtonSchulz):
        records_a_decade = 3

    table = pd.DataFrame({"step": range(1, 1001)})
    assert len(Few().kept(table, preset)) == rows
    assert len(FIGURE.kept(table, preset)) == 1000
