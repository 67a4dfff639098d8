"""Records of a batch that wait until several are measured under norms together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from implicit_bias.measures.margins import Point
from implicit_bias.measures.probe import Pile, Probe, Record
from implicit_bias.models import Parameters
from implicit_bias.norms.sizes import Routines

#: So many records wait at most, and so many numbers of the parameters of all their runs: what is measured together is to stay in
#: the cache. Three to five copies are held (parameters, C, the average, and what some methods have besides): 6 to 10 MB.
MOST_RECORDS, MOST_NUMBERS = 32, 2**18
#: Records of runs of as many parameters do not wait: PyTorch shares out a sum over so many of a run alone among threads, which
#: rounds otherwise than that over a run beside others.
MOST_OF_A_RUN = 2**15

#: What is kept of a record: tensors, each by the name of a set and its own.
Parts = dict[tuple[str, str], Tensor]
OF_RUNS, PARAMETERS, C, DOWNHILL, PAIRS = "of runs", "parameters", "c", "downhill", "pairs"
#: Before the name of a probe, which may be any.
OF_PROBE = "probe "


def most_waiting(initial: Parameters) -> int:
    """How many records of a batch may wait; 1: each is measured at once.

    Args:
        initial: Parameters, one tensor (R, p, q) a block.
    """
    numbers = sum(block.numel() for block in initial.values())
    of_a_run = numbers // len(next(iter(initial.values())))
    return 1 if of_a_run >= MOST_OF_A_RUN else max(1, min(MOST_RECORDS, MOST_NUMBERS // numbers))


class Waiting:
    """What norms and probes need of some records, one after the other, copied: steps may overwrite what they have given.

    Args:
        most: So many records at most.
        probes: Those with columns under norms; all of them :meth:`implicit_bias.measures.probe.Probe.may_wait`.
    """

    def __init__(self, most: int, probes: Sequence[Probe]) -> None:
        self._most, self._probes = most, probes
        self._memory: Parts = {}
        self._steps: list[int] = []
        self._degree = 1.0
        self._routines: Routines | None = None

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def full(self) -> bool:
        """Whether no other may wait."""
        return len(self) == self._most

    def parts(self, record: Record) -> Parts | None:
        """What is to be kept of a record; None: it cannot wait, since sums round by how their terms lie in memory."""
        sets: dict[str, Mapping[str, Tensor]] = {
            OF_RUNS: {"runs": record.runs, "q": record.q},
            PARAMETERS: record.parameters,
            C: record.c,
            DOWNHILL: {} if record.point.c is record.c else record.point.c,
            PAIRS: record.pair_average or {},
            **{OF_PROBE + probe.name: probe.keep(record) for probe in self._probes},
        }
        parts = {(of, name): tensor for of, tensors in sets.items() for name, tensor in tensors.items()}
        return parts if all(tensor.is_contiguous() for tensor in parts.values()) else None

    def goes_with(self, parts: Parts) -> bool:
        """Whether a record with these parts may wait beside the others, which all have the same."""
        return not self._steps or self._has_room_for(parts)

    def _has_room_for(self, parts: Parts) -> bool:
        held = {key: (rows.shape[1:], rows.dtype) for key, rows in self._memory.items()}
        return held == {key: (tensor.shape, tensor.dtype) for key, tensor in parts.items()}

    def add(self, record: Record, parts: Parts) -> None:
        """Let a record wait that goes with the others, where these are not :attr:`full`."""
        if not self._has_room_for(parts):
            self._memory = {key: tensor.new_empty(self._most, *tensor.shape) for key, tensor in parts.items()}
        for key, tensor in parts.items():
            self._memory[key][len(self)] = tensor
        self._steps.append(record.t)
        self._degree, self._routines = record.degree, record.routines

    def pile(self) -> Pile:
        """All of them, as long as no other is added."""
        q, c = self._memory[OF_RUNS, "q"][: len(self)], self._set(C)
        return Pile(
            steps=torch.tensor(self._steps, dtype=q.dtype, device=q.device).unsqueeze(-1),
            runs=self._memory[OF_RUNS, "runs"][: len(self)],
            q=q,
            point=Point(self._set(PARAMETERS), self._set(DOWNHILL) or c, q, self._degree, self._routines),
            c=c,
            pair_averages=self._set(PAIRS) or None,
            kept={probe.name: self._set(OF_PROBE + probe.name) for probe in self._probes},
            routines=self._routines,
        )

    def last(self) -> Point:
        """Where the last of them is."""
        parameters, c = ({name: block[-1] for name, block in self._set(of).items()} for of in (PARAMETERS, C))
        return Point(parameters, c, self._memory[OF_RUNS, "q"][len(self) - 1], self._degree, self._routines)

    def clear(self) -> None:
        """None of them waits any more."""
        self._steps.clear()

    def _set(self, wanted: str) -> dict[str, Tensor]:
        return {name: rows[: len(self)] for (of, name), rows in self._memory.items() if of == wanted}
