"""Sweeps on a real Slurm of one node, which the tests start themselves; skipped where its programs are not installed."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import private_slurm
import pytest
from waiting import soon

import implicit_bias
from implicit_bias.run import main
from implicit_bias.sweep.slurm import INSTALL, array_sizes, states

SWEEP = [
    "dataset.num_classes=4",
    "dataset.dim=8",
    "dataset.samples_per_class=10",
    "dataset.noise=0.5",
    "reference=none",
    "device=cpu",
    "compile=off",
    "log.norms=[]",
]
SLURM = ["hydra.launcher.cluster=slurm", "hydra.launcher.partition=debug"]
MAX_ARRAY_SIZE = 3


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    missing = private_slurm.missing_programs()
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    pytest.importorskip("submitit")
    folder = tmp_path_factory.mktemp("slurm") / "cluster"
    folder.mkdir()
    try:
        environment = private_slurm.start(folder, MAX_ARRAY_SIZE)
        root = str(Path(implicit_bias.__file__).parents[1])
        yield {**environment, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    finally:
        private_slurm.stop(folder)


def start(environment: dict[str, str], folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "implicit_bias.run", "-m", f"results_dir={folder}", *SWEEP, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def slurm(environment: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60).stdout


def journals(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The events in every job's journal."""
    paths = sorted(folder.glob("sweeps/.jobs/*/batch-*.jsonl"))
    return {path.name: [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] for path in paths}


def computing(folder: Path) -> list[tuple[str, int]]:
    """Journal and process of the jobs that are in the middle of their batch."""
    found = []
    for name, events in journals(folder).items():
        kinds = [event["event"] for event in events]
        if "advance" in kinds and "cell" not in kinds:
            found.append((name, next(event["pid"] for event in reversed(events) if event["event"] == "begin")))
    return found


