"""The user's own samples, from an .npz or a .csv file."""

import contextlib
import csv
import hashlib
import math
import zipfile
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from implicit_bias.datasets.base import DATASETS, Dataset, DatasetSource, checked_dataset
from implicit_bias.errors import BadInput
from implicit_bias.registry import hyper

#: The names under which an .npz file may hold its features and its labels; the first one present is taken.
FEATURE_KEYS = ("X", "x", "data")
LABEL_KEYS = ("y", "labels", "target")


@DATASETS.register
@dataclass(frozen=True)
class File(DatasetSource):
    """Your own data: an .npz with X and y, or a .csv with a label column.

    An .npz file holds the features (n, d) as ``X``, ``x`` or ``data``, and the labels (n,) as ``y``,
    ``labels`` or ``target``. A .csv file has a header; the column called ``label`` holds the labels, every
    other column is a feature. Labels may be numbers or words: sorted (by value where all are numbers), they
    become 0 to k - 1.
    """

    name: ClassVar[str] = "file"
    path: str | None = hyper(None, help="the file, .npz or .csv")
    label: str = hyper("label", help="column of a .csv that holds the labels")

    def load(self) -> Dataset:
        """All samples, in the order of the file."""
        path = self._existing_path()
        x, labels = read_csv(path, self.label) if path.suffix.lower() == ".csv" else read_npz(path)
        y, num_classes = encoded_labels(labels, path)
        return checked_dataset(x, y, num_classes, origin=origin(path))

    def fingerprint(self) -> str:
        """SHA-256 of the file."""
        path = self._existing_path()
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise unreadable(path, error) from error

    def _existing_path(self) -> Path:
        if not self.path:
            raise BadInput("dataset.path: dataset=file needs the path of an .npz or a .csv file")
        path = Path(self.path).expanduser()
        if path.suffix.lower() not in (".npz", ".csv"):
            raise BadInput(f"{origin(path)}: must be an .npz or a .csv file")
        try:
            if not path.exists():
                raise BadInput(f"{origin(path)}: there is no such file")
        except OSError as error:  # such as a name that is too long
            raise unreadable(path, error) from None
        if not path.is_file():
            raise BadInput(f"{origin(path)}: not a file")
        return path


def origin(path: Path) -> str:
    """What a message about ``path`` begins with."""
    return f"dataset.path={path}"


def unreadable(path: Path, error: Exception) -> BadInput:
    """The BadInput for a file that cannot be read: the reason in one line, without the path once more."""
    reason = getattr(error, "strerror", None) or str(error)
    return BadInput(f"{origin(path)}: cannot be read: {' '.join(reason.split()) or type(error).__name__}")


def listing(names: Sequence[str], most: int = 10) -> str:
    """``names`` for a message, the first ``most`` of them, in one line."""
    shown = [" ".join(name.split()) for name in names[:most]]
    return ", ".join(shown) + (f", ... ({len(names)} in all)" if len(names) > most else "") or "none"


def read_npz(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Features and labels of an .npz file as they are. Raises BadInput if it is damaged or lacks one."""
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("not an .npz archive")
        with np.load(path, allow_pickle=False) as archive:
            names = archive.files
            return archive[_first(FEATURE_KEYS, names, path)], archive[_first(LABEL_KEYS, names, path)]
    except BadInput:
        raise
    except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise unreadable(path, error) from error


def _first(allowed: Sequence[str], names: Sequence[str], path: Path) -> str:
    for name in allowed:
        if name in names:
            return name
    raise BadInput(f"{origin(path)}: no array called {' or '.join(allowed)}; it has {listing(names)}")


def read_csv(path: Path, label: str) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
    """Features (n, d), checked to be finite numbers, and labels (n,), as text, of a .csv file with a header.

    Raises:
        BadInput: it cannot be read, a header that will not do, no column ``label``, a row with more or fewer
            cells than the header, or a feature that is missing or no finite number (with line and column).
    """
    features, labels = array("d"), []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            columns = checked_header([name.strip() for name in next(reader, [])], path)
            if label not in columns:
                raise BadInput(f"dataset.label={label}: no such column in {path}; it has {listing(columns)}")
            place = columns.index(label)
            del columns[place]
            for cells in filter(None, reader):  # a blank line is no row
                where = f"{origin(path)}: line {reader.line_num}"
                if len(cells) != len(columns) + 1:
                    raise BadInput(f"{where} has {len(cells)} cells; the header has {len(columns) + 1}")
                labels.append(cells.pop(place).strip())
                features.extend(numbers(cells, columns, where))
    except BadInput:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise unreadable(path, error) from error
    return np.array(features).reshape(len(labels), len(columns)), np.array(labels, dtype=str)


def checked_header(columns: list[str], path: Path) -> list[str]:
    """The names of the columns, each given and given once. Raises BadInput where they are not.

    A nameless column is an index that some programs write; as a feature it would give the labels away.
    """
    if not columns:
        raise BadInput(f"{origin(path)}: empty; its first line must name the columns")
    for number, name in enumerate(columns, start=1):
        if not name:
            raise BadInput(f"{origin(path)}: column {number} has no name (a row index?); name it or leave it out")
        if name in columns[: number - 1]:
            raise BadInput(f"{origin(path)}: two columns are called {name!r}")
    return columns


def numbers(cells: Sequence[str], columns: Sequence[str], where: str) -> list[float]:
    """The features of one row. Raises BadInput, with the column, for one that is no finite number."""
    values = []
    for cell, column in zip(cells, columns, strict=True):
        try:
            value = float(cell)
        except ValueError:
            problem = f"{cell!r} is not a number" if cell.strip() else "no value"
            raise BadInput(f"{where}, column {column!r}: {problem}") from None
        if not math.isfinite(value):
            raise BadInput(f"{where}, column {column!r}: {value}; must be finite")
        values.append(value)
    return values


def encoded_labels(labels: NDArray[Any], path: Path) -> tuple[NDArray[np.int64], int]:
    """Labels (n,) or (n, 1) of any kind as 0 to k - 1, in sorted order, and k.

    Text sorts by value where all of it is numbers.

    Raises:
        BadInput: another shape, a type without an order, or a label that is missing.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise BadInput(f"{origin(path)}: the labels have shape {labels.shape}; must be one label a sample")
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8", "replace")
    if labels.dtype.kind not in "buifU":
        raise BadInput(f"{origin(path)}: the labels have type {labels.dtype}; must be numbers or text")
    values = labels.tolist()  # Python's own numbers, which compare exactly
    for row, value in enumerate(values, start=1):
        if str(value).strip().lower() in ("", "nan"):
            raise BadInput(f"{origin(path)}: the label of sample {row} is missing")
    with contextlib.suppress(ValueError):  # raised by words, which stay and sort as such
        values = [exact_number(value) if isinstance(value, str) else value for value in values]
    rank = {value: index for index, value in enumerate(sorted(set(values)))}
    return np.array([rank[value] for value in values], dtype=np.int64), len(rank)


def exact_number(text: str) -> int | float:
    """The number that ``text`` writes. Raises ValueError if it writes none."""
    try:
        return int(text)
    except ValueError:
        return float(text)
