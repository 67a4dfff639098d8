"""The command in processes of its own, which may be killed; what its workers and results folders are; and a wait for them.

A process is forked from a server that has imported everything, which takes Python three seconds; a cell of a sweep takes less.
Its pid is its own and it dies like any other. So does a worker, which is forked from the process that wants it.
"""

import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Self

import implicit_bias
from implicit_bias.run import main
from implicit_bias.sweep.clusters import local, worker

ROOT = Path(implicit_bias.__file__).resolve().parents[1]
#: Four classes that are separated in no time.
SMALL = (
    "dataset.num_classes=4",
    "dataset.dim=8",
    "dataset.samples_per_class=10",
    "dataset.noise=0.5",
    "reference=none",
    "device=cpu",
    "compile=off",
    "log.norms=[]",
    "progress=off",
)
#: So many steps that a test is over before they are.
ENDLESS = 10_000_000
TABLES = ("trajectory.csv", "summary.csv")

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["tests.support.preloaded"])


@dataclass(frozen=True)
class Ended:
    """A command that has come to its end."""

    returncode: int
    stdout: str
    stderr: str


class Command:
    """``python -m implicit_bias.run`` with these arguments, running; killed where it leaves its ``with``.

    Args:
        environment: Variables on top of this process's.
        before: Called in the new process first; a function of a module.
    """

    def __init__(
        self, *arguments: str, environment: Mapping[str, str] | None = None, before: Callable[[], object] | None = None
    ) -> None:
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(environment or {})}
        self._folder = tempfile.TemporaryDirectory()
        self._files = [Path(self._folder.name) / name for name in ("out", "err")]
        self._process = _server.Process(target=_become, args=(arguments, variables, self._files, before), daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.join()
        self._process.close()
        self._folder.cleanup()

    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.is_alive()

    def send(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9, and wait until it is dead."""
        assert self.running(), "it was to be killed in the middle"
        self._process.kill()
        self._process.join()

    def end(self, seconds: float = 200) -> Ended:
        """Wait for its end."""
        self._process.join(seconds)
        code = self._process.exitcode
        out, err = (path.read_text() for path in self._files)
        assert code is not None, f"it does not end within {seconds} s; it said:\n{out}{err}"
        return Ended(code, out, err)


def finish(*arguments: str, environment: Mapping[str, str] | None = None, before: Callable[[], object] | None = None) -> Ended:
    """Run the command to its end."""
    with Command(*arguments, environment=environment, before=before) as command:
        return command.end()


def _become(
    arguments: Sequence[str], variables: Mapping[str, str], files: Sequence[Path], before: Callable[[], object] | None
) -> None:
    os.environ.clear()
    os.environ.update(variables)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what starts the tests may ignore it, and pass that on
    for number, path in enumerate(files, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    if before is not None:
        before()
    code = main(arguments)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    os._exit(code)


def soon(found: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    """What ``found`` returns, once it is something. Raises AssertionError: it stayed nothing for so long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        result = found()
        if result:
            return result
        time.sleep(0.02)
    raise AssertionError(f"not in {seconds} s: {what}")


def workers(parent: int) -> list[int]:
    """The worker processes of a parent: each leads a session of its own."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, ppid, _, session = status.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if (int(ppid), session) == (parent, status.parent.name):
            found.append(int(session))
    return found


def fork_workers() -> None:
    """In a command: fork its workers, which have then imported everything. Else they are as always: pipes, session, variables."""
    local.subprocess = forking()  # type: ignore[assignment, attr-defined]


def forking() -> SimpleNamespace:
    """What :mod:`implicit_bias.sweep.clusters.local` has of :mod:`subprocess`, with workers that are forked."""
    return SimpleNamespace(PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired, Popen=_forked)


def _forked(command: Sequence[str], *, env: Mapping[str, str], **others: Any) -> subprocess.Popen[bytes]:
    """A process that would run ``command`` next, and works instead of doing so."""
    assert command == local.WORKER
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12 on, for any thread there is
        return subprocess.Popen(command, env=env, preexec_fn=lambda: _work(env), **others)


def _work(variables: Mapping[str, str]) -> None:
    for path in Path("/proc/self/fd").iterdir():  # the other workers' pipes, whose ends must be seen, and that to the parent
        if int(path.name) > 2 and path.exists() and stat.S_ISFIFO(path.stat().st_mode):
            os.close(int(path.name))
    os.environ.clear()
    os.environ.update(variables)
    sys.stdin, sys.stderr = open(0, closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115 - until it ends
    try:
        os._exit(worker.main())
    except BaseException:  # noqa: BLE001 - nothing of it goes on in the code that has forked
        traceback.print_exc()
        os._exit(1)


def gone(pids: Sequence[int]) -> bool:
    """Whether there is none of these processes any more."""
    return not any(Path(f"/proc/{pid}/stat").exists() for pid in pids)


def inodes(results: Path) -> dict[Path, tuple[int, int]]:
    """Inode and time of every finished run's folder."""
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in results.glob("runs/[!.]*")}


def tables(results: Path) -> dict[str, bytes]:
    """What the runs of a results folder are, where and when they were computed left out."""
    paths = [path for path in sorted(results.glob("runs/[!.]*/*")) if path.name in TABLES]
    return {str(path.relative_to(results)): path.read_bytes() for path in paths}


def checkpoint_files(results: Path) -> list[Path]:
    """The checkpoints in a results folder, whole ones."""
    return sorted((results / "cache" / "checkpoints").glob("*.pt"))
