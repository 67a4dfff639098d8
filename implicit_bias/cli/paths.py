"""Words of a command line that name files and folders, with or without a name of one's own in front."""

from __future__ import annotations

import errno
import glob
import os
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


def make_folder(folder: Path, key: str = "results_dir") -> None:
    """Make the folder before work goes into what it is to hold. Raises BadInput: it cannot be made, or not be written to."""
    refused = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno != errno.ENOSPC:  # a disk that is full now may not be by then; it is reported where something is lost
            refused = error.strerror
    if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
        refused = os.strerror(errno.EACCES)
    if refused:
        raise BadInput(f"{key}={folder}: must be a folder that can be written to ({refused})")


def no_run_folder(path: Path) -> BadInput:
    """The error for a folder that is none of a run, which may hold those of runs."""
    for pattern in ("*", "runs/*"):
        if any((inside / "trajectory.csv").is_file() for inside in path.glob(pattern)):
            return BadInput(f"{path}: no run folder, but one of them; did you mean '{path / pattern}', all of its runs?")
    return BadInput(f"{path}: no run folder, it has no trajectory.csv; must be one such as results/runs/<name>-<hash>")


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
