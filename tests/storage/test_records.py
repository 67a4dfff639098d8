"""What is on disk is whole, exact and told apart by content; faults leave nothing half-written."""

import contextlib
import dataclasses
import errno
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from implicit_bias.config.overrides import compose
from implicit_bias.config.spec import RunSpec, config_hash
from implicit_bias.norms import make_norm
from implicit_bias.solvers.reference import SOLVER_VERSION, Reference
from implicit_bias.storage.files import atomic_write_bytes, atomic_write_text, read_table
from implicit_bias.storage.references import ReferenceCache
from implicit_bias.storage.runs import COLUMNS, is_finished, read_config, read_run, run_directory, write_run

SPEC = compose([])[0].spec
CONFIG: dict[str, Any] = SPEC.canonical
L1, L2 = make_norm("l1"), make_norm("l2")

# One change of every key of a run, with what is needed to make it valid.
CHANGES = [
    "seed=2",
    "dataset.seed=2",
    "dataset.num_classes=3",
    "dataset.dim=5",
    "dataset.samples_per_class=5",
    "dataset.noise=0.5",
    "dataset.test_samples=5",
    "dataset.rotate=1",
    "dataset=random_labels",
    "dataset=digits",
    "dataset=digits dataset.classes=[1,2]",
    "dataset=mnist",
    "model.init=gaussian",
    "model.init_scale=0.1",
    "loss=exponential",
    "loss=pair_logistic",
    "optimizer=muon_ns",
    "optimizer=muon_ns optimizer.ns_steps=6",
    "optimizer=muon_ns optimizer.eps=1e-7",
    "optimizer=muon_ns optimizer.coefficients=polar_express",
    "optimizer=muon_ns optimizer.dtype=bfloat16",
    "optimizer=signgd",
    "optimizer=adam",
    "optimizer=adam optimizer.beta1=0.5",
    "optimizer=adam optimizer.beta2=0.5",
    "optimizer=adam optimizer.eps=1e-8",
    "optimizer=adam optimizer.bias_correction=false",
    "optimizer.beta=0.5",
    "optimizer.weight_decay=0.5",
    "optimizer.nesterov=true",
    "optimizer=momentum_gd",
    "optimizer=momentum_gd optimizer.ema=false",
    "optimizer=nsd",
    "optimizer=nsd norm=linf",
    "optimizer=nsd norm=lp",
    "optimizer=nsd norm=lp norm.p=4",
    "optimizer=nsd norm=lp norm.p=inf",
    "optimizer=nsd norm=schatten",
    "schedule=constant",
    "schedule.lr=0.1",
    "schedule.power=1",
    "steps=5",
    "reference=certified",
    "reference=none",
    "precision=float32",
    "log.norms=[l1]",
    "log.points=30",
    "log.weights=all",
    "log.kkt_iters=5",
    "log.levels=2",
    "log.probes=[rank]",
    "batch.size=5",
    "batch.size=5 batch.order=cyclic",
    "batch.size=5 batch.variance_reduction=svrg",
    "stop_log10_loss=-8",
    "optimizer=gd",
    "optimizer=gd schedule=lyu_li",
    "optimizer=gd schedule=lyu_li schedule.up=2",
    "model=mlp",
    "model=mlp model.width=5",
    "model=mlp model.frozen=[layer1]",
    "model=cnn",
    "model=cnn model.channels=[4]",
    "model=diagonal",
    "model=diagonal model.depth=3",
    "optimizer=muon_signum",
    "optimizer=muon_signum optimizer.ratio=0.5",
    "optimizer=muon_signum optimizer.matrices=[]",
    "optimizer=muon_adam",
    "optimizer=shampoo",
    "optimizer=nsd norm=hybrid norm.outer=l2",
    "optimizer=nsd norm=hybrid norm.outer=l2 norm.rest=l2",
    "model=mlp start_scale=2",
]
RUNTIME = [
    "device=cpu", "results_dir=elsewhere", "name=other", "force=true", "progress=off", "compile=off", "launcher.cluster=local",
    "reference_timeout=5",
    "certificate=show",
]  # fmt: skip


