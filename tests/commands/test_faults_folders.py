"""Results folders that others write to, too: deleted, edited, forged, in the way; what a killed command leaves is removed."""

import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from implicit_bias.run import main, run
from implicit_bias.storage import checkpoints
from implicit_bias.storage.integrity import damage
from implicit_bias.storage.runs import is_finished
from tests.support.commands import checkpoint_files, forking

module = import_module("implicit_bias.sweep.execute")
SMALL = ["dataset.num_classes=3", "dataset.dim=6", "dataset.samples_per_class=3", "dataset.noise=0.3", "log.norms=[linf,l2]"]
SMALL += ["log.points=5", "progress=off", "compile=off", "reference=none", "steps=20"]


launchers = pytest.mark.parametrize(
    "launcher", [[], pytest.param(["launcher.cluster=local", "launcher.workers=1"], marks=pytest.mark.slow)]
)


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are forked from this process, which has imported everything."""
    monkeypatch.setattr("implicit_bias.sweep.clusters.local.subprocess", forking())


def one_line(text: str) -> str:
    assert text.count("\n") == 1 and text.endswith("\n"), text
    return text.rstrip("\n")


def forged(folder: Path, **files: bytes) -> None:
    """Write other files into a run folder, and checksums that fit."""
    story = json.loads((folder / "provenance.json").read_text())
    for name, content in files.items():
        name = {"config": "config.yaml", "final": "final.npz"}.get(name, f"{name}.csv")
        (folder / name).write_bytes(content)
        story["files"][name] = hashlib.sha256(content).hexdigest()
    (folder / "provenance.json").write_text(json.dumps(story))
    assert damage(folder) is None


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of one finished run, to be copied."""
    results = tmp_path_factory.mktemp("original") / "results"
    run(*SMALL, results_dir=results)
    return results


@pytest.fixture
def finished(tmp_path: Path, original: Path) -> Path:
    """The folder of a finished run."""
    (folder,) = (shutil.copytree(original, tmp_path / "results") / "runs").iterdir()
    return folder


# --- a start that is no run ------------------------------------------------------------------------------------------


def npz(compression: int = zipfile.ZIP_STORED, **changes: Any) -> bytes:
    """A final.npz with other arrays, or with other bytes in the place of one."""
    arrays: dict[str, Any] = {"weight": np.ones((3, 6)), "log_scale": np.array(0.0), "log_loss": np.array(-1.0), **changes}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, array in arrays.items():
            content = io.BytesIO()
            if isinstance(array, bytes):
                content.write(array)
            elif array is not None:
                np.save(content, array, allow_pickle=True)
            if array is not None:
                file.writestr(f"{name}.npy", content.getvalue())
    return buffer.getvalue()