def files(folder: Path) -> dict[str, bytes]:
    """What the runs of a results folder are, where and when they were computed left out."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.glob("runs/*/*"))
        if path.name in ("trajectory.csv", "summary.csv")
    }


@pytest.mark.slow
def test_a_sweep_with_a_job_killed_and_one_requeued_is_complete_and_equal_to_inline(
    cluster: dict[str, str], tmp_path: Path
) -> None:
    cells = ["steps=2000", "optimizer=signgd,ngd,muon,adam", "seed=range(10)"]
    inline = start(cluster, tmp_path / "inline", *cells)
    assert inline.communicate(timeout=300)[1] == ""
    folder = tmp_path / "slurm"
    with start(cluster, folder, *cells, *SLURM) as process:
        first = soon(lambda: computing(folder), "a job computes")[0]
        os.kill(first[1], signal.SIGKILL)
        other = soon(lambda: [job for job in computing(folder) if job != first], "another job computes")[0]
        assert len(slurm(cluster, "squeue", "-h", "-r", "-o", "%i").split()) <= 4
        os.kill(other[1], signal.SIGUSR2)  # as Slurm does before a job's time is over
        begun = soon(lambda: [e for e in journals(folder).get(other[0], []) if e["event"] == "begin"][1:], "it is requeued")
        assert begun[0]["pid"] != other[1]
        output, errors = process.communicate(timeout=300)
    assert errors == ""
    assert process.returncode == 0
    assert "40 computed, 0 finished before, 0 failed" in output
    assert len(files(folder)) == 80
    assert files(folder) == files(tmp_path / "inline")
    assert not (folder / "sweeps" / ".jobs").exists()


@pytest.mark.slow
def test_a_job_cancelled_twice_is_given_up_with_a_reason(cluster: dict[str, str], tmp_path: Path) -> None:
    cells = ["steps=1000,10000000", "optimizer=signgd", "seed=1,2"]
    with start(cluster, tmp_path, *cells, *SLURM) as process:
        soon(lambda: len(files(tmp_path)) == 4, "the short job is done")
        for job in (1, 2):
            soon(lambda job=job: len(computing(tmp_path)) == job, "the long job computes")  # type: ignore[misc]
            slurm(cluster, "scancel", *slurm(cluster, "squeue", "-h", "-r", "-o", "%i").split())
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "2 computed, 0 finished before, 2 failed" in output
    assert errors.splitlines()[0] == "2 of 4 cells failed:"
    assert errors.count("ended without a result (CANCELLED") == 2
    assert errors.count("python -m implicit_bias.run results_dir=") == 2


@pytest.mark.slow
def test_ctrl_c_cancels_the_jobs_and_says_so(cluster: dict[str, str], tmp_path: Path) -> None:
    with start(cluster, tmp_path, "steps=10000000", "optimizer=signgd", "seed=1,2", *SLURM) as process:
        soon(lambda: computing(tmp_path), "the job computes")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[0] == "cancelled 1 Slurm job"
    soon(lambda: not slurm(cluster, "squeue", "-h"), "the job is gone")
    assert list(tmp_path.glob("runs/*")) == []
    assert not (tmp_path / "sweeps" / ".jobs").exists()


@pytest.mark.slow
def test_after_the_parent_was_killed_the_same_command_cancels_its_jobs_and_finishes(
    cluster: dict[str, str], tmp_path: Path
) -> None:
    cells = ["steps=20,40000", "optimizer=signgd", "seed=1,2", *SLURM]
    with start(cluster, tmp_path, *cells) as process:
        soon(lambda: computing(tmp_path) and len(files(tmp_path)) == 4, "the short batch is done, the long one computes")
        process.kill()
    before = {path: path.stat().st_ino for path in tmp_path.glob("runs/*")}
    orphans = slurm(cluster, "squeue", "-h", "-r", "-o", "%i").split()
    assert orphans
    with start(cluster, tmp_path, *cells) as process:
        output, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    assert "2 computed, 2 finished before, 0 failed" in output
    assert not set(orphans) & set(slurm(cluster, "squeue", "-h", "-r", "-o", "%i").split())
    assert before.items() <= {path: path.stat().st_ino for path in tmp_path.glob("runs/*")}.items()
    assert not (tmp_path / "sweeps" / ".jobs").exists()


@pytest.mark.slow
def test_what_slurm_refuses_is_one_line_and_exit_code_2(cluster: dict[str, str], tmp_path: Path) -> None:
    with start(cluster, tmp_path, "steps=10", "hydra.launcher.cluster=slurm", "hydra.launcher.partition=nowhere") as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors.count("\n") == 1
    assert "the jobs are refused" in errors and "partition" in errors
    assert not (tmp_path / "sweeps").exists() or list((tmp_path / "sweeps").iterdir()) == []


def test_without_submitit_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["hydra.launcher.cluster=slurm", f"results_dir={tmp_path}"]) == 2
    assert capsys.readouterr().err == f"error: launcher.cluster=slurm: needs submitit; {INSTALL}\n"
    assert list(tmp_path.iterdir()) == []


def test_without_slurm_the_error_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert main(["hydra.launcher.cluster=slurm", f"results_dir={tmp_path}"]) == 2
    assert capsys.readouterr().err == "error: launcher.cluster=slurm: there is no sbatch here; allowed: inline, local\n"


@pytest.mark.parametrize(
    ("jobs", "largest", "sizes"),
    [(4, 1001, [4]), (4, 3, [2, 2]), (7, 3, [3, 2, 2]), (1, 1, [1]), (3, 1, [1, 1, 1]), (2002, 1001, [1001, 1001])],
)
def test_arrays_are_split_at_the_clusters_limit(jobs: int, largest: int, sizes: list[int]) -> None:
    assert array_sizes(jobs, largest) == sizes


def test_states_of_squeue() -> None:
    assert states("3_0|PENDING|BeginTime\n4|RUNNING|None\n\n") == {"3_0": ("PENDING", "BeginTime"), "4": ("RUNNING", "None")}
