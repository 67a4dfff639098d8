"""What an optimizer is: a pure map (state, gradient, t) -> (state, step) on scaled gradients, with a norm of its own.

Conventions, everywhere: momentum is the exponential moving average m_t = beta m_{t-1} + (1 - beta) g_t from m_0 = 0; steps are
subtracted, theta_t = theta_{t-1} - eta_t step_t; t counts from 1. Hyper-parameters may be tensors of shape (R, 1, 1).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from implicit_bias.norms import Norm, ParameterNorm, make_norm, over_blocks
from implicit_bias.registry import Registry
from implicit_bias.scaled import Scaled

OPTIMIZERS = Registry("implicit_bias.optimizers", "optimizer")

Number = Any  # float, or a tensor of shape (R, 1, 1) when runs of one batch differ in it
Blocks = Mapping[str, Scaled]
#: Named buffers, each a scaled tensor a block; a step never changes the buffers it was given.
State = dict[str, dict[str, Scaled]]


class Step(NamedTuple):
    """theta <- theta - eta * exp(log_size) * direction.

    Attributes:
        direction: One tensor of shape (R, p, q) a block.
        log_size: (R, 1, 1), or None for 0: a normalised method.
    """

    direction: dict[str, Tensor]
    log_size: Tensor | None = None


@dataclass(frozen=True)
class Optimizer(ABC):
    """An optimizer; its fields are its hyper-parameters."""

    name: ClassVar[str]
    #: The norm whose margin it maximises; None when it is steepest descent in the norm that the user names.
    own_norm: ClassVar[str | None] = None
    #: True when the step has norm eta whatever the gradient's size.
    normalised: ClassVar[bool] = True
    #: Names of the buffers.
    buffers: ClassVar[tuple[str, ...]] = ()

    @property
    def own(self) -> str | None:
        """The label of the norm whose margin it maximises, hyper-parameters included."""
        return self.own_norm

    @property
    def unit(self) -> float:
        """The length in its own norm of a step with learning rate one, if it is a normalised method."""
        return 1.0

    def geometry(
        self,
        names: Sequence[str],
        norm: Norm | None,
        row_bases: Mapping[str, Tensor] | None = None,
        hidden: Sequence[str] | None = None,
    ) -> ParameterNorm:
        """The norm on the parameter set that the optimizer works in (``norm`` counts only where ``own_norm`` is None).

        Args:
            names: The blocks.
            norm: What the user named.
            row_bases: As in :func:`implicit_bias.norms.over_blocks`.
            hidden: The matrices of hidden layers, Muon's part in a hybrid; None for all blocks.
        """
        chosen = make_norm(self.own) if self.own else norm or make_norm("l2")
        return over_blocks(chosen, names, row_bases, hidden)

    def init(self, gradient: Blocks) -> State:
        """Zero buffers in the shape and scale layout of ``gradient``."""
        return {
            buffer: {
                name: Scaled.zeros(g.mantissa, per_entry=g.log_scale.shape[-1] == g.mantissa.shape[-1])
                for name, g in gradient.items()
            }
            for buffer in self.buffers
        }

    @abstractmethod
    def update(self, state: State, gradient: Blocks, t: int, norm: ParameterNorm) -> tuple[State, Step]:
        """The t-th step from the gradient at theta_{t-1}."""


def steepest(gradient: Blocks, norm: ParameterNorm) -> Step:
    """Unnormalised steepest descent: N_*(g) direction(g), the minimiser of <g, step> + N(step)^2 / 2 up to sign."""
    log_unit = torch.stack([g.log_scale.amax(dim=(-2, -1), keepdim=True) for g in gradient.values()]).amax(dim=0)
    unit = torch.where(torch.isfinite(log_unit), log_unit, torch.zeros_like(log_unit))
    plain = {name: g.relative_to(unit) for name, g in gradient.items()}
    return Step(norm.scaled_direction(gradient), norm.dual(plain)[:, None, None].log() + unit)