# Folders of these runs have been written under these hashes, and are to be found again.
KNOWN = {
    "": "eb7a3badd7df",
    "optimizer=signgd": "305c62f9e8e4",
    "optimizer=adam": "bc28dbe54b01",
    "optimizer=nsd norm=lp norm.p=4": "4e17b8153957",
    "optimizer=muon_ns": "7c84bcd92747",
    "optimizer=nsd norm=hybrid": "5cba995993fe",
    "optimizer=nmgd steps=50": "c4183ba61707",
    "model=mlp": "2b61543e152a",
    "optimizer=gd model=mlp": "f41b20f7f0c6",
    "optimizer=momentum_gd model=diagonal": "6ed73d6e4e17",
    "optimizer=gd schedule.power=0.5": "98c92285ae76",
    "optimizer=sd norm=linf schedule.power=0.5": "db3b37c04bcb",
    "optimizer=momentum_gd schedule.power=0.5 schedule.lr=0.1": "2ee1901d6036",
    "optimizer=gd schedule.power=0": "fdd9ea52ee6d",
    "optimizer=gd schedule=constant": "9780b435d53c",
    "optimizer=gd schedule=loss_based": "90880e911e0e",
    "optimizer=gd schedule=lyu_li": "e419f1373d82",
}


def config_of(typed: str) -> dict[str, Any]:
    return spec_of(typed).canonical


def spec_of(typed: str) -> RunSpec:
    (cell,) = compose(typed.split())
    return cell.spec


POWERS = (" schedule.power=0", " schedule.power=0.5")


@pytest.mark.parametrize("typed", KNOWN)
def test_hashes_stay(typed: str) -> None:
    assert spec_of(typed).hash() == config_hash(config_of(typed)) == KNOWN[typed]


def test_the_default_of_an_unnormalised_method_is_a_constant_step() -> None:
    for typed in ("optimizer=gd", "optimizer=momentum_gd", "optimizer=sd norm=linf"):
        default, constant, decaying = (config_hash(config_of(f"{typed}{more}")) for more in ("", *POWERS))
        assert default == constant != decaying


def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    """A trajectory with awkward floats, empty cells and infinities, and a summary."""
    rng = np.random.RandomState(0)
    rows = {name: rng.randn(6) * 10.0 ** rng.randint(-300, 300, 6) for name in COLUMNS}
    trajectory = pd.DataFrame({**rows, "seed": 1, "step": [0, 0, 1, 1, 2, 2], "norm": ["linf", "lp3"] * 3})
    trajectory.loc[0, ["lr", "margin"]] = np.nan
    trajectory.loc[1, "log_loss"] = -np.inf
    trajectory.loc[2, "lr"] = 0.1 + 0.2
    trajectory.loc[3, "lr"] = 5e-324
    summary = trajectory.tail(2).assign(optimizer="muon", own=[True, False], ratio=[0.5, np.nan]).reset_index(drop=True)
    return trajectory, summary


def write(directory: Path, **changes: Any) -> None:
    trajectory, summary = tables()
    arguments: dict[str, Any] = {
        "config": SPEC.config_yaml,
        "trajectory": trajectory,
        "summary": summary,
        "weights": {"weight": np.arange(6.0).reshape(2, 3), "log_scale": np.array(0.0)},
        "provenance": {"command": "a command", "device": "cpu", "wall_seconds": 1.5},
    }
    write_run(directory, **{**arguments, **changes})


SAMPLES, LABELS = np.array([[2.0, 0.0, 0.0, 0.0], [-2.0, 0.0, 0.0, 0.0], [2.0, 1.0, 0.0, 0.0]]), np.array([0, 1, 0])


def reference() -> Reference:
    """The l2 optimum of SAMPLES, sqrt 8, from its separator and weights."""
    separator = np.zeros((2, 4))
    separator[:, 0] = [0.5**0.5, -(0.5**0.5)]
    weights = np.array([[0.0, 0.5], [0.5, 0.0], [0.0, 0.0]])
    return Reference("l2", separator, 8**0.5 * (1 - 1e-12), 8**0.5 * (1 + 1e-12), weights, "clarabel", 0.5)


# --- the hash and the name -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("typed", CHANGES)
def test_every_key_that_matters_changes_the_hash(typed: str) -> None:
    fewer = " ".join(typed.split()[:-1])
    assert config_hash(config_of(typed), "") not in (config_hash(CONFIG, ""), config_hash(config_of(fewer), ""))


