"""Which runs are computed together: everything that is not a batchable number must be equal, and shapes must agree."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from implicit_bias.config.spec import RunSpec
from implicit_bias.core.registry import hyper_fields, hyper_values
from implicit_bias.datasets import Dataset
from implicit_bias.models.linear import is_uneven

# Doubles in one (runs, classes, samples) array of a batch. Past this the arrays leave the cache and a run costs more, not less.
BATCH_ELEMENTS = 2**18
# Doubles of training data in a batch of networks, 128 MB: their arrays never fit the cache, and activations are of this order.
NETWORK_DOUBLES = 2**24
# On a GPU there is no such cache: only its memory limits a batch, and this, beyond which nothing is gained.
GPU_RUNS = 2**14

# A network's matrix products take so many multiplications in the time that one number of an elementwise operation takes.
MULTIPLICATIONS = 64


@dataclass(frozen=True)
class Cell:
    """One run, ready to be computed.

    Attributes:
        index: Its place in the list it came in.
        spec: What it computes.
        dataset: Its data.
        directory: Its run folder.
        start: The parameters that it starts from, by block (p, q); None: the model's own.
        proven: Of a run that is finished, but some of whose optima are not proven, the norms of those that are; None for others.
    """

    index: int
    spec: RunSpec
    dataset: Dataset
    directory: Path
    start: Mapping[str, np.ndarray] | None = None
    proven: frozenset[str] | None = None


def batched_fields(option: type) -> frozenset[str]:
    """The hyper-parameters of a registered class that may differ inside a batch: whose default is a float, and the schedule's."""
    fields = hyper_fields(option)
    numbers = [key for key, field in fields.items() if isinstance(field.default, float) or key in ("lr", "power")]
    return frozenset(key for key in numbers if fields[key].metadata["hyper"].batch)


def group_key(cell: Cell) -> str:
    """Equal for two cells exactly when they can be computed in one batch."""
    spec = cell.spec
    options = [*map(_fixed, (spec.optimizer, spec.schedule, spec.model)), _section(spec.loss)]
    settings = [spec.steps, spec.stop_log10_loss, spec.precision, spec.device, spec.reference, vars(spec.batch), vars(spec.log)]
    test = None if cell.dataset.x_test is None else cell.dataset.x_test.shape
    shape = [*cell.dataset.x.shape, cell.dataset.num_classes, test]
    return json.dumps([*options, *settings, _norm_kind(spec), shape, _uneven(cell)], sort_keys=True)


def batches(
    cells: Sequence[Cell], interrupted: Sequence[Sequence[str]] = (), fitting: Callable[[Sequence[Cell]], int] | None = None
) -> list[list[Cell]]:
    """Cut the cells into batches, in the order in which their first cells came.

    Args:
        interrupted: Batches that a checkpoint exists for, as the names of run folders in order: where all their cells are there,
            they are formed again, first of their group.
        fitting: How many runs of such cells the memory holds at once.
    """
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(group_key(cell), []).append(cell)
    plan: list[list[Cell]] = []
    for group in groups.values():
        again = _formed_again(group, interrupted)
        taken = {cell.index for batch in again for cell in batch}
        plan += again + _cut([cell for cell in group if cell.index not in taken], fitting)
    return plan


def batch_size(dataset: Dataset, linear: bool = True, device: str = "cpu") -> int:
    """How many runs on data of this shape are computed at once, memory permitting."""
    if device != "cpu":
        return GPU_RUNS
    if not linear:
        return max(1, NETWORK_DOUBLES // dataset.x.size)
    fitting: int = BATCH_ELEMENTS // (dataset.x.shape[0] * dataset.num_classes)
    return max(1, fitting)


def run_elements(samples: int, num_classes: int, parameters: int | None) -> int:
    """Numbers in the arrays of one run, in proportion to the time that its longest operations take.

    Args:
        parameters: Those of a network; None for a linear model.
    """
    return samples * num_classes if parameters is None else samples * parameters // MULTIPLICATIONS


def described(batch: Sequence[Cell]) -> str:
    """A batch in a few words: optimizer, norm where it is chosen, and the number of runs."""
    return batch[0].spec.method + (f", {len(batch)} runs" if len(batch) > 1 else "")


def _formed_again(group: Sequence[Cell], interrupted: Sequence[Sequence[str]]) -> list[list[Cell]]:
    """Those of the interrupted batches whose cells are all in the group, each cell once."""
    free: dict[str, Cell] = {}
    for cell in group:
        free.setdefault(cell.directory.name, cell)
    found = []
    for names in interrupted:
        if names and len(set(names)) == len(names) and all(name in free for name in names):
            found.append([free.pop(name) for name in names])  # noqa: PERF401 - the next condition sees what this takes out
    return found


def _cut(group: list[Cell], fitting: Callable[[Sequence[Cell]], int] | None) -> list[list[Cell]]:
    if not group:
        return []
    spec = group[0].spec
    if spec.optimizer.alone:
        return [[cell] for cell in group]
    most = min(len(group), batch_size(group[0].dataset, spec.model.linear, spec.torch_device.type))
    if fitting is not None:
        most = max(1, min(most, fitting(group[:most])))
    # Equal parts: 65 runs at 64 a batch are 33 + 32.
    parts = math.ceil(len(group) / most)
    size = math.ceil(len(group) / parts)
    return [group[start : start + size] for start in range(0, len(group), size)]


def _fixed(option: Any) -> dict[str, Any]:
    """What an option's objects must agree in to be one in a batch: the class, and the hyper-parameters that are not batched."""
    batched = batched_fields(type(option))
    return {key: value for key, value in _section(option).items() if key not in batched}


def _norm_kind(spec: RunSpec) -> dict[str, Any] | None:
    """The named norm with an exponent strictly between 1 and inf left out: such exponents are batched."""
    if spec.norm is None:
        return None
    keys = _section(spec.norm)
    return {**keys, "p": "finite"} if keys.get("p", math.inf) not in (1.0, math.inf) else keys


def _section(option: Any) -> dict[str, Any]:
    """An option's object as the section that names it."""
    return {"name": option.name, **hyper_values(option)}


def _uneven(cell: Cell) -> bool:
    """Whether a linear model's gradients need one scale an entry on these data: then other companions would get other bits."""
    if not cell.spec.model.linear:
        return False
    x = torch.from_numpy(cell.dataset.x).to(cell.spec.dtype)
    return bool(is_uneven(x.unsqueeze(0)))
