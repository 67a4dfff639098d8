"""Checkpoints of long batches, from which a killed computation is resumed with bit-identical results.

One file a batch, ``results_dir/cache/checkpoints/<hash>.pt``: a line that names the format, the SHA-256 of all that follows, a
line of JSON (the runs' folders in order, what it was computed with, the step, the seconds so far), and the tensors. It is
written whole or not at all, and removed when the batch's run folders are written. Rounding depends on the code, on torch, on
the device, on the number of threads and on what makes the steps: a checkpoint that was made with others is not used.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from implicit_bias.cli.messages import warn
from implicit_bias.core.installation import sources_below, version
from implicit_bias.engine import Problem, Snapshot
from implicit_bias.engine.snapshot_checks import misfit
from implicit_bias.runtime.signals import reason_to_stop
from implicit_bias.storage.files import atomic_write_bytes, remove_leftovers
from implicit_bias.storage.integrity import damage

#: Seconds between two checkpoints of a batch, and before the first; the variable is there for tests.
INTERVAL, VARIABLE = 120.0, "IMPLICIT_BIAS_CHECKPOINT_SECONDS"
# Writing takes at most one part in so many of the time.
WRITING_SHARE = 20
# Checkpoints that were not resumed are removed after so many seconds.
OLDEST = 30 * 24 * 3600.0
FORMAT = b"implicit_bias checkpoint 1"
DIGEST_DIGITS = 16
#: What of the package steps and records depend on: a new figure, or another way to write a table, leaves checkpoints as they are.
STEPPING_PARTS = frozenset(
    {"core", "datasets", "engine", "losses", "measures", "models", "norms", "optimizers", "probes", "scaled", "schedules"}
)


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was read.

    Attributes:
        snapshot: For :func:`implicit_bias.engine.simulate`.
        step: Steps made.
        seconds: Computing time that they took.
    """

    snapshot: Snapshot
    step: int
    seconds: float


class Damaged(ValueError):
    """A file that is no checkpoint, or one that was cut short or edited."""