def test_all_changes_have_different_hashes() -> None:
    assert len({config_hash(config_of(typed), "") for typed in CHANGES}) == len(CHANGES)


def test_the_changes_above_cover_every_key() -> None:
    # The three last are named by content: below, and in test_start.
    changed = " ".join([*CHANGES, *RUNTIME, "dataset.path= dataset.label= start="])
    keys = {key for key in CONFIG if not isinstance(CONFIG[key], dict)} | {f"log.{key}" for key in CONFIG["log"]}
    keys |= {f"batch.{key}" for key in CONFIG["batch"]}
    keys |= {f"optimizer.{key}" for key in CONFIG["optimizer"]} | {f"dataset.{key}" for key in CONFIG["dataset"]}
    assert {key for key in keys if f"{key}=" not in changed and not key.endswith("name")} == set()


@pytest.mark.parametrize("typed", RUNTIME)
def test_keys_that_change_no_result_do_not_change_the_hash(typed: str) -> None:
    assert config_hash(config_of(typed), "") == config_hash(CONFIG, "")
    launched = {**config_of(typed), "compile": "on", "launcher": {"workers": 3}}
    assert config_hash(launched, "") == config_hash(CONFIG, "")


def test_the_hash_is_the_same_in_every_process_and_does_not_depend_on_order() -> None:
    assert config_hash(dict(reversed(CONFIG.items())), "") == config_hash(CONFIG, "")
    assert config_hash({"steps": 5, "dataset": {"name": "x"}, "device": "cpu"}, "") == "4e7f4fec3ad5"


def test_a_data_file_enters_by_its_content_not_by_its_path() -> None:
    one, other = (config_of(f"dataset=file dataset.path={path}.npz") for path in "ab")
    assert config_hash(one, "content") == config_hash(other, "content")
    assert config_hash(one, "content") != config_hash(one, "changed")
    assert config_hash(one, "content") != config_hash(config_of("dataset=file dataset.path=a.npz dataset.label=z"), "content")


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("", "gaussian_mixture-linear-muon-seed1"),
        ("optimizer=nsd norm=lp norm.p=4 seed=3", "gaussian_mixture-linear-nsd-lp4-seed3"),
        ("optimizer=nmd norm=schatten", "gaussian_mixture-linear-nmd-schatten1.5-seed1"),
        ("optimizer=nmd norm=hybrid", "gaussian_mixture-linear-nmd-hybrid0.1-seed1"),
        ("optimizer=nmd norm=hybrid norm.outer=l2", "gaussian_mixture-linear-nmd-hybrid0.1-l2-linf-seed1"),
        ("name=my.run", "my.run"),
    ],
)
def test_the_folder_says_what_it_holds(typed: str, name: str) -> None:
    assert run_directory(spec_of(typed), "0123") == Path(f"results/runs/{name}-0123")


# --- run folders -----------------------------------------------------------------------------------------------------


def test_a_run_reads_back_bit_for_bit(tmp_path: Path) -> None:
    directory = tmp_path / "runs" / "a"
    write(directory)
    assert is_finished(directory)
    trajectory, summary = tables()
    read_trajectory, read_summary = read_run(directory)
    pd.testing.assert_frame_equal(read_trajectory, trajectory, check_exact=True)
    pd.testing.assert_frame_equal(read_summary, summary, check_exact=True)
    # What was computed; not where.
    computed = {key: value for key, value in CONFIG.items() if key != "launcher"}
    assert read_config(directory) == computed
    assert yaml.safe_load((directory / "config.yaml").read_text()) == computed
    with np.load(directory / "final.npz") as arrays:
        np.testing.assert_array_equal(arrays["weight"], np.arange(6.0).reshape(2, 3))
    names = {path.name for path in directory.iterdir()}
    assert names == {"trajectory.csv", "summary.csv", "config.yaml", "final.npz", "provenance.json"}


def test_columns_are_exactly_those_of_the_contract(tmp_path: Path) -> None:
    write(tmp_path / "a")
    header = (tmp_path / "a" / "trajectory.csv").read_text().splitlines()[0]
    assert header == (
        "seed,step,lr,log_loss,accuracy,norm,margin,max_margin,relative_gap,upper_bound,correlation,alignment,kkt_ratio,param_norm"
    )
    assert ",," in (tmp_path / "a" / "trajectory.csv").read_text()  # no value: empty
    with pytest.raises(ValueError, match="trajectory columns must be seed, step, lr"):
        write(tmp_path / "b", trajectory=tables()[0].drop(columns="lr"))
    assert not (tmp_path / "b").exists()


