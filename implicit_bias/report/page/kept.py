"""What takes long to make of a figure's files for the page, kept in the cache of results until these files are others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from implicit_bias.storage.files import atomic_write_text


def kept(path: Path, made_from: tuple[bytes | str, ...], make: Callable[[], Any]) -> Any:
    """What ``make`` gives, or gave when it was made from the same.

    Args:
        path: Where it is kept, with a digest of ``made_from``. A file that is missing or damaged is made anew.
        made_from: All that it depends on.
        make: Gives what can be written as JSON. None, that there is nothing, is not kept.

    Raises:
        OSError: it cannot be written.
    """
    digest = hashlib.sha256()
    for part in made_from:
        content = part.encode() if isinstance(part, str) else part
        digest.update(b"%d " % len(content) + content)
    key = digest.hexdigest()
    try:
        found = json.loads(path.read_bytes())
        if found["key"] == key and found["value"] is not None:
            return found["value"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    value = make()
    if value is not None:
        atomic_write_text(path, json.dumps({"key": key, "value": value}))
    return value
