"""Sweeps on several processes: equal to inline, and nothing lost or computed twice whoever is killed."""

import json
import math
import os
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from implicit_bias.config.overrides import compose
from implicit_bias.config.spec import RunSpec
from implicit_bias.core.errors import BadInput
from implicit_bias.run import main
from implicit_bias.runtime.processors import worker_devices, worker_threads
from implicit_bias.storage.checkpoints import VARIABLE
from implicit_bias.sweep import Outcome, Silent, execute
from implicit_bias.sweep.clusters import local as clusters_local
from implicit_bias.sweep.clusters.launch import launch, local_launcher
from implicit_bias.sweep.clusters.local import next_task, run_local
from implicit_bias.sweep.clusters.tasks import Ledger, Task, remaining, spread, stamp
from implicit_bias.sweep.plan import Cell, batches
from tests.support.commands import SMALL, Command, checkpoint_files, fork_workers, forking, gone, inodes, soon, tables, workers

LOCAL = ["hydra.launcher.cluster=local", "hydra.launcher.workers=2"]


def specs(folder: Path, *overrides: str) -> list[RunSpec]:
    return [cell.spec for cell in compose([*SMALL, f"results_dir={folder}", *overrides], multirun=True)]


def prepared(folder: Path, *overrides: str) -> list[Cell]:
    found = specs(folder, *overrides)
    return [Cell(i, spec, spec.dataset.load(), folder / "runs" / str(i)) for i, spec in enumerate(found)]


# --- pure functions --------------------------------------------------------------------------------------------------


def test_threads_of_workers_never_exceed_the_cores_nor_what_the_user_has_set() -> None:
    assert set(worker_threads(3, 8, {}).values()) == {"2"}
    assert set(worker_threads(4, 2, {}).values()) == {"1"}
    threads = worker_threads(2, 8, {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "9"})
    assert (threads["OMP_NUM_THREADS"], threads["MKL_NUM_THREADS"]) == ("1", "4")


def test_every_worker_sees_one_gpu_round_robin() -> None:
    assert [e["CUDA_VISIBLE_DEVICES"] for e in worker_devices(3, ["4", "6"])] == ["4", "6", "4"]
    assert worker_devices(2, []) == [{}, {}]


def test_batches_are_cut_for_idle_workers_but_not_shredded(tmp_path: Path) -> None:
    large = batches(prepared(tmp_path, "dataset.samples_per_class=250", "seed=range(40)", "steps=10"))
    assert [len(batch) for batch in large] == [40]
    assert [len(batch) for batch in spread(large, 1)] == [40]
    assert [len(batch) for batch in spread(large, 4)] == [10, 10, 10, 10]
    assert [len(batch) for batch in spread(large, 3)] == [20, 10, 10]
    small = batches(prepared(tmp_path, "seed=range(40)", "steps=10"))
    assert [len(batch) for batch in spread(small, 4)] == [40]
    networks = batches(prepared(tmp_path, "model=mlp", "seed=range(3)", "steps=10"))
    assert [len(batch) for batch in spread(networks, 2)] == [2, 1]
    assert sorted(cell.index for batch in spread(large, 7) for cell in batch) == list(range(40))


def test_the_longest_batch_goes_first(tmp_path: Path) -> None:
    plan = batches(prepared(tmp_path, "steps=10,1000,100"))
    assert [batch[0].spec.steps for batch in spread(plan, 2)] == [1000, 100, 10]


def test_two_workers_do_not_solve_the_same_references_if_there_is_other_work(tmp_path: Path) -> None:
    first, second, third = prepared(tmp_path, "seed=1,2,3")
    assert next_task([Task(0, [first]), Task(1, [second])], [Task(2, [first, third])]) == 1
    assert next_task([Task(0, [first])], [Task(2, [first])]) == 0


def test_a_task_that_is_begun_again_does_not_force_what_it_has_computed(tmp_path: Path) -> None:
    done, todo = prepared(tmp_path, "seed=1,2", "force=true")
    for cell in (done, todo):
        cell.directory.mkdir(parents=True)
    ledger = Ledger([None, None], {cell.index: stamp(cell.directory) for cell in (done, todo)}, Silent(), lambda *a: None)
    message = json.loads(json.dumps(ledger.message(Task(0, [done, todo]), "test")))
    done.directory.rmdir()
    time.sleep(0.01)
    done.directory.mkdir()
    assert [spec.force for spec in remaining(message)] == [False, True]


