"""The pages' templates, and what they can say besides plain text: formulas, pictures, packed numbers, parts of the package."""

from __future__ import annotations

import json
import re
import zlib
from base64 import b64encode
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from implicit_bias.report.page.text import plain

if TYPE_CHECKING:
    from implicit_bias.report.page.pictures import Picture

PACKAGE = "implicit_bias.report.page"


def environment(**filters: Callable[..., Any]) -> Environment:
    """The templates of the package; those of one page may have filters of their own."""
    made = Environment(
        loader=PackageLoader(PACKAGE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    made.filters.update(plain=plain, formula=formula, packed=packed, **filters)
    made.globals.update(part=_part)
    return made


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


def data_url(picture: Picture) -> str:
    """A picture as the address of an image."""
    return "data:image/webp;base64," + b64encode(picture.webp).decode("ascii")


def _part(path: str) -> Markup:
    """A style or a program of the package, to stand in the page as it is."""
    return Markup(files(PACKAGE).joinpath(path).read_text(encoding="utf-8"))