def test_floats_of_the_configuration_read_back_exactly(tmp_path: Path) -> None:
    config = spec_of("optimizer=adam optimizer.eps=1e-8 schedule.lr=0.1 dataset.noise=1e16").config_yaml
    write(tmp_path / "a", config=config)
    assert read_config(tmp_path / "a") == config
    infinite = spec_of("optimizer=nsd norm=lp norm.p=inf").config_yaml
    write(tmp_path / "b", config=infinite)
    assert read_config(tmp_path / "b") == infinite


def test_provenance_tells_the_story(tmp_path: Path) -> None:
    write(tmp_path / "a")
    story = json.loads((tmp_path / "a" / "provenance.json").read_text())
    assert {"git_sha", "git_dirty", "versions", "device", "threads", "wall_seconds", "command", "date", "files"} <= set(story)
    assert story["command"] == "a command"
    assert {"python", "torch", "numpy", "cvxpy"} <= set(story["versions"])
    assert set(story["files"]) == {"trajectory.csv", "summary.csv", "config.yaml", "final.npz"}


def test_without_weights_there_is_no_npz_and_the_run_is_finished(tmp_path: Path) -> None:
    write(tmp_path / "a", weights={})
    assert not (tmp_path / "a" / "final.npz").exists()
    assert is_finished(tmp_path / "a")


def edit(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize("damage", [edit, shorten, Path.unlink])
@pytest.mark.parametrize("name", ["trajectory.csv", "summary.csv", "config.yaml", "final.npz"])
def test_a_damaged_folder_is_not_finished_and_says_so_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, damage: Any
) -> None:
    directory = tmp_path / "a"
    write(directory)
    damage(directory / name)
    assert not is_finished(directory)
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert line.startswith("warning: ")
    assert name in line
    assert "computed again" in line
    write(directory)
    assert is_finished(directory)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"files": 3}', '{"files": {}}', "{}"])
def test_damaged_provenance_is_no_finished_run(tmp_path: Path, content: str | None) -> None:
    write(tmp_path / "a")
    if content is None:
        (tmp_path / "a" / "provenance.json").unlink()
    else:
        (tmp_path / "a" / "provenance.json").write_text(content)
    assert not is_finished(tmp_path / "a")


def test_what_is_not_there_is_not_finished_and_no_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not is_finished(tmp_path / "nowhere")
    assert capsys.readouterr().err == ""


def test_a_finished_run_is_replaced_whole(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "a", weights={})
    assert not (tmp_path / "a" / "final.npz").exists()
    assert is_finished(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


# --- faults ----------------------------------------------------------------------------------------------------------


def full_at(call: int) -> Callable[[int], None]:
    """An fsync that finds the disk full when it is called for the ``call``-th time."""
    flush, calls = os.fsync, iter(range(1, 100))

    def fsync(descriptor: int) -> None:
        if next(calls) == call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(descriptor)

    return fsync


@pytest.mark.parametrize("call", range(1, 8))
def test_a_full_disk_at_any_moment_leaves_nothing_and_keeps_the_former_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    write(tmp_path / "old")
    kept = {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()}
    for name in ("old", "new"):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full_at(call))
            if call <= 5:
                with pytest.raises(OSError, match="No space left"):
                    write(tmp_path / name)
            else:  # flushing a folder is for durability alone; where a system cannot, nothing is lost
                write(tmp_path / name)
    left = sorted(path.name for path in tmp_path.iterdir())
    if call <= 5:
        assert left == ["old"]
        assert {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()} == kept
    else:
        assert left == ["new", "old"]
        assert is_finished(tmp_path / "new")


def test_a_rename_that_fails_brings_the_former_run_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a")
    rename = os.rename

    def refuse(source: Path, target: Path) -> None:
        fresh = "fresh" in (source / "provenance.json").read_text()
        if fresh and target.name == "a":
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(OSError, match="Input/output error"):
        write(tmp_path / "a", provenance={"command": "fresh"})
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert is_finished(tmp_path / "a")


