"""Identification from Python: of run folders as the command does, and of arrays."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from implicit_bias.core.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from implicit_bias.analysis.weights import Weights


def identify(
    *runs: Any,
    dataset: Any = None,
    family: str | Sequence[str] = ("lp", "schatten"),
    results_dir: str | PathLike[str] | None = "results",
    out: str | PathLike[str] | None = None,
    device: str = "auto",
    reference_timeout: float = 60.0,
    progress: str = "auto",
) -> pd.DataFrame:
    """Which norm's margin runs or weights maximise, as ``python -m implicit_bias.identify`` does.

    Args:
        runs: Run folders, sweeps, patterns and files of parameters, as they are typed (``"mine=weights.npz"``); or arrays W
            (k, d), or (r, k, d) for r runs; or mappings from a name to any of these.
        dataset: What files and arrays were trained on: (X, y), a name such as ``"digits"``, or a Dataset.
        family: ``lp``, ``schatten`` or both.
        results_dir: Where the cache of references is; None: nothing is kept.
        out: A folder for identify.csv and verdicts.csv; None: no table is written.
        device: Where networks are evaluated: auto, cpu or cuda.
        reference_timeout: Seconds for one optimum.
        progress: ``auto``: what is being done is told on standard error where it takes long; or ``off``.

    Returns:
        The verdicts, a row a run and family: run, optimizer, seed, family, p, p_low, p_high, kappa, trend, verdict.

    Raises:
        BadInput: as the command's exit code 2.
    """
    from implicit_bias.analysis.arguments import cache_in, check_progress, check_seconds
    from implicit_bias.analysis.data import as_dataset
    from implicit_bias.analysis.identification import identified
    from implicit_bias.analysis.weights import Reader
    from implicit_bias.cli.progress import Progress
    from implicit_bias.identify.command import IDENTIFYING, families_of
    from implicit_bias.storage.files import atomic_write_bytes, csv_bytes

    if not runs:
        raise BadInput("runs: none is named; must be run folders, files of parameters or arrays")
    check_progress(progress)
    check_seconds(reference_timeout=reference_timeout)
    if device not in ("auto", "cpu", "cuda"):
        raise BadInput(f"device={device}: must be auto, cpu or cuda")
    reader = Reader(None if dataset is None else as_dataset(dataset))
    found = [weights for run in runs for weights in _read(reader, run)]
    if not found:
        raise BadInput("runs: none is named; must be run folders, files of parameters or arrays")
    families = families_of([family] if isinstance(family, str) else family)
    cache = cache_in(results_dir)
    with Progress(enabled=progress != "off") as shown:
        shared = shown.single("curves", IDENTIFYING * len(found))
        tables = identified(found, families, cache, reference_timeout, device, shown.status, shared=shared)
    if out is not None:
        atomic_write_bytes(Path(out) / "identify.csv", csv_bytes(tables.curves))
        atomic_write_bytes(Path(out) / "verdicts.csv", csv_bytes(tables.verdicts))
    return tables.verdicts


def _read(reader: Any, run: Any, called: str = "") -> list[Weights]:
    """The weights behind one argument."""
    if isinstance(run, Mapping):
        return [weights for name, one in run.items() for weights in _read(reader, one, str(name))]
    if isinstance(run, str | PathLike):
        text = fspath(run)
        name, equals, path = text.partition("=")
        named = (name, path) if equals and not called and not Path(text).exists() else (called, text)
        return list(reader.read([named]))
    return list(reader.given(called or "weights", run))
