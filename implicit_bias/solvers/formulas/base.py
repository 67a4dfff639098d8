"""What a closed form is: data and a network whose maximum margin is known in some norms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from implicit_bias.models import Model
from implicit_bias.norms import Norm

#: The maximum margin in a norm, None where it is not known in that one.
Margin = Callable[[Norm], float | None]


@dataclass(frozen=True)
class KnownOptimum:
    """A maximum margin by formula: what a :class:`implicit_bias.solvers.reference.Reference` says, without a separator.

    Attributes:
        norm: Label of the norm.
        lower: gamma*, upper: the same.
        solver: Which formula it is by.
    """

    norm: str
    lower: float
    upper: float
    solver: str
    separator: None = None
    weights: None = None
    seconds: float = 0.0
    late: bool = False
    proven: bool = True


class Formula(ABC):
    """A family of data and networks whose maximum margins are known."""

    name: ClassVar[str]
    #: What it needs, as one types it.
    needs: ClassVar[str]
    #: Labels of the norms in which it knows the maximum, in words.
    norms: ClassVar[str]

    @abstractmethod
    def margin(self, model: Model, x: NDArray[np.float64], y: NDArray[np.int64], num_classes: int) -> Margin | None:
        """The maximum margin max q(theta) / N(theta)^L over all theta of the model, by norm N.

        Args:
            model: The network, with its keys.
            x: Samples (n, d).
            y: Labels (n,).
            num_classes: k.

        Returns:
            The function that gives it; None where model or data are none of this family.
        """
