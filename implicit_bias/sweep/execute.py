"""Resolved configurations in, finished run folders out: skip what is done, batch the rest, isolate what fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from implicit_bias.cli.messages import note, warn
from implicit_bias.config.plugin_files import plugins_in
from implicit_bias.config.spec import RunSpec
from implicit_bias.core.errors import NotSeparable
from implicit_bias.engine import Diverged, Problem, Trajectory, simulate, stepping_of
from implicit_bias.runtime.signals import after_steps
from implicit_bias.runtime.threads import threads_for
from implicit_bias.solvers.reference import SOLVER_VERSION
from implicit_bias.storage.checkpoints import Checkpoint, interrupted
from implicit_bias.storage.references import ReferenceCache
from implicit_bias.storage.runs import DATA, write_run
from implicit_bias.storage.tables import narrowed, summary_table, trajectory_table
from implicit_bias.sweep.batch_size import fitting
from implicit_bias.sweep.content import told
from implicit_bias.sweep.expected import BatchWork, expected_pieces
from implicit_bias.sweep.isolation import io_failure, isolated
from implicit_bias.sweep.loading import finished, prepared
from implicit_bias.sweep.outcome import Outcome, Progress, Silent
from implicit_bias.sweep.plan import Cell, batches, described, run_elements
from implicit_bias.sweep.problem import build_problem
from implicit_bias.sweep.references import Optima, in_closed_form, intervals_of, solve_all
from implicit_bias.sweep.tidying import still_there, tidy_after, tidy_before


def execute(
    specs: Sequence[RunSpec],
    *,
    command: str,
    progress: Progress | None = None,
    sharing: int = 1,
    part: bool = False,
    checked: Callable[[], None] = lambda: None,
) -> list[Outcome]:
    """Compute every run that has no finished run folder, in batches, and write each one's folder.

    A cell that cannot be computed (unusable data file, classes that cannot be separated, divergence) fails alone; the
    others finish.

    Args:
        specs: What is to be computed.
        command: What the user typed, for the provenance.
        progress: Told of every stage.
        sharing: So many processes share the memory there is.
        checked: Called before the first step, once the data are there; not where every cell is refused.
        part: These are some of the cells of a command, and whoever shared them out tells of their data and tidies up.

    Returns:
        One outcome a cell, in order.
    """
    watcher = progress or Silent()
    outcomes: list[Outcome | None] = [None] * len(specs)
    ready: list[Cell] = []
    if not part:
        tidy_before(specs)
    for found in prepared(specs, tell=not part):
        if isinstance(found, Cell):
            ready.append(found)
        else:
            outcomes[found[0]] = found[1]
    if ready or any(outcome is not None and outcome.status != "failed" for outcome in outcomes):
        checked()
    watcher.cells(len(specs) - len(ready), len(specs))
    plan = batches(ready, interrupted_batches(ready), partial(fitting, sharing=sharing))
    for batch, piece in zip(plan, expected_pieces(plan, watcher.work), strict=True):
        attempt = partial(_attempt, command=command, progress=watcher, piece=piece)
        for cell, outcome in zip(batch, isolated(batch, attempt), strict=True):
            outcomes[cell.index] = outcome
        piece.end()
        watcher.cells(sum(outcome is not None for outcome in outcomes), len(specs))
    if not part:
        tidy_after(specs)
    return still_there(outcome for outcome in outcomes if outcome is not None)


def interrupted_batches(cells: Sequence[Cell]) -> list[list[str]]:
    """Batches that a checkpoint exists for in the results folders of these cells, as the names of run folders in order."""
    folders = dict.fromkeys(cell.spec.results_dir for cell in cells)
    return [batch for folder in folders for batch in interrupted(folder)]


def _attempt(batch: Sequence[Cell], command: str, progress: Progress, piece: BatchWork) -> list[Outcome]:
    """The outcomes of one batch computed at once; cells without an optimum drop out of it."""
    piece.attempt(batch)
    references = _references(batch, progress, piece)
    failed = {c.index: r for c, r in zip(batch, references, strict=True) if isinstance(r, NotSeparable)}
    going = [(c, r) for c, r in zip(batch, references, strict=True) if not isinstance(r, NotSeparable)]
    settled = {c.index for c, r in going if c.proven is not None and {label for label in r if r[label].proven} <= c.proven}
    kept = {c.index: finished(c) for c, _ in going if c.index in settled}
    going = [(c, r) for c, r in going if c.index not in settled]
    again = [c.directory for c, _ in going if c.proven is not None]
    if again:
        note(f"{again[0]}{f' and {len(again) - 1} more' if len(again) > 1 else ''}: optima are proven by now; computed again")
    outcomes = {c.index: _not_separable(c, failed[c.index]) for c in batch if c.index in failed}
    if going:
        progress.status(described([c for c, _ in going]))
        with after_steps():
            computed = _compute([c for c, _ in going], [r for _, r in going], command, progress, piece)
        outcomes.update({c.index: outcome for (c, _), outcome in zip(going, computed, strict=True)})
    outcomes.update(kept)
    return [outcomes[cell.index] for cell in batch]


def _not_separable(cell: Cell, error: NotSeparable) -> Outcome:
    # Of perturbed samples nothing is advised: what separates them as they are need not separate them then.
    text = str(error) if cell.spec.model.perturbed is not None else told(error, cell.dataset, cell.spec.dataset)
    return Outcome(cell.spec, None, "failed", text, "not_separable")


def _references(batch: Sequence[Cell], progress: Progress, piece: BatchWork) -> Sequence[Optima | NotSeparable]:
    spec = batch[0].spec
    if spec.reference == "formula":
        return [in_closed_form(cell.dataset, cell.spec.model, cell.spec.measured) for cell in batch]
    if spec.reference == "none" or not spec.model.linear:
        return [{} for _ in batch]
    norms = [
        {
            label: cell.spec.model.matrix_norm(norm, (cell.dataset.num_classes, cell.dataset.x.shape[1]))
            for label, norm in cell.spec.measured.items()
        }
        for cell in batch
    ]
    found: dict[int, Optima | NotSeparable] = {}

    def counted(done: int, total: int) -> None:
        piece.solving(done, total)
        progress.tell()

    with threads_for(batch[0].dataset.x.shape[0] * batch[0].dataset.num_classes):
        for perturbed in dict.fromkeys(cell.spec.model.perturbed for cell in batch):
            mine = [place for place, cell in enumerate(batch) if cell.spec.model.perturbed == perturbed]
            wanted = [(batch[place].dataset, norms[place]) for place in mine]
            cache = ReferenceCache(spec.results_dir, perturbed)
            answers = solve_all(wanted, spec.reference, cache, progress.status, spec.reference_timeout, perturbed, counted)
            found.update(zip(mine, answers, strict=True))
    return [found[place] for place in range(len(batch))]


def _compute(
    cells: Sequence[Cell], references: Sequence[Optima], command: str, progress: Progress, piece: BatchWork
) -> list[Outcome]:
    """The outcomes of cells whose references are known; runs that diverge drop out, and the others start again without them.

    A checkpoint of just these cells is gone on from; it is removed when all their folders are written.
    """
    started = time.perf_counter()
    spec = cells[0].spec
    description, obstacle = described(cells), spec.optimizer.not_resumable
    folders = [c.directory.name for c in cells]
    checkpoint = Checkpoint(spec.results_dir, folders, spec.torch_device, spec.precision, resumable=obstacle is None)
    if obstacle is not None:
        note(f"{description}: no checkpoints, {obstacle}; a computation that is killed starts over")
    problem = replace(build_problem(cells, references), tell=lambda line: warn(f"{description}: {line}"))
    caution = problem.optimizer.caution(problem.initial)
    if caution is not None:
        warn(caution)
    try:
        with threads_for(elements(problem)):
            trajectory = _simulated(problem, checkpoint, description, progress, piece)
    except Diverged as error:
        checkpoint.remove()
        told = partial(Outcome, directory=None, status="failed", error=str(error), error_kind="diverged", diverged_at=error.step)
        lost = {run: told(cells[run].spec) for run in error.runs}
        kept = [run for run in range(len(cells)) if run not in lost]
        rest = _compute([cells[r] for r in kept], [references[r] for r in kept], command, progress, piece) if kept else []
        outcomes = {**lost, **dict(zip(kept, rest, strict=True))}
        return [outcomes[run] for run in range(len(cells))]
    except Exception:
        checkpoint.remove()  # these runs will not be computed together again
        raise
    seconds = time.perf_counter() - started + checkpoint.seconds
    written = [_written(cell, run, trajectory, references[run], command, seconds, len(cells)) for run, cell in enumerate(cells)]
    if all(outcome.status == "done" for outcome in written):
        checkpoint.remove()
    if trajectory.untightened is not None:
        warn(f"{described(cells)}: the last certificates are the trajectory's own ({trajectory.untightened})")
    if trajectory.interrupted is not None:
        raise trajectory.interrupted
    return written


def _simulated(problem: Problem, checkpoint: Checkpoint, description: str, progress: Progress, piece: BatchWork) -> Trajectory:
    saved = checkpoint.read(problem, partial(stepping_of, problem))
    if saved is not None:
        note(f"{description}: going on from step {saved.step}")
    piece.stepping(problem.steps, 0 if saved is None else saved.step)

    def made(steps: int, ratio: float) -> None:
        piece.made(steps)
        progress.tell(ratio, steps)

    def certified(done: int, total: int) -> None:
        progress.status(f"{description}: tightening last certificate {done + 1} of {total}")
        piece.tightening(done, total)
        progress.tell()

    found = simulate(problem, made, checkpoint.keep, None if saved is None else saved.snapshot, certified)
    piece.closing()
    return found


def _written(
    cell: Cell, run: int, trajectory: Trajectory, references: Optima, command: str, seconds: float, batch: int
) -> Outcome:
    """Write a run's folder and return its outcome; a failure to write concerns this run alone."""
    try:
        return _finished(cell, run, trajectory, references, command, seconds, batch)
    except OSError as error:
        return io_failure(cell, error)


