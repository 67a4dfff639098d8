"""Errors that the user can correct; the command prints them as one line."""


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
