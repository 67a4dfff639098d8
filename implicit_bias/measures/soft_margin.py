"""The soft margin of a network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from implicit_bias.losses import Loss
from implicit_bias.measures.margins import over_power
from implicit_bias.measures.probe import Columns, Probe, Record
from implicit_bias.norms import ParameterNorm


@dataclass
class SoftMargin(Probe):
    """The gap at which one pair alone has the whole loss n L, over N(theta)^L (Lyu and Li, arXiv 1906.05890).

    Attributes:
        loss: The loss.
        samples: n.
        known: log L of the last record and its soft gap, (R,) each, which all norms share.
    """

    name: ClassVar[str] = "soft_margin"

    loss: Loss
    samples: int
    known: tuple[Tensor, Tensor] | None = None

    def under(self, record: Record, label: str, norm: ParameterNorm, columns: Mapping[str, Tensor]) -> Columns:
        log_loss = record.gradient.log_loss
        if self.known is None or self.known[0] is not log_loss:
            self.known = log_loss, self.loss.soft_gap(log_loss + math.log(self.samples))
        return {"soft_margin": over_power(self.known[1], columns["param_norm"], record.degree)}
