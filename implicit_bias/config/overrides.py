"""From the overrides on a command line to resolved, checked configurations, one for each cell of a sweep.

Hydra composes the YAML files and parses the overrides; its application wrapper is not used, since it reports errors in several
lines with exit code 1, accepts new keys by ``+key`` and takes 146 ms a cell. Here options make a configuration once
(:mod:`implicit_bias.config.composition`), and the other keys are set cell by cell.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cache
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, Quote, QuotedString, Transformer
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from implicit_bias.cli.messages import warn
from implicit_bias.config.composition import Config, as_mapping, composition
from implicit_bias.config.files import groups, main_page
from implicit_bias.core import plugins
from implicit_bias.core.errors import BadInput
from implicit_bias.core.runtime_keys import RUNTIME_KEYS
from implicit_bias.core.words import either, no_such_option, shown, suggestion

if TYPE_CHECKING:
    from implicit_bias.config.spec import RunSpec
    from implicit_bias.norms import Norm
    from implicit_bias.optimizers import Optimizer

__all__ = ["Cell", "as_override", "cannot_differ", "compose", "compose_methods"]

#: Groups that may be left empty.
OPTIONAL_GROUPS = ("norm", "experiment")

LAUNCHER_ALIAS = "hydra.launcher."

_WORD = re.compile(r"[A-Za-z_][\w./-]*")
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")
_SPECIAL_WORDS = ("true", "false", "null", "nan", "inf")


# Values of one swept key. Every cell is composed and checked before the first is computed.
MOST_VALUES = 100_000


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


@dataclass(frozen=True)
class Setting:
    """One override: its key, the values to go through (a single one where it is no sweep), and each as typed."""

    key: str
    values: tuple[Any, ...]
    texts: tuple[str, ...]
    swept: bool = False


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
        config = checked(unchecked, parts)
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


def as_override(key: str, value: Any) -> str:
    """The override that gives ``key`` a Python value; a list, tuple or range is a sweep, unless the key takes a list."""
    from implicit_bias.config.schema import list_keys

    several = isinstance(value, list | tuple | range)
    one_list = several and key in list_keys() and not all(isinstance(item, list | tuple) for item in value)
    if several and not one_list:
        return f"{key}=choice({','.join(map(_literal, value))})"
    return f"{key}={_literal(value)}"


def cannot_differ(cells: Sequence[Cell]) -> str | None:
    """One line of warning where a sweep over seeds repeats the same run: the data are fixed and the initial point is zero."""
    seen: set[str] = set()
    for cell in cells:
        config = cell.spec.canonical
        key = json.dumps({**config, "seed": None}, sort_keys=True)
        if config["model"].get("init") == "zero" and key in seen:
            return (
                "seed: some runs of this sweep differ in nothing but seed, which changes neither their data nor a zero"
                " initial point; their results will be equal (sweep dataset.seed instead)"
            )
        seen.add(key)
    return None


def _plans(overrides: Sequence[str], multirun: bool) -> list[tuple[list[Setting], Config]]:
    """Every combination of the values that ``overrides`` give, with the configuration that it makes, not checked yet."""
    # A key that is given twice has its last value, as in Hydra.
    settings = list({setting.key: setting for setting in (_parsed(text, multirun) for text in overrides)}.values())
    for setting in settings:
        _check_options(setting)
    return [(chosen, _resolved(composition(_named(chosen)), chosen)) for chosen in _combinations(settings)]


def _literal(value: Any) -> str:
    """A Python value in Hydra's grammar; numpy's scalars count as numbers, and a class is where it is to be found."""
    if isinstance(value, str):
        plain = _WORD.fullmatch(value) and value.lower() not in _SPECIAL_WORDS
        return value if plain else QuotedString(value, Quote.single).with_quotes()
    if isinstance(value, list | tuple | range):
        return f"[{','.join(map(_literal, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{_literal(item)}' for key, item in value.items())}}}"
    if isinstance(value, type):
        return _literal(f"{value.__module__}.{value.__qualname__}")
    if isinstance(value, os.PathLike):
        return _literal(os.fspath(value))
    return shown(value.item() if hasattr(value, "item") else value)


def _parsed(text: str, multirun: bool) -> Setting:
    text = _without_hydra(text)
    key, equals, value = text.partition("=")
    key = key.strip()
    if key.startswith("~"):
        raise BadInput(f"{key.lstrip('~')}: keys cannot be deleted with ~; give a value, or null where null is allowed")
    if key.startswith("+"):
        bare = key.lstrip("+")
        if bare.split(".")[0] in _sections():
            raise BadInput(f"{bare}: keys cannot be added with +; write {bare}={value}")
        raise _unknown(bare, " (nor can keys be added with +)")
    value = " ".join(value.split())
    if not key or not equals:
        raise BadInput(f"{' '.join(text.split())}: must be key=value{_meant_option(key)}")
    try:
        override = _parser().parse_overrides([text])[0]
    except HydraException as error:
        raise BadInput(f"{key}={value}: cannot be read ({_reason(error)}); quote the value: '{key}=\"...\"'") from None
    if override.package is not None or "/" in key:
        raise _unknown(key)
    if not override.is_sweep_override():
        return Setting(key, (_unquoted(override.value()),), (override.get_value_string().strip(),))
    if not override.is_discrete_sweep():
        raise BadInput(f"{key}={value}: must be a value, or with -m several: a,b,c or range(start,stop,step)")
    if not multirun:
        command = f"python -m implicit_bias.run -m {shlex.quote(f'{key}={value}')}"
        raise BadInput(f"{key}={value}: several values need -m: {command}")
    return _sweep(override, key)


@cache
def _parser() -> OverridesParser:
    """Hydra's parser, which keeps nothing of what it has parsed; making one takes as long as parsing does."""
    return OverridesParser.create()


