"""What theory says of rules on Gaussian clusters: angles, accuracies, and where row and max-norm rules change places.

Means are mu ~ N(0, A / d), noise is N(0, r^2 S / d), S = (1 - lambda) I + lambda A, A diagonal of mean one; g_q is the mean of
its entries to the power q. In high dimension row descent classifies by the class means, max-norm descent by their signs.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from implicit_bias.datasets import Dataset
from implicit_bias.datasets.gaussian_clusters import GaussianClusters
from implicit_bias.datasets.rotation import rotated

#: Angle in degrees between a vector with independent normal entries and its signs, in high dimension: arccos sqrt(2 / pi).
SIGN_ANGLE = math.degrees(math.acos(math.sqrt(2 / math.pi)))


def class_means(source: GaussianClusters) -> NDArray[np.float64]:
    """The means (k, d) that the samples of ``source`` are around, as they are after its rotation."""
    means = source.means(np.random.RandomState(source.seed))
    return means if source.rotate is None else rotated([means], source.rotate)[0]


def mean_angle(rows: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """The mean over c of the angle between row c of two matrices (k, d), in degrees."""
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(others, axis=1)
    return float(np.degrees(np.arccos(np.clip((rows * others).sum(axis=1) / lengths, -1, 1))).mean())


def rule_accuracy(rows: NDArray[np.float64], dataset: Dataset) -> float:
    """The share of the test samples x whose class c has the largest ``rows[c] . x``."""
    assert dataset.x_test is not None and dataset.y_test is not None
    return float(((dataset.x_test @ rows.T).argmax(axis=1) == dataset.y_test).mean())


def critical_alignment(variances: NDArray[np.float64]) -> float:
    """lambda_c = (pi / (2 g_(1/2)^2) - 1) / (g_2 - 1) of A's diagonal, (d,) with mean one: above it signs are the better rule.

    There |mu|^4 / (mu S mu) and |mu|_1^2 / tr S, squared signal over noise of the two rules, are equal.
    """
    half, second = np.sqrt(variances).mean(), (variances**2).mean()
    return float((math.pi / (2 * half**2) - 1) / (second - 1))


def crossing(places: NDArray[np.float64], differences: NDArray[np.float64]) -> float:
    """Where a difference at ascending ``places`` first changes from below zero to above, linearly between them; nan: nowhere."""
    for i in range(len(places) - 1):
        low, high = differences[i], differences[i + 1]
        if low <= 0 < high:
            return float(places[i] + (places[i + 1] - places[i]) * -low / (high - low))
    return math.nan
