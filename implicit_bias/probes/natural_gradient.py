"""How far the last step is from steepest descent in l2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from implicit_bias.measures.natural_gradient import cosine_and_sine, metric_condition
from implicit_bias.probes.base import PROBES, Columns, Probe, Record


@PROBES.register
@dataclass
class NaturalGradient(Probe):
    """The angle psi between the last step and the negative gradient where it was made, and the metric that makes up for it.

    cos_psi = <g, theta_{t-1} - theta_t> / (|g| |theta_{t-1} - theta_t|), g the gradient of the loss of all samples at
    theta_{t-1}, in l2 over all blocks. metric_condition = (1 + sin psi) / (1 - sin psi), the least condition number of a
    symmetric positive definite matrix M in whose metric the step is natural gradient descent, theta_t = theta_{t-1} - eta M^-1 g;
    inf where cos_psi <= 0, no M then being one (Shoji, Suzuki and Kozachkov, arXiv 2409.16422). Both are empty at step 0, and
    where the step or the gradient is zero.
    """

    name: ClassVar[str] = "natural_gradient"
    columns: ClassVar[tuple[str, ...]] = ("cos_psi", "metric_condition")
    looks_back: ClassVar[bool] = True

    def measure(self, record: Record) -> Columns:
        if record.update is None:
            return dict.fromkeys(self.columns, torch.full_like(record.q, torch.nan))
        gradient = {name: -block for name, block in record.update.gradient.downhill().items()}
        cosine, sine = cosine_and_sine(record.update.descent, gradient)
        return {"cos_psi": cosine.to(record.q), "metric_condition": metric_condition(cosine, sine).to(record.q)}
