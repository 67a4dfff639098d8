"""What runs and sweeps are called in the names of their folders."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

#: Keys that change nothing at these values, and came later than folders that are to be found again.
UNUSED = (("start", None), ("start_scale", 1.0), ("norm.outer", "max"), ("norm.rest", "linf"))
# Of a data file's name, and of a class's.
_LONGEST_STEM = 40


def dataset_name(config: Mapping[str, Any]) -> str:
    """What the names of folders call the data: the name of a data file without its ending, in letters that any shell takes, else
    the dataset's name.
    """
    path = config["dataset"].get("path")
    plain = unicodedata.normalize("NFKD", Path(path).stem if path else "").encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "_", plain)[:_LONGEST_STEM].strip("._-") or str(config["dataset"]["name"])


def default_name(config: Mapping[str, Any], data: str) -> Iterator[str]:
    """The parts of the name of a run's folder on data that are called ``data``: those, model, optimizer, norm and seed."""
    yield data
    yield config["model"]["name"]
    yield config["optimizer"]["name"]
    if config["optimizer"].get("target") is not None:
        name = re.split(r"[.:]", config["optimizer"]["target"])[-1]
        yield re.sub(r"[^A-Za-z0-9_]+", "_", name)[:_LONGEST_STEM]
    norm = config.get("norm")
    if norm:
        yield norm["name"] + "".join(_parameters(norm))
    yield f"seed{config['seed']}"


def _parameters(norm: Mapping[str, Any]) -> Iterator[str]:
    """The norm's numbers, and its words where one of them is not what is left out, as in its label."""
    given = [(key, value) for key, value in norm.items() if key != "name"]
    words = [(key, value) for key, value in given if isinstance(value, str)]
    yield from (f"{value:g}" for _, value in given if not isinstance(value, str))
    if any((f"norm.{key}", value) not in UNUSED for key, value in words):
        yield from (f"-{value}" for _, value in words)