# --- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["hydra.launcher.cluster=lokal"], "launcher.cluster=lokal: must be inline, local or slurm"),
        (["hydra.launcher.workers=2"], "launcher.workers=2: is read by launcher.cluster=local only"),
        (["launcher.cluster=local", "launcher.partition=a"], "launcher.partition=a: is read by launcher.cluster=slurm only"),
        (["launcher.cluster=slurm", "launcher.workers=2"], "launcher.workers=2: is read by launcher.cluster=local only"),
        (
            ["hydra.launcher.cluster=local", "hydra.launcher.workers=0"],
            "launcher.workers=0: must be null or an integer in [1, 1024]",
        ),
        (["hydra.launcher.cluster=local", "hydra.launcher.workers=a"], "launcher.workers=a: must be null or an integer"),
        (["hydra.launcher.clster=local"], "launcher.clster: unknown key; did you mean launcher.cluster?"),
        (
            ["hydra.sweep.dir=x"],
            "hydra.sweep.dir: unknown key; of Hydra's own keys only these are allowed: hydra.launcher.cluster",
        ),
        (["hydra.launcher.cluster=local,inline"], "launcher.cluster: cannot be swept"),
    ],
)
def test_a_mistaken_key_is_one_line(overrides: list[str], line: str) -> None:
    with pytest.raises(BadInput) as caught:
        compose(overrides, multirun=True)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_where_a_run_is_computed_is_no_part_of_what_it_is(tmp_path: Path) -> None:
    (inline,) = execute(specs(tmp_path, "steps=10"), command="test")
    (again,) = execute(specs(tmp_path, "steps=10", *LOCAL), command="test")
    assert again.status == "skipped"
    assert again.directory == inline.directory
    assert inline.directory is not None
    assert "launcher" not in (inline.directory / "config.yaml").read_text()


