"""The data on which AdaBoost cycles, and does not maximise the margin."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from implicit_bias.datasets.base import DATASETS, Dataset, DatasetSource, checked_dataset

#: M_ij = y_i h_j(x_i): whether classifier j is right on sample i.
MATRIX = np.array(
    [
        [-1, 1, 1, 1, 1, -1, -1, 1],
        [-1, 1, 1, -1, -1, 1, 1, 1],
        [1, -1, 1, 1, 1, -1, 1, 1],
        [1, -1, 1, 1, -1, 1, 1, 1],
        [1, -1, 1, -1, 1, 1, 1, -1],
        [1, 1, -1, 1, 1, 1, 1, -1],
        [1, 1, -1, 1, 1, 1, -1, 1],
        [1, 1, 1, 1, -1, -1, 1, -1],
    ],
    dtype=np.float64,
)


@DATASETS.register
@dataclass(frozen=True)
class Rudin(DatasetSource):
    """Eight samples and eight classifiers on which AdaBoost ends at margin 1/3, where 3/8 can be had.

    The matrix M of Rudin, Daubechies and Schapire, "The Dynamics of AdaBoost: Cyclic Behavior and Convergence of Margins" (JMLR
    5, 2004), whose largest l1 margin is 3/8. Labels are 0 and 1 in turn, and the features of a sample are its row of M, with the
    other sign where the label is 0: its gap is <row, w_1 - w_0>. The paper could not be read here: the entries are as
    remembered, and what is said of them, 1/3 and 3/8, is tested.
    """

    name: ClassVar[str] = "rudin"

    def load(self) -> Dataset:
        """The eight samples."""
        y = np.arange(len(MATRIX)) % 2
        return checked_dataset(np.where(y == 1, 1.0, -1.0)[:, None] * MATRIX, y, 2, origin="dataset=rudin")
