"""What the command prints of a run and of a sweep, made from what was computed."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from implicit_bias.analysis.answers import answer_sentence, depth_line, missed_line
from implicit_bias.cli.matrix import sweep_grid
from implicit_bias.cli.notes import batch_notes, linear_notes, network_notes, precision_notes, slow_notes
from implicit_bias.cli.show import Answer
from implicit_bias.cli.tables import LEGEND, run_grid, share_of
from implicit_bias.config.overrides import Cell
from implicit_bias.config.spec import RunSpec
from implicit_bias.sweep.outcome import Outcome
from implicit_bias.sweep.table import known_provenance, write_sweep_table

# Folders that are named one by one.
MOST_FOLDERS = 8
FINISHED = "finished before; force=true computes it again"


def of_run(spec: RunSpec, outcome: Outcome) -> Answer:
    """The table of one run, how far it came, what it says in a sentence, and where it is.

    Args:
        spec: What was computed.
        outcome: Its outcome, with tables.
    """
    summary, trajectory = outcome.summary, outcome.trajectory
    assert summary is not None and trajectory is not None and outcome.directory is not None
    story = known_provenance(outcome.directory)
    sentence = answer_sentence(_called(spec), trajectory, summary, (story.get("data") or {}).get("num_classes"))
    missed = missed_line(summary, spec.stop_log10_loss)
    said = [depth_line(summary), *([f"=> {sentence}"] if sentence else []), *([missed] if missed else [])]
    notes = [
        *(network_notes(summary, spec.model.homogeneous) if "soft_margin" in summary else linear_notes(summary, _scales(spec))),
        *_batches(spec, story),
        *_remarks(spec, summary, story),
        *(slow_notes([spec.optimizer.name]) if _takes_constant_steps(spec) else []),
        *_rounding(spec, outcome),
    ]
    legend = [LEGEND] if summary["own"].any() else []
    facts = {**_facts_of_run(summary), "sentence": sentence, "notes": notes, "folder": str(outcome.directory)}
    answer = Answer(run_grid(summary, spec.certificate == "show"), (*legend, *said, *notes, str(outcome.directory)), facts)
    return as_finished(answer) if outcome.status == "skipped" else answer


def _called(spec: RunSpec) -> str:
    """The method as a sentence begins: of a class from elsewhere its name, without where it is."""
    return spec.optimizer.class_name or spec.method


def as_finished(answer: Answer) -> Answer:
    """The answer of a run, given when its command is given again."""
    *lines, folder = answer.lines
    return answer if FINISHED in lines else replace(answer, lines=(*lines, FINISHED, folder))


def of_sweep(cells: Sequence[Cell], outcomes: Sequence[Outcome]) -> Answer:
    """The matrix of a sweep, how many runs there are, where they are, and the command to look at them. Writes the sweep's table.

    Args:
        cells: What was asked for.
        outcomes: One a cell, in order, some with tables.

    Raises:
        OSError: the table cannot be written.
    """
    pairs = [(cell, outcome) for cell, outcome in zip(cells, outcomes, strict=True) if outcome.summary is not None]
    good = [(cell.swept, outcome.summary) for cell, outcome in pairs if outcome.summary is not None]
    grid, captions = sweep_grid(good)
    table = write_sweep_table([cell.swept for cell in cells], outcomes, cells[0].spec.results_dir)
    slow = slow_notes([cell.spec.optimizer.name for cell, _ in pairs if _takes_constant_steps(cell.spec)])
    precisions = {cell.spec.precision for cell in cells}
    rounding = precision_notes(cells[0].spec.precision) if len(precisions) == 1 else []
    compare = f"python -m implicit_bias.compare {shlex.quote(str(table.parent))}"
    following = ["next, all of them in one picture:", f"  {compare}"]
    lines = [*captions, *slow, *rounding, *following, _counts(outcomes), *_folders(outcomes), f"table of the sweep: {table}"]
    facts = {
        "runs": [
            {**_swept(cell.swept), **_facts_of_run(outcome.summary), "folder": str(outcome.directory)}
            for cell, outcome in pairs
            if outcome.summary is not None
        ],
        "failed": [{**_swept(c.swept), "error": o.error} for c, o in zip(cells, outcomes, strict=True) if o.status == "failed"],
        "table": str(table),
        "next": compare,
    }
    return Answer(grid, tuple(lines), facts)


def _counts(outcomes: Sequence[Outcome]) -> str:
    done = sum(outcome.status == "done" for outcome in outcomes)
    skipped = sum(outcome.status == "skipped" for outcome in outcomes)
    diverged = sum(outcome.diverged_at is not None for outcome in outcomes)
    failed = len(outcomes) - done - skipped
    return f"{done} computed, {skipped} finished before, {failed} failed{f', {diverged} of them diverged' * (diverged > 0)}"


def _folders(outcomes: Sequence[Outcome]) -> list[str]:
    folders = list(dict.fromkeys(str(outcome.directory) for outcome in outcomes if outcome.directory is not None))
    return folders if len(folders) <= MOST_FOLDERS else [f"{len(folders)} folders in {Path(folders[0]).parent}"]


def _facts_of_run(summary: pd.DataFrame) -> dict[str, Any]:
    """What a summary says, in JSON's types; null where there is no number."""
    first = summary.iloc[0]
    norms = []
    for _, row in summary.iterrows():
        share, about = share_of(row)
        norms.append(
            {
                "norm": str(row["norm"]),
                "own": bool(row["own"]),
                "margin": _number(row["margin"]),
                "best_possible": _number(row["max_margin"]),
                "share": _number(share),
                "share_is_a_lower_bound": bool(about),
                "upper_bound": _number(row["upper_bound"]),
                "kkt_ratio": _number(row["kkt_ratio"]),
            }
        )
    depth = {"step": int(first["step"]), "log10_loss": _number(first["log_loss"] / math.log(10))}
    known = {"optimizer": str(first["optimizer"]), "seed": int(first["seed"])}
    return {**known, **depth, "accuracy": _number(first["accuracy"]), "norms": norms}


