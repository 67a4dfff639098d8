"""The report as report.html: one file that needs nothing beside it, and no network."""

from __future__ import annotations

import re
from base64 import b64encode
from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from implicit_bias.reporting.content import VERDICTS, Content, FigurePart
from implicit_bias.reporting.pictures import Picture, compact
from implicit_bias.reporting.text import plain

#: Beside each verdict, so that it does not rest on colour.
SIGNS = {True: "✓", False: "✕", None: "\N{EN DASH}"}
CLASSES = {True: "holds", False: "fails", None: "untested"}
PACKAGE = "implicit_bias.reporting"


def html(said: Content, folder: Path) -> str:
    """The text of report.html; the pictures are read from ``folder``."""
    shown = {figure.name: compact((folder / figure.files["png"]).read_bytes()) for figure in said.figures}
    return _environment().get_template("report.html.j2").render(said=said, pictures=shown)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(PACKAGE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False}
    environment.filters.update(plain=plain, formula=formula, data_url=_data_url, minutes=_minutes)
    environment.globals.update(verdicts=VERDICTS, signs=SIGNS, classes=CLASSES, part=_part)
    return environment


def formula(text: str) -> Markup:
    """A formula of the glossary with its indices and powers set as such; braces may stand inside braces once."""
    group = r"\{((?:[^{}]|\{[^{}]*\})*)\}|([^\s{}])"
    for sign, tag in (("_", "sub"), ("^", "sup")):
        pattern = re.escape(sign) + f"(?:{group})"
        while re.search(pattern, text):
            text = re.sub(pattern, lambda m, tag=tag: f"\x02{tag}\x03{m[1] or m[2]}\x02/{tag}\x03", text)  # type: ignore[misc]
    return Markup(str(escape(text)).replace("\x02", "<").replace("\x03", ">"))


def _data_url(picture: Picture) -> str:
    return "data:image/png;base64," + b64encode(picture.png).decode("ascii")


def _minutes(figure: FigurePart) -> str:
    return "" if figure.minutes is None else f"{figure.minutes:.1f}"


def _part(path: str) -> Markup:
    """A style or a program of the package, to stand in the page as it is."""
    return Markup(files(PACKAGE).joinpath(path).read_text(encoding="utf-8"))
