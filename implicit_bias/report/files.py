"""The files of a figure: its table as CSV, and the picture and the claims that are made of that file alone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd

from implicit_bias.analysis.runs import rounded
from implicit_bias.figures.base import Figure, Preset
from implicit_bias.figures.claims import Claim, counted
from implicit_bias.plotting.style import DPI, drawing, header, saved
from implicit_bias.report.request import table_ending
from implicit_bias.storage.files import atomic_write_bytes, read_table, table_bytes

#: Pixels an inch of pictures at the papers' sizes, which stand beside the default ones: half their bytes.
DPI_AT_PAPER = 140


def table_path(target: Path, preset: Preset) -> Path:
    """The table of a figure whose files are ``target.*``."""
    return target.with_name(f"{target.name}.{table_ending(preset)}")


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a figure's table. Raises OSError."""
    atomic_write_bytes(path, table_bytes(rounded(table), path))


def draw_and_judge(figure: Figure, target: Path, preset: Preset) -> list[Claim]:
    """Write ``target.png`` and ``target.pdf`` from the table beside them, each whole or not at all; the claims of that table.

    Raises:
        OSError: a file cannot be read or written.
    """
    table = read_table(table_path(target, preset))
    claims = figure.claims(table, preset)
    with drawing(DPI_AT_PAPER if preset == "paper" else DPI):
        picture = figure.draw(table, preset)
        header(picture, figure.title, failed_mark(claims), "" if preset == "default" else f"preset {preset}")
        for kind in ("png", "pdf"):
            _write_changed(target.with_suffix(f".{kind}"), saved(picture, kind))
    return claims


def _write_changed(path: Path, content: bytes) -> None:
    """Write a file unless that is its content already."""
    with suppress(OSError):
        if path.read_bytes() == content:
            return
    atomic_write_bytes(path, content)


def failed_mark(claims: Sequence[Claim]) -> str:
    """What a picture says of the claims that were tested and do not hold; which they are, and why, is in the report."""
    counts = counted(claims)
    if not counts.fails:
        return ""
    return f"{counts.fails} of {counts.tested} claims {'does' if counts.fails == 1 else 'do'} not hold"
