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

from implicit_bias.core.registry import Registry, hyper_fields
from implicit_bias.datasets import Dataset
from implicit_bias.models import MODELS, Model
from implicit_bias.models.linear import is_uneven
from implicit_bias.norms import make_norm
from implicit_bias.optimizers import OPTIMIZERS, Optimizer
from implicit_bias.schedules import SCHEDULES

Config = Mapping[str, Any]

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
        config: The resolved configuration.
        dataset: Its data.
        directory: Its run folder.
        start: The parameters that it starts from, by block (p, q); None: the model's own.
        proven: Of a run that is finished, but some of whose optima are not proven, the norms of those that are; None for others.
    """

    index: int
    config: Config
    dataset: Dataset
    directory: Path
    start: Mapping[str, np.ndarray] | None = None
    proven: frozenset[str] | None = None


def batched_fields(registry: Registry, name: str) -> list[str]:
    """The hyper-parameters that may differ inside a batch: those whose default is a float, and the schedule's."""
    fields = hyper_fields(registry.get(name))
    numbers = [key for key, field in fields.items() if isinstance(field.default, float) or key in ("lr", "power")]
    return [key for key in numbers if fields[key].metadata["hyper"].batch]


def group_key(cell: Cell) -> str:
    """Equal for two cells exactly when they can be computed in one batch."""
    config = cell.config
    kept = {
        section: _without(config[section], batched_fields(registry, config[section]["name"]))
        for section, registry in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("model", MODELS))
    }
    test = None if cell.dataset.x_test is None else cell.dataset.x_test.shape
    shape = [*cell.dataset.x.shape, cell.dataset.num_classes, test]
    plain = {key: config[key] for key in ("steps", "stop_log10_loss", "log", "precision", "device", "reference", "loss")}
    return json.dumps({**kept, **plain, "norm": _norm_kind(config), "shape": shape, "uneven": _uneven(cell)}, sort_keys=True)


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
    return max(1, BATCH_ELEMENTS // (dataset.x.shape[0] * dataset.num_classes))


def run_elements(samples: int, num_classes: int, parameters: int | None) -> int:
    """Numbers in the arrays of one run, in proportion to the time that its longest operations take.

    Args:
        parameters: Those of a network; None for a linear model.
    """
    return samples * num_classes if parameters is None else samples * parameters // MULTIPLICATIONS


def device_of(config: Config) -> torch.device:
    """The device that a cell is computed on: ``auto`` is a GPU where there is one."""
    chosen = config["device"]
    if chosen == "auto":
        chosen = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(chosen)


def model_of(config: Config) -> Model:
    """The model that a configuration names."""
    keys = dict(config["model"])
    model: Model = MODELS.get(keys.pop("name"))(**keys)
    return model


def optimizer_of(config: Config) -> Optimizer:
    """The optimizer that a configuration names."""
    keys = dict(config["optimizer"])
    optimizer: Optimizer = OPTIMIZERS.get(keys.pop("name"))(**keys)
    return optimizer


def own_label(config: Config) -> str | None:
    """The label of the norm whose margin the cell's optimizer maximises; None where it has none."""
    optimizer = optimizer_of(config)
    return norm_label(config) if optimizer.reads_norm() else optimizer.own


def norm_label(config: Config) -> str:
    """The label of the norm that the `norm` key names; l2 where it is not given."""
    if config["norm"] is None:
        return "l2"
    return make_norm(**config["norm"]).label


def logged_labels(config: Config) -> list[str]:
    """The norms to log: those asked for, and the optimizer's own, or where it has none the one that its steps are nearest to."""
    logged = [make_norm(label).label for label in config["log"]["norms"]]
    own = own_label(config) or optimizer_of(config).working_norm
    return list(dict.fromkeys([*logged, *([] if own is None else [own])]))


def described(config: Config, runs: int) -> str:
    """A batch in a few words: optimizer, norm where it is chosen, and the number of runs."""
    norm = "" if config["norm"] is None else f" {norm_label(config)}"
    return f"{optimizer_title(config)}{norm}" + (f", {runs} runs" if runs > 1 else "")


def optimizer_title(config: Config) -> str:
    """The optimizer's name, and of one that was written elsewhere the class."""
    target = config["optimizer"].get("target")
    return str(config["optimizer"]["name"]) + ("" if target is None else f" {target}")


def _formed_again(group: Sequence[Cell], interrupted: Sequence[Sequence[str]]) -> list[list[Cell]]:
    """Those of the interrupted batches whose cells are all in the group, each cell once."""
    free: dict[str, Cell] = {}
    for cell in group:
        free.setdefault(cell.directory.name, cell)
    found = []
    for names in interrupted:
        if names and len(set(names)) == len(names) and all(name in free for name in names):
            found.append([free.pop(name) for name in names])
    return found


def _cut(group: list[Cell], fitting: Callable[[Sequence[Cell]], int] | None) -> list[list[Cell]]:
    if not group:
        return []
    config = group[0].config
    linear = MODELS.get(config["model"]["name"]).linear
    if optimizer_of(config).alone:
        return [[cell] for cell in group]
    most = min(len(group), batch_size(group[0].dataset, linear, device_of(config).type))
    if fitting is not None:
        most = max(1, min(most, fitting(group[:most])))
    # Equal parts: 65 runs at 64 a batch are 33 + 32.
    parts = math.ceil(len(group) / most)
    size = math.ceil(len(group) / parts)
    return [group[start : start + size] for start in range(0, len(group), size)]


def _norm_kind(config: Config) -> Any:
    """The norm with an exponent strictly between 1 and inf left out: such exponents are batched."""
    norm = config["norm"]
    if norm is None or "p" not in norm:
        return norm
    return {**norm, "p": norm["p"] if norm["p"] in (1.0, math.inf) else "finite"}


def _uneven(cell: Cell) -> bool:
    """Whether a linear model's gradients need one scale an entry on these data: then other companions would get other bits."""
    if not MODELS.get(cell.config["model"]["name"]).linear:
        return False
    x = torch.from_numpy(cell.dataset.x).to(getattr(torch, cell.config["precision"]))
    return bool(is_uneven(x.unsqueeze(0)))


def _without(section: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key not in keys}
