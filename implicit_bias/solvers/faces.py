"""Polishing on the faces of polyhedral balls (l_inf, l1): the point of a face, and weights, that solve its optimality equations.

Projections leave exact zeros and exact bounds, which name a face. Once it is the right one, two least-squares problems give the
optimum to round-off: all supporting gaps equal, and the dual stationary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from implicit_bias.norms import Norm
from implicit_bias.solvers.game import Game

# Largest face (supporting pairs x free entries) that is polished.
POLISH_LIMIT = 1_000_000


def polished(game: Game, norm: Norm, w: Tensor, q: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """For the polyhedral norms, one batch of polished points; nothing for the others.

    Args:
        game: R datasets of one shape.
        norm: N.
        w: W (R, k, d), on a face of the unit ball.
        q: Weights (R, k, n), in the simplex.

    Yields:
        Another W and other weights of these shapes, which need not be better.
    """
    face = POLYHEDRAL.get(norm.label)
    if face is None:
        return
    runs = [_polish(game.x[r], game.y[r], w[r], q[r], face) for r in range(len(w))]
    yield torch.stack([w for w, _ in runs]), torch.stack([q for _, q in runs])


def _box_face(w: Tensor) -> tuple[Tensor, Tensor | None]:
    """The face of the l_inf ball that holds w: entries free to move, and no equation between them."""
    return w.abs() < 1, None


def _cross_face(w: Tensor) -> tuple[Tensor, Tensor | None]:
    """The face of the l1 ball that holds w: its non-zero entries, with sum_j sign_j w_j = 1."""
    return w != 0, w.sign()[w != 0]


POLYHEDRAL: dict[str, Callable[[Tensor], tuple[Tensor, Tensor | None]]] = {
    "linf": _box_face,
    "lpinf": _box_face,
    "l1": _cross_face,
    "lp1": _cross_face,
}


def _polish(
    x: Tensor, y: Tensor, w: Tensor, q: Tensor, face: Callable[[Tensor], tuple[Tensor, Tensor | None]]
) -> tuple[Tensor, Tensor]:
    """The nearest point to (w, q) that solves the optimality equations of its own face, for one run.

    I are the pairs of positive weight, F the free entries of w. Primal, unknown w_F and t: <w, Z_j> = t for all j in I, and
    s . w_F = 1 on the l1 ball. Dual, unknown q_I and lambda: sum_j q_j Z_j = lambda s on F (s = 0 on the l_inf ball) and
    sum_j q_j = 1. Both by least squares of least norm.
    """
    classes, samples = q.nonzero(as_tuple=True)
    free, signs = face(w.flatten())
    count, size = len(samples), int(free.sum())
    if count == 0 or size == 0 or count * size > POLISH_LIMIT:
        return w, q
    pairs = torch.zeros(count, *w.shape, dtype=w.dtype, device=w.device)
    rows = torch.arange(count, device=w.device)
    pairs[rows, y[samples]] = x[samples]
    pairs[rows, classes] = -x[samples]
    pairs = pairs.flatten(1)
    on_face = pairs[:, free]

    # One more unknown (t, or lambda) and one more equation (the face's, or the simplex's).
    border = torch.ones(count, 1, dtype=w.dtype, device=w.device)
    row = (torch.zeros(size, dtype=w.dtype, device=w.device) if signs is None else signs).unsqueeze(0)
    corner = torch.zeros(1, 1, dtype=w.dtype, device=w.device)
    system = torch.cat([torch.cat([on_face, -border], 1), torch.cat([row, corner], 1)])
    flat, weights = w.flatten().clone(), q[classes, samples]
    closure = corner[0] if signs is None else 1 - row @ flat[free]
    flat[free] += _least_squares(system, torch.cat([-(pairs @ flat), closure]))[:size]
    target = torch.cat([-(on_face.mT @ weights), 1 - weights.sum().reshape(1)])
    dual_system = torch.cat([torch.cat([on_face.mT, -row.mT], 1), torch.cat([border.mT, corner], 1)])
    weights = (weights + _least_squares(dual_system, target)[:count]).clamp(min=0)
    polished = torch.zeros_like(q)
    polished[classes, samples] = weights / weights.sum()
    return flat.view_as(w), polished


def _least_squares(matrix: Tensor, right: Tensor) -> Tensor:
    """The least-squares solution of least norm.

    By the SVD, on the CPU where its driver lives: the pivoted QR driver (gelsy) takes half the time, but its answers to the same
    rank-deficient system differ from call to call.
    """
    solution = torch.linalg.lstsq(matrix.cpu(), right.cpu().unsqueeze(-1), rcond=1e-11, driver="gelsd").solution
    on_device: Tensor = solution.squeeze(-1).to(matrix.device)
    return on_device
