"""What batches are expected to take, in seconds of one processor, from what they are: where a command's time left is told from.

Rough on purpose: the pieces of a command that are done correct it by kind, see :mod:`implicit_bias.core.work`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from implicit_bias.core.work import Kind, Work
from implicit_bias.models import Data, Model
from implicit_bias.sweep.plan import Cell, run_elements

#: One optimum, and a number (samples x features x classes) of it.
OPTIMUM, OPTIMUM_NUMBER = 0.03, 1.2e-5
#: A step of a linear batch in C, by PyTorch's operations, and of a network; and a number (runs x classes x samples) in it.
IN_C, IN_C_NUMBER = 2e-6, 1e-8
BY_TORCH, BY_TORCH_NUMBER = 5e-4, 3e-8
NETWORK, NETWORK_NUMBER = 1e-3, 6e-9
#: A run's step by an optimizer of torch's, which steps run by run.
FOREIGN = 4e-4
#: A record's norm of a linear batch; that of a network takes so many of its steps for each product of its KKT ratio.
RECORD, PRODUCT = 5e-4, 0.5
#: Writing a run's folder, and starting a batch.
RUN, BATCH = 0.02, 0.05

# Parameters of networks by model, features and classes: a large one takes long to make.
_COUNTED: dict[tuple[str, int, int], int] = {}


class BatchWork:
    """A batch as pieces of work: its optima, its steps, and what comes after."""

    def __init__(self, work: Work, batch: Sequence[Cell], seen: set[tuple[int, str]]) -> None:
        self._work = work
        self._count = optima_count(batch, seen)
        self._optima, self._steps, self._rest = ((self, part) for part in ("optima", "steps", "rest"))
        self._first = self._last = 0
        work.expect(self._optima, self._count * optimum_seconds(batch), ("optima",))
        work.expect(self._steps, steps_seconds(batch), kind(batch))
        work.expect(self._rest, rest_seconds(batch), ("rest",))

    def solving(self, done: int, total: int) -> None:
        """So many of its optima that were not known are solved."""
        if done == 0:
            self._work.scale(self._optima, total / self._count if self._count else 1.0)
            self._count = total
            self._work.begin(self._optima)
        self._work.share(done / total, self._optima)

    def stepping(self, steps: int, first: int) -> None:
        """Its steps begin, at ``first`` of ``steps``."""
        self._work.end(self._optima)
        self._first, self._last = first, steps
        self._work.scale(self._steps, (steps - first) / steps)
        self._work.begin(self._steps)

    def made(self, step: int) -> None:
        """So many steps are made."""
        self._work.share((step - self._first) / max(1, self._last - self._first), self._steps)

    def tightening(self, done: int, total: int) -> None:
        """So many of its last certificates are tightened."""
        self.closing()
        self._work.share(done / (total + 1), self._rest)

    def closing(self) -> None:
        """Its steps are made."""
        if not self._work.under_way(self._rest):
            self._work.end(self._steps)
            self._work.begin(self._rest)

    def end(self) -> None:
        """It is done, however far it came."""
        for key in (self._optima, self._steps, self._rest):
            self._work.end(key)


def expected_pieces(plan: Sequence[Sequence[Cell]], work: Work) -> list[BatchWork]:
    """The batches of a plan as pieces of work, in their order."""
    seen: set[tuple[int, str]] = set()
    return [BatchWork(work, batch, seen) for batch in plan]


def optima_count(batch: Sequence[Cell], seen: set[tuple[int, str]]) -> int:
    """Optima that a batch needs and no batch before it; they are added to ``seen``."""
    spec = batch[0].spec
    if spec.reference not in ("exact", "certified") or not spec.model.linear:
        return 0
    wanted = {(id(cell.dataset), label) for cell in batch for label in cell.spec.measured}
    count = len(wanted - seen)
    seen |= wanted
    return count


def optimum_seconds(batch: Sequence[Cell]) -> float:
    """For one optimum of the batch's data."""
    return OPTIMUM + OPTIMUM_NUMBER * batch[0].dataset.x.size * batch[0].dataset.num_classes


def steps_seconds(batch: Sequence[Cell]) -> float:
    """For all steps of a batch, with their records."""
    spec, size = batch[0].spec, len(batch) * cell_elements(batch[0])
    records = min(spec.log.points, spec.steps) * len(spec.measured)
    if not spec.model.linear:
        return (spec.steps + PRODUCT * records * spec.log.kkt_iters) * (NETWORK + NETWORK_NUMBER * size)
    if spec.optimizer.foreign_state:
        step = BY_TORCH + FOREIGN * len(batch) + BY_TORCH_NUMBER * size
    elif spec.optimizer.needs_gradient_only and not spec.model.robust and spec.compile != "off":
        step = IN_C + IN_C_NUMBER * size
    else:
        step = BY_TORCH + BY_TORCH_NUMBER * size
    return spec.steps * step + records * RECORD


def rest_seconds(batch: Sequence[Cell]) -> float:
    """For what comes before and after a batch's steps: its objects, the last certificates, the run folders."""
    return BATCH + RUN * len(batch)


def kind(batch: Sequence[Cell]) -> Kind:
    """What is learnt of a batch holds for those of its model, then of its optimizer, too."""
    return "runs", batch[0].spec.model.name, batch[0].spec.optimizer.name


def cell_elements(cell: Cell) -> int:
    """Numbers in a run's arrays, in proportion to the time that its longest operations take."""
    samples, features = cell.dataset.x.shape
    return run_elements(samples, cell.dataset.num_classes, _parameters(cell.spec.model, features, cell.dataset.num_classes))


def _parameters(model: Model, features: int, num_classes: int) -> int | None:
    """Parameters of a network, counted once; None for a linear model."""
    if model.linear:
        return None
    key = repr(model), features, num_classes
    if key not in _COUNTED:
        sample = Data(torch.zeros(1, 1, features, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.int64), num_classes)
        _COUNTED[key] = sum(block[0].numel() for block in model.initial(sample, [0]).values())
    return _COUNTED[key]
