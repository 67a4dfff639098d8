"""Lines for the person at the terminal, by one logger, ``implicit_bias``, of the standard library.

Levels: INFO, a line as it is; WARNING, ``warning: ...``; ERROR, ``error: ...``. Whoever uses the package as a library may silence
or redirect them as those of any logger, ``logging.getLogger("implicit_bias")``. Unless it has handlers already, it is given one
that writes to standard error; nothing is handed on to the handlers of the root logger, which would say it twice.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from implicit_bias.cli.wrapping import fitted

# A command at the end of a line that says something else first.
_COMMAND = re.compile(r"^(?P<before>.*\S): (?P<command>python -m .*)$", re.MULTILINE)
_PREFIXES = {logging.WARNING: "warning: ", logging.ERROR: "error: "}


def in_terminal(text: str) -> str:
    """Lines as they are read on the terminal behind standard error: wrapped between words, commands whole and on their own."""
    parted = _COMMAND.sub(lambda found: f"{found['before']}:\n  {found['command']}", text)
    return fitted(parted, shutil.get_terminal_size().columns)


#: Back to the beginning of a line, and what stands there is gone.
ERASE = "\r\x1b[2K"
LOADING = "loading packages ..."


class _Notice:
    """A line at the bottom of a terminal that goes as soon as anything else is said."""

    def __init__(self) -> None:
        self._stands = False

    def show(self, text: str) -> None:
        if sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb"):
            self._stands = True
            print(text, end="", file=sys.stderr, flush=True)

    def erase(self) -> None:
        if self._stands:
            self._stands = False
            print(ERASE, end="", file=sys.stderr, flush=True)


_NOTICE = _Notice()


@contextmanager
def loading() -> Iterator[None]:
    """While packages are imported, which takes seconds, a terminal says so; then that line is gone again."""
    _NOTICE.show(LOADING)
    try:
        yield
    finally:
        _NOTICE.erase()


class _StandardError(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _NOTICE.erase()
        text = f"{_PREFIXES.get(record.levelno, '')}{record.getMessage()}"
        print(in_terminal(text) if sys.stderr.isatty() else text, file=sys.stderr, flush=True)


class _Listener(logging.Handler):
    """A handler that passes warnings to a listener, and other lines to standard error."""

    def __init__(self, listener: Callable[[str], None]) -> None:
        super().__init__()
        self._listener = listener

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING:
            self._listener(record.getMessage())
        else:
            _STANDARD_ERROR.emit(record)


_STANDARD_ERROR = _StandardError()
_LOGGER = logging.getLogger("implicit_bias")
_LOGGER.propagate = False
_LOGGER.setLevel(logging.INFO)
if not _LOGGER.handlers:
    _LOGGER.addHandler(_STANDARD_ERROR)


def warn(line: str) -> None:
    """Print one line that begins with ``warning: ``, or pass it to an active listener. A warning does not end the command."""
    _LOGGER.warning("%s", line)


def note(line: str) -> None:
    """One line that is no warning."""
    _LOGGER.info("%s", line)


def error(line: str) -> None:
    """One line that begins with ``error: ``."""
    _LOGGER.error("%s", line)


def show_warning(line: str) -> None:
    """Print a warning on standard error, even while a listener collects warnings."""
    _STANDARD_ERROR.emit(logging.LogRecord(_LOGGER.name, logging.WARNING, __file__, 0, "%s", (line,), None))


@contextmanager
def warnings_told(listener: Callable[[str], None]) -> Iterator[None]:
    """While active warnings go to ``listener``: of several processes that meet the same damage only one is to say so."""
    before, collecting = _LOGGER.handlers[:], _Listener(listener)
    _LOGGER.handlers[:] = [collecting]
    try:
        yield
    finally:
        _LOGGER.handlers[:] = before
