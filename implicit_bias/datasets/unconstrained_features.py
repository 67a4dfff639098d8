"""Samples that are unit vectors of their own, so that a first layer gives each of them any features."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from implicit_bias.core.registry import hyper
from implicit_bias.datasets.base import DATASETS, Dataset, DatasetSource, checked_dataset
from implicit_bias.datasets.rotation import rotated, rotation_key, rotation_numbers


@DATASETS.register
@dataclass(frozen=True)
class UnconstrainedFeatures(DatasetSource):
    """Identity inputs in balanced classes: the first layer of a network is a table of free features.

    Sample i is the i-th unit vector of R^n, n = num_classes samples_per_class, class by class, so that W_1 x_i is column i of
    W_1: the unconstrained features model of neural collapse (Mixon, Parshall and Pi, arXiv 2011.11619; Fang, He, Long and Su,
    arXiv 2101.12699). The maximum margins of deep linear networks on them are known (:mod:`implicit_bias.solvers.formulas`).
    Nothing is drawn but a rotation of the features.
    """

    name: ClassVar[str] = "unconstrained_features"
    num_classes: int = hyper(4, help="number of classes k", ge=2)
    samples_per_class: int = hyper(3, help="samples of each class", ge=1)
    rotate: int | None = rotation_key()

    def numbers(self) -> int:
        samples = self.num_classes * self.samples_per_class
        return samples * samples + (0 if self.rotate is None else rotation_numbers(samples))

    def load(self) -> Dataset:
        """The unit vectors, class by class."""
        y = np.repeat(np.arange(self.num_classes), self.samples_per_class)
        x = np.eye(len(y))
        if self.rotate is not None:
            (x,) = rotated([x], self.rotate)
        return checked_dataset(x, y, self.num_classes, origin=f"dataset={self.name}")
