"""A process that computes batches for another one: ``python -m implicit_bias.sweep.clusters.worker``.

Tasks come as lines of JSON on stdin, events go as lines of JSON to stdout: ``ready``; ``advance`` (share, seconds, ratio,
solving), ``status`` and ``warning`` (text) while a task is computed; ``cell`` (place, status, error, kind, step) for each of its
cells; ``end`` (seconds). The process ends when stdin does. If that happens in the middle of a task its parent is gone: it writes
a checkpoint, and stops.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from types import FrameType
from typing import Any

from implicit_bias.cli.messages import warnings_told
from implicit_bias.core.work import Work
from implicit_bias.runtime.processors import prepare_process
from implicit_bias.runtime.signals import stop
from implicit_bias.sweep.clusters.tasks import remaining
from implicit_bias.sweep.execute import execute

Event = dict[str, Any]

# Seconds between two reports of progress; and from being told to stop to stopping whatever is going on.
REPORT_EVERY = 0.2
GRACE = 10.0


class Stopped(KeyboardInterrupt):
    """SIGTERM, or nobody listens any more: passes through everything that isolates failing cells, and cleans up on its way."""


class Reporter:
    """Progress of one task, as events."""

    def __init__(self, emit: Callable[[Event], None], every: float = REPORT_EVERY) -> None:
        self.work = Work()
        self._emit = emit
        self._every = every
        self._began = time.monotonic()
        self._last = -math.inf

    def status(self, text: str) -> None:
        """Say what is being done."""
        self._emit({"event": "status", "text": text})

    def tell(self, own_ratio: float = math.nan, steps: int | None = None) -> None:
        """Say how much of the task's time has passed; every so often only."""
        now = time.monotonic()
        if now - self._last >= self._every:
            self._last = now
            told = {"share": self.work.fraction() or 0.0, "seconds": now - self._began, "ratio": own_ratio}
            self._emit({"event": "advance", **told, "solving": steps is None})

    def cells(self, done: int, total: int) -> None:
        """Does nothing: the parent process counts cells itself."""


def perform(task: Mapping[str, Any], emit: Callable[[Event], None], every: float = REPORT_EVERY) -> None:
    """Compute a task that :meth:`implicit_bias.sweep.clusters.tasks.Ledger.message` made; every event but ``end`` is emitted."""
    with warnings_told(lambda line: emit({"event": "warning", "text": line})):
        reporter, sharing = Reporter(emit, every), task["sharing"]
        outcomes = execute(remaining(task), command=task["command"], progress=reporter, sharing=sharing, part=True)
    for place, outcome in enumerate(outcomes):
        told = {"status": outcome.status, "error": outcome.error, "kind": outcome.error_kind, "step": outcome.diverged_at}
        emit({"event": "cell", "place": place, **told})


def main() -> int:
    """Compute what comes on stdin until it ends. Returns the exit code."""
    prepare_process()
    stdout = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no event

    def emit(event: Event) -> None:
        try:
            stdout.write(json.dumps(event) + "\n")
            stdout.flush()
        except OSError:
            stop(Stopped())

    tasks: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
    busy = threading.Event()
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to answer
    threading.Thread(target=_listen, args=(tasks, busy), daemon=True).start()
    try:
        emit({"event": "ready"})
        while (task := tasks.get()) is not None:
            busy.set()
            began = time.monotonic()
            perform(task, emit)
            busy.clear()
            emit({"event": "end", "seconds": time.monotonic() - began})
    except Stopped:
        return 128 + signal.SIGTERM
    return 0


def _listen(tasks: SimpleQueue[dict[str, Any] | None], busy: threading.Event) -> None:
    for line in sys.stdin.buffer:
        tasks.put(json.loads(line))
    tasks.put(None)
    if busy.is_set():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os._exit(128 + signal.SIGTERM)  # a solver may take minutes to come back to Python


def _stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as a signal's handler is called
    stop(Stopped(), number)


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # Not sys.exit: the thread that waits for stdin holds its lock, over which Python would stumble, loudly, on its way out.
    os._exit(code)
