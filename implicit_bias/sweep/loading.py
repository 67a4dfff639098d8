"""Cells made ready: data loaded, checked against the model, and what is finished told from what is to be computed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from implicit_bias.datasets import Dataset, make_dataset
from implicit_bias.errors import BadInput, NoData
from implicit_bias.models import Data
from implicit_bias.optimizers import OPTIMIZERS
from implicit_bias.records import config_hash, damage, fingerprint_of, read_finished, run_directory
from implicit_bias.sweep.memory import check_fits
from implicit_bias.sweep.outcome import Kind, Outcome
from implicit_bias.sweep.plan import Cell, Config, model_of
from implicit_bias.sweep.start import Starts


def prepared(cells: Sequence[Config]) -> Iterator[Cell | tuple[int, Outcome]]:
    """Cells to compute; or the place and outcome of those that are finished, or cannot be loaded."""
    for found in located(cells):
        if not isinstance(found, Cell):
            yield found
            continue
        taken = _taken(found)
        if taken:
            yield found.index, Outcome(found.config, None, "failed", taken, "bad_input")
            continue
        tables = None if found.config["force"] else read_finished(found.directory)
        if tables:
            yield found.index, Outcome(found.config, found.directory, "skipped", trajectory=tables[0], summary=tables[1])
        else:
            yield found


def located(cells: Sequence[Config]) -> Iterator[Cell | tuple[int, Outcome]]:
    """Cells with their data and run folders, finished or not; or the place and outcome of those that cannot be loaded."""
    datasets: dict[str, tuple[Dataset, str] | BadInput] = {}
    starts = Starts()
    for index, config in enumerate(cells):
        key = json.dumps(config["dataset"], sort_keys=True)
        if key not in datasets:
            datasets[key] = _loaded(config["dataset"])
        loaded = datasets[key]
        if isinstance(loaded, BadInput):
            kind: Kind = "no_data" if isinstance(loaded, NoData) else "bad_input"
            yield index, Outcome(config, None, "failed", str(loaded), kind)
            continue
        dataset, fingerprint = loaded
        try:
            _check(config, dataset)
            start = starts.of(config, dataset)
        except BadInput as error:
            yield index, Outcome(config, None, "failed", str(error), "bad_input")
            continue
        origin = "" if start is None else fingerprint_of(start)
        directory = run_directory(config["results_dir"], config, config_hash(config, fingerprint, origin))
        yield Cell(index, config, dataset, directory, start)


def _taken(cell: Cell) -> str | None:
    """What stands where the run's folder is to go and cannot be replaced, in words; None: nothing."""
    places = {path: "a file" for path in (cell.directory.parent, cell.directory) if path.exists() and not path.is_dir()}
    if cell.directory.is_symlink() and (cell.config["force"] or damage(cell.directory)):
        places[cell.directory] = "a link" if cell.config["force"] else "a link, and not to a finished run"
    for path, kind in places.items():
        return f"results_dir={cell.config['results_dir']}: {path} is {kind}, and a folder has to go there; move it away"
    return None


def _check(config: Config, dataset: Dataset) -> None:
    """Raises BadInput where model and optimizer do not go with the data, or with each other."""
    model = model_of(config)
    model.check(dataset.x, dataset.num_classes)
    (samples, features), classes = dataset.x.shape, dataset.num_classes
    check_fits(model.numbers(features, classes), "the parameters of one run", "model", config["model"])
    check_fits(samples * classes, "the scores of one run", "dataset", config["dataset"])
    if config["optimizer"].get("matrices") is not None:
        few = Data(torch.from_numpy(dataset.x[None, :1]), torch.from_numpy(dataset.y[None, :1]), dataset.num_classes)
        names = [name for name in model.initial(few, [0]) if name not in model.frozen_blocks()]
        keys = dict(config["optimizer"])
        OPTIMIZERS.get(keys.pop("name"))(**keys).geometry(names, None, None, model.hidden_matrices(names))


def _loaded(config: Mapping[str, Any]) -> tuple[Dataset, str] | BadInput:
    try:
        source = make_dataset(config)
        check_fits(source.numbers(), "the samples", "dataset", config)
        return source.load(), source.fingerprint()
    except BadInput as error:
        return error
    except MemoryError:
        return BadInput(f"dataset={config['name']}: the samples do not fit into the memory there is; must be fewer or smaller")
