"""The KKT ratio of a network: how close a parameter is, under a norm, to a KKT direction of its margin problem.

For gaps m_j, q = min m_j, degree L and weights w in the simplex

    kappa_N(theta; w) = L q / (N(theta) N_*(sum_j w_j grad m_j)) <= 1,

with equality for some w iff theta is a KKT direction of min N(theta)^2 / 2 s.t. m_j >= 1: N N_* >= <theta, sum w_j grad m_j> =
L sum w_j m_j >= L q. Every w gives a proven lower bound; good ones are looked for by a few Jacobian products.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from implicit_bias.measures.margins import AVERAGE_POWER
from implicit_bias.models import Objective, Parameters
from implicit_bias.norms import ParameterNorm

# Weights below e^-DEEPEST of the largest could not come back within a few iterations.
DEEPEST = 60.0
# Products that are kept for the average and the last checkpoint's weights, whether or not there are any.
STARTS = 2


@dataclass
class KktRatios:
    """The best ratios found at checkpoints, with the weights that they start from.

    Attributes:
        objective: The model with its loss and data.
        degree: L.
        products: Jacobian products that a norm may cost at a checkpoint.
        average: Weights averaged over the trajectory, the j-th with a weight of about j^3, as the certificates' are.
        warm: The best weights of each run's last checkpoint, by norm; all 0 where there has been none.
    """

    objective: Objective
    degree: float
    products: int
    average: Tensor | None = None
    count: int = 0
    warm: dict[str, Tensor] = field(default_factory=dict)

    def add(self, weights: Tensor) -> None:
        """Take the loss gradient's weights (R, pairs, n) of one more step into the average."""
        self.count += 1
        share = (AVERAGE_POWER + 1) / (self.count + AVERAGE_POWER)
        self.average = weights if self.average is None else self.average.lerp(weights, share)

    def best(
        self,
        label: str,
        norm: ParameterNorm,
        parameters: Parameters,
        c: Parameters,
        weights: Tensor,
        q: Tensor,
        runs: Tensor | None = None,
    ) -> Tensor:
        """The largest ratio found under ``norm``, (R,); nan where q <= 0.

        Args:
            label: Of the norm.
            parameters, q: theta and min m_j.
            c: sum_j w_j grad m_j for the loss gradient's own weights.
            weights: Those weights, (R, pairs, n).
            runs: The runs whose checkpoint it is, (R,); None for all. What is found for others is forgotten: a run's ratios do
                not depend on its companions.
        """
        ratio = torch.full_like(q, torch.nan)
        if not bool((q > 0).any()):
            return ratio
        bound = self.degree * q / norm.value(parameters)
        found = _Search(weights, norm.dual(c), c)
        warm = self.warm.get(label, torch.zeros_like(weights))
        if self.products > 0 and self.average is not None:
            found.offer(self.average, norm, self.objective.pull(parameters, self.average))
        if self.products > 1 and label in self.warm:
            known = warm.sum(dim=(-2, -1)) > 0
            found.offer(warm, norm, self.objective.pull(parameters, warm), known)
        for _ in range((self.products - STARTS) // 2):
            slopes = self.objective.push(parameters, norm.direction(found.gradient))
            stepped = _mirror_step(found.weights, slopes, found.dual - bound)
            found.move(stepped, norm, self.objective.pull(parameters, stepped))
        here = (q > 0) if runs is None else (q > 0) & runs
        self.warm[label] = torch.where(here[:, None, None], found.best_weights, warm)
        return torch.where(q > 0, bound / found.best_dual, ratio)


class _Search:
    """Where the minimisation of N_*(sum w_j grad m_j) stands, and the best it has met, run by run."""

    def __init__(self, weights: Tensor, dual: Tensor, gradient: Parameters) -> None:
        self.weights = self.best_weights = weights
        self.dual = self.best_dual = dual
        self.gradient = gradient

    def offer(self, weights: Tensor, norm: ParameterNorm, gradient: Parameters, known: Tensor | None = None) -> None:
        """Start from these weights where they are ``known`` (R,), and better."""
        dual = norm.dual(gradient)
        better = dual < self.dual if known is None else (dual < self.dual) & known
        self.weights = self.best_weights = torch.where(better[:, None, None], weights, self.weights)
        self.gradient = {n: torch.where(better[:, None, None], gradient[n], g) for n, g in self.gradient.items()}
        self.dual = self.best_dual = torch.where(better, dual, self.dual)

    def move(self, weights: Tensor, norm: ParameterNorm, gradient: Parameters) -> None:
        """Go to these weights, better or not."""
        self.weights, self.gradient, self.dual = weights, gradient, norm.dual(gradient)
        better = self.dual < self.best_dual
        self.best_weights = torch.where(better[:, None, None], weights, self.best_weights)
        self.best_dual = torch.where(better, self.dual, self.best_dual)


def _mirror_step(weights: Tensor, slopes: Tensor, excess: Tensor) -> Tensor:
    """w_j exp(-a s_j), normalised: an entropic mirror step of Polyak's length a = excess / max |s_j - <w, s>|^2.

    Args:
        weights: w, (R, pairs, n); 0 at pairs that do not count.
        slopes: s, the derivative of N_* along each weight.
        excess: By how much N_* is above a lower bound, (R,).
    """
    counts = weights > 0
    centred = torch.where(counts, slopes - (weights * slopes).sum(dim=(-2, -1), keepdim=True), torch.zeros_like(slopes))
    spread = centred.abs().amax(dim=(-2, -1), keepdim=True)
    spread = torch.where(spread == 0, torch.ones_like(spread), spread)
    logs = weights.log()
    floored = torch.maximum(logs, logs.amax(dim=(-2, -1), keepdim=True) - DEEPEST)
    moved = torch.where(
        counts, floored - (excess[:, None, None] / spread) * (centred / spread), torch.full_like(logs, -torch.inf)
    )
    return moved.flatten(start_dim=1).softmax(dim=-1).reshape(weights.shape)
