"""The report as report.html: one file that needs nothing beside it, and no network."""

from __future__ import annotations

import json
import re
import zlib
from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from implicit_bias.report.page.content import KIND_WORDS, VERDICTS, Content, FigurePart
from implicit_bias.report.page.pictures import HALF, Picture, compact
from implicit_bias.report.page.text import plain

#: Beside each verdict, so that it does not rest on colour.
SIGNS = {True: "✓", False: "✕", None: "\N{EN DASH}"}
CLASSES = {True: "holds", False: "fails", None: "untested"}
PACKAGE = "implicit_bias.report.page"


def html(said: Content, folder: Path) -> str:
    """The text of report.html; the pictures are read from ``folder``."""
    full = {figure.name: (folder / figure.files["png"]).read_bytes() for figure in said.figures}
    pictures = {name: compact(png) for name, png in full.items()}
    maps = {figure.name: compact(full[figure.name], HALF) for figure in said.heat_maps}
    return _environment().get_template("report.html.j2").render(said=said, pictures=pictures, maps=maps)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(PACKAGE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters.update(plain=plain, formula=formula, data_url=_data_url, packed=packed, minutes=_minutes)
    environment.globals.update(verdicts=VERDICTS, kinds=KIND_WORDS, signs=SIGNS, classes=CLASSES, part=_part)
    return environment


def formula(text: str) -> Markup:
    """A formula of the glossary with its indices and powers set as such; braces may stand inside braces once."""
    group = r"\{((?:[^{}]|\{[^{}]*\})*)\}|([^\s{}])"
    for sign, tag in (("_", "sub"), ("^", "sup")):
        pattern = re.escape(sign) + f"(?:{group})"
        while re.search(pattern, text):
            text = re.sub(pattern, lambda m, tag=tag: f"\x02{tag}\x03{m[1] or m[2]}\x02/{tag}\x03", text)  # type: ignore[misc]
    return Markup(str(escape(text)).replace("\x02", "<").replace("\x03", ">"))


def packed(curves: Mapping[str, Any]) -> str:
    """Numbers for a program of the page: JSON, deflated, in base64; a third of what they are as text."""
    return b64encode(zlib.compress(json.dumps(curves, separators=(",", ":")).encode(), 9)).decode("ascii")


def _data_url(picture: Picture) -> str:
    return "data:image/webp;base64," + b64encode(picture.webp).decode("ascii")


def _minutes(figure: FigurePart) -> str:
    return "" if figure.minutes is None else f"{figure.minutes:.1f}"


def _part(path: str) -> Markup:
    """A style or a program of the package, to stand in the page as it is."""
    return Markup(files(PACKAGE).joinpath(path).read_text(encoding="utf-8"))
