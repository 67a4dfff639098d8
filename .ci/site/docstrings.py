"""Docstrings as Markdown: formulas keep their stars and angle brackets, and references of Sphinx become code."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_CODE = re.compile(r"(``.+?``|`[^`]+`)", re.DOTALL)
_ROLE = re.compile(r":\w+:`~?([^`<]+)(?:<[^`>]+>)?`")


class PlainFormulas(Extension):
    """Escapes what Markdown would read as emphasis or as a tag, outside of code."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = plain(obj.docstring.value)


def plain(text: str) -> str:
    """``N_*(<g, u>)`` so that it is read as it stands; ``:class:`Norm``` as code."""
    parts = _CODE.split(_ROLE.sub(r"`\1`", text))
    return "".join(part if place % 2 else _escaped(part) for place, part in enumerate(parts))


def _escaped(text: str) -> str:
    return text.replace("_*", r"\_*").replace("*", r"\*").replace("<", "&lt;")
