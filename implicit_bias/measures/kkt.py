"""The KKT ratio of a network: how close a parameter is, under a norm, to a KKT direction of its margin problem.

For gaps m_j, q = min m_j, degree L and weights w in the simplex

    kappa_N(theta; w) = L q / (N(theta) N_*(sum_j w_j grad m_j)) <= 1,

with equality for some w iff theta is a KKT direction of min N(theta)^2 / 2 s.t. m_j >= 1: N N_* >= <theta, sum w_j grad m_j> =
L sum w_j m_j >= L q. Every w gives a proven lower bound; good ones are looked for by a few Jacobian products.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from implicit_bias.measures.averages import StepAverage
from implicit_bias.measures.probe import Columns, Probe, Record
from implicit_bias.models import Gradient, Objective, Parameters
from implicit_bias.models.base import Derivatives
from implicit_bias.norms import ParameterNorm

# Weights below e^-DEEPEST of the largest could not come back within a few iterations.
DEEPEST = 60.0
# Products that are kept for the average and the last checkpoint's weights, whether or not there are any.
STARTS = 2
# The one name in the average of weights.
WEIGHTS = "weights"


@dataclass
class KktRatios(Probe):
    """The best ratios found at records, with the weights that they start from.

    Attributes:
        objective: The model with its loss and data.
        degree: L.
        products: Jacobian products that a norm may cost at a record.
        average: Weights averaged over the trajectory, as the certificates' are.
        warm: The best weights of each run's last record, by norm; all 0 where there has been none.
    """

    name: ClassVar[str] = "kkt"
    columns: ClassVar[tuple[str, ...]] = ("kkt_ratio",)

    objective: Objective
    degree: float
    products: int
    average: StepAverage = field(default_factory=StepAverage)
    warm: dict[str, Tensor] = field(default_factory=dict)

    def wants(self, t: int) -> bool:
        return self.products > 0 and self.average.wants(t)

    def collect(self, t: int, gradient: Gradient) -> None:
        """Add the loss gradient's weights (R, pairs, n) to the average.

        Args:
            t: The step.
            gradient: Of the loss, at theta_t.
        """
        if gradient.weights is not None:
            self.average.add({WEIGHTS: gradient.weights()})

    def under(self, record: Record, label: str, norm: ParameterNorm, columns: Mapping[str, Tensor]) -> Columns:
        if record.gradient.weights is None:
            return {}
        if self.products == 0:
            bound = self.degree * record.q / columns["param_norm"]
            return {"kkt_ratio": torch.where(record.q > 0, bound / record.c_sizes.dual(norm), torch.nan)}
        assert record.weights is not None
        sizes = columns["param_norm"], record.c_sizes.dual(norm)
        there = record.parameters, record.c, record.weights, record.q, record.runs
        return {"kkt_ratio": self.best(label, norm, *there, at=record.derivatives, sizes=sizes)}

    def snapshot(self) -> dict[str, Any]:
        return {"average": self.average.value, "count": self.average.count, "warm": self.warm}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        self.average = StepAverage(dict(snapshot["average"]), snapshot["count"])
        self.warm = dict(snapshot["warm"])

    def best(
        self,
        label: str,
        norm: ParameterNorm,
        parameters: Parameters,
        c: Parameters,
        weights: Tensor,
        q: Tensor,
        runs: Tensor | None = None,
        *,
        at: Derivatives | None = None,
        sizes: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """The largest ratio found under ``norm``, (R,); nan where q <= 0.

        Args:
            label: Of the norm.
            norm: On the parameter set.
            parameters: theta, one tensor (R, p, q) a block.
            c: sum_j w_j grad m_j for the loss gradient's own weights.
            weights: Those weights, (R, pairs, n).
            q: min m_j, (R,).
            runs: The runs whose checkpoint it is, (R,); None for all. What is found for others is forgotten: a run's ratios do
                not depend on its companions.
            at: Jacobian products at theta, for searches that share them; None: they are this one's own.
            sizes: N(theta) and N_*(c), (R,) each; None: they are computed.

        Returns:
            The ratio kappa, (R,).
        """
        ratio = torch.full_like(q, torch.nan)
        if not bool((q > 0).any()):
            return ratio
        at = at or self.objective.derivatives(parameters)
        size, dual = sizes or (norm.value(parameters), norm.dual(c))
        bound = self.degree * q / size
        found = _Search(weights, dual, c)
        warm = self.warm.get(label, torch.zeros_like(weights))
        if self.products > 0 and self.average.value:
            average = self.average.value[WEIGHTS]
            found.offer(average, norm, at.pull_once(average))  # the same under every norm
        if self.products > 1 and label in self.warm:
            known = warm.sum(dim=(-2, -1)) > 0
            found.offer(warm, norm, at.pull(warm), known)
        for _ in range((self.products - STARTS) // 2):
            slopes = at.push(norm.direction(found.gradient))
            stepped = _mirror_step(found.weights, slopes, found.dual - bound)
            found.move(stepped, norm, at.pull(stepped))
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
