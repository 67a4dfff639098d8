"""Words of a command line that name files and folders, with or without a name of one's own in front."""

from __future__ import annotations

import glob
from pathlib import Path

from implicit_bias.core.errors import BadInput

#: In a title or a name.
MOST_LETTERS = 200


def exists(name: str) -> bool:
    """Whether there is a file or folder of this name; a name that none can have is none."""
    try:
        return Path(name).exists()
    except OSError:
        return False


def is_path(value: str, ending: str) -> bool:
    """Whether a value reads as a path: it has a slash or the ending, or it, or what its pattern matches, is there."""
    return bool(value) and ("/" in value or value.endswith(ending) or exists(value) or bool(glob.glob(value)))


def named_path(word: str) -> tuple[str, str]:
    """The name that ``name=path`` gives (empty for a path alone), and the path or pattern.

    Raises:
        BadInput: the name is too long.
    """
    key, equals, path = word.partition("=")
    if not equals or exists(word):
        return "", word
    if len(key) > MOST_LETTERS:
        raise BadInput(f"{key[:20]}...=: a name of {len(key)} letters; must have at most {MOST_LETTERS}")
    return key, path