def _number(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _swept(values: Any) -> dict[str, Any]:
    return {key: value if isinstance(value, str | int | float | bool | None) else str(value) for key, value in values.items()}


def _scales(spec: RunSpec) -> bool:
    """Whether the data have features as they were brought, in units of their own."""
    return getattr(spec.dataset, "standardize", None) is False


def _batches(spec: RunSpec, story: dict[str, Any]) -> list[str]:
    """How often a run by mini-batches went through its samples."""
    told = story.get("mini_batches") if spec.batch.size is not None else None
    return batch_notes(told["size"], told["samples"], told["epochs"], spec.batch.variance_reduction) if told else []


def _remarks(spec: RunSpec, summary: pd.DataFrame, story: dict[str, Any]) -> list[str]:
    """What the optimizer tells of a run; only those that were written elsewhere have facts in the provenance."""
    if not spec.optimizer.identity:
        return []
    return list(spec.optimizer.remarks(float(summary["log_loss"].iloc[0]), story.get("optimizer") or {}))


def _takes_constant_steps(spec: RunSpec) -> bool:
    """Whether a run is steepest descent with a constant step, eta N_*(gradient), on a linear model."""
    finite = spec.schedule.lr != math.inf  # else steps have the length that the loss asks for
    shrinks = not spec.optimizer.normalised and spec.optimizer.shrinks_with_gradient
    return spec.model.linear and shrinks and spec.schedule.constant and finite


def _rounding(spec: RunSpec, outcome: Outcome) -> list[str]:
    """What single precision cost a run."""
    if spec.precision == "float64" or outcome.directory is None:
        return []
    from implicit_bias.sweep.rounding import own_margin_in_double

    return precision_notes(spec.precision, outcome.summary, own_margin_in_double(spec, outcome.directory))
