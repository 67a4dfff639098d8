"""Sweeps on a real Slurm of one node, which the tests start themselves; skipped where its programs are not installed."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from implicit_bias.run import main
from implicit_bias.storage import checkpoints
from implicit_bias.sweep.clusters.slurm import INSTALL, VARIABLE, array_sizes, states
from tests.support import private_slurm
from tests.support.commands import ENDLESS, SMALL, Command, checkpoint_files, finish, inodes, soon, tables

SLURM = ["hydra.launcher.cluster=slurm", "hydra.launcher.partition=debug"]
MAX_ARRAY_SIZE = 2
OFTEN = {checkpoints.VARIABLE: "0.05"}
#: Set it to have a job really run out of its time: more than a minute, of which the machine computes all the time.
TIME_LIMIT = "IMPLICIT_BIAS_TEST_TIME_LIMIT"
real_slurm = pytest.mark.xdist_group("slurm")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables under which commands use the tests' own Slurm."""
    missing = private_slurm.missing_programs()
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    pytest.importorskip("submitit")
    folder = tmp_path_factory.mktemp("slurm") / "cluster"
    folder.mkdir()
    try:
        yield {"SLURM_CONF": private_slurm.start(folder, MAX_ARRAY_SIZE)["SLURM_CONF"], VARIABLE: "0.5"}
    finally:
        private_slurm.stop(folder)


@pytest.fixture
def slurm(cluster: dict[str, str]) -> Iterator[Callable[..., str]]:
    """What a program of Slurm's prints. No job is left afterwards: a test that fails is not to take the others with it."""

    def output(*command: str) -> str:
        return subprocess.run(command, env={**os.environ, **cluster}, capture_output=True, text=True, timeout=60).stdout

    yield output
    output("scancel", "-u", str(os.getuid()))
    soon(lambda: not output("squeue", "-h"), "all jobs are gone")


def sweep(folder: Path, cluster: dict[str, str], *arguments: str) -> Command:
    return Command("-m", *SMALL, f"results_dir={folder}", *arguments, *SLURM, environment=cluster)


