"""SIGTERM ends a command as Ctrl-C does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from implicit_bias.runtime.signals import stop


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends a run as Ctrl-C does, with an exit code of its own."""


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM end the work as Ctrl-C does: nothing is left half-written, and a batch that is computed leaves a checkpoint."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, lambda number, _: stop(Terminated(), number))}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else ignored, as by nohup, or the caller's
        before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda number, _: stop(KeyboardInterrupt(), number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