@contextlib.contextmanager
def tiny_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own, of ``size`` bytes; only root may mount one."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("cannot mount a tmpfs here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may mount a tmpfs")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", "64k") as disk:
        write(disk / "small")
        with pytest.raises(OSError, match="No space left"):
            write(disk / "large", weights={"weight": np.zeros(100_000)})
        cache = ReferenceCache(disk)
        x, y = np.zeros((20_000, 4)), np.zeros(20_000, dtype=np.int64)
        with pytest.raises(OSError, match="No space left"):
            cache.put(x, y, L2, "exact", dataclasses.replace(reference(), weights=np.zeros((20_000, 2))))
        assert cache.get(x, y, L2, "exact") is None
        assert sorted(path.name for path in disk.iterdir()) == ["cache", "small"]
        assert list((disk / "cache" / "references").iterdir()) == []
        assert is_finished(disk / "small")


ENDLESS = """
import sys
from pathlib import Path
import numpy as np, pandas as pd
from implicit_bias.storage.runs import COLUMNS, write_run
table = pd.DataFrame({name: [0.5] * 2000 for name in COLUMNS})
print("ready", flush=True)
number = 0
while True:
    write_run(Path(sys.argv[1]) / f"run{number % 3}", config={}, trajectory=table, summary=table, weights={}, provenance={})
    number += 1
"""


@pytest.mark.slow
def test_kill_9_in_the_middle_leaves_no_half_folder(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ENDLESS, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()
        # Killed at moments that differ from test to test; what must hold, holds at each of them.
        deadline = time.monotonic() + 20
        while len([path for path in tmp_path.iterdir() if path.name.startswith("run")]) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.02 + (time.time_ns() % 97) / 1000)
        process.send_signal(signal.SIGKILL)
        process.wait()
    folders = [path for path in tmp_path.iterdir() if not path.name.startswith(".partial-")]
    assert len(folders) >= 2  # one of the three may have stepped aside for its replacement
    assert all(is_finished(folder) for folder in folders)
    write(tmp_path / "next")
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".partial-")] == []


def test_what_living_processes_are_writing_is_not_taken_for_a_leftover(tmp_path: Path) -> None:
    import socket

    alive = tmp_path / f".partial-{socket.gethostname()}-{os.getppid()}-0"
    elsewhere = tmp_path / ".partial-another-host-1-0"
    for folder in (alive, elsewhere):
        folder.mkdir()
    write(tmp_path / "a")
    assert alive.exists()
    assert elsewhere.exists()


def write_often(directory: Path) -> None:
    for _ in range(15):
        write(directory)


def put_often(results_dir: Path) -> None:
    cache = ReferenceCache(results_dir)
    x, y = SAMPLES, LABELS
    for _ in range(30):
        cache.put(x, y, L2, "exact", reference())
        assert cache.get(x, y, L2, "exact") is not None


@pytest.mark.slow
@pytest.mark.parametrize("work", [write_often, put_often])
def test_processes_that_write_the_same_do_not_break_each_other(tmp_path: Path, work: Any) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=work, args=(tmp_path / "same",)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["same"]
    if work is write_often:
        assert is_finished(tmp_path / "same")


# --- the cache of references -----------------------------------------------------------------------------------------


def test_the_cache_gives_back_what_was_put(tmp_path: Path) -> None:
    cache = ReferenceCache(tmp_path)
    x, y = SAMPLES, LABELS
    assert cache.get(x, y, L2, "exact") is None
    cache.put(x, y, L2, "exact", reference())
    found = cache.get(x, y, L2, "exact")
    assert found is not None
    assert (found.norm, found.solver, found.seconds) == ("l2", "clarabel", 0.5)
    assert found.lower <= 8**0.5 <= found.upper
    assert found.gap < 1e-13  # recomputed
    np.testing.assert_array_equal(found.separator, reference().separator)
    np.testing.assert_array_equal(found.weights, reference().weights)
    for other in ((x + 1e-16, y), (x, 1 - y), (x.astype(np.float32), y), (x.reshape(4, 3), y)):
        if not np.array_equal(other[0], x) or not np.array_equal(other[1], y) or other[0].dtype != x.dtype:
            assert cache.get(other[0], other[1], L2, "exact") is None
    assert cache.get(x, y, L1, "exact") is None
    assert cache.get(x, y, L2, "certified") is None