def journals(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The events in every job's journal."""
    paths = sorted(folder.glob("sweeps/.jobs/*/batch-*.jsonl"))
    return {path.name: [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] for path in paths}


def computing(folder: Path) -> dict[str, int]:
    """Journal and process of the jobs that are in the middle of their batch."""
    found = {}
    for name, events in journals(folder).items():
        begin = max((i for i, event in enumerate(events) if event["event"] == "begin"), default=0)
        kinds = [event["event"] for event in events[begin:]]
        if "advance" in kinds and "cell" not in kinds:
            found[name] = events[begin]["pid"]
    return found


def logs(folder: Path) -> str:
    """What jobs have printed."""
    return "".join(path.read_text() for path in folder.glob("sweeps/.jobs/*/*_log.out"))


def job_of(folder: Path, journal: str) -> str:
    """The Slurm job that writes a journal."""
    (path,) = folder.glob(f"sweeps/.jobs/*/{journal}")
    jobs: dict[str, str] = json.loads((path.parent / "owner.json").read_text())["jobs"]
    return next(job for job, batch in jobs.items() if Path(batch).stem == Path(journal).stem)


@pytest.mark.system
@real_slurm
@pytest.mark.slow
def test_jobs_killed_requeued_and_out_of_time_go_on_and_the_sweep_is_equal_to_inline(
    cluster: dict[str, str], slurm: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Told to stop, long before a first checkpoint is due, they write one at once."""
    cells = ["steps=3000", "optimizer=signgd,ngd,muon,adam", "seed=range(10)"]
    folder = tmp_path / "slurm"
    hit: dict[str, str] = {}

    def another() -> str:
        """The journal of a job that is computing and has not been hit yet."""
        return next((name for name in computing(folder) if name not in hit), "")

    with sweep(folder, cluster, *cells) as command:
        for how in ("killed", "out of time", "requeued"):
            name = soon(another, f"one to be {how}")
            hit[name] = how
            assert len(slurm("squeue", "-h", "-r", "-o", "%i").split()) <= 4 + len(hit)
            if how == "requeued":
                slurm("scontrol", "requeue", job_of(folder, name))
            else:  # SIGUSR2, as Slurm does before a job's time is over
                os.kill(computing(folder)[name], signal.SIGKILL if how == "killed" else signal.SIGUSR2)
        gone_on = soon(lambda: logs(folder).count("going on from step") == 2 and logs(folder), "both go on")
        ended = command.end(300)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "40 computed, 0 finished before, 0 failed" in ended.stdout
    assert "Requeued job" in gone_on
    assert main(["-m", *SMALL, f"results_dir={tmp_path / 'inline'}", *cells]) == 0
    assert len(tables(folder)) == 80
    assert tables(folder) == tables(tmp_path / "inline")
    assert not (folder / "sweeps" / ".jobs").exists()


@pytest.mark.system
@real_slurm
@pytest.mark.slow
def test_a_job_that_ends_twice_is_given_up_with_a_reason(
    cluster: dict[str, str], slurm: Callable[..., str], tmp_path: Path
) -> None:
    """Killed for the first time, it goes on from the last checkpoint."""
    cells = [f"steps=1000,{ENDLESS}", "optimizer=signgd", "seed=1,2"]
    with sweep(tmp_path, {**cluster, **OFTEN}, *cells) as command:
        soon(lambda: len(tables(tmp_path)) == 4, "the short job is done")
        soon(lambda: checkpoint_files(tmp_path), "the long job has a checkpoint")
        long = soon(lambda: len(computing(tmp_path)) == 1 and computing(tmp_path), "only the long job computes")
        (pid,) = long.values()
        os.kill(pid, signal.SIGKILL)
        soon(lambda: "going on from step" in logs(tmp_path) and len(computing(tmp_path)) == 2, "it is computed again")
        slurm("scancel", *slurm("squeue", "-h", "-r", "-o", "%i").split())
        ended = command.end(120)
    assert ended.returncode == 1
    assert "2 computed, 0 finished before, 2 failed" in ended.stdout
    assert ended.stderr.splitlines()[0] == "2 of 4 cells failed:"
    assert ended.stderr.count("ended without a result (CANCELLED") == 1, "a reason that two runs share is told once"
    assert ended.stderr.count("python -m implicit_bias.run") == 2


@pytest.mark.system
@real_slurm
@pytest.mark.slow
def test_after_the_parent_was_killed_or_interrupted_its_jobs_are_cancelled_and_the_same_command_goes_on(
    cluster: dict[str, str], slurm: Callable[..., str], tmp_path: Path
) -> None:
    cells = [f"steps=20,{ENDLESS}", "optimizer=signgd", "seed=1,2"]
    with sweep(tmp_path, cluster, *cells) as command:
        soon(lambda: computing(tmp_path) and len(tables(tmp_path)) == 4, "the short batch is done, the long one computes")
        command.kill()
    before = inodes(tmp_path)
    soon(lambda: len(slurm("squeue", "-h", "-r").splitlines()) == 1, "the short job is gone, the long one is an orphan")
    orphans = set(slurm("squeue", "-h", "-r", "-o", "%i").split())
    with sweep(tmp_path, cluster, *cells) as command:
        soon(lambda: "going on from step" in logs(tmp_path) and computing(tmp_path), "the long batch is gone on with")
        assert not orphans & set(slurm("squeue", "-h", "-r", "-o", "%i").split())
        command.send(signal.SIGINT)
        ended = command.end(60)
    assert ended.returncode == 130
    assert ended.stderr.splitlines()[0] == "cancelled 1 Slurm job"
    soon(lambda: not slurm("squeue", "-h"), "the job is gone")
    assert not (tmp_path / "sweeps" / ".jobs").exists()
    assert inodes(tmp_path) == before
    assert len(checkpoint_files(tmp_path)) == 1


@pytest.mark.system
@real_slurm
@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get(TIME_LIMIT), reason=f"takes minutes; {TIME_LIMIT}=1 runs it")
def test_a_job_past_its_real_time_limit_is_requeued_and_continues(cluster: dict[str, str], tmp_path: Path) -> None:
    """Slurm looks at limits every half minute, and sends its signal up to a minute early."""
    arguments = [f"steps={ENDLESS}", "optimizer=signgd", "seed=1,2", "hydra.launcher.timeout_min=1"]
    with sweep(tmp_path, cluster, *arguments) as command:
        soon(lambda: "going on from step" in logs(tmp_path) and computing(tmp_path), "it continues", 240)
        said, events = logs(tmp_path), journals(tmp_path)["batch-0.jsonl"]
        command.send(signal.SIGINT)
        assert command.end(60).returncode == 130
    assert "Job has timed out" in said
    first, second = (i for i, event in enumerate(events) if event["event"] == "begin")
    shares = [
        [event["share"] for event in part if event["event"] == "advance"] for part in (events[first:second], events[second:])
    ]
    assert 0 < max(shares[0]) <= min(shares[1])


@pytest.mark.system
@real_slurm
@pytest.mark.slow
def test_what_slurm_refuses_is_one_line_and_exit_code_2(cluster: dict[str, str], tmp_path: Path) -> None:
    nowhere = ["hydra.launcher.cluster=slurm", "hydra.launcher.partition=nowhere"]
    ended = finish("-m", *SMALL, f"results_dir={tmp_path}", "steps=10", *nowhere, environment=cluster)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "the jobs are refused" in ended.stderr and "partition" in ended.stderr
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
