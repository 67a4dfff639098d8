"""Columns that are no features: a row index, or a copy of the labels. Either reveals the classes."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from implicit_bias.datasets.words import quoted

# Fewer samples are numbered by a feature, or have the labels for a feature, by chance.
LEAST_IN_ORDER, LEAST = 3, 10
#: Features whose sizes differ by more than this are hardly of one unit.
LARGEST_RATIO = 100.0

_INDEX = re.compile(r"(.*[ ._-])?ids?|#|nr|obs|idx|index|rows?([ ._-]?(names?|ids?|idx|index|num(ber)?|nr))?", re.IGNORECASE)
_CAMEL_ID = re.compile(r".*[a-z](Id|ID)")  # PassengerId


def about_columns(
    x: NDArray[np.float64], columns: Sequence[str] | None, y: NDArray[np.int64], values: Sequence[float] | None, origin: str
) -> list[str]:
    """Warnings about features that number the samples, are named like an index, or equal the labels.

    Args:
        x: Samples, (n, d), finite.
        columns: The names of the features; None where they have none.
        y: The class of each sample, (n,).
        values: The labels of the classes as numbers; None where they are words.
        origin: What a line begins with.
    """
    numbered = numbered_columns(x)
    named = [] if columns is None else [j for j, name in enumerate(columns) if is_index_name(name)]
    labels = label_columns(x, y, values) - numbered
    lines = []
    if numbered or named:
        found = [_called(j, columns) for j in sorted({*numbered, *named})]
        what = "counts the samples" if numbered else "is called as a row index is"
        lines.append(
            f"{origin}: {_several(found)} {what}; if it is a row index it gives away classes that are in order: leave it out then"
        )
    if labels:
        lines.append(f"{origin}: {_several([_called(j, columns) for j in sorted(labels)])} is the label itself, as a feature")
    return lines


def about_sizes(x: NDArray[np.float64], columns: Sequence[str] | None, origin: str, remedy: str) -> list[str]:
    """A warning where the largest values of two features differ by more than :data:`LARGEST_RATIO`.

    Args:
        x: Samples, (n, d), finite.
        columns: The names of the features; None where they have none.
        origin: What the line begins with.
        remedy: What can be done, as the line ends.
    """
    sizes = np.abs(x).max(axis=0)
    used = np.flatnonzero(sizes)
    if not len(used):
        return []
    large, small = int(used[sizes[used].argmax()]), int(used[sizes[used].argmin()])
    if sizes[large] / sizes[small] <= LARGEST_RATIO:
        return []
    pair = f"{_called(large, columns)} goes up to {sizes[large]:.3g} in size, {_called(small, columns)} to {sizes[small]:.3g}"
    return [f"{origin}: {pair}: margins and speed depend on the units of features; {remedy}"]


def is_index_name(name: str) -> bool:
    """Whether a column of this name is usually an index of the rows, or a key of the samples."""
    return bool(_INDEX.fullmatch(name) or _CAMEL_ID.fullmatch(name))


def numbered_columns(x: NDArray[np.float64]) -> set[int]:
    """Columns of x (n, d) that are consecutive integers, up or down, or 0 to n - 1 or 1 to n in any order."""
    samples = len(x)
    if samples < LEAST_IN_ORDER:
        return set()
    step = x[1] - x[0]
    whole = x[0] == np.floor(x[0])
    in_order = [j for j in np.flatnonzero(whole & (np.abs(step) == 1)) if np.all(np.diff(x[:, j]) == step[j])]
    least = x.min(axis=0)
    complete = np.flatnonzero(((least == 0) | (least == 1)) & (x.max(axis=0) - least == samples - 1))
    shuffled = [j for j in complete if samples >= LEAST and np.array_equal(np.sort(x[:, j]), least[j] + np.arange(samples))]
    return {int(j) for j in (*in_order, *shuffled)}


def label_columns(x: NDArray[np.float64], y: NDArray[np.int64], values: Sequence[float] | None) -> set[int]:
    """Columns of x (n, d) that are the labels, as numbers or as 0 to k - 1."""
    if len(x) < LEAST:
        return set()
    forms = [y.astype(np.float64), *([] if values is None else [np.array(values)[y]])]
    found: set[int] = set()
    for form in forms:
        alike = np.flatnonzero((x[0] == form[0]) & (x[-1] == form[-1]))
        found |= {int(j) for j in alike if np.array_equal(x[:, j], form)}
    return found


def _called(column: int, columns: Sequence[str] | None) -> str:
    return f"column {column + 1}" if columns is None else f"column {quoted(columns[column])}"


def _several(found: Sequence[str], most: int = 3) -> str:
    return found[0] if len(found) == 1 else f"each of {', '.join(found[:most])}{', ...' if len(found) > most else ''}"
