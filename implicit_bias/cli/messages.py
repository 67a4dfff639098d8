"""Lines for the person at the terminal, on stderr; or for whoever listens."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator


def warn(line: str) -> None:
    """One line on stderr, or for whoever collects them; nothing is wrong enough to stop for."""
    _tell[-1](line)


def show_warning(line: str) -> None:
    """One line on stderr."""
    print(f"warning: {line}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def warnings_told(listener: Callable[[str], None]) -> Iterator[None]:
    """While active warnings go to ``listener``: of several processes that meet the same damage only one is to say so."""
    _tell.append(listener)
    try:
        yield
    finally:
        _tell.pop()


def note(line: str) -> None:
    """One line on stderr that is no warning."""
    print(line, file=sys.stderr, flush=True)


_tell: list[Callable[[str], None]] = [show_warning]
