"""What becomes of a cell, and who is told how a sweep gets on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import pandas as pd

from implicit_bias.config.spec import RunSpec

Kind = Literal["bad_input", "no_data", "not_separable", "io", "gone", "internal"]


class Progress(Protocol):
    """Told how a sweep is getting on."""

    def status(self, text: str) -> None: ...

    def advance(self, steps: int, total: int, own_ratio: float) -> None: ...

    def cells(self, done: int, total: int) -> None: ...


class Silent:
    """Progress that nobody watches."""

    def status(self, text: str) -> None:
        pass

    def advance(self, steps: int, total: int, own_ratio: float) -> None:
        pass

    def cells(self, done: int, total: int) -> None:
        pass


@dataclass
class Outcome:
    """What became of one cell.

    Attributes:
        spec: What was to be computed.
        directory: Its run folder.
        status: ``done`` now, ``skipped`` because its folder was finished, or ``failed``.
        error: One line, where it failed.
        error_kind: Whose fault it is.
        trajectory, summary: Its tables, unless it failed.
    """

    spec: RunSpec
    directory: Path | None
    status: Literal["done", "skipped", "failed"]
    error: str | None = None
    error_kind: Kind | None = None
    trajectory: pd.DataFrame | None = None
    summary: pd.DataFrame | None = None
