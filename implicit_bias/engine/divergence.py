"""When a run has diverged: after every step by two numbers, and at a record in full."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from implicit_bias.engine.trajectory import Diverged
from implicit_bias.models import Gradient, Parameters
from implicit_bias.models.gradient import largest_entry

#: A parameter beyond this, and beyond as many times the largest of the start, is no longer trained: its square is nearly as large
#: as doubles are. Steps of fixed length never come here, whatever the learning rate, nor does growth by a hundredth a step within
#: 20,000 of them; what does come is a step that grows with the loss that it raises.
LARGEST = 1e100
#: Nor is one beyond this, however small the features that make it so large: its square is as large as doubles are.
LAST = 1e150
#: A plain step of a linear model takes some 200 us, and a look at it 20: it is looked at every so many steps.
LINEAR_EVERY = 10
#: Said where numbers that a record needs are none, though parameters and loss are.
BEYOND = "scores or gradients are beyond every double; choose a smaller schedule.lr, or rescale the data or the start"


class Divergence:
    """Tells which runs of a batch have diverged: parameters or loss are no finite numbers, or a parameter exceeds ``LARGEST``.

    A loss that grows is no sign of it. It is exact at any size, and normalised steps come back from any: their path depends on
    the learning rate by its unit alone, where the model is homogeneous.

    Args:
        initial: Where the batch starts, one tensor (R, p, q) a block.
        every: After how many steps it is worth being asked.
        exact: Whether a run diverges at the step that it is found at: it is asked after every step, and sees the loss there.
        features: The largest feature of each run's samples, (R,) or (1,), where scores are linear in them: parameters are in
            units of its inverse, if it is below 1.
    """

    def __init__(self, initial: Parameters, every: int, exact: bool = False, features: Tensor | None = None) -> None:
        self._limit = LARGEST * largest_entry(initial).double().clamp(min=1.0)
        if features is not None:
            self._limit = torch.maximum(self._limit, (LARGEST / features.double()).clamp(max=LAST))
        self._least = float(self._limit.min())
        self._every, self._exact = every, exact

    def due(self, t: int) -> bool:
        """Whether it is to be asked after this step."""
        return t % self._every == 0

    def suspected(self, parameters: Parameters, gradient: Gradient | None) -> bool:
        """Whether it is worth a closer look. Costs two numbers a block, and two of the weights that the gradient is made of.

        Args:
            parameters: One tensor (R, p, q) a block.
            gradient: Of all samples, there; None where it is not evaluated: a loss that is no number mostly leaves
                parameters that are none at the next step, and is found at the next record where it does not.
        """
        looked_at = [*parameters.values(), *([] if gradient is None else [gradient.total])]
        # No number where one of them is none; and brought over from a device together.
        ends = torch.stack([end for numbers in looked_at for end in (numbers.amin(), numbers.amax())]).abs().tolist()
        sizes, weights = ends[: 2 * len(parameters)], ends[2 * len(parameters) :]
        return not (all(size <= self._least for size in sizes) and all(weight < math.inf for weight in weights))

    def check(self, t: int, parameters: Parameters, gradient: Gradient, counted: np.ndarray) -> None:
        """Raises Diverged.

        Args:
            t: The step.
            parameters: One tensor (R, p, q) a block.
            gradient: There.
            counted: Which runs count, (R,): one that has stopped may go where it likes.
        """
        known = gradient.found
        near = not self.suspected(parameters, None) if known is None else bool((known.parameter <= self._limit).all())
        if near and math.isfinite(gradient.log_loss.sum()):
            return
        size = largest_entry(parameters).double() if known is None else known.parameter
        finite = gradient.log_loss.isfinite() & size.isfinite()
        if bool((finite & (size <= self._limit)).all()):
            return
        mine = torch.from_numpy(counted).to(finite.device)
        lost = mine & ~finite
        if bool(lost.any()):
            raise Diverged(_places(lost), t, self._exact)
        beyond = mine & ~(size <= self._limit)
        if bool(beyond.any()):
            raise Diverged(_places(beyond), t, self._exact, float(self._limit[beyond].max()))


def _places(runs: Tensor) -> list[int]:
    return [int(place) for place in runs.nonzero().flatten()]
