"""The wording that messages to the user share."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from implicit_bias.core.errors import BadInput
from implicit_bias.core.plugins import problem_of

_PLAIN = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|true|false|null", re.IGNORECASE)


def suggestion(word: str, known: Iterable[str]) -> str:
    """``; did you mean ...?`` where one of ``known`` is close to ``word``, whatever the case of letters, else nothing."""
    spelled: dict[str, str] = {}
    for name in known:
        spelled.setdefault(name.casefold(), name)
    close = get_close_matches(word.casefold(), list(spelled), n=1, cutoff=0.6)
    return f"; did you mean {spelled[close[0]]}?" if close else ""


def shown(value: Any) -> str:
    """A value as one would type it, in one line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(shown, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{shown(item)}' for key, item in value.items())}}}"
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return f"'{value}'"  # quoted, or an error about it would make no sense
    return " ".join(str(value).split())


def short_keys(keys: Sequence[str]) -> list[str]:
    """Keys without their group where that leaves them different."""
    last = [key.rsplit(".", 1)[-1] for key in keys]
    return [short if last.count(short) == 1 else key for key, short in zip(keys, last, strict=True)]


def either(words: Sequence[str]) -> str:
    """``a, b or c``."""
    return " or ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def no_such_option(group: str, option: Any, names: Sequence[str]) -> BadInput:
    """The error for an option that a group does not have, or that a plugin which cannot be used would be."""
    broken = problem_of(group, option)
    if broken is not None:
        return broken
    close = suggestion(str(option), names)
    return BadInput(f"{group}={shown(option)}: no such option{close or ';'} allowed: {', '.join(names)}")
