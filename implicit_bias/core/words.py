"""The wording that messages to the user share."""

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from typing import Any

from implicit_bias.core.errors import BadInput
from implicit_bias.core.hints import asked, option_meant
from implicit_bias.core.plugins import problem_of

# From this similarity on (twice the letters in common, over all) a word is taken for a misspelling of another.
SIMILAR = 0.7

_PLAIN = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|true|false|null", re.IGNORECASE)


def suggestion(word: str, known: Iterable[str]) -> str:
    """``; did you mean ...?`` where one of ``known`` is close to ``word``, whatever the case of letters, else nothing."""
    found = closest(word, known)
    return "" if found is None else asked(found)


def closest(word: str, known: Iterable[str]) -> str | None:
    """The one of ``known`` that is most like ``word``, whatever the case of letters; None where none is like it.

    Of dotted names in one group only what stands behind the dot is compared: that they share the group says nothing.
    """
    likeness = {name: _likeness(word.casefold(), name.casefold()) for name in known}
    best = max(likeness, key=lambda name: likeness[name], default=None)
    return best if best is not None and likeness[best] >= SIMILAR else None


def _likeness(word: str, name: str) -> float:
    """A similarity in [0, 1]; letters in another order count as one slip."""
    group, dot, last = word.rpartition(".")
    if dot and name.startswith(f"{group}."):
        word, name = last, name[len(group) + 1 :]
    ratio = SequenceMatcher(None, word, name).ratio()
    return max(ratio, SIMILAR) if sorted(word) == sorted(name) else ratio


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
    translated = option_meant(group, str(option))
    close = asked(translated) if translated is not None else suggestion(str(option), names)
    return BadInput(f"{group}={shown(option)}: no such option{close or ';'} allowed: {', '.join(names)}")
