"""What the datasets of handwritten digits share: which digits, how many samples, what is a class, and samples for a test."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from implicit_bias.core.errors import BadInput
from implicit_bias.core.registry import hyper
from implicit_bias.datasets.base import (
    MAX_SEED,
    Dataset,
    DatasetSource,
    check_present,
    checked_classes,
    checked_dataset,
    choose_samples,
)
from implicit_bias.datasets.rotation import rotated, rotation_key

NUM_DIGITS = 10
#: The classes of ``task=parity``, in the order of their labels.
PARITIES = ("even", "odd")


@dataclass(frozen=True, eq=False)
class Images:
    """Images ``values`` (n, rows, columns) as they were read, and the digit that each shows, ``digits`` (n,)."""

    values: NDArray[Any]
    digits: NDArray[Any]


@dataclass(frozen=True)
class HandwrittenDigits(DatasetSource):
    """Some samples of some digits.

    Training samples are ``samples_per_class`` of each digit (also with ``task=parity``), class by class in the order
    of ``classes``, as :func:`choose_samples` draws them. Where ``samples`` is given, ``samples_per_class`` is not used:
    they are the first ``samples`` entries of ``numpy.random.RandomState(seed).permutation(indices of the kept digits)``,
    sorted. With ``task=digits`` a class is labelled by its place in ``classes``; with ``task=parity`` class 0 are the
    even digits and class 1 the odd ones. Test samples are drawn without replacement, never one that is in training.
    ``rotate`` turns the features of all by one orthogonal matrix (:func:`rotated`).
    """

    samples_per_class: int | None = hyper(None, help="samples of each digit; null for all (174 to 183)", ge=1)
    classes: list[int] | None = hyper(None, help="digits to keep, such as [3,5]; null for all ten")
    task: str = hyper(
        "digits",
        help="digits: a class per digit; parity: even (class 0) against odd (class 1)",
        choices=("digits", "parity"),
    )
    samples: int | None = hyper(
        None, help="samples of all digits together, then samples_per_class is not used; null for samples_per_class", ge=2
    )
    test_samples: int = hyper(0, help="further samples, on which nothing is trained", ge=0)
    rotate: int | None = rotation_key()
    seed: int = hyper(1, help="seed of the choice of samples", ge=0, le=MAX_SEED)

    def __post_init__(self) -> None:
        super().__post_init__()
        digits = checked_classes(self.classes, NUM_DIGITS)
        if self.task == "parity" and len({digit % 2 for digit in digits}) < 2:
            raise BadInput(f"dataset.classes={digits}: must have an even and an odd digit for dataset.task=parity")

    @abstractmethod
    def features(self, images: NDArray[Any]) -> NDArray[np.float64]:
        """Images (n, rows, columns) as they were read as features (n, d) in [0, 1]."""

    def dataset_of(self, images: Images, others: Images | None = None) -> Dataset:
        """Training samples from ``images``; test samples from ``others``, or from what is left of ``images``."""
        digits = checked_classes(self.classes, NUM_DIGITS)
        chosen = self._training_indices(images.digits, digits)
        x, y = self._samples(images, chosen, digits)
        num_classes = len(PARITIES) if self.task == "parity" else len(digits)
        missing = np.setdiff1d(np.arange(num_classes), y)
        if len(missing):  # only a draw from all digits together can miss one
            name = f"{PARITIES[missing[0]]} digit" if self.task == "parity" else f"digit {digits[missing[0]]}"
            raise BadInput(f"dataset.samples={self.samples}: no {name} was drawn; must be more, or of another dataset.seed")
        test = None
        if self.test_samples:
            source = images if others is None else others
            test = self._samples(source, self._test_indices(source.digits, digits, chosen if others is None else None), digits)
        if self.rotate is not None:
            x, *held_out = rotated([x] if test is None else [x, test[0]], self.rotate)
            test = None if test is None else (held_out[0], test[1])
        return checked_dataset(x, y, num_classes, origin=f"dataset={self.name}", test=test)

    def _samples(
        self, images: Images, chosen: NDArray[np.intp], digits: list[int]
    ) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
        """Features and labels of the ``chosen`` images."""
        shown = images.digits[chosen]
        y = shown % 2 if self.task == "parity" else np.array([digits.index(digit) for digit in shown])
        return self.features(images.values[chosen]), y.astype(np.intp)

    def _training_indices(self, labels: NDArray[Any], digits: list[int]) -> NDArray[np.intp]:
        if self.samples is None:
            return choose_samples(labels, digits, self.samples_per_class, self.seed)
        check_present(labels, digits)
        return drawn(kept(labels, digits), self.samples, self.seed, key="samples", which="of these digits, or null")

    def _test_indices(self, labels: NDArray[Any], digits: list[int], taken: NDArray[np.intp] | None) -> NDArray[np.intp]:
        """Indices of test samples; ``taken``: the training samples, where they are from the same images."""
        candidates = kept(labels, digits)
        which = "of these digits in the other split"
        if taken is not None:
            candidates, which = np.setdiff1d(candidates, taken), "of these digits that training leaves"
        # A seed of their own, or their indices would follow those of the training samples.
        return drawn(candidates, self.test_samples, [self.seed, 1], key="test_samples", which=which)


def kept(labels: NDArray[Any], digits: Sequence[int]) -> NDArray[np.intp]:
    """Indices of the samples that show one of ``digits``, in the order of the source."""
    return np.flatnonzero(np.isin(labels, digits))


def drawn(candidates: NDArray[np.intp], count: int, seed: int | Sequence[int], *, key: str, which: str) -> NDArray[np.intp]:
    """``count`` of the ``candidates``, without replacement, in their order. Raises BadInput where there are fewer."""
    if count > len(candidates):
        raise BadInput(f"dataset.{key}={count}: must be <= {len(candidates)}, the samples {which}")
    return np.sort(np.random.RandomState(seed).permutation(candidates)[:count])


def block_means(images: NDArray[Any], side: int, pixels: int) -> NDArray[Any]:
    """Images (n, side, side) averaged over square blocks, (n, pixels, pixels); as they are where ``pixels`` is ``side``.

    Raises:
        BadInput: images of another size, which only ``pixels = side`` leaves alone.
    """
    if pixels == side:
        return images
    count, *shape = images.shape
    if shape != [side, side]:
        size = " x ".join(map(str, shape))
        raise BadInput(f"dataset.pixels={pixels}: must be {side} for images that are not {side} x {side}; these are {size}")
    block = side // pixels
    smaller: np.ndarray = images.reshape(count, pixels, block, pixels, block).mean(axis=(2, 4))
    return smaller
