"""The small sets of real measurements that come with scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from implicit_bias.core.registry import hyper
from implicit_bias.datasets.base import DATASETS, Dataset, checked_dataset
from implicit_bias.datasets.prepared import Prepared

#: Sets by name, and the function of ``sklearn.datasets`` that reads each.
LOADERS = {"iris": "load_iris", "wine": "load_wine", "breast_cancer": "load_breast_cancer", "digits": "load_digits"}


@DATASETS.register
@dataclass(frozen=True)
class ScikitLearn(Prepared):
    """A set of scikit-learn: iris, wine, breast_cancer or digits, no download.

    They have 150 x 4, 178 x 13, 569 x 30 and 1,797 x 64 numbers, which are taken as they are, and classes are called as
    scikit-learn calls them. ``dataset.name=wine`` says the same as ``dataset.set=wine``. A linear model separates wine, digits
    and the raw breast_cancer, but not iris: with ``bias=true`` one sample stands in the way.
    """

    name: ClassVar[str] = "sklearn"
    set: str = hyper("wine", help="which set", choices=tuple(LOADERS))

    def load(self) -> Dataset:
        """The samples, in scikit-learn's order."""
        import sklearn.datasets  # takes half a second, and hardly another dataset needs it

        bunch = getattr(sklearn.datasets, LOADERS[self.set])()
        names = tuple(map(str, bunch.target_names))
        origin = f"dataset={self.name} dataset.name={self.set}"
        dataset = checked_dataset(np.asarray(bunch.data), np.asarray(bunch.target), len(names), origin=origin)
        return self.prepared(replace(dataset, names=names, origin=origin), list(map(str, bunch.feature_names)))
