"""What batches are expected to take, in seconds of one processor, from what they are: where a command's time left is told from.

Rough on purpose: the pieces of a command that are done correct it by kind, see :mod:`implicit_bias.core.work`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import count

from implicit_bias.core.work import Kind, Work
from implicit_bias.sweep.batch_size import block_shapes
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
    """A batch as pieces of work: its optima, its steps, and what comes after.

    What is computed again, because runs diverged or all at once failed, is work again: a piece of its own. Of what did not come
    to its end nothing is learnt.
    """

    def __init__(self, work: Work, batch: Sequence[Cell], seen: set[tuple[int, str]]) -> None:
        self._work = work
        self._batch = list(batch)
        self._places = {cell.index: place for place, cell in enumerate(batch)}
        self._numbers = count()
        self._keys: dict[str, Hashable] = {}
        self._optimum = optimum_seconds(batch)
        self._seconds = steps_seconds(batch)
        self._first = self._last = 0
        self._open("optima", optima_count(batch, seen) * self._optimum, ("optima",))
        self._open("steps", self._seconds, kind(batch))
        self._open("rest", rest_seconds(batch), ("rest",))

    def attempt(self, cells: Sequence[Cell]) -> None:
        """These of its cells are computed next: all, or a part where all at once failed. Those before them are settled, those
        after them are still to come, in parts of this size."""
        if len(cells) == len(self._batch):
            return
        later = self._batch[self._places[cells[-1].index] + 1 :]
        self._seconds = steps_seconds(cells)
        self._work.end(self._keys["optima"], telling=False)
        self._open("steps", self._seconds, kind(cells))
        self._open("rest", rest_seconds(cells), ("rest",))
        self._open("later", len(later) / len(cells) * (self._seconds + rest_seconds(cells)), kind(cells))

    def solving(self, done: int, total: int) -> None:
        """So many of its optima that were not known are solved."""
        if done == 0:
            self._work.end(self._keys["optima"])  # all those before are solved: of samples perturbed otherwise
            self._open("optima", total * self._optimum, ("optima",))
            self._work.begin(self._keys["optima"])
        self._work.share(done / total, self._keys["optima"])

    def stepping(self, steps: int, first: int) -> None:
        """Its steps begin, at ``first`` of ``steps``."""
        self._work.end(self._keys["optima"])
        self._first, self._last = first, steps
        self._open("steps", self._seconds * (steps - first) / steps, kind(self._batch))
        self._work.begin(self._keys["steps"])

    def made(self, step: int) -> None:
        """So many steps are made."""
        self._work.share((step - self._first) / max(1, self._last - self._first), self._keys["steps"])

    def tightening(self, done: int, total: int) -> None:
        """So many of its last certificates are tightened."""
        self.closing()
        self._work.share(done / (total + 1), self._keys["rest"])

    def closing(self) -> None:
        """Its steps are made."""
        if not self._work.under_way(self._keys["rest"]):
            self._work.end(self._keys["steps"])
            self._work.begin(self._keys["rest"])

    def end(self) -> None:
        """It is done, however far it came."""
        for part, key in self._keys.items():
            self._work.end(key, telling=part == "rest")

    def _open(self, part: str, seconds: float, of: Kind) -> None:
        """Expect a part; the piece that it was before ends where it is."""
        if part in self._keys:
            self._work.end(self._keys[part], telling=False)
        self._keys[part] = self, part, next(self._numbers)
        self._work.expect(self._keys[part], seconds, of)


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
    return run_elements(len(cell.dataset.x), cell.dataset.num_classes, _parameters(cell))


def _parameters(cell: Cell) -> int | None:
    """Parameters of a network, counted once; None for a linear model, and one that has none for these data: its runs say why."""
    if cell.spec.model.linear:
        return None
    try:
        key = repr(cell.spec.model), cell.dataset.x.shape[1], cell.dataset.num_classes
        if key not in _COUNTED:
            _COUNTED[key] = sum(rows * columns for rows, columns in block_shapes(cell))
    except Exception:  # noqa: BLE001 - an estimate is no place to fail
        return None
    return _COUNTED[key]
