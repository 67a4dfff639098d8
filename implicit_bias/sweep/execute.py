"""Resolved configurations in, finished run folders out: skip what is done, batch the rest, isolate what fails."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from implicit_bias.datasets import Dataset, make_dataset
from implicit_bias.engine import Diverged, Problem, Trajectory, record_steps, simulate
from implicit_bias.errors import BadInput, NoData, NotSeparable
from implicit_bias.losses import LOSSES
from implicit_bias.models import MODELS, Data, Model, Parameters
from implicit_bias.norms import NORMS, Norm, make_norm
from implicit_bias.optimizers import OPTIMIZERS, Optimizer
from implicit_bias.records import (
    ReferenceCache,
    config_hash,
    fingerprint_of,
    is_finished,
    note,
    read_parameters,
    read_run,
    run_directory,
    warn,
    write_run,
)
from implicit_bias.registry import hyper_fields
from implicit_bias.schedules import SCHEDULES, Schedule, auto_lr, auto_network_lr
from implicit_bias.sweep.checkpoints import Checkpoint, interrupted
from implicit_bias.sweep.memory import SHARE, available, is_out_of_memory, peak_bytes
from implicit_bias.sweep.plan import Cell, Config, batched_fields, batches, device_of, norm_label, own_label, run_elements
from implicit_bias.sweep.references import References, optima, solve_all
from implicit_bias.sweep.tables import summary_table, trajectory_table

Kind = Literal["bad_input", "no_data", "not_separable", "io", "internal"]

# First-order steps that tighten the certificate of the last checkpoint: at most these, a tenth of the run's own steps, and the
# multiply-adds that they may cost in all.
CERTIFICATE_ITERATIONS = 1000  # at the default log.kkt_iters; in proportion to it
DEFAULT_KKT_ITERS = 20
CERTIFICATE_SHARE = 10
CERTIFICATE_BUDGET = 2e11
# From this many doubles in a (runs, classes, samples) array a second thread pays (torch shares out work in pieces of 32,768).
THREADED_ELEMENTS = 2**16
# Arrays of a run's scores, data and parameters that a step, a record or an improved certificate may hold at once: more than any
# does. Where so many would fit into this part of the free memory, nothing is measured.
CRUDE_ARRAYS = 100
EASILY = 0.1
# What a run is measured by: steps, and the certificate's iterations; and how many runs more than the first tell its share from
# what all runs share.
MEASURED_STEPS, MEASURED_ITERATIONS, MEASURED_RUNS = 2, 30, 1


class Progress(Protocol):
    """Told how a sweep is getting on."""

    def status(self, text: str) -> None: ...

    def advance(self, steps: int, total: int, own_ratio: float) -> None: ...

    def cells(self, done: int, total: int) -> None: ...


class Silent:
    """Progress that nobody watches."""

    def status(self, text: str) -> None:
        pass

    def advance(self, steps: int, total: int, own_ratio: float) -> None:
        pass

    def cells(self, done: int, total: int) -> None:
        pass


@dataclass
class Outcome:
    """What became of one cell.

    Attributes:
        config: Its resolved configuration.
        directory: Its run folder.
        status: ``done`` now, ``skipped`` because its folder was finished, or ``failed``.
        error: One line, where it failed.
        error_kind: Whose fault it is.
        trajectory, summary: Its tables, unless it failed.
    """

    config: Config
    directory: Path | None
    status: Literal["done", "skipped", "failed"]
    error: str | None = None
    error_kind: Kind | None = None
    trajectory: pd.DataFrame | None = None
    summary: pd.DataFrame | None = None


def execute(cells: Sequence[Config], *, command: str, progress: Progress | None = None) -> list[Outcome]:
    """Compute every cell that has no finished run folder, in batches, and write each one's folder.

    A cell that cannot be computed (unusable data file, classes that cannot be separated, divergence) fails alone; the
    others finish.

    Args:
        cells: Resolved, checked configurations.
        command: What the user typed, for the provenance.
        progress: Told of every stage.

    Returns:
        One outcome a cell, in order.
    """
    watcher = progress or Silent()
    outcomes: list[Outcome | None] = [None] * len(cells)
    ready: list[Cell] = []
    for found in prepared(cells):
        if isinstance(found, Cell):
            ready.append(found)
        else:
            outcomes[found[0]] = found[1]
    watcher.cells(len(cells) - len(ready), len(cells))
    plan = batches(ready, interrupted_batches(ready), fitting)
    total = sum(batch[0].config["steps"] for batch in plan)
    done = 0
    for batch in plan:
        for cell, outcome in zip(batch, _run_batch(batch, command, watcher, done, total), strict=True):
            outcomes[cell.index] = outcome
        done += batch[0].config["steps"]
        watcher.cells(sum(outcome is not None for outcome in outcomes), len(cells))
    return [outcome for outcome in outcomes if outcome is not None]


def prepared(cells: Sequence[Config]) -> Iterator[Cell | tuple[int, Outcome]]:
    """Cells to compute; or the place and outcome of those that are finished, or cannot be loaded."""
    for found in located(cells):
        if isinstance(found, Cell) and not found.config["force"] and is_finished(found.directory):
            trajectory, summary = read_run(found.directory)
            yield found.index, Outcome(found.config, found.directory, "skipped", trajectory=trajectory, summary=summary)
        else:
            yield found


def located(cells: Sequence[Config]) -> Iterator[Cell | tuple[int, Outcome]]:
    """Cells with their data and run folders, finished or not; or the place and outcome of those that cannot be loaded."""
    datasets: dict[str, tuple[Dataset, str] | BadInput] = {}
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
            start = _start(config, dataset)
        except BadInput as error:
            yield index, Outcome(config, None, "failed", str(error), "bad_input")
            continue
        origin = "" if start is None else fingerprint_of(start)
        directory = run_directory(config["results_dir"], config, config_hash(config, fingerprint, origin))
        yield Cell(index, config, dataset, directory, start)


def interrupted_batches(cells: Sequence[Cell]) -> list[list[str]]:
    """Batches that a checkpoint exists for in the results folders of these cells, as the names of run folders in order."""
    folders = dict.fromkeys(str(cell.config["results_dir"]) for cell in cells)
    return [batch for folder in folders for batch in interrupted(folder)]


def fitting(cells: Sequence[Cell]) -> int:
    """How many of these runs, of one batch in kind, the memory holds at once: all, or what a measurement of a few steps says."""
    free = available(device_of(cells[0].config))
    if free is None or len(cells) <= 1 + MEASURED_RUNS or len(cells) * _crude_bytes(cells[0]) <= EASILY * free:
        return len(cells)
    try:
        one, more = (_measured_bytes(cells[:runs]) for runs in (1, 1 + MEASURED_RUNS))
    except Exception:  # it will be said when the runs are computed
        return len(cells)
    each = max(1.0, (more - one) / MEASURED_RUNS)
    return max(1, int((SHARE * free - max(0.0, one - each)) / (each + _kept_bytes(cells[0]))))


def _crude_bytes(cell: Cell) -> int:
    """More than a run needs."""
    x, shapes = cell.dataset.x, _shapes(cell)
    widest = max(rows for rows, _ in shapes)
    return 8 * CRUDE_ARRAYS * (x.size + len(x) * widest + _size(shapes)) + _kept_bytes(cell)


def _kept_bytes(cell: Cell) -> int:
    """The parameters of all records, where those are kept."""
    log = cell.config["log"]
    return 8 * len(record_steps(cell.config["steps"], log["points"])) * _size(_shapes(cell)) if log["weights"] == "all" else 0


def _shapes(cell: Cell) -> list[tuple[int, int]]:
    """Rows and columns of the parameter blocks of a run."""
    data = cell.dataset
    few = Data(torch.from_numpy(data.x[None, :1]), torch.from_numpy(data.y[None, :1]), data.num_classes)
    blocks = _model(cell.config).initial(few, [cell.config["seed"]]).values()
    return [(block.shape[-2], block.shape[-1]) for block in blocks]


def _size(shapes: Sequence[tuple[int, int]]) -> int:
    return sum(rows * columns for rows, columns in shapes)


def _measured_bytes(cells: Sequence[Cell]) -> int:
    """The most bytes that a batch of these runs has at a time, its start, two steps and their records being measured."""

    def work() -> None:
        problem = build_problem(cells, [{} for _ in cells])
        iterations = min(problem.certificate_iterations, MEASURED_ITERATIONS)
        simulate(replace(problem, steps=MEASURED_STEPS, certificate_iterations=iterations, weights="none"))
        if not problem.model.linear and problem.kkt_products:
            _jacobian_products(problem)

    return peak_bytes(work)


def _jacobian_products(problem: Problem) -> None:
    """What KKT ratios take; a run has none before all its gaps are positive."""
    with torch.no_grad():
        objective = problem.model.objective(problem.data, problem.loss, problem.frozen)
        weights = objective.weights(problem.initial).mT
        objective.push(problem.initial, objective.pull(problem.initial, weights))


def _check(config: Config, dataset: Dataset) -> None:
    """Raises BadInput where model and optimizer do not go with the data, or with each other."""
    model = _model(config)
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
    wanted = {name: tuple(block.shape[1:]) for name, block in _model(config).initial(few, [0]).items()}
    given = {name: block.shape for name, block in found.items()}
    if given != wanted:
        raise BadInput(f"start={folder}: must have the model's blocks, {_in_words(wanted)}; it has {_in_words(given)}")
    return found


def _in_words(blocks: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in blocks.items())


def _model(config: Config) -> Model:
    keys = dict(config["model"])
    model: Model = MODELS.get(keys.pop("name"))(**keys)
    return model


def _loaded(config: Mapping[str, Any]) -> tuple[Dataset, str] | BadInput:
    try:
        source = make_dataset(config)
        return source.load(), source.fingerprint()
    except BadInput as error:
        return error


def _run_batch(batch: Sequence[Cell], command: str, progress: Progress, done: int, total: int) -> list[Outcome]:
    """The outcomes of one batch; one that memory is too small for is halved, and one that breaks is run cell by cell."""
    try:
        return _attempt(batch, command, progress, done, total)
    except OSError as error:
        return [_io_failure(cell, error) for cell in batch]
    except BadInput as error:
        return _one_by_one(batch, command, progress, done, total, error, "bad_input")
    except Exception as error:  # whatever it is, the other cells are to finish
        if not is_out_of_memory(error):
            return _one_by_one(batch, command, progress, done, total, error, "internal")
    # Out of memory. Here, for an error that is being handled keeps alive all that its frames refer to.
    return _halved(batch, command, progress, done, total)


def _attempt(batch: Sequence[Cell], command: str, progress: Progress, done: int, total: int) -> list[Outcome]:
    """The outcomes of one batch computed at once; cells without an optimum drop out of it."""
    references = _references(batch, progress)
    failed = {c.index: r for c, r in zip(batch, references, strict=True) if isinstance(r, NotSeparable)}
    going = [(c, r) for c, r in zip(batch, references, strict=True) if not isinstance(r, NotSeparable)]
    outcomes = {index: Outcome(_config_of(batch, index), None, "failed", str(e), "not_separable") for index, e in failed.items()}
    if going:
        progress.status(_describe(batch[0].config, len(going)))
        computed = _compute([c for c, _ in going], [r for _, r in going], command, progress, done, total)
        outcomes.update({c.index: outcome for (c, _), outcome in zip(going, computed, strict=True)})
    return [outcomes[cell.index] for cell in batch]


def _halved(batch: Sequence[Cell], command: str, progress: Progress, done: int, total: int) -> list[Outcome]:
    """The outcomes of a batch that was too large for the memory."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    config = batch[0].config
    if len(batch) == 1:
        device = device_of(config).type
        message = f"device={device}: out of memory, a single run of this size does not fit; use fewer samples or a smaller model"
        return [Outcome(config, None, "failed", message, "internal")]
    half = len(batch) // 2
    warn(f"{_describe(config, len(batch))}: out of memory; computed as {half} and {len(batch) - half} runs instead")
    return [o for part in (batch[:half], batch[half:]) for o in _run_batch(part, command, progress, done, total)]


