"""Vector l_p geometry along the last axis, shared by the entrywise and the Schatten families (where it acts on singular values).

An exponent is a float in [1, inf], or a tensor of shape (R,) of exponents strictly between 1 and inf, one a run of the
leading axis.
"""

import math

import torch
from torch import Tensor

LP_NEWTON_STEPS = 40
SHRINK_NEWTON_STEPS = 7
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
    """Projection onto the l_p unit ball along the last axis: clip, sort, scale, or Newton's method for other p."""
    if is_inf(p):
        return x.clamp(-1, 1)
    if is_one(p):
        return x.sign() * project_simplex_like(x.abs())
    if not isinstance(p, Tensor) and p == 2:
        return x / lp_value(x, 2).clamp(min=1).unsqueeze(-1)
    inside = lp_value(x, p).unsqueeze(-1) <= 1
    return torch.where(inside, x, x.sign() * _project_lp_positive(x.abs(), p))


def _project_lp_positive(a: Tensor, exponent: Exponent) -> Tensor:
    """The projection of non-negative vectors for 1 < p < inf: u + mu p u^(p-1) = a with mu >= 0 such that ||u||_p = 1 (KKT).

    phi(log mu) = log ||u(mu)||_p is decreasing and concave, with slope -sum u^p (a - u) / (u + (p - 1) (a - u)) / sum u^p, so
    Newton's method from a mu that is too large (mu p = ||a||_q) falls to the root without a bracket.
    """
    p = along(exponent, a)
    inside = lp_value(a, exponent).unsqueeze(-1) <= 1
    # A harmless vector in the place of those that are in the ball already.
    a = torch.where(inside, torch.ones_like(a), a)
    log_mu = (lp_value(a, conjugate(exponent)).unsqueeze(-1) / p).log()
    for _ in range(LP_NEWTON_STEPS):
        u = _shrunk(a, log_mu.exp(), p)
        powers = u.pow(p)
        size, removed = powers.sum(dim=-1, keepdim=True), a - u
        descent = (powers * removed / (u + (p - 1) * removed).clamp(min=torch.finfo(a.dtype).tiny)).sum(
            dim=-1, keepdim=True
        ) / size
        error = size.log() / p
        going = error.abs() >= 50 * torch.finfo(a.dtype).eps
        # What has converged stays as it is while others go on: a result does not depend on its batch.
        log_mu = torch.where(going, log_mu + error / descent, log_mu)
        if not bool(going.any()):
            break
    u = _shrunk(a, log_mu.exp(), p)
    return torch.where(inside, torch.zeros_like(u), u)


def _shrunk(a: Tensor, mu: Tensor, p: Exponent) -> Tensor:
    """u >= 0 with u + mu p u^(p-1) = a.

    With u = v^alpha, alpha = max(1, 1 / (p - 1)), both terms are powers of v of at least 1: the left side is convex and
    increasing, and Newton's method from above, where one of the two terms alone is a, decreases to the root.
    """
    alpha = (1 / (p - 1)).clamp(min=1) if isinstance(p, Tensor) else max(1.0, 1 / (p - 1))
    beta = alpha * (p - 1)
    factor = mu * p
    tiny = torch.finfo(a.dtype).tiny
    v = torch.minimum(a.pow(1 / alpha), (a / factor).pow(1 / beta))
    for _ in range(SHRINK_NEWTON_STEPS):
        first, second = v.pow(alpha), factor * v.pow(beta)
        slope = alpha * first / v.clamp(min=tiny) + beta * second / v.clamp(min=tiny)
        v = torch.where(v > tiny, (v - (first + second - a) / slope.clamp(min=tiny)).clamp(min=0), torch.zeros_like(v))
    return v.pow(alpha)
