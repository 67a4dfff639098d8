"""Averages over the steps of a trajectory that forget polynomially."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

# In the average the j-th that was taken has a weight of about j^AVERAGE_POWER: early ones, which are far from optimal, fade
# polynomially (Shamir and Zhang, arXiv 1212.1824, polynomial-decay averaging).
AVERAGE_POWER = 3
# Neighbouring steps have nearly the same weights: beyond the first steps, one in four is enough for the average.
AVERAGE_ALL, AVERAGE_EVERY = 100, 4


@dataclass
class StepAverage:
    """a_j = a_{j-1} + (p + 1) / (j + p) (new_j - a_{j-1}), p = AVERAGE_POWER, over the steps 0, 1, ... that it wants.

    Attributes:
        value: The average, tensors by name; empty before anything was taken in.
        count: How many were taken in.
    """

    value: dict[str, Tensor] = field(default_factory=dict)
    count: int = 0

    @staticmethod
    def wants(t: int) -> bool:
        """Whether step t goes into the average.

        Args:
            t: The step.

        Returns:
            The truth value.
        """
        return t <= AVERAGE_ALL or t % AVERAGE_EVERY == 0

    @staticmethod
    def wanted(t: int) -> int:
        """How many of the steps 0, ..., t go into the average.

        Args:
            t: The last step.

        Returns:
            The number of steps.
        """
        if t < 0:
            return 0
        return t + 1 if t <= AVERAGE_ALL else AVERAGE_ALL + 1 + t // AVERAGE_EVERY - AVERAGE_ALL // AVERAGE_EVERY

    @staticmethod
    def share(count: int) -> float:
        """The weight in the average of the step that is the ``count``-th to go into it.

        Args:
            count: From 1 on.

        Returns:
            The weight, in (0, 1].
        """
        return (AVERAGE_POWER + 1) / (count + AVERAGE_POWER)

    def has(self, t: int) -> bool:
        """Whether step t, which it wants, is in it already.

        Args:
            t: The step.

        Returns:
            The truth value.
        """
        return self.count >= self.wanted(t)

    def shares(self, looks: range) -> NDArray[np.float64]:
        """The weights of steps in an average that takes them in turn; 0 of those that it does not want, or has already.

        Args:
            looks: The steps, one after the other: all that it wants up to the last of them, and has not yet.

        Returns:
            The weights, each in [0, 1].
        """
        steps = np.arange(looks.start, looks.stop)
        early = steps <= AVERAGE_ALL
        counts = np.where(early, steps + 1, AVERAGE_ALL + 1 + steps // AVERAGE_EVERY - AVERAGE_ALL // AVERAGE_EVERY)
        taken = (early | (steps % AVERAGE_EVERY == 0)) & (counts > self.count)
        return np.where(taken, (AVERAGE_POWER + 1) / (counts + AVERAGE_POWER), 0.0)

    def add(self, new: Mapping[str, Tensor]) -> None:
        """Add the next step to the average.

        Args:
            new: Tensors by name, the same names and shapes every time.
        """
        self.count += 1
        share = self.share(self.count)
        self.value = {n: b.lerp(new[n], share) for n, b in self.value.items()} if self.value else dict(new)