HUGE = np.full((3, 6), np.longdouble("1e400"))
NO_STARTS = {
    "empty": b"",
    "text": b"not a zip",
    "cut": npz()[:300],
    "lzma": npz(zipfile.ZIP_LZMA),
    "no array": npz(weight=b"hello"),
    "length zero": npz(weight=b""),
    "cut header": npz(weight=b"\x93NUMPY\x01\x00v\x00{'descr'"),
    "objects": npz(weight=np.array([{}] * 18, dtype=object).reshape(3, 6)),
    "complex": npz(weight=np.ones((3, 6), dtype=complex)),
    "boolean": npz(weight=np.ones((3, 6), dtype=bool)),
    "integer": npz(weight=np.ones((3, 6), dtype=int)),
    "text weights": npz(weight=np.full((3, 6), "1")),
    "long double": npz(weight=HUGE),
    "half": npz(weight=np.ones((3, 6), dtype=np.float16)),
    "foreign order": npz(weight=np.ones((3, 6), dtype=">f8")),
    "nan": npz(weight=np.full((3, 6), np.nan)),
    "infinite": npz(weight=np.full((3, 6), -np.inf)),
    "other shape": npz(weight=np.ones((6, 3))),
    "no block": npz(weight=None),
    "another block": npz(bias=np.ones((1, 3))),
    "no scale": npz(log_scale=None),
    "scale -inf": npz(log_scale=np.array(-np.inf)),
    "scale nan": npz(log_scale=np.array(np.nan)),
    "scale too large": npz(log_scale=np.array(800.0)),
    "scale too small": npz(log_scale=np.array(-1e6)),
    "scale of four": npz(log_scale=np.zeros(4)),
    "text scale": npz(log_scale=np.array("0")),
    "complex scale": npz(log_scale=np.array(0j)),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", NO_STARTS)
@pytest.mark.parametrize("consistent", [True, False])
def test_a_start_that_is_no_finished_run_is_refused(
    finished: Path, capsys: pytest.CaptureFixture[str], kind: str, consistent: bool
) -> None:
    """Whether its checksums fit what it holds or not."""
    if consistent:
        forged(finished, final=NO_STARTS[kind])
    else:
        (finished / "final.npz").write_bytes(NO_STARTS[kind])
    results = finished.parents[2] / "other"
    assert main([*SMALL, f"start='{finished}'", f"results_dir={results}"]) == 2
    assert one_line(capsys.readouterr().err).startswith(f"error: start={finished}: ")
    assert not results.exists()


@pytest.mark.parametrize("name", ["config.yaml", "summary.csv", "trajectory.csv", "provenance.json"])
@pytest.mark.parametrize("edit", ["edited", "removed"])
def test_a_start_of_an_edited_folder_is_refused(finished: Path, capsys: pytest.CaptureFixture[str], name: str, edit: str) -> None:
    if edit == "removed":
        (finished / name).unlink()
    else:
        (finished / name).write_text("steps: 3\n")
    assert main([*SMALL, f"start='{finished}'", f"results_dir={finished.parents[2] / 'other'}"]) == 2
    line = one_line(capsys.readouterr().err)
    assert line.startswith(f"error: start={finished}: damaged, {name} ") and "must be" in line


@pytest.mark.parametrize("start", ["x" * 5000, "nul\0", "."])
def test_a_start_that_cannot_be_a_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], start: str) -> None:
    assert main([*SMALL, f"start='{start}'", f"results_dir={tmp_path / 'r'}"]) == 2
    assert one_line(capsys.readouterr().err).startswith("error: start=")


@pytest.mark.parametrize(("precision", "factor"), [("float64", 1e308), ("float32", 1e38)])
def test_a_start_scaled_beyond_the_precision_is_refused(
    finished: Path, capsys: pytest.CaptureFixture[str], precision: str, factor: float
) -> None:
    forged(finished, final=npz(weight=np.full((3, 6), 10.0)))
    scaled = [*SMALL, f"start='{finished}'", f"start_scale={factor}", f"precision={precision}"]
    assert main([*scaled, f"results_dir={finished.parents[2] / 'other'}"]) == 2
    assert "start_scale" in one_line(capsys.readouterr().err)


# --- finished folders that are none ----------------------------------------------------------------------------------

PROVENANCES = {
    "brackets": b"[" * 100_000,
    "brackets in a mapping": b'{"files":' * 100_000,
    "nul in a name": b'{"files": {"a\\u0000b": "0"}}',
    "line in a name": b'{"files": {"a\\nb": "0"}}',
    "name above": b'{"files": {"../../x": "0"}}',
    "name elsewhere": b'{"files": {"/dev/zero": "0"}}',
    "a folder": b'{"files": {"..": "0"}}',
    "a list": b'{"files": [1, 2]}',
    "a number": b"3",
    "no utf-8": b"\xff\xfe{",
}


