"""Batches on several processes of this machine, started once per sweep; when one dies, only its own cells are affected."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Any

from implicit_bias.core import plugins
from implicit_bias.core.installation import PARENT
from implicit_bias.sweep.clusters.tasks import Ledger, Task

WORKER = (sys.executable, "-m", "implicit_bias.sweep.clusters.worker")
# Seconds that workers have to clean up after themselves before they are killed.
GRACE = 5.0
# So many workers in a row that end before they are ready mean that none ever will be.
MOST_FALSE_STARTS = 3


class Worker:
    """A worker process, and the task that it has."""

    def __init__(self, place: int, environment: Mapping[str, str], command: Sequence[str]) -> None:
        self.place = place
        self.task: Task | None = None
        self.ready = False
        self.solving = False
        root = str(PARENT)
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        # A session of its own: Ctrl-C is for the parent, which then stops its workers.
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path, **plugins.environment(), **environment},
            start_new_session=True,
        )
        self._rest = b""

    def fileno(self) -> int:
        """The file descriptor of its events."""
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def give(self, task: Task, message: Mapping[str, Any]) -> None:
        """Send the worker a task. If it has died, its event stream ends, and the death is handled there."""
        assert self.process.stdin is not None
        self.task = task
        self.solving = True
        with contextlib.suppress(OSError):
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def events(self) -> list[dict[str, Any]] | None:
        """The events received so far; None when the worker has closed its stream."""
        data = os.read(self.fileno(), 2**16)
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """Close the pipes of a process that has ended."""
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()

    def dismiss(self) -> None:
        """Close the worker's input, so that it ends after its task."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()


def run_local(
    tasks: Iterable[Task],
    environments: Sequence[Mapping[str, str]],
    ledger: Ledger,
    command: str,
    worker_command: Sequence[str] = WORKER,
) -> None:
    """Compute tasks on one process for each of ``environments``; every cell is settled in ``ledger`` when it returns.

    A task whose process dies is tried again; if that one dies too its cells are tried alone, so that only the guilty fail.

    Args:
        tasks: In the order in which they are to be begun.
        environments: Variables of each process, on top of this one's.
        ledger: Told of everything.
        command: What the user typed, for the provenance.
        worker_command: What a worker is started with.
    """
    waiting = list(tasks)
    numbers = count(max((task.number for task in waiting), default=0) + 1)
    workers: dict[int, Worker] = {}
    false_starts = 0
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or any(worker.task for worker in workers.values()):
                for place in range(len(environments)):
                    idle = sum(worker.task is None for worker in workers.values())
                    if place not in workers and len(waiting) > idle:
                        workers[place] = Worker(place, environments[place], worker_command)
                        selector.register(workers[place], selectors.EVENT_READ, workers[place])
                _assign(waiting, workers.values(), ledger, command)
                for key, _ in selector.select():
                    worker: Worker = key.data
                    events = worker.events()
                    if events is not None:
                        for event in events:
                            _hear(worker, event, ledger)
                        false_starts = 0 if worker.ready else false_starts
                        continue
                    selector.unregister(worker)
                    del workers[worker.place]
                    reason = _last_words(worker.process.wait())
                    worker.close()
                    if worker.task is not None:
                        waiting[:0] = _again(worker.task, ledger, reason, numbers)
                    false_starts += not worker.ready
                    if false_starts >= MOST_FALSE_STARTS:
                        for task in waiting:
                            ledger.fail(task.cells, f"{reason} before it could begin")
                            ledger.drop(task)
                        waiting.clear()
            for worker in workers.values():
                worker.dismiss()
        except BaseException:
            _terminate(workers.values())
            raise
        _terminate(workers.values(), politely=True)


def next_task(waiting: Sequence[Task], busy: Iterable[Task]) -> int:
    """The place of the task to begin: the first whose data no other worker is solving references of, or the first there is.

    References are cached: the second to want them finds them solved, if it does not ask at the same time.
    """
    in_use = {id(cell.dataset) for task in busy for cell in task.cells}
    for place, task in enumerate(waiting):
        if not any(id(cell.dataset) in in_use for cell in task.cells):
            return place
    return 0


def _assign(waiting: list[Task], workers: Iterable[Worker], ledger: Ledger, command: str) -> None:
    everyone = list(workers)
    for worker in everyone:
        if waiting and worker.ready and worker.task is None:
            solving = [other.task for other in everyone if other.task is not None and other.solving]
            task = waiting.pop(next_task(waiting, solving))
            ledger.work.begin(task.key)
            worker.give(task, ledger.message(task, command))


def _hear(worker: Worker, event: Mapping[str, Any], ledger: Ledger) -> None:
    kind, task = event["event"], worker.task
    if kind == "ready":
        worker.ready = True
    elif task is None:
        return
    elif kind == "advance":
        worker.solving = worker.solving and event["solving"]
        ledger.advance(task, event)
    elif kind == "status":
        ledger.progress.status(event["text"])
    elif kind == "warning":
        ledger.warn(event["text"])
    elif kind == "cell":
        ledger.report(task, event)
    elif kind == "end":
        ledger.close(task, event.get("seconds"))
        worker.task = None


def _again(task: Task, ledger: Ledger, reason: str, numbers: Iterable[int]) -> list[Task]:
    """The tasks to try again after the process that computed one has died."""
    rest = ledger.unfinished(task)
    if task.attempts and len(task.cells) == 1:
        ledger.fail(rest, reason)
        rest = []
    ledger.drop(task)
    parts = [rest] if not task.attempts else [[cell] for cell in rest]
    again = [Task(number, part, task.attempts + 1) for part, number in zip(parts, numbers, strict=False) if part]
    for part in again:
        ledger.plan(part)
    return again


def _last_words(code: int) -> str:
    if code < 0:
        return f"worker killed by signal {-code}"
    return f"worker ended with exit code {code}"


def _terminate(workers: Iterable[Worker], politely: bool = False) -> None:
    """Stop workers and wait for their end: SIGTERM first, SIGKILL after a grace period."""
    everyone = list(workers)
    processes = [worker.process for worker in everyone]
    try:
        if not politely:
            for process in processes:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        for worker in everyone:
            worker.close()
