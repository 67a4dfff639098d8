"""The configuration that the YAML files make under a choice of options, before any key is set.

Hydra takes 0.1 s for it, and as long to be imported: too long for every combination of options in a report, and for a first
answer. A group is the file of its option, with what the experiment sets there over it: what needs other files is left to Hydra.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from implicit_bias.config.files import BESIDE, config_directory, groups, main_page, plugins_of
from implicit_bias.core.errors import BadInput
from implicit_bias.core.words import shown

__all__ = ["Config", "as_mapping", "composed", "composition", "option_file", "under_experiment"]

Config = dict[str, Any]
_ENTRIES = "entries such as override /optimizer: adam"


def composition(options: Mapping[str, str | None]) -> Config:
    """The configuration under ``options``, group by group; interpolations are unresolved. Shared: not to be changed.

    Raises:
        BadInput: the files cannot be composed.
    """
    named = {group: option for group, option in options.items() if option is not None}
    experiment = named.get("experiment")
    named |= _beside(named, options)
    files = {group: option_file(group, option) for group, option in named.items() if group != "experiment"}
    if any("defaults" in file for file in files.values()) or not _stands_alone(experiment):
        base = composed(tuple(f"{group}={option}" for group, option in named.items()))
    else:
        alone = defaults_alone() if experiment is None else experiment_alone(experiment)
        base = {**alone, **{group: under_experiment(experiment, group, named[group]) for group in files}}
    bare = {group: _without_beside(base[group]) for group in groups() if isinstance(base.get(group), dict)}
    # Hydra has no override that empties a group.
    return {**base, **bare, **{group: None for group in options if group not in named and group != "experiment"}}


def _defaults_of(experiment: str | None) -> list[Any]:
    """The entries of an experiment's defaults list. Raises BadInput: it is none."""
    written = [] if experiment is None else option_file("experiment", experiment).get("defaults", [])
    if not isinstance(written, list):
        raise BadInput(f"experiment={experiment}: defaults={shown(written)}: must be a list of {_ENTRIES}")
    for entry in written:
        if not (isinstance(entry, str) or (isinstance(entry, dict) and all(isinstance(key, str) for key in entry))):
            raise BadInput(f"experiment={experiment}: defaults: {shown(entry)}; must be {_ENTRIES}")
    return written


def _chosen_by(experiment: str | None) -> dict[str, Any]:
    """The options that an experiment's defaults choose, by group; of several for a group the first, as in Hydra."""
    entries = [item for entry in _defaults_of(experiment) if isinstance(entry, dict) for item in entry.items()]
    return {str(key).partition(" /")[2]: option for key, option in reversed(entries)}


def _beside(named: Mapping[str, str], options: Mapping[str, str | None]) -> dict[str, str]:
    """The options that those which are named, or chosen by the experiment, have beside them where nobody names others."""
    chosen = _chosen_by(named.get("experiment"))
    files = [option_file(group, str(option)) for group, option in {**chosen, **named}.items() if _is_option(group, option)]
    return {
        group: option
        for file in files
        for group, option in file.get(BESIDE, {}).items()
        if group not in options and group not in chosen
    }


def _is_option(group: str, option: Any) -> bool:
    return group != "experiment" and isinstance(option, str) and option in groups().get(group, {})


def _without_beside(section: Config) -> Config:
    return {key: value for key, value in section.items() if key != BESIDE}


def _stands_alone(experiment: str | None) -> bool:
    """Whether an experiment's file says all of it, needing no others: its defaults, if any, choose options that there are, each
    entry one and each group once, and nothing in it is meant for Hydra itself."""
    defaults = _defaults_of(experiment)
    choices = [item for entry in defaults if isinstance(entry, dict) and len(entry) == 1 for item in entry.items()]
    plain = len(choices) == len(defaults) == len({key for key, _ in choices}) and all(_is_choice(*item) for item in choices)
    return plain and (experiment is None or "hydra" not in option_file("experiment", experiment))


def _is_choice(key: Any, option: Any) -> bool:
    """Whether an entry of a defaults list is ``override /group: option`` with an option of that group, or null."""
    overrides, _, group = str(key).partition(" /")
    return overrides == "override" and group in groups() and (option is None or _is_option(group, option))


@cache
def under_experiment(experiment: str | None, group: str, option: str) -> Any:
    """The file of an option with what an experiment sets in its group, merged as Hydra does. Raises BadInput: they cannot be."""
    file = option_file(group, option)
    body = {} if experiment is None else option_file("experiment", experiment)
    if group not in body:
        return file
    try:
        merged = OmegaConf.merge({group: file}, {group: body[group]})
    except OmegaConfBaseException as error:
        raise BadInput(f"{group}={option} experiment={experiment}: {shown(str(error).splitlines()[0])}") from None
    return as_mapping(OmegaConf.to_container(merged))[group]


