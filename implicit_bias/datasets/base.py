"""What a dataset is: samples with integer labels, where they come from, and the checks that all pass."""

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from implicit_bias.errors import BadInput
from implicit_bias.registry import Registry, hyper_fields

DATASETS = Registry("implicit_bias.datasets", "dataset")

#: Features of other sizes would over- or underflow in products.
SMALLEST_FEATURE, LARGEST_FEATURE = 1e-100, 1e100

#: numpy.random.RandomState takes seeds up to this one.
MAX_SEED = 2**32 - 1


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples ``x`` (n, d), float64, C-contiguous, with labels ``y`` (n,), int64, in [0, num_classes)."""

    x: NDArray[np.float64]
    y: NDArray[np.int64]
    num_classes: int
    x_test: NDArray[np.float64] | None = None
    y_test: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class DatasetSource(ABC):
    """Where samples come from. A subclass is registered, and its fields are the keys ``dataset.<field>``.

    Numbers are checked against their declared ranges on construction (raises BadInput).
    """

    name: ClassVar[str]

    def __post_init__(self) -> None:
        check_numbers(self, prefix="dataset")

    @abstractmethod
    def load(self) -> Dataset:
        """The samples, the same ones at every call. Raises BadInput, naming the key, where that cannot be."""

    def fingerprint(self) -> str:
        """A digest of the content that the fields do not pin (files); empty where the fields say all."""
        return ""


#: How the bounds of a field's declaration read, and what each of them asks.
BOUNDS = {
    "ge": (">=", operator.ge),
    "gt": (">", operator.gt),
    "le": ("<=", operator.le),
    "lt": ("<", operator.lt),
}


def check_numbers(instance: Any, prefix: str) -> None:
    """Raise BadInput for the first number among the fields of ``instance`` outside its declared range."""
    for key, field in hyper_fields(type(instance)).items():
        value, spec = getattr(instance, key), field.metadata["hyper"]
        if not isinstance(value, (int, float)):
            continue  # null, a text or a list: the class itself knows what it means
        if not math.isfinite(value):
            raise BadInput(f"{prefix}.{key}={value}: must be finite")
        bounds = [(*BOUNDS[kind], bound) for kind in BOUNDS if (bound := getattr(spec, kind)) is not None]
        if not all(holds(value, bound) for _, holds, bound in bounds):
            allowed = " and ".join(f"{sign} {bound}" for sign, _, bound in bounds)
            raise BadInput(f"{prefix}.{key}={value}: must be {allowed}")


def checked_dataset(x: NDArray[Any], y: NDArray[Any], num_classes: int, *, origin: str) -> Dataset:
    """A :class:`Dataset` of ``x`` and ``y`` after every check that a dataset has to pass.

    Args:
        x: samples, (n, d), any real type.
        y: labels, (n,), integers in [0, num_classes), every class present.
        origin: the key that a message begins with, such as ``dataset.path=my.npz``.

    Raises:
        BadInput: wrong shape, nothing in it, a length mismatch, a value that is nan or inf (the message
            gives its row and column, counted from 1), fewer than two classes, or a class without a sample.
    """
    if x.ndim != 2:
        raise BadInput(f"{origin}: the features have shape {x.shape}; must be (samples, features)")
    if y.ndim != 1:
        raise BadInput(f"{origin}: the labels have shape {y.shape}; must be one label a sample")
    if len(x) != len(y):
        raise BadInput(f"{origin}: {len(x)} samples but {len(y)} labels; must be as many")
    if x.size == 0:
        raise BadInput(f"{origin}: empty ({len(x)} samples of {x.shape[1]} features); must have at least one")
    if x.dtype.kind not in "buif":
        raise BadInput(f"{origin}: the features have type {x.dtype}; must be real numbers")
    x = np.ascontiguousarray(x, dtype=np.float64)
    bad = np.argwhere(~np.isfinite(x))
    if len(bad):
        row, column = bad[0]
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise BadInput(f"{origin}: {x[row, column]} in row {row + 1}, column {column + 1}{more}; must be finite")
    largest = float(np.abs(x).max(initial=0.0))
    if largest and not SMALLEST_FEATURE <= largest <= LARGEST_FEATURE:
        allowed = f"between {SMALLEST_FEATURE:g} and {LARGEST_FEATURE:g}"
        raise BadInput(f"{origin}: the largest feature is {largest:g} in size; must be {allowed}, rescale the data")
    present = np.unique(y)
    if num_classes < 2 or len(present) < 2:
        raise BadInput(f"{origin}: only one class; at least two are needed")
    if not np.array_equal(present, np.arange(num_classes)):
        raise BadInput(f"{origin}: the labels must be 0 to {num_classes - 1}, each of them present")
    return Dataset(x, np.ascontiguousarray(y, dtype=np.int64), num_classes)


def choose_samples(labels: NDArray[Any], classes: Sequence[int], samples_per_class: int | None, seed: int) -> NDArray[np.intp]:
    """Indices of some samples of each of ``classes``: class by class, in the order of the source.

    With ``rng = numpy.random.RandomState(seed)``, for one class after the other: the first
    ``samples_per_class`` entries of ``rng.permutation(indices of the class)``, sorted; all of them, whatever
    the seed, where ``samples_per_class`` is None.

    Raises:
        BadInput: a class has fewer samples, or none.
    """
    rng = np.random.RandomState(seed)
    chosen = []
    for label in classes:
        members = np.flatnonzero(labels == label)
        if len(members) == 0:
            raise BadInput(f"dataset.classes: the files have no sample of class {label}; leave it out")
        if samples_per_class is not None and samples_per_class > len(members):
            smallest = min(int(np.sum(labels == c)) for c in classes)
            raise BadInput(
                f"dataset.samples_per_class={samples_per_class}: class {label} has {len(members)} samples;"
                f" must be <= {smallest}, or null for all of them"
            )
        chosen.append(np.sort(rng.permutation(members)[:samples_per_class]))
    return np.concatenate(chosen)


def checked_classes(classes: Sequence[int] | None, num_available: int) -> list[int]:
    """``classes`` as a list, and 0 to ``num_available - 1`` for None.

    Raises:
        BadInput: they are not two or more different ones of these.
    """
    if classes is None:
        return list(range(num_available))
    allowed = f"must be null (all) or a list of two or more different numbers from 0 to {num_available - 1}"
    if not isinstance(classes, list | tuple):
        raise BadInput(f"dataset.classes={classes}: {allowed}")
    known = all(type(c) is int and 0 <= c < num_available for c in classes)
    if not known or len(set(classes)) < max(2, len(classes)):
        raise BadInput(f"dataset.classes={list(classes)}: {allowed}")
    return list(classes)
