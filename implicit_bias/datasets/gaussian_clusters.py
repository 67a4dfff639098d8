"""Gaussian classes whose lengths do not depend on the dimension, with covariances: the data of Kim, Song and Yun."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from implicit_bias.core.registry import hyper
from implicit_bias.datasets.base import DATASETS
from implicit_bias.datasets.synthetic import Draws, Samples, Synthetic, in_turn


@DATASETS.register
@dataclass(frozen=True)
class GaussianClusters(Synthetic):
    """Gaussian classes whose means have length about one, with noise of one size in training and of another in the test.

    The data of Kim, Song and Yun, "From Geometry to Generalization: Why Row Normalization Can Beat Adam and Muon". In d
    dimensions the mean of each class is mu ~ N(0, A / d), a sample mu + noise z with z ~ N(0, S / d), S = (1 - aligned) I +
    aligned A. A is diagonal with entries a_j proportional to j^-decay, of mean one: with decay 0 all is isotropic, with
    aligned 1 the noise is largest where the means differ most. (The paper's own diagonal is not known here.)

    With ``rng = numpy.random.RandomState(seed)``: ``means = sqrt(a / d) * rng.randn(k, d)``, then
    ``x = means[y] + noise * sqrt(s / d) * rng.randn(n, d)``, class by class. The labels of the m test samples are
    0, 1, ..., k - 1 in turn, the samples ``means[y] + test_noise * sqrt(s / d) * rng.randn(m, d)``.
    """

    name: ClassVar[str] = "gaussian_clusters"
    num_classes: int = hyper(60, help="number of classes k", ge=2)
    dim: int = hyper(20, help="number of features d", ge=1)
    samples_per_class: int = hyper(3, help="samples of each class", ge=1)
    noise: float = hyper(0.2236, help="length of the noise within a class, about, the means having length one", ge=0)
    test_noise: float = hyper(2.2361, help="the same of the test samples", ge=0)
    decay: float = hyper(0.0, help="the means' variances are proportional to j^-decay in feature j = 1, 2, ...", ge=0)
    aligned: float = hyper(
        0.0, help="the noise's variances are this share of the means' and the rest equal in all features", ge=0, le=1
    )

    def shape(self) -> tuple[int, int]:
        return self.num_classes * self.samples_per_class, self.dim

    def variances(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The diagonals of A and S, (d,) each, of mean one."""
        profile = np.arange(1, self.dim + 1, dtype=np.float64) ** -self.decay
        means = profile * (self.dim / profile.sum())
        return means, 1 - self.aligned + self.aligned * means

    def means(self, rng: np.random.RandomState) -> NDArray[np.float64]:
        """The class means (k, d), the first that ``rng`` draws."""
        return np.sqrt(self.variances()[0] / self.dim) * rng.randn(self.num_classes, self.dim)

    def draws(self) -> Draws:
        """``num_classes * samples_per_class`` samples, class by class."""
        rng = np.random.RandomState(self.seed)
        means, scale = self.means(rng), np.sqrt(self.variances()[1] / self.dim)
        y = np.repeat(np.arange(self.num_classes), self.samples_per_class)
        x = means[y] + self.noise * scale * rng.randn(len(y), self.dim)

        def more(rng: np.random.RandomState, count: int) -> Samples:
            labels = in_turn(self.num_classes, count)
            return means[labels] + self.test_noise * scale * rng.randn(count, self.dim), labels

        return Draws(x, y, self.num_classes, more)
