"""The options of a config group that come from outside the package: their pages, and what their keys are by default.

An option needs no YAML file: what that leaves out is taken from the class's ``hyper`` fields.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from implicit_bias.core import plugins
from implicit_bias.core.errors import NameTaken
from implicit_bias.core.registry import hyper_fields
from implicit_bias.core.words import shown


@dataclass(frozen=True)
class PluginOption:
    """An option from outside the package.

    Attributes:
        file: Its YAML file, where it has one.
        help: What it is, from its class.
        defaults: Its keys, from its class: the file has the last word.
    """

    file: Path | None = None
    help: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)


def plugin_options(group: str, own: Path) -> dict[str, PluginOption]:
    """The options of a group from outside the package, by name; files that cannot be one are remembered as problems.

    Args:
        group: The config group.
        own: The folder with the files of the package's own options.

    Raises:
        BadInput: a plugin folder does not exist.
        NameTaken: an option, or a file, has the name of another one.
    """
    if not plugins.are_there():
        return {}
    return _found(group, own)


@cache
def _found(group: str, own: Path) -> dict[str, PluginOption]:
    # These import torch.
    from implicit_bias.config.schema import REGISTRIES
    from implicit_bias.probes import PROBES

    registry = {**REGISTRIES, "probe": PROBES}.get(group)
    classes = registry.added() if registry is not None else {}
    files: dict[str, Path] = {}
    for file in plugins.config_files(group):
        name = file.stem
        other = files.get(name, own / file.name)
        if other.is_file():
            if not other.samefile(file):  # a checkout that is named as a plugin folder has the package's own
                raise NameTaken(f"{file}: {group}={name} is in {other} already; give this one another name")
        elif registry is not None and name not in classes:
            if plugins.problem_of(group, name) is None:  # which says why there is no class
                plugins.add_problem(group, frozenset({name}), file, f"no {group} of that name is registered; write its class")
        else:
            files[name] = file
    names = sorted({*files, *classes})
    return {name: PluginOption(files.get(name), *_declared(classes.get(name))) for name in names}


def _declared(cls: type | None) -> tuple[str, dict[str, Any]]:
    """What a class says of itself, and its keys with their defaults. A ``seed`` is the run's seed unless it is given."""
    if cls is None:
        return "", {}
    own = cls.__doc__ or ""
    if own.startswith(f"{cls.__name__}("):  # a dataclass's signature, where nothing was written
        own = sys.modules[cls.__module__].__doc__ or ""
    keys = hyper_fields(cls) if is_dataclass(cls) else {}  # a probe need not be one
    defaults = {key: "${seed}" if key == "seed" else _plain(declared.default) for key, declared in keys.items()}
    return " ".join(own.strip().split("\n\n")[0].split()), defaults


def _plain(default: Any) -> Any:
    """A default as a YAML file would give it."""
    if isinstance(default, dict):
        return dict(default)
    return list(default) if isinstance(default, tuple) else default


def written(defaults: Mapping[str, Any]) -> dict[str, str]:
    """Defaults as a YAML file would have them."""
    return {key: value if value == "${seed}" else shown(value) for key, value in defaults.items()}
