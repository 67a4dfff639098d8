"""The result of a sweep: one table, a row a cell and norm, in results/sweeps/<name>/table.csv."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from implicit_bias.probes import PROBES
from implicit_bias.storage.files import atomic_write_bytes, csv_bytes
from implicit_bias.storage.integrity import PROVENANCE
from implicit_bias.storage.naming import dataset_name
from implicit_bias.sweep.outcome import Outcome

#: Behind the swept keys.
COLUMNS = (
    "optimizer", "seed", "norm", "own", "step", "log_loss", "accuracy", "margin", "max_margin", "ratio", "upper_bound",
    "alignment", "kkt_ratio",
)  # fmt: skip
#: The last column, in a sweep in which runs diverged: why there is no run folder.
ERROR = "error"


def sweep_table(swept: Sequence[Mapping[str, Any]], outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """A row for every norm of every cell that has a summary: swept keys, last step, wall seconds, run folder, and behind these
    the epochs of a cell with mini-batches and the columns of the probes that it has. A cell whose run diverged has one row, with
    the step at which it did, and why in a last column.

    Args:
        swept: The swept keys of each cell with its values.
        outcomes: What became of each cell.
    """
    parts = []
    for values, outcome in zip(swept, outcomes, strict=True):
        if outcome.diverged_at is not None:
            part = _diverged(outcome)
        elif outcome.summary is not None and outcome.directory is not None:
            story = known_provenance(outcome.directory)
            behind: dict[str, Any] = {"wall_seconds": _number(story, "wall_seconds"), "folder": outcome.directory.name}
            if outcome.spec.batch.size is not None:
                behind["epochs"] = _number(story.get("mini_batches"), "epochs")
            probed = [column for name in outcome.spec.log.probes for column in PROBES.get(name).writes()]
            part = outcome.summary.assign(**behind)[[*COLUMNS, *behind, *probed]]
        else:
            continue
        front = {key: value for key, value in values.items() if key not in COLUMNS}
        for place, (key, value) in enumerate(front.items()):
            part.insert(place, key, [value] * len(part))
        parts.append(part)
    if not parts:
        return pd.DataFrame(columns=[*COLUMNS, "wall_seconds", "folder"])
    table = pd.concat(parts, ignore_index=True)
    return table[[*(name for name in table.columns if name != ERROR), ERROR]] if ERROR in table else table


def _diverged(outcome: Outcome) -> pd.DataFrame:
    spec = outcome.spec
    known = {"optimizer": spec.optimizer.name, "seed": spec.seed, "own": False, "step": outcome.diverged_at, ERROR: outcome.error}
    return pd.DataFrame([known], columns=[*COLUMNS, "wall_seconds", "folder", ERROR])


def write_sweep_table(swept: Sequence[Mapping[str, Any]], outcomes: Sequence[Outcome], results_dir: str | Path) -> Path:
    """Write the table of a sweep to its folder. Returns its path."""
    path = sweep_folder(outcomes, results_dir) / "table.csv"
    atomic_write_bytes(path, csv_bytes(sweep_table(swept, outcomes)))
    return path


def sweep_folder(outcomes: Sequence[Outcome], results_dir: str | Path) -> Path:
    """The folder of a sweep's result, under a name that the set of its run folders determines."""
    folders = sorted(outcome.directory.name for outcome in outcomes if outcome.directory is not None)
    digest = hashlib.sha256(json.dumps(folders).encode()).hexdigest()[:12]
    spec = outcomes[0].spec
    names = {dataset_name(outcome.spec) for outcome in outcomes}

    def called(data: str) -> Path:
        return Path(results_dir) / "sweeps" / f"{spec.name or '-'.join([data, spec.model.name])}-{digest}"

    earlier = called(spec.dataset_name)  # as versions called it that did not name a data file
    folder = called(names.pop()) if len(names) == 1 else earlier
    return earlier if earlier.is_dir() and not folder.exists() else folder


def known_provenance(directory: Path) -> dict[str, Any]:
    """What a run's folder says of how it was made; empty where that cannot be read."""
    try:
        story = json.loads((directory / PROVENANCE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return story if isinstance(story, dict) else {}


def _number(story: Any, key: str) -> float:
    """A number of a provenance; nan where there is none."""
    try:
        return float(story[key])
    except (ValueError, KeyError, TypeError):
        return float("nan")
