"""Labels from a sparse two-layer network: the teacher-student data of Tsilivis et al. (arXiv:2410.22069)."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from implicit_bias.core.errors import BadInput
from implicit_bias.core.registry import hyper
from implicit_bias.datasets.base import DATASETS
from implicit_bias.datasets.synthetic import Draws, Synthetic


@dataclass(frozen=True, eq=False)
class Teacher:
    """``neurons`` ReLU neurons w_j with ``active`` non-zero weights each, and an output weight u_j of each.

    ``positions`` and ``weights`` (neurons, active): where w_j is not zero, and its values there. ``signs`` (neurons,): u_j.
    """

    positions: NDArray[np.intp]
    weights: NDArray[np.float64]
    signs: NDArray[np.float64]

    def scores(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """sum_j u_j relu(w_j . x) of each sample, (n, d) to (n,)."""
        total = np.zeros(len(x))
        for position, weight, sign in zip(self.positions, self.weights, self.signs, strict=True):
            # Sums within a row, not a matrix product: a score must not depend on how many samples there are.
            total += sign * np.maximum((x[:, position] * weight).sum(axis=1), 0.0)
        return total


@DATASETS.register
@dataclass(frozen=True)
class TeacherStudent(Synthetic):
    """Gaussian features labelled by a random two-layer ReLU network with sparse neurons, two classes.

    From the teacher-student experiments of Tsilivis, Gronich, Vardi and Kempe, "Flavors of Margin" (arXiv:2410.22069).
    The paper prints d = 2^32, which cannot be (250 samples would fill more than 8 TB); 2048 is inferred from the density of the
    teacher's weights that it prints.

    With ``rng = numpy.random.RandomState(seed)``, neuron by neuron: ``rng.choice(dim, active, replace=False)`` are the
    positions of its non-zero weights, then ``rng.randn(active)`` their values. Then
    ``u = 2 * rng.randint(2, size=neurons) - 1``, and ``x = rng.randn(samples + test_samples, dim)``, training samples
    first, so that these do not depend on ``test_samples``. The label is 1 where sum_j u_j relu(w_j . x) > 0, else 0.
    """

    name: ClassVar[str] = "teacher_student"
    dim: int = hyper(2048, help="number of features d", ge=1)
    samples: int = hyper(250, help="number of training samples", ge=2)
    neurons: int = hyper(64, help="neurons of the teacher", ge=1)
    active: int = hyper(3, help="non-zero weights of each neuron", ge=1)
    _: KW_ONLY
    test_samples: int = hyper(2000, help="further samples, on which nothing is trained", ge=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.active > self.dim:
            raise BadInput(f"dataset.active={self.active}: must be <= dataset.dim={self.dim}")

    def shape(self) -> tuple[int, int]:
        return self.samples, self.dim

    def numbers(self) -> int:
        return super().numbers() + self.neurons * self.active

    def draws(self) -> Draws:
        """``samples`` training samples, in the order they were drawn."""
        rng = np.random.RandomState(self.seed)
        teacher = random_teacher(rng, self.neurons, self.active, self.dim)
        x = rng.randn(self.samples + self.test_samples, self.dim)
        y = (teacher.scores(x) > 0).astype(np.int64)
        n = self.samples
        if len(np.unique(y[:n])) < 2:
            raise BadInput(
                f"dataset.seed={self.seed}: all {n} training samples are of class {y[0]};"
                " must be one that draws both classes, or dataset.samples larger"
            )
        # The recipe draws the test samples after those for training, from the same generator.
        return Draws(x[:n], y[:n], 2, lambda rng, count: (x[n:], y[n:]))


def random_teacher(rng: np.random.RandomState, neurons: int, active: int, dim: int) -> Teacher:
    """The teacher that ``rng`` draws, in the order that :class:`TeacherStudent` states."""
    drawn = [(rng.choice(dim, active, replace=False), rng.randn(active)) for _ in range(neurons)]
    signs = (2 * rng.randint(2, size=neurons) - 1).astype(np.float64)
    return Teacher(np.array([p for p, _ in drawn]), np.array([w for _, w in drawn]), signs)
