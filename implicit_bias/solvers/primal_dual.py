"""The maximum-margin game, solved to a certified gap by a restarted primal-dual method: any norm, any size, in batches.

The maximum margin is the value of a bilinear game (:mod:`implicit_bias.solvers.game`), in which every separator W gives a lower
bound and every q in the simplex an upper one. Nothing else is believed here: both are recomputed, and their distance is the only
stopping rule.

The method is the primal-dual hybrid gradient method (Chambolle and Pock 2011), z -> T(z) for z = (W, q):

    q' = proj_simplex(q - sigma A W),    W' = proj_ball(W + tau A^T (2 q' - q)),    tau sigma ||A||^2 < 1,

in the form that linear programming solvers for GPUs settled on: reflected Halpern steps
z_{j+1} = (j+1)/(j+2) (2 T(z_j) - z_j) + 1/(j+2) z_anchor with adaptive restarts (Lu and Yang 2024, arXiv 2407.16144), and at
restarts a new primal weight omega = sqrt(sigma / tau) that balances how far q and W moved (PDLP, Applegate et al. 2021).
Two things are added:

* a *secant step* (type-II Anderson acceleration over the last pairs (z, T(z) - z)), tried at every check and kept, as a
  restart, where it lowers the residual: half the iterations for the round norms;
* *polishing* for the polyhedral balls (l_inf, l1): the point of a face that solves its optimality equations
  (:mod:`implicit_bias.solvers.faces`).

All tensors carry a leading run axis R. Every run has its own step sizes, restarts and end; finished runs leave the batch.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from implicit_bias.norms import Norm
from implicit_bias.solvers.faces import polished
from implicit_bias.solvers.game import Game, frobenius, positive, relative_gap

__all__ = ["Game", "Solution", "project_simplex", "solve"]

# Iterations between two checks (bounds, restart, secant step), and the pairs the secant step looks at.
CHECK_EVERY = 20
SECANT_PAIRS = 6
# A secant step is kept where it lowers the fixed-point residual at least by this factor.
SECANT_DECREASE = 0.8
# Restart where the residual fell below .2 of that at the anchor, or below .8 of it and rises again, or after .36 of all steps.
SUFFICIENT, NECESSARY, ARTIFICIAL = 0.2, 0.8, 0.36
# The first primal weight, in units of a guess of ||q*|| / ||W*||: below one, for q starts further from its end (measured).
START_WEIGHT = 0.3
# sqrt(tau sigma) ||A||. The power method errs low, by less than this leaves.
STEP = 0.98
# Polishing costs two dense least-squares solves: first after so many iterations, then whenever the count has grown so much.
FIRST_POLISH, POLISH_GROWTH = 400, 1.15
# Taken from weights at the label's own entry, which is no pair; the data are of size one there.
BLOCKED = 1e30


@dataclass(frozen=True)
class Solution:
    """What :func:`solve` found, per run: the best separator and the best weights, and the bounds that they prove."""

    separator: Tensor  # (R, k, d)
    weights: Tensor  # (R, k, n)
    lower: Tensor  # (R,)
    upper: Tensor  # (R,)
    iterations: Tensor  # (R,)
    seconds: Tensor  # (R,), wall time from the start of the batch to the end of the run

    @property
    def gap(self) -> Tensor:
        """(upper - lower) / upper, shape (R,); 0 where both are 0."""
        return relative_gap(self.lower, self.upper)


@dataclass(frozen=True)
class _State:
    """The iteration of the runs still going, all with leading run axis. ``index`` says which run of the caller each one is."""

    index: Tensor
    w: Tensor  # the point z = (w, q)
    q: Tensor
    anchor_w: Tensor  # the last restart
    anchor_q: Tensor
    omega: Tensor  # (R, 1, 1) primal weight
    since: Tensor  # (R, 1, 1) iterations since the restart
    threshold: Tensor  # (R, 1) of the last simplex projection, where the next one starts
    anchor_residual: Tensor  # (R,)
    last_residual: Tensor  # (R,)

    def at(self, index: Tensor) -> _State:
        return _State(*(getattr(self, f.name)[index] for f in fields(self)))


def project_simplex(v: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """The projection max(v - theta, 0) of each row of v (R, m) onto the simplex, and theta (R, 1).

    Newton's method on sum max(v - theta, 0) = 1, convex and piecewise linear in theta, so it ends exactly. From the last
    iteration's theta two steps do, where sorting would cost ten times as much.

    Args:
        v: (R, m).
        threshold: Where the search for theta starts, (R, 1).

    Returns:
        The projections (R, m), and theta (R, 1).
    """
    for _ in range(v.shape[-1] + 2):
        positive = (v - threshold).clamp_(min=0)
        excess = positive.sum(dim=-1, keepdim=True) - 1
        count = torch.count_nonzero(positive, dim=-1).unsqueeze(-1)
        # Rows that are there stay as they are while others go on: a result does not depend on its batch.
        going = excess.abs() > 50 * torch.finfo(v.dtype).eps * count
        if not bool(going.any()):
            break
        # Started right of every entry: from max - 1 Newton's steps increase to the solution.
        newton = torch.where(count == 0, v.amax(dim=-1, keepdim=True) - 1, threshold + excess / count.clamp(min=1))
        threshold = torch.where(going, newton, threshold)
    return (v - threshold).clamp_(min=0), threshold


def solve(
    game: Game,
    norm: Norm,
    tol: float,
    max_iterations: int,
    separator: Tensor | None = None,
    weights: Tensor | None = None,
    hopeless: Tensor | None = None,
    deadline: float = math.inf,
) -> Solution:
    """Iterate until every run has (upper - lower) / upper <= tol or upper <= ``hopeless`` (not separable).

    Args:
        game: R datasets of one shape.
        norm: N, or one with parameters of one value a run.
        tol: Relative gap at which a run ends.
        max_iterations: Where it ends otherwise.
        separator: Where to start, (R, k, d); None for zero. What is returned is never worse than the start.
        weights: Likewise (R, k, n); None for equal weights.
        hopeless: Upper bounds (R,) at which to give up.
        deadline: Of time.perf_counter(); the bounds proven by then are returned.

    Returns:
        The best separators and weights, and what they prove in plain double precision (recompute it for a proof).
    """
    began = time.perf_counter()
    scale = positive(game.operator_norm())
    scaled = game.divided(scale)
    floor = torch.full_like(scale, -1.0) if hopeless is None else hopeless / scale
    state = _start(scaled, norm, separator, weights)
    best = _Best.start(scaled, norm, state.w, state.q)
    total, next_polish = 0, FIRST_POLISH
    while True:
        done = (relative_gap(best.lower, best.upper) <= tol) | (best.upper <= floor)
        best.close(state.index[done[state.index]], total, time.perf_counter() - began)
        going = ~done[state.index]
        if not bool(going.all()):
            state, scaled, norm = state.at(going), scaled.at(going), norm.at(going)
        if len(state.index) == 0 or total >= max_iterations or time.perf_counter() > deadline:
            break
        steps = min(CHECK_EVERY, max_iterations - total)
        state, next_w, next_q, residual, accelerated = _block(scaled, norm, state, steps)
        total += steps
        best.offer(scaled, norm, state.index, next_w, next_q)
        if total >= next_polish:
            next_polish = math.ceil(total * POLISH_GROWTH)
            for w, q in polished(scaled, norm, next_w, next_q):
                best.offer(scaled, norm, state.index, w, q)
        state = _restart(state, next_w, next_q, residual, accelerated, total)
    best.close(state.index, total, time.perf_counter() - began)
    return best.solution(scale)


@dataclass
class _Best:
    """The best separator and the best weights of every run so far, and when it ended."""

    separator: Tensor
    weights: Tensor
    lower: Tensor
    upper: Tensor
    iterations: Tensor
    seconds: Tensor

    @staticmethod
    def start(game: Game, norm: Norm, w: Tensor, q: Tensor) -> _Best:
        lower, upper = game.lower(w, norm), game.upper(q, norm)
        return _Best(w.clone(), q.clone(), lower, upper, torch.zeros_like(lower), torch.zeros_like(lower))

    def offer(self, game: Game, norm: Norm, index: Tensor, w: Tensor, q: Tensor) -> None:
        """Take w and q, each on its own, for the runs ``index`` where they prove more."""
        lower, upper = game.lower(w, norm), game.upper(q, norm)
        higher, tighter = lower > self.lower[index], upper < self.upper[index]
        self.lower[index[higher]], self.separator[index[higher]] = lower[higher], w[higher]
        self.upper[index[tighter]], self.weights[index[tighter]] = upper[tighter], q[tighter]

    def close(self, index: Tensor, iterations: int, seconds: float) -> None:
        self.iterations[index], self.seconds[index] = iterations, seconds

    def solution(self, scale: Tensor) -> Solution:
        return Solution(self.separator, self.weights, self.lower * scale, self.upper * scale, self.iterations, self.seconds)


def _start(game: Game, norm: Norm, separator: Tensor | None, weights: Tensor | None) -> _State:
    q = game.uniform() if weights is None else weights.clone()
    w = torch.zeros_like(game.combine(q)) if separator is None else separator / positive(norm.value(separator))[:, None, None]
    omega = frobenius(q) if weights is not None else torch.full_like(q[:, 0, 0], _typical_weight(game))
    omega = START_WEIGHT * omega / positive(_reach(norm, game.combine(q)))
    run = torch.zeros_like(omega)
    return _State(
        index=torch.arange(len(q), device=q.device),
        w=w,
        q=q,
        anchor_w=w,
        anchor_q=q,
        omega=omega[:, None, None],
        since=run[:, None, None],
        threshold=run[:, None],
        anchor_residual=torch.full_like(run, torch.inf),
        last_residual=torch.full_like(run, torch.inf),
    )


def _typical_weight(game: Game) -> float:
    """||q|| of equal weights on as many pairs as support a vertex."""
    n, d = game.x.shape[1:]
    k = game.onehot.shape[1]
    size: float = min(n * (k - 1), k * d) ** -0.5
    return size


def _reach(norm: Norm, g: Tensor) -> Tensor:
    """Euclidean size (R,) of the point of the unit ball that lies far out along g: what ||W|| will be."""
    return frobenius(norm.project(1e3 * g / positive(frobenius(g))[:, None, None]))


def _operator(game: Game, norm: Norm, blocked: Tensor, state: _State, w: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """T(z) and the threshold of its simplex projection. ``blocked`` is BLOCKED at the labels."""
    v = q - (STEP * state.omega) * game.gaps(w) - blocked
    flat, threshold = project_simplex(v.flatten(1), state.threshold)
    next_q = flat.view_as(q)
    next_w = norm.project(w + (STEP / state.omega) * game.combine(2 * next_q - q))
    return next_w, next_q, threshold


def _norm_of(omega: Tensor, dw: Tensor, dq: Tensor) -> Tensor:
    """sqrt(omega ||dw||^2 + ||dq||^2 / omega), shape (R,): the metric in which T is (nearly) nonexpansive."""
    weight = omega[:, 0, 0]
    return (weight * dw.square().sum(dim=(1, 2)) + dq.square().sum(dim=(1, 2)) / weight).sqrt()


def _block(game: Game, norm: Norm, state: _State, steps: int) -> tuple[_State, Tensor, Tensor, Tensor, Tensor]:
    """``steps`` reflected Halpern steps, then a secant step.

    Returns the state; T(z) = (W, q) at its last point, or at the secant point where that was taken; the residual there; and
    where it was taken.
    """
    w, q, since = state.w, state.q, state.since
    anchor_residual, blocked = state.anchor_residual, BLOCKED * game.onehot
    pairs: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for step in range(steps):
        next_w, next_q, threshold = _operator(game, norm, blocked, state, w, q)
        state = replace(state, threshold=threshold)
        dw, dq = next_w - w, next_q - q
        if step == 0:
            fresh = since[:, 0, 0] == 0
            anchor_residual = torch.where(fresh, _norm_of(state.omega, dw, dq), anchor_residual)
        if step >= steps - SECANT_PAIRS - 1:
            pairs.append((w, q, dw, dq))
        pull = 1 / (since + 2)
        w = torch.lerp(w + 2 * dw, state.anchor_w, pull)
        q = torch.lerp(q + 2 * dq, state.anchor_q, pull)
        since = since + 1
    residual = _norm_of(state.omega, dw, dq)
    state = replace(state, w=w, q=q, since=since, anchor_residual=anchor_residual)
    trial_w, trial_q = _secant(state.omega, pairs)
    # Of a run that has nothing left to move the secant system is 0 / 0; a decomposition would refuse what comes of it.
    usable = (trial_w.isfinite().all(dim=(1, 2)) & trial_q.isfinite().all(dim=(1, 2)))[:, None, None]
    trial_w, trial_q = torch.where(usable, trial_w, next_w), torch.where(usable, trial_q, next_q)
    jump_w, jump_q, _ = _operator(game, norm, blocked, state, trial_w, trial_q)
    jump = _norm_of(state.omega, jump_w - trial_w, jump_q - trial_q)
    accelerated = usable[:, 0, 0] & (jump <= SECANT_DECREASE * residual)
    take = accelerated[:, None, None]
    next_w, next_q = torch.where(take, jump_w, next_w), torch.where(take, jump_q, next_q)
    return state, next_w, next_q, torch.where(accelerated, jump, residual), accelerated


def _secant(omega: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The affine combination of the points T(z_j) whose combined residual T(z_j) - z_j is smallest."""
    root = omega.sqrt()
    residuals = torch.stack([torch.cat([(root * dw).flatten(1), (dq / root).flatten(1)], 1) for _, _, dw, dq in pairs], 1)
    images_w = torch.stack([w + dw for w, _, dw, _ in pairs], 1)
    images_q = torch.stack([q + dq for _, q, _, dq in pairs], 1)
    if len(pairs) < 2:
        return images_w[:, -1], images_q[:, -1]
    difference = residuals[:, 1:] - residuals[:, :-1]
    gram = difference @ difference.mT
    size = gram.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None]
    ridge = 1e-12 * size * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    coefficients, _ = torch.linalg.solve_ex(gram + ridge, difference @ residuals[:, -1:].mT)
    c = coefficients[..., 0]
    zero = torch.zeros_like(c[:, :1])
    mix = torch.cat([c, zero], 1) - torch.cat([zero, c], 1)  # of each image: z_last - sum_j c_j (z_{j+1} - z_j)
    mix[:, -1] += 1
    return torch.einsum("rj,rjpq->rpq", mix, images_w), torch.einsum("rj,rjpq->rpq", mix, images_q)


