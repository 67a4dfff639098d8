"""The maximum-margin game, solved to a certified gap by a restarted primal-dual method: any norm, any size, in batches.

For data x (n, d) with labels y in [k] and a norm N on (k, d) matrices, the maximum margin is the value of a bilinear game,

    gamma* = max_{N(W) <= 1} min_{q in simplex} sum_ic q_ic m_ic(W),    m_ic(W) = <W, (e_{y_i} - e_c) x_i^T>,  c != y_i.

With A W = (m_ic) and A^T q = sum_ic q_ic (e_{y_i} - e_c) x_i^T, every W gives the lower bound min_ic m_ic(W) / N(W), every q
the upper bound N_*(A^T q). Nothing else is believed here: both are recomputed, and their distance is the only stopping rule.

The method is the primal-dual hybrid gradient method (Chambolle and Pock 2011), z -> T(z) for z = (W, q):

    q' = proj_simplex(q - sigma A W),    W' = proj_ball(W + tau A^T (2 q' - q)),    tau sigma ||A||^2 < 1,

in the form that linear programming solvers for GPUs settled on: reflected Halpern steps
z_{j+1} = (j+1)/(j+2) (2 T(z_j) - z_j) + 1/(j+2) z_anchor with adaptive restarts (Lu and Yang 2024, arXiv 2407.16144), and at
restarts a new primal weight omega = sqrt(sigma / tau) that balances how far q and W moved (PDLP, Applegate et al. 2021).
Two things are added:

* a *secant step* (type-II Anderson acceleration over the last pairs (z, T(z) - z)), tried at every check and kept, as a
  restart, where it lowers the residual: half the iterations for the round norms;
* *polishing* for the polyhedral balls (l_inf, l1): projections leave exact zeros and exact bounds, which name a face, and two
  least-squares problems find the point of that face where all supporting gaps are equal and the dual is stationary. Once the
  face is right, that is the optimum to round-off.

All tensors carry a leading run axis R. Every run has its own step sizes, restarts and end; finished runs leave the batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from implicit_bias.norms import Norm

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
POWER_ITERATIONS = 80
# Polishing costs two dense least-squares solves: first after so many iterations, then whenever the count has grown so much.
FIRST_POLISH, POLISH_GROWTH = 400, 1.15
# Largest face (supporting pairs x free entries) that is polished.
POLISH_LIMIT = 1_000_000
# Taken from weights at the label's own entry, which is no pair; the data are of size one there.
BLOCKED = 1e30


@dataclass(frozen=True)
class Game:
    """The pairs of R datasets of one shape: the map A from W to gaps, its transpose, and both bounds.

    Gaps and weights are laid out class by sample, (R, k, n): with few classes, products with the data then take half the time.
    """

    x: Tensor  # (R, n, d)
    transposed: Tensor  # (R, d, n), contiguous
    y: Tensor  # (R, n)
    onehot: Tensor  # (R, k, n)

    @staticmethod
    def of(x: Tensor, y: Tensor, num_classes: int) -> Game:
        return Game(x, x.mT.contiguous(), y, one_hot(y, num_classes).to(x.dtype).mT.contiguous())

    def gaps(self, w: Tensor) -> Tensor:
        """A W: m_ic = <W, (e_{y_i} - e_c) x_i^T>, shape (R, k, d) to (R, k, n); 0 at the label.

        Args:
            w: W (R, k, d).

        Returns:
            The gaps (R, k, n).
        """
        logits = w @ self.transposed
        return logits.gather(1, self.y.unsqueeze(1)) - logits

    def combine(self, weights: Tensor) -> Tensor:
        """A^T w = sum_ic w_ic (e_{y_i} - e_c) x_i^T, shape (R, k, n) to (R, k, d). Entries at the label do not matter.

        Args:
            weights: w (R, k, n).

        Returns:
            The combination (R, k, d).
        """
        return torch.addcmul(-weights, self.onehot, weights.sum(dim=1, keepdim=True)) @ self.x

    def lower(self, w: Tensor, norm: Norm) -> Tensor:
        """The normalised margin min_ic m_ic(W) / N(W), shape (R,); 0 where W is 0.

        Args:
            w: W (R, k, d).
            norm: N.

        Returns:
            The lower bound on gamma*, (R,).
        """
        margin = self.gaps(w).masked_fill(self.onehot > 0, torch.inf).amin(dim=(1, 2))
        size = norm.value(w)
        return torch.where(size > 0, margin / positive(size), torch.zeros_like(size))

    def upper(self, weights: Tensor, norm: Norm) -> Tensor:
        """The dual value N_*(A^T w), shape (R,): no separator of norm 1 has a larger margin, where w is in the simplex.

        Args:
            weights: w (R, k, n), >= 0, summing to one.
            norm: N.

        Returns:
            The upper bound on gamma*, (R,).
        """
        return norm.dual(self.combine(weights))

    def pair_size(self, norm: Norm) -> Tensor:
        """N_* of one pair of the longest sample, shape (R,): the order of magnitude that margins of this data can have.

        Args:
            norm: N.

        Returns:
            The dual norm of the pair, (R,).
        """
        longest = torch.linalg.vector_norm(self.x, dim=2).argmax(dim=1)
        runs = torch.arange(len(self.x), device=self.x.device)
        label = self.onehot[runs, :, longest]
        return norm.dual((label - label.roll(1, dims=1)).unsqueeze(-1) * self.x[runs, longest].unsqueeze(1))

    def uniform(self) -> Tensor:
        """Equal weights on all pairs, shape (R, k, n)."""
        pairs = 1 - self.onehot
        return pairs / pairs.sum(dim=(1, 2), keepdim=True)

    def operator_norm(self) -> Tensor:
        """||A||, shape (R,), by the power method from a fixed random start."""
        generator = torch.Generator().manual_seed(0)
        shape = (1, self.onehot.shape[1], self.x.shape[-1])
        w = torch.randn(shape, generator=generator, dtype=torch.float64).to(self.x).expand(len(self.x), -1, -1)
        size = torch.ones_like(self.x[:, 0, 0])
        for _ in range(POWER_ITERATIONS):
            w = self.combine(self.gaps(w))
            size = frobenius(w)
            w = w / size.clamp(min=torch.finfo(w.dtype).tiny)[:, None, None]
        return size.sqrt()

    def at(self, index: Tensor) -> Game:
        return Game(*(getattr(self, f.name)[index] for f in fields(self)))

    def divided(self, scale: Tensor) -> Game:
        """The same pairs, the data of each run divided by ``scale`` (R,).

        Args:
            scale: What to divide by, (R,), > 0.

        Returns:
            The game on the scaled data.
        """
        by = scale[:, None, None]
        return replace(self, x=self.x / by, transposed=self.transposed / by)


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


def frobenius(w: Tensor) -> Tensor:
    """||w||_2 of every run, shape (R, p, q) to (R,).

    Args:
        w: (R, p, q).

    Returns:
        The norms, (R,).
    """
    size: Tensor = torch.linalg.vector_norm(w, dim=(1, 2))
    return size


def positive(x: Tensor) -> Tensor:
    """x with its zeros replaced by ones, for use as a divisor.

    Args:
        x: Any shape, >= 0.

    Returns:
        The same shape, > 0.
    """
    return torch.where(x > 0, x, torch.ones_like(x))


def relative_gap(lower: Tensor, upper: Tensor) -> Tensor:
    """(upper - lower) / upper, shape (R,).

    Args:
        lower: Lower bounds (R,).
        upper: Upper bounds (R,).

    Returns:
        The gaps, without a unit.
    """
    return (upper - lower) / positive(upper)


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
            for w, q in _polished(scaled, norm, next_w, next_q):
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


def _polished(game: Game, norm: Norm, w: Tensor, q: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """For the polyhedral norms, one batch of polished points; nothing for the others."""
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
