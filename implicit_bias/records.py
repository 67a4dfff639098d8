"""Run folders, their tables and provenance, and the cache of references: everything that is kept on disk.

A run folder is written whole or not at all: its files go to a temporary sibling, each is flushed to the disk, and one rename
makes the folder appear. ``provenance.json`` holds the SHA-256 of every other file, so a folder that was cut short or edited
afterwards is told from a finished one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml

from implicit_bias.arrays import read_arrays
from implicit_bias.errors import BadInput
from implicit_bias.manual import RUNTIME_KEYS
from implicit_bias.naming import UNUSED, dataset_name, default_name

if TYPE_CHECKING:
    from implicit_bias.reference import Reference

COLUMNS = (
    "seed", "step", "lr", "log_loss", "accuracy", "norm", "margin", "max_margin", "relative_gap", "upper_bound", "correlation",
    "alignment", "kkt_ratio", "param_norm",
)  # fmt: skip
#: What tells a table of a run, of whatever version, from another.
TOLD_BY = ("seed", "step", "norm", "margin")
#: Behind the others where a run has them: networks, and data with a test set.
EXTRA_COLUMNS = ("soft_margin", "later_cosine", "test_accuracy")
PROVENANCE = "provenance.json"
REQUIRED = ("trajectory.csv", "summary.csv", "config.yaml")
PACKAGES = ("implicit-bias", "torch", "numpy", "pandas", "cvxpy", "clarabel", "highspy", "hydra-core", "omegaconf")

# From 3.1 on pandas always reads floats to the last bit, and complains when it is asked to.
_PANDAS = tuple(int(part) for part in pd.__version__.split(".")[:2])
_EXACT_FLOATS: dict[str, Any] = {} if _PANDAS >= (3, 1) else {"float_precision": "round_trip"}
#: The section of a run's ``config.yaml`` that says what was found in a data file; no key, and no part of the hash.
DATA = "data"
_HASH_DIGITS = 12
# A cached bound and the same bound recomputed may differ by so much, relative: another machine rounds otherwise.
SAME_BOUND = 1e-9
_PARTIAL = ".partial-"


def config_hash(config: Mapping[str, Any], data_fingerprint: str = "", start_fingerprint: str = "") -> str:
    """Content hash of a resolved configuration: equal exactly when two runs compute the same thing.

    Args:
        config: Canonical types (see :func:`implicit_bias.settings.checked`).
        data_fingerprint: Digest of a data file's content, which then stands for its path.
        start_fingerprint: Digest of the parameters that the run starts from, likewise.
    """
    kept = {key: value for key, value in config.items() if key not in (*RUNTIME_KEYS, DATA) and (key, value) not in UNUSED}
    for group, keys in kept.items():
        if isinstance(keys, Mapping):
            kept[group] = {key: value for key, value in keys.items() if (f"{group}.{key}", value) not in UNUSED}
    if start_fingerprint:
        kept["start"] = start_fingerprint
    if data_fingerprint:
        kept["dataset"] = {key: value for key, value in kept["dataset"].items() if key != "path"}
    text = json.dumps({"config": kept, "data": data_fingerprint}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_DIGITS]


def run_directory(results_dir: str | Path, config: Mapping[str, Any], digest: str) -> Path:
    """``results/runs/<name>-<hash>``; the name says dataset or data file, model, optimizer, norm (where chosen) and seed."""
    name = config.get("name") or "-".join(default_name(config, dataset_name(config)))
    return Path(results_dir) / "runs" / f"{name}-{digest}"


def kept_directory(results_dir: str | Path, config: Mapping[str, Any], digest: str) -> Path:
    """:func:`run_directory`; or, where only that is there, the folder under the name that earlier versions gave it."""
    directory = run_directory(results_dir, config, digest)
    if config.get("name"):
        return directory
    earlier = directory.with_name("-".join([*default_name(config, config["dataset"]["name"]), digest]))
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
        config: The resolved configuration, for ``config.yaml``.
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
        # Where a run was computed is no part of what it is.
        "config.yaml": _yaml_bytes({key: value for key, value in config.items() if key != "launcher"}),
    }
    if weights:
        files["final.npz"] = _npz_bytes(weights)
    checksums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    story = {**surroundings(), **provenance, "files": checksums}
    files[PROVENANCE] = (json.dumps(story, indent=2, default=str) + "\n").encode()
    directory.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(directory.parent)
    with _temporary_sibling(directory) as partial:
        for name, content in files.items():
            _write_flushed(partial / name, content)
        _flush_folder(partial)
        _move_into_place(partial, directory)
    _flush_folder(directory.parent)


def is_finished(directory: Path) -> bool:
    """Whether the folder holds a whole run, unchanged since it was written; a damaged one is mentioned in one line on stderr."""
    if not directory.is_dir():
        return False
    found = damage(directory)
    if found:
        warn(f"{directory}: {found}; the run is computed again")
    return found is None


def damage(directory: Path) -> str | None:
    """What is wrong with a run folder, in words; None if nothing is."""
    try:
        checksums = dict(json.loads((directory / PROVENANCE).read_bytes())["files"])
        plain = all(name.isprintable() and name == Path(name).name for name in checksums)
    except Exception:  # bytes that anybody wrote surface as almost anything: KeyError, RecursionError, UnicodeDecodeError ...
        plain = False
    if not plain:
        return f"{PROVENANCE} is missing or damaged"
    for name in sorted({*REQUIRED, *checksums}):
        path = directory / name
        try:
            content = path.read_bytes() if path.is_file() else None
        except (OSError, ValueError):
            content = None
        if content is None:
            return f"{name} is missing"
        if hashlib.sha256(content).hexdigest() != checksums.get(name):
            return f"{name} was changed"
    return None


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
    except Exception:  # whole files that no run wrote surface as almost anything
        pass
    warn(f"{directory}: its tables are none that a run wrote; the run is computed again")
    return None


def read_config(directory: Path) -> dict[str, Any]:
    """The resolved configuration of a finished run."""
    config: dict[str, Any] = yaml.safe_load((directory / "config.yaml").read_text(encoding="utf-8"))
    return config


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


def read_table(path: Path) -> pd.DataFrame:
    """A CSV file of this package; floats read back to the last bit."""
    return pd.read_csv(path, **_EXACT_FLOATS)


def csv_bytes(table: pd.DataFrame) -> bytes:
    """A table as CSV: shortest representations that round-trip, empty where there is no value."""
    return table.to_csv(index=False, lineterminator="\n").encode()


class ReferenceCache:
    """Solved references by the content of the data, the norm's label and the method; one file each, shared between processes."""

    def __init__(self, results_dir: str | Path) -> None:
        self.directory = Path(results_dir) / "cache" / "references"

    def path(self, x: np.ndarray, y: np.ndarray, label: str, method: str) -> Path:
        """The file of one reference; the solver's version is in its name, so that what an earlier one left is solved again."""
        from implicit_bias.reference import SOLVER_VERSION

        digest = hashlib.sha256(f"{label} {method} {SOLVER_VERSION} ".encode())
        for array in (x, y):
            digest.update(f"{array.dtype} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return self.directory / f"{label}-{method}-{digest.hexdigest()[:16]}.npz"

    def get(self, x: np.ndarray, y: np.ndarray, label: str, method: str) -> Reference | None:
        """The reference, both of its bounds recomputed from its separator and weights; None where it has yet to be solved.

        A corrupted file, or one that claims other bounds than its points prove, counts as none, with one line on stderr.
        """
        path = self.path(x, y, label, method)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            warn(f"{path}: cannot be read ({error.strerror}); the reference is solved again")
            return None
        try:
            return _verified(_reference_from(content), x, y, label)
        except Exception as error:  # damaged bytes surface as almost anything: BadZipFile, zlib.error, EOFError, KeyError ...
            reason = str(error) if isinstance(error, _Unproven) else "corrupted"
            warn(f"{path}: {reason}; the reference is solved again")
            return None

    def put(self, x: np.ndarray, y: np.ndarray, label: str, method: str, reference: Reference) -> None:
        """Keep a reference. Raises OSError where the disk is full or not writable."""
        arrays = {f.name: np.asarray(getattr(reference, f.name)) for f in fields(reference)}
        atomic_write_bytes(self.path(x, y, label, method), _npz_bytes(arrays))


def atomic_write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, its folder made if need be. Raises OSError, leaving what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _partial_name(path)
    try:
        _write_flushed(temporary, content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def atomic_write_text(path: Path, text: str) -> None:
    """:func:`atomic_write_bytes` for text, in UTF-8."""
    atomic_write_bytes(path, text.encode())


def remove_leftovers_of(folder: Path) -> None:
    """Remove what processes of this machine left there when they were killed in the middle of writing."""
    mine = f"{_PARTIAL}{socket.gethostname()}-"
    for leftover in folder.glob(f"{mine}*"):
        pid = leftover.name.removeprefix(mine).split("-")[0]
        if pid.isdigit() and not process_is_alive(int(pid)):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    leftover.unlink()


@cache
def remove_leftovers(folder: Path) -> None:
    """:func:`remove_leftovers_of`, once a process: a folder of many runs takes long to list."""
    remove_leftovers_of(folder)


def surroundings() -> dict[str, Any]:
    """Where and with what a run is computed: git state of the checkout, versions, machine, threads, date."""
    return {
        **_git_state(),
        "versions": _versions(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "threads": _threads(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def warn(line: str) -> None:
    """One line on stderr, or for whoever collects them; nothing is wrong enough to stop for."""
    _tell[-1](line)


def show_warning(line: str) -> None:
    """One line on stderr."""
    print(f"warning: {line}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def warnings_told(listener: Callable[[str], None]) -> Iterator[None]:
    """While active warnings go to ``listener``: of several processes that meet the same damage only one is to say so."""
    _tell.append(listener)
    try:
        yield
    finally:
        _tell.pop()


def note(line: str) -> None:
    """One line on stderr that is no warning."""
    print(line, file=sys.stderr, flush=True)


_tell: list[Callable[[str], None]] = [show_warning]


class _Unproven(ValueError):
    """A cached reference that is not what its separator and weights prove."""


def _verified(stored: Reference, x: np.ndarray, y: np.ndarray, label: str) -> Reference:
    """The reference as its own points prove it. Raises ValueError where it is another problem's, or claims something else."""
    from implicit_bias.norms import make_norm

    if stored.norm != label:
        raise ValueError("of another problem")
    proven = stored.recomputed(x, y, make_norm(label))
    for claimed, found in ((stored.lower, proven.lower), (stored.upper, proven.upper)):
        if not abs(claimed - found) <= SAME_BOUND * found:
            raise _Unproven(f"its bounds are not what its points prove ({claimed:.6g} for {found:.6g})")
    return proven


def _reference_from(content: bytes) -> Reference:
    from implicit_bias.reference import Reference  # imports torch

    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    return Reference(**{name: array if array.ndim else array.item() for name, array in arrays.items()})


def _yaml_bytes(config: Mapping[str, Any]) -> bytes:
    """YAML, by the C library where it was built: it takes a tenth of the time."""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(dict(config), Dumper=dumper, sort_keys=False, allow_unicode=True)
    return text.encode()


def _npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **dict(arrays))
    return buffer.getvalue()


@contextlib.contextmanager
def _temporary_sibling(directory: Path) -> Iterator[Path]:
    """An empty folder beside ``directory`` that is gone afterwards, unless it was moved away."""
    partial = _partial_name(directory)
    partial.mkdir()
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _partial_name(path: Path) -> Path:
    """A name beside ``path`` that no other process or thread takes, and that tells whose it is."""
    return path.with_name(f"{_PARTIAL}{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}")


def _move_into_place(partial: Path, directory: Path) -> None:
    """Rename ``partial`` to ``directory``, where another process may be about to do the same."""
    for _ in range(100):
        try:
            os.rename(partial, directory)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        # A folder that is not empty cannot be renamed over: the former run steps aside, and comes back if the new one
        # cannot take its place.
        with _temporary_sibling(directory) as aside, contextlib.suppress(FileNotFoundError):
            os.rename(directory, aside)
            try:
                os.rename(partial, directory)
                return
            except OSError:
                with contextlib.suppress(OSError):
                    os.rename(aside, directory)
        time.sleep(0.01)
    os.rename(partial, directory)


def process_is_alive(pid: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _write_flushed(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(directory: Path) -> None:
    """Make renames in a folder durable, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@cache
def _git_state() -> dict[str, Any]:
    """``git_sha`` and ``git_dirty`` of the checkout that the package runs from; both null outside of one."""
    root = Path(__file__).resolve().parent.parent
    nothing: dict[str, Any] = {"git_sha": None, "git_dirty": None}
    if not (root / ".git").exists():
        return nothing  # installed: the repository around a virtual environment is not ours
    try:
        return {
            "git_sha": _git(root, "rev-parse", "HEAD").strip(),
            "git_dirty": bool(_git(root, "status", "--porcelain").strip()),
        }
    except (OSError, subprocess.SubprocessError):
        return nothing


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _threads() -> int | None:
    """Threads that torch computes with; null where torch was never needed."""
    torch = sys.modules.get("torch")
    return None if torch is None else int(torch.get_num_threads())
