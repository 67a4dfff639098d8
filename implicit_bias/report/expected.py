"""What making figures is expected to take: their runs, and what is made of these, as pieces of the command's work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from implicit_bias.config.spec import RunSpec
from implicit_bias.core.work import Work
from implicit_bias.figures import Figure
from implicit_bias.report.minutes import known_minutes, last_minutes
from implicit_bias.report.request import Request

#: The piece that makes a figure's table, picture and verdicts, in the work of a figure that is made alone.
TABLE = "table"
#: Seconds of drawing and judging a table that is there.
DRAWING = 2.0
#: Where only the minutes of a figure as a whole are known, its runs are taken for all of them but the drawing, unless that is so
#: many times what is expected of such runs, or so small a part: then the rest is measured for the table.
MOST_OF_RUNS, LEAST_OF_RUNS = 10.0, 0.1
#: Seconds for the tables and the report, and for what stands in it of each figure that is others than before.
REPORT, OF_FIGURE = 1.0, 0.35


class FigureWork:
    """The figures of a command as pieces of its work, and the report that comes last.

    Args:
        work: The command's.
        request: What is asked for.
        figures: Those that are made.
    """

    def __init__(self, work: Work, request: Request, figures: Sequence[Figure]) -> None:
        self._work, self._redraw, self._preset = work, request.redraw, request.preset
        self._last, self._known = last_minutes(request.folder), known_minutes(request.folder)
        self._figures = {figure.name: figure for figure in figures}

    def plan_alone(self) -> None:
        """Each figure is made with its own runs, one after the other."""
        for name in self._figures:
            self._work.expect(name, DRAWING if self._redraw else 60 * self._minutes(name), ("figure",))
        self._work.expect(REPORT_KEY, REPORT + OF_FIGURE * len(self._figures), ("figure",))

    def plan(
        self, specs: Sequence[RunSpec], wanted: Mapping[str, Sequence[RunSpec]], pieces: Mapping[Hashable, Sequence[int]]
    ) -> None:
        """Workers compute the runs of all figures, and each is drawn when its own are there.

        Args:
            specs: The runs.
            wanted: Those of each figure.
            pieces: The places in ``specs`` of the runs that each piece computes; all others are finished.
        """
        of_run = {specs[place]: key for key, places in pieces.items() for place in places}
        scales: dict[Hashable, list[float]] = {}
        for name, runs in wanted.items():
            own = Counter(of_run[spec] for spec in set(runs) if spec in of_run)
            # A piece may compute runs of other figures, too: this one has its part of it.
            together = sum(self._work.seconds(key) * count / len(pieces[key]) for key, count in own.items())
            of_runs, table = self._split(name, together)
            for key in own if together else ():
                scales.setdefault(key, []).append(of_runs / together)
            self._work.expect(name, table, ("figure",), after=tuple(own))
        self._work.expect(REPORT_KEY, REPORT + OF_FIGURE * len(wanted), ("figure",), after=tuple(wanted))
        for key, factors in scales.items():
            self._work.scale(key, sum(factors) / len(factors))

    @contextmanager
    def begun(self, figure: Figure) -> Iterator[None]:
        """A figure is being drawn."""
        self._work.begin(figure.name)
        try:
            yield
        finally:
            self._work.end(figure.name)

    @contextmanager
    def begun_alone(self, figure: Figure) -> Iterator[Work]:
        """A figure is being made with its runs; the pieces that it consists of."""
        inside = Work()
        if not self._redraw:
            inside.expect(TABLE, self._split(figure.name, 60 * self._minutes(figure.name))[1], ("figure",))
        self._work.begin(figure.name, None if self._redraw else inside)
        try:
            yield inside
        finally:
            self._work.end(figure.name)

    def _minutes(self, name: str) -> float:
        """Of a figure from nothing: the last ones, those that are shown, or those that it says itself."""
        return self._known.get(name) or self._figures[name].minutes.at(self._preset)

    def _split(self, name: str, together: float) -> tuple[float, float]:
        """Seconds for a figure's runs, of which ``together`` would be expected without it, and for its table and picture."""
        if name in self._last:
            runs, table = 60 * self._last[name].runs, 60 * self._last[name].table
        else:
            known = 60 * self._minutes(name)
            runs = min(known - DRAWING, MOST_OF_RUNS * together)
            table = max(known - runs, DRAWING)
        return max(runs, LEAST_OF_RUNS * together), table


#: The piece that writes the report.
REPORT_KEY = "the report"
