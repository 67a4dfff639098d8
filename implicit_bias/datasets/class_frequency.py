"""Classes of unequal frequency: which are learned first?"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from implicit_bias.core.errors import BadInput
from implicit_bias.core.registry import hyper
from implicit_bias.datasets.base import DATASETS
from implicit_bias.datasets.synthetic import Draws, Samples, Synthetic


@DATASETS.register
@dataclass(frozen=True)
class ClassFrequency(Synthetic):
    """Classes of unequal frequency, falling as 1/c or in groups of halving frequency, on inputs that do not favour any.

    With ``law=inverse`` class c = 1, ..., k has n_c = round(rarest k / c) samples. With ``law=halving`` there are k = 2^m - 1
    classes in m groups; group g = 0, ..., m - 1 has 2^g classes of rarest 2^(m - 1 - g) samples each, so that all groups have
    as many samples (Kunstner, Yadav, Milligan, Schmidt and Bietti, arXiv:2402.19449, with rarest 2). Classes are labelled from
    the most frequent to the rarest.

    Features are, without ``dim``, one-hot: feature c of a sample of class c is 1, the others 0, plus
    ``noise * rng.randn(n, k)`` where noise > 0; without noise nothing is random. With ``dim`` they are uniform in [0, 1],
    ``rng.uniform(size=(n, dim))``, and say nothing about the class: separable only if dim is large, a test is passed by chance.
    ``rng`` is ``numpy.random.RandomState(seed)``, samples are class by class. A test sample has the class of a training sample
    that is drawn, ``y[rng.randint(n, size=m)]``, and features likewise.
    """

    name: ClassVar[str] = "class_frequency"
    num_classes: int = hyper(64, help="number of classes k; 2^m - 1 with law=halving", ge=2)
    law: str = hyper(
        "inverse",
        help="inverse: frequency 1/c; halving: groups of 1, 2, 4, ... classes of halving frequency",
        choices=("inverse", "halving"),
    )
    rarest: int = hyper(1, help="samples of the rarest class", ge=1)
    dim: int | None = hyper(None, help="features, uniform in [0, 1]; null for one-hot inputs, a feature a class", ge=1)
    noise: float = hyper(0.0, help="standard deviation of noise on one-hot inputs", ge=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.law == "halving" and self.num_classes & (self.num_classes + 1):
            raise BadInput(
                f"dataset.num_classes={self.num_classes}: must be 2^m - 1 (3, 7, 15, 31, 63, ...) for dataset.law=halving"
            )
        if self.dim is not None and self.noise:
            raise BadInput(f"dataset.noise={self.noise:g}: must be 0 with dataset.dim, or dataset.dim null for one-hot inputs")

    def shape(self) -> tuple[int, int]:
        groups = self.num_classes.bit_length()
        samples = self.rarest * (self.num_classes if self.law == "inverse" else groups << (groups - 1))
        return samples, self.dim or self.num_classes

    def counts(self) -> NDArray[np.int64]:
        """n_c, (k,)."""
        if self.law == "inverse":
            return np.rint(self.rarest * self.num_classes / np.arange(1, self.num_classes + 1)).astype(np.int64)
        groups = self.num_classes.bit_length()
        sizes = [self.rarest << (groups - 1 - group) for group in range(groups)]
        return np.repeat(np.array(sizes, dtype=np.int64), [1 << group for group in range(groups)])

    def draws(self) -> Draws:
        """The samples, class by class."""
        y = np.repeat(np.arange(self.num_classes), self.counts())
        x = self._features(np.random.RandomState(self.seed), y)

        def more(rng: np.random.RandomState, count: int) -> Samples:
            labels = y[rng.randint(len(y), size=count)]
            return self._features(rng, labels), labels

        return Draws(x, y, self.num_classes, more)

    def _features(self, rng: np.random.RandomState, y: NDArray[np.int64]) -> NDArray[np.float64]:
        if self.dim is not None:
            return rng.uniform(size=(len(y), self.dim))
        x: NDArray[np.float64] = np.zeros((len(y), self.num_classes))
        x[np.arange(len(y)), y] = 1.0
        return x + self.noise * rng.randn(*x.shape) if self.noise else x
