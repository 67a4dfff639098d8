"""Timings that can be compared: what is compared is timed in turn, several times, so that what else the machine does meets all of
it; of each the median counts, and how far the timings are spread is said."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

#: How often each is timed.
TIMES = 5
#: Seconds that one timing should take, of what has next to no fixed costs and of what has some; and the updates that it makes at
#: least.
SHORT, LONG, LEAST = 0.1, 0.25, 40
#: Up to so many seconds all updates are timed of what has fixed costs, of which fewer would have as much.
WHOLE = 2.5
#: What that is found out from: more and more updates, until they take so long.
PROBE, GROWTH, ENOUGH = 20, 4, 0.04
TRIALS, MARGIN = 2, 0.05


@dataclass(frozen=True)
class Work:
    """What is timed.

    Attributes:
        call: Makes so many updates, of all its runs.
        updates: How many.
        runs: Runs that it makes them of.
        threads: Of torch while it is timed.
    """

    call: Callable[[int], object]
    updates: int
    runs: int = 1
    threads: int = 1

    def seconds(self) -> float:
        """Of one update of one run, timed once."""
        torch.set_num_threads(self.threads)
        start = time.perf_counter()
        self.call(self.updates)
        return (time.perf_counter() - start) / self.updates / self.runs

    def sized(self, seconds: float = SHORT) -> Work:
        """The same with as many updates as take about so many seconds, or as there are. Some are made to find that out, so that
        what is made only once (a compiled library, say) is made by then."""
        replace(self, updates=min(self.updates, PROBE)).seconds()
        tried = replace(self, updates=min(self.updates, PROBE))
        while (whole := tried.seconds() * tried.updates * self.runs) < ENOUGH and tried.updates < self.updates:
            tried = replace(tried, updates=min(self.updates, GROWTH * tried.updates))
        return replace(self, updates=min(self.updates, max(LEAST, round(seconds / whole * tried.updates))))

    def whole_within(self, most: float, seconds: float) -> Work:
        """The same with all updates, where these take no more than ``most`` seconds; else :meth:`sized` to ``seconds``. The time
        of all is told from two that are shorter, by the updates that the one has more than the other."""
        few, more = (replace(self, updates=min(self.updates, count)) for count in (LEAST, GROWTH * LEAST))
        few.seconds()
        first, second = (work.seconds() * work.updates * work.runs for work in (few, more))
        each = (second - first) / max(1, more.updates - few.updates)
        whole = second + (self.updates - more.updates) * max(each, 0.0)
        return self if whole <= most else self.sized(seconds)


@dataclass(frozen=True)
class Timing:
    """Of one update of one run.

    Attributes:
        seconds: The median.
        spread: The range that the middle half of the timings lies in, relative to the median.
    """

    seconds: float
    spread: float

    @staticmethod
    def of(seconds: list[float]) -> Timing:
        """What several timings say."""
        median = statistics.median(seconds)
        if len(seconds) == 1:
            return Timing(median, 0.0)
        low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
        return Timing(median, (high - low) / median)


def interleaved(works: Mapping[str, Work]) -> dict[str, Timing]:
    """Each timed TIMES times, all of them in turn."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(TIMES):
        for name, work in works.items():
            found[name].append(work.seconds())
    return {name: Timing.of(seconds) for name, seconds in found.items()}


def faster(works: Mapping[Any, Work]) -> Any:
    """The name of the one that is done first, by the least of a few timings, which are shorter than those that count; an earlier
    one, unless a later one is faster by more than MARGIN."""
    tried = {name: replace(work, updates=min(work.updates, max(PROBE, work.updates // 4))) for name, work in works.items()}
    least = {name: min(work.seconds() for _ in range(TRIALS)) for name, work in tried.items()}
    best = next(iter(least))
    for name, seconds in least.items():
        best = name if seconds < (1 - MARGIN) * least[best] else best
    return best
