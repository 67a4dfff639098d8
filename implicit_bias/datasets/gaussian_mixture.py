"""Gaussian classes around Gaussian means: the data of Fan, Schmidt and Thrampoulidis (arXiv:2502.04664)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from implicit_bias.core.registry import hyper
from implicit_bias.datasets.base import DATASETS
from implicit_bias.datasets.synthetic import Draws, Samples, Synthetic, in_turn


@DATASETS.register
@dataclass(frozen=True)
class GaussianMixture(Synthetic):
    """Gaussian classes, noise times a standard normal around means that are standard normal.

    With ``rng = numpy.random.RandomState(seed)`` and k classes in d dimensions: ``means = rng.randn(k, d)``,
    then class by class ``x_c = (means[c][:, None] + noise * rng.randn(d, samples_per_class)).T``. The order
    of the draws is part of the contract: ``num_classes=10 dim=25 samples_per_class=50 noise=1 seed=1`` is the
    published dataset.

    The labels of the m test samples are 0, 1, ..., k - 1 in turn, the samples ``means[y] + noise * rng.randn(m, d)``.
    """

    name: ClassVar[str] = "gaussian_mixture"
    num_classes: int = hyper(10, help="number of classes k", ge=2)
    dim: int = hyper(25, help="number of features d", ge=1)
    samples_per_class: int = hyper(10, help="samples of each class", ge=1)
    noise: float = hyper(1.0, help="standard deviation within a class", ge=0)

    def shape(self) -> tuple[int, int]:
        return self.num_classes * self.samples_per_class, self.dim

    def draws(self) -> Draws:
        """``num_classes * samples_per_class`` samples, class by class."""
        rng = np.random.RandomState(self.seed)
        means = rng.randn(self.num_classes, self.dim)
        x = np.concatenate([(mean[:, None] + self.noise * rng.randn(self.dim, self.samples_per_class)).T for mean in means])
        y = np.repeat(np.arange(self.num_classes), self.samples_per_class)

        def more(rng: np.random.RandomState, count: int) -> Samples:
            labels = in_turn(self.num_classes, count)
            return means[labels] + self.noise * rng.randn(count, self.dim), labels

        return Draws(x, y, self.num_classes, more)
