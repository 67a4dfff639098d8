"""Datasets: one file each, a frozen dataclass of its keys whose ``load`` gives checked arrays."""

from collections.abc import Mapping
from typing import Any

from implicit_bias.core.errors import BadInput
from implicit_bias.core.registry import hyper_fields
from implicit_bias.datasets.base import DATASETS, Dataset, DatasetSource

__all__ = ["DATASETS", "Dataset", "DatasetSource", "make_dataset"]


def make_dataset(config: Mapping[str, Any]) -> DatasetSource:
    """The dataset that the ``dataset`` part of a resolved config describes: its ``name`` and its fields.

    Raises:
        BadInput: no such dataset, no such key, or a value out of range.
    """
    keys = dict(config)
    name = keys.pop("name", None)
    if name not in DATASETS:
        raise BadInput(f"dataset={name}: no such dataset; allowed: {', '.join(DATASETS.names())}")
    cls = DATASETS.get(name)
    allowed = hyper_fields(cls)
    for key in keys:
        if key not in allowed:
            raise BadInput(f"dataset.{key}: unknown key for dataset={name}; allowed: {', '.join(allowed)}")
    source: DatasetSource = cls(**keys)
    return source
