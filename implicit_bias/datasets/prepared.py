"""What tables of real measurements need first: which classes and samples, features of one scale, a constant feature."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from implicit_bias.core.errors import BadInput
from implicit_bias.core.registry import hyper
from implicit_bias.datasets.base import Dataset, DatasetSource, checked_dataset
from implicit_bias.datasets.classes import exact_number, is_number
from implicit_bias.datasets.columns import about_sizes
from implicit_bias.datasets.words import listing


@dataclass(frozen=True)
class Prepared(DatasetSource):
    """Samples that are prepared after they were read: ``classes`` are chosen, ``leave_out`` goes, then features are
    standardised, and a constant one is appended."""

    classes: list[str] | None = hyper(None, help="labels of the classes to keep, such as [setosa,virginica]; null for all")
    leave_out: list[int] | None = hyper(None, help="numbers of samples to leave out, from 1, such as [71,84]; null for none")
    standardize: bool = hyper(False, help="shift and scale each feature to mean 0 and variance 1 over the samples")
    bias: bool = hyper(False, help="append a constant feature 1, whose weights count in every norm")

    def prepared(self, data: Dataset, columns: Sequence[str] | None) -> Dataset:
        """The samples that are wanted, in the order of the source, in the features that are wanted.

        Args:
            data: All samples, with ``names`` and ``origin``.
            columns: The names of the features; None where they have none.

        Raises:
            BadInput: there is no such class or sample, or fewer than two classes are left.
        """
        kept = _without(len(data.y), self.leave_out) & np.isin(data.y, _chosen(self.classes, data.names or ()))
        rows = np.flatnonzero(kept)
        if len(rows) < len(kept):
            data = _only(data, rows)
        x = standardized(data.x) if self.standardize else data.x
        sizes = [] if self.standardize else about_sizes(x, columns, data.origin, "dataset.standardize=true gives all one scale")
        if self.bias:
            x = np.hstack([x, np.ones((len(x), 1))])
        return replace(data, x=np.ascontiguousarray(x), cautions=(*data.cautions, *sizes))


def standardized(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """(x_ij - mean_j) / sqrt(variance_j), the variance with 1 / n; 0 throughout where feature j is the same in all samples.

    Args:
        x: Features (n, d).

    Returns:
        Features (n, d) of mean 0 and variance 1, or 0.
    """
    size = np.abs(x).max(axis=0)
    unit = x / np.where(size > 0, size, 1.0)  # whose squares neither over- nor underflow
    centred = unit - unit.mean(axis=0)
    spread = np.sqrt((centred**2).mean(axis=0))
    varies = (x != x[:1]).any(axis=0) & (spread > 0)
    return np.where(varies, centred / np.where(varies, spread, 1.0), 0.0)


def _without(samples: int, leave_out: Sequence[int] | None) -> NDArray[np.bool_]:
    kept = np.ones(samples, dtype=bool)
    for number in leave_out or ():
        if not 1 <= number <= samples:
            raise BadInput(f"dataset.leave_out: no sample {number}; must be numbers from 1 to {samples}")
        kept[number - 1] = False
    return kept


def _chosen(classes: Sequence[str] | None, names: Sequence[str]) -> list[int]:
    """The places in ``names`` of the labels ``classes``: as they are written, or of the same number."""
    if classes is None:
        return list(range(len(names)))
    places = [_place(label, names) for label in map(str, classes)]
    if len(set(places)) < max(2, len(places)):
        raise BadInput(f"dataset.classes={list(classes)}: must be two or more different labels of {listing(names)}")
    return places


def _place(label: str, names: Sequence[str]) -> int:
    if label in names:
        return names.index(label)
    if is_number(label):
        for place, name in enumerate(names):
            if is_number(name) and exact_number(name) == exact_number(label):
                return place
    raise BadInput(f"dataset.classes: no sample is labelled {label}; there are {listing(names)}")


def _only(data: Dataset, rows: NDArray[np.intp]) -> Dataset:
    """The samples ``rows`` of ``data``, their classes numbered anew in the same order. Raises BadInput: fewer than two."""
    present = np.unique(data.y[rows])
    if len(present) < 2:
        raise BadInput("dataset.leave_out: leaves fewer than two classes; at least two are needed")
    checked = checked_dataset(data.x[rows], np.searchsorted(present, data.y[rows]), len(present), origin=data.origin)
    names: Any = None if data.names is None else tuple(data.names[place] for place in present)
    return replace(
        data, x=checked.x, y=checked.y, num_classes=len(present), names=names, rows=tuple(int(row) + 1 for row in rows)
    )
