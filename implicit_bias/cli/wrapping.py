"""Text that fits a terminal."""

from __future__ import annotations

import re
import shutil
import textwrap

#: Of lines where there is no terminal, and the bounds of what is taken for one.
WIDTH, NARROWEST, WIDEST = 100, 40, 120
_SHELL = re.compile(r" *python -m ")
_COPIED = re.compile(r" *\w+, \w+ = ")
_ARGUMENT = re.compile(r"""python -m \S+|(?:[^\s'"]|'[^']*'|"[^"]*")+""")
_TWO_COLUMNS = re.compile(r"(?P<left> *\S+(?: \S+)*) {2,}(?P<right>\S.*)")


def terminal_width() -> int:
    """Columns of the terminal, from the variable COLUMNS where it is set; where there is none 100. At least 40, at most 120."""
    return min(max(shutil.get_terminal_size((WIDTH, 24)).columns, NARROWEST), WIDEST)


def wrapped(text: str, *, indent: int, width: int) -> list[str]:
    """The lines of a paragraph; words stay whole."""
    margin = " " * indent
    return textwrap.wrap(
        text, width, initial_indent=margin, subsequent_indent=margin, break_long_words=False, break_on_hyphens=False
    )


def entry(term: str, text: str, *, column: int, indent: int, width: int) -> list[str]:
    """A term and its text in two columns, the first of so many letters.

    The text goes below a term that is too long for its column; and near the left side where the terminal is narrow.
    """
    second = indent + column + 2
    if second > width // 2:
        return [" " * indent + term, *wrapped(text, indent=indent + 4, width=width)]
    body = wrapped(text, indent=second, width=width)
    if len(term) > column or not body:
        return [" " * indent + term, *body]
    return [(" " * indent + term).ljust(second) + body[0].lstrip(), *body[1:]]


def fitted(text: str, width: int) -> str:
    """A text of fixed lines for a terminal of ``width``: longer lines are wrapped at their indent, or in their second column.

    A line that can be copied stays whole, or goes on behind a backslash as a shell reads it; what is said of it goes below.
    """
    return "\n".join(piece for line in text.split("\n") for piece in _fitted(line, width))


def _fitted(line: str, width: int) -> list[str]:
    if len(line) <= width:
        return [line]
    indent = len(line) - len(line.lstrip())
    parts = _TWO_COLUMNS.fullmatch(line)
    if parts is not None:
        column = parts.start("right") - 2 - indent
        return entry(parts["left"].strip(), parts["right"], column=column, indent=indent, width=width)
    if _SHELL.match(line):
        return _continued(line.strip(), indent, width)
    return [line] if _COPIED.match(line) else wrapped(line.strip(), indent=indent, width=width)


def _continued(command: str, indent: int, width: int) -> list[str]:
    """A command in lines that end in a backslash, broken between its words, never within quotes."""
    lines, line = list[str](), " " * indent
    for word in _ARGUMENT.findall(command):
        beside = f"{line} {word}" if line.strip() else line + word
        if len(beside) > width - 2 and line.strip():
            lines.append(f"{line} \\")
            beside = " " * (indent + 2) + word
        line = beside
    return [*lines, line]
