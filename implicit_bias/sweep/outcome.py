"""The outcome of a cell, and the interface by which a sweep reports its progress."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import pandas as pd

from implicit_bias.config.spec import RunSpec
from implicit_bias.core.work import Work

Kind = Literal["bad_input", "no_data", "not_separable", "io", "gone", "diverged", "internal"]


class Progress(Protocol):
    """Receives the progress of a sweep.

    Attributes:
        work: The pieces of the command's work; whoever does them says so there.
    """

    @property
    def work(self) -> Work: ...

    def status(self, text: str) -> None:
        """What is being done, in words."""

    def tell(self, own_ratio: float = math.nan, steps: int | None = None) -> None:
        """The work has gone on: by so many steps of the runs under way, whose own-norm ratio stands there (nan: unknown)."""

    def cells(self, done: int, total: int) -> None:
        """So many runs have come to their end."""


class Silent:
    """A receiver that shows nothing."""

    def __init__(self) -> None:
        self.work = Work()

    def status(self, text: str) -> None:
        pass

    def tell(self, own_ratio: float = math.nan, steps: int | None = None) -> None:
        pass

    def cells(self, done: int, total: int) -> None:
        pass


@dataclass
class Outcome:
    """The outcome of one cell.

    Attributes:
        spec: What was to be computed.
        directory: Its run folder.
        status: ``done`` now, ``skipped`` because its folder was finished, or ``failed``.
        error: One line, where it failed.
        error_kind: The kind of error, which decides the exit code.
        trajectory, summary: Its tables, unless it failed.
        diverged_at: The step at which it was found to have diverged.
    """

    spec: RunSpec
    directory: Path | None
    status: Literal["done", "skipped", "failed"]
    error: str | None = None
    error_kind: Kind | None = None
    trajectory: pd.DataFrame | None = None
    summary: pd.DataFrame | None = None
    diverged_at: int | None = None
