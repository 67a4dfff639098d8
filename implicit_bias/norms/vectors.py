"""Vector l_p geometry along the last axis, shared by the entrywise and the Schatten families (where it acts on singular values).

An exponent is a float in [1, inf], or a tensor of shape (R,) of exponents strictly between 1 and inf, one a run of the
leading axis.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Newton steps of a projection at most, and how near log u has to be to its place at this c, on average, before c moves.
LP_NEWTON_STEPS, NEAR = 200, 0.1
# Newton steps of a projection onto a product in l2 at most; some ten are enough from any distance.
LEVELS_NEWTON_STEPS = 100
Exponent = float | Tensor


def is_one(p: Exponent) -> bool:
    """Whether p is the exponent 1 (a tensor of exponents never is).

    Args:
        p: The exponent.

    Returns:
        The truth value.
    """
    return not isinstance(p, Tensor) and p == 1


def is_inf(p: Exponent) -> bool:
    """Whether p is the exponent inf (a tensor of exponents never is).

    Args:
        p: The exponent.

    Returns:
        The truth value.
    """
    return not isinstance(p, Tensor) and math.isinf(p)


def conjugate(p: Exponent) -> Exponent:
    """q with 1/p + 1/q = 1.

    Args:
        p: The exponent, in [1, inf].

    Returns:
        q in [1, inf], a tensor (R,) where p is one.
    """
    if is_one(p):
        return math.inf
    return 1.0 if is_inf(p) else p / (p - 1)


def square_convexity(p: Exponent) -> Exponent:
    """The modulus of strong convexity of ||x||_p^2 / 2 in ||.||_p: p - 1 for 1 < p <= 2, 0 for others.

    Of the Schatten norms, too (Ball, Carlen and Lieb, Invent. Math. 115, 1994).

    Args:
        p: The exponent, in [1, inf].

    Returns:
        The modulus, a tensor (R,) where p is one.
    """
    if isinstance(p, Tensor):
        return torch.where(p <= 2, p - 1, torch.zeros_like(p))
    return p - 1 if p <= 2 else 0.0


def along(p: Exponent, x: Tensor) -> Exponent:
    """p shaped to broadcast against ``x``, whose first axis is the run axis where p is a tensor.

    Args:
        p: The exponent.
        x: The tensor, (R, ...) where p is a tensor (R,).

    Returns:
        p, (R, 1, ..., 1) where it is a tensor.
    """
    return p.reshape(-1, *[1] * (x.dim() - 1)) if isinstance(p, Tensor) else p


def lp_value(x: Tensor, p: Exponent) -> Tensor:
    """||x||_p along the last axis, safe against overflow and underflow.

    Args:
        x: Vectors (..., m).
        p: The exponent.

    Returns:
        The norms, (...).
    """
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

    Args:
        sign: The signs of g, (..., m).
        log_abs: log |g|, (..., m); -inf for an entry that is zero.
        p: The exponent of the ball.

    Returns:
        The maximiser u, (..., m); 0 where g is 0.
    """
    q = along(conjugate(p), log_abs)
    top = log_abs.amax(dim=-1, keepdim=True)
    relative = log_abs - torch.where(torch.isfinite(top), top, torch.zeros_like(top))
    size = torch.exp(q * relative).sum(dim=-1, keepdim=True)
    log_norm = torch.where(size > 0, size, torch.ones_like(size)).log() / q
    return sign * torch.exp((q - 1) * (relative - log_norm))


def project_simplex_like(a: Tensor) -> Tensor:
    """Projection of non-negative vectors (last axis) onto {u >= 0, sum u <= 1}, by sorting.

    Args:
        a: Vectors (..., m), all entries >= 0.

    Returns:
        The nearest points, (..., m).
    """
    ordered = a.sort(dim=-1, descending=True).values
    excess = ordered.cumsum(dim=-1) - 1
    count = torch.arange(1, a.shape[-1] + 1, device=a.device, dtype=a.dtype)
    active = (ordered * count > excess).sum(dim=-1, keepdim=True).clamp(min=1)
    threshold = torch.gather(excess, -1, active - 1) / active
    return torch.where(a.sum(dim=-1, keepdim=True) <= 1, a, (a - threshold).clamp(min=0))


def project_lp(x: Tensor, p: Exponent) -> Tensor:
    """Projection onto the l_p unit ball along the last axis: clip, sort, scale, or Newton's method for other p.

    Args:
        x: Vectors (..., m).
        p: The exponent of the ball.

    Returns:
        The nearest points, (..., m).
    """
    if is_inf(p):
        return x.clamp(-1, 1)
    if is_one(p):
        return x.sign() * project_simplex_like(x.abs())
    if not isinstance(p, Tensor) and p == 2:
        return x / lp_value(x, 2).clamp(min=1).unsqueeze(-1)
    inside = lp_value(x, p).unsqueeze(-1) <= 1
    return torch.where(inside, x, x.sign() * _project_lp_positive(x.abs(), p))


