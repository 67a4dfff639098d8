"""Random signs of one size a sample: data on which the steps of single samples forget the features' units."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from implicit_bias.core.errors import BadInput
from implicit_bias.core.registry import hyper
from implicit_bias.datasets.base import DATASETS
from implicit_bias.datasets.synthetic import Draws, Samples, Synthetic, in_turn


@DATASETS.register
@dataclass(frozen=True)
class ScaledRademacher(Synthetic):
    """Random signs times one size a sample: all features of a sample are equal in absolute value.

    The scaled Rademacher data of Baek, Song and Yun (arXiv:2510.26303), on which Adam with single samples tends to the l2
    margin. Labels are 0, 1, ..., k - 1 in turn, so that the features say nothing about them: separable only if the dimension
    is large, and a test is passed by chance.

    With ``rng = numpy.random.RandomState(seed)``: ``sizes = exp(rng.uniform(-spread, spread, n))``, then
    ``x = sizes[:, None] * (2 * rng.randint(2, size=(n, d)) - 1)``. Test samples likewise.
    """

    name: ClassVar[str] = "scaled_rademacher"
    num_classes: int = hyper(2, help="number of classes k", ge=2)
    dim: int = hyper(50, help="number of features d", ge=1)
    samples: int = hyper(10, help="number of training samples n, at least one a class", ge=2)
    spread: float = hyper(0.7, help="sizes of samples are between e^-spread and e^spread", ge=0, le=200)

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
        """``samples`` samples, their labels in turn."""
        x = self._signs(np.random.RandomState(self.seed), self.samples)

        def more(rng: np.random.RandomState, count: int) -> Samples:
            return self._signs(rng, count), in_turn(self.num_classes, count)

        return Draws(x, in_turn(self.num_classes, self.samples), self.num_classes, more)

    def _signs(self, rng: np.random.RandomState, count: int) -> NDArray[np.float64]:
        sizes = np.exp(rng.uniform(-self.spread, self.spread, count))
        return sizes[:, None] * (2 * rng.randint(2, size=(count, self.dim)) - 1)
