"""Whether the machine had other work while something was timed."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

STAT = Path("/proc/stat")
#: Processors that others may keep busy, and spread of repeated timings, beyond which a row is of a busy machine.
MOST_LOAD, MOST_SPREAD = 0.2, 0.1


class Clock(NamedTuple):
    """Seconds: by the wall, of all processors' work (that of a hypervisor's other guests included), and of this process's."""

    wall: float
    busy: float
    own: float

    @staticmethod
    def now() -> Clock | None:
        """None where the system does not tell."""
        try:
            words = STAT.read_text().split("\n", 1)[0].split()[1:]
        except OSError:
            return None
        user, nice, system, _, _, *interrupts = (int(word) for word in words[:8])
        busy = (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")
        return Clock(time.monotonic(), busy, sum(os.times()[:4]))

    def load_since(self, before: Clock) -> float:
        """Processors that others have kept busy since then."""
        wall = self.wall - before.wall
        return max(0.0, (self.busy - before.busy) - (self.own - before.own)) / wall if wall > 0 else 0.0


class Watch:
    """Tells what others do from its making on."""

    def __init__(self) -> None:
        self._began = Clock.now()

    def load(self) -> float:
        """Processors that others have kept busy since; where the system does not say, the load average over one."""
        now = Clock.now()
        if self._began is None or now is None:
            return max(0.0, os.getloadavg()[0] - 1)
        return now.load_since(self._began)


@dataclass
class Remarks:
    """Counts the rows of a busy machine."""

    rows: int = 0
    loaded: int = 0
    spread: int = 0

    def take(self, row: dict[str, Any]) -> bool:
        """Whether a row is of a busy machine."""
        loaded, spread = row.get("load", 0.0) > MOST_LOAD, row.get("spread", 0.0) > MOST_SPREAD
        self.rows += 1
        self.loaded += loaded
        self.spread += spread
        return bool(loaded or spread)

    @property
    def warning(self) -> str | None:
        """A line on what is not to be relied on; None where all is well."""
        if not self.loaded and not self.spread:
            return None
        return (
            f"the machine is busy: in {self.loaded} of {self.rows} rows others kept more than {MOST_LOAD:g} processors busy,"
            f" in {self.spread} repeated timings differ by more than {MOST_SPREAD:.0%}; measure on a quiet machine"
        )
