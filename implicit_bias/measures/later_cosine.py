"""How far a network's direction still turns: cosines of records with later ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from implicit_bias.measures.margins import cosine
from implicit_bias.measures.probe import Columns, Probe, Record
from implicit_bias.models import Parameters

# Later iterates that a record is compared with: the first recorded after this many times its steps.
DECADE = 10


@dataclass
class LaterCosine(Probe):
    """The cosine of theta_t with the first of the chosen records at ten times the step or later; single precision will do.

    Attributes:
        steps: Those of the whole run.
        chosen: The steps that are compared: fixed ones, at which all runs are recorded.
        like: A tensor (R,) of the type and on the device of the column.
        past: Parameters of records that have no later one yet.
        later: Cosines by step, (R,); nan for runs that had stopped by then.
    """

    name: ClassVar[str] = "later_cosine"

    steps: int
    chosen: Collection[int]
    like: Tensor
    past: dict[int, Parameters] = field(default_factory=dict)
    later: dict[int, Tensor] = field(default_factory=dict)

    def measure(self, record: Record) -> Columns:
        t, parameters = record.t, record.parameters
        if t in self.chosen:
            for step in [s for s in self.past if DECADE * s <= t]:
                self.later[step] = torch.where(record.runs, _cosine(self.past.pop(step), record), torch.nan)
            if 0 < DECADE * t <= self.steps:
                self.past[t] = {name: block.float() for name, block in parameters.items()}
        return {}

    def complete(self, steps: Sequence[int]) -> Columns:
        nothing = torch.full_like(self.like, torch.nan)
        return {"later_cosine": torch.stack([self.later.get(step, nothing) for step in steps])}

    def snapshot(self) -> dict[str, Any]:
        return {"past": self.past, "later": self.later}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        self.past, self.later = dict(snapshot["past"]), dict(snapshot["later"])


def _cosine(earlier: Parameters, record: Record) -> Tensor:
    routines, largest, parameters = record.routines, record.point.sizes.largest_entry, record.parameters
    if routines is not None and routines.block_cosines is not None and largest is not None and _are_single(earlier):
        return routines.block_cosines(earlier, parameters, largest)
    return cosine({name: block.to(parameters[name]) for name, block in earlier.items()}, parameters)


def _are_single(blocks: Parameters) -> bool:
    return all(block.dtype == torch.float32 for block in blocks.values())