def test_more_failures_than_a_screen_holds_go_to_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(cells: Sequence[RunSpec], **others: Any) -> list[Outcome]:
        return [Outcome(spec, None, "failed", f"broken {spec.seed}", "internal") for spec in cells]

    monkeypatch.setattr("implicit_bias.sweep.execute", fail)
    assert main(["-m", "seed=range(300)", f"results_dir={tmp_path}"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "300 of 300 cells failed:"
    assert len(lines) == 1 + 2 * 20 + 1
    assert lines[-1].startswith("  ... and 280 more, all in ")
    (file,) = tmp_path.glob("sweeps/*/failed.txt")
    assert str(file) in lines[-1]
    assert len(file.read_text().splitlines()) == 600


def test_the_command_that_computes_a_failed_cell_again_has_all_that_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed: list[RunSpec] = []

    def fail(cells: Sequence[RunSpec], **others: Any) -> list[Outcome]:
        failed.extend(cells)
        return [Outcome(spec, None, "failed", "broken", "internal") for spec in cells]

    monkeypatch.setattr("implicit_bias.sweep.execute", fail)
    given = [
        "seed=1,2",
        "log.norms=[linf, lp3]",
        f"results_dir={tmp_path / 'with blank'}",
        "optimizer=nsd",
        "norm=lp",
        "norm.p=4",
    ]
    assert main(["-m", *given, "name=a", "device=cpu", "force=true", "progress=off", "compile=off"]) == 1
    hints = [line for line in capsys.readouterr().err.splitlines() if "python -m" in line]
    again = [compose(shlex.split(hint)[3:])[0].spec for hint in hints]
    assert again == failed and len(again) == 2


# --- real processes --------------------------------------------------------------------------------------------------


class Watcher(Silent):
    """Remembers how many cells were said to be done, and what part of the time had passed."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[int] = []
        self.fractions: list[float | None] = []

    def tell(self, own_ratio: float = math.nan, steps: int | None = None) -> None:
        self.fractions.append(self.work.fraction())

    def cells(self, done: int, total: int) -> None:
        assert total == 13
        self.done.append(done)


@pytest.mark.slow
def test_workers_compute_what_one_process_computes_and_failures_stay_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers are started as they are for users, here alone, when there are two of them."""

    def cells(folder: Path) -> list[RunSpec]:
        lost = ["dataset.noise=50", "dataset.samples_per_class=40", "reference=certified", "log.norms=[l2]", "optimizer=ngd"]
        return [
            *specs(folder, "steps=300", "optimizer=signgd,muon", "seed=range(5)"),
            *specs(folder, "steps=50", *lost),
            *specs(folder, "steps=50", "optimizer=gd", "loss=exponential", "schedule.lr=0.01,100", "dataset.noise=5"),
        ]

    inline = execute(cells(tmp_path / "a"), command="test")
    watcher, told = Watcher(), dict[int, str]()
    local = launch(
        cells(tmp_path / "b"),
        local_launcher(2),
        command="test",
        progress=watcher,
        on_outcome=lambda index, outcome: told.update({index: outcome.status}),
    )
    assert [(o.status, o.error, o.error_kind) for o in local] == [(o.status, o.error, o.error_kind) for o in inline]
    assert [o.status for o in local].count("failed") == 2
    assert tables(tmp_path / "a") == tables(tmp_path / "b")
    assert told == {index: outcome.status for index, outcome in enumerate(local)}
    assert watcher.done == sorted(watcher.done)
    assert watcher.done[-1] == 13
    assert all(fraction is not None and 0 <= fraction <= 1 for fraction in watcher.fractions)
    assert watcher.fractions[-1] == 1  # every task has come to its end
    good = [spec for spec, outcome in zip(cells(tmp_path / "b"), local, strict=True) if outcome.status == "done"]
    assert local[3].directory is not None
    (local[3].directory / "trajectory.csv").write_text("edited")
    capfd.readouterr()
    monkeypatch.setattr(clusters_local, "subprocess", forking())
    again = launch(good, local_launcher(1), command="test")
    assert [o.status for o in again] == [*["skipped"] * 3, "done", *["skipped"] * 7]
    (line,) = capfd.readouterr().err.splitlines()  # and not another of the worker's
    assert line.endswith("trajectory.csv was changed; the run is computed again")
    assert tables(tmp_path / "a") == tables(tmp_path / "b")


# A worker of the standard library alone, which starts in no time; it dies of the cell with seed 2.
GUILTY = """
import json, os, signal, sys
print(json.dumps({{"event": "ready"}}), flush=True)
for line in sys.stdin:
    seeds = [cell["config"]["seed"] for cell in json.loads(line)["cells"]]
    with open({log!r}, "a") as log:
        print(*seeds, file=log)
    if 2 in seeds:
        os.kill(os.getpid(), signal.SIGKILL)
    cell = {{"event": "cell", "place": 0, "status": "failed", "error": "as told", "kind": "internal"}}
    print(json.dumps(cell), json.dumps({{"event": "end"}}), sep="\\n", flush=True)
"""


WARNING = """
import json, sys
print(json.dumps({"event": "ready"}), flush=True)
for line in sys.stdin:
    cell = {"event": "cell", "place": 0, "status": "failed", "error": "as told", "kind": "internal"}
    for event in ({"event": "warning", "text": "damaged"}, cell, {"event": "end"}):
        print(json.dumps(event), flush=True)
"""


def test_what_several_workers_warn_of_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = prepared(tmp_path, "steps=10", "seed=1,2")
    ledger = Ledger([None] * 2, {cell.index: None for cell in cells}, Silent(), lambda *a: None)
    run_local([Task(i, [cell]) for i, cell in enumerate(cells)], [{}, {}], ledger, "test", (sys.executable, "-c", WARNING))
    assert capsys.readouterr().err == "warning: damaged\n"


def pooled(folder: Path, script: str, *overrides: str) -> list[Outcome | None]:
    """Outcomes of cells, in one batch, on one worker that runs ``script``."""
    cells = prepared(folder, *overrides)
    ledger = Ledger([None] * len(cells), {cell.index: None for cell in cells}, Silent(), lambda *a: None)
    run_local([Task(0, cells)], [{}], ledger, "test", (sys.executable, "-c", script))
    return ledger.outcomes


def test_a_cell_that_kills_its_worker_fails_alone(tmp_path: Path) -> None:
    log = tmp_path / "log"
    found = pooled(tmp_path, GUILTY.format(log=str(log)), "steps=10", "seed=1,2,3")
    assert [o.error for o in found if o is not None] == ["as told", "worker killed by signal 9", "as told"]
    assert log.read_text().split("\n") == ["1 2 3", "1 2 3", "1", "2", "3", ""]


def test_workers_that_cannot_start_are_given_up(tmp_path: Path) -> None:
    found = pooled(tmp_path, "import sys; sys.exit(3)", "steps=10", "seed=1,2")
    assert [o.error for o in found if o is not None] == ["worker ended with exit code 3 before it could begin"] * 2


def sweep(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> Command:
    return Command("-m", *SMALL, f"results_dir={folder}", *arguments, environment=environment, before=fork_workers)


def inodes_after(folder: Path, *overrides: str) -> dict[Path, tuple[int, int]]:
    """Compute cells in this process. Returns the inodes of all finished runs."""
    execute(specs(folder, *overrides), command="test")
    return inodes(folder)


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_costs_nothing(tmp_path: Path) -> None:
    with sweep(tmp_path, *LOCAL, "optimizer=signgd,ngd,gd", "steps=2000", "seed=range(4)") as command:
        before = soon(lambda: inodes(tmp_path), "a batch is done")
        os.kill(workers(command.pid)[0], signal.SIGKILL)
        ended = command.end()
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "12 computed, 0 finished before, 0 failed" in ended.stdout
    assert before.items() <= inodes(tmp_path).items()


LONG = ["optimizer=signgd,ngd", "steps=1500", "seed=range(2)"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What LONG comes to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    execute(specs(folder, *LONG), command="test")
    return tables(folder)


@pytest.mark.slow
@pytest.mark.xdist_group("undisturbed")
@pytest.mark.parametrize(
    ("number", "code", "processes"), [(signal.SIGKILL, -9, 2), (signal.SIGINT, 130, 1), (signal.SIGTERM, 143, 1)]
)
def test_however_a_sweep_ends_its_workers_leave_a_checkpoint_and_the_same_command_goes_on(
    tmp_path: Path,
    number: int,
    code: int,
    processes: int,
    undisturbed: dict[str, bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is left is then computed in this process, to the bytes of an undisturbed sweep."""
    done = inodes_after(tmp_path, "optimizer=signgd", "steps=100", "seed=range(2)")
    often = {VARIABLE: "0.05"}
    again = [part.replace("steps=", "steps=100,") for part in LONG]
    with sweep(tmp_path, LOCAL[0], f"hydra.launcher.workers={processes}", *again, environment=often) as command:
        soon(lambda: checkpoint_files(tmp_path), "a long batch is computed")
        pids = workers(command.pid)
        assert len(pids) == processes
        command.send(number)
        ended = command.end(60)
    soon(lambda: gone(pids), "the workers stop", 15)
    assert ended.returncode == code
    said = "" if code < 0 else "interrupted; finished runs are kept, and the same command goes on from there\n"
    assert ended.stderr == said
    assert not list(tmp_path.glob("runs/.*"))
    before = inodes(tmp_path)
    assert done.items() <= before.items()
    interrupted = len(checkpoint_files(tmp_path))
    assert 1 <= interrupted <= processes
    assert main(["-m", *SMALL, f"results_dir={tmp_path}", *again]) == 0
    output = capsys.readouterr()
    assert output.err.count("going on from step") == len(output.err.splitlines()) == interrupted
    assert f"{8 - len(before)} computed, {len(before)} finished before, 0 failed" in output.out
    assert before.items() <= inodes(tmp_path).items()
    assert undisturbed.items() <= tables(tmp_path).items()


@pytest.mark.slow
def test_two_identical_sweeps_at_once_are_both_complete(tmp_path: Path) -> None:
    arguments = [LOCAL[0], "hydra.launcher.workers=1", "optimizer=signgd,ngd", "steps=500", "seed=range(3)"]
    with sweep(tmp_path, *arguments) as one, sweep(tmp_path, *arguments) as other:
        results = [command.end() for command in (one, other)]
    assert [(ended.returncode, ended.stderr) for ended in results] == [(0, "")] * 2
    assert all("0 failed" in ended.stdout for ended in results)
    assert len(inodes(tmp_path)) == 6
    assert not list(tmp_path.glob("runs/.*"))


@pytest.mark.slow
def test_the_report_with_workers_is_that_without_and_a_figure_whose_runs_fail_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from implicit_bias.figures import FIGURES
    from implicit_bias.figures.base import PerPreset
    from implicit_bias.plotting.style import panels
    from implicit_bias.report import command as report

    diverging = [*SMALL, "optimizer=gd", "loss=exponential", "schedule.lr=100", "dataset.noise=5", "steps=20"]
    monkeypatch.setattr(clusters_local, "subprocess", forking())
    monkeypatch.setattr("implicit_bias.figures.own.newton_schulz.STEPS", PerPreset(20, 20, 20))
    monkeypatch.setattr(FIGURES.get("newton_schulz"), "draw", lambda self, table, preset: panels(1, 1, height=1)[0])
    monkeypatch.setattr(FIGURES.get("adam_eps"), "sweeps", lambda self, preset: [diverging])
    folders = [tmp_path / "one", tmp_path / "two"]
    for processes, folder in zip((1, 2), folders, strict=True):
        arguments = ["preset=smoke", "only=newton_schulz,adam_eps", f"results_dir={folder}", f"workers={processes}"]
        assert report.main(arguments) == 1
        errors = capsys.readouterr().err
        assert "error: adam_eps: a run failed: diverged" in errors
        assert "error: newton_schulz:" not in errors
    one, two = ((folder / "smoke" / "figures" / "newton_schulz.csv").read_bytes() for folder in folders)
    assert one == two
    assert (tmp_path / "two" / "smoke" / "REPORT.md").exists()


def test_workers_of_the_report_are_a_number() -> None:
    from implicit_bias.report import command as report

    assert report.request_from(["workers=3"]).workers == 3
    for value in ("0", "-1", "two", "1.5"):
        with pytest.raises(BadInput, match=f"^workers={value}: must be an integer >= 1"):
            report.request_from([f"workers={value}"])