def _without_hydra(text: str) -> str:
    """``hydra.launcher.workers=2`` is another spelling of ``launcher.workers=2``; no other key of Hydra's own is there."""
    key = text.partition("=")[0].strip()
    if key.startswith(LAUNCHER_ALIAS):
        return text.replace(LAUNCHER_ALIAS, "launcher.", 1)
    if key.startswith(("hydra.", "hydra/")):
        known = ", ".join(f"hydra.{name}" for name in main_page().keys if name.startswith("launcher."))
        raise BadInput(f"{key}: unknown key; of Hydra's own keys only these are allowed: {known}")
    return text


def _sweep(override: Override, key: str) -> Setting:
    if key.split(".")[0] in RUNTIME_KEYS:
        raise BadInput(f"{key}: cannot be swept, since it does not change what a run computes; give one value")
    pattern: Any = override.value()  # Hydra does not declare that it may be a glob
    if isinstance(pattern, Glob):
        names = list(groups().get(key, {}))
        matching = [n for n in names if _matches(n, pattern.include) and not _matches(n, pattern.exclude)]
        elements: list[Any] = matching
    else:
        elements = _elements(override, key)
    if not elements:
        raise BadInput(f"{key}={override.get_value_string()}: a sweep over no value at all; must have at least one")
    return Setting(key, tuple(map(_unquoted, elements)), tuple(map(Transformer.str, elements)), swept=True)


def _elements(override: Override, key: str) -> list[Any]:
    try:
        elements = list(itertools.islice(override.sweep_iterator(), MOST_VALUES + 1))
    except ValueError as error:  # range with a step of zero
        raise BadInput(f"{key}={override.get_value_string()}: {error}") from None
    if len(elements) > MOST_VALUES:
        raise BadInput(f"{key}={override.get_value_string()}: a sweep over too many values; allowed: at most {MOST_VALUES}")
    return elements


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _unquoted(value: Any) -> Any:
    """A parsed value as plain Python."""
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [_unquoted(item) for item in value]
    if isinstance(value, dict):
        return {str(_unquoted(key)): _unquoted(item) for key, item in value.items()}
    return value


def _reason(error: HydraException) -> str:
    """Why Hydra's parser refuses a value, in a few words."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    if lines[0].startswith("LexerNoViableAlt"):
        return "an unexpected character"
    return shown(lines[1] if lines[0].startswith("Error parsing override") and len(lines) > 1 else lines[0])


def _check_options(setting: Setting) -> None:
    """Refuse keys that do not exist whatever the options, and options that do not exist."""
    group = setting.key.split(".")[0]
    if group not in _sections():
        raise _unknown(setting.key)
    if setting.key not in groups():
        return
    options = list(groups()[group])
    for value in setting.values:
        if value is None and group in OPTIONAL_GROUPS:
            continue
        if not isinstance(value, str) or value not in options:
            raise no_such_option(group, value, [*options, "null"] if group in OPTIONAL_GROUPS else options)


def _sections() -> list[str]:
    """The first parts of all keys."""
    return list(dict.fromkeys([*groups(), *(key.split(".")[0] for key in main_page().keys)]))


def _unknown(key: str, note: str = "") -> BadInput:
    """The error for a key whose first part is unknown."""
    first, dot, rest = key.partition(".")
    meant = suggestion(first, _sections()).replace("?", f"{dot}{rest}?")
    return BadInput(f"{key}: unknown key{note}{meant or ';'} allowed: {', '.join(_sections())}")


def _meant_option(word: str) -> str:
    """``, such as optimizer=muon`` for a bare word that is an option."""
    homes = [f"{group}={word}" for group, options in groups().items() if word in options]
    return f", such as {either(homes)}" if homes else ", such as optimizer=muon"


def _combinations(settings: Sequence[Setting]) -> Iterator[list[Setting]]:
    """Every combination of values as settings of one value each, the last setting varying fastest."""
    choices = [[Setting(s.key, (v,), (t,), s.swept) for v, t in zip(s.values, s.texts, strict=True)] for s in settings]
    return map(list, itertools.product(*choices))


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
        return BadInput(f"{typed}: {here}; {setting.key} needs {needed}, and must be {_rule_in_words(group, owners[0], last)}")
    meant = suggestion(setting.key, keys)
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