@dataclass
class Checkpoint:
    """The checkpoint of one batch.

    Attributes:
        results_dir: Where results go.
        batch: The names of the runs' folders, in order: they say all that the runs depend on.
        device, precision: What it is computed on and in; the threads are those that torch has when it is read or written.
        seconds: Computing time before this process took over.
        resumable: Whether a snapshot is of any use; without one nothing is written.
    """

    results_dir: str | Path
    batch: Sequence[str]
    device: torch.device
    precision: str
    seconds: float = 0.0
    resumable: bool = True
    _began: float = field(default_factory=time.monotonic)
    _due: float = field(default_factory=lambda: time.monotonic() + interval())
    _warned: bool = False

    @property
    def path(self) -> Path:
        digest = hashlib.sha256("\n".join(self.batch).encode()).hexdigest()[:DIGEST_DIGITS]
        return _folder(self.results_dir) / f"{digest}.pt"

    def read(self, problem: Problem, stepping: Callable[[], str]) -> Saved | None:
        """The saved state, or None. A file that cannot be used is removed, with one line on stderr.

        Args:
            problem: What is to be gone on with; a snapshot that cannot be one of it is of no use.
            stepping: Says what will make the steps here; asked only where there is something to read.
        """
        try:
            content = self.path.read_bytes()
            header, tensors = _opened(content)
            unfit = _unfit(header, made_with(self.device, self.precision))
            if list(header["batch"]) != list(self.batch):
                unfit = "of another batch"
            if unfit is None:
                snapshot: Snapshot = torch.load(io.BytesIO(tensors), weights_only=True)
                saved = Saved(snapshot, int(header["step"]), float(header["seconds"]))
                unfit = misfit(problem, snapshot) or _unfit(header, {"stepping": stepping()})
                if saved.step != snapshot["step"] or not 0 <= saved.seconds < math.inf:
                    unfit = "damaged"
                if unfit is None:
                    self.seconds = saved.seconds
                    return saved
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            unfit = f"cannot be read ({error.strerror})"
        except Exception:  # noqa: BLE001 - damaged bytes surface as almost anything
            unfit = "damaged"
        _discard(self.path, unfit)
        return None

    def keep(self, step: int, snapshot: Callable[[], Snapshot]) -> None:
        """Write the state after ``step`` steps if it is time to; for the engine. A disk that is full is one warning.

        Raises:
            BaseException: what :func:`implicit_bias.runtime.signals.stop` was given; the state is written before.
        """
        before = time.monotonic()
        reason = reason_to_stop()
        if not self.resumable and reason is not None:
            raise reason
        if not self.resumable or (reason is None and before < self._due):
            return
        try:
            atomic_write_bytes(self.path, self._content(step, snapshot(), self.seconds + before - self._began))
            if reason is not None:
                reason.add_note(f"step {step:,}")  # for whoever tells of it
        except OSError as error:
            if not self._warned:
                warn(f"{self.path}: cannot be written ({error.strerror}); the computation goes on without a checkpoint")
            self._warned = True
        if reason is not None:
            raise reason
        now = time.monotonic()
        self._due = now + max(interval(), WRITING_SHARE * (now - before))

    def remove(self) -> None:
        """Remove the checkpoint of a batch that is finished."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _content(self, step: int, snapshot: Snapshot, seconds: float) -> bytes:
        buffer = io.BytesIO()
        made = made_with(self.device, self.precision) | {"stepping": snapshot.get("stepping")}
        header = {"batch": list(self.batch), "made_with": made, "step": step, "seconds": seconds}
        buffer.write(json.dumps(header).encode() + b"\n")
        torch.save(snapshot, buffer)
        body = buffer.getbuffer()
        return b"\n".join([FORMAT, hashlib.sha256(body).hexdigest().encode(), body])


def interval() -> float:
    """Seconds between two checkpoints."""
    return float(os.environ.get(VARIABLE, INTERVAL))


def made_with(device: torch.device, precision: str) -> dict[str, Any]:
    """All that the last bit of a result depends on, the runs and what makes their steps aside: code, versions, device, ..."""
    return {
        "version": version(),
        "code": _code(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": _device_name(device),
        "precision": precision,
        "threads": torch.get_num_threads(),
    }


def interrupted(results_dir: str | Path) -> list[list[str]]:
    """The batches that a checkpoint of this code exists for, the latest first, each as the names of its runs' folders.

    Checkpoints that are damaged, of other code or too old are removed.
    """
    folder = _folder(results_dir)
    if not folder.is_dir():
        return []
    remove_leftovers(folder)
    here = {"version": version(), "code": _code(), "torch": torch.__version__, "numpy": np.__version__}
    found: list[tuple[float, list[str]]] = []
    for path in sorted(folder.glob("*.pt")):
        try:
            written = path.stat().st_mtime
            header = _read_header(path)
            unfit = "too old" if time.time() - written > OLDEST else _unfit(header, here)
            batch = [str(name) for name in header["batch"]]
        except OSError:  # gone meanwhile
            continue
        except (ValueError, KeyError, TypeError):
            unfit = "damaged"
        if unfit:
            _discard(path, unfit)
        else:
            found.append((written, batch))
    return [batch for _, batch in sorted(found, key=lambda item: -item[0])]


def remove_overtaken(results_dir: str | Path) -> None:
    """Remove the checkpoints of batches whose runs have all been finished since.

    A batch that was killed goes on in another composition where some of its runs were written before, or are not asked for again;
    then nobody comes back for its checkpoint. One that is younger than the runs' folders is of a batch with ``force=true``.
    """
    for path in sorted(_folder(results_dir).glob("*.pt")):
        try:
            written, batch = path.stat().st_mtime, _read_header(path)["batch"]
            folders = [Path(results_dir) / "runs" / Path(name).name for name in batch]
            if all(folder.stat().st_mtime >= written for folder in folders) and not any(map(damage, folders)):
                path.unlink()
        except Exception:  # noqa: BLE001 - a run that is not there, or a damaged file, which is mentioned where it would be used
            continue


def _folder(results_dir: str | Path) -> Path:
    return Path(results_dir) / "cache" / "checkpoints"


def _opened(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and tensors. Raises ValueError where the checksum is wrong."""
    form, digest, body = content.split(b"\n", 2)
    if form != FORMAT or hashlib.sha256(body).hexdigest().encode() != digest:
        raise Damaged
    header, tensors = body.split(b"\n", 1)
    return json.loads(header), tensors


def _read_header(path: Path) -> dict[str, Any]:
    """The header alone, unchecked: the tensors may be large."""
    with path.open("rb") as file:
        if file.readline().rstrip(b"\n") != FORMAT:
            raise Damaged
        file.readline()
        header: dict[str, Any] = json.loads(file.readline())
    return header


def _unfit(header: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    """What differs between the surroundings of a checkpoint and these, in words; None if nothing does."""
    made = header["made_with"]
    for part, value in here.items():
        if made.get(part) != value:
            return "of other code" if part in ("code", "version") else f"of another {part} ({made.get(part)}, here {value})"
    return None


def _discard(path: Path, reason: str) -> None:
    warn(f"{path}: {reason}; the checkpoint is removed, and its runs are computed from the start")
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    return f"{device.type} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


@cache
def _code() -> str:
    """Digest of the source that steps and records depend on: unlike a commit it also tells of edits, and it is there without a
    checkout."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for path in stepping_sources(root):
        digest.update(f"{path.relative_to(root)} ".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:DIGEST_DIGITS]


def stepping_sources(root: Path) -> list[Path]:
    """The files of the package at ``root`` that the numbers of a batch depend on."""
    return sorted(path for path in sources_below(root) if path.relative_to(root).with_suffix("").parts[0] in STEPPING_PARTS)
