"""The files of a figure: its table as CSV, and the picture and the claims that are made of that file alone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd

from implicit_bias.analysis.runs import rounded
from implicit_bias.figures.base import Figure, Preset
from implicit_bias.figures.claims import Claim, counted
from implicit_bias.plotting.style import drawing, header, saved
from implicit_bias.storage.files import atomic_write_bytes, csv_bytes, read_table


def write_table(table: pd.DataFrame, target: Path) -> None:
    """Write ``target.csv``. Raises OSError."""
    atomic_write_bytes(target.with_suffix(".csv"), csv_bytes(rounded(table)))


def draw_and_judge(figure: Figure, target: Path, preset: Preset) -> list[Claim]:
    """Write ``target.png`` and ``target.pdf`` from ``target.csv``, each whole or not at all; the claims of that table.

    Raises:
        OSError: a file cannot be read or written.
    """
    table = read_table(target.with_suffix(".csv"))
    claims = figure.claims(table, preset)
    with drawing():
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
