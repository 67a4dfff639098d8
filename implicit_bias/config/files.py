"""The keys and options that the configuration files offer, and how they are spelled.

Everything is read from the comments of the YAML files, by the standard library alone, where no plugin adds options of its own.
The comment lines at the top of a file are its help text, a comment behind a key explains the key.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from implicit_bias.config.plugin_options import PluginOption, plugin_options, written

#: The section of an option's file that says which options of other groups stand beside it where nobody names others.
BESIDE = "beside"

_KEY = re.compile(r"(?P<indent> *)(?P<key>\w+):(?: +(?P<value>.*?))?(?: +# (?P<help>.*))?$")
_DEFAULT = re.compile(r" +- (?P<group>\w+): (?P<option>\w+)$")


@dataclass(frozen=True)
class Key:
    """A key of a file: its default as written, and its comment."""

    default: str
    help: str


@dataclass(frozen=True)
class Page:
    """What one file offers: its help text, its keys, and the options that it chooses by default."""

    help: str
    keys: dict[str, Key] = field(default_factory=dict)
    defaults: dict[str, str] = field(default_factory=dict)


@cache
def config_directory() -> Path:
    """The folder of the configuration files: inside an installed package, or beside it in a checkout.

    Raises:
        FileNotFoundError: there is neither, so the installation is broken.
    """
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "configs", package.parent / "configs"):
        if (candidate / "config.yaml").is_file():
            return candidate
    raise FileNotFoundError(f"no configs folder in or beside {package}; install implicit_bias again")


@cache
def groups() -> dict[str, dict[str, Page]]:
    """Config group to option to page, plugins included. Groups stand in the order of the defaults, options in alphabetical order.

    Raises:
        BadInput: a plugin folder does not exist.
    """
    return {group: options_of(group) for group in main_page().defaults}


@cache
def main_page() -> Page:
    """The page of config.yaml."""
    return read_page(config_directory() / "config.yaml")


def read_page(path: Path) -> Page:
    """The page of one YAML file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return Page(_head(lines), dict(_keys(lines)), {m["group"]: m["option"] for m in map(_DEFAULT.match, lines) if m})


def options_of(group: str) -> dict[str, Page]:
    """The pages of a folder of configuration files and of plugins, by option."""
    own = {path.stem: read_page(path) for path in sorted((config_directory() / group).glob("*.yaml"))}
    added = {name: _plugin_page(option) for name, option in plugins_of(group).items()}
    return dict(sorted({**own, **added}.items()))


def plugins_of(group: str) -> dict[str, PluginOption]:
    """The options of a group that come from outside the package."""
    return plugin_options(group, config_directory() / group)


def _plugin_page(option: PluginOption) -> Page:
    """The page of an option from outside the package, from its file as far as it has one, else from its class."""
    page = Page("") if option.file is None else read_page(option.file)
    keys = {key: Key(default, "") for key, default in written(option.defaults).items()}
    return Page(page.help or option.help, {**keys, **page.keys}, page.defaults)


def _head(lines: list[str]) -> str:
    """The comment lines above the first key, in one line; ``# @package`` is for Hydra and says nothing to a reader."""
    comments = []
    for line in lines:
        if not line.startswith("#"):
            break
        if "@package" not in line:
            comments.append(line.lstrip("# "))
    return " ".join(comments)


def _keys(lines: list[str]) -> Iterator[tuple[str, Key]]:
    """Dotted keys with their defaults; the defaults list, and what stands ``beside`` an option, are no keys of a group."""
    section = ""
    for line in lines:
        match = _KEY.match(line)
        if not match or match["key"] == "defaults":
            continue
        if not match["indent"]:
            section = match["key"]
        if section == BESIDE:
            continue
        key = f"{section}.{match['key']}" if match["indent"] else match["key"]
        if match["value"]:
            yield key, Key(match["value"], match["help"] or "")
