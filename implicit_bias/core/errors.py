"""Errors that the user can correct; the command prints them as one line."""

from collections.abc import Callable


def line_of(error: BaseException, mine: Callable[[str, str], bool]) -> int | None:
    """The line in which an error arose, or passed through last, of the code that is ``mine``; None where it did not.

    Args:
        error: Any; of a SyntaxError the line that it names.
        mine: Of a file's name and its module's.
    """
    line = error.lineno if isinstance(error, SyntaxError) and mine(error.filename or "", "") else None
    trace = error.__traceback__
    while trace is not None:
        if mine(trace.tb_frame.f_code.co_filename, str(trace.tb_frame.f_globals.get("__name__", ""))):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


class BadInput(ValueError):
    """Unusable input. The message is one line that begins with the offending key and says what is allowed."""


class NoData(BadInput):
    """Data that would have to be downloaded, and could not be."""


class NameTaken(BadInput):
    """Two options or files of one name, of which neither may stand for the other; the message names both files."""


class NotSeparable(ValueError):
    """The classes cannot be separated by the model, so no maximum margin exists; or nothing is proven of whether they can.

    Attributes:
        proven: Whether it is the former.
    """

    def __init__(self, message: str, proven: bool = True) -> None:
        super().__init__(message)
        self.proven = proven


class RunFailed(RuntimeError):
    """A run that cannot go on because of something that the user brought. The message is one line, and is shown as it is."""