def _one_by_one(
    batch: Sequence[Cell], command: str, progress: Progress, done: int, total: int, error: Exception, kind: Kind
) -> list[Outcome]:
    if len(batch) == 1:
        said = " ".join(str(error).split())
        message = said if kind == "bad_input" else f"{type(error).__name__}: {said}"
        return [Outcome(batch[0].config, None, "failed", message, kind)]
    return [_run_batch([cell], command, progress, done, total)[0] for cell in batch]


def _references(batch: Sequence[Cell], progress: Progress) -> Sequence[References | NotSeparable]:
    config = batch[0].config
    model = MODELS.get(config["model"]["name"])
    if config["reference"] == "none" or not model.linear:
        return [{} for _ in batch]
    wanted = [(cell.dataset, _labels(cell.config)) for cell in batch]
    with _threads(batch[0].dataset.x.shape[0] * batch[0].dataset.num_classes):
        return solve_all(wanted, config["reference"], ReferenceCache(config["results_dir"]), progress.status)


def _labels(config: Config) -> list[str]:
    """The norms to log: those asked for, and the optimizer's own."""
    logged = [make_norm(label).label for label in config["log"]["norms"]]
    return list(dict.fromkeys([*logged, own_label(config)]))


def _compute(
    cells: Sequence[Cell], references: Sequence[References], command: str, progress: Progress, done: int, total: int
) -> list[Outcome]:
    """The outcomes of cells whose references are known; runs that diverge drop out, and the others start again without them.

    A checkpoint of just these cells is gone on from; it is removed when all their folders are written.
    """
    started = time.perf_counter()
    config = cells[0].config
    checkpoint = Checkpoint(config["results_dir"], [c.directory.name for c in cells], device_of(config), config["precision"])
    problem = build_problem(cells, references)
    try:
        with _threads(_elements(problem)):
            trajectory = _simulated(problem, checkpoint, _describe(config, len(cells)), progress, done, total)
    except Diverged as error:
        checkpoint.remove()
        lost = {run: Outcome(cells[run].config, None, "failed", str(error), "internal") for run in error.runs}
        kept = [run for run in range(len(cells)) if run not in lost]
        rest = _compute([cells[r] for r in kept], [references[r] for r in kept], command, progress, done, total) if kept else []
        outcomes = {**lost, **dict(zip(kept, rest, strict=True))}
        return [outcomes[run] for run in range(len(cells))]
    except Exception:
        checkpoint.remove()  # these runs will not be computed together again
        raise
    seconds = time.perf_counter() - started + checkpoint.seconds
    written = [_written(cell, run, trajectory, references[run], command, seconds, len(cells)) for run, cell in enumerate(cells)]
    if all(outcome.status == "done" for outcome in written):
        checkpoint.remove()
    return written


