"""The arguments of a command: typed ``key=value`` words, ``--help``, and exit codes.

A command's request is a frozen dataclass whose fields are declared with :func:`~implicit_bias.core.registry.hyper`: each is a
key, with its type, its range, its default and its meaning. ``python -m implicit_bias.run`` composes groups of options besides,
and has a reader of its own (:mod:`implicit_bias.config.overrides`).

Exit codes: 0 done, 1 something failed, 2 bad input (nothing was computed or written), 130 Ctrl-C.
"""

from __future__ import annotations

import errno
import math
import operator
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from implicit_bias.cli import messages
from implicit_bias.cli.exit_codes import BAD_INPUT, DONE, FAILED, INTERRUPTED
from implicit_bias.cli.wrapping import entry, fitted, terminal_width
from implicit_bias.core import plugins
from implicit_bias.core.errors import BadInput
from implicit_bias.core.hints import asked
from implicit_bias.core.kinds import Kind, kinds
from implicit_bias.core.registry import hyper_fields
from implicit_bias.core.words import shown, suggestion

TRACEBACK = "IMPLICIT_BIAS_TRACEBACK"
HELP_FLAGS = frozenset({"-h", "--help"})

Reader = Callable[[str], Any]


class Arguments(NamedTuple):
    """What was typed: the words that are no keys, and the values of the keys that were given."""

    operands: tuple[str, ...]
    keys: dict[str, Any]


@dataclass(frozen=True)
class Interface:
    """What can be typed behind a command.

    Attributes:
        request: The dataclass; a field that is not declared with ``hyper`` is no key.
        usage: The command's form, one line.
        about: What it does, in lines that are wrapped to the terminal.
        readers: Keys with rules of their own: from the text to the value, or BadInput.
        is_operand: Whether a word is no key but something to work on; without it every word must be a key.
        operand: What such a word is, in words that follow "allowed: key=, or".
        homes: Keys whose value a word alone may be meant as; the first that may have it is named.
        elsewhere: What keys are called elsewhere, in small letters, and here.
        ending: What ``--help`` says last; called where it is shown, as it may need to import something.
        interrupted: What is said at Ctrl-C.
        place: The key that an error of writing is blamed on where the system names no file.
    """

    request: type
    usage: str
    about: str
    readers: Mapping[str, Reader] = field(default_factory=dict)
    is_operand: Callable[[str], bool] | None = None
    operand: str = ""
    homes: Sequence[str] = ()
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    ending: Callable[[], str] | None = None
    interrupted: str = "interrupted"
    place: str = "results_dir"

    def answer(self, argv: Sequence[str] | None, work: Callable[[Sequence[str]], int]) -> int:
        """Print the help, or do the work; every foreseeable mistake is one line on stderr.

        Args:
            argv: What was typed; without it that of this process.
            work: From the arguments to an exit code; it reads them with :meth:`read`.

        Returns:
            The exit code.
        """
        typed = sys.argv[1:] if argv is None else list(argv)
        try:
            plugins.folders()  # a command that reads nothing of plugins refuses one that is missing, too
            if HELP_FLAGS & set(typed):
                print(self.help_text())
                return DONE
            return work(typed)
        except BadInput as error:
            return _failed(_in_a_line(str(error)), BAD_INPUT)
        except KeyboardInterrupt:
            messages.note(self.interrupted)
            return INTERRUPTED
        except OSError as error:
            return _failed(f"{error.filename or self.place}: {error.strerror or error}", FAILED)
        except Exception as error:  # noqa: BLE001 - a command ends in one line, never in a traceback
            if os.environ.get(TRACEBACK):
                traceback.print_exc()
                return FAILED
            what = _in_a_line(f"{type(error).__name__}: {error}")
            return _failed(f"{what} (this is a bug; set {TRACEBACK}=1 for the traceback)", FAILED)

    def read(self, typed: Sequence[str]) -> Arguments:
        """The arguments, checked. Of a key that is given twice the last counts, and a warning says so.

        Raises:
            BadInput: A flag or a key that there is not, or a value that is not allowed.
        """
        operands: list[str] = []
        values: dict[str, Any] = {}
        known = kinds(self.request)
        for word, following in zip(typed, [*typed[1:], ""], strict=False):
            key, equals, text = word.partition("=")
            if word.startswith("-"):
                raise self._flag(word, following, known)
            if self.is_operand is not None and self.is_operand(word):
                operands.append(word)
            elif equals and key in known:
                values[key] = self._value(key, text, known[key])
            else:
                raise self._unknown(word, known)
        tell_repeated(word for word in typed if word.partition("=")[0] in values)
        return Arguments(tuple(operands), values)

    def _value(self, key: str, text: str, kind: Kind) -> Any:
        return self.readers[key](text) if key in self.readers else value_of(key, text, kind)

    def help_text(self, width: int | None = None) -> str:
        """What ``--help`` prints: usage, purpose, every key with its default, its meaning and what is allowed.

        Args:
            width: Of the lines; without it that of the terminal.
        """
        width = width or terminal_width()
        lines = [f"usage: {self.usage}", "", *fitted(self.about, width).split("\n"), ""]
        terms = {f"{key}={_typed(hyper_fields(self.request)[key].default)}": kind for key, kind in kinds(self.request).items()}
        column = max(map(len, terms))
        for term, kind in terms.items():
            meaning = f"{kind.spec.help}. Allowed: {allowed(kind)}"
            lines += entry(term, meaning, column=column, indent=2, width=width)
        ending = ["", *fitted(self.ending(), width).split("\n")] if self.ending is not None else []
        return "\n".join([*lines, *ending])

    def _flag(self, word: str, following: str, known: Mapping[str, Kind]) -> BadInput:
        """The error for a word with a dash in front, which may be a key as other programs have them."""
        flag, equals, text = word.partition("=")
        key = self.elsewhere.get(flag.strip("-").lower(), flag.strip("-").replace("-", "_"))
        if key not in known or not flag.startswith("--"):
            return BadInput(f"{_in_a_line(flag)}: unknown flag; allowed: -h, --help")
        value = text if equals else value_behind(following) or ("true" if known[key].scalar is bool else "...")
        return BadInput(f"{flag}: keys have no dashes; write {_in_a_line(f'{key}={value}')}")

    def _unknown(self, word: str, known: Mapping[str, Kind]) -> BadInput:
        """The error for a word that is no argument: a key that there is not, or a value without its key."""
        key, equals, _ = word.partition("=")
        others = f", or {self.operand}" if self.operand else ""
        all_keys = f"allowed: {', '.join(f'{name}=' for name in known)}{others}"
        there = self.elsewhere.get(key.lower())
        meant = (asked(there) if there else suggestion(key, known)) or ";"
        if equals:
            return BadInput(f"{_in_a_line(key)}: unknown key{meant} {all_keys}")
        home = self._home(word, known)
        said = f", such as {home};" if home else meant
        return BadInput(f"{_in_a_line(word)}: must be key=value{said} {all_keys}")

    def _home(self, word: str, known: Mapping[str, Kind]) -> str | None:
        """``only=rates`` for a word alone that may be a key's value; None: it can be none's."""
        if word in known and known[word].scalar is bool:
            return f"{word}=true"
        for key in self.homes:
            try:
                self._value(key, word, known[key])
            except BadInput:
                continue
            return f"{key}={word}"
        return None


