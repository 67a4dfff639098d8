"""How long each figure took when it was computed from nothing."""

from __future__ import annotations

import json
from pathlib import Path

from implicit_bias.storage.files import atomic_write_text


def keep_minutes(folder: Path, name: str, minutes: float) -> None:
    """Note how long a figure took, in figures/minutes.json. Raises OSError."""
    path = folder / "figures" / "minutes.json"
    known = read_minutes(folder)
    known[name] = round(minutes, 2)
    atomic_write_text(path, json.dumps(dict(sorted(known.items())), indent=1) + "\n")


def read_minutes(folder: Path) -> dict[str, float]:
    """The minutes that are known, by figure; none where the file is missing or damaged."""
    try:
        return dict(json.loads((folder / "figures" / "minutes.json").read_text()))
    except (OSError, ValueError):
        return {}