def _simulated(
    problem: Problem, checkpoint: Checkpoint, description: str, progress: Progress, done: int, total: int
) -> Trajectory:
    saved = checkpoint.read()
    if saved is not None:
        note(f"{description}: going on from step {saved.step}")
    return simulate(
        problem,
        lambda steps, ratio: progress.advance(done + steps, total, ratio),
        checkpoint.keep,
        None if saved is None else saved.snapshot,
    )


def _written(
    cell: Cell, run: int, trajectory: Trajectory, references: References, command: str, seconds: float, batch: int
) -> Outcome:
    """The outcome of a run whose folder is now written; or could not be, which is no fault of the others."""
    try:
        return _finished(cell, run, trajectory, references, command, seconds, batch)
    except OSError as error:
        return _io_failure(cell, error)


def _elements(problem: Problem) -> int:
    """Numbers in the arrays of a batch, in proportion to the time that its longest operations take."""
    runs, samples = len(next(iter(problem.initial.values()))), problem.data.x.shape[1]
    parameters = None if problem.model.linear else sum(block[0].numel() for block in problem.initial.values())
    return runs * run_elements(samples, problem.data.num_classes, parameters)


@contextmanager
def _threads(elements: int) -> Iterator[None]:
    """One thread for arrays too small to be worth sharing out (a decomposition of a small matrix is slower by far on two); the
    number that torch was given for larger ones.
    """
    given = torch.get_num_threads()
    torch.set_num_threads(given if elements >= THREADED_ELEMENTS else 1)
    try:
        yield
    finally:
        torch.set_num_threads(given)


