"""What a command prints of what it found: a table with lines below it, and the same as JSON, Markdown or LaTeX."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from implicit_bias.cli.grid import Grid, latex, markdown
from implicit_bias.cli.wrapping import fitted

#: The flags that ask for another form of an answer than the one for a terminal.
Form = Literal["--json", "--md", "--latex"]
FORMS: tuple[Form, ...] = ("--json", "--md", "--latex")


@dataclass(frozen=True)
class Answer:
    """A table and the lines below it.

    Attributes:
        grid: The table.
        lines: What stands below it: its legend, what was learnt, and where the files are.
        facts: The same in JSON's types, for programs.
    """

    grid: Grid
    lines: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


def as_data(answer: Answer) -> dict[str, Any]:
    """An answer in JSON's types, from which :func:`from_data` makes it again."""
    return {"grid": answer.grid.as_data(), "lines": list(answer.lines), "facts": dict(answer.facts)}


def from_data(data: Mapping[str, Any]) -> Answer:
    """What :func:`as_data` gave. Raises KeyError, TypeError or ValueError: it is something else."""
    return Answer(Grid.from_data(data["grid"]), tuple(map(str, data["lines"])), dict(data["facts"]))


def show(answer: Answer, form: Form | None = None) -> None:
    """Print an answer on standard output: for a terminal, as JSON all of it, as Markdown or LaTeX the table alone."""
    if form == "--json":
        sys.stdout.write(json.dumps(answer.facts, indent=2, ensure_ascii=False) + "\n")
    elif form is not None:
        sys.stdout.write((markdown(answer.grid) if form == "--md" else latex(answer.grid)) + "\n")
    else:
        _draw(answer)


def _draw(answer: Answer) -> None:
    from rich.console import Console

    terminal = sys.stdout.isatty()
    # Without a terminal there is no width to ask for; then everything is as wide as it needs.
    width = shutil.get_terminal_size().columns if terminal else None
    grids = [answer.grid] if width is None else answer.grid.fitted(width)
    console = Console(width=width or answer.grid.width(), no_color=None if terminal else True, highlight=False)
    for place, grid in enumerate(grids):
        with console.capture() as drawn:
            console.print(_table(grid))
        lines = [line.rstrip() for line in drawn.get().splitlines()]
        sys.stdout.write("\n".join([*([""] if place else []), *lines]) + "\n")
    for line in answer.lines:
        # Words are never parted, and commands stay whole: paths and commands are to be copied.
        console.print(line if width is None else fitted(line, width), markup=False, soft_wrap=True)


def _table(grid: Grid) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for place, name in enumerate(grid.head):
        table.add_column(name, justify="left" if place < grid.left or not name else "right", no_wrap=True)
    for row in grid.rows:
        table.add_row(*(Text(entry.drawn, style="bold" if entry.bold else "") for entry in row))
    return table
