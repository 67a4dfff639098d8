"""Accuracy under perturbations of the samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from implicit_bias.measures.margins import accuracy_and_margin
from implicit_bias.measures.probe import Columns, Probe, Record
from implicit_bias.models import Objective


@dataclass
class RobustAccuracy(Probe):
    """The share of samples that no perturbation in the model's ball takes from their class: of the test samples, or where there
    are none of the training samples.

    Attributes:
        objective: The robust model on these samples, in the precision of the steps.
    """

    name: ClassVar[str] = "robust_accuracy"

    objective: Objective

    def measure(self, record: Record) -> Columns:
        x = self.objective.data.x
        parameters = {name: block.to(x.dtype) for name, block in record.parameters.items()}
        return {"robust_accuracy": accuracy_and_margin(self.objective.negative_gaps(parameters).amax(dim=-2))[0]}