def _finished(
    cell: Cell, run: int, trajectory: Trajectory, references: References, command: str, seconds: float, batch: int
) -> Outcome:
    config = cell.config
    own = own_label(config)
    table = trajectory_table(trajectory, run, config["seed"], own)
    summary = summary_table(table, config["optimizer"]["name"], own)
    mine = set(table["step"])
    kept = [(step, blocks) for step, blocks in trajectory.parameters.items() if step in mine]
    if config["log"]["weights"] == "last":  # a companion may have stopped at one of this run's records
        kept = kept[-1:]
    provenance: dict[str, Any] = {
        "command": command,
        "device": str(device_of(config)),
        "wall_seconds": seconds / batch,
        "batch_runs": batch,
        "batch_seconds": seconds,
        "references": {
            label: {"solver": r.solver, "lower": r.lower, "upper": r.upper, "seconds": r.seconds}
            for label, r in references.items()
        },
    }
    arrays = {step: {name: block[run].numpy() for name, block in blocks.items()} for step, blocks in kept}
    log_losses = dict(zip(trajectory.steps, trajectory.common["log_loss"][:, run].tolist(), strict=True))
    write_run(
        cell.directory,
        config=config,
        trajectory=table,
        summary=summary,
        weights=_weights_file(arrays, log_losses),
        provenance=provenance,
    )
    return Outcome(config, cell.directory, "done", trajectory=table, summary=summary)


