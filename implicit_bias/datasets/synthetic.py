"""What all datasets that are drawn have in common: further samples for a test, and a rotation of the features."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

import numpy as np
from numpy.typing import NDArray

from implicit_bias.core.registry import hyper
from implicit_bias.datasets.base import MAX_SEED, Dataset, DatasetSource, checked_dataset
from implicit_bias.datasets.rotation import rotated, rotation_key, rotation_numbers

#: Samples (n, d), and the label of each, (n,).
Samples = tuple[NDArray[np.float64], NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class Draws:
    """Training samples ``x`` (n, d), labels ``y`` (n,) in [0, num_classes), and what draws as many further ones as asked."""

    x: NDArray[np.float64]
    y: NDArray[np.int64]
    num_classes: int
    more: Callable[[np.random.RandomState, int], Samples]


@dataclass(frozen=True)
class Synthetic(DatasetSource):
    """Samples that are drawn.

    Further samples come from ``numpy.random.RandomState([seed, 1])``, a generator of their own, so that the training samples do
    not depend on them. ``rotate`` turns the features of all samples by one orthogonal matrix (:func:`rotated`).
    """

    _: KW_ONLY
    test_samples: int = hyper(0, help="further samples, on which nothing is trained", ge=0)
    rotate: int | None = rotation_key()
    seed: int = hyper(1, help="seed of all that is drawn but the rotation", ge=0, le=MAX_SEED)

    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """How many training samples there are at least, and how many features."""

    @abstractmethod
    def draws(self) -> Draws:
        """The samples before the rotation. Raises BadInput, naming the key, where these cannot be."""

    def numbers(self) -> int:
        samples, dim = self.shape()
        return (samples + self.test_samples) * dim + (0 if self.rotate is None else rotation_numbers(dim))

    def load(self) -> Dataset:
        """The training samples in the order they were drawn, and ``test_samples`` further ones."""
        draws = self.draws()
        parts, labels = [draws.x], [draws.y]
        if self.test_samples:
            x, y = draws.more(np.random.RandomState([self.seed, 1]), self.test_samples)
            parts, labels = [*parts, x], [*labels, y]
        if self.rotate is not None:
            parts = rotated(parts, self.rotate)
        test = (parts[1], labels[1]) if self.test_samples else None
        return checked_dataset(parts[0], labels[0], draws.num_classes, origin=f"dataset={self.name}", test=test)


def in_turn(num_classes: int, count: int) -> NDArray[np.int64]:
    """Labels 0, 1, ..., num_classes - 1, 0, 1, ... of ``count`` samples."""
    return np.arange(count, dtype=np.int64) % num_classes
