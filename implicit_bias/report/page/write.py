"""The report's files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from implicit_bias.figures import Claim, Figure, Preset

MARKDOWN, HTML = "REPORT.md", "report.html"


def write_report(
    folder: Path, preset: Preset, figures: Sequence[Figure], claims: Sequence[Claim], minutes: Mapping[str, float]
) -> None:
    """Write REPORT.md and report.html of the figures that are drawn in ``folder``. Equal inputs give equal bytes."""
    from implicit_bias.report.page.content import content
    from implicit_bias.report.page.html import html
    from implicit_bias.report.page.markdown import markdown
    from implicit_bias.storage.files import atomic_write_text

    said = content(folder, preset, figures, claims, minutes)
    atomic_write_text(folder / MARKDOWN, markdown(said))
    atomic_write_text(folder / HTML, html(said, folder))