def _weights_file(arrays: Mapping[int, Mapping[str, np.ndarray]], log_losses: Mapping[int, float]) -> dict[str, np.ndarray]:
    """The arrays of final.npz: the last parameters by block name, `log_loss` there and `log_scale` (theta = array *
    exp(log_scale)).

    With ``log.weights=all`` also `steps`, and for every block ``<name>_all`` (records, p, q).
    """
    if not arrays:
        return {}
    steps = sorted(arrays)
    file = dict(arrays[steps[-1]])
    file["log_scale"] = np.array(0.0)
    file["log_loss"] = np.array(log_losses[steps[-1]])
    if len(steps) > 1:
        file["steps"] = np.array(steps)
        file.update({f"{name}_all": np.stack([arrays[s][name] for s in steps]) for name in arrays[steps[-1]]})
    return file


def build_problem(cells: Sequence[Cell], references: Sequence[References]) -> Problem:
    """The engine's problem for cells of one batch, each with its references (empty: none)."""
    config = cells[0].config
    dtype, device = getattr(torch, config["precision"]), device_of(config)
    data, test = _stacked_data([cell.dataset for cell in cells], dtype, device)
    model: Model = _batched(MODELS, [c.config["model"] for c in cells], dtype, device, (-1, 1, 1))
    start = _initial(cells, model, data)
    initial = {name: block for name, block in start.items() if name not in model.frozen_blocks()}
    optimizer: Optimizer = _batched(OPTIMIZERS, [c.config["optimizer"] for c in cells], dtype, device, (-1, 1, 1))
    own = [own_label(cell.config) for cell in cells]
    norm = None if optimizer.own else _batched_norm([cell.config["norm"] for cell in cells], dtype, device)
    geometry_norm = norm or make_norm(optimizer.own or "l2")
    measured = {label: make_norm(label) for label in _labels(config) if label != own[0]}
    measured[geometry_norm.label] = geometry_norm
    labels = {label: own if label == geometry_norm.label else [label] * len(cells) for label in measured}
    ordered = [geometry_norm.label if label == own[0] else label for label in _labels(config)]
    found = optima(references, labels, next(iter(initial)))
    return Problem(
        model=model,
        loss=LOSSES.get(config["loss"]["name"])(),
        optimizer=optimizer,
        schedule=_schedule(cells, model, data, geometry_norm, optimizer, start),
        data=data,
        initial=initial,
        steps=config["steps"],
        measured={label: measured[label] for label in ordered},
        norm=norm,
        optima={label: _moved(optimum, dtype, device) for label, optimum in found.items()},
        points=config["log"]["points"],
        weights=config["log"]["weights"],
        certificate_iterations=_certificate_iterations(cells, len(measured)) if model.linear else 0,
        kkt_products=config["log"]["kkt_iters"],
        frozen={name: start[name] for name in model.frozen_blocks()},
        test=test,
        levels=config["log"]["levels"],
        compile=config["compile"],
        stop_log_loss=-math.inf if config["stop_log10_loss"] is None else config["stop_log10_loss"] * math.log(10),
    )


def _initial(cells: Sequence[Cell], model: Model, data: Data) -> Parameters:
    """Where the runs start: at the model's own points or at given ones, times ``start_scale``."""
    blocks = model.initial(data, [cell.config["seed"] for cell in cells])
    for run, cell in enumerate(cells):
        for name, block in blocks.items():
            if cell.start is not None:
                block[run] = torch.from_numpy(cell.start[name]).to(block)
            if cell.config["start_scale"] != 1:
                block[run] *= cell.config["start_scale"]
    return blocks


