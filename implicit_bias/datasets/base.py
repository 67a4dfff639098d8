"""What a dataset is: samples with integer labels, where they come from, and the checks that all pass."""

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from implicit_bias.core.errors import BadInput
from implicit_bias.core.registry import MAX_SEED as MAX_SEED
from implicit_bias.core.registry import Registry, hyper_fields
from implicit_bias.core.words import either

DATASETS = Registry("implicit_bias.datasets", "dataset")

#: Features of other sizes would over- or underflow in products.
SMALLEST_FEATURE, LARGEST_FEATURE = 1e-100, 1e100

#: Numbers that are smaller have fewer digits in double precision.
FULL_PRECISION = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples ``x`` (n, d), float64, C-contiguous, with labels ``y`` (n,), int64, in [0, num_classes).

    ``x_test`` (m, d) and ``y_test`` (m,), where there are any, are further samples of the same kind; they may lack a class.

    Attributes:
        names: What each class is called where the samples came from; None where nobody else gave it a name.
        origin: What a line about the data begins with, such as ``dataset.path=my.csv``.
        cautions: What there is to doubt about them, a line each.
        reading: Told where the same content was once read in another way: another run then, with another hash.
        rows: The number of each sample where the samples came from, from 1; None where that is its place here.
    """

    x: NDArray[np.float64]
    y: NDArray[np.int64]
    num_classes: int
    x_test: NDArray[np.float64] | None = None
    y_test: NDArray[np.int64] | None = None
    names: tuple[str, ...] | None = None
    origin: str = ""
    cautions: tuple[str, ...] = ()
    reading: str = ""
    rows: tuple[int, ...] | None = None

    @property
    def test_left_out(self) -> bool:
        """Whether its test samples are a stand-in of their shape: :meth:`without_test`."""
        return self.x_test is not None and self.x_test.strides == (0, 0)

    def without_test(self) -> "Dataset":
        """The same with a stand-in for the test samples that takes no memory; who needs them loads them again."""
        if self.x_test is None or self.y_test is None:
            return self
        nothing = np.broadcast_to(np.float64(np.nan), self.x_test.shape), np.broadcast_to(np.int64(0), self.y_test.shape)
        return replace(self, x_test=nothing[0], y_test=nothing[1])

    def content(self) -> dict[str, Any]:
        """How many samples, features and classes there are, and how many samples of each class by its name."""
        counts = np.bincount(self.y, minlength=self.num_classes).tolist()
        names = self.names or tuple(map(str, range(self.num_classes)))
        return {
            "samples": len(self.y),
            "features": self.x.shape[1],
            "num_classes": self.num_classes,
            "classes": dict(zip(names, counts, strict=True)),
        }


@dataclass(frozen=True)
class DatasetSource(ABC):
    """Where samples come from. A subclass is registered, and its fields are the keys ``dataset.<field>``.

    Fields are checked against their declared ranges and choices on construction (raises BadInput).
    """

    name: ClassVar[str]

    def __post_init__(self) -> None:
        check_numbers(self, prefix="dataset")

    @abstractmethod
    def load(self) -> Dataset:
        """The samples, the same ones at every call. Raises BadInput, naming the key, where that cannot be."""

    def numbers(self) -> int:
        """How many doubles :meth:`load` makes at least, where the fields say so; more than the memory holds are refused."""
        return 0

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
    """Raise BadInput for the first field of ``instance`` that is no declared choice, or a number outside its declared range."""
    for key, field in hyper_fields(type(instance)).items():
        value, spec = getattr(instance, key), field.metadata["hyper"]
        if spec.choices is not None and value not in spec.choices:
            raise BadInput(f"{prefix}.{key}={value}: must be {either([str(choice) for choice in spec.choices])}")
        if not isinstance(value, (int, float)):
            continue  # null, a text or a list: the class itself knows what it means
        if not math.isfinite(value):
            raise BadInput(f"{prefix}.{key}={value}: must be finite")
        bounds = [(*BOUNDS[kind], bound) for kind in BOUNDS if (bound := getattr(spec, kind)) is not None]
        if not all(holds(value, bound) for _, holds, bound in bounds):
            allowed = " and ".join(f"{sign} {bound}" for sign, _, bound in bounds)
            raise BadInput(f"{prefix}.{key}={value}: must be {allowed}")


def checked_dataset(
    x: NDArray[Any],
    y: NDArray[Any],
    num_classes: int,
    *,
    origin: str,
    test: tuple[NDArray[Any], NDArray[Any]] | None = None,
) -> Dataset:
    """A :class:`Dataset` of ``x`` and ``y`` after every check that a dataset has to pass.

    Args:
        x: samples, (n, d), any real type.
        y: labels, (n,), integers in [0, num_classes), every class present.
        origin: the key that a message begins with, such as ``dataset.path=my.npz``.
        test: the test samples, (m, d) and (m,), if any; they pass the same checks, but may lack a class.

    Raises:
        BadInput: wrong shape, nothing in it, a length mismatch, a value that is nan or inf (the message
            gives its row and column, counted from 1), fewer than two classes, a class without a sample, or
            a test label out of range.
    """
    x = checked_features(x, y, origin=origin)
    present = np.unique(y)
    if num_classes < 2 or len(present) < 2:
        raise BadInput(f"{origin}: only one class; at least two are needed")
    if not np.array_equal(present, np.arange(num_classes)):
        raise BadInput(f"{origin}: the labels must be 0 to {num_classes - 1}, each of them present")
    y = np.ascontiguousarray(y, dtype=np.int64)
    if test is None:
        return Dataset(x, y, num_classes)
    x_test, y_test = test
    x_test = checked_features(x_test, y_test, origin=f"{origin}: test samples")
    if x_test.shape[1] != x.shape[1]:
        raise BadInput(f"{origin}: test samples: {x_test.shape[1]} features; must be {x.shape[1]} as in training")
    if not np.isin(y_test, np.arange(num_classes)).all():
        raise BadInput(f"{origin}: test samples: the labels must be 0 to {num_classes - 1}")
    return Dataset(x, y, num_classes, x_test, np.ascontiguousarray(y_test, dtype=np.int64))


def checked_features(x: NDArray[Any], y: NDArray[Any], *, origin: str) -> NDArray[np.float64]:
    """``x`` (n, d) as a C-contiguous float64 array: n, d >= 1, every value finite, and ``y`` (n,) as long.

    Raises:
        BadInput: one of these is not so, or the largest feature is of an absurd size.
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
    with np.errstate(over="ignore"):  # of a long double, which is then reported as inf
        x = np.require(x, dtype=np.float64, requirements=["C", "W"])  # a frame's values cannot be written to
    bad = np.argwhere(~np.isfinite(x))
    if len(bad):
        row, column = bad[0]
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise BadInput(f"{origin}: {x[row, column]} in row {row + 1}, column {column + 1}{more}; must be finite")
    sizes = np.abs(x)
    tiny = np.argwhere((sizes > 0) & (sizes < FULL_PRECISION))
    if len(tiny):
        row, column = tiny[0]
        where = f"{origin}: {x[row, column]} in row {row + 1}, column {column + 1}"
        raise BadInput(f"{where} is too small for double precision; must be 0 or >= {FULL_PRECISION:.3g} in size")
    largest = float(sizes.max())
    if largest and not SMALLEST_FEATURE <= largest <= LARGEST_FEATURE:
        allowed = f"between {SMALLEST_FEATURE:g} and {LARGEST_FEATURE:g}"
        raise BadInput(f"{origin}: the largest feature is {largest:g} in size; must be {allowed}, rescale the data")
    return x


