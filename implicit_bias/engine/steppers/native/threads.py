"""One piece of work by several threads, none of which is left at it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait


def by_all(work: Callable[[int], int], threads: int, pool: ThreadPoolExecutor | None) -> int:
    """The least of what all threads give, this one among them; an interrupt is raised when none is at work any more."""
    others: list[Future[int]] = []
    try:
        if pool is not None:
            others.extend(pool.submit(work, thread) for thread in range(1, threads))
        mine = work(0)
    finally:
        if others:
            _wait_for(others)
    return min(mine, *(done.result() for done in others)) if others else mine


def _wait_for(others: Sequence[Future[int]]) -> None:
    """Until all are done, however often it is interrupted; then the first interrupt is raised."""
    interrupt: BaseException | None = None
    while True:
        try:
            wait(others)
            break
        except BaseException as again:  # noqa: BLE001 - it is raised below
            interrupt = interrupt or again
    if interrupt is not None:
        raise interrupt
