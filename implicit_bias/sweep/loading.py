"""Cells made ready: data loaded, checked against the model, and what is finished told from what is to be computed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from implicit_bias.datasets import Dataset, make_dataset
from implicit_bias.errors import BadInput, NoData
from implicit_bias.models import Data
from implicit_bias.optimizers import OPTIMIZERS
from implicit_bias.records import config_hash, fingerprint_of, is_finished, kept_directory, read_parameters, read_run
from implicit_bias.sweep.content import tell_content
from implicit_bias.sweep.outcome import Kind, Outcome
from implicit_bias.sweep.plan import Cell, Config, model_of


def prepared(cells: Sequence[Config], tell: bool = True) -> Iterator[Cell | tuple[int, Outcome]]:
    """Cells to compute; or the place and outcome of those that are finished, or cannot be loaded.

    Args:
        tell: Say what was found in data files, once a file.
    """
    for found in located(cells, tell):
        if isinstance(found, Cell) and not found.config["force"] and is_finished(found.directory):
            trajectory, summary = read_run(found.directory)
            yield found.index, Outcome(found.config, found.directory, "skipped", trajectory=trajectory, summary=summary)
        else:
            yield found


def located(cells: Sequence[Config], tell: bool = False) -> Iterator[Cell | tuple[int, Outcome]]:
    """Cells with their data and run folders, finished or not; or the place and outcome of those that cannot be loaded."""
    datasets: dict[str, tuple[Dataset, str] | BadInput] = {}
    for index, config in enumerate(cells):
        key = json.dumps(config["dataset"], sort_keys=True)
        if key not in datasets:
            datasets[key] = _loaded(config["dataset"], tell)
        loaded = datasets[key]
        if isinstance(loaded, BadInput):
            kind: Kind = "no_data" if isinstance(loaded, NoData) else "bad_input"
            yield index, Outcome(config, None, "failed", str(loaded), kind)
            continue
        dataset, fingerprint = loaded
        try:
            _check(config, dataset)
            start = _start(config, dataset)
        except BadInput as error:
            yield index, Outcome(config, None, "failed", str(error), "bad_input")
            continue
        origin = "" if start is None else fingerprint_of(start)
        directory = kept_directory(config["results_dir"], config, config_hash(config, fingerprint, origin))
        yield Cell(index, config, dataset, directory, start)


def _check(config: Config, dataset: Dataset) -> None:
    """Raises BadInput where model and optimizer do not go with the data, or with each other."""
    model = model_of(config)
    model.check(dataset.x, dataset.num_classes)
    if config["optimizer"].get("matrices") is not None:
        few = Data(torch.from_numpy(dataset.x[None, :1]), torch.from_numpy(dataset.y[None, :1]), dataset.num_classes)
        names = [name for name in model.initial(few, [0]) if name not in model.frozen_blocks()]
        keys = dict(config["optimizer"])
        OPTIMIZERS.get(keys.pop("name"))(**keys).geometry(names, None, None, model.hidden_matrices(names))


def _start(config: Config, dataset: Dataset) -> dict[str, np.ndarray] | None:
    """The parameters of the run folder that ``start`` names. Raises BadInput: it has none, or they are another model's."""
    folder = config["start"]
    if folder is None:
        return None
    try:
        found = read_parameters(Path(folder))
    except (OSError, ValueError, KeyError, BadZipFile):
        raise BadInput(f"start={folder}: must be the folder of a finished run with final.npz (log.weights=last or all)") from None
    few = Data(torch.from_numpy(dataset.x[None, :1]), torch.from_numpy(dataset.y[None, :1]), dataset.num_classes)
    wanted = {name: tuple(block.shape[1:]) for name, block in model_of(config).initial(few, [0]).items()}
    given = {name: block.shape for name, block in found.items()}
    if given != wanted:
        raise BadInput(f"start={folder}: must have the model's blocks, {_in_words(wanted)}; it has {_in_words(given)}")
    return found


def _in_words(blocks: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in blocks.items())


def _loaded(config: Mapping[str, Any], tell: bool) -> tuple[Dataset, str] | BadInput:
    try:
        source = make_dataset(config)
        dataset = source.load()
        fingerprint = source.fingerprint() + dataset.reading
    except BadInput as error:
        return error
    if tell:
        tell_content(dataset)
    return dataset, fingerprint