def _project_lp_positive(a: Tensor, exponent: Exponent) -> Tensor:
    """The projection of non-negative vectors for 1 < p < inf: u + c u^(p-1) = a with c = mu p >= 0 such that ||u||_p = 1 (KKT).

    Newton's method on both equations at once, in z = log u and log c:

        log(e^z + c e^((p-1) z)) = log a,    log(sum e^(p z)) / p = 0.

    The first is convex in z with a slope between 1 and p - 1, the second, with z a function of log c, decreasing and concave: the
    steps need no bracket. They begin at the smaller of a c that is too large, ||a||_q, and the root to first order in c, near the
    ball: log ||a||_p sum a^p / sum a^(2p - 2). In logarithms nothing underflows.
    """
    p = along(exponent, a)
    inside = lp_value(a, exponent).unsqueeze(-1) <= 1
    # Vectors inside the ball are replaced by ones, for which nothing over- or underflows; they are not projected.
    a = torch.where(inside, torch.ones_like(a), a)
    log_a = a.clamp(min=torch.finfo(a.dtype).tiny).log()
    # What rounding leaves of log u, where its equation is flattest.
    flattest = torch.as_tensor(p - 1, dtype=a.dtype, device=a.device).clamp(max=1)
    accuracy = torch.finfo(a.dtype).eps * (50 + 4 * log_a.amax(dim=-1, keepdim=True).clamp(min=0)) / flattest
    log_sums = (p * log_a).logsumexp(dim=-1, keepdim=True)
    near = (log_sums / p).log() + log_sums - ((2 * p - 2) * log_a).logsumexp(dim=-1, keepdim=True)
    log_c = torch.fmin(lp_value(a, conjugate(exponent)).unsqueeze(-1).log(), near)
    z = torch.minimum(log_a, (log_a - log_c) / (p - 1))
    for _ in range(LP_NEWTON_STEPS):
        log_power = log_c + (p - 1) * z
        log_sum = torch.logaddexp(z, log_power)
        share = (log_power - log_sum).exp()  # of the term c u^(p-1) in u + c u^(p-1)
        slope = 1 + (p - 2) * share
        inner = (log_a - log_sum) / slope  # the step in z at this c
        powers, outer = (p * z).softmax(dim=-1), (p * z).logsumexp(dim=-1, keepdim=True) / p
        moved = (outer + (powers * inner).sum(dim=-1, keepdim=True)) / (powers * share / slope).sum(dim=-1, keepdim=True)
        found = (powers * inner.abs()).sum(dim=-1, keepdim=True) < NEAR
        moved = torch.where(found, moved, torch.zeros_like(moved))
        inner = inner - share / slope * moved
        # What has converged stays as it is while others go on: a result does not depend on its batch.
        going = (outer.abs() >= accuracy) | ((inner.abs() * z.exp()).amax(dim=-1, keepdim=True) >= accuracy)
        log_c = torch.where(going, log_c + moved, log_c)
        # No further than where one of the two terms alone is a: from the left, steps in a convex function go too far.
        z = torch.where(going, torch.minimum(z + inner, torch.minimum(log_a, (log_a - log_c) / (p - 1))), z)
        if not bool(going.any()):
            break
    return torch.where(inside | (a == 0), torch.zeros_like(a), z.exp())


def levels_of_projection(numbers: Sequence[Tensor], weights: Sequence[float]) -> list[Tensor]:
    """The levels t_b at which a Euclidean projection onto sum_b (w_b max_i s_bi)^2 <= 1 cuts off the numbers s_bi >= 0.

    By the KKT conditions sum_i (s_bi - t_b)_+ = c w_b^2 t_b, one c >= 0 for all b. The left side is the largest of S_j - j t_b,
    S_j the sum of the j largest, so that 1 / t_b = min_j (j + c w_b^2) / S_j is concave in c, and with it
    1 / sqrt(sum_b (w_b t_b)^2): Newton's method for its root 1 rises from c = 0 without a bracket.

    Args:
        numbers: s_b, (..., m_b) each.
        weights: w_b > 0.

    Returns:
        t_b, (...) each; the largest numbers themselves inside of the ball.
    """
    sums = [s.sort(dim=-1, descending=True).values.cumsum(dim=-1) for s in numbers]
    counts = [torch.arange(1, s.shape[-1] + 1, device=s.device, dtype=s.dtype) for s in sums]
    c = torch.zeros_like(sums[0][..., 0])
    for _ in range(LEVELS_NEWTON_STEPS):
        levels, slopes = zip(*(_level(s, j, w, c) for s, j, w in zip(sums, counts, weights, strict=True)), strict=True)
        total = lp_value(torch.stack([w * t for w, t in zip(weights, levels, strict=True)], dim=-1), 2)
        going = total > 1 + 4 * torch.finfo(c.dtype).eps
        if not bool(going.any()):
            break
        # The derivative of 1 / total is sum_b w_b^2 t_b^3 (1 / t_b)' / total^3; in units in which nothing overflows.
        shares = torch.stack([(w * t / total) ** 2 * t * slope for w, t, slope in zip(weights, levels, slopes, strict=True)])
        c = torch.where(going, c + (total - 1) / shares.sum(dim=0), c)
    return list(levels)


def _level(sums: Tensor, counts: Tensor, weight: float, c: Tensor) -> tuple[Tensor, Tensor]:
    """t = max_j S_j / (j + c w^2), and the derivative of 1 / t by c (0 where t is)."""
    level, index = (sums / (counts + c.unsqueeze(-1) * weight**2)).max(dim=-1)
    reached = sums.gather(-1, index.unsqueeze(-1)).squeeze(-1)
    return level, torch.where(reached > 0, weight**2 / reached, torch.zeros_like(reached))
