"""How far apart two results are, and how far changes of the order of round-off lead."""

from __future__ import annotations

import torch
from torch import Tensor

from implicit_bias.core.scaled import Scaled
from implicit_bias.models import Gradient, Objective, Parameters

# In units of eps: 1e-11 and 1e-13 in double precision.
TOLERANCE, NUDGE = 45_000, 450
# A step may differ by so many times what the nudges change, and parameters by so many round-off units of their own size.
SLACK, ROUNDING = 10, 8
# Two directions, each both ways: what changes sign at zero, or ties with another, does so in one of the two.
DIRECTIONS = 2


def loss_of(gradient: Gradient) -> Scaled:
    log_loss = gradient.log_loss[:, None, None]
    return Scaled(torch.ones_like(log_loss), log_loss)


def rows_apart(one: Scaled, other: Scaled) -> Tensor:
    top = other.log_abs().amax(dim=-1, keepdim=True)
    unit = torch.where(torch.isfinite(top), top, torch.zeros_like(top))
    a, b = one.relative_to(unit), other.relative_to(unit)
    # A logarithm is rounded by its own size.
    rounding = ROUNDING * torch.finfo(a.dtype).eps * unit.abs()
    rows = ((a - b).abs() - rounding).clamp(min=0).amax(dim=-1)
    return ratio(rows, torch.isfinite(top).to(rows).squeeze(-1)).amax(dim=-1)


def losses_apart(one: Gradient, other: Gradient) -> Tensor:
    """The same of log L, (R,), where both are finite or the same."""
    a, b = one.log_loss, other.log_loss
    rounding = ROUNDING * torch.finfo(a.dtype).eps * b.abs()
    return torch.where(a == b, 0.0, ((a - b).expm1().abs() - rounding).clamp(min=0))


def ratio(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(a == 0, torch.zeros_like(a), a / b)


def noise_like(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)


def direction(objective: Objective, here: Parameters, generator: torch.Generator) -> Parameters:
    """A change of the parameters that changes gaps by NUDGE eps, and by as much of the scores' own size."""
    like = next(iter(here.values()))
    noise = {name: noise_like(block, generator) for name, block in here.items()}
    changed = objective.push(here, noise).abs().amax(dim=(-2, -1))[:, None, None]
    unit = 1 / torch.where(changed > 0, changed, torch.ones_like(changed))
    size = NUDGE * torch.finfo(like.dtype).eps
    return {n: size * noise[n] * (unit + block.abs()) for n, block in here.items()}
