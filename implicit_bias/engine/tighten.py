"""Tighter certificates for the last record: from the optimum where it is known, else by some first-order steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from implicit_bias.engine.problem import Problem
from implicit_bias.measures.certificate import Certificate, kkt_ratio
from implicit_bias.measures.probe import Columns, Record
from implicit_bias.solvers.tightening import improve_weights

# The part of the certificate's iterations that norms with a strictly convex ball need.
SMOOTH_SHARE = 5
# Runs whose certificates are tightened at once: the arrays of more leave the cache.
TIGHTENED_TOGETHER = 16


def takes_steps(problem: Problem, label: str) -> bool:
    """Whether a norm's last certificate is tightened by steps: not where the optimum is proven for all runs."""
    optimum = problem.optima.get(label)
    return problem.certificate_iterations > 0 and not (optimum is not None and bool(optimum.proven.all()))


def parts(problem: Problem) -> int:
    """In how many parts the runs' certificates of one norm are tightened."""
    return -(-problem.runs // TIGHTENED_TOGETHER)


def tighten(
    problem: Problem, certificate: Certificate, last: Record, label: str, columns: Columns, begun: Callable[[], None]
) -> None:
    """Lower a norm's bound at the last record, in its columns, where a tighter one is proven; ``begun`` is called before each of
    its :func:`parts` that takes steps."""
    bound = _improved_bound(problem, certificate, last, label, begun)
    if bound is not None:
        upper = certificate.lower(label, bound)
        columns.update(upper_bound=upper, kkt_ratio=kkt_ratio(columns["margin"], upper, columns["margin"]))


def _improved_bound(
    problem: Problem, certificate: Certificate, last: Record, label: str, begun: Callable[[], None]
) -> Tensor | None:
    """A proven upper bound (R,) that is likely to be tighter than the trajectory's own; None where there is none."""
    optimum = problem.optima.get(label)
    known = None if optimum is None else optimum.upper
    if not takes_steps(problem, label):
        return known
    upper = _by_steps(problem, last, label, begun)
    upper = upper * (1 + 1e-14) + torch.finfo(upper.dtype).eps * certificate.rounding[label]
    return upper if known is None else torch.minimum(upper, known.to(upper))


def _by_steps(problem: Problem, last: Record, label: str, begun: Callable[[], None]) -> Tensor:
    """N_*(C) of the loss gradient's weights after some first-order steps, (R,)."""
    block, data = problem.model.as_matrix(last.parameters), last.objective.data
    norm = problem.model.matrix_norm(problem.measured[label], (block.shape[-2], block.shape[-1]))
    # On a strictly convex ball the iteration converges fast, and its projection may be expensive (l_p, Schatten-p).
    steps = problem.certificate_iterations // SMOOTH_SHARE if norm.smooth else problem.certificate_iterations
    runs = len(block)
    x, y = data.x.expand(runs, -1, -1), data.y.expand(runs, -1)
    weights = last.objective.weights(last.parameters)
    bounds = []
    for i in torch.arange(runs, device=block.device).split(TIGHTENED_TOGETHER):
        begun()
        bounds.append(improve_weights(x[i], y[i], norm.at(i), weights[i], block[i], steps)[1])
    return torch.cat(bounds)
