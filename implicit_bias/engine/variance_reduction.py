"""Variance reduction: steps by mini-batches whose gradients are right on average and, late in an epoch too, nearly exact (SVRG).

The t-th update is made from

    grad L_B(theta) - grad L_B(anchor) + grad L(anchor)

in place of grad L_B(theta), B its batch and L the mean loss of all samples. The anchor (the snapshot of Johnson and Zhang,
NIPS 2013) is where the parameters were fewer than ceil(n / b) updates ago: it is renewed at the updates 1, 1 + ceil(n / b), ...,
which are made from grad L itself. Any optimizer takes the result for its gradient; what looks at another point within a step
(``here.at``) gets it there. A batch of all samples has the full gradient.

The three terms may be of any size: their sum is made in a common scale a row, or an entry where gradients have that
(:mod:`implicit_bias.core.scaled`), to the rounding of the largest of them. It is the gradient of no loss that could be told: a
schedule or an optimizer that reads the loss is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal

from torch import Tensor

from implicit_bias.core.scaled import Scaled, combine
from implicit_bias.models import Parameters
from implicit_bias.schedules.base import Evaluation

VarianceReduction = Literal["none", "svrg"]
#: Loss and gradient at a point.
Evaluate = Callable[[Mapping[str, Tensor]], Evaluation]


@dataclass(frozen=True)
class Anchor:
    """The point that gradients of batches are corrected by.

    Attributes:
        since: The updates made before it was taken.
        parameters: The parameters there, one tensor (R, p, q) a block.
        evaluate: Loss and gradient of all samples.
    """

    since: int
    parameters: Parameters
    evaluate: Evaluate

    @cached_property
    def mean(self) -> Mapping[str, Scaled]:
        """The gradient of all samples there, a scaled tensor a block; evaluated when it is first asked for."""
        return self.evaluate(self.parameters).blocks

    def of(self, runs: Tensor, evaluate: Evaluate) -> Anchor:
        """The same of some runs, whose loss and gradient ``evaluate`` gives."""
        return Anchor(self.since, {name: block[runs] for name, block in self.parameters.items()}, evaluate)


@dataclass(frozen=True)
class Reduced:
    """A variance-reduced gradient.

    Attributes:
        blocks: A scaled tensor (R, p, q) a block.
    """

    blocks: Mapping[str, Scaled]

    @property
    def log_loss(self) -> Tensor:
        """Raises ValueError: it is the gradient of no loss that there is."""
        raise _no_loss()

    @property
    def weight_over_loss(self) -> Tensor:
        """Raises ValueError, as :attr:`log_loss`."""
        raise _no_loss()

    def per_weight(self) -> Mapping[str, Tensor]:
        """Raises ValueError, as :attr:`log_loss`."""
        raise _no_loss()


def _no_loss() -> ValueError:
    return ValueError("the loss is read, which a variance-reduced gradient has none of; needs plain mini-batches")


def anchor_due(t: int, cadence: int) -> int:
    """After how many updates the anchor of the t-th was taken: the last multiple of ``cadence`` below t.

    Args:
        t: From 1.
        cadence: Updates between two anchors.
    """
    return (t - 1) // cadence * cadence


def reduced(evaluate: Evaluate, anchor: Anchor) -> Evaluate:
    """What a batch's loss and gradient are with their variance reduced.

    Args:
        evaluate: Those of the batch.
        anchor: The point that corrects them; the batch's gradient there is evaluated once, when it is first needed.
    """

    @cache
    def there() -> Mapping[str, Scaled]:
        return evaluate(anchor.parameters).blocks

    def at(parameters: Mapping[str, Tensor]) -> Evaluation:
        here = evaluate(parameters).blocks
        return Reduced({name: _corrected(block, there()[name], anchor.mean[name]) for name, block in here.items()})

    return at


def _corrected(here: Scaled, there: Scaled, mean: Scaled) -> Scaled:
    """here - there + mean; where the first two are equal, the mean."""
    moved = combine(here, Scaled(-there.mantissa, there.log_scale), 1.0, 1.0)
    return combine(moved, mean, 1.0, 1.0)
