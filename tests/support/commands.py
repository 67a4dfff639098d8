"""The command in processes of its own, which may be killed; what its workers and results folders are; and a wait for them.

A process is forked from a server that has imported everything, which takes Python three seconds; a cell of a sweep takes less.
Its pid is its own and it dies like any other.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import implicit_bias
from implicit_bias.run import main

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
WORKER = "implicit_bias.sweep.clusters.worker"
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
    """The worker processes of a parent."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            ppid = int(status.read_text().rpartition(")")[2].split()[1])
            if ppid == parent and WORKER in (status.parent / "cmdline").read_text():
                found.append(int(status.parent.name))
        except OSError:
            continue
    return found


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
