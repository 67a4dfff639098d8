"""Preparation of cells: data are loaded and checked against the model, and finished cells are separated from the others."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from implicit_bias.config.plugin_files import plugin_fingerprint
from implicit_bias.config.spec import RunSpec
from implicit_bias.core.errors import BadInput, NoData
from implicit_bias.datasets import Dataset
from implicit_bias.models import Data, Parameters
from implicit_bias.norms import NORMS
from implicit_bias.norms.identities import check_added
from implicit_bias.runtime.memory import check_fits
from implicit_bias.solvers.enclosure import relative_gap
from implicit_bias.solvers.reference import PROVEN
from implicit_bias.storage.integrity import PROVENANCE, damage
from implicit_bias.storage.runs import fingerprint_of, kept_directory, read_finished, read_run
from implicit_bias.sweep.content import tell_content
from implicit_bias.sweep.outcome import Kind, Outcome
from implicit_bias.sweep.plan import Cell
from implicit_bias.sweep.references import in_closed_form
from implicit_bias.sweep.start import Starts

# A margin of an earlier version may lie above the lower end of an optimum's interval by that interval's width.
EARLIER_ROUNDING = 1e-5
#: So many numbers of test samples, 128 MB, are held by the cells of a command; those of further datasets are drawn again by the
#: batch that they are for.
HELD_TEST = 2**24


def prepared(specs: Sequence[RunSpec], tell: bool = True) -> Iterator[Cell | tuple[int, Outcome]]:
    """Cells to compute; or the place and outcome of those that are finished, or cannot be loaded.

    A finished run some of whose optima are not proven is among the cells to compute, so that they are tried again.

    Args:
        tell: Say what was found in data files, once a file.
    """
    for found in located(specs, tell):
        if not isinstance(found, Cell):
            yield found
            continue
        taken = _taken(found)
        if taken:
            yield found.index, Outcome(found.spec, None, "failed", taken, "bad_input")
            continue
        tables = None if found.spec.force else read_finished(found.directory)
        if tables is None:
            yield found
            continue
        known = proven_optima(found.directory, tables[0])
        if known is None:
            yield found.index, Outcome(found.spec, found.directory, "skipped", trajectory=tables[0], summary=tables[1])
        else:
            yield replace(found, proven=known)


def finished(cell: Cell) -> Outcome:
    """The outcome of a cell whose folder was found to be finished."""
    trajectory, summary = read_run(cell.directory)
    return Outcome(cell.spec, cell.directory, "skipped", trajectory=trajectory, summary=summary)


def proven_optima(directory: Path, trajectory: pd.DataFrame) -> frozenset[str] | None:
    """The norms whose optima a finished run has, where others of its references are worth trying again; None where none is.

    Those are intervals whose time ran out, and what an earlier version of the solvers took for an optimum: an interval wider than
    is allowed, or a margin above it.
    """
    story = json.loads((directory / PROVENANCE).read_bytes())
    references: Mapping[str, Mapping[str, Any]] = story.get("references") or {}
    wide = {label for label, r in references.items() if relative_gap(r["lower"], r["upper"]) > PROVEN}
    if "solver_version" in story:
        again = {label for label in wide if references[label]["late"]}
    else:
        above = trajectory["margin"] > trajectory["max_margin"] * (1 + EARLIER_ROUNDING)
        again = wide | set(trajectory["norm"][above])
    return frozenset(references) - again if again else None


def located(specs: Sequence[RunSpec], tell: bool = False) -> Iterator[Cell | tuple[int, Outcome]]:
    """Cells with their data and run folders, finished or not; or the place and outcome of those that cannot be loaded."""
    datasets: dict[str, tuple[Dataset, str] | BadInput] = {}
    held = 0
    starts = Starts()
    for index, spec in enumerate(specs):
        key = spec.dataset_text
        if key not in datasets:
            datasets[key], held = _within(_loaded(spec, tell), held)
        loaded = datasets[key]
        if isinstance(loaded, BadInput):
            kind: Kind = "no_data" if isinstance(loaded, NoData) else "bad_input"
            yield index, Outcome(spec, None, "failed", str(loaded), kind)
            continue
        dataset, fingerprint = loaded
        try:
            _check(spec, dataset)
            start = starts.of(spec, dataset)
        except BadInput as error:
            yield index, Outcome(spec, None, "failed", str(error), "bad_input")
            continue
        origin = "" if start is None else fingerprint_of(start)
        digest = spec.hash(fingerprint, origin, plugin_fingerprint(spec), spec.optimizer.identity)
        yield Cell(index, spec, dataset, kept_directory(spec, digest), start)


def _within(loaded: tuple[Dataset, str] | BadInput, held: int) -> tuple[tuple[Dataset, str] | BadInput, int]:
    """What was loaded, its test samples left out where more of them would be held than are to be; and how many are then."""
    if isinstance(loaded, BadInput) or loaded[0].x_test is None:
        return loaded, held
    dataset, fingerprint = loaded
    held += loaded[0].x_test.size
    return (loaded, held) if held <= HELD_TEST else ((dataset.without_test(), fingerprint), held - loaded[0].x_test.size)


def _taken(cell: Cell) -> str | None:
    """What stands where the run's folder is to go and cannot be replaced, in words; None: nothing."""
    places = {path: "a file" for path in (cell.directory.parent, cell.directory) if path.exists() and not path.is_dir()}
    if cell.directory.is_symlink() and (cell.spec.force or damage(cell.directory)):
        places[cell.directory] = "a link" if cell.spec.force else "a link, and not to a finished run"
    for path, kind in places.items():
        return f"results_dir={cell.spec.results_dir}: {path} is {kind}, and a folder has to go there; move it away"
    return None