def _restart(state: _State, next_w: Tensor, next_q: Tensor, residual: Tensor, accelerated: Tensor, total: int) -> _State:
    """Make T(z) the new anchor of the runs whose residual says so, and rebalance their primal weights."""
    due = residual <= SUFFICIENT * state.anchor_residual
    due |= (residual <= NECESSARY * state.anchor_residual) & (residual > state.last_residual)
    due |= state.since[:, 0, 0] >= ARTIFICIAL * total
    moved_w, moved_q = frobenius(next_w - state.anchor_w), frobenius(next_q - state.anchor_q)
    balanced = ((moved_q / moved_w).log() / 2 + state.omega[:, 0, 0].log() / 2).exp()
    rebalance = due & ~accelerated & (moved_w > 1e-14) & (moved_q > 1e-14)
    due |= accelerated
    where = due[:, None, None]
    w, q = torch.where(where, next_w, state.w), torch.where(where, next_q, state.q)
    return replace(
        state,
        w=w,
        q=q,
        anchor_w=torch.where(where, w, state.anchor_w),
        anchor_q=torch.where(where, q, state.anchor_q),
        omega=torch.where(rebalance, balanced, state.omega[:, 0, 0])[:, None, None],
        since=torch.where(where, torch.zeros_like(state.since), state.since),
        last_residual=torch.where(due, torch.full_like(residual, torch.inf), residual),
    )
