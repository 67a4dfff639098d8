"""What batches are compared with: three plain PyTorch loops of one run of a linear model, all with the same steps and records."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from implicit_bias.bench.baselines import UsualOptimizer
from implicit_bias.engine.record_times import record_steps
from implicit_bias.models.linear import zero_sum_basis
from implicit_bias.norms import make_norm

#: Records of a run of STEPS updates; shorter ones have as many an update.
POINTS, STEPS = 20, 1000
# Small enough that the p_y - 1 of the plain loops has not cancelled yet: only then is their answer comparable.
LEARNING_RATES = {"signgd": 0.01, "ngd": 0.1, "muon": 0.05, "adam": 0.01}
OWN = {"signgd": "linf", "ngd": "l2", "muon": "spectral", "adam": "linf"}


def points_of(steps: int) -> int:
    """About how many records so many updates have."""
    return max(2, round(POINTS * steps / STEPS))


def usual_loop(name: str, x: Tensor, y: Tensor, k: int, steps: int, rows: Tensor | None = None) -> float:
    """One run by autograd; the own-norm margin at the end. Margins are recorded at the same steps as in the engine.

    Args:
        name: The optimizer.
        x: Samples (n, d).
        y: Labels (n,).
        k: Classes.
        steps: Updates.
        rows: The samples of every update, (steps, b); None: all.
    """
    model = torch.nn.Linear(x.shape[1], k, bias=False, dtype=x.dtype)
    torch.nn.init.zeros_(model.weight)
    criterion = torch.nn.CrossEntropyLoss()
    optimizer = UsualOptimizer(list(model.parameters()), name, LEARNING_RATES[name])
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: (t + 1) ** -0.5)
    records, margin = set(record_steps(steps, points_of(steps))), math.nan
    for t in range(1, steps + 1):
        optimizer.zero_grad()
        if rows is None:
            criterion(model(x), y).backward()
        else:
            mine = rows[t - 1]
            criterion(model(x[mine]), y[mine]).backward()
        optimizer.step()
        scheduler.step()
        if t in records:
            margin = own_margin(model.weight.detach(), x, y, OWN[name])
    return margin


@torch.no_grad()
def tight_loop(name: str, x: Tensor, y: Tensor, k: int, steps: int) -> float:
    """One run of the exact step, written out for speed; the own-norm margin at the end."""
    n = x.shape[0]
    label = torch.nn.functional.one_hot(y, k).bool().T
    sign = torch.where(label, -1.0, 1.0).to(x.dtype)
    index, x_t, basis = y[None], x.T.contiguous(), zero_sum_basis(k)
    w = torch.zeros(k, x.shape[1], dtype=x.dtype)
    m, r, m_log, r_log = torch.zeros_like(w), torch.zeros_like(w), -math.inf, -math.inf
    records, margin = set(record_steps(steps, points_of(steps))), math.nan
    for t in range(1, steps + 1):
        z = w @ x_t
        u = z - z.gather(0, index)
        u.masked_fill_(label, -math.inf)
        top = u.amax(0)
        a = top + (u - top).exp().sum(0).log()
        normaliser = torch.nn.functional.softplus(a, threshold=40.0)
        log_p = torch.where(label, a - normaliser, u - normaliser)
        scale = log_p.amax(1, keepdim=True)
        g = ((log_p - scale).exp() * sign) @ x
        if name == "signgd":
            direction = g.sign()
        else:
            # One scale a matrix is enough for the loop's short runs; the engine keeps one a row throughout.
            unit = float(scale.max()) - math.log(n)
            g = g * (scale - scale.max()).exp()
            if name == "ngd":
                direction = g / g.norm()
            else:
                new = max(m_log, unit)
                m = 0.9 * m * math.exp(m_log - new) + 0.1 * g * math.exp(unit - new)
                m_log = new
                if name == "muon":
                    direction = polar(m, basis)
                else:
                    new = max(r_log, unit)
                    r = torch.hypot(0.95**0.5 * r * math.exp(r_log - new), 0.05**0.5 * g * math.exp(unit - new))
                    r_log = new
                    direction = m * math.exp(m_log - r_log) / (1 - 0.9**t) / (r / (1 - 0.95**t) ** 0.5)
        w = w - LEARNING_RATES[name] * t**-0.5 * direction
        if t in records:
            margin = own_margin(w, x, y, OWN[name])
    return margin


def polar(m: Tensor, basis: Tensor) -> Tensor:
    """The polar factor of a matrix (k, d) whose rows sum to zero, in a basis (k, k-1) of what does, by an eigendecomposition: of
    all that PyTorch has, the least time. Where it has no full rank in there, what is left of the null space is 1e-9."""
    reduced = basis.T @ m
    values, vectors = torch.linalg.eigh(reduced @ reduced.T)
    roots = torch.maximum(values, 1e-14 * values[-1]).rsqrt_()
    factor: Tensor = basis @ ((vectors * roots) @ (vectors.T @ reduced))
    return factor


@torch.no_grad()
def lean_loop(
    name: str, x: Tensor, y: Tensor, k: int, steps: int, rows: Tensor | None = None, *, by: str = "closed form"
) -> float:
    """One run with as little as a plain loop can do: no optimizer class, no scheduler, one update in place, no exact scale. The
    own-norm margin at the end; arguments are those of :func:`usual_loop`.

    Args:
        by: What makes the gradient, of :data:`GRADIENTS`.
    """
    gradient, update = GRADIENTS[by](x, y, k), LeanRule(name, k, x)
    w = torch.zeros(k, x.shape[1], dtype=x.dtype)
    records, margin = set(record_steps(steps, points_of(steps))), math.nan
    for t in range(1, steps + 1):
        update(w, gradient(w, None if rows is None else rows[t - 1]), t)
        if t in records:
            margin = own_margin(w, x, y, OWN[name])
    return margin


#: The gradient at W (k, d), of some samples or all, up to a factor.
Gradient = Callable[[Tensor, Tensor | None], Tensor]


def by_autograd(x: Tensor, y: Tensor, k: int) -> Gradient:  # noqa: ARG001 - as the other has it
    """torch.autograd.grad of the cross entropy."""

    def gradient(w: Tensor, rows: Tensor | None) -> Tensor:
        w.requires_grad_()
        with torch.enable_grad():
            mine, labels = (x, y) if rows is None else (x[rows], y[rows])
            loss = torch.nn.functional.cross_entropy(torch.nn.functional.linear(mine, w), labels)
        (g,) = torch.autograd.grad(loss, w)
        w.requires_grad_(False)
        return g

    return gradient


def by_closed_form(x: Tensor, y: Tensor, k: int) -> Gradient:
    """Softmax less one-hot, times the samples: classes down, samples across, where softmax is a few times as fast."""
    one_hot = torch.nn.functional.one_hot(y, k).T.to(x.dtype).contiguous()
    x_t = x.T.contiguous()

    def gradient(w: Tensor, rows: Tensor | None) -> Tensor:
        if rows is None:
            return (torch.softmax(w @ x_t, dim=0).sub_(one_hot)) @ x
        mine = x[rows]
        return (torch.softmax(w @ mine.T, dim=0).sub_(one_hot[:, rows])) @ mine

    return gradient


GRADIENTS: dict[str, Callable[[Tensor, Tensor, int], Gradient]] = {"autograd": by_autograd, "closed form": by_closed_form}


class LeanRule:
    """An update in place, W -= eta_t direction: no operation more than it needs. A gradient may come with any factor, which none
    of these methods sees, and is used up."""

    def __init__(self, name: str, k: int, x: Tensor) -> None:
        self.rate, self.basis = LEARNING_RATES[name], zero_sum_basis(k)
        self.m, self.v = (torch.zeros(k, x.shape[1], dtype=x.dtype) for _ in range(2))
        self._subtract: Callable[[Tensor, Tensor, float, int], Any] = getattr(self, f"_{name}")

    def __call__(self, w: Tensor, g: Tensor, t: int) -> None:
        """The t-th update, from 1."""
        self._subtract(w, g, self.rate * t**-0.5, t)

    def _signgd(self, w: Tensor, g: Tensor, eta: float, t: int) -> None:
        w.add_(g.sign_(), alpha=-eta)

    def _ngd(self, w: Tensor, g: Tensor, eta: float, t: int) -> None:
        w.addcdiv_(g, torch.linalg.vector_norm(g), value=-eta)

    def _muon(self, w: Tensor, g: Tensor, eta: float, t: int) -> None:
        self.m.lerp_(g, 0.1)
        w.add_(polar(self.m, self.basis), alpha=-eta)

    def _adam(self, w: Tensor, g: Tensor, eta: float, t: int) -> None:
        self.m.lerp_(g, 0.1)
        self.v.mul_(0.95).addcmul_(g, g, value=0.05)
        w.addcdiv_(self.m, self.v.sqrt(), value=-eta * (1 - 0.95**t) ** 0.5 / (1 - 0.9**t))


def own_margin(w: Tensor, x: Tensor, y: Tensor, norm: str) -> float:
    """The margin of W (k, d) in a norm, on samples (n, d) with labels (n,)."""
    z = x @ w.T
    gaps = z.gather(1, y[:, None]) - z
    gaps.scatter_(1, y[:, None], math.inf)
    return float(gaps.min() / make_norm(norm).value(w))
