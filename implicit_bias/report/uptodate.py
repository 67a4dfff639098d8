"""Which figures need not be made again: a stamp a figure, in ``results_dir/cache/figures``, says what it was made from.

A stamp is a shortcut and never evidence: one that is missing, damaged or of another layout makes the figure be made as
if there had never been one. Two questions are asked of it, the quick one first.

Unchanged: all sources, configurations, versions and data files are those of the stamp, the run folders have not been
touched, and the figure's files have the content that was written. Nothing is composed.

Same runs: something changed, but the figure's sweep still names the same finished run folders, and the sources that turn
them into a picture are the same, as are the figure's files.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from implicit_bias.config.files import config_directory
from implicit_bias.core import plugins
from implicit_bias.core.installation import sources_below
from implicit_bias.datasets.mnist import cache_folder
from implicit_bias.figures.base import FIGURES, Preset
from implicit_bias.figures.claims import CLAIM_COLUMNS, Claim
from implicit_bias.optimizers.foreign.target import EXTRA
from implicit_bias.report.request import table_ending
from implicit_bias.storage.files import atomic_write_text
from implicit_bias.storage.integrity import PROVENANCE
from implicit_bias.storage.provenance import PACKAGES

ROOT = Path(__file__).resolve().parents[1]
#: Packages, and modules at the top, whose sources no table, claim or picture depends on.
DRAW_NOTHING = ("__init__.py", "__main__.py", "run.py", "bench", "cli", "compare", "identify", "runtime", "sweep")
MISSING = "missing"
#: The packages of optimizers, too: a figure leaves out what is of one that is not installed.
DRAWN_BY = (*PACKAGES, "matplotlib", *EXTRA)


@dataclass(frozen=True)
class Stamp:
    """The inputs that a figure was made from, and its claims.

    Attributes:
        everything: Digest of all sources, configurations, versions, data files and the preset.
        drawing: Digest of the sources and versions that make table, claims and picture of the runs.
        runs: Digest of the provenance, which holds every file's checksum, by run folder.
        touched: Digest of the times at which those folders were written.
        outputs: Digest of the figure's files, by ending.
        claims: Its claims, as they were judged.
    """

    everything: str
    drawing: str
    runs: dict[str, str]
    touched: str
    outputs: dict[str, str]
    claims: list[dict[str, Any]]


def stamp_path(folder: Path, name: str) -> Path:
    """Where a figure's stamp is kept."""
    return folder / "cache" / "figures" / f"{name}.json"


def unchanged(folder: Path, name: str, preset: Preset) -> list[Claim] | None:
    """The figure's claims if nothing at all has changed since it was made, else None."""
    stamp = _read(folder, name)
    if stamp is None or stamp.everything != everything(preset) or stamp.outputs != _outputs(folder, name, preset):
        return None
    return _claims(stamp) if stamp.touched == _touched(folder, stamp.runs) else None


def drawn_alike(folder: Path, name: str, module: str, preset: Preset) -> bool:
    """Whether the figure's files are those of its stamp, and the sources that made them of its runs.

    Args:
        module: Where the figure's class is defined.
    """
    stamp = _read(folder, name)
    return stamp is not None and stamp.drawing == drawing(module) and stamp.outputs == _outputs(folder, name, preset)


def same_runs(folder: Path, name: str, module: str, preset: Preset, directories: Sequence[Path]) -> list[Claim] | None:
    """The claims of a figure that is :func:`drawn_alike` if its runs are those of its stamp too, else None.

    The stamp is renewed.

    Args:
        module: Where the figure's class is defined.
        directories: The run folders of its sweep, all of them finished.
    """
    stamp = _read(folder, name)
    if stamp is None or stamp.runs != _runs(directories):
        return None
    claims = _claims(stamp)
    write_stamp(folder, name, module, preset, directories, claims)
    return claims


