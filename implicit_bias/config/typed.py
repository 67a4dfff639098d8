"""Overrides as they are typed: each read into a setting by Hydra's grammar, and Python values written as overrides."""

from __future__ import annotations

import itertools
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from implicit_bias.config.files import groups, main_page
from implicit_bias.core.errors import BadInput
from implicit_bias.core.hints import asked, key_meant, of_options
from implicit_bias.core.runtime_keys import RUNTIME_KEYS
from implicit_bias.core.words import closest, either, no_such_option, shown, suggestion

# Hydra takes 0.2 s to be imported: what needs none of its grammar is read without it.
if TYPE_CHECKING:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Override
    from hydra.errors import HydraException

#: Groups that may be left empty.
OPTIONAL_GROUPS = ("norm", "experiment")

LAUNCHER_ALIAS = "hydra.launcher."

_KEY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_WORD = re.compile(r"[A-Za-z_][\w./-]*")
#: A path from the root: Hydra reads it as a text, whatever numbers are among its parts.
_PATH = re.compile(r"(/[\w.-]+)+", re.ASCII)
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"-?([0-9]+\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?")
_MUST = "must be a value, or with -m several: a,b,c or range(start,stop,step)"
_SPECIAL_WORDS = ("true", "false", "null", "nan", "inf")

# Brackets.
_PAIRS = {"(": ")", "[": "]", "{": "}"}

#: Commands beside this one, which somebody may take for a word of it.
COMMANDS = ("bench", "compare", "identify", "report")

#: Where arrays go that somebody has given a key.
ARRAYS = (
    "arrays go to judge(make_optimizer, data=(X, y)) and margins(W, X, y), or by numpy.savez('my.npz', x=X, y=y) to dataset=file"
    " dataset.path=my.npz"
)

# Values of one swept key. Every cell is composed and checked before the first is computed.
MOST_VALUES = 100_000


@dataclass(frozen=True)
class Setting:
    """One override: its key, the values to go through (a single one where it is no sweep), and each as typed."""

    key: str
    values: tuple[Any, ...]
    texts: tuple[str, ...]
    swept: bool = False


def as_override(key: str, value: Any) -> str:
    """The override that gives ``key`` a Python value; a list, tuple or range is a sweep, unless the key takes a list."""
    try:
        return _as_override(key, value)
    except _NoText as error:
        what = type(error.args[0]).__name__
        listed = getattr(error.args[0], "ndim", 1) == 1
        must = "must be a number, a text, or a list of them" if listed else ARRAYS
        must += " (.tolist() makes one)" if listed and hasattr(error.args[0], "tolist") else ""
        raise BadInput(f"{key}: a value of type {what} cannot be a key's; {must}") from None


def _as_override(key: str, value: Any) -> str:
    from implicit_bias.config.schema import list_keys

    several = isinstance(value, list | tuple | range)
    one_list = several and key in list_keys() and not all(isinstance(item, list | tuple) for item in value)
    if several and not one_list:
        return f"{key}=choice({','.join(map(_literal, value))})"
    return f"{key}={_literal(value)}"


class _NoText(Exception):
    """A value that cannot be typed: an array, a function, or a set, which has no order."""


def _literal(value: Any) -> str:
    """A Python value in Hydra's grammar; numpy's scalars count as numbers, and a class is where it is to be found."""
    if isinstance(value, str):
        plain = _WORD.fullmatch(value) and value.lower() not in _SPECIAL_WORDS
        return value if plain else _quoted(value)
    if isinstance(value, list | tuple | range):
        return f"[{','.join(map(_literal, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{_literal(item)}' for key, item in value.items())}}}"
    if isinstance(value, type):
        return _literal(f"{value.__module__}.{value.__qualname__}")
    if isinstance(value, os.PathLike):
        return _literal(os.fspath(value))
    if getattr(value, "ndim", 0) or callable(value) or isinstance(value, AbstractSet):
        raise _NoText(value)
    return shown(value.item() if hasattr(value, "item") else value)


def _quoted(value: str) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(value, Quote.single).with_quotes()


def parsed(text: str, multirun: bool) -> Setting:
    """One override as a setting; whether there are such a key and such an option is not looked at (:func:`check_options`).

    Args:
        text: As it was typed.
        multirun: Whether it may be a sweep.

    Raises:
        BadInput: it is no override, or a sweep that may not be.
    """
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
    if key.startswith("-"):
        meant = without_dashes(key, value) or f"{key.lstrip('-')}={value}"
        raise BadInput(f"{key}: keys have no dashes; write {meant}")
    if not key or not equals:
        raise BadInput(f"{' '.join(text.split())}: must be key=value{_meant_option(key)}")
    simple = plain(key, value)
    if simple is not None:
        return simple
    from hydra.errors import HydraException

    try:
        override = _override(text)
    except HydraException as error:
        raise _unreadable(key, value, error, multirun) from None
    if override.package is not None or "/" in key:
        raise _unknown(key)
    if not override.is_sweep_override():
        return Setting(key, (_unquoted(override.value()),), (override.get_value_string().strip(),))
    if not override.is_discrete_sweep():
        raise BadInput(f"{key}={value}: {_MUST}")
    if not multirun:
        command = f"python -m implicit_bias.run -m {shlex.quote(f'{key}={value}')}"
        raise BadInput(f"{key}={value}: several values need -m: {command}")
    return _sweep(override, key)


