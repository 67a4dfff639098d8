"""The report as report.html: one file that needs nothing beside it, and no network."""

from __future__ import annotations

from pathlib import Path

from implicit_bias.report.page.content import KIND_WORDS, VERDICTS, Content, FigurePart
from implicit_bias.report.page.kept import kept
from implicit_bias.report.page.pictures import HALF, MADE_BY, WIDEST, Picture, compact
from implicit_bias.report.page.templating import data_url, environment

#: Beside each verdict, so that it does not rest on colour.
SIGNS = {True: "✓", False: "✕", None: "\N{EN DASH}"}
CLASSES = {True: "holds", False: "fails", None: "untested"}


def html(said: Content, folder: Path) -> str:
    """The text of report.html; the pictures are read from ``folder``."""
    pictures = {figure.name: _picture(folder, figure, WIDEST) for figure in said.figures}
    maps = {figure.name: _picture(folder, figure, HALF) for figure in said.other_maps}
    words = {"verdicts": VERDICTS, "kinds": KIND_WORDS, "signs": SIGNS, "classes": CLASSES}
    shown = environment(data_url=data_url, minutes=_minutes).get_template("report.html.j2")
    return shown.render(said=said, pictures=pictures, maps=maps, **words)


def _picture(folder: Path, figure: FigurePart, widest: int) -> Picture:
    png = (folder / figure.files["png"]).read_bytes()
    place = folder / "cache" / "page" / f"{figure.name}-{widest}.json"
    webp, width, height = kept(place, (png, MADE_BY), lambda: compact(png, widest).as_text())
    return Picture.from_text(webp, width, height)


def _minutes(figure: FigurePart) -> str:
    return "" if figure.minutes is None else f"{figure.minutes:.1f}"
