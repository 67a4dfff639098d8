"""Addition modulo an integer, the whole table."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from implicit_bias.core.registry import hyper
from implicit_bias.datasets.base import DATASETS, Dataset, DatasetSource, checked_dataset


@DATASETS.register
@dataclass(frozen=True)
class ModularAddition(DatasetSource):
    """All p^2 pairs (a, b), labelled a + b mod p; features are the unit vectors of a and of b, side by side.

    Pairs are in the order (0, 0), (0, 1), ..., (p - 1, p - 1). For networks with one hidden layer of quadratic units the maximum
    margin is known (Morwani, Edelman, Oncescu, Zhao and Kakade, arXiv 2311.07568; :mod:`implicit_bias.solvers.formulas`). Nothing
    is drawn.
    """

    name: ClassVar[str] = "modular_addition"
    modulus: int = hyper(7, help="p, the number of classes", ge=2)

    def numbers(self) -> int:
        return 2 * self.modulus**3

    def load(self) -> Dataset:
        """The p^2 pairs."""
        p = self.modulus
        a, b = np.divmod(np.arange(p * p), p)
        unit = np.eye(p)
        return checked_dataset(np.hstack([unit[a], unit[b]]), (a + b) % p, p, origin=f"dataset={self.name}")
