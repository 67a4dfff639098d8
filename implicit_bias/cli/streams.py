"""Standard output and error that are closed, full, or left by their reader must not make a command lose its results.

A command is decorated with :func:`unharmed_by_output`. While it runs, nothing that it prints raises; what could not be written is
said in one line at its end, and its exit code is that of its work.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import wraps
from typing import Any, Protocol, TextIO, cast

#: What is printed at these is all that was asked for: a reader that leaves early (``| head``) has had enough of it.
TEXT_FLAGS = ("-h", "--help", "--version", "--cfg")


class Main(Protocol):
    """The entry point of a command: its arguments in, its exit code out."""

    def __call__(self, argv: Sequence[str] | None = None) -> int: ...


class Guarded:
    """A text stream in place of another, which may be None (closed); the first error of writing is kept, what follows is dropped.

    Attributes:
        error: What went wrong; None as long as nothing has.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._closed = stream is None or stream.closed
        self._stream: TextIO = io.StringIO() if stream is None or stream.closed else stream
        self.error: Exception | None = None

    def write(self, text: str) -> int:
        """Write, or drop, a text. Characters that the stream's encoding lacks become question marks."""
        if self._closed and text:
            self.error = self.error or OSError(errno.EBADF, "it is closed")
        try:
            self._attempt(lambda: self._stream.write(text))
        except UnicodeEncodeError:
            encoding = self._stream.encoding
            self._attempt(lambda: self._stream.write(text.encode(encoding, "replace").decode(encoding)))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Pass on what was written so far."""
        self._attempt(self._stream.flush)

    def abandon(self) -> None:
        """After an error: discard what is left, which Python would otherwise flush at its end with another error message."""
        if self.error is None or self._closed:
            return
        with suppress(OSError, ValueError):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self._stream.fileno())
            os.close(nothing)
            self._stream.flush()

    def _attempt(self, action: Callable[[], Any]) -> None:
        if self.error is not None:
            return
        try:
            action()
        except UnicodeEncodeError:
            raise
        except (OSError, ValueError) as error:  # ValueError: closed meanwhile
            self.error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def unharmed_by_output(main: Main) -> Main:
    """A command that does its work even if its standard output or error fails."""

    @wraps(main)
    def guarded(argv: Sequence[str] | None = None) -> int:
        _reserve_descriptors()
        before = sys.stdout, sys.stderr
        output, errors = Guarded(sys.stdout), Guarded(sys.stderr)
        sys.stdout, sys.stderr = cast(TextIO, output), cast(TextIO, errors)
        try:
            return main(argv)
        finally:
            output.flush()
            lost = output.error
            if lost is not None and not (isinstance(lost, BrokenPipeError) and _asks_for_text(argv)):
                reason = getattr(lost, "strerror", None) or str(lost)
                errors.write(
                    f"warning: standard output could not be written ({reason}); results and exit code are not affected\n"
                )
            errors.flush()
            sys.stdout, sys.stderr = before
            output.abandon()
            errors.abandon()

    return guarded


def _asks_for_text(argv: Sequence[str] | None) -> bool:
    return any(flag in TEXT_FLAGS for flag in (sys.argv[1:] if argv is None else argv))


def _reserve_descriptors() -> None:
    """Keep the numbers of closed standard streams from files that are opened later: what prints there would write into them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number that is free