@pytest.mark.parametrize("kind", PROVENANCES)
def test_a_provenance_that_makes_no_sense_is_one_warning_and_the_run_is_computed_again(
    finished: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    (finished / "provenance.json").write_bytes(PROVENANCES[kind])
    assert main([*SMALL, f"results_dir={finished.parents[1]}"]) == 0
    captured = capsys.readouterr()
    assert one_line(captured.err).startswith(f"warning: {finished}: ")
    assert "finished before" not in captured.out
    assert is_finished(finished)


@pytest.mark.parametrize("content", [b"", b"\x00\xff\xfe", b'a,b\n1\n"', b"seed,step\n1,2\n"])
@pytest.mark.parametrize("table", ["trajectory", "summary"])
def test_tables_that_no_run_wrote_are_one_warning_and_the_run_is_computed_again(
    finished: Path, capsys: pytest.CaptureFixture[str], table: str, content: bytes
) -> None:
    forged(finished, **{table: content})
    assert main([*SMALL, f"results_dir={finished.parents[1]}"]) == 0
    assert "computed again" in one_line(capsys.readouterr().err)


# --- something in the way --------------------------------------------------------------------------------------------


def file_in_its_place(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("mine")


def dangling_link(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to("nowhere")


def link_to_a_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    (folder.parent.parent / "elsewhere").mkdir()
    folder.symlink_to(folder.parent.parent / "elsewhere")


def file_above(folder: Path) -> None:
    shutil.rmtree(folder.parent)
    folder.parent.write_text("mine")


@pytest.mark.parametrize("place", [file_in_its_place, dangling_link, link_to_a_folder, file_above])
@pytest.mark.parametrize("more", [[], ["force=true"]])
def test_what_stands_where_a_run_folder_goes_is_noticed_before_anything_is_computed(
    finished: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    place: Callable[[Path], None],
    more: list[str],
) -> None:
    place(finished)
    monkeypatch.setattr(module, "simulate", lambda *_: pytest.fail("computed"))
    assert main([*SMALL, *more, f"results_dir={finished.parents[1]}"]) == 2
    line = one_line(capsys.readouterr().err)
    taken = finished.parent if place is file_above else finished
    assert line.startswith(f"error: results_dir={finished.parents[1]}: {taken} is a ")
    if place is file_in_its_place:
        assert finished.read_text() == "mine"


def test_a_link_to_a_finished_run_is_that_run(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = finished.parent.parent / "moved"
    finished.rename(moved)
    finished.symlink_to(moved)
    assert main([*SMALL, f"results_dir={finished.parents[1]}"]) == 0
    assert "finished before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (["dataset=file", "dataset.path='nowhere.csv'"], "error: dataset.path=nowhere.csv: "),
        (["dataset=file", f"dataset.path='{'x' * 5000}.npz'"], "error: dataset.path=xxx"),
        (["dataset=file", f"dataset.path='{'x/' * 2500}a.csv'"], "error: dataset.path=x/x"),
        (["dataset.dim=1e12"], "error: dataset.dim=1000000000000: the samples would take "),
        (["dataset.samples_per_class=1e15"], "error: dataset.samples_per_class=1000000000000000: the samples would take "),
        (["dataset=teacher_student", "dataset.neurons=1e14"], "error: dataset.neurons=100000000000000: the samples would "),
        (["dataset=random_labels", "dataset.samples=1e13"], "error: dataset.samples=10000000000000: the samples would "),
        (
            ["dataset.num_classes=1e5", "dataset.dim=1", "dataset.samples_per_class=1"],
            "error: dataset.num_classes=100000: the scores ",
        ),
        (["model=mlp", "model.width=1e8"], "error: model.width=100000000: the parameters of one run would take "),
    ],
)
def test_data_that_cannot_be_had_leave_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, typed: list[str], line: str
) -> None:
    monkeypatch.setattr("implicit_bias.runtime.memory.available", lambda _: 2**34)  # whatever this machine has
    assert main([*typed, "progress=off", f"results_dir={tmp_path / 'a' / 'b'}"]) == 2
    assert one_line(capsys.readouterr().err).startswith(line)
    assert list(tmp_path.iterdir()) == []


def test_data_that_break_the_memory_are_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody can say how much memory there is."""
    monkeypatch.setattr("implicit_bias.runtime.memory.available", lambda _: None)
    assert main(["dataset.dim=1e12", f"results_dir={tmp_path / 'a'}"]) == 2
    assert one_line(capsys.readouterr().err).startswith("error: dataset=gaussian_mixture: the samples do not fit")


@pytest.mark.parametrize("name", ["x" * 5000, "x/" * 2100, "nul\0"])
def test_a_results_folder_that_cannot_be_named_is_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*SMALL, f"results_dir='{name}'"]) == 2
    assert one_line(capsys.readouterr().err).startswith("error: results_dir=")
    assert list(tmp_path.iterdir()) == []


# --- deleted while running -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("forked")
@launchers
def test_folders_that_are_deleted_while_a_sweep_runs_are_not_claimed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, launcher: list[str]
) -> None:
    results = tmp_path / "results"
    arguments = ["-m", *SMALL, "seed=1,2,3", f"results_dir={results}", *launcher]
    tidying = sys.modules["implicit_bias.sweep.tidying"]
    whole = tidying._whole
    seen: list[Path] = []

    parent = os.getpid()

    def deleting(directory: Path) -> bool:
        """Two of the folders go just before the command's last look."""
        if not seen and os.getpid() == parent:
            for path in sorted((results / "runs").iterdir())[:2]:
                shutil.rmtree(path)
                seen.append(path)
        return bool(whole(directory))

    with monkeypatch.context() as patch:
        patch.setattr(tidying, "_whole", deleting)
        assert main(arguments) == 1
    captured = capsys.readouterr()
    line = one_line(captured.err)
    assert line.startswith(f"error: results_dir={results}: {seen[0]} is gone") and "(and 1 more of 3 run folders)" in line
    assert "1 computed, 0 finished before, 2 failed" in captured.out
    assert main(arguments) == 0
    assert "2 computed, 1 finished before, 0 failed" in capsys.readouterr().out


def test_a_results_folder_that_is_deleted_while_a_run_is_written_is_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = module.write_run

    def lost(directory: Path, **rest: Any) -> None:
        write(directory, **rest)
        shutil.rmtree(directory.parents[1])

    monkeypatch.setattr(module, "write_run", lost)
    results = tmp_path / "results"
    assert main([*SMALL, f"results_dir={results}"]) == 1
    captured = capsys.readouterr()
    assert one_line(captured.err).startswith(f"error: results_dir={results}: {results}/runs/") and captured.out == ""
    with pytest.raises(OSError, match="is gone"):
        run(*SMALL, f"results_dir={results}")


# --- what a killed command leaves --------------------------------------------------------------------------------------


def dead() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@launchers
def test_temporary_names_are_removed_by_a_command_that_has_nothing_to_write(finished: Path, launcher: list[str]) -> None:
    results = finished.parents[1]
    for folder in ("runs", "cache/references", "cache/checkpoints", "sweeps/some-sweep"):
        (results / folder).mkdir(parents=True, exist_ok=True)
        stem = results / folder / f".partial-{socket.gethostname()}-{dead()}-0123"
        stem.write_text("a part")
        stem.with_name(f"{stem.name}4").mkdir()
        (stem.with_name(f"{stem.name}4") / "trajectory.csv").write_text("a part")
        stem.with_name(stem.name.replace(socket.gethostname(), "elsewhere")).write_text("may be at work")
    assert main([*SMALL, f"results_dir={results}", *launcher]) == 0
    left = sorted(path.name for path in results.rglob(".partial-*"))
    assert len(left) == 4 and all(name.startswith(".partial-elsewhere") for name in left)


class Killed(KeyboardInterrupt):
    """Ends a computation in the middle."""


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``killed(*arguments)`` is a command that is killed after its first checkpoint."""

    def until(*arguments: str) -> None:
        with monkeypatch.context() as patch:
            patch.setenv(checkpoints.VARIABLE, "0")
            keep = checkpoints.Checkpoint.keep

            def once(self: checkpoints.Checkpoint, step: int, snapshot: Any) -> None:
                if step == 10:
                    keep(self, step, snapshot)
                    raise Killed

            patch.setattr(checkpoints.Checkpoint, "keep", once)
            assert main(list(arguments)) == 130

    return until


@pytest.mark.usefixtures("forked")
@launchers
def test_a_checkpoint_goes_when_its_runs_are_finished_in_other_batches(
    tmp_path: Path, killed: Callable[..., None], launcher: list[str]
) -> None:
    killed("-m", *SMALL, "seed=2,3,4", f"results_dir={tmp_path}")
    assert len(checkpoint_files(tmp_path)) == 1
    assert main(["-m", *SMALL, "seed=3,4", f"results_dir={tmp_path}", *launcher]) == 0
    assert len(checkpoint_files(tmp_path)) == 1  # seed 2 may still be gone on with
    assert main(["-m", *SMALL, "seed=1,2", f"results_dir={tmp_path}", *launcher]) == 0
    assert checkpoint_files(tmp_path) == []


def test_a_checkpoint_of_a_run_that_is_computed_once_more_stays(tmp_path: Path, killed: Callable[..., None]) -> None:
    assert main([*SMALL, f"results_dir={tmp_path}"]) == 0
    killed(*SMALL, "force=true", f"results_dir={tmp_path}")
    assert main([*SMALL, f"results_dir={tmp_path}"]) == 0
    assert len(checkpoint_files(tmp_path)) == 1
