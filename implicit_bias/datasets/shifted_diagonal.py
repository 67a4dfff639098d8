"""One large feature a sample and a small shift of all others: data on which single samples and the full batch agree."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from implicit_bias.core.registry import hyper
from implicit_bias.datasets.base import DATASETS
from implicit_bias.datasets.synthetic import Draws, Samples, Synthetic, in_turn


@DATASETS.register
@dataclass(frozen=True)
class ShiftedDiagonal(Synthetic):
    """A diagonal matrix plus a constant, two classes: sample i is large in feature i, and equal in all others.

    The shifted diagonal data of Baek, Song and Yun (arXiv:2510.26303), on which Adam tends to the max-norm margin with single
    samples, too. Sample i is plus (class 1) or minus (class 0) the vector with a_i in feature i and ``shift`` in every other;
    classes are 0, 1, 0, 1, ... in turn. The largest l2 margin uses the sizes a_i, that of the max-norm hardly.

    With ``rng = numpy.random.RandomState(seed)``: ``a = exp(rng.uniform(-spread, spread, d))``. Test samples are
    i = 0, ..., d - 1 in turn, of sizes that are drawn likewise, and of the class of training sample i.
    """

    name: ClassVar[str] = "shifted_diagonal"
    dim: int = hyper(10, help="number of training samples, and of features", ge=2)
    shift: float = hyper(0.05, help="every other feature of a sample", ge=0)
    spread: float = hyper(0.7, help="the large features are between e^-spread and e^spread", ge=0, le=200)

    def shape(self) -> tuple[int, int]:
        return self.dim, self.dim

    def draws(self) -> Draws:
        """``dim`` samples, one a feature."""
        x, y = self._samples(np.random.RandomState(self.seed), self.dim)
        return Draws(x, y, 2, self._samples)

    def _samples(self, rng: np.random.RandomState, count: int) -> Samples:
        large = in_turn(self.dim, count)
        x: NDArray[np.float64] = np.full((count, self.dim), self.shift)
        x[np.arange(count), large] = np.exp(rng.uniform(-self.spread, self.spread, count))
        labels = in_turn(2, self.dim)[large]
        return x * (2.0 * labels - 1)[:, None], labels
