"""The names of the folders of runs and sweeps."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from implicit_bias.core.registry import hyper_fields, hyper_values

if TYPE_CHECKING:
    from implicit_bias.config.spec import RunSpec
    from implicit_bias.norms import Norm

# Of a data file's name, and of a class's.
_LONGEST_STEM = 40


def dataset_name(spec: RunSpec) -> str:
    """What the names of folders call the data: the name of a data file without its ending, in letters that any shell takes, else
    the dataset's name.
    """
    stem = Path(spec.data_file).stem if spec.data_file else ""
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "_", plain)[:_LONGEST_STEM].strip("._-") or spec.dataset_name


def default_name(spec: RunSpec, data: str) -> Iterator[str]:
    """The parts of the name of a run's folder on data that are called ``data``: those, model, optimizer
    (and the class that it names), norm and seed."""
    yield data
    yield spec.model.name
    yield spec.optimizer.name
    if spec.optimizer.class_name:
        yield re.sub(r"[^A-Za-z0-9_]+", "_", spec.optimizer.class_name)[:_LONGEST_STEM]
    if spec.norm is not None:
        yield spec.norm.name + "".join(_parameters(spec.norm))
    yield f"seed{spec.seed}"


def _parameters(norm: Norm) -> Iterator[str]:
    """The norm's numbers, its words where one of them is not the default, and those that may be left out, as in its label."""
    defaults = {key: field.default for key, field in hyper_fields(type(norm)).items()}
    values = {key: value for key, value in hyper_values(norm).items() if value is not None}
    words = {key: value for key, value in values.items() if isinstance(defaults[key], str)}
    left_out = [value for key, value in values.items() if defaults[key] is None]
    yield from (f"{value:g}" for key, value in values.items() if key not in words and defaults[key] is not None)
    if any(value != defaults[key] for key, value in words.items()):
        yield from (f"-{value}" for value in words.values())
    yield from (f"-{value}" for value in left_out)
