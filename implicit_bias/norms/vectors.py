"""Vector l_p geometry along the last axis, shared by the entrywise and the Schatten families (where it acts on singular values).

An exponent is a float in [1, inf], or a tensor of shape (R,) of exponents strictly between 1 and inf, one a run of the
leading axis.
"""

import math

import torch
from torch import Tensor

BISECTIONS = 60
Exponent = float | Tensor


def is_one(p: Exponent) -> bool:
    """Whether p is the exponent 1 (a tensor of exponents never is)."""
    return not isinstance(p, Tensor) and p == 1


def is_inf(p: Exponent) -> bool:
    """Whether p is the exponent inf (a tensor of exponents never is)."""
    return not isinstance(p, Tensor) and math.isinf(p)


def conjugate(p: Exponent) -> Exponent:
    """q with 1/p + 1/q = 1."""
    if is_one(p):
        return math.inf
    return 1.0 if is_inf(p) else p / (p - 1)


def along(p: Exponent, x: Tensor) -> Exponent:
    """p shaped to broadcast against ``x``, whose first axis is the run axis where p is a tensor."""
    return p.reshape(-1, *[1] * (x.dim() - 1)) if isinstance(p, Tensor) else p


def lp_value(x: Tensor, p: Exponent) -> Tensor:
    """||x||_p along the last axis, safe against overflow and underflow."""
    a = x.abs()
    size = a.amax(dim=-1)
    if is_inf(p):
        return size
    unit = torch.where(size == 0, torch.ones_like(size), size).unsqueeze(-1)
    return size * (a / unit).pow(along(p, a)).sum(dim=-1).pow(1 / along(p, size))


def lp_direction_log(sign: Tensor, log_abs: Tensor, p: Exponent) -> Tensor:
    """Maximiser of <g, u> over ||u||_p <= 1 from the signs and log absolute values of g, for 1 < p < inf.

    u_j = sign(g_j) |g_j|^(q-1) / ||g||_q^(q-1), q the conjugate exponent; in the log domain nothing underflows before u
    itself does.
    """
    q = along(conjugate(p), log_abs)
    top = log_abs.amax(dim=-1, keepdim=True)
    relative = log_abs - torch.where(torch.isfinite(top), top, torch.zeros_like(top))
    size = torch.exp(q * relative).sum(dim=-1, keepdim=True)
    log_norm = torch.where(size > 0, size, torch.ones_like(size)).log() / q
    return sign * torch.exp((q - 1) * (relative - log_norm))


def project_simplex_like(a: Tensor) -> Tensor:
    """Projection of non-negative vectors (last axis) onto {u >= 0, sum u <= 1}, by sorting."""
    ordered = a.sort(dim=-1, descending=True).values
    excess = ordered.cumsum(dim=-1) - 1
    count = torch.arange(1, a.shape[-1] + 1, device=a.device, dtype=a.dtype)
    active = (ordered * count > excess).sum(dim=-1, keepdim=True).clamp(min=1)
    threshold = torch.gather(excess, -1, active - 1) / active
    return torch.where(a.sum(dim=-1, keepdim=True) <= 1, a, (a - threshold).clamp(min=0))


def project_lp(x: Tensor, p: Exponent) -> Tensor:
    """Projection onto the l_p unit ball along the last axis: clip, sort, scale, or bisection on the multiplier for other p."""
    if is_inf(p):
        return x.clamp(-1, 1)
    if is_one(p):
        return x.sign() * project_simplex_like(x.abs())
    if not isinstance(p, Tensor) and p == 2:
        return x / lp_value(x, 2).clamp(min=1).unsqueeze(-1)
    return x.sign() * _project_lp_positive(x.abs(), p)


def _project_lp_positive(a: Tensor, exponent: Exponent) -> Tensor:
    """u >= 0 with u + mu p u^(p-1) = a and ||u||_p = 1 (KKT), mu >= 0 by bisection; u by bisection inside [0, a]."""
    p = along(exponent, a)

    def solve(mu: Tensor) -> Tensor:
        low, high = torch.zeros_like(a), a
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            above = middle + mu * p * middle.pow(p - 1) > a
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return (low + high) / 2

    inside = lp_value(a, exponent).unsqueeze(-1) <= 1
    # At mu = a_max n / p the solution is inside the ball: u^(p-1) <= a / (mu p) <= 1/n there.
    low = torch.zeros_like(a[..., :1])
    high = a.amax(dim=-1, keepdim=True) * a.shape[-1] / p + 1
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        outside = lp_value(solve(middle), exponent).unsqueeze(-1) > 1
        low, high = torch.where(outside, middle, low), torch.where(outside, high, middle)
    return torch.where(inside, a, solve(high))