EDITS: dict[str, dict[str, Any]] = {
    "twice as large": {"lower": 2 * 8**0.5, "upper": 2 * 8**0.5},
    "not a number": {"lower": math.nan},
    "negative": {"lower": -1.0},
    "a narrower interval": {"upper": 8**0.5 * (1 - 1e-6)},
    "the separator turned": {"separator": -reference().separator},
    "a separator of another shape": {"separator": np.ones((2, 3))},
    "weights of another shape": {"weights": np.ones((2, 2)) / 4},
    "negative weights": {"weights": np.array([[0.0, 1.5], [-0.5, 0.0], [0.0, 0.0]])},
    "other weights": {"weights": np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 1.0]])},
}


@pytest.mark.parametrize("kind", EDITS)
def test_an_edited_reference_is_not_believed(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    """Its bounds are recomputed from its own separator and weights at every read."""
    cache = ReferenceCache(tmp_path)
    cache.put(SAMPLES, LABELS, L2, "exact", dataclasses.replace(reference(), **EDITS[kind]))
    assert cache.get(SAMPLES, LABELS, L2, "exact") is None
    line = capsys.readouterr().err
    assert line.startswith("warning: ") and line.count("\n") == 1 and line.endswith("the reference is solved again\n")


def test_what_another_version_of_the_solvers_left_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ReferenceCache(tmp_path)
    cache.put(SAMPLES, LABELS, L2, "exact", reference())
    monkeypatch.setattr("implicit_bias.solvers.reference.SOLVER_VERSION", SOLVER_VERSION + 1)
    assert cache.get(SAMPLES, LABELS, L2, "exact") is None


def damages(content: bytes) -> dict[str, bytes]:
    middle = len(content) // 2
    return {
        "empty": b"",
        "cut": content[:middle],
        "text": b"hello",
        "zeros": bytes(len(content)),
        "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
    }


@pytest.mark.parametrize("kind", list(damages(bytes(1000))))
def test_a_corrupted_file_is_one_warning_and_can_be_rebuilt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    cache = ReferenceCache(tmp_path)
    x, y = SAMPLES, LABELS
    cache.put(x, y, L2, "exact", reference())
    path = cache.path(x, y, L2, "exact")
    path.write_bytes(damages(path.read_bytes())[kind])
    assert cache.get(x, y, L2, "exact") is None
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert line.startswith("warning: ")
    assert "corrupted; the reference is solved again" in line
    cache.put(x, y, L2, "exact", reference())
    assert cache.get(x, y, L2, "exact") is not None
    assert capsys.readouterr().err == ""


def test_a_flipped_bit_anywhere_is_noticed_or_harmless(tmp_path: Path) -> None:
    cache = ReferenceCache(tmp_path)
    x, y = SAMPLES, LABELS
    cache.put(x, y, L2, "exact", reference())
    path = cache.path(x, y, L2, "exact")
    content = path.read_bytes()
    for place in range(0, len(content), 11):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        found = cache.get(x, y, L2, "exact")
        if found is not None:
            np.testing.assert_array_equal(found.separator, reference().separator)
            np.testing.assert_array_equal(found.weights, reference().weights)
            assert found.norm == "l2"
            assert found.lower <= 8**0.5 <= found.upper


def test_a_reference_of_another_problem_is_not_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = ReferenceCache(tmp_path)
    x, y = SAMPLES, LABELS
    cache.put(x, y, L2, "exact", dataclasses.replace(reference(), norm="l1"))
    assert cache.get(x, y, L2, "exact") is None
    assert "corrupted" in capsys.readouterr().err


# --- single files ----------------------------------------------------------------------------------------------------


def test_atomic_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "figure.csv"
    atomic_write_text(path, "a,b\nü,2\n")
    assert path.read_text(encoding="utf-8") == "a,b\nü,2\n"
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        atomic_write_bytes(path, b"other")
    assert path.read_text(encoding="utf-8") == "a,b\nü,2\n"
    assert [p.name for p in path.parent.iterdir()] == ["figure.csv"]
    assert list(read_table(path)["b"]) == [2]


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
