"""Stop requests: they take effect at once, or, while a batch is computed, between two steps, after a checkpoint.

A signal handler that raises does so in the middle of a step, and all that was computed since the last checkpoint is lost. Here
the handler leaves its exception, and the batch raises it after the step. Only the main thread may do so, as only it has handlers.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: Seconds that a step has to come to its end before it is interrupted all the same: records of large networks take longer.
PATIENCE = 3.0


class _Batch:
    """The state of the batch that is being computed."""

    def __init__(self) -> None:
        self.stepping = False
        self.reason: BaseException | None = None
        self.timer: threading.Timer | None = None

    def forget(self) -> None:
        self.reason = None
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


_batch = _Batch()


def stop(reason: BaseException, number: int | None = None, patience: float = PATIENCE) -> None:
    """Raise ``reason``: now, or, where a batch is computed, after its step.

    Args:
        reason: To end the work with; of a kind that no handler of ordinary errors catches.
        number: The signal that this is the answer to. A second one is answered at once.
        patience: Seconds after which the signal is sent a second time.
    """
    if not _batch.stepping or (number is not None and _batch.reason is not None):
        raise reason
    _batch.reason = reason
    if number is not None:
        _batch.timer = threading.Timer(patience, signal.raise_signal, [number])
        _batch.timer.daemon = True
        _batch.timer.start()


def reason_to_stop() -> BaseException | None:
    """For a batch between two steps: what it is to raise, once it has kept what it needs to go on; None: nothing."""
    reason = _batch.reason
    if reason is not None:
        _batch.forget()
    return reason


@contextmanager
def after_steps() -> Iterator[None]:
    """Computes a batch: while it is active :func:`stop` waits for :func:`reason_to_stop`, at the latest for the end."""
    before, _batch.stepping = _batch.stepping, True
    try:
        yield
    finally:
        _batch.stepping = before
        reason = None if before else reason_to_stop()
    if reason is not None:
        raise reason