def without_dashes(flag: str, value: str) -> str | None:
    """``optimizer=muon`` for ``--optimizer`` with ``muon`` behind it; None: such a key there is not.

    Args:
        flag: As it was typed, with its dashes.
        value: What follows; nothing where that is another argument.
    """
    key = flag.lstrip("-").replace("-", "_")
    if not flag.startswith("--") or not key:
        return None
    if key.split(".")[0] not in _sections():
        key = (key_meant(key) or "").partition(" ")[0]  # without the remark behind it
    return f"{key}={value or '...'}" if key else None


@lru_cache(maxsize=10_000)
def _override(text: str) -> Override:
    """What Hydra's grammar makes of an override, which takes a millisecond, and figures have many alike. Not to be changed."""
    return _parser().parse_overrides([text])[0]


def plain(key: str, value: str) -> Setting | None:
    """The setting of a number, a truth value, a word or a path, as Hydra's grammar reads it; None: it is left to that."""
    if not _KEY.fullmatch(key):
        return None
    known: dict[str, Any] = {"true": True, "false": False, "null": None}
    if value in known:
        return Setting(key, (known[value],), (value,))
    if _INTEGER.fullmatch(value):
        return Setting(key, (int(value),), (value,))
    if _FLOAT.fullmatch(value):
        return Setting(key, (float(value),), (value,))
    if _PATH.fullmatch(value) or (_WORD.fullmatch(value) and value.lower() not in _SPECIAL_WORDS):
        return Setting(key, (value,), (value,))
    return None


@cache
def _parser() -> OverridesParser:
    """Hydra's parser, which keeps nothing of what it has parsed; making one takes as long as parsing does."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

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
    from hydra.core.override_parser.types import Glob, Transformer

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
    from hydra.errors import HydraException

    try:
        elements = list(itertools.islice(override.sweep_iterator(), MOST_VALUES + 1))
    except (ValueError, ArithmeticError, HydraException):  # a range with a step of zero, or without an end
        raise BadInput(f"{key}={override.get_value_string()}: {_MUST}, with a step that leads from start to stop") from None
    if len(elements) > MOST_VALUES:
        raise BadInput(f"{key}={override.get_value_string()}: a sweep over too many values; allowed: at most {MOST_VALUES}")
    return elements


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _unquoted(value: Any) -> Any:
    """A value that Hydra has parsed as plain Python."""
    from hydra.core.override_parser.types import QuotedString

    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [_unquoted(item) for item in value]
    if isinstance(value, dict):
        return {str(_unquoted(key)): _unquoted(item) for key, item in value.items()}
    return value


def _unreadable(key: str, value: str, error: HydraException, multirun: bool) -> BadInput:
    """The error for a value that Hydra's grammar does not read: what is wrong with it, and what may be meant."""
    if "while evaluating" in str(error):  # a function that there is not, or arguments that it does not take
        return BadInput(f"{key}={value}: {_MUST}")
    wrong, mended = _slip(value) or ("an unexpected character", None)
    if mended:
        flag, mended = _accepted(key, mended)
    if mended:
        words = shlex.quote(f"{key}={mended}")
        return BadInput(f"{key}={value}: cannot be read ({wrong}){asked(words if multirun else f'{flag}{words}')}")
    text = "..." if mended == "" or '"' in value else value
    quoted = shlex.quote(f'{key}="{text}"')
    return BadInput(f"{key}={value}: cannot be read ({wrong}); a text stands in quotes: {quoted}")


def _accepted(key: str, value: str) -> tuple[str, str | None]:
    """The flag that a value needs where it is a sweep, and the value, a list as a sweep if the key takes none; None: none."""
    from hydra.errors import HydraException

    from implicit_bias.config.schema import list_keys

    inside = re.fullmatch(r"\[([^\[\]{}()]*,[^\[\]{}()]*)\]", value)
    value = inside[1] if inside and key not in list_keys() else value
    try:
        return "-m " if _override(f"{key}={value}").is_sweep_override() else "", value
    except HydraException:
        return "", None


def _slip(value: str) -> tuple[str, str] | None:
    """What is wrong with a value, and the value that may be meant (nothing: none is clear); None: that is not known."""
    if found := _unbalanced(value):
        return found
    if value.startswith("~/"):
        return "a shell reads ~ at the beginning of a word alone", os.path.expanduser(value)
    bare = value.strip("=, ")
    if bare and bare != value:
        return "a sign too many", bare
    several = re.fullmatch(r"\(([^()]*)\)", value)
    return ("values stand without round brackets", several[1]) if several else None


