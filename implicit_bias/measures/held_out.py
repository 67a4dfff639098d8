"""Accuracy on a test set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from implicit_bias.measures.margins import accuracy
from implicit_bias.measures.probe import Columns, Probe, Record
from implicit_bias.models import Data, Objective


@dataclass
class HeldOutAccuracy(Probe):
    """The share of the test samples whose label has the largest score.

    Attributes:
        objective: The model, in the precision of the steps.
        test: The samples, (R, m, d) or (1, m, d).
    """

    name: ClassVar[str] = "test_accuracy"

    objective: Objective
    test: Data

    def measure(self, record: Record) -> Columns:
        parameters = {name: block.to(self.test.x.dtype) for name, block in record.parameters.items()}
        return {"test_accuracy": accuracy(self.objective.scores(parameters, self.test.x), self.test.y)}
