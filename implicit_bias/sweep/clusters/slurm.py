"""Batches as jobs of a Slurm cluster, submitted as job arrays through submitit and watched from here.

submitit learns of the end of a job from the file that the job leaves, or from Slurm's accounting: without accounting it waits
for ever for a job that was killed. Here every job keeps a journal of its own, squeue says which jobs are still there, and one
that is gone without the last line of its journal is submitted once more.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

from implicit_bias.cli.messages import note
from implicit_bias.config.run_settings import LauncherSettings
from implicit_bias.core import plugins
from implicit_bias.core.errors import BadInput
from implicit_bias.core.installation import PARENT
from implicit_bias.runtime.processors import prepare_process, worker_threads
from implicit_bias.runtime.signals import stop
from implicit_bias.storage.files import atomic_write_text, process_is_alive
from implicit_bias.sweep.clusters.tasks import Ledger, Task
from implicit_bias.sweep.clusters.worker import Event, Stopped, perform

INSTALL = "pip install 'implicit-bias[slurm]'"
MAX_ARRAY_SIZE = 1001  # Slurm's own default, where it does not say
JOBS = ".jobs"
OWNER = "owner.json"
# Seconds between two looks at the journals, and between two lines of progress in a journal; and from Slurm's signal to the end of
# a job's time.
LOOK_EVERY, REPORT_EVERY = 0.5, 2.0
SIGNAL_BEFORE = 90
#: Seconds between two questions to Slurm, which all its users share, and for a last line to arrive on a network file system; the
#: variable is for a Slurm of one's own.
ASK_EVERY, VARIABLE = 3.0, "IMPLICIT_BIAS_SLURM_SECONDS"
# Seconds that a step may take to its end when a job is told to stop; after a SIGTERM Slurm kills it, by default, in 30.
PATIENCE = 10.0
# States of a job that will run, runs, or is about to be gone from the list.
ALIVE = (
    "PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESIZING", "SIGNALING",
    "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "SUSPENDED",
)  # fmt: skip


@dataclass(frozen=True)
class JobRequest:
    """What is asked of Slurm: a section ``launcher``, what it leaves null at the default of this cluster."""

    partition: str | None = None
    timeout_min: int = 60
    gpus_per_job: int = 0
    cpus_per_job: int = 1
    array_parallelism: int = 256
    max_requeues: int = 10

    @classmethod
    def of(cls, launcher: LauncherSettings) -> JobRequest:
        given = {name: getattr(launcher, name) for name in (field.name for field in fields(cls))}
        return cls(**{name: value for name, value in given.items() if value is not None})


@dataclass
class Job:
    """A submitted task.

    Attributes:
        id: As Slurm shows it, ``12`` or ``12_3``.
        task: What it computes.
        journal: The file that it writes what it does to.
        read: So much of the journal has been read.
        gone: Since when Slurm has not listed it.
    """

    id: str
    task: Task
    journal: Path
    read: int = 0
    gone: float | None = None


class TimeIsUp(Stopped):
    """Slurm's signal before the end of a job's time."""


class BatchJob:
    """What a job calls, again when it was requeued; see submitit's checkpointing."""

    def __call__(self, path: str) -> None:
        """Compute the task in a file."""
        prepare_process()
        run_file(Path(path))

    def checkpoint(self, path: str) -> Any:
        """What is to be called in the requeued job: the same. Finished cells are skipped, others go on from their checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, path)


def check_slurm() -> None:
    """Raises BadInput where jobs cannot be submitted from here."""
    if importlib.util.find_spec("submitit") is None:
        raise BadInput(f"launcher.cluster=slurm: needs submitit; {INSTALL}")
    for program in ("sbatch", "squeue", "scancel"):
        if shutil.which(program) is None:
            raise BadInput(f"launcher.cluster=slurm: there is no {program} here; allowed: inline, local")


def run_slurm(tasks: Iterable[Task], launcher: LauncherSettings, ledger: Ledger, command: str) -> None:
    """Compute every task as a job; each cell is settled in ``ledger`` when it returns.

    Args:
        tasks: In the order in which they are to be submitted.
        launcher: The section ``launcher`` of a configuration.
        ledger: Told of everything.
        command: What the user typed, for the provenance.

    Raises:
        BadInput: Slurm refuses the jobs.
        KeyboardInterrupt: as it came; the jobs are cancelled then.
    """
    todo = list(tasks)
    if not todo:
        return
    jobs_folder = Path(todo[0].cells[0].spec.results_dir) / "sweeps" / JOBS
    _cancel_orphans(jobs_folder, {str(cell.directory) for task in todo for cell in task.cells})
    folder = (jobs_folder / uuid.uuid4().hex[:12]).resolve()
    watch = _Watch(folder, launcher, ledger, command)
    try:
        watch.submit(todo)
        watch.wait()
    except BaseException as error:
        cancelled = watch.cancel()
        if cancelled and not isinstance(error, BadInput):
            note(f"cancelled {cancelled} Slurm job{'s' if cancelled > 1 else ''}")
        _remove(folder)
        raise
    if not watch.lost:  # else its logs may say why
        _remove(folder)


def ask_every() -> float:
    """Seconds between two queries to Slurm."""
    return float(os.environ.get(VARIABLE, ASK_EVERY))


def array_sizes(jobs: int, largest: int) -> list[int]:
    """How many jobs each array has when none may have more than ``largest``: as equal as can be."""
    arrays = -(-jobs // largest)
    return [jobs // arrays + (i < jobs % arrays) for i in range(arrays)]


def max_array_size(asked: int | None) -> int:
    """The most jobs in an array: as asked, or what Slurm says."""
    if asked is not None:
        return asked
    for line in (_output("scontrol", "show", "config") or "").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "MaxArraySize" and value.strip().isdigit():
            return max(1, int(value))
    return MAX_ARRAY_SIZE


def states(listing: str) -> dict[str, tuple[str, str]]:
    """State and reason of every job in ``squeue -h -r -o '%i|%T|%r'``."""
    rows = [line.strip().split("|") for line in listing.splitlines()]
    return {row[0]: (row[1], row[2]) for row in rows if len(row) == 3}


def run_file(path: Path) -> None:
    """Compute the task in a file, in a job; what happens goes to the journal beside it."""
    task = json.loads(path.read_text())
    by_submitit = signal.getsignal(signal.SIGUSR2)
    with _journal_of(path).open("a", encoding="utf-8") as journal:

        def emit(event: Event) -> None:
            journal.write(json.dumps(event) + "\n")
            journal.flush()

        def terminated(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as a signal's handler is called
            stop(Stopped(), number, PATIENCE)

        def time_is_up(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as a signal's handler is called
            stop(TimeIsUp(), number, PATIENCE)

        signal.signal(signal.SIGTERM, terminated)
        signal.signal(signal.SIGUSR2, time_is_up)
        journal.write("\n")  # the last line of a job that was killed may have no end
        emit({"event": "begin", "host": socket.gethostname(), "pid": os.getpid()})
        try:
            perform(task, emit, REPORT_EVERY)
        except TimeIsUp:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent by Slurm when it requeues
            try:
                if callable(by_submitit):
                    by_submitit(signal.SIGUSR2, None)
            except Exception as error:  # noqa: BLE001 - submitit's own, where the job was requeued too often
                emit({"event": "given up", "reason": " ".join(str(error).split())})
            raise Stopped from None
        emit({"event": "end"})


class _Watch:
    """The jobs of a sweep that are not done yet."""

    def __init__(self, folder: Path, launcher: LauncherSettings, ledger: Ledger, command: str) -> None:
        self.lost = False
        self._folder = folder
        self._request = JobRequest.of(launcher)
        self._largest = max_array_size(launcher.max_array_size)
        self._ledger = ledger
        self._command = command
        self._jobs: list[Job] = []
        self._next_number = count()

    def submit(self, tasks: Sequence[Task]) -> None:
        """Submit tasks as arrays. Raises BadInput where Slurm does not take them."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        paths = []
        for task in tasks:
            path = self._folder / f"batch-{next(self._next_number)}.json"
            atomic_write_text(path, json.dumps(self._ledger.message(task, self._command)))
            paths.append(path)
        start = 0
        sizes = array_sizes(len(tasks), self._largest)
        for size in sizes:
            part = slice(start, start + size)
            try:
                ids = self._submit_array(paths[part], len(sizes))
            except (FailedJobError, FailedSubmissionError) as error:
                lines = [line for line in str(error).splitlines() if line.strip()]
                said = next((line for line in lines if line.startswith("sbatch: error:")), lines[-1] if lines else "no reason")
                reason = said.removeprefix("sbatch: error: ")
                what = "no Slurm controller answers here" if "dns" in reason or "contact" in reason else "the jobs are refused"
                raise BadInput(f"launcher.cluster=slurm: {what} ({reason})") from None
            new = [Job(i, task, _journal_of(path)) for i, task, path in zip(ids, tasks[part], paths[part], strict=True)]
            self._jobs += new
            self._write_owner()
            start += size
        self._ledger.progress.status(f"{len(self._jobs)} Slurm jobs")

    def wait(self) -> None:
        """Until every task is done or given up."""
        asked = 0.0
        while self._jobs:
            for job in list(self._jobs):
                self._read(job)
            if time.monotonic() - asked >= ask_every():
                asked = time.monotonic()
                self._ask()
            if self._jobs:
                time.sleep(min(LOOK_EVERY, ask_every()))

    def cancel(self) -> int:
        """Cancel what has not ended. Returns the number of jobs."""
        ids = [job.id for job in self._jobs]
        if ids:
            _output("scancel", *ids)
        return len(ids)

    def _submit_array(self, paths: Sequence[Path], arrays: int) -> list[str]:
        from submitit import SlurmExecutor

        request = self._request
        root = str(PARENT)
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        variables = {"PYTHONPATH": path, **plugins.environment(), **worker_threads(1, request.cpus_per_job, os.environ)}
        executor = SlurmExecutor(self._folder, max_num_timeout=request.max_requeues)
        parameters = {
            "job_name": "implicit_bias",
            "time": request.timeout_min,
            "cpus_per_task": request.cpus_per_job,
            "signal_delay_s": min(SIGNAL_BEFORE, request.timeout_min * 20),
            "array_parallelism": max(1, request.array_parallelism // arrays),
            "setup": [f"export {name}={shlex.quote(value)}" for name, value in variables.items()],
            "stderr_to_stdout": True,
        }
        if request.partition:
            parameters["partition"] = request.partition
        if request.gpus_per_job:
            parameters["gpus_per_node"] = request.gpus_per_job
        executor.update_parameters(**parameters)
        # submitit prints what sbatch says on stderr, and raises an error that says it too.
        with contextlib.redirect_stderr(io.StringIO()):
            return [str(job.job_id) for job in executor.map_array(BatchJob(), [str(path) for path in paths])]

    def _read(self, job: Job) -> None:
        """Read what a job has written to its journal since the last call."""
        try:
            with job.journal.open("rb") as file:
                file.seek(job.read)
                data = file.read()
        except OSError:
            return  # not begun
        complete = data[: data.rfind(b"\n") + 1]
        if complete and job.read == 0:
            self._ledger.work.begin(job.task.key)
        job.read += len(complete)
        for line in complete.splitlines():
            with contextlib.suppress(ValueError):  # half a line of a job that was killed
                self._hear(job, json.loads(line))

    def _hear(self, job: Job, event: Mapping[str, Any]) -> None:
        if event["event"] == "advance":
            self._ledger.advance(job.task, event)
        elif event["event"] == "warning":
            self._ledger.warn(event["text"])
        elif event["event"] == "cell":
            self._ledger.report(job.task, event)
        elif event["event"] == "end":
            self._ledger.close(job.task, event.get("seconds"))
            self._jobs.remove(job)
        elif event["event"] == "given up":
            self._give_up(job, f"Slurm job {job.id}: {event['reason']}")

    def _ask(self) -> None:
        """Query Slurm for the state of its jobs, and handle those of this sweep that ended or vanished."""
        listing = _listing()
        if listing is None:
            return  # Slurm does not answer, which says nothing about the jobs
        known = states(listing)
        for job in list(self._jobs):
            state, reason = known.get(job.id, ("", ""))
            if state in ALIVE:
                job.gone = None
                if state == "PENDING" and reason == "BeginTime" and job.journal.exists():
                    # Slurm holds a requeued job back for two minutes.
                    _output("scontrol", "update", f"JobId={job.id}", "StartTime=now")
            elif job.gone is None:
                job.gone = time.monotonic()
            elif time.monotonic() - job.gone >= ask_every():
                self._read(job)
                if job in self._jobs:
                    self._vanished(job)

    def _vanished(self, job: Job) -> None:
        """Resubmit, once, the unfinished cells of a job that ended without reporting it."""
        rest = self._ledger.unfinished(job.task)
        if rest and job.task.attempts == 0:
            self._jobs.remove(job)
            self._ledger.drop(job.task)
            again = Task(job.task.number, rest, 1)
            self._ledger.plan(again)
            self.submit([again])
        else:
            self._give_up(job, f"Slurm job {job.id} {_end_of(job.id)}")

    def _give_up(self, job: Job, reason: str) -> None:
        rest = self._ledger.unfinished(job.task)
        if rest:
            self.lost = True
            self._ledger.fail(rest, f"{reason}; its log is in {self._folder}")
        self._ledger.drop(job.task)
        if job in self._jobs:
            self._jobs.remove(job)

    def _write_owner(self) -> None:
        jobs = {job.id: job.journal.with_suffix(".json").name for job in self._jobs}
        story = {"host": socket.gethostname(), "pid": os.getpid(), "jobs": jobs}
        atomic_write_text(self._folder / OWNER, json.dumps(story))


def _journal_of(path: Path) -> Path:
    return path.with_suffix(".jsonl")


def _listing() -> str | None:
    """This user's jobs, for :func:`states`; None where Slurm does not answer."""
    return _output("squeue", "-h", "-r", "-u", str(os.getuid()), "-o", "%i|%T|%r")


def _end_of(job: str) -> str:
    """How a job ended according to Slurm, such as ``was lost (FAILED, NonZeroExitCode)``."""
    fields = dict(part.partition("=")[::2] for part in (_output("scontrol", "-o", "show", "job", job) or "").split())
    said = [fields[key] for key in ("JobState", "Reason") if fields.get(key, "None") != "None"]
    story = f" ({', '.join(said)})" if said else ""
    return f"ended without a result{story}, twice"


def _cancel_orphans(folder: Path, directories: set[str]) -> None:
    """Cancel jobs whose parent was killed, where they compute what is about to be submitted again."""
    for owner in folder.glob(f"*/{OWNER}"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            story = json.loads(owner.read_text())
            if story["host"] != socket.gethostname() or process_is_alive(story["pid"]):
                continue
            batches = {job: json.loads((owner.parent / name).read_text()) for job, name in story["jobs"].items()}
            same = [job for job, batch in batches.items() if directories & {cell["directory"] for cell in batch["cells"]}]
            if same:
                _output("scancel", *same)
            others = set(batches) - set(same)
            if not others & set(states(_listing() or "")):
                _remove(owner.parent)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()


def _output(*command: str) -> str | None:
    """What a program of Slurm's prints; None where it fails or does not answer."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return None