def value_behind(word: str) -> str:
    """The value that a word behind ``--key`` is meant as; nothing where it is an argument of its own."""
    return "" if word.startswith("-") or "=" in word else word


def tell_repeated(words: Iterable[str], several: Callable[[str], bool] = lambda key: False, flag: str = "") -> None:
    """Warn of keys that have another value later on. That one counts, as in Hydra: scripts end in the words of their caller.

    Args:
        words: Of the form key=value.
        several: Says whether a key may have several values, with commas between them.
        flag: What is to be typed in front of these.
    """
    given: dict[str, str] = {}
    for word in words:
        key, _, text = (" ".join(part.split()) for part in word.partition("="))
        before = given.setdefault(key, text)
        given[key] = text
        if before != text:
            both = f"; for both: {flag}{key}={before},{text}" if several(key) and before not in text.split(",") else ""
            messages.warn(f"{key}: is given twice; {key}={text} counts, {key}={before} does not{both}")


def value_of(key: str, text: str, kind: Kind) -> Any:
    """The value that a text stands for: a choice, true or false, a number, a text, or several of these with commas between them.

    Raises:
        BadInput: It is not allowed.
    """
    if kind.optional and text == "null":
        return None
    values = [_converted(part, kind.scalar) for part in (text.split(",") if kind.is_list else [text])]
    if not all(_is_in(value, kind) for value in values):
        must = f"one of {', '.join(map(str, kind.choices))}" if kind.choices is not None else allowed(kind)
        raise BadInput(f"{key}={_in_a_line(text)}: must be {must}")
    return tuple(values) if kind.is_list else values[0]


def allowed(kind: Kind) -> str:
    """What a key may be, as it is typed behind a command: items of lists stand between commas, without brackets."""
    if not kind.is_list:
        return kind.allowed
    item = Kind(kind.scalar, kind.spec, choices=kind.choices, optional=kind.optional).allowed.replace("a text", "names")
    return f"{item}, with commas between them"


def a_folder(key: str, holds: str) -> Reader:
    """A reader of the path of a folder that is there or can be made, to hold a file ``holds``.

    Raises:
        BadInput: where it is called on a text that is no such path.
    """

    def read(text: str) -> str:
        try:
            os.lstat(Path(text) / holds)
        except ValueError:  # a character that no name has
            raise BadInput(f"{key}={_in_a_line(text[:20])}...: must be a folder, or a name that can be one") from None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise BadInput(f"{key}={_in_a_line(text[:20])}...: must be a folder, or a name that can be one") from None
        if not text or (os.path.exists(text) and not os.path.isdir(text)):
            raise BadInput(f"{key}={_in_a_line(text)}: must be a folder, or a name that is free")
        return text

    return read


def _converted(text: str, scalar: type) -> Any:
    """The value of a text; None where it has none of that type."""
    if scalar is bool:
        return {"true": True, "false": False}.get(text)
    if scalar not in (int, float):
        return text or None
    try:
        value = scalar(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _is_in(value: Any, kind: Kind) -> bool:
    """Whether a value is one of the choices, or in its range; None is not."""
    if value is None or (kind.choices is not None and value not in kind.choices):
        return False
    if kind.scalar not in (int, float):
        return True
    bounds = {operator.ge: kind.spec.ge, operator.gt: kind.spec.gt, operator.le: kind.spec.le, operator.lt: kind.spec.lt}
    inside = all(compare(value, bound) for compare, bound in bounds.items() if bound is not None)
    return inside and (kind.most is None or value <= kind.most)


def _in_a_line(text: str) -> str:
    return " ".join(text.split())


def _typed(default: Any) -> str:
    """A default as one would type it."""
    return ",".join(map(shown, default)) if isinstance(default, tuple) else shown(default)


def _failed(line: str, code: int) -> int:
    messages.error(line)
    return code
