"""How long each figure took when it was computed from nothing."""

from __future__ import annotations

import json
from pathlib import Path

from implicit_bias.storage.files import atomic_write_text

#: Other programs on the machine change times as much; a note that changed with them would differ after every making.
FACTOR = 2.0
LEAST = 0.01


def keep_minutes(folder: Path, name: str, minutes: float) -> None:
    """Note how long a figure took, in figures/minutes.json, if that is new or another figure by FACTOR. Raises OSError."""
    path = folder / "figures" / "minutes.json"
    known = read_minutes(folder)
    before, now = known.get(name), max(round(minutes, 2), LEAST)
    if before is not None and 1 / FACTOR <= now / max(before, LEAST) <= FACTOR:
        return
    known[name] = now
    atomic_write_text(path, json.dumps(dict(sorted(known.items())), indent=1) + "\n")


def read_minutes(folder: Path) -> dict[str, float]:
    """The minutes that are known, by figure; none where the file is missing or damaged."""
    try:
        return dict(json.loads((folder / "figures" / "minutes.json").read_text()))
    except (OSError, ValueError):
        return {}