@cache
def defaults_alone() -> Config:
    """What ``config.yaml`` says, with the files of the options that it chooses in their groups: as Hydra composes it."""
    chosen = {group: option for group, option in main_page().defaults.items() if option != "null"}
    return {**main_keys(), **{group: option_file(group, option) for group, option in chosen.items()}}


@cache
def main_keys() -> Config:
    """The keys that ``config.yaml`` has itself."""
    written = as_mapping(OmegaConf.to_container(OmegaConf.load(config_directory() / "config.yaml")))
    return {key: value for key, value in written.items() if key != "defaults"}


@cache
def experiment_alone(experiment: str) -> Config:
    """The configuration under an experiment, as Hydra composes it; by Hydra, where it does not stand alone. Raises BadInput: it
    cannot be."""
    if not _stands_alone(experiment):
        return composed((f"experiment={experiment}",))
    chosen = _chosen_by(experiment)
    files = {group: option_file(group, option) for group, option in chosen.items() if option is not None}
    if any("defaults" in file for file in files.values()):
        return composed((f"experiment={experiment}",))
    body = {key: value for key, value in option_file("experiment", experiment).items() if key != "defaults"}
    # A group that is chosen to be null leaves what config.yaml itself says there, if anything.
    left = {key: value for key, value in defaults_alone().items() if key not in chosen or key in files}
    base = {**main_keys(), **left, **files}
    try:
        return as_mapping(OmegaConf.to_container(OmegaConf.merge(OmegaConf.create(base), body)))
    except OmegaConfBaseException as error:
        raise BadInput(f"experiment={experiment}: {shown(str(error).splitlines()[0])}") from None


@cache
def composed(choices: tuple[str, ...]) -> Config:
    """What Hydra makes of the YAML files under a choice of options. Raises BadInput: it cannot."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException

    try:
        with _plugins_stored(), initialize_config_dir(config_dir=str(config_directory()), version_base="1.3"):
            return as_mapping(OmegaConf.to_container(hydra_compose("config", overrides=list(choices))))
    except BadInput:  # of plugins; it is a ValueError, too
        raise
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # the last: an entry of a defaults list
        raise BadInput(f"{' '.join(choices) or 'config.yaml'}: {shown(str(error).splitlines()[0])}") from None


@cache
def option_file(group: str, option: str) -> Config:
    """The file of one option; of a plugin's option, completed by the defaults of its class.

    Raises:
        BadInput: a plugin's file that is no YAML, no mapping, or of another option.
    """
    added = plugins_of(group).get(option)
    if added is None:
        return as_mapping(OmegaConf.to_container(OmegaConf.load(config_directory() / group / f"{option}.yaml")))
    written = {} if added.file is None else _plugin_file(added.file)
    if group == "experiment":
        return written
    if written.get("name", option) != option:
        raise BadInput(f"{group}={option}: {added.file}: name: {shown(written['name'])}; must be {option}, as the file is called")
    return {"name": option, **added.defaults, **written}


def _plugin_file(path: Path) -> Config:
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(path))
        return as_mapping(loaded or {})
    except (OmegaConfBaseException, yaml.YAMLError, OSError, ValueError, TypeError) as error:
        raise BadInput(f"{path}: cannot be read: {shown(str(error))}") from None


@contextmanager
def _plugins_stored() -> Iterator[None]:
    """While active Hydra finds the options of plugins, which have no file in its folder."""
    from hydra.core.config_store import ConfigStore

    added = [(group, option) for group in groups() for option in plugins_of(group)]
    if not added:
        yield
        return
    store = ConfigStore.instance()
    before = {group: store.repo.get(group) for group, _ in added}
    for group in before:
        store.repo[group] = dict(before[group] or {})
    try:
        for group, option in added:
            with suppress(BadInput):  # a broken file is reported where its option is chosen
                package = "_global_" if group == "experiment" else None
                store.store(group=group, name=option, node=option_file(group, option), package=package)
        yield
    finally:
        for group, entries in before.items():
            if entries is None:
                del store.repo[group]
            else:
                store.repo[group] = entries


def as_mapping(container: Any) -> Config:
    """What OmegaConf gives, if it is a mapping, with texts as keys. Raises TypeError: it is none."""
    if not isinstance(container, dict):
        raise TypeError("a configuration must be a mapping")
    return {str(key): value for key, value in container.items()}
