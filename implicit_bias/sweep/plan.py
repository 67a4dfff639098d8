"""Which runs are computed together: everything that is not a batchable number must be equal, and shapes must agree."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from implicit_bias.datasets import Dataset
from implicit_bias.models import MODELS
from implicit_bias.norms import make_norm
from implicit_bias.optimizers import OPTIMIZERS
from implicit_bias.registry import Registry, hyper_fields
from implicit_bias.schedules import SCHEDULES

Config = Mapping[str, Any]

# Doubles in one (runs, classes, samples) array of a batch. Past this the arrays leave the cache and a run costs more, not less.
BATCH_ELEMENTS = 2**18
# Doubles of training data in a batch of networks, 128 MB: their arrays never fit the cache, and activations are of this order.
NETWORK_DOUBLES = 2**24


@dataclass(frozen=True)
class Cell:
    """One run, ready to be computed.

    Attributes:
        index: Its place in the list it came in.
        config: The resolved configuration.
        dataset: Its data.
        directory: Its run folder.
    """

    index: int
    config: Config
    dataset: Dataset
    directory: Path


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
    return json.dumps({**kept, **plain, "norm": _norm_kind(config), "shape": shape}, sort_keys=True)


def batches(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cut the cells into batches, in the order in which their first cells came."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(group_key(cell), []).append(cell)
    return [part for group in groups.values() for part in _cut(group)]


def batch_size(dataset: Dataset, linear: bool = True) -> int:
    """How many runs on data of this shape are computed at once."""
    if not linear:
        return max(1, NETWORK_DOUBLES // dataset.x.size)
    return max(1, BATCH_ELEMENTS // (dataset.x.shape[0] * dataset.num_classes))


def own_label(config: Config) -> str:
    """The label of the norm that the cell's optimizer works in."""
    keys = dict(config["optimizer"])
    own: str | None = OPTIMIZERS.get(keys.pop("name"))(**keys).own
    return own or norm_label(config)


def norm_label(config: Config) -> str:
    """The label of the norm that the `norm` key names; l2 where it is not given."""
    if config["norm"] is None:
        return "l2"
    return make_norm(**config["norm"]).label


def _cut(group: list[Cell]) -> list[list[Cell]]:
    # Equal parts: 65 runs at 64 a batch are 33 + 32.
    linear = MODELS.get(group[0].config["model"]["name"]).linear
    parts = math.ceil(len(group) / batch_size(group[0].dataset, linear))
    size = math.ceil(len(group) / parts)
    return [group[start : start + size] for start in range(0, len(group), size)]


def _norm_kind(config: Config) -> Any:
    """The norm with an exponent strictly between 1 and inf left out: such exponents are batched."""
    norm = config["norm"]
    if norm is None or "p" not in norm:
        return norm
    return {**norm, "p": norm["p"] if norm["p"] in (1.0, math.inf) else "finite"}


def _without(section: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key not in keys}
