"""The cache of certified optima, whose bounds are computed again at every read."""

from __future__ import annotations

import hashlib
import io
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from implicit_bias.cli.messages import warn
from implicit_bias.storage.files import atomic_write_bytes, npz_bytes

if TYPE_CHECKING:
    from implicit_bias.models.perturbations import Perturbed
    from implicit_bias.norms import Norm
    from implicit_bias.solvers.reference import Reference

# A cached bound and the same bound recomputed may differ by so much, relative: another machine rounds otherwise.
SAME_BOUND = 1e-9


class ReferenceCache:
    """Solved references by the content of the data, the norm's label and the method; one file each, shared between processes.

    Args:
        results_dir: The folder whose cache it is.
        perturbed: How samples are perturbed that the references are of; None: they are as given.
    """

    def __init__(self, results_dir: str | Path, perturbed: Perturbed | None = None) -> None:
        self.directory = Path(results_dir) / "cache" / "references"
        self.perturbed = perturbed

    def path(self, x: np.ndarray, y: np.ndarray, norm: Norm, method: str) -> Path:
        """The file of one reference; the solver's version is in its name, so that what an earlier one left is solved again."""
        from implicit_bias.solvers.reference import SOLVER_VERSION

        label = norm.label
        digest = hashlib.sha256(f"{label} {method} {SOLVER_VERSION} ".encode())
        if self.perturbed is not None:
            label = f"{label}-{self.perturbed.name}{self.perturbed.eps:.3g}"
            digest.update(f"{self.perturbed.name} {self.perturbed.eps!r} ".encode())
        for array in (x, y):
            digest.update(f"{array.dtype} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return self.directory / f"{label}-{method}-{digest.hexdigest()[:16]}.npz"

    def get(self, x: np.ndarray, y: np.ndarray, norm: Norm, method: str) -> Reference | None:
        """The reference, both of its bounds recomputed from its separator and weights; None where it has yet to be solved.

        A corrupted file, or one that claims other bounds than its points prove, counts as none, with one line on stderr.
        """
        path = self.path(x, y, norm, method)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            warn(f"{path}: cannot be read ({error.strerror}); the reference is solved again")
            return None
        try:
            return _verified(_reference_from(content), x, y, norm, self.perturbed)
        except Exception as error:  # noqa: BLE001 - damaged bytes surface as almost anything (BadZipFile, zlib.error, KeyError)
            reason = str(error) if isinstance(error, _Unproven) else "corrupted"
            warn(f"{path}: {reason}; the reference is solved again")
            return None

    def put(self, x: np.ndarray, y: np.ndarray, norm: Norm, method: str, reference: Reference) -> None:
        """Keep a reference. Raises OSError where the disk is full or not writable."""
        arrays = {f.name: np.asarray(getattr(reference, f.name)) for f in fields(reference)}
        atomic_write_bytes(self.path(x, y, norm, method), npz_bytes(arrays))


class _Unproven(ValueError):
    """A cached reference that is not what its separator and weights prove."""


def _verified(stored: Reference, x: np.ndarray, y: np.ndarray, norm: Norm, perturbed: Perturbed | None) -> Reference:
    """The reference as its own points prove it. Raises ValueError where it is another problem's, or claims something else."""
    if stored.norm != norm.label or stored.perturbed != perturbed:
        raise ValueError("of another problem")
    proven = stored.recomputed(x, y, norm)
    for claimed, found in ((stored.lower, proven.lower), (stored.upper, proven.upper)):
        if not abs(claimed - found) <= SAME_BOUND * found:
            raise _Unproven(f"its bounds are not what its points prove ({claimed:.6g} for {found:.6g})")
    return proven


def _reference_from(content: bytes) -> Reference:
    from implicit_bias.solvers.reference import Reference  # imports torch
    from implicit_bias.solvers.robust import RobustReference

    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    kind = RobustReference if "moves" in arrays else Reference
    return kind(**{name: array if array.ndim else array.item() for name, array in arrays.items()})
