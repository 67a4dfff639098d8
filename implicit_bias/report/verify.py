"""``verify=true``: every figure's table made again from nothing, in a folder of its own, beside the one that is kept."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from implicit_bias.figures import Figure
from implicit_bias.figures.base import Preset
from implicit_bias.report.agreement import Difference, difference
from implicit_bias.report.files import table_path
from implicit_bias.report.request import Request
from implicit_bias.report.uptodate import everything
from implicit_bias.storage.files import atomic_write_text, read_table

FOLDER, SOURCES = "verify", "sources"


def beside(request: Request) -> Request:
    """The same request in a folder of its own, with nothing in it that other sources or versions made.

    Raises:
        OSError: the folder cannot be cleared or written.
    """
    apart = replace(request, results_dir=str(Path(request.results_dir) / FOLDER), verify=False)
    mark, now = apart.folder / SOURCES, everything(request.preset)
    before = ""
    with suppress(OSError):
        before = mark.read_text()
    if before != now:
        # Runs go by the name of their configuration, whatever the sources were.
        for made in ("runs", "cache", "figures"):
            shutil.rmtree(apart.folder / made, ignore_errors=True)
        atomic_write_text(mark, now)
    return apart


def compared(figures: Sequence[Figure], preset: Preset, kept: Path, made: Path) -> Iterator[tuple[Figure, Difference]]:
    """Each figure that was made, and how far its table is from the one that is kept.

    Args:
        kept, made: The two folders of results.
    """
    for figure in figures:
        again, before = (table_path(folder / "figures" / figure.name, preset) for folder in (made, kept))
        if not again.exists():
            continue
        if not before.exists():
            yield figure, Difference("", float("inf"), 0.0, f"there is no {before} to compare with")
        else:
            yield figure, difference(figure, read_table(before), read_table(again))
