"""What a command has answered, remembered: the same command is answered again without torch, as long as its run is untouched.

An answer is kept in the results folder, ``cache/answers/``, under a digest of what was typed. It counts only where all that it
follows from is unchanged: the package's files, the installed distributions, the environment, and the run folder, whose checksums
are compared; and where no killed process left anything to tidy up. Everything else is left to the command proper. The standard
library alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from implicit_bias.core.installation import VERSION
from implicit_bias.core.plugins import VARIABLE
from implicit_bias.storage.integrity import PROVENANCE, damage, has_leftovers

FOLDER = "cache/answers"
_PACKAGE = Path(__file__).resolve().parents[1]
_PLAIN = re.compile(r"[\w./-]+")
#: Variables that say where data are.
_ENVIRONMENT = ("IMPLICIT_BIAS_DATA",)
_RESULTS, _FORCE = "results_dir=", "force="
# ``${oc.env:NAME}`` and the like: what such a word means is not in the word.
_INTERPOLATED = "${"


def results_folder(words: Sequence[str]) -> str | None:
    """The results folder that is typed, or the default; None where it takes more than a look at the words to say."""
    given = [word.removeprefix(_RESULTS) for word in words if word.startswith(_RESULTS)]
    if not given:
        return "results"
    return given[-1] if _PLAIN.fullmatch(given[-1]) else None


def remembered(words: Sequence[str]) -> Mapping[str, Any] | None:
    """What was remembered of the command that these words make; None where nothing is, or something may have changed since."""
    results = results_folder(words)
    if results is None or os.environ.get(VARIABLE) or any(word.startswith(_FORCE) or _INTERPOLATED in word for word in words):
        return None
    try:
        kept = json.loads(_path(results, words).read_bytes())
        folder = Path(kept["folder"])
        same = kept["surroundings"] == surroundings() and kept["provenance"] == _digest(folder)
        answer: Mapping[str, Any] = kept["answer"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return answer if same and damage(folder) is None and not has_leftovers(Path(results)) else None


def entry(words: Sequence[str], results: str, folder: Path, answer: Mapping[str, Any]) -> tuple[Path, str] | None:
    """Where to write down what the command of these words is to be answered, and the text to write; None: it cannot be kept.

    Args:
        words: What was typed.
        results: The results folder of the run.
        folder: The run's folder, finished.
        answer: In JSON's types.
    """
    if results_folder(words) != results or any(_INTERPOLATED in word for word in words) or damage(folder) is not None:
        return None
    kept = {"folder": str(folder), "provenance": _digest(folder), "surroundings": surroundings(), "answer": answer}
    return _path(results, words), json.dumps(kept, ensure_ascii=False)


def surroundings() -> str:
    """A digest of what an answer depends on beside words and run: the package's files by size and time, and what is installed."""
    digest = hashlib.sha256(VERSION.encode())
    for line in (*_present(), *(f"{name}={os.environ.get(name)}" for name in _ENVIRONMENT)):
        digest.update(f"{line}\n".encode(errors="replace"))
    return digest.hexdigest()


@cache
def _present() -> tuple[str, ...]:
    """The files and distributions that this process began with: looked for once, as they are imported once."""
    return (*sorted(_files()), *sorted(_installed()))


def _path(results: str, words: Sequence[str]) -> Path:
    return Path(results) / FOLDER / f"{hashlib.sha256(json.dumps(list(words)).encode()).hexdigest()[:32]}.json"


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / PROVENANCE).read_bytes()).hexdigest()


def _files() -> Iterator[str]:
    """The Python and YAML files of the package, with size and time of change."""
    places = [_PACKAGE, *(configs for configs in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if configs.is_dir())]
    for place in places:
        for folder, _, names in os.walk(place):
            for name in names:
                if name.endswith((".py", ".yaml", ".c", ".h")):
                    status = os.stat(os.path.join(folder, name))
                    yield f"{folder}/{name} {status.st_size} {status.st_mtime_ns}"


def _installed() -> Iterator[str]:
    """The installed distributions: one more may add options."""
    for place in sys.path:
        with suppress(OSError):
            yield from (f"{place}/{name}" for name in os.listdir(place or ".") if name.endswith((".dist-info", ".egg-info")))
