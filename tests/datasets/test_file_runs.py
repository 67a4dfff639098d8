"""Runs on data files: what they say of the file, what they keep of it, and what their folders are called."""

import json
from pathlib import Path

import pytest
import yaml

from implicit_bias.config.overrides import compose
from implicit_bias.run import main
from implicit_bias.storage.naming import dataset_name
from implicit_bias.storage.runs import is_finished, read_config, run_directory
from implicit_bias.sweep import execute
from implicit_bias.sweep.clusters.tasks import Ledger, Task
from implicit_bias.sweep.clusters.worker import Event, perform
from implicit_bias.sweep.loading import prepared
from implicit_bias.sweep.outcome import Silent
from implicit_bias.sweep.plan import Cell
from tests.support.data_files import QUICK, labelled, load


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- what is said on loading


def test_a_clean_file_is_told_of_and_recorded(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("wine.csv").write_text(labelled(["red", "white", "red", "red", "white", "red"]))
    line = "dataset.path=wine.csv: 6 samples, 2 features, 2 classes: red (4), white (2); separable by a linear model: yes\n"
    assert main([*QUICK, "dataset.path=wine.csv"]) == 0
    assert capsys.readouterr().err == line
    (run,) = folder.glob("results/runs/*")
    content = {"samples": 6, "features": 2, "num_classes": 2, "classes": {"red": 4, "white": 2}}
    assert json.loads((run / "provenance.json").read_text())["data"] == content
    assert yaml.safe_load((run / "config.yaml").read_text())["data"] == content
    assert main([*QUICK, "dataset.path=wine.csv"]) == 0  # finished before
    assert capsys.readouterr().err == line


def test_generated_data_are_recorded_and_nothing_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK[1:], "dataset.num_classes=3", "dataset.dim=4", "dataset.samples_per_class=2"]) == 0
    assert capsys.readouterr().err == ""
    (run,) = folder.glob("results/runs/*")
    assert json.loads((run / "provenance.json").read_text())["data"] == {
        "samples": 6, "features": 4, "num_classes": 3, "classes": {"0": 2, "1": 2, "2": 2},
    }  # fmt: skip
    assert "data" not in read_config(run)


def test_a_sweep_tells_of_each_file_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("one.csv").write_text(labelled(["a", "b", "a", "NA"]))
    Path("two.csv").write_text(labelled(["a", "b", "a", "b"]))
    assert main(["-m", *QUICK, "dataset.path=one.csv,two.csv", "optimizer=signgd,ngd", "seed=1,2"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "dataset.path=" in line]
    assert [line.partition(": ")[0] for line in lines] == ["dataset.path=one.csv", "warning", "dataset.path=two.csv"]


def test_workers_do_not_tell_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("one.csv").write_text(labelled(["a", "b", "a", "NA"]))
    found = list(prepared([compose([*QUICK, "dataset.path=one.csv"])[0].spec]))
    cells = [cell for cell in found if isinstance(cell, Cell)]
    assert len(capsys.readouterr().err.splitlines()) == 2
    ledger = Ledger([None], {0: None}, Silent(), lambda *settled: None)
    events: list[Event] = []
    perform(ledger.message(Task(0, cells), "test"), events.append)
    assert capsys.readouterr().err == ""
    assert [event["status"] for event in events if event["event"] == "cell"] == ["done"]
    assert not any(event["event"] == "warning" for event in events)


def test_features_however_small_are_trained_on_as_their_multiples_are(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(1, 0.5, 0), (2, -0.3, 0), (-1, 0.2, 1), (-3, -1, 1)]
    shares = []
    for name, power in (("tiny", -99), ("plain", 0)):
        lines = [f"{a}e{power},{b}e{power},{label}" for a, b, label in rows]
        (folder / f"{name}.csv").write_text("\n".join(["a,b,label", *lines]) + "\n")
        given = [f"dataset.path={name}.csv", "steps=300", "log.points=5", "log.norms=[linf]", "progress=off", "compile=off"]
        assert main(["dataset=file", *given, "optimizer=signgd", "--json"]) == 0
        shares.append(json.loads(capsys.readouterr().out)["norms"][0])
    assert abs(shares[0]["share"] / shares[1]["share"] - 1) < 1e-9 and shares[0]["margin"] < 1e-98


def test_of_many_classes_the_first_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("my.csv").write_text(labelled([f"c{i % 12:02d}" for i in range(36)]))
    assert main([*QUICK, "dataset.path=my.csv"]) == 0
    line = capsys.readouterr().err.splitlines()[0]
    assert line.endswith(
        "12 classes: " + ", ".join(f"c{i:02d} (3)" for i in range(10)) + ", ... (12 in all); separable by a linear model: no"
    )


def test_a_caution_is_a_warning_and_a_refusal_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("my.csv").write_text(labelled(["1_0", "10", "2", "2"]))
    assert main([*QUICK, "dataset.path=my.csv"]) == 0
    told, warning = capsys.readouterr().err.splitlines()
    assert told.endswith("3 classes: 10 (1), 1_0 (1), 2 (2); separable by a linear model: no") and warning.startswith(
        "warning: dataset.path=my.csv: the labels "
    )
    Path("my.csv").write_text("a,b,label\n1_0,2,0\n2,1,1\n")
    assert main([*QUICK, "dataset.path=my.csv"]) == 2
    error = capsys.readouterr().err
    assert error == "error: dataset.path=my.csv: line 2, column 'a': '1_0' is not a number (an underscore is no part of one)\n"


# --- the name of a run


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("wine.csv", "wine"),
        ("some/where/wine-red_2.0.csv", "wine-red_2.0"),
        ("my data (new).csv", "my_data_new"),
        ("données.npz", "donnees"),
        ("数据.csv", "file"),
        ("../..hidden.csv", "hidden"),
        ("-rf.csv", "rf"),
        ("a\nb.csv", "a_b"),
        ("x" * 300 + ".npz", "x" * 40),
        ("..csv", "file"),
        (None, "file"),
    ],
)
def test_the_name_of_a_file_in_that_of_its_run(path: str | None, name: str) -> None:
    spec = compose(["dataset=file"])[0].spec.altered({"dataset.path": path})
    assert dataset_name(spec) == name
    assert run_directory(spec, "0123") == Path(f"results/runs/{name}-linear-muon-seed1-0123")