def _check(spec: RunSpec, dataset: Dataset) -> None:
    """Raises BadInput where model and optimizer do not go with the data, or with each other."""
    model = spec.model
    model.check(dataset.x, dataset.num_classes)
    spec.schedule.check(dataset.x)
    (samples, features), classes = dataset.x.shape, dataset.num_classes
    if spec.batch.size is not None and spec.batch.size > samples:
        raise BadInput(
            f"batch.size={spec.batch.size}: the data have {samples} samples; must be null or an integer in [1, {samples}]"
        )
    check_fits(model.numbers(features, classes), "the parameters of one run", "model", model)
    check_fits(samples * classes, "the scores of one run", "dataset", spec.dataset)
    if getattr(spec.optimizer, "matrices", None) is not None:
        names = list(_trained(spec, dataset))
        spec.optimizer.geometry(names, spec.working_norm, None, model.hidden_matrices(names))
    _check_norms(spec, dataset)
    if spec.reference == "formula":
        in_closed_form(dataset, model, spec.measured)


def _check_norms(spec: RunSpec, dataset: Dataset) -> None:
    """Try norms of plugins on matrices as this run has them, before anything is proven. Raises BadInput."""
    added = [norm for norm in spec.measured.values() if norm.name in NORMS.added()]
    shapes = [(block.shape[-2], block.shape[-1]) for block in _trained(spec, dataset).values()] if added else []
    for norm in added:
        vector = [(1, sum(p * q for p, q in shapes))] if norm.entrywise and len(shapes) > 1 else []
        check_added(norm, vector or list(dict.fromkeys(shapes)))


def _trained(spec: RunSpec, dataset: Dataset) -> Parameters:
    """The trained parameters of a run, (1, p, q) a block, for their names and shapes."""
    few = Data(torch.from_numpy(dataset.x[None, :1]), torch.from_numpy(dataset.y[None, :1]), dataset.num_classes)
    initial = spec.model.initial(few, [0])
    return {name: block for name, block in initial.items() if name not in spec.model.frozen_blocks()}


def _loaded(spec: RunSpec, tell: bool) -> tuple[Dataset, str] | BadInput:
    try:
        source = spec.dataset
        check_fits(source.numbers(), "the samples", "dataset", source)
        dataset = source.load()
        fingerprint = source.fingerprint() + dataset.reading
    except BadInput as error:
        return error
    except MemoryError:
        return BadInput(f"dataset={spec.dataset_name}: the samples do not fit into the memory there is; must be fewer or smaller")
    if tell:
        tell_content(dataset)
    return dataset, fingerprint
