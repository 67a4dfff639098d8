"""The files of a figure: its table as CSV, and the picture and the claims that are made of that file alone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd

from implicit_bias.analysis.runs import rounded
from implicit_bias.figures.base import Figure, Preset
from implicit_bias.figures.claims import Claim
from implicit_bias.plotting.style import drawing, header, saved
from implicit_bias.storage.files import atomic_write_bytes, csv_bytes, read_table

#: Claims that are written under the title before the rest is only counted.
MOST_NOTES = 5


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
        header(picture, figure.title, failed_notes(claims), "" if preset == "default" else f"preset {preset}")
        for kind in ("png", "pdf"):
            _write_changed(target.with_suffix(f".{kind}"), saved(picture, kind))
    return claims


def _write_changed(path: Path, content: bytes) -> None:
    """Write a file unless that is its content already."""
    with suppress(OSError):
        if path.read_bytes() == content:
            return
    atomic_write_bytes(path, content)


def failed_notes(claims: Sequence[Claim]) -> list[str]:
    """What is written under the title: the claims that were tested and do not hold."""
    failed = [claim for claim in claims if claim.holds is False]
    notes = [
        f"Does not hold: {c.claim}: {c.measured}{f', expected {c.expected}' if c.expected else ''} ({c.tolerance})"
        for c in failed[:MOST_NOTES]
    ]
    return [*notes, f"... and {len(failed) - MOST_NOTES} more claims."] if len(failed) > MOST_NOTES else notes
