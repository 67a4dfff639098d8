"""The progress of a command: a bar in a terminal, otherwise lines at growing intervals."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Column
from rich.text import Text

from implicit_bias.cli.messages import note

# Seconds between two lines of progress where there is no bar, at least; and the part of the time that has passed.
LINE_EVERY, LINE_SHARE = 10.0, 0.1
# What a bar counts.
STEPS, PARTS = "steps", "parts"
# From this width on a line holds the cells of a sweep and the ratio.
WIDE = 100


class Progress:
    """A bar on stderr with rate, time left and the ratio in the optimizer's own norm; without a terminal, lines now and then.

    Used as a context manager; it is a :class:`implicit_bias.sweep.Progress`.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        columns = (
            TextColumn("{task.fields[cells]}"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:>3.0f}%"),
            _Rate(),
            TimeRemainingColumn(compact=True),
            _Elapsed(),
            TextColumn("{task.fields[ratio]}"),
        )
        visible = enabled and sys.stderr.isatty()
        self._lines = ProgressLines() if enabled and not visible else None
        self._bar = RichProgress(*columns, console=Console(stderr=True), transient=True, disable=not visible)
        self._task = self._bar.add_task("starting", total=None, ratio="", cells="", unit="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def status(self, text: str) -> None:
        """Show what is being done."""
        self._bar.update(self._task, description=text)
        if self._lines:
            self._lines.status(text)

    def turn_to(self, text: str) -> None:
        """Show what is done from here on; the steps that were made were of something else."""
        self._begin("", text)
        if self._lines:
            self._lines.turn_to(text)

    def advance(self, steps: int, total: int, own_ratio: float) -> None:
        """``steps`` of ``total`` are made; the own-norm ratio stands at ``own_ratio`` (nan: unknown)."""
        if self._bar.tasks[0].fields["unit"] != STEPS:
            self._begin(STEPS)
        left_out = math.isnan(own_ratio) or (self._bar.tasks[0].fields["cells"] and self._bar.console.width < WIDE)
        ratio = "" if left_out else f"ratio {own_ratio:.4f}"
        self._bar.update(self._task, completed=steps, total=total, ratio=ratio)
        if self._lines:
            self._lines.advance(steps, total)

    def part(self, done: int, total: int) -> None:
        """``done`` of ``total`` optima or certificates are made: the bar and the time left are theirs until the next step."""
        if self._bar.tasks[0].fields["unit"] != PARTS or done == 0:
            self._begin(PARTS)
        self._bar.update(self._task, completed=done, total=total)
        if self._lines:
            self._lines.part(done, total)

    def _begin(self, unit: str, text: str | None = None) -> None:
        """From here on the bar counts something else: what is left of it is not told from the pace of what went before."""
        task = self._bar.tasks[0]
        said = task.description if text is None else text
        self._bar.reset(self._task, total=None, description=said, ratio="", unit=unit, cells=task.fields["cells"])

    def cells(self, done: int, total: int) -> None:
        """``done`` of the sweep's ``total`` cells have come to their end; a single run has no use for it."""
        if total > 1:
            text = f"{done:,} of {total:,} cells"
            self._bar.update(self._task, cells=text)
            if self._lines:
                self._lines.cells = text


class ProgressLines:
    """Progress as plain lines on stderr, for log files: none in the first seconds, and the rarer the longer it takes.

    Attributes:
        cells: How many cells are done, in words.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.cells = ""
        self._clock = clock
        self._began = self._said = clock()
        self._text = "starting"
        self._steps = self._total = 0
        self._first: tuple[float, int] | None = None
        self._unit = STEPS

    def status(self, text: str) -> None:
        """Set the text of the next line, and print it if a line is due."""
        self._text = text
        self._say()

    def turn_to(self, text: str) -> None:
        """Set the text of the next line, and forget the steps of what was done before."""
        self._steps, self._total, self._first = 0, 0, None
        self.status(text)

    def advance(self, steps: int, total: int) -> None:
        """``steps`` of ``total`` are made."""
        self._count(STEPS, steps, total)

    def part(self, done: int, total: int) -> None:
        """``done`` of ``total`` optima or certificates are made."""
        self._count(PARTS, done, total)

    def _count(self, unit: str, steps: int, total: int) -> None:
        if unit != self._unit or steps < self._steps:
            self._unit, self._first = unit, None
        self._first = self._first or (self._clock(), steps)
        self._steps, self._total = steps, total
        self._say()

    def _say(self) -> None:
        now = self._clock()
        if now - self._said < max(LINE_EVERY, LINE_SHARE * (now - self._began)):
            return
        self._said = now
        parts = [self._text, self.cells]
        if self._total:
            if self._unit == STEPS:
                parts.append(f"{self._steps / self._total:.0%} of the steps")
            parts.append(self._left(now))
        note(f"{_time(now - self._began)}: {', '.join(filter(None, parts))}")

    def _left(self, now: float) -> str:
        """The time left at the pace since the first step that was seen: a run may have begun at a checkpoint."""
        since, first = self._first or (now, self._steps)
        if self._steps <= first or now <= since:
            return ""
        return f"about {_time((self._total - self._steps) * (now - since) / (self._steps - first))} left"


class _Rate(ProgressColumn):
    """Steps a second."""

    def __init__(self) -> None:
        super().__init__(Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None or task.fields["unit"] != STEPS else f"{task.speed:,.0f} steps/s")


class _Elapsed(ProgressColumn):
    """The time since the command began, whatever the bar has counted since."""

    def __init__(self) -> None:
        super().__init__()
        self._began = time.monotonic()

    def render(self, task: Task) -> Text:
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        return Text(f"{minutes // 60}:{minutes % 60:02}:{seconds:02}", style="progress.elapsed")


def _time(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
