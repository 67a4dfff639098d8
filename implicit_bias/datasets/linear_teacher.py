"""Labels from a linear teacher, for certain or by chance, with dense or sparse features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from implicit_bias.core.errors import BadInput
from implicit_bias.core.registry import hyper
from implicit_bias.datasets.base import DATASETS
from implicit_bias.datasets.rotation import rotated
from implicit_bias.datasets.synthetic import Draws, Samples, Synthetic

#: The least share of samples that may have a label where features are sparse.
LEAST_MET = 1e-3


@DATASETS.register
@dataclass(frozen=True)
class LinearTeacher(Synthetic):
    """Gaussian features labelled by a Gaussian direction w of length one, two classes; or random signs by one of signs.

    The label is 1 where <x, w> > 0, else 0; with a ``strength`` rho it is 1 with probability 1 / (1 + exp(-rho <x, w>)).
    Of w and of every sample all but ``teacher_active`` and ``active`` entries are zero. The sparse setting is that of Tsilivis,
    Frank, Srebro and Kempe, "The Price of Implicit Bias in Adversarially Robust Generalization" (arXiv 2406.04981), but for one
    thing: a sample with <x, w> = 0 has no label, and is drawn again, where the paper's program gives it one of the two.

    With ``rng = numpy.random.RandomState(seed)``: ``rng.randn(dim)`` is w before its length is divided by, or
    ``rng.choice(dim, teacher_active, replace=False)`` its positions and ``rng.randn(teacher_active)`` its values. Then come the
    samples: ``rng.randn(n, dim)``, or one by one positions and values as w's; those without a label again, in their order, until
    there are none; with a strength, last, ``rng.rand(n)``, and the label is 1 where that is below the probability. Test samples
    are drawn in the same way. With ``features=signs`` every ``rng.randn(*shape)`` but the last is
    ``2.0 * rng.randint(2, size=shape) - 1``: with an odd ``teacher_active`` the label is the majority of so many of the signs.
    """

    name: ClassVar[str] = "linear_teacher"
    dim: int = hyper(128, help="number of features d", ge=1)
    samples: int = hyper(64, help="number of training samples", ge=2)
    strength: float | None = hyper(None, help="rho of labels by chance, P(1) = 1 / (1 + exp(-rho <x, w>)); null: the sign", gt=0)
    teacher_active: int | None = hyper(None, help="non-zero entries of the teacher; null: all", ge=1)
    active: int | None = hyper(None, help="non-zero entries of each sample; null: all", ge=1)
    features: str = hyper("gaussian", help="what entries are, of samples and teacher; signs: +-1", choices=("gaussian", "signs"))

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("teacher_active", "active"):
            value = getattr(self, key)
            if value is not None and value > self.dim:
                raise BadInput(f"dataset.{key}={value}: must be <= dataset.dim={self.dim}")
        meet = 1 - (1 - (self.teacher_active or self.dim) / self.dim) ** (self.active or self.dim)
        if meet < LEAST_MET:
            raise BadInput(
                f"dataset.active={self.active}: one sample in {1 / meet:.0f} has a feature in common with the teacher;"
                f" must be one in {1 / LEAST_MET:.0f} at least, or dataset.teacher_active larger"
            )

    def shape(self) -> tuple[int, int]:
        return self.samples, self.dim

    def teacher(self) -> NDArray[np.float64]:
        """w, (dim,), of length one, rotated with the features."""
        w = self._teacher(np.random.RandomState(self.seed))
        return w if self.rotate is None else rotated([w[None]], self.rotate)[0][0]

    def draws(self) -> Draws:
        """The samples, in the order they were drawn."""
        rng = np.random.RandomState(self.seed)
        teacher = self._teacher(rng)
        x, y = self._drawn(rng, self.samples, teacher)
        if len(np.unique(y)) < 2:
            raise BadInput(
                f"dataset.seed={self.seed}: all {self.samples} training samples are of class {y[0]};"
                " must be one that draws both classes, or dataset.samples larger"
            )
        return Draws(x, y, 2, lambda rng, count: self._drawn(rng, count, teacher))

    def _teacher(self, rng: np.random.RandomState) -> NDArray[np.float64]:
        w = self._rows(rng, 1, self.teacher_active)[0]
        unit: NDArray[np.float64] = w / np.linalg.norm(w)
        return unit

    def _drawn(self, rng: np.random.RandomState, count: int, teacher: NDArray[np.float64]) -> Samples:
        x = self._rows(rng, count, self.active)
        # Sums within a row, not a matrix product: a score must not depend on how many samples there are.
        scores = (x * teacher).sum(axis=1)
        while (ties := scores == 0).any():
            x[ties] = self._rows(rng, int(ties.sum()), self.active)
            scores[ties] = (x[ties] * teacher).sum(axis=1)
        if self.strength is None:
            return x, (scores > 0).astype(np.int64)
        from scipy.special import expit  # here: importing it takes time that not every command has to spend

        return x, (rng.rand(count) < expit(self.strength * scores)).astype(np.int64)

    def _rows(self, rng: np.random.RandomState, count: int, active: int | None) -> NDArray[np.float64]:
        """``count`` random rows, (count, dim), of which all but ``active`` entries are zero."""
        if active is None:
            return self._entries(rng, (count, self.dim))
        rows = np.zeros((count, self.dim))
        for row in rows:
            positions = rng.choice(self.dim, active, replace=False)
            row[positions] = self._entries(rng, (active,))
        return rows

    def _entries(self, rng: np.random.RandomState, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Independent entries of this shape."""
        entries = rng.randn(*shape) if self.features == "gaussian" else 2.0 * rng.randint(2, size=shape) - 1
        return np.asarray(entries, dtype=np.float64)
