"""The maximum-margin game on a few hundred unknowns, by a barrier method: for balls on which first-order methods crawl.

    minimise  -t / mu - sum_ic log(m_ic(W) - t) + Phi(W)      over W, t, for mu falling to 0,

by Newton's method. Phi is a self-concordant barrier of the unit ball: -sum log(1 - w^2) for l_inf, -logdet(1 - W W^T) for the
spectral norm. The weights q_ic proportional to 1 / (m_ic - t) are those of the dual, and on the central path the gap is mu
times the number of terms, however degenerate the optimum is: no face has to be identified.

All tensors carry a leading run axis R; pairs are laid out (R, P, k d). Nothing that is returned has to be believed: the caller
computes both bounds from W and q.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

# From one mu to the next, where it ends (times the operator's norm, 1), and Newton steps for each.
SHRINK, LAST, STEPS = 0.2, 1e-12, 30
# A Newton decrement below which the path counts as reached.
CENTRED = 0.1
# Step lengths that are tried.
HALVINGS = 12


@dataclass(frozen=True)
class Barrier:
    """A self-concordant barrier of a unit ball of (R, k, d) matrices.

    Attributes:
        value: Phi (R,); inf outside of the ball.
        slope: Its gradient, (R, k, d).
        curvature: Its second derivative, (R, k d, k d).
        rotates: Whether Phi depends on singular values alone. Newton's equations are then solved in the bases of W's singular
            vectors, where the second derivative is nearly diagonal: its entries are up to 1 / mu^2 apart, and in any other
            basis rounding would mix them.
    """

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    curvature: Callable[[Tensor], Tensor]
    rotates: bool = False


def path(
    pairs: Tensor, shape: tuple[int, int], barrier: Barrier, enough: Callable[[Tensor, Tensor], bool]
) -> tuple[Tensor, Tensor]:
    """Follow the central path from W = 0.

    Args:
        pairs: The matrices Z_ic = (e_y - e_c) x_i^T of each run, flattened, (R, P, k d), the norm of the map about 1.
        shape: (k, d).
        enough: Told W (R, k, d) and q (R, P) after each mu; true ends it.

    Returns:
        W (R, k, d) in the ball, and q (R, P) in the simplex.
    """
    runs, _, unknowns = pairs.shape
    w = pairs.new_zeros(runs, unknowns)
    t = pairs.new_full((runs,), -1.0)
    mu = 1.0
    weights = pairs.new_zeros(pairs.shape[:2])
    while mu > LAST:
        for _ in range(STEPS):
            slack = torch.einsum("rpj,rj->rp", pairs, w) - t[:, None]
            move_w, move_t, decrement = _newton(pairs, slack, w.view(runs, *shape), barrier, mu)
            w, t = _longest(pairs, barrier, shape, mu, (w, t), (move_w, move_t), decrement)
            if bool((decrement < CENTRED).all()):
                break
        inverse = 1 / (torch.einsum("rpj,rj->rp", pairs, w) - t[:, None])
        weights = inverse / inverse.sum(dim=1, keepdim=True)
        if enough(w.view(runs, *shape), weights):
            break
        mu *= SHRINK
    return w.view(runs, *shape), weights


def _newton(pairs: Tensor, slack: Tensor, w: Tensor, barrier: Barrier, mu: float) -> tuple[Tensor, Tensor, Tensor]:
    """The Newton step in W (R, k d) and t (R,), and the decrement sqrt(g^T H^-1 g) (R,); 0 where rounding has won."""
    if barrier.rotates:
        u, s, vh = torch.linalg.svd(w, full_matrices=True)
        rotated = (u.mT[:, None] @ pairs.unflatten(2, w.shape[1:]) @ vh.mT[:, None]).flatten(2)
        diagonal = torch.zeros_like(w)
        diagonal.diagonal(dim1=1, dim2=2).copy_(s)
        step, move_t, decrement = _newton(rotated, slack, diagonal, replace(barrier, rotates=False), mu)
        return (u @ step.unflatten(1, w.shape[1:]) @ vh).flatten(1), move_t, decrement
    inverse = 1 / slack
    slope_w = barrier.slope(w).flatten(1) - torch.einsum("rp,rpj->rj", inverse, pairs)
    slope = torch.cat([slope_w, (inverse.sum(dim=1) - 1 / mu)[:, None]], 1)
    # <Z, dW> - dt, as one matrix
    rows = torch.cat([pairs, -torch.ones_like(pairs[..., :1])], 2) * inverse[..., None]
    hessian = rows.mT @ rows
    hessian[:, :-1, :-1] += barrier.curvature(w)
    size = hessian.diagonal(dim1=1, dim2=2).sqrt()  # entries are many orders apart
    factor, info = torch.linalg.cholesky_ex(hessian / (size[:, :, None] * size[:, None, :]))
    half = torch.linalg.solve_triangular(factor, (slope / size)[..., None], upper=False)
    step = -torch.linalg.solve_triangular(factor.mT, half, upper=True)[..., 0] / size
    good = (info == 0) & step.isfinite().all(dim=1)
    step = torch.where(good[:, None], step, torch.zeros_like(step))
    decrement = torch.where(good, half[..., 0].square().sum(dim=1).sqrt(), torch.zeros_like(step[:, 0]))
    return step[:, :-1], step[:, -1], decrement


def _longest(
    pairs: Tensor,
    barrier: Barrier,
    shape: tuple[int, int],
    mu: float,
    point: tuple[Tensor, Tensor],
    move: tuple[Tensor, Tensor],
    decrement: Tensor,
) -> tuple[Tensor, Tensor]:
    """The best of a full step, its halvings, and the length 1 / (1 + decrement) that self-concordance promises to be good."""
    (w, t), (move_w, move_t) = point, move
    slack, change = (torch.einsum("rpj,rj->rp", pairs, a) - b[:, None] for a, b in (point, move))

    def value(length: Tensor) -> Tensor:
        left = slack + length[:, None] * change
        logs = torch.where(left > 0, left, torch.ones_like(left)).log().sum(dim=1)
        found = -(t + length * move_t) / mu - logs + barrier.value((w + length[:, None] * move_w).view(-1, *shape))
        return torch.where((left > 0).all(dim=1) & found.isfinite(), found, torch.inf)

    best_length = torch.zeros_like(t)
    best = value(best_length)
    safe = 1 / (1 + decrement)
    for length in [safe, *(torch.full_like(t, 0.5**j) for j in range(HALVINGS))]:
        found = value(length)
        best_length = torch.where(found < best, length, best_length)
        best = torch.minimum(found, best)
    return w + best_length[:, None] * move_w, t + best_length * move_t


def _box_value(w: Tensor) -> Tensor:
    inside = w.abs().amax(dim=(1, 2)) < 1
    return torch.where(inside, -(1 - w.square()).clamp(min=torch.finfo(w.dtype).tiny).log().sum(dim=(1, 2)), torch.inf)


def _box_slope(w: Tensor) -> Tensor:
    return 2 * w / (1 - w.square())


def _box_curvature(w: Tensor) -> Tensor:
    square = w.square()
    return torch.diag_embed((2 * (1 + square) / (1 - square).square()).flatten(1))


def _complements(w: Tensor) -> tuple[Tensor, Tensor]:
    """1 - W W^T (R, k, k) and 1 - W^T W (R, d, d)."""
    left, right = w @ w.mT, w.mT @ w
    return torch.eye(left.shape[-1]).to(w) - left, torch.eye(right.shape[-1]).to(w) - right


def _spectral_value(w: Tensor) -> Tensor:
    factor, info = torch.linalg.cholesky_ex(_complements(w)[0])
    return torch.where(info == 0, -2 * factor.diagonal(dim1=1, dim2=2).log().sum(dim=1), torch.inf)


def _spectral_slope(w: Tensor) -> Tensor:
    return 2 * torch.linalg.solve_ex(_complements(w)[0], w)[0]


def _spectral_curvature(w: Tensor) -> Tensor:
    """E -> 2 M E N + 2 P E^T P with M = (1 - W W^T)^-1, N = (1 - W^T W)^-1, P = M W."""
    left, right = _complements(w)
    m, n = torch.linalg.inv_ex(left)[0], torch.linalg.inv_ex(right)[0]
    p = m @ w
    both = torch.einsum("rac,rbd->rabcd", m, n) + torch.einsum("rad,rcb->rabcd", p, p)
    return 2 * both.flatten(3).flatten(1, 2)


#: By the norm's label.
BARRIERS = {
    "linf": Barrier(_box_value, _box_slope, _box_curvature),
    "spectral": Barrier(_spectral_value, _spectral_slope, _spectral_curvature, rotates=True),
}
