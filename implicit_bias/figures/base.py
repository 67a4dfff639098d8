"""What a figure is: a sweep, a small table made from its runs, a drawing of that table, and claims judged on it.

The drawing and the claims see nothing but the table, which is kept as CSV beside the picture: a figure can be drawn
again, and its claims judged again, without a run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Generic, Literal, TypeVar, get_args

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure as Drawing

from implicit_bias.analysis.records import few_records
from implicit_bias.analysis.runs import Run, numbers
from implicit_bias.core.registry import Registry
from implicit_bias.figures.claims import UNKNOWN, Claim, Finding, Kind
from implicit_bias.figures.papers import OWN
from implicit_bias.plotting.explorer import Explorer
from implicit_bias.plotting.matrix import Matrix

FIGURES = Registry("implicit_bias.figures", "figure")

T = TypeVar("T")

#: How much is computed: enough to see that a figure works, what two cores draw in minutes, or the paper's sizes.
Preset = Literal["smoke", "default", "paper"]
PRESETS: tuple[Preset, ...] = get_args(Preset)


@dataclass(frozen=True)
class PerPreset(Generic[T]):
    """A size that depends on the preset."""

    smoke: T
    default: T
    paper: T

    def at(self, preset: Preset) -> T:
        """The size at a preset."""
        size: T = getattr(self, preset)
        return size


class Figure(ABC):
    """One figure. Subclasses are registered, one file each, with ``configs/experiment/<name>.yaml`` beside them."""

    name: ClassVar[str]
    title: ClassVar[str]
    #: A piece of the text of the claim that says most, which the README shows; without it the first.
    headline: ClassVar[str] = ""
    #: Paper, with the equation or figure.
    source: ClassVar[str]
    #: Whose number its claims are held against, one of KINDS; a claim with a source of its own gives its own kind, too.
    kind: ClassVar[Kind | Literal[""]] = ""
    #: The section of the report, a key of PAPERS.
    paper: ClassVar[str] = OWN.key
    #: Place in the report; figures of one place stand by name.
    order: ClassVar[int] = 100
    #: Expected minutes of each preset on two cores, from nothing.
    minutes: ClassVar[PerPreset[float]]
    #: How far, relative, a table that is made again may be from the one that is kept; of single columns below.
    tolerance: ClassVar[float] = 1e-3
    tolerances: ClassVar[Mapping[str, float]] = {}
    #: At preset=paper about so many records of each power of ten steps are kept of its curves, and their ends; None: all.
    records_a_decade: ClassVar[int | None] = None

    @abstractmethod
    def caption(self, preset: Preset) -> str:
        """What is seen, and with which sizes, in a few sentences."""

    @abstractmethod
    def setting(self, preset: Preset) -> str:
        """Data, model, seeds and steps in a few words: the setting of every claim that does not give its own."""

    def findings(self, table: pd.DataFrame, preset: Preset) -> list[Finding]:
        """What the report's section of findings says of this figure, beside the claims that do not hold."""
        return []

    def explorer(self, table: pd.DataFrame) -> Explorer | None:
        """How the table's trajectories can be looked at one by one; None where it holds none."""
        return None

    def matrix(self, table: pd.DataFrame, preset: Preset) -> Matrix | None:
        """The answer that the table gives as a matrix, methods by norms; None where it is no such answer."""
        return None

    @abstractmethod
    def sweeps(self, preset: Preset) -> list[list[str]]:
        """The runs, as lists of overrides in the syntax of ``-m``."""

    def alike(self, preset: Preset, other: Preset) -> bool:
        """Whether two presets have the same runs, in the same setting."""
        return self.sweeps(preset) == self.sweeps(other) and self.setting(preset) == self.setting(other)

    @abstractmethod
    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """The tidy table that is kept, from all runs; measurements that are no run of the engine are made here."""

    def kept(self, table: pd.DataFrame, preset: Preset) -> pd.DataFrame:
        """What is kept of a table, from which the picture is drawn and the claims are judged."""
        return table if preset != "paper" or self.records_a_decade is None else few_records(table, self.records_a_decade)

    @abstractmethod
    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        """The picture of a table that was read back from its CSV."""

    @abstractmethod
    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        """The statements that can be judged at this preset's sizes."""

    def claim(
        self,
        preset: Preset,
        text: str,
        *,
        measured: str,
        holds: bool,
        kind: Kind | Literal[""] = "",
        expected: str = "",
        tolerance: str = "",
        source: str = "",
        setting: str = "",
        reason: str = "",
    ) -> Claim:
        """A claim of this figure.

        Args:
            kind: Whose number ``expected`` is, one of KINDS, where it is not the figure's own kind; given wherever ``source`` is.
            setting: Where it is not the figure's own.
            reason: What is known of why it does not hold, for the case that it does not.

        Raises:
            ValueError: neither the claim nor the figure has a kind, or it is none of KINDS.
        """
        where = setting or self.setting(preset)
        why = "" if holds else reason or UNKNOWN
        origin, whose = self._origin(source, kind)
        return Claim(self.name, text, expected, measured, tolerance, bool(holds), preset, origin, where, why, whose)

    def not_testable(
        self,
        preset: Preset,
        text: str,
        reason: str,
        *,
        kind: Kind | Literal[""] = "",
        expected: str = "",
        source: str = "",
    ) -> Claim:
        """A statement of the source that the figure's runs cannot judge, and why. Raises ValueError as :meth:`claim`."""
        origin, whose = self._origin(source, kind)
        return Claim(self.name, text, expected, "", "", None, preset, origin, "", reason, whose)

    def _origin(self, source: str, kind: str) -> tuple[str, str]:
        """Source and kind of a claim: the figure's kind is that of the figure's source alone."""
        return source or self.source, kind or ("" if source else self.kind)

    def near(
        self,
        preset: Preset,
        text: str,
        measured: Sequence[float],
        expected: Sequence[float],
        tolerance: float,
        *,
        kind: Kind | Literal[""] = "",
        relative: bool = False,
        digits: int = 3,
        source: str = "",
        reason: str = "",
        beside: str = "",
    ) -> Claim:
        """The claim that each measured number is within a tolerance of the given one. A nan is not near anything.

        Args:
            beside: A remark that is printed after the measured values.
        """
        got, want = np.asarray(measured, dtype=float), np.asarray(expected, dtype=float)
        allowed = tolerance * np.abs(want) if relative else np.full_like(want, tolerance)
        return self.claim(
            preset,
            text,
            measured=numbers(got, digits) + (f"; {beside}" if beside else ""),
            kind=kind,
            expected=numbers(want, digits),
            tolerance=f"{tolerance:.0e} relative" if relative and tolerance < 1e-3 else f"{tolerance:g}{' relative' * relative}",
            holds=bool((np.abs(got - want) <= allowed).all()),
            source=source,
            reason=reason,
        )


def one_line(text: str) -> str:
    """A text with its line breaks taken out."""
    return " ".join(text.split())


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch's operations on one thread, for measurements of many small ones: threads would wait for each other, longest where
    other programs compute."""
    given = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(given)
