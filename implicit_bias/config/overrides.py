"""From the overrides on a command line to resolved, checked configurations, one for each cell of a sweep.

Hydra composes the YAML files and parses the overrides; its application wrapper is not used, since it reports errors in several
lines with exit code 1, accepts new keys by ``+key`` and takes 146 ms a cell. Here options make a configuration once
(:mod:`implicit_bias.config.composition`), and the other keys are set cell by cell.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from implicit_bias.cli.messages import warn
from implicit_bias.config.composition import Config, as_mapping, composition, option_file
from implicit_bias.config.files import groups
from implicit_bias.config.typed import Setting, as_override, check_options, meant_key, parsed
from implicit_bias.core import plugins
from implicit_bias.core.errors import BadInput
from implicit_bias.core.hints import asked
from implicit_bias.core.words import either, shown

if TYPE_CHECKING:
    from implicit_bias.config.spec import RunSpec
    from implicit_bias.norms import Norm
    from implicit_bias.optimizers import Optimizer

__all__ = ["Cell", "as_override", "cannot_differ", "compose", "compose_methods"]

# The key by which an option says which of several it is.
_SET = "set"
# A list in the place of one value.
_LIST = re.compile(r"([\w.]+)=\[([^\[\]]+)\]: must be (?!.*\blist\b)")
# The same of a span of integers.
_SPAN = re.compile(r"([\w.]+)=(\d{1,9})(?:\.{2,3}|-|:)(\d{1,9}): must be ")
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")


@dataclass(frozen=True)
class Cell:
    """One run of a sweep, or the one run there is.

    Attributes:
        spec: What it computes.
        overrides: What to type to get this cell alone.
        swept: The swept keys with this cell's values.
    """

    spec: RunSpec
    overrides: tuple[str, ...]
    swept: dict[str, Any] = field(default_factory=dict)


def compose(overrides: Sequence[str], multirun: bool = False) -> list[Cell]:
    """The cells that ``overrides`` ask for: one, or under ``multirun`` every combination of the swept values.

    The last sweep varies fastest. Combinations that come to the same configuration (``schedule.lr=.1,0.1``) are one cell.

    Raises:
        BadInput: one line that names the key and what is allowed. Nothing is returned unless every cell is valid.
    """
    plans = _plans(overrides, multirun)
    # The checks import torch; a mistyped key or option is answered before that.
    from implicit_bias.config.schema import checked
    from implicit_bias.config.spec import Parts

    cells: dict[RunSpec, Cell] = {}
    parts = Parts()
    for chosen, unchecked in plans:
        try:
            config = checked(unchecked, parts)
        except BadInput as error:
            raise _as_typed(error, overrides) from None
        swept = {s.key: _final(config, s) for s in chosen if s.swept}
        cell = Cell(parts.spec(config), tuple(f"{s.key}={s.texts[0]}" for s in chosen), swept)
        cells.setdefault(cell.spec, cell)
    for line in plugins.untold():
        warn(line)
    return list(cells.values())


def compose_methods(overrides: Sequence[str]) -> list[tuple[Optimizer, Norm | None]]:
    """The optimizers that ``overrides`` name, several where values are lists, each with its norm if it reads one.

    Raises BadInput as :func:`compose` does; data, model and schedule are neither checked nor made.
    """
    plans = _plans(overrides, multirun=True)
    from implicit_bias.config.schema import checked_method
    from implicit_bias.config.spec import Parts

    parts = Parts()
    found = [checked_method(unchecked, parts) for _, unchecked in plans]
    for line in plugins.untold():
        warn(line)
    return found


def cannot_differ(cells: Sequence[Cell]) -> str | None:
    """One line of warning where a sweep over seeds repeats the same run: the data are fixed and the initial point is zero."""
    seen: set[str] = set()
    for cell in cells:
        config = cell.spec.canonical
        key = json.dumps({**config, "seed": None}, sort_keys=True)
        reordered = config["batch"]["size"] is not None and config["batch"]["order"] != "cyclic"
        if config["model"].get("init") == "zero" and not reordered and key in seen:
            return (
                "seed: some runs of this sweep differ in nothing but seed, which changes neither their data nor a zero"
                " initial point; their results will be equal (sweep dataset.seed instead)"
            )
        seen.add(key)
    return None


def _plans(overrides: Sequence[str], multirun: bool) -> list[tuple[list[Setting], Config]]:
    """Every combination of the values that ``overrides`` give, with the configuration that it makes, not checked yet."""
    # A key that is given twice has its last value, as in Hydra.
    settings = list({setting.key: setting for setting in (parsed(text, multirun) for text in overrides)}.values())
    for setting in settings:
        check_options(setting)
    combinations = map(_of_members, _combinations(settings))
    return [(chosen, _resolved(composition(_named(chosen)), chosen)) for chosen in combinations]


def _combinations(settings: Sequence[Setting]) -> Iterator[list[Setting]]:
    """Every combination of values as settings of one value each, the last setting varying fastest."""
    choices = [[Setting(s.key, (v,), (t,), s.swept) for v, t in zip(s.values, s.texts, strict=True)] for s in settings]
    return map(list, itertools.product(*choices))


def _of_members(chosen: list[Setting]) -> list[Setting]:
    """The settings, with ``dataset.name=wine`` as ``dataset.set=wine`` where the dataset chosen is one of several sets."""
    options = _named(chosen)
    several = {f"{group}.name" for group, option in options.items() if option and _SET in option_file(group, option)}
    return [replace(s, key=f"{s.key.removesuffix('name')}{_SET}") if s.key in several else s for s in chosen]


def _as_typed(error: BadInput, overrides: Sequence[str]) -> BadInput:
    """An error about ``dataset.set`` in the words of whoever typed ``dataset.name``, and how several values are typed."""
    several, span = _LIST.match(str(error)), _SPAN.match(str(error))
    if several is not None:
        return BadInput(f"{error}; several values: -m {several[1]}={several[2]}")
    if span is not None:
        return BadInput(f"{error}; several values: -m '{span[1]}=range({span[2]},{int(span[3]) + 1})'")
    key = re.match(rf"(\w+)\.{_SET}=", str(error))
    name = f"{key[1]}.name=" if key else ""
    if key is None or not any(text.replace(" ", "").startswith(name) for text in overrides):
        return error
    return BadInput(f"{name}{str(error)[key.end() :]}")


def _named(chosen: Sequence[Setting]) -> dict[str, str | None]:
    """The option of every group that is chosen by name."""
    return {s.key: s.values[0] for s in chosen if s.key in groups()}


def _resolved(base: Config, chosen: Sequence[Setting]) -> Config:
    """A copy of ``base`` with the keys of ``chosen`` set and every interpolation resolved."""
    config = _copied(base)
    for setting in chosen:
        if setting.key not in groups():
            _set(config, setting)
    try:
        resolved: Config = _with_references(config, config)
    except _Elaborate:
        pass  # for OmegaConf, which takes a hundred times as long
    else:
        return resolved
    try:
        return as_mapping(OmegaConf.to_container(OmegaConf.create(config), resolve=True))
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "interpolation"
        raise BadInput(f"{key}: {shown(str(error).splitlines()[0])}") from None


def _copied(node: Any) -> Any:
    """A tree whose mappings are its own; :func:`copy.deepcopy` takes five times as long."""
    return {key: _copied(value) for key, value in node.items()} if isinstance(node, dict) else node


class _Elaborate(Exception):
    """An interpolation that is more than the name of another key, and is left to OmegaConf."""


def _with_references(node: Any, root: Config) -> Any:
    """A tree with every ``${key}`` replaced by the value of that key. Raises _Elaborate at any other interpolation."""
    if isinstance(node, dict):
        return {key: _with_references(value, root) for key, value in node.items()}
    if isinstance(node, list):
        return [_with_references(item, root) for item in node]
    if not isinstance(node, str) or "${" not in node:
        return node
    name = _REFERENCE.fullmatch(node)
    value: Any = root
    for part in name[1].split(".") if name else [""]:
        if not isinstance(value, dict) or part not in value:
            raise _Elaborate
        value = value[part]
    if isinstance(value, dict | list) or (isinstance(value, str) and "$" in value):
        raise _Elaborate
    return value


def _set(config: Config, setting: Setting) -> None:
    """Set one dotted key that must exist already."""
    *path, last = setting.key.split(".")
    node: Any = config
    for part in path:
        node = node.get(part) if isinstance(node, dict) else None
    if isinstance(node, dict) and len(path) == 2 and path[0] in groups():  # a key of an open mapping, whatever its name
        node[last] = setting.values[0]
        return
    if not isinstance(node, dict) or last not in node or (path and path[0] in groups() and last == "name"):
        raise _unknown_here(config, setting)
    if isinstance(node[last], dict) and path and path[0] in groups():
        if not isinstance(setting.values[0], dict):
            raise BadInput(
                f"{setting.key}={setting.texts[0]}: must be a mapping {{key:value,...}}, or {setting.key}.<key>=<value>"
            )
        node[last] = setting.values[0]
        return
    if isinstance(node[last], dict):
        keys = ", ".join(f"{setting.key}.{key}" for key in node[last])
        raise BadInput(f"{setting.key}: is a group of keys, not a value; allowed: {keys}")
    if isinstance(setting.values[0], dict):
        raise BadInput(f"{setting.key}={setting.texts[0]}: must be one value, not a mapping")
    node[last] = setting.values[0]


def _unknown_here(config: Config, setting: Setting) -> BadInput:
    """The error for a key that this combination of options does not have."""
    group, _, last = setting.key.partition(".")
    typed = f"{setting.key}={setting.texts[0]}"
    section = config.get(group)
    option = section.get("name") if isinstance(section, Mapping) else None
    if group in groups() and last == "name":
        return BadInput(f"{typed}: an option is chosen by its group; allowed: {group}={setting.texts[0]}")
    if not isinstance(section, Mapping) and group not in groups():
        return BadInput(f"{setting.key}: unknown key; allowed: {group}")
    keys = [f"{group}.{key}" for key in section if key != "name"] if isinstance(section, Mapping) else []
    owners = [name for name, page in groups().get(group, {}).items() if last in page.keys]
    if owners:
        here = f"{group}={option} has no such key" if option else f"no {group} is chosen"
        needed = either([f"{group}={owner}" for owner in owners])
        longer = [key for key in keys if key.startswith(setting.key)]  # optimizer.beta1 for optimizer.beta
        meant, rule = asked(longer[0]) if longer else ";", _rule_in_words(group, owners[0], last)
        return BadInput(f"{typed}: {here}{meant} {setting.key} needs {needed}, and must be {rule}")
    meant = meant_key(setting.key, keys)
    where = f" for {group}={option}" if option else ""
    return BadInput(f"{setting.key}: unknown key{where}{meant or ';'} allowed: {', '.join(keys) or 'no keys'}")


def _rule_in_words(group: str, option: str, key: str) -> str:
    from implicit_bias.config.schema import rules

    return rules(group, option)[key].allowed


def _final(config: Config, setting: Setting) -> Any:
    """The value of a swept key as the configuration holds it; the option's name for a group."""
    if setting.key == "experiment":
        return setting.values[0]
    node: Any = config
    for part in setting.key.split("."):
        node = node[part]
    if setting.key in groups():
        return None if node is None else node["name"]
    return shown(node) if isinstance(node, dict) else node