def _certificate_iterations(cells: Sequence[Cell], norms: int) -> int:
    data = cells[0].dataset
    work = 4.0 * len(cells) * norms * data.x.size * data.num_classes
    asked = CERTIFICATE_ITERATIONS * cells[0].config["log"]["kkt_iters"] // DEFAULT_KKT_ITERS
    return int(min(asked, cells[0].config["steps"] // CERTIFICATE_SHARE, CERTIFICATE_BUDGET // work))


def _moved(optimum: Any, dtype: torch.dtype, device: torch.device) -> Any:
    separator = None if optimum.separator is None else {n: b.to(device, dtype) for n, b in optimum.separator.items()}
    return replace(optimum, max_margin=optimum.max_margin.to(device, dtype), separator=separator)


def _schedule(cells: Sequence[Cell], model: Model, data: Data, norm: Norm, optimizer: Optimizer, initial: Parameters) -> Schedule:
    configs = [cell.config["schedule"] for cell in cells]
    given = [c["lr"] for c in configs]
    if "auto" in given:
        unit = model.unit_step(data, norm, initial)
        rule = (
            auto_lr(unit, norm, optimizer.normalised)
            if model.linear
            else auto_network_lr(unit, model.degree(), norm, optimizer.normalised)
        )
        automatic = (rule / optimizer.unit).expand(len(cells)).tolist()
        given = [auto if lr == "auto" else lr for lr, auto in zip(given, automatic, strict=True)]
    resolved = [{**c, "lr": lr} for c, lr in zip(configs, given, strict=True)]
    schedule: Schedule = _batched(SCHEDULES, resolved, data.x.dtype, data.x.device, (-1,))
    return schedule


def _batched(registry: Any, configs: Sequence[Config], dtype: torch.dtype, device: torch.device, shape: tuple[int, ...]) -> Any:
    """One object whose numeric fields are numbers where all runs agree, and tensors where they differ."""
    cls = registry.get(configs[0]["name"])
    numeric = batched_fields(registry, cls.name)

    def field(key: str) -> Any:
        values = [c[key] for c in configs]
        if key not in numeric or len(set(values)) == 1:
            return values[0]
        return torch.tensor(values, dtype=dtype, device=device).reshape(shape)

    return cls(**{key: field(key) for key in hyper_fields(cls)})


def _batched_norm(configs: Sequence[Config | None], dtype: torch.dtype, device: torch.device) -> Norm:
    first = configs[0]
    if first is None:
        return make_norm("l2")
    exponents = [c["p"] for c in configs if c is not None and "p" in c]
    if not exponents or len(set(exponents)) == 1:
        return make_norm(**first)
    norm: Norm = NORMS.get(first["name"])(p=torch.tensor(exponents, dtype=dtype, device=device))
    return norm


def _stacked_data(datasets: Sequence[Dataset], dtype: torch.dtype, device: torch.device) -> tuple[Data, Data | None]:
    """Training and test sets, of one run each or, where all runs have the same, once."""
    first = datasets[0]
    own = [first] if all(d is first for d in datasets) else datasets

    def stacked(xs: Sequence[np.ndarray], ys: Sequence[np.ndarray]) -> Data:
        x: Tensor = torch.from_numpy(np.stack(xs)).to(device, dtype)
        return Data(x, torch.from_numpy(np.stack(ys)).to(device), first.num_classes)

    tests = [(d.x_test, d.y_test) for d in own if d.x_test is not None and d.y_test is not None]
    test = stacked([x for x, _ in tests], [y for _, y in tests]) if tests else None
    return stacked([d.x for d in own], [d.y for d in own]), test


def _config_of(batch: Sequence[Cell], index: int) -> Config:
    return next(cell.config for cell in batch if cell.index == index)


def _describe(config: Config, runs: int) -> str:
    norm = "" if config["norm"] is None else f" {norm_label(config)}"
    return f"{config['optimizer']['name']}{norm}" + (f", {runs} runs" if runs > 1 else "")


def _io_failure(cell: Cell, error: OSError) -> Outcome:
    reason = error.strerror or str(error)
    message = f"results_dir={cell.config['results_dir']}: cannot be written ({reason[:1].lower()}{reason[1:]})"
    return Outcome(cell.config, None, "failed", message, "io")
