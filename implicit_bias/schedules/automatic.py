"""What schedule.lr=auto and schedule.power=auto stand for: step sizes in units of the data and the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from implicit_bias.core.errors import BadInput

if TYPE_CHECKING:
    from implicit_bias.norms import Norm

# A step of norm 1 changes a gap by at most B, so the first step, of size c / B, changes gaps by at most c. The gap that is
# left after T steps has a part that falls with c (not enough growth yet) and a part that rises with it (oscillation). The
# second is weak where the direction is a continuous function of the gradient (l2) or moves one entry or one singular pair
# (l1, nuclear); where every entry, row or singular value moves at full size at once and jumps (signs, polar factors), a
# smaller c balances the two. That c should differ follows from this; the values 10 and 6 were measured, on Gaussian mixtures
# of noise 1 and .3.
AUTO_GAP_CHANGE = 10.0
AUTO_GAP_CHANGE_SATURATING = 6.0
# Unnormalised steepest descent moves by eta N_*(g). Along a step of norm 1 the mean loss has curvature at most C B^2 (C as in
# Loss.curvature), and every step lowers the loss for eta < 2 / (C B^2); where plain steps are stable those of momentum are, too.
# C is 1/4 for cross entropy. Steps that decay, or are divided by the loss, need no C.
AUTO_UNNORMALISED = 1.0
AUTO_POWER_LINEAR, AUTO_POWER_NETWORK = 0.5, 0.8
# Steps that shrink with the gradient need no decay on a linear model; with one their sum, and so the margin, hardly grows.
AUTO_POWER_UNNORMALISED = 0.0
# A network's gaps grow like the L-th power of its norm, and steps must be small beside the norm: the theory holds in the flow
# regime. So eta0 is a share of the norm at which the mean gap can be NETWORK_GAP: with power .8 the steps' sizes add up to 5 t^.2
# eta0, some 30 eta0 at 10,000 steps, enough for minimal gaps of 20 to 30 (losses near 1e-10) at degrees from 2 to 4. A larger
# share reaches that sooner, with a worse margin. As for linear models, saturating norms bear half of what others do. The two
# shares and the gap of 100 were fitted once, to learning rates found by hand in a numpy script after Gronich and Vardi's
# figure (squared ReLU and ReLU, l2, linf and spectral).
NETWORK_GAP = 100.0
NETWORK_SHARE = 0.1
NETWORK_SHARE_SATURATING = 0.05


def auto_power(linear: bool, normalised: bool, decay: float = 0.0) -> float:
    """The exponent that ``schedule.power=auto`` stands for, on a linear model or a network, for a method that is normalised
    or not; less by ``decay`` where its steps shrink like t^-decay by themselves."""
    if not linear:
        return max(0.0, AUTO_POWER_NETWORK - decay)
    return max(0.0, AUTO_POWER_LINEAR - decay) if normalised else AUTO_POWER_UNNORMALISED


def auto_lr(unit_step: Tensor, norm: Norm, normalised: bool, curvature: Tensor | float = 0.0) -> Tensor:
    """eta0 in units of the data, one rule for every method, norm and dataset.

    Args:
        unit_step: B = max_ic N_*((e_y - e_c) x_i^T) of each run: a step of norm 1 changes gaps by at most B.
        norm: The method's own norm.
        normalised: Whether the method's steps have norm eta_t (c / B), or eta_t N_*(gradient) (1 / B^2).
        curvature: C of the loss (:meth:`implicit_bias.losses.Loss.curvature`), for unnormalised methods with a constant step:
            that is 1 / B^2 or, where it is less, 1 / (C B^2).

    Raises:
        BadInput: all features are zero, so there is no such unit.
    """
    if bool((unit_step <= 0).any()):
        raise BadInput("schedule.lr=auto: every feature of the data is zero, so steps have no natural size; give a number > 0")
    if not normalised:
        return AUTO_UNNORMALISED / (unit_step**2 * torch.as_tensor(curvature).to(unit_step).clamp(min=1))
    return (AUTO_GAP_CHANGE_SATURATING if norm.saturating else AUTO_GAP_CHANGE) / unit_step


def auto_network_lr(unit_step: Tensor, degree: float, norm: Norm, normalised: bool) -> Tensor:
    """eta0 for networks, one rule for every method, norm, architecture and dataset: c (100 / M)^(1/L).

    Args:
        unit_step: B = M^(1/L) of each run, M the largest mean gap that was found at norm one.
        degree: L.
        norm: The method's own norm.
        normalised: Whether the method's steps have norm eta_t; else they have norm eta_t N_*(gradient), and eta0 = 1 / (L B)^2,
            below the curvature of a gap where gaps are of order one.

    Raises:
        BadInput: no gap can be made positive, so there is no such unit.
    """
    if bool((unit_step <= 0).any()):
        raise BadInput(
            "schedule.lr=auto: no positive mean gap was found from any start, so steps have no natural size; give a number > 0,"
            " such as schedule.lr=0.1"
        )
    if not normalised:
        return 1 / (degree * unit_step) ** 2
    lr: Tensor = (NETWORK_SHARE_SATURATING if norm.saturating else NETWORK_SHARE) * NETWORK_GAP ** (1 / degree) / unit_step
    return lr
