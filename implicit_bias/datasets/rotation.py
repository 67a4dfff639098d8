"""A random rotation of features, with the same bits for a sample whatever samples are beside it, on any number of threads."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from implicit_bias.core.registry import hyper
from implicit_bias.datasets.base import MAX_SEED

# Samples that are turned at a time: they stay in the cache while all reflections pass over them.
ROWS = 128


def rotated(parts: Sequence[NDArray[np.float64]], seed: int) -> list[NDArray[np.float64]]:
    """Every sample x of all ``parts``, each (n, d), as Q x: Q orthogonal, by Haar's measure, the same for all of them.

    Q is a product of reflections (Stewart, SIAM Journal on Numerical Analysis 17, 1980). With
    ``rng = numpy.random.RandomState([seed, 2])``, for m = 1, ..., d: ``g = rng.randn(m)``, and Q_m = H diag(-s, Q_(m-1)) acts on
    the last m features, where s is the sign of g[0] and H the reflection along g + s |g| e_1. So Q_m e_1 = g / |g|.
    """
    dim = parts[0].shape[1]
    # A stream of its own: with that of a dataset's own seed the rotation would be made of the numbers that the samples are.
    rng = np.random.RandomState([seed, 2])
    draws = [rng.randn(m) for m in range(1, dim + 1)]
    return [_turned(part, draws) for part in parts]


def rotation_key() -> Any:
    """The declaration of the field ``rotate`` of a dataset."""
    told = "seed of a random rotation of the features, in training and test alike; null for none"
    return hyper(None, help=told, ge=0, le=MAX_SEED)


def rotation_numbers(dim: int) -> int:
    """How many doubles a rotation of ``dim`` features holds beside the samples."""
    return dim * (dim + 1) // 2


def _turned(x: NDArray[np.float64], draws: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    turned = np.array(x, dtype=np.float64, order="C")
    for first in range(0, len(turned), ROWS):
        block = turned[first : first + ROWS]
        for g in draws:
            _reflect(block[:, -len(g) :], g)
    return turned


def _reflect(tail: NDArray[np.float64], g: NDArray[np.float64]) -> None:
    """Apply H diag(-s, 1) to the last m features, in place."""
    sign = -1.0 if g[0] < 0 else 1.0
    tail[:, 0] *= -sign
    along = g / np.sqrt((g * g).sum())
    along[0] += sign
    # Sums within a row: the bits of a matrix product depend on the numbers of samples and of threads. |along|^2 is 2 |along[0]|.
    share = np.einsum("ij,j->i", tail, along) / abs(along[0])
    tail -= share[:, None] * along
