"""Run folders, their tables and provenance, and the cache of references: everything that is kept on disk.

A run folder is written whole or not at all: its files go to a temporary sibling, each is flushed to the disk, and one rename
makes the folder appear. ``provenance.json`` holds the SHA-256 of every other file, so a folder that was cut short or edited
afterwards is recognised as unfinished.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml

from implicit_bias.cli.messages import warn
from implicit_bias.core.arrays import read_arrays
from implicit_bias.core.errors import BadInput
from implicit_bias.storage.files import csv_bytes, npz_bytes, read_table, write_folder
from implicit_bias.storage.integrity import PROVENANCE, damage
from implicit_bias.storage.naming import dataset_name, default_name
from implicit_bias.storage.provenance import surroundings

if TYPE_CHECKING:
    from implicit_bias.config.spec import RunSpec

COLUMNS = (
    "seed", "step", "lr", "log_loss", "accuracy", "norm", "margin", "max_margin", "relative_gap", "upper_bound", "correlation",
    "alignment", "kkt_ratio", "param_norm",
)  # fmt: skip
#: What tells a table of a run, of whatever version, from another.
TOLD_BY = ("seed", "step", "norm", "margin")
#: Behind the others where a run has them: networks, data with a test set, optimizers that evaluate by themselves, weight decay,
#: networks again.
EXTRA_COLUMNS = (
    "soft_margin",
    "later_cosine",
    "test_accuracy",
    "evaluations",
    "fw_gap",
    "robust_accuracy",
    "layer_margin",
    "layer_alignment",
)

#: The section of a run's ``config.yaml`` that says what was found in a data file; no key, and so no part of the hash.
DATA = "data"


def run_directory(spec: RunSpec, digest: str) -> Path:
    """``results/runs/<name>-<hash>``; the name says dataset or data file, model, optimizer, norm (where chosen) and seed."""
    name = spec.name or "-".join(default_name(spec, dataset_name(spec)))
    return Path(spec.results_dir) / "runs" / f"{name}-{digest}"


def kept_directory(spec: RunSpec, digest: str) -> Path:
    """:func:`run_directory`; or, where only that is there, the folder under the name that earlier versions gave it."""
    directory = run_directory(spec, digest)
    if spec.name:
        return directory
    earlier = directory.with_name("-".join([*default_name(spec, spec.dataset_name), digest]))
    return earlier if earlier.is_dir() and not directory.exists() else directory


def write_run(
    directory: Path,
    *,
    config: Mapping[str, Any],
    trajectory: pd.DataFrame,
    summary: pd.DataFrame,
    weights: Mapping[str, np.ndarray],
    provenance: Mapping[str, Any],
    probed: Sequence[str] = (),
) -> None:
    """Write a run folder whole or not at all; one that is there already is replaced.

    Args:
        directory: As :func:`run_directory` names it.
        config: What ``config.yaml`` holds.
        trajectory, summary: The two tables; floats are written so that they read back exactly.
        weights: The arrays of ``final.npz``; without any there is no such file.
        provenance: What the caller knows (command, device, wall_seconds ...); versions, git state, threads, date and the
            checksums of the files are added.
        probed: The columns of probes, behind the others.

    Raises:
        OSError: the disk is full or not writable. The temporary folder is gone then, and a former run is still there.
        ValueError: the trajectory does not have exactly the columns of the contract.
    """
    columns = tuple(trajectory.columns)
    if columns[: len(COLUMNS)] != COLUMNS or not set(columns[len(COLUMNS) :]) <= {*EXTRA_COLUMNS, *probed}:
        raise ValueError(f"trajectory columns must be {', '.join(COLUMNS)}; got {', '.join(map(str, trajectory.columns))}")
    files = {
        "trajectory.csv": csv_bytes(trajectory),
        "summary.csv": csv_bytes(summary),
        "config.yaml": _yaml_bytes(config),
    }
    if weights:
        files["final.npz"] = npz_bytes(weights)
    checksums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    story = {**surroundings(), **provenance, "files": checksums}
    files[PROVENANCE] = (json.dumps(story, indent=2, default=str) + "\n").encode()
    write_folder(directory, files)


def is_finished(directory: Path) -> bool:
    """Whether the folder holds a whole run, unchanged since it was written; a damaged one is mentioned in one line on stderr."""
    if not directory.is_dir():
        return False
    found = damage(directory)
    if found:
        warn(f"{directory}: {found}; the run is computed again")
    return found is None


def read_run(directory: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The trajectory and the summary of a finished run, every float as it was computed."""
    return read_table(directory / "trajectory.csv"), read_table(directory / "summary.csv")


def read_finished(directory: Path) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """What :func:`read_run` gives of a folder with a whole run; None where it has none, with one line where it is damaged."""
    if not is_finished(directory):
        return None
    try:
        trajectory, summary = read_run(directory)
        if {*TOLD_BY} <= {*trajectory} and {*TOLD_BY, "optimizer", "own", "ratio"} <= {*summary} and len(summary):
            return trajectory, summary
    except Exception:  # noqa: BLE001 - whole files that no run wrote surface as almost anything
        pass
    warn(f"{directory}: its tables are none that a run wrote; the run is computed again")
    return None


def read_config(directory: Path) -> dict[str, Any]:
    """The resolved configuration of a finished run."""
    config: dict[str, Any] = yaml.safe_load((directory / "config.yaml").read_text(encoding="utf-8"))
    return config


def read_provenance(directory: Path) -> dict[str, Any]:
    """The provenance of a finished run."""
    story: dict[str, Any] = json.loads((directory / PROVENANCE).read_bytes())
    return story


def read_parameters(directory: Path, origin: str) -> dict[str, np.ndarray]:
    """The last parameters of a finished run by block, (p, q), as they are in ``final.npz`` times exp(log_scale).

    Args:
        directory: The run folder.
        origin: What a message begins with, such as ``start=results/runs/...``.

    Raises:
        BadInput: There is no such file, it is damaged, or it holds anything but finite numbers as a run writes them.
    """
    arrays = read_arrays(directory / "final.npz", origin)
    blocks = {name: array for name, array in arrays.items() if array.ndim == 2 and not name.endswith("_all")}
    scale = arrays.get("log_scale")
    if scale is None or scale.ndim != 0:
        raise BadInput(f"{origin}: must have one number log_scale in final.npz")
    for name, array in {"log_scale": scale, **blocks}.items():
        if array.dtype not in (np.float64, np.float32):
            raise BadInput(f"{origin}: {name} in final.npz is of type {array.dtype}; must be float64 or float32")
        if not np.isfinite(array).all():
            raise BadInput(f"{origin}: {name} in final.npz has a value that is nan or infinite; must be finite numbers")
    with np.errstate(all="ignore"):
        found: dict[str, np.ndarray] = {name: block * np.exp(scale) for name, block in blocks.items()}
    for name, block in found.items():
        if not np.isfinite(block).all() or (blocks[name].any() and not block.any()):
            raise BadInput(f"{origin}: {name} times exp({float(scale):g}), log_scale in final.npz, is beyond every double")
    return found


def fingerprint_of(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, shapes and numbers."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _yaml_bytes(config: Mapping[str, Any]) -> bytes:
    """YAML, by the C library where it was built: it takes a tenth of the time."""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(dict(config), Dumper=dumper, sort_keys=False, allow_unicode=True)
    return text.encode()
