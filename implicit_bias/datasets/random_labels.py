"""Gaussian features whose labels say nothing about them: separable only if the dimension is large."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from implicit_bias.core.errors import BadInput
from implicit_bias.core.registry import hyper
from implicit_bias.datasets.base import DATASETS
from implicit_bias.datasets.synthetic import Draws, Samples, Synthetic


@DATASETS.register
@dataclass(frozen=True)
class RandomLabels(Synthetic):
    """Gaussian features with labels drawn at random, every class present.

    With ``rng = numpy.random.RandomState(seed)``, k classes and n samples of d features:
    ``x = rng.randn(n, d)``, then ``y = numpy.concatenate([numpy.arange(k), rng.randint(k, size=n - k)])``,
    then ``rng.shuffle(y)``. So each class has one sample and every further label is uniform, the lot in
    random order. Of the m test samples, ``x = rng.randn(m, d)`` and ``y = rng.randint(k, size=m)``: a test is passed by chance.
    """

    name: ClassVar[str] = "random_labels"
    num_classes: int = hyper(4, help="number of classes k", ge=2)
    dim: int = hyper(24, help="number of features d", ge=1)
    samples: int = hyper(40, help="number of samples n, at least one a class", ge=2)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < self.num_classes:
            raise BadInput(
                f"dataset.samples={self.samples}: must be >= dataset.num_classes={self.num_classes},"
                " so that every class is present"
            )

    def shape(self) -> tuple[int, int]:
        return self.samples, self.dim

    def draws(self) -> Draws:
        """``samples`` samples, in random order of their labels."""
        rng = np.random.RandomState(self.seed)
        x = rng.randn(self.samples, self.dim)
        extra = self.samples - self.num_classes
        y = np.concatenate([np.arange(self.num_classes), rng.randint(self.num_classes, size=extra)])
        rng.shuffle(y)

        def more(rng: np.random.RandomState, count: int) -> Samples:
            return rng.randn(count, self.dim), rng.randint(self.num_classes, size=count)

        return Draws(x, y, self.num_classes, more)
