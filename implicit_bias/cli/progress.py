"""The progress of a command: a bar in a terminal, otherwise lines at growing intervals."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Column
from rich.text import Text

from implicit_bias.cli.messages import note
from implicit_bias.core.work import Work

# Seconds between two lines of progress where there is no bar, at least; and the part of the time that has passed.
LINE_EVERY, LINE_SHARE = 10.0, 0.1
# From this width on a line holds the cells of a sweep, the rate and the ratio.
WIDE = 100
# Parts that a bar is divided into.
PARTS = 1000


class Progress:
    """A bar on stderr with rate, time left and the ratio in the optimizer's own norm; without a terminal, lines now and then.

    Used as a context manager; it is a :class:`implicit_bias.sweep.Progress`. The bar is the share of the whole time that has
    passed, and moves while nobody tells of anything, too: the time left is that of :class:`implicit_bias.core.work.Work`.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self.work = Work()
        columns = (
            TextColumn("{task.fields[cells]}"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            _Percentage(self.work),
            _Rate(),
            _Left(self.work),
            _Elapsed(),
            TextColumn("{task.fields[ratio]}"),
        )
        visible = enabled and sys.stderr.isatty()
        self._lines = ProgressLines(self.work) if enabled and not visible else None
        self._bar = _Bar(self.work, *columns, console=Console(stderr=True), transient=True, disable=not visible)
        self._task = self._bar.add_task("starting", total=None, ratio="", cells="", rate="")
        self._pace = _Pace()

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

    def tell(self, own_ratio: float = math.nan, steps: int | None = None) -> None:
        """The work has gone on: by so many steps of the runs under way, whose own-norm ratio stands there (nan: unknown)."""
        narrow = self._bar.tasks[0].fields["cells"] and self._bar.console.width < WIDE
        ratio = "" if math.isnan(own_ratio) or narrow else f"ratio {own_ratio:.4f}"
        self._bar.update(self._task, ratio=ratio, rate=self._pace.rate(steps))
        if self._lines:
            self._lines.tell()

    def single(self, name: str, seconds: float) -> Callable[[float], None]:
        """Expect a piece of work and begin it; the function that is to be told which share of it is done."""
        self.work.expect(name, seconds)
        return self.begun(name)

    def begun(self, name: str) -> Callable[[float], None]:
        """Begin a piece of work; the function that is to be told which share of it is done."""
        self.work.begin(name)

        def shared(share: float) -> None:
            self.work.share(share, name)
            self.tell()

        return shared

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

    def __init__(self, work: Work, clock: Callable[[], float] = time.monotonic) -> None:
        self.cells = ""
        self._work = work
        self._clock = clock
        self._began = self._said = clock()
        self._text = "starting"

    def status(self, text: str) -> None:
        """Set the text of the next line, and print it if a line is due."""
        self._text = text
        self.tell()

    def tell(self) -> None:
        """Print a line if one is due."""
        now = self._clock()
        if now - self._said < max(LINE_EVERY, LINE_SHARE * (now - self._began)):
            return
        self._said = now
        parts = [self._text, self.cells]
        fraction, left = self._work.fraction(), self._work.left()
        if fraction is not None and left is not None:
            parts += [f"{fraction:.0%}", f"about {_time(left)} left"]
        note(f"{_time(now - self._began)}: {', '.join(filter(None, parts))}")


class _Bar(RichProgress):
    """A bar of what has passed of the whole time, looked at whenever it is drawn."""

    def __init__(self, work: Work, *columns: ProgressColumn, console: Console, transient: bool, disable: bool) -> None:
        self._work = work
        super().__init__(*columns, console=console, transient=transient, disable=disable)

    def get_renderables(self):  # type: ignore[no-untyped-def]
        fraction = self._work.fraction()
        if fraction is not None:
            for task in self.tasks:
                task.total, task.completed = PARTS, PARTS * fraction
        return super().get_renderables()


class _Percentage(ProgressColumn):
    """What has passed of the whole time, where that is known."""

    def __init__(self, work: Work) -> None:
        super().__init__(Column(no_wrap=True))
        self._work = work

    def render(self, task: Task) -> Text:
        fraction = self._work.fraction()
        return Text("" if fraction is None else f"{fraction:4.0%}", style="progress.percentage")


class _Pace:
    """Steps a second of the runs under way."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[float, int] | None = None
        self._last = 0

    def rate(self, steps: int | None) -> str:
        """In words, since these runs began; nothing where no steps are made."""
        now = self._clock()
        if steps is None or self._first is None or steps < self._last:
            self._first = None if steps is None else (now, steps)
        self._last = steps or 0
        since, first = self._first or (now, 0)
        return "" if steps is None or now <= since or steps <= first else f"{(steps - first) / (now - since):,.0f} steps/s"


class _Rate(ProgressColumn):
    """Steps a second."""

    def __init__(self) -> None:
        super().__init__(Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        return Text(task.fields["rate"])


class _Left(ProgressColumn):
    """The time left, where it is known."""

    def __init__(self, work: Work) -> None:
        super().__init__(Column(no_wrap=True))
        self._work = work

    def render(self, task: Task) -> Text:
        left = self._work.left()
        return Text("" if left is None else f"{_time(left)} left", style="progress.remaining")


class _Elapsed(ProgressColumn):
    """The time since the command began, whatever the bar has counted since."""

    def __init__(self) -> None:
        super().__init__(Column(no_wrap=True))
        self._began = time.monotonic()

    def render(self, task: Task) -> Text:
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        return Text(f"{minutes // 60}:{minutes % 60:02}:{seconds:02}", style="progress.elapsed")


def _time(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
