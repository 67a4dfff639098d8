"""Where a run starts that goes on from another: the last parameters of the run folder that ``start`` names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from implicit_bias.config.spec import RunSpec
from implicit_bias.core.errors import BadInput
from implicit_bias.datasets import Dataset
from implicit_bias.models import Data
from implicit_bias.storage.integrity import damage
from implicit_bias.storage.runs import read_parameters

Blocks = dict[str, np.ndarray]


class Starts:
    """The starting points of cells; a folder that several name is read once."""

    def __init__(self) -> None:
        self._known: dict[str, Blocks | BadInput] = {}

    def of(self, spec: RunSpec, dataset: Dataset) -> Blocks | None:
        """The blocks (p, q) that a cell starts from; None: the model's own.

        Raises:
            BadInput: The folder is damaged or has no parameters, they are of another model, or with ``start_scale`` they are no
                numbers of the run's precision any more.
        """
        folder = spec.start
        if folder is None:
            return None
        if folder not in self._known:
            self._known[folder] = _read(folder)
        found = self._known[folder]
        if isinstance(found, BadInput):
            raise found
        _check_fit(found, spec, dataset)
        return found


def _read(folder: str) -> Blocks | BadInput:
    found = damage(Path(folder))
    if found:
        return BadInput(f"start={folder}: damaged, {found}; must be the folder of a finished run as the run left it")
    try:
        return read_parameters(Path(folder), f"start={folder}")
    except BadInput as error:
        return error


def _check_fit(found: Blocks, spec: RunSpec, dataset: Dataset) -> None:
    folder = spec.start
    few = Data(torch.from_numpy(dataset.x[None, :1]), torch.from_numpy(dataset.y[None, :1]), dataset.num_classes)
    wanted = {name: tuple(block.shape[1:]) for name, block in spec.model.initial(few, [0]).items()}
    given = {name: block.shape for name, block in found.items()}
    if given != wanted:
        raise BadInput(f"start={folder}: must have the model's blocks, {_in_words(wanted)}; it has {_in_words(given)}")
    largest = max(float(np.abs(block).max(initial=0.0)) for block in found.values())
    if largest * spec.start_scale > float(np.finfo(spec.precision).max):
        raise BadInput(
            f"start={folder}: its largest parameter is {largest:g}, which times start_scale={spec.start_scale:g} is no"
            f" {spec.precision} any more; must be a smaller start_scale"
        )


def _in_words(blocks: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in blocks.items()) or "none"
