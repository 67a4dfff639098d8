"""Small tables as data: drawn on a terminal, or written in Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: What a bar is made of: a whole block, its eighths, and the empty place.
_FULL, _EIGHTHS, _EMPTY = "█", " ▏▎▍▌▋▊▉", "░"
BLOCKS = 10
#: Shares stand beside their bar in percent with two digits, rounded.
HALF_A_DIGIT = 5e-5
_LATEX = {"\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}"}
_LATEX |= {"±": r"$\pm$", "<=": r"$\leq$", ">=": r"$\geq$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


@dataclass(frozen=True)
class Text:
    """One entry of a table.

    Attributes:
        text: What it says.
        bold: Whether it is bold.
        mark: What stands behind it on a terminal, with its place: ``*``, and ``+`` for the best, which elsewhere is bold alone.
    """

    text: str
    bold: bool = False
    mark: str = ""

    @property
    def drawn(self) -> str:
        """As it stands on a terminal."""
        return self.text + self.mark


@dataclass(frozen=True)
class Grid:
    """A table: its head, and rows as long as it.

    Attributes:
        head: The names of the columns; a column of bars has none, and is drawn on a terminal only.
        left: How many columns, from the first on, stand at the left; the others at the right.
        rows: The entries.
    """

    head: tuple[str, ...]
    left: int
    rows: tuple[tuple[Text, ...], ...]

    def as_data(self) -> dict[str, Any]:
        """The table in JSON's types."""
        rows = [[[entry.text, entry.bold, entry.mark] for entry in row] for row in self.rows]
        return {"head": list(self.head), "left": self.left, "rows": rows}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Grid:
        """What :meth:`as_data` gave. Raises KeyError, TypeError or ValueError: it is something else."""
        rows = tuple(tuple(Text(str(text), bool(bold), str(mark)) for text, bold, mark in row) for row in data["rows"])
        if any(len(row) != len(data["head"]) for row in rows):
            raise ValueError("rows of another length than the head")
        return cls(tuple(map(str, data["head"])), int(data["left"]), rows)

    def of_columns(self, places: Sequence[int]) -> Grid:
        """The columns at these places."""
        rows = tuple(tuple(row[place] for place in places) for row in self.rows)
        return Grid(tuple(self.head[place] for place in places), sum(place < self.left for place in places), rows)

    def width(self) -> int:
        """Letters of a line of it on a terminal."""
        return sum(self._widths()) + 2 * (len(self.head) - 1)

    def fitted(self, width: int) -> list[Grid]:
        """The table, or where it is wider than ``width`` several that are not, each with the columns at the left.

        A column of bars that does not fit beside the one before it is left out.
        """
        places, parts = list(range(self.left)), list[Grid]()
        rest = list(range(self.left, len(self.head)))
        while rest:
            taken = [rest.pop(0)]
            if parts and not self.head[taken[0]]:
                continue  # bars say nothing without the column that they stand behind
            while rest and self.of_columns([*places, *taken, rest[0]]).width() <= width:
                taken.append(rest.pop(0))
            parts.append(self.of_columns([*places, *taken]))
        return parts or [self]

    def _widths(self) -> list[int]:
        return [max([len(name), *(len(row[place].drawn) for row in self.rows)]) for place, name in enumerate(self.head)]


def bar(share: float) -> str:
    """A share of one as a bar of ten blocks, its end to an eighth of a block; empty below 0, full where it is written 100.00 %.

    Args:
        share: Not nan.
    """
    eighths = int(min(max(share + HALF_A_DIGIT, 0.0), 1.0) * BLOCKS * 8)
    full, part = divmod(eighths, 8)
    drawn = _FULL * full + (_EIGHTHS[part] if part else "")
    return drawn + _EMPTY * (BLOCKS - len(drawn))


def markdown(grid: Grid) -> str:
    """The table in Markdown, what is bold between two stars."""
    named = _named(grid)
    lines = [_row(named.head), _row([":--" if place < named.left else "--:" for place in range(len(named.head))])]
    return "\n".join([*lines, *(_row([_starred(entry) for entry in row]) for row in named.rows)])


def latex(grid: Grid) -> str:
    """The table as a tabular with the rules of the package booktabs."""
    named = _named(grid)
    columns = "l" * named.left + "r" * (len(named.head) - named.left)
    rows = [" & ".join(_bold_latex(entry) for entry in row) + r" \\" for row in named.rows]
    head = " & ".join(map(_escaped, named.head)) + r" \\"
    return "\n".join(
        [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}"]
    )


def _named(grid: Grid) -> Grid:
    """The columns that have a name."""
    return grid.of_columns([place for place, name in enumerate(grid.head) if name])


def _row(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _starred(entry: Text) -> str:
    text = _written(entry).replace("*", r"\*").replace("|", r"\|").replace("<", "&lt;")
    return f"**{text}**" if entry.bold and text else text


def _bold_latex(entry: Text) -> str:
    text = _escaped(_written(entry))
    return rf"\textbf{{{text}}}" if entry.bold and text else text


def _written(entry: Text) -> str:
    return entry.text + entry.mark.replace("+", "").strip()


def _escaped(text: str) -> str:
    pieces, place = list[str](), 0
    while place < len(text):
        pair = text[place : place + 2]
        found = pair if pair in _LATEX else text[place]
        pieces.append(_LATEX.get(found, found))
        place += len(found)
    return "".join(pieces)
