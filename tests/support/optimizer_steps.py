"""One step of an optimizer as the engine takes it, for tests of the rules alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from implicit_bias.core.scaled import Scaled
from implicit_bias.norms import ParameterNorm
from implicit_bias.optimizers import Here, Optimizer, Step
from implicit_bias.schedules import Evaluated


def nowhere_else(parameters: Mapping[str, Tensor]) -> Any:
    raise AssertionError("a made-up gradient is known at one point only")


def here_with(gradient: Mapping[str, Scaled], parameters: Mapping[str, Tensor] | None = None, lr: Any = 1.0) -> Here:
    """A place with this gradient; at the parameters 0, with log loss 0, unless told otherwise."""
    first = next(iter(gradient.values())).mantissa
    at = {name: torch.zeros_like(g.mantissa) for name, g in gradient.items()} if parameters is None else parameters
    log_lr = torch.as_tensor(lr, dtype=first.dtype).log()
    return Here(at, nowhere_else, log_lr, Evaluated(gradient, first.new_zeros(len(first))))


def step_with(
    optimizer: Optimizer,
    state: Any,
    gradient: Mapping[str, Scaled],
    t: int,
    norm: ParameterNorm,
    parameters: Mapping[str, Tensor] | None = None,
    lr: Any = 1.0,
) -> tuple[Any, Step]:
    """The t-th step from a gradient, by what the engine calls."""
    return optimizer.step_from(state, here_with(gradient, parameters, lr), t, norm)
