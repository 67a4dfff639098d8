"""Faults done for real: kill -9, full disks, damaged files, too little memory; what is computed is never lost nor counted twice.

Elsewhere: run folders and the cache of references at every failing call and with every kind of damage (test_records.py), Ctrl-C,
SIGTERM and the list of failed cells (test_command.py), cells without an optimum, data or finite parameters (test_sweep.py),
snapshots of the engine, bit for bit (test_engine.py).
"""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from implicit_bias.config.overrides import compose
from implicit_bias.config.spec import RunSpec
from implicit_bias.engine import Problem, Trajectory, simulate
from implicit_bias.engine.steppers.native.compiling import compilers
from implicit_bias.run import main
from implicit_bias.runtime import memory
from implicit_bias.storage import checkpoints, files
from implicit_bias.storage.checkpoints import VARIABLE, Checkpoint, interrupted
from implicit_bias.storage.runs import is_finished
from implicit_bias.sweep import Outcome, execute
from implicit_bias.sweep import batch_size as fitting
from implicit_bias.sweep.plan import Cell, batches
from tests.support.commands import Command, checkpoint_files, finish, inodes, soon

module = sys.modules["implicit_bias.sweep.execute"]
SMALL = ["dataset.num_classes=3", "dataset.dim=6", "dataset.samples_per_class=3", "dataset.noise=0.3", "log.norms=[linf,l2]"]
# Plain steps, so that there is something between two of them: steps in C are made many at a time.
SMALL += ["log.points=5", "progress=off", "compile=off", "reference=none"]
FILES = ("trajectory.csv", "summary.csv", "final.npz", "config.yaml")
Arguments = Sequence[str]


OFTEN = {VARIABLE: "0.05"}


def folders(results: Path) -> dict[str, Path]:
    return {path.name: path for path in (results / "runs").iterdir() if not path.name.startswith(".")}


def contents(folder: Path) -> dict[str, bytes]:
    # A zip file holds the time at which it was written.
    found: dict[str, bytes] = {name: (folder / name).read_bytes() for name in FILES if name not in ("final.npz", "config.yaml")}
    with np.load(folder / "final.npz") as file:
        found.update({name: file[name].tobytes() for name in file.files})
    return found


def provenance(outcome: Outcome) -> dict[str, Any]:
    assert outcome.directory is not None
    story: dict[str, Any] = json.loads((outcome.directory / "provenance.json").read_text())
    return story


def cells(results: Path, *arguments: str) -> list[RunSpec]:
    return [cell.spec for cell in compose([*SMALL, f"results_dir={results}", *arguments], multirun=True)]


def compute(results: Path, *arguments: str) -> list[Outcome]:
    return execute(cells(results, *arguments), command="test")


# --- killed, and the same command again ------------------------------------------------------------------------------


LONG = [word.replace("points=5", "points=100") for word in SMALL]
LONG += ["optimizer=muon", "steps=1200", "log.weights=all", "log.kkt_iters=1"]
STARTED = "TEST_STARTED"


def announce() -> None:
    """In a command: make a file as soon as hundred steps are made."""
    simulate = module.simulate

    def announced(problem: Problem, watch: Any, keep: Any, resume: Any, *more: Any) -> Trajectory:
        def keeping(step: int, snapshot: Any) -> None:
            if step == 100:
                Path(os.environ[STARTED]).touch()
            keep(step, snapshot)

        trajectory: Trajectory = simulate(problem, watch, keeping, resume, *more)
        return trajectory

    module.simulate = announced  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, bytes]]:
    """Name and contents of the run folder of LONG."""
    results = tmp_path_factory.mktemp("undisturbed")
    assert main([*LONG, f"results_dir={results}"]) == 0
    ((name, folder),) = folders(results).items()
    return name, contents(folder)