def unreadable(origin: str, error: Exception) -> BadInput:
    """The BadInput for a file that cannot be read: the reason in one line, without repeating the path."""
    reason = getattr(error, "strerror", None) or str(error)
    return BadInput(f"{origin}: cannot be read: {' '.join(reason.split()) or type(error).__name__}")


def choose_samples(labels: NDArray[Any], classes: Sequence[int], samples_per_class: int | None, seed: int) -> NDArray[np.intp]:
    """Indices of some samples of each of ``classes``: class by class, in the order of the source.

    With ``rng = numpy.random.RandomState(seed)``, for one class after the other: the first
    ``samples_per_class`` entries of ``rng.permutation(indices of the class)``, sorted; all of them, whatever
    the seed, where ``samples_per_class`` is None.

    Raises:
        BadInput: a class has fewer samples, or none.
    """
    check_present(labels, classes)
    rng = np.random.RandomState(seed)
    chosen = []
    for label in classes:
        members = np.flatnonzero(labels == label)
        if samples_per_class is not None and samples_per_class > len(members):
            smallest = min(int(np.sum(labels == c)) for c in classes)
            raise BadInput(
                f"dataset.samples_per_class={samples_per_class}: class {label} has {len(members)} samples;"
                f" must be <= {smallest}, or null for all of them"
            )
        chosen.append(np.sort(rng.permutation(members)[:samples_per_class]))
    return np.concatenate(chosen)


def check_present(labels: NDArray[Any], classes: Sequence[int]) -> None:
    """Raise BadInput for the first of ``classes`` that no sample is of."""
    for label in classes:
        if label not in labels:
            raise BadInput(f"dataset.classes: the files have no sample of class {label}; leave it out")


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
