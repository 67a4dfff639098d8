"""Options from outside the package: from the folders that ``IMPLICIT_BIAS_PLUGINS`` names, and from installed distributions.

A plugin folder has the layout of a checkout, ``optimizers/slow_sign.py`` and ``configs/optimizer/slow_sign.yaml`` (or
``implicit_bias/optimizers/slow_sign.py``). A distribution names modules or classes as entry points of the group
``implicit_bias.optimizers``, and so on, and may have a folder ``configs`` inside its package.

Here is where they are, and what is wrong with them; :mod:`implicit_bias.core.plugin_classes` loads them. The standard library
alone.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from implicit_bias.core.errors import BadInput

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

VARIABLE = "IMPLICIT_BIAS_PLUGINS"
PACKAGE = "implicit_bias"
#: What can be added: what one is called, and the package of its kind, which is the folder in a plugin folder and, behind
#: ``implicit_bias.``, the group of entry points.
KINDS = {
    "dataset": "datasets",
    "model": "models",
    "loss": "losses",
    "optimizer": "optimizers",
    "probe": "probes",
    "norm": "norms",
    "schedule": "schedules",
    "figure": "figures",
}
CONFIGS = "configs"

_NAME = re.compile(r"^[ \t]+name\b[^=\n]*=[ \t]*[\"'](\w+)[\"']", re.MULTILINE)


@dataclass(frozen=True)
class Problem:
    """A problem of a file of a plugin.

    Attributes:
        kind: ``optimizer``, say, or ``experiment`` for the YAML file of one.
        names: The options that it would have been.
        line: The file and what is wrong, one line.
        is_warned_of: Whether to say it where none of these options is asked for, too.
    """

    kind: str
    names: frozenset[str]
    line: str
    is_warned_of: bool = True


_problems: dict[str, Problem] = {}
_told: set[str] = set()


def add_problem(kind: str, names: frozenset[str], file: object, reason: str, *, is_warned_of: bool = True) -> None:
    """Record a problem of a file; it is reported when one of its options is asked for (:func:`problem_of`)."""
    line = " ".join(f"{file}: {reason}".split())
    _problems.setdefault(line, Problem(kind, names, line, is_warned_of))


def problem_of(kind: str, name: object, key: str = "") -> BadInput | None:
    """What is wrong with the plugin that would be this option, where there is one.

    Args:
        key: What it was asked for with, where that is not its kind.
    """
    for problem in _problems.values():
        if problem.kind == kind and name in problem.names:
            return BadInput(f"{key or kind}={name}: {problem.line}")
    return None


def untold() -> Iterator[str]:
    """The problems of plugins that have not been reported yet, one line each."""
    for line, problem in list(_problems.items()):
        if problem.is_warned_of and line not in _told:
            _told.add(line)
            yield f"{line}; it is left out"


def names_in(file: Path) -> frozenset[str]:
    """The options that a file which cannot be imported seems to define: its own name, and every ``name = "..."``."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        text = ""
    return frozenset({file.stem, *_NAME.findall(text)})


def are_there() -> bool:
    """Whether anything is added from outside at all."""
    return bool(folders() or entry_points())


def folders() -> tuple[Path, ...]:
    """The plugin folders, in the order in which they are named, as absolute paths: workers find them wherever they are started.

    Raises:
        BadInput: One of them does not exist, or has nothing that a plugin folder holds.
    """
    return _folders(os.environ.get(VARIABLE, ""))


@cache
def _folders(named: str) -> tuple[Path, ...]:
    found = [Path(os.path.expanduser(name)).absolute() for name in named.split(os.pathsep) if name]
    for folder in found:
        if not folder.is_dir():
            raise BadInput(f"{VARIABLE}={folder}: no such folder; must be folders with '{os.pathsep}' between them")
        if not any(map(Path.is_dir, [folder / CONFIGS, *(home for kind in KINDS.values() for home in _homes(folder, kind))])):
            raise BadInput(f"{VARIABLE}={folder}: nothing to add; must have one of the folders {', '.join(KINDS.values())}")
    return tuple(dict.fromkeys(map(Path.resolve, found)))


def environment() -> dict[str, str]:
    """The variable for workers, with paths that do not depend on where they are started."""
    return {VARIABLE: os.pathsep.join(map(str, folders()))} if folders() else {}


@cache
def entry_points() -> tuple[EntryPoint, ...]:
    """The entry points of installed distributions, of every kind."""
    from importlib import metadata  # takes longer than all else here

    installed = metadata.entry_points()  # reads the files of every distribution
    return tuple(point for folder in KINDS.values() for point in installed.select(group=f"{PACKAGE}.{folder}"))


def class_files(folder: str) -> Iterator[tuple[Path, str]]:
    """The Python files of one kind in the plugin folders, each with the name of its module.

    A file's module has the name that it would have inside the package, so that files of a plugin may import each other, and go
    into a checkout as they are.
    """
    for plugin in folders():
        for home in _homes(plugin, folder):
            for file in sorted(home.rglob("*.py")):
                parts = file.relative_to(home).with_suffix("").parts
                if parts[-1] != "__init__" and not any(part.startswith((".", "__")) for part in parts):
                    yield file, ".".join([PACKAGE, folder, *parts])


def _homes(plugin: Path, folder: str) -> list[Path]:
    return [plugin / folder, plugin / PACKAGE / folder]


def extend_packages(loaded: str) -> None:
    """Let the modules of the plugin folders be found under the names of the packages, behind those of the packages' own.

    Args:
        loaded: The kind whose classes are about to be loaded. They may import from every other kind, figures apart.
    """
    for plugin in folders():
        for folder in KINDS.values():
            homes = [str(home) for home in _homes(plugin, folder) if home.is_dir()]
            if homes and (folder != "figures" or loaded == "figures"):  # which take long to import
                spec = importlib.util.find_spec(f"{PACKAGE}.{folder}")
                if spec is not None and spec.submodule_search_locations is not None:
                    path = importlib.import_module(f"{PACKAGE}.{folder}").__path__
                    path.extend(home for home in homes if home not in path)


def config_files(group: str) -> Iterator[Path]:
    """The YAML files of a config group from outside the package."""
    for folder in config_folders():
        yield from sorted((folder / group).glob("*.yaml"))


def config_folders() -> list[Path]:
    """The folders ``configs`` from outside the package: in plugin folders, and inside the packages of distributions."""
    found = [plugin / CONFIGS for plugin in folders()]
    for point in entry_points():
        found += [place / CONFIGS for place in _places(point.module)]
    return list(dict.fromkeys(folder for folder in found if folder.is_dir()))


def source_files() -> list[Path]:
    """Every Python and YAML file of the plugins: all that a figure may depend on."""
    roots = [*folders(), *(place for point in entry_points() for place in _places(point.module))]
    files = {file for root in roots for pattern in ("*.py", "*.yaml") for file in root.rglob(pattern)}
    return sorted(files | {file for point in entry_points() if (file := file_of(point.module)) is not None})


def file_of(module: str) -> Path | None:
    """The file of a module, which need not be one that can be imported."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError, SyntaxError):  # a package around it that is broken
        return None
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def _places(module: str) -> Iterator[Path]:
    """The folders of the packages that a module is in, the outermost first; nothing is imported."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return
    for location in (spec.submodule_search_locations if spec is not None else None) or ():
        place = Path(location)
        yield place
        for part in rest:
            place = place / part
            if place.is_dir():
                yield place
