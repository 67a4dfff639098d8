"""Datasets from what a caller in Python has: arrays, DataFrames, names of datasets."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from implicit_bias.core.errors import BadInput
from implicit_bias.core.hints import asked, is_data_file, option_meant
from implicit_bias.core.words import suggestion
from implicit_bias.datasets import DATASETS, Dataset, make_dataset
from implicit_bias.datasets.base import checked_dataset
from implicit_bias.datasets.classes import classes_of
from implicit_bias.datasets.columns import about_sizes
from implicit_bias.storage.files import atomic_write_bytes, npz_bytes


def as_dataset(data: Any, key: str = "dataset") -> Dataset:
    """A dataset: as it is, by its name with its default keys (``"digits"``), or a pair of features (n, d) and labels (n,).

    Labels may be any values: sorted, they become 0 to k - 1. Arrays, lists, tensors and DataFrames will do.

    Args:
        data: Any of these.
        key: The argument that it is, for errors.

    Raises:
        BadInput: no such dataset, or samples that cannot be used.
    """
    if isinstance(data, Dataset):
        return data
    if isinstance(data, str) and data in DATASETS:
        return make_dataset({"name": data}).load()
    if isinstance(data, str | PathLike):
        raise _no_such_dataset(fspath(data), key)
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise BadInput(f"{key}: a {type(data).__name__}; must be a pair (X, y), a Dataset or the name of a dataset")
    x, y = data
    return dataset_of(x, y, origin=key)


def _no_such_dataset(name: str, key: str) -> BadInput:
    """The error for a name that no dataset has, which may be that of a file, or of a set of scikit-learn."""
    if is_data_file(name):
        label = "" if name.casefold().endswith(".npz") else ', "label": "<its column of labels>"'
        made = f'make_dataset({{"name": "file", "path": "{name}"{label}}}).load()'
        return BadInput(f"{key}={name}: a file is read by {made}, from implicit_bias.datasets import make_dataset")
    if (option_meant("dataset", name) or "").startswith("dataset=sklearn "):
        return BadInput(f"{key}={name}: no such dataset{asked(f'sklearn.datasets.load_{name}(return_X_y=True)')}")
    meant = suggestion(name, DATASETS.names()) or ";"
    return BadInput(f"{key}={name}: no such dataset{meant} allowed: {', '.join(DATASETS.names())}")


def dataset_of(x: Any, y: Any, origin: str = "dataset") -> Dataset:
    """Features (n, d) and labels (n,) of any values as a dataset. Raises BadInput."""
    labels = array_of(y, origin, "labels")
    if labels.dtype == object:  # words out of a DataFrame
        missing = pd.isna(labels).ravel()
        if missing.any():
            raise BadInput(f"{origin}: the label of sample {int(missing.argmax()) + 1} is missing; must be one label a sample")
        labels = labels.astype(str)
    classes = classes_of(labels, origin)
    features = array_of(x, origin, "features")
    if features.dtype == object:
        raise BadInput(f"{origin}: the features are not all numbers; must be real numbers")
    dataset = checked_dataset(features, classes.y, len(classes.names), origin=origin)
    columns = list(map(str, x.columns)) if isinstance(x, pd.DataFrame) else None
    cautions = (*classes.cautions, *about_sizes(dataset.x, columns, origin, "give all features one scale first"))
    return replace(dataset, names=classes.names, origin=origin, cautions=cautions)


@dataclass(frozen=True)
class KeptData:
    """A dataset as a file, as ``dataset.path`` takes it."""

    path: Path
    content: bytes

    def write(self) -> None:
        """Write the file; one that is there is left. Raises OSError."""
        if not self.path.exists():
            atomic_write_bytes(self.path, self.content)


def kept_in(dataset: Dataset, folder: Path) -> KeptData:
    """The file of a dataset in ``folder``, called by its content, and not written yet.

    Raises:
        BadInput: the dataset has test samples, for which there is no place.
    """
    if dataset.x_test is not None:
        raise BadInput("dataset: a Dataset with test samples; must be one without (x_test=None), or (X, y)")
    names = np.array(dataset.names) if dataset.names is not None else np.arange(dataset.num_classes)
    content = npz_bytes({"X": dataset.x, "y": names[dataset.y]})
    return KeptData(folder / f"{hashlib.sha256(content).hexdigest()[:12]}.npz", content)


def array_of(values: Any, origin: str, what: str) -> NDArray[Any]:
    """Values, a tensor's too, as an array. Raises BadInput: they are of different lengths, or nothing that numpy can read."""
    try:
        return np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise BadInput(
            f"{origin}: the {what} cannot be read as an array ({reason}); must be an array, DataFrame or tensor"
        ) from None
