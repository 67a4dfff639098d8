"""Whether a run folder is as it was written, and its results folder tidy.

The standard library alone: a finished run is answered without more.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

PROVENANCE = "provenance.json"
REQUIRED = ("trajectory.csv", "summary.csv", "config.yaml")
CHECKPOINTS = "cache/checkpoints"
#: Folders of a results folder in which files are written whole or not at all, by way of a temporary name.
WRITTEN_TO = ("runs", "cache/references", "cache/answers", CHECKPOINTS, "sweeps/*")
#: What temporary names begin with.
PARTIAL = ".partial-"


def has_leftovers(results: Path) -> bool:
    """Whether a results folder has temporary files, or checkpoints, of which some may be of processes that were killed."""
    return any(any(results.glob(f"{place}/{PARTIAL}*")) for place in WRITTEN_TO) or any(results.glob(f"{CHECKPOINTS}/*"))


def damage(directory: Path) -> str | None:
    """The damage to a run folder in words; None if there is none."""
    try:
        checksums = dict(json.loads((directory / PROVENANCE).read_bytes())["files"])
        plain = all(name.isprintable() and name == Path(name).name for name in checksums)
    except Exception:  # noqa: BLE001 - bytes that anybody wrote surface as almost anything (KeyError, RecursionError)
        plain = False
    if not plain:
        return f"{PROVENANCE} is missing or damaged"
    for name in sorted({*REQUIRED, *checksums}):
        path = directory / name
        try:
            content = path.read_bytes() if path.is_file() else None
        except (OSError, ValueError):
            content = None
        if content is None:
            return f"{name} is missing"
        if hashlib.sha256(content).hexdigest() != checksums.get(name):
            return f"{name} was changed"
    return None