def elements(problem: Problem) -> int:
    """Numbers in the arrays of a batch, in proportion to the time that its longest operations take."""
    runs, samples = len(next(iter(problem.initial.values()))), problem.data.x.shape[1]
    parameters = None if problem.model.linear else sum(block[0].numel() for block in problem.initial.values())
    return runs * run_elements(samples, problem.data.num_classes, parameters)


def _finished(
    cell: Cell, run: int, trajectory: Trajectory, references: Optima, command: str, seconds: float, batch: int
) -> Outcome:
    spec = cell.spec
    own = spec.own_label
    intervals = narrowed(trajectory, run, own, intervals_of(cell.dataset, spec.model, spec.measured, references, spec.dtype))
    table = trajectory_table(trajectory, run, spec.seed, own, intervals)
    summary = summary_table(table, spec.optimizer.name, own, intervals)
    mine = set(table["step"])
    kept = [(step, blocks) for step, blocks in trajectory.parameters.items() if step in mine]
    if spec.log.weights == "last":  # a companion may have stopped at one of this run's records
        kept = kept[-1:]
    content = cell.dataset.content()
    provenance: dict[str, Any] = {
        "command": command,
        "data": content,
        "device": str(spec.torch_device),
        "stepping": trajectory.stepping,
        "stepping_refused": trajectory.stepping_refused,
        "stepping_compiled_with": trajectory.compiled_with,
        "wall_seconds": seconds / batch,
        "batch_runs": batch,
        "batch_seconds": seconds,
        "references": {
            label: {
                "solver": r.solver,
                "lower": r.lower,
                "upper": r.upper,
                "proven": r.proven,
                "late": r.late,
                "seconds": r.seconds,
            }
            for label, r in references.items()
        },
        "solver_version": SOLVER_VERSION,
    }
    if spec.optimizer.identity:
        told = trajectory.facts[run] if trajectory.facts else {}
        provenance["optimizer"] = {"identity": spec.optimizer.identity, **told}
    if spec.batch.size is not None:
        samples = len(cell.dataset.x)
        epochs = int(table["step"].iloc[-1]) * spec.batch.size / samples
        provenance["mini_batches"] = {"size": spec.batch.size, "samples": samples, "epochs": epochs}
    used = plugins_in(spec)
    if used:
        provenance["plugins"] = used
    arrays = {step: {name: block[run].numpy() for name, block in blocks.items()} for step, blocks in kept}
    log_losses = dict(zip(trajectory.steps, trajectory.common["log_loss"][:, run].tolist(), strict=True))
    write_run(
        cell.directory,
        # Elsewhere the configuration says what the data are; of a file nobody knows it once the file has changed.
        config=spec.config_yaml if cell.dataset.names is None else {**spec.config_yaml, DATA: content},
        trajectory=table,
        summary=summary,
        weights=_weights_file(arrays, log_losses),
        provenance=provenance,
        probed=trajectory.probed,
    )
    return Outcome(spec, cell.directory, "done", trajectory=table, summary=summary)


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
