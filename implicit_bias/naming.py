"""What runs and sweeps are called in the names of their folders."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# Of a data file's name.
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
    norm = config.get("norm")
    if norm:
        yield norm["name"] + "".join(f"{value:g}" for key, value in norm.items() if key != "name")
    yield f"seed{config['seed']}"