@pytest.mark.slow
@pytest.mark.xdist_group("stopped")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_stopped_in_the_middle_goes_on_from_its_checkpoint_and_gives_the_same_bytes(
    tmp_path: Path,
    number: int,
    code: int,
    undisturbed: tuple[str, dict[str, bytes]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Killed it goes on from the last checkpoint; told to stop, long before the first is due, it writes one at once."""
    results, started = tmp_path / "results", tmp_path / "started"
    told = number != signal.SIGKILL
    environment = {STARTED: str(started), **({} if told else OFTEN)}
    with Command(*LONG, f"results_dir={results}", environment=environment, before=announce) as command:
        soon(started.exists if told else lambda: checkpoint_files(results), "it is in the middle")
        command.send(number)
        ended = command.end(60)
    assert ended.returncode == code
    assert ended.stderr.count("\n") == told
    assert not (results / "runs").exists()
    assert len(checkpoint_files(results)) == 1
    capsys.readouterr()
    assert main([*LONG, f"results_dir={results}"]) == 0
    again = capsys.readouterr().err
    (step,) = re.findall(r"^muon: going on from step (\d+)$", again, re.MULTILINE)
    assert (100 if told else 1) <= int(step) < 1200
    assert len(again.splitlines()) == 1
    assert checkpoint_files(results) == []
    ((name, mine),) = folders(results).items()
    assert (name, contents(mine)) == undisturbed


SWEEP = ["-m", *SMALL, "optimizer=signgd,muon", "seed=1,2,3", "steps=1200", "log.kkt_iters=1"]


@pytest.mark.slow
def test_a_sweep_killed_in_its_second_batch_keeps_the_first_and_goes_on(tmp_path: Path) -> None:
    results, other = tmp_path / "killed", tmp_path / "undisturbed"
    with Command(*SWEEP, f"results_dir={results}", environment=OFTEN) as command:
        soon(lambda: len(inodes(results)) >= 3 and checkpoint_files(results), "the second batch is computed")
        command.kill()
    before = inodes(results)
    assert len(before) == 3
    again = finish(*SWEEP, f"results_dir={results}")
    assert again.returncode == 0
    assert re.search(r"^muon, 3 runs: going on from step \d+$", again.stderr, re.MULTILINE)
    assert "3 computed, 3 finished before, 0 failed" in again.stdout
    after = folders(results)
    assert len(after) == 6
    assert before.items() <= inodes(results).items()
    (table,) = results.glob("sweeps/*/table.csv")
    rows = pd.read_csv(table)
    assert len(rows) == len(rows.drop_duplicates(["optimizer", "seed", "norm"])) == 3 * 2 + 3 * 3
    assert main([*SWEEP, f"results_dir={other}"]) == 0
    for name, path in folders(other).items():
        assert contents(after[name]) == contents(path)


# --- checkpoints -----------------------------------------------------------------------------------------------------


class Stop(KeyboardInterrupt):
    """Ends a computation in the middle."""


def stopped(results: Path, *arguments: str) -> None:
    """Compute until after the first checkpoint."""
    keep = Checkpoint.keep

    def once(self: Checkpoint, step: int, snapshot: Any) -> None:
        if step == 30:
            keep(self, step, snapshot)
            raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, "0")
        patch.setattr(Checkpoint, "keep", once)
        with pytest.raises(Stop):
            compute(results, *arguments)
    assert len(checkpoint_files(results)) == 1


@pytest.fixture(scope="module")
def half_computed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of one run that was stopped, to be copied."""
    results = tmp_path_factory.mktemp("stopped") / "results"
    stopped(results, "steps=60")
    return results


@pytest.fixture
def half(tmp_path: Path, half_computed: Path) -> Path:
    """Results of one run of sixty steps that was stopped after thirty."""
    return shutil.copytree(half_computed, tmp_path / "results")


def test_an_interrupted_batch_is_formed_again_among_other_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compute(tmp_path, "seed=2", "steps=60")
    stopped(tmp_path, "seed=2,3,4", "steps=60")  # computes 3 and 4
    outcomes = compute(tmp_path, "seed=1,4,5,3,2", "steps=60")
    assert [outcome.status for outcome in outcomes] == ["done", "done", "done", "done", "skipped"]
    assert capsys.readouterr().err.count("going on from step 30") == 1
    assert checkpoint_files(tmp_path) == []
    undisturbed = compute(tmp_path / "other", "seed=1,4,5,3,2", "steps=60")
    for a, b in zip(outcomes, undisturbed, strict=True):
        assert a.directory is not None
        assert b.directory is not None
        assert contents(a.directory) == contents(b.directory)


def test_a_batch_is_formed_again_only_when_all_its_cells_are_to_be_computed(tmp_path: Path) -> None:
    known = [Cell(i, spec, spec.dataset.load(), Path(f"run{i}")) for i, spec in enumerate(cells(tmp_path, "seed=range(6)"))]

    def plan(*names: list[str]) -> list[list[int]]:
        return [[cell.index for cell in batch] for batch in batches(known, names)]

    assert plan() == [[0, 1, 2, 3, 4, 5]]
    assert plan(["run4", "run2"]) == [[4, 2], [0, 1, 3, 5]]
    assert plan(["run4", "finished"]) == [[0, 1, 2, 3, 4, 5]]
    assert plan(["run4", "run2"], ["run2", "run1"]) == [[4, 2], [0, 1, 3, 5]]
    assert plan(["run1", "run1"], []) == [[0, 1, 2, 3, 4, 5]]


def damages() -> dict[str, Callable[[bytes], bytes]]:
    return {
        "empty": lambda _: b"",
        "half": lambda content: content[: len(content) // 2],
        "flipped": lambda content: content[:-900] + bytes([content[-900] ^ 1]) + content[-899:],
        "other format": lambda content: content.replace(b"checkpoint 1", b"checkpoint 0", 1),
        "other code": lambda content: content.replace(b'"code": "', b'"code": "x', 1),
        "no json": lambda content: content.replace(b'{"batch"', b'["batch"', 1),
        "foreign": lambda _: b"PK\x03\x04 something else\n\n\n",
    }


@pytest.mark.parametrize("damage", damages())
def test_a_checkpoint_of_no_use_is_one_warning_and_removed(half: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    (path,) = checkpoint_files(half)
    path.write_bytes(damages()[damage](path.read_bytes()))
    (outcome,) = compute(half, "steps=60")
    assert outcome.status == "done"
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"warning: {path}: ")
    assert checkpoint_files(half) == []


@pytest.mark.parametrize("part", ["threads", "device", "torch"])
def test_a_checkpoint_made_elsewhere_is_one_warning_and_removed(
    half: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    known = checkpoints.made_with
    monkeypatch.setattr(checkpoints, "made_with", lambda *given: {**known(*given), part: "another"})
    (outcome,) = compute(half, "steps=60")
    assert outcome.status == "done"
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"of another {part}" in error
    assert checkpoint_files(half) == []


@pytest.mark.skipif(not compilers(), reason="no C compiler here: the steps are plain")
def test_a_checkpoint_of_other_steps_is_one_warning_and_removed(half: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Made by plain steps; steps in C round otherwise."""
    (outcome,) = compute(half, "steps=60", "compile=auto")
    assert provenance(outcome)["stepping"] == "c"
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "of another stepping (torch, here c)" in error
    assert checkpoint_files(half) == []


def test_a_checkpoint_of_long_ago_is_removed(half: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = checkpoint_files(half)
    long_ago = time.time() - checkpoints.OLDEST - 10
    os.utime(path, (long_ago, long_ago))
    assert interrupted(half) == []
    assert not path.exists()
    assert "too old" in capsys.readouterr().err


def test_a_pickle_is_not_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "executed",)

    stopped(tmp_path, "steps=60")
    (path,) = checkpoint_files(tmp_path)
    header, _ = checkpoints._opened(path.read_bytes())
    batch = Checkpoint(tmp_path, header["batch"], torch.device("cpu"), "float64")
    path.write_bytes(batch._content(30, {"trap": Trap()}, 0.0))
    (outcome,) = compute(tmp_path, "steps=60")
    assert outcome.status == "done"
    assert not (tmp_path / "executed").exists()
    assert "damaged" in capsys.readouterr().err


def test_short_runs_write_no_checkpoint(tmp_path: Path) -> None:
    compute(tmp_path, "steps=60")
    assert not (tmp_path / "cache").exists()


# --- disks that are full ---------------------------------------------------------------------------------------------


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """``full(part)``: files with ``part`` in their path cannot be written from now on."""

    def fill(part: str) -> None:
        write = files.write_flushed

        def refuse(path: Path, content: bytes) -> None:
            if part in str(path):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            write(path, content)

        monkeypatch.setattr(files, "write_flushed", refuse)

    return fill


def test_a_full_disk_does_not_stop_a_run_that_writes_checkpoints(
    tmp_path: Path, full: Callable[[str], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "0")
    full("checkpoints")
    (outcome,) = compute(tmp_path, "steps=60")
    assert outcome.status == "done"
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no space left on device" in error.lower()
    assert "goes on without" in error


def test_a_disk_that_fills_up_in_the_middle_of_a_batch_loses_no_folder_that_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = files.write_flushed, 0

    def refuse(path: Path, content: bytes) -> None:
        nonlocal calls
        calls += 1
        if 7 <= calls <= 10:  # the second run's folder
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, content)

    monkeypatch.setattr(files, "write_flushed", refuse)
    arguments = ["-m", *SMALL, "steps=60", "seed=1,2,3,4", f"results_dir={tmp_path}"]
    assert main(arguments) == 1
    output = capsys.readouterr()
    assert re.search(r"\d of 4 cells failed:", output.err)
    assert "no space left on device" in output.err
    assert re.search(r"python -m implicit_bias\.run .*seed=2", output.err)
    kept = {name: path.stat().st_ino for name, path in folders(tmp_path).items()}
    assert 1 <= len(kept) < 4
    monkeypatch.setattr(files, "write_flushed", write)
    assert main(arguments) == 0
    after = folders(tmp_path)
    assert len(after) == 4
    assert {name: after[name].stat().st_ino for name in kept} == kept


def test_a_full_disk_during_the_sweeps_table_is_exit_code_1_and_the_runs_are_kept(
    tmp_path: Path, full: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    full("sweeps")
    assert main(["-m", *SMALL, "steps=60", "seed=1,2", f"results_dir={tmp_path}"]) == 1
    assert f"results_dir={tmp_path}: No space left" in capsys.readouterr().err
    assert len(folders(tmp_path)) == 2


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may mount a tmpfs")
def test_a_sweep_on_a_disk_that_is_really_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("cannot mount a tmpfs here")
    try:
        arguments = ["-m", *SMALL, "steps=60", "seed=range(12)", f"results_dir={disk}"]
        first = finish(*arguments)
        assert first.returncode == 1
        assert re.search(r"\d+ of 12 cells failed:", first.stderr)
        assert "no space left on device" in first.stderr
        kept = folders(disk)
        assert 0 < len(kept) < 12
        assert all(is_finished(folder) for folder in kept.values())
        assert not [path for path in (disk / "runs").iterdir() if path.name.startswith(".")]
        assert subprocess.run(["mount", "-o", "remount,size=10m", str(disk)]).returncode == 0
        second = finish(*arguments)
        assert second.returncode == 0, second.stderr
        assert f"{len(kept)} finished before" in second.stdout
        assert len(folders(disk)) == 12
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# --- cells that break, folders that are edited -----------------------------------------------------------------------


def test_a_cell_that_raises_inside_a_batch_fails_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build = module.build_problem

    def break_seed_2(batch: Sequence[Cell], references: Any) -> Problem:
        if any(cell.spec.seed == 2 for cell in batch):
            raise ArithmeticError("seed 2 is broken")
        problem: Problem = build(batch, references)
        return problem

    monkeypatch.setattr(module, "build_problem", break_seed_2)
    assert main(["-m", *SMALL, "steps=60", "seed=1,2,3", f"results_dir={tmp_path}"]) == 1
    error = capsys.readouterr().err
    assert "1 of 3 cells failed:" in error
    assert "ArithmeticError: seed 2 is broken" in error
    assert re.search(r"python -m implicit_bias\.run .*seed=2", error)
    assert len(folders(tmp_path)) == 2


def test_an_edited_folder_and_a_damaged_reference_are_one_warning_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-m", *SMALL[:-1], "steps=60", "seed=1,2", "reference=certified", f"results_dir={tmp_path}"]
    assert main(arguments) == 0
    first = {name: contents(path) for name, path in folders(tmp_path).items()}
    edited = min(folders(tmp_path).values())
    with (edited / "trajectory.csv").open("a") as file:
        file.write("edited\n")
    for damaged in sorted((tmp_path / "cache" / "references").iterdir()):
        damaged.write_bytes(damaged.read_bytes()[:100])
    capsys.readouterr()
    assert main(arguments) == 0
    output = capsys.readouterr()
    lines = output.err.splitlines()
    assert len([line for line in lines if "trajectory.csv was changed; the run is computed again" in line]) == 1
    assert len([line for line in lines if "corrupted; the reference is solved again" in line]) == len(lines) - 1
    assert "1 computed, 1 finished before, 0 failed" in output.out
    assert {name: contents(path) for name, path in folders(tmp_path).items()} == first


# --- memory ----------------------------------------------------------------------------------------------------------


def test_the_measured_peak_is_what_a_computation_holds() -> None:
    def work() -> None:
        a = torch.zeros(1000, dtype=torch.float64)
        b = a + 1
        del a
        c = b[10:].view(-1)
        c.add_(1)
        d = torch.zeros(500, dtype=torch.float64)
        del b, c
        torch.zeros(100, dtype=torch.float64).add_(d[:100])

    assert memory.peak_bytes(work) == 8 * 2000


def test_gradients_and_jacobian_products_are_measured_too(tmp_path: Path) -> None:
    spec = cells(tmp_path, "model=mlp", "model.width=40", "optimizer=gd", "schedule.lr=0.1")[0]
    cell = Cell(0, spec, spec.dataset.load(), tmp_path)
    one, two, four = (fitting._measured_bytes([cell] * runs) for runs in (1, 2, 4))
    assert two - one == pytest.approx((four - two) / 2, rel=0.1)
    assert one > 8 * 40 * 9


@pytest.mark.slow
def test_batches_are_cut_to_the_memory_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    specs = cells(tmp_path, "seed=range(20)", "steps=60")
    known = [Cell(i, spec, spec.dataset.load(), tmp_path / str(i)) for i, spec in enumerate(specs)]
    assert fitting.fitting(known) == 20
    one, nine = (fitting._measured_bytes(known[:runs]) for runs in (1, 9))
    each = (nine - one) / 8
    monkeypatch.setattr(fitting, "_measured_bytes", lambda cells: int(one + (len(cells) - 1) * each))
    for runs in (1, 5, 12):
        monkeypatch.setattr(fitting, "available", lambda _, n=runs: int((one + (n - 0.5) * each) / memory.SHARE))
        assert fitting.fitting(known) == runs
        assert max(len(batch) for batch in batches(known, (), fitting.fitting)) <= runs
    assert [fitting.fitting(known, sharing) for sharing in (1, 2, 4)] == [12, 6, 3]
    outcomes = execute(specs[:6], command="test", sharing=4)
    assert [provenance(outcome)["batch_runs"] for outcome in outcomes] == [3] * 6
    monkeypatch.setattr(fitting, "available", lambda _: 1)
    assert fitting.fitting(known) == 1


def test_free_memory_is_the_least_that_anything_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in {
        "meminfo": "MemTotal: 900 kB\nMemAvailable:    800 kB\n",
        "self": "0::/slurm/job\n",
        "fs/memory.max": "max\n",
        "fs/slurm/memory.max": f"{700 * 1024}\n",
        "fs/slurm/memory.current": f"{300 * 1024}\n",
        "fs/slurm/memory.stat": f"anon 5\ninactive_file {100 * 1024}\n",
        "fs/slurm/job/memory.max": "max\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP", tmp_path / "self")
    monkeypatch.setattr(memory, "CGROUP_MOUNT", tmp_path / "fs")
    assert memory.available(torch.device("cpu")) == 500 * 1024
    monkeypatch.setattr(memory, "CGROUP", tmp_path / "absent")
    assert memory.available(torch.device("cpu")) == 800 * 1024
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "absent")
    assert memory.available(torch.device("cpu")) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
        ),
    ],
)
def test_a_batch_that_runs_out_of_memory_is_halved(
    tmp_path: Path, error: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def small_only(problem: Problem, *more: Any) -> Trajectory:
        if len(problem.initial["weight"]) > 2:
            raise error
        return simulate(problem, *more)

    expected = compute(tmp_path / "plenty", "seed=range(5)", "steps=60")
    monkeypatch.setattr(module, "simulate", small_only)
    outcomes = compute(tmp_path / "short", "seed=range(5)", "steps=60")
    assert [outcome.status for outcome in outcomes] == ["done"] * 5
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("5 runs: out of memory; computed as 2 and 3 runs instead")
    for a, b in zip(outcomes, expected, strict=True):
        pd.testing.assert_frame_equal(a.trajectory, b.trajectory, rtol=1e-9)  # type: ignore[arg-type]


def test_a_single_run_that_does_not_fit_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Trajectory:
        raise MemoryError

    monkeypatch.setattr(module, "simulate", never)
    outcomes = compute(tmp_path, "seed=1,2", "steps=60")
    assert [outcome.status for outcome in outcomes] == ["failed", "failed"]
    for outcome in outcomes:
        assert outcome.error is not None
        assert outcome.error.startswith("device=cpu: out of memory, a single run of this size does not fit")


def limit_memory() -> None:
    """In a command: leave 400 MB, and let nothing be cut beforehand."""
    import resource

    fitting.available = lambda device: None  # type: ignore[attr-defined]
    _ = torch.zeros(10) @ torch.zeros(10)
    lines = Path("/proc/self/status").read_text().splitlines()
    used = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmSize:"))
    resource.setrlimit(resource.RLIMIT_AS, (used + 400 * 2**20, resource.RLIM_INFINITY))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS")
def test_a_batch_that_really_runs_out_of_memory_is_halved(tmp_path: Path) -> None:
    # A run holds 8 MB of parameters, and several times as much for gradient, step and records; eight do not fit into 400 MB.
    arguments = ["-m", *SMALL[:3], "progress=off", "dataset.dim=1000", "model=mlp", "model.width=1000", "optimizer=signgd"]
    arguments += ["log.norms=[linf]", "log.kkt_iters=0", "schedule.lr=0.01", "steps=1", "log.weights=none", "seed=range(8)"]
    arguments = [a for a in arguments if a != "dataset.dim=6"]
    answer = finish(*arguments, f"results_dir={tmp_path}", before=limit_memory)
    assert answer.returncode == 0, answer.stderr
    assert "out of memory; computed as" in answer.stderr
    assert len(folders(tmp_path)) == 8