def test_a_folder_of_the_earlier_name_is_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("wine.csv").write_text(labelled(["a", "b", "a", "b"]))
    spec = compose([*QUICK, "dataset.path=wine.csv"])[0].spec
    assert main(["-m", *QUICK, "dataset.path=wine.csv", "seed=1,2"]) == 0
    first, second = sorted(folder.glob("results/runs/*"))
    (sweep,) = folder.glob("results/sweeps/*")
    assert sweep.name.startswith("wine-linear-") and first.name.startswith("wine-linear-signgd-seed1-")
    # As earlier versions left it: no file's name, no content in the provenance, the same hash.
    old = first.rename(first.with_name(first.name.replace("wine-", "file-", 1)))
    (again,) = execute([spec], command="test")
    assert again.status == "skipped" and again.directory is not None and again.directory.name == old.name
    (forced,) = execute([spec.altered({"force": True})], command="test")
    assert forced.status == "done" and forced.directory == again.directory and is_finished(old)
    assert sorted(folder.glob("results/runs/*")) == [old, second]
    (named,) = execute([spec.altered({"name": "mine"})], command="test")
    assert named.directory is not None and named.directory.name == old.name.replace("file-linear-signgd-seed1", "mine")


def test_the_folder_of_an_earlier_sweep_is_kept(folder: Path) -> None:
    for name in ("one", "two"):
        Path(f"{name}.csv").write_text(labelled(["a", "b", "a", name]))
    arguments = ["-m", *QUICK, "dataset.path=one.csv", "seed=1,2"]
    assert main(arguments) == 0
    (sweep,) = folder.glob("results/sweeps/*")
    old = sweep.rename(sweep.with_name(sweep.name.replace("one-", "file-", 1)))
    assert main(arguments) == 0
    assert list(folder.glob("results/sweeps/*")) == [old]
    assert main(["-m", *QUICK, "dataset.path=one.csv,two.csv"]) == 0
    assert len(list(folder.glob("results/sweeps/file-linear-*"))) == 2  # of several files it has the name of none


def test_merged_labels_were_another_run(folder: Path) -> None:
    """A folder in which 1_0 and 10 were one class is not taken for one in which they are two."""
    Path("plain.csv").write_text(labelled(["dog", "cat", "01", "1"]))
    Path("my.csv").write_text(labelled(["1_0", "10", "2", "2"]))
    assert load("my.csv").reading and not load("plain.csv").reading
    spec = compose([*QUICK, "dataset.path=my.csv"])[0].spec
    old = run_directory(spec, spec.hash(spec.dataset.fingerprint()))
    (outcome,) = execute([spec], command="test")
    assert outcome.directory is not None and outcome.directory.name != old.name