def write_stamp(
    folder: Path, name: str, module: str, preset: Preset, directories: Sequence[Path], claims: Sequence[Claim]
) -> None:
    """Note what a figure that has just been made was made from. Raises OSError: it cannot be written."""
    runs = _runs(directories)
    stamp = Stamp(
        everything(preset),
        drawing(module),
        runs,
        _touched(folder, runs),
        _outputs(folder, name, preset),
        [asdict(claim) for claim in claims],
    )
    atomic_write_text(stamp_path(folder, name), json.dumps(asdict(stamp), indent=1) + "\n")


@cache
def everything(preset: Preset) -> str:
    """Digest of all that a figure can depend on, but for the runs."""
    sources = [*sources_below(ROOT), *sorted(config_directory().rglob("*.yaml"))]
    return _digest([preset, *versions(), *map(_content, [*sources, *plugins.source_files()]), *_data_files()])


@cache
def drawing(module: str) -> str:
    """Digest of the sources that may make a figure's table, claims and picture of its runs, and of the versions beside them."""
    return _digest([*versions(), *map(_source, sources(module))])


@cache
def _files_below(root: Path) -> tuple[Path, ...]:
    """The package's files, which are looked for once."""
    return tuple(sources_below(root))


def _source(path: Path) -> str:
    """The digest of a source, read again when it has been written."""
    return _read_source(path, _when(path))


@cache
def _read_source(path: Path, when: str) -> str:  # noqa: ARG001 - the time is part of the cache's key
    return _content(path)


def sources(module: str) -> list[Path]:
    """The package's files without those of other figures, and without the packages that compute no number and draw nothing; and
    all files of plugins where the figure is one's.

    More than a figure needs: being drawn again for nothing costs a second, and being left as it was would be wrong.
    """
    others = {FIGURES.get(name).__module__ for name in FIGURES.names()} - {module}
    left_out = {ROOT.joinpath(*name.split(".")[1:]).with_suffix(".py") for name in others}
    files = _files_below(ROOT)
    own = [path for path in files if path not in left_out and path.relative_to(ROOT).parts[0] not in DRAW_NOTHING]
    added = any(cls.__module__ == module for cls in FIGURES.added().values())
    return [*own, *(plugins.source_files() if added else [])]


@cache
def versions() -> tuple[str, ...]:
    """The versions of Python and of the packages that compute and draw."""
    return (platform.python_version(), *(f"{name} {_version(name)}" for name in DRAWN_BY))


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _data_files() -> list[str]:
    """Names, sizes and times of the files of the data folders."""
    folders = [Path(folder) for folder in (os.environ.get("IMPLICIT_BIAS_DATA"), cache_folder()) if folder]
    files = [file for folder in folders if folder.is_dir() for file in sorted(folder.iterdir())]
    return [f"{file} {_when(file)}" for file in files]


def _when(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return MISSING
    return f"{status.st_size} {status.st_mtime_ns}"


def _touched(folder: Path, runs: Mapping[str, str]) -> str:
    return _digest(_when(folder / "runs" / name / PROVENANCE) for name in runs)


def _runs(directories: Sequence[Path]) -> dict[str, str]:
    return {directory.name: _content(directory / PROVENANCE) for directory in sorted(set(directories))}


def endings(preset: Preset) -> tuple[str, ...]:
    """Of a figure's files."""
    return (table_ending(preset), "png", "pdf")


def _outputs(folder: Path, name: str, preset: Preset) -> dict[str, str]:
    return {ending: _content(folder / "figures" / f"{name}.{ending}") for ending in endings(preset)}


def _content(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return MISSING


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _read(folder: Path, name: str) -> Stamp | None:
    """The stamp, or None where there is none that can be used."""
    try:
        stamp = json.loads(stamp_path(folder, name).read_bytes())
        found = Stamp(**{field.name: stamp[field.name] for field in fields(Stamp)})
        _claims(found)
        usable = isinstance(stamp["runs"], dict) and MISSING not in found.outputs.values()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found if usable else None


def _claims(stamp: Stamp) -> list[Claim]:
    return [Claim(**{column: claim[column] for column in CLAIM_COLUMNS}) for claim in stamp.claims]