def _unbalanced(value: str) -> tuple[str, str] | None:
    """The same of its brackets and quotes; None where each has its other one."""
    opened: list[str] = []
    quote = ""
    for sign in value:
        if quote or sign in "'\"":
            quote = sign if not quote else "" if sign == quote else quote
        elif sign in _PAIRS:
            opened.append(sign)
        elif sign in _PAIRS.values() and (not opened or _PAIRS[opened.pop()] != sign):
            first = next(start for start, end in _PAIRS.items() if end == sign)
            alone = sign != ")" and value.endswith(sign) and not set(value[:-1]) & {*_PAIRS, *_PAIRS.values()}
            return f"the bracket {sign} closes nothing", f"{first}{value}" if alone else ""
    if quote:
        if opened:
            mended = ""
        elif value[0] == quote:
            mended = f'"{value[1:]}"' if '"' not in value[1:] else f"{value}{quote}"  # double ones need no escapes in the shell
        else:
            mended = f'"{value}"' if '"' not in value else ""  # the sign is part of the text
        return f"the quote {quote} is not closed", mended
    if not opened:
        return None
    return f"the bracket {opened[-1]} is not closed", value.rstrip(", ") + "".join(_PAIRS[start] for start in reversed(opened))


def check_options(setting: Setting) -> None:
    """Refuse keys that do not exist whatever the options, and options that do not exist. Raises BadInput."""
    group = setting.key.split(".")[0]
    if group not in _sections():
        raise _unknown(setting.key)
    if setting.key not in groups():
        return
    options = list(groups()[group])
    for value in setting.values:
        if value is None and group in OPTIONAL_GROUPS:
            continue
        if isinstance(value, list) and len(value) > 1 and all(name in options for name in value):
            raise BadInput(f"{group}={shown(value)}: must be one option, or with -m several: {group}={','.join(value)}")
        if not isinstance(value, str) or value not in options:
            raise no_such_option(group, value, [*options, "null"] if group in OPTIONAL_GROUPS else options)


def _sections() -> list[str]:
    """The first parts of all keys."""
    return list(dict.fromkeys([*groups(), *(key.split(".")[0] for key in main_page().keys)]))


def _unknown(key: str, note: str = "") -> BadInput:
    """The error for a key whose first part is unknown."""
    first, dot, rest = key.partition(".")
    known = _sections()
    meant = suggestion(first, known).replace("?", f"{dot}{rest}?") if dot else meant_key(key, known)
    return BadInput(f"{key}: unknown key{note}{meant or ';'} allowed: {', '.join(_sections())}")


def meant_key(key: str, known: Sequence[str]) -> str:
    """``; did you mean schedule.lr?`` for a key that there is not.

    A word that is called otherwise elsewhere is known; then what it is most like of ``known``, then keys of any group that end in
    it, or in what it is most like.

    Args:
        key: As it was typed, with its group or without.
        known: The keys that would have been allowed in its place.
    """
    group, _, last = key.rpartition(".")
    translated, homes = key_meant(last), _homes_of_keys()
    home, _, leaf = (translated or "").partition(" ")[0].rpartition(".")
    if translated is not None and translated != key and (leaf == last or last not in homes):
        if home != group or translated in known or home not in homes.get(leaf, {}):
            return asked(translated)
        return asked(of_options(translated, home, homes[leaf][home]))  # in this group, but not of this option
    near = closest(key, known)
    if near is not None:
        return asked(near)
    found = last if last in homes else closest(last, [name for name in homes if not group or group in homes[name]])
    if found is None:
        return ""
    home = group if group in homes[found] else next(iter(homes[found]))
    owners = homes[found][home]
    return asked(of_options(f"{home}.{found}", home, owners) if owners else f"{home}.{found}")


@cache
def _homes_of_keys() -> dict[str, dict[str, list[str]]]:
    """For the last part of every dotted key, the groups that have it, each with the options that do (of a section: none)."""
    homes: dict[str, dict[str, list[str]]] = {}
    for group, options in groups().items():
        for option, page in options.items() if group != "experiment" else ():
            for key in page.keys:
                if key != "name" and "." not in key:
                    homes.setdefault(key, {}).setdefault(group, []).append(option)
    for key in main_page().keys:
        section, dot, last = key.partition(".")
        if dot:
            homes.setdefault(last, {}).setdefault(section, [])
    return homes


def _meant_option(word: str) -> str:
    """``, such as optimizer=muon`` for a bare word that is an option; of another command how that is called."""
    if word in COMMANDS:
        return f"; another command is called python -m implicit_bias.{word}"
    if word in ("help", "version", "json"):
        return asked(f"--{word}")
    homes = [f"{group}={word}" for group, options in groups().items() if word in options]
    return f", such as {either(homes)}" if homes else ", such as optimizer=muon"
