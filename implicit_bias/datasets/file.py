"""The user's own samples, from an .npz, .csv or .parquet file."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray

from implicit_bias.core.arrays import array_names, read_arrays
from implicit_bias.core.errors import BadInput
from implicit_bias.core.hints import DATA_FILES
from implicit_bias.core.registry import hyper
from implicit_bias.datasets.base import DATASETS, Dataset, checked_dataset, unreadable
from implicit_bias.datasets.classes import classes_of
from implicit_bias.datasets.columns import about_columns
from implicit_bias.datasets.parquet import read_parquet
from implicit_bias.datasets.prepared import Prepared
from implicit_bias.datasets.table import read_csv
from implicit_bias.datasets.words import listing, shortened

#: The names under which an .npz file may hold its features and its labels; the first one present is taken.
FEATURE_KEYS = ("X", "x", "data")
LABEL_KEYS = ("y", "labels", "target")
# Of a path in a message.
_LONGEST_PATH = 200


@DATASETS.register
@dataclass(frozen=True)
class File(Prepared):
    """Your own data: an .npz with X and y, or a .csv or .parquet with a label column.

    An .npz file holds the features (n, d) as ``X``, ``x`` or ``data``, and the labels (n,) as ``y``,
    ``labels`` or ``target``. A .csv file has a header; the column called ``label`` holds the labels, every
    other column is a feature, and so it is in a .parquet file. Labels may be numbers or words: sorted (by
    value where all are numbers), they become 0 to k - 1. What there is to doubt about the file is in the dataset's ``cautions``.
    """

    name: ClassVar[str] = "file"
    path: str | None = hyper(None, help="the file, .npz, .csv or .parquet")
    label: str = hyper("label", help="column of a .csv or .parquet that holds the labels")

    def load(self) -> Dataset:
        """The samples, in the order of the file."""
        path = self._existing_path()
        begin = origin(path)
        columns, doubts = None, list[str]()
        if path.suffix.lower() == ".csv":
            table = read_csv(path, self.label, begin)
            x, labels, columns, doubts = table.x, table.labels, table.columns, table.cautions
        elif path.suffix.lower() == ".parquet":
            x, labels, columns = read_parquet(path, self.label, begin)
        else:
            x, labels = read_npz(path)
        classes = classes_of(labels, begin)
        dataset = checked_dataset(x, classes.y, len(classes.names), origin=begin)
        about = about_columns(dataset.x, columns, dataset.y, classes.values, begin)
        cautions = (*doubts, *about, *classes.cautions)
        told = replace(dataset, names=classes.names, origin=begin, cautions=cautions, reading=classes.reading)
        return self.prepared(told, columns)

    def fingerprint(self) -> str:
        """SHA-256 of the file."""
        path = self._existing_path()
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise unreadable(origin(path), error) from error

    def _existing_path(self) -> Path:
        if not self.path:
            raise BadInput("dataset.path: dataset=file needs the path of an .npz, .csv or .parquet file")
        path = Path(self.path).expanduser()
        if path.suffix.lower() not in DATA_FILES:
            raise BadInput(f"{origin(path)}: must be an .npz, .csv or .parquet file")
        try:
            there = path.exists()
        except (OSError, ValueError) as error:  # a name that is too long, or cannot be one
            raise unreadable(origin(path), error) from None
        if not there:
            raise BadInput(f"{origin(path)}: there is no such file")
        if not path.is_file():
            raise BadInput(f"{origin(path)}: not a file")
        return path


def origin(path: Path) -> str:
    """What a message about ``path`` begins with."""
    return f"dataset.path={shortened(str(path), _LONGEST_PATH)}"


def read_npz(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Features and labels of an .npz file as they are. Raises BadInput if it is damaged or lacks one."""
    names = array_names(path, origin(path))
    features, labels = (_first(allowed, names, path) for allowed in (FEATURE_KEYS, LABEL_KEYS))
    arrays = read_arrays(path, origin(path), [features, labels])
    return arrays[features], arrays[labels]


def _first(allowed: Sequence[str], names: Sequence[str], path: Path) -> str:
    for name in allowed:
        if name in names:
            return name
    raise BadInput(f"{origin(path)}: no array called {' or '.join(allowed)}; it has {listing(names)}")
