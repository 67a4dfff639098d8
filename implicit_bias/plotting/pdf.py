"""PDF files as matplotlib writes them, made smaller: no reader of a picture sees a difference.

Coordinates of drawings keep two decimals, a three-thousandth of a millimetre. Fonts keep their outlines and lose what lays out
text and what hints pixels on coarse screens: every letter has its place in the file already.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: Decimals of coordinates, in points.
DECIMALS = 2
#: Tables of a font that a PDF has no use for: of layout, of names, of hints.
UNUSED = ("GDEF", "GPOS", "GSUB", "MATH", "FFTM", "kern", "name", "gasp", "cvt ", "fpgm", "prep")

#: Those of them that say nothing about which glyphs belong together: to cut them down to a file's glyphs takes longest.
LAYOUT = ("GDEF", "GPOS", "kern")

_LONG_NUMBER = re.compile(rb"-?\d*\.\d{3,}")
_STREAM = re.compile(rb"(<<.*?>>)\nstream\r?\n(.*)\nendstream", re.DOTALL)
_LENGTH = re.compile(rb"/Length (\d+)( 0 R)?")
#: What a page names as the content stream that draws it; and the dictionaries of other content streams: of markers, of hatches.
_PAGE = re.compile(rb"/Contents (\d+) 0 R")
_DRAWING = re.compile(rb"/Subtype /Form\b|/Type /Pattern\b")
_LENGTH_OF_FONT = re.compile(rb"/Length1 \d+")


@contextmanager
def glyphs_alone() -> Iterator[None]:
    """Matplotlib embeds fonts without tables that :func:`compacted` would remove, which makes the same file in three quarters of
    the time."""
    from fontTools import subset

    usual = subset.Options

    def options(**keywords: Any) -> Any:
        made = usual(**keywords)
        made.drop_tables += LAYOUT
        return made

    subset.Options = options
    try:
        yield
    finally:
        subset.Options = usual


def compacted(pdf: bytes) -> bytes:
    """The same file in fewer bytes; equal files give equal bytes. One that is not laid out as matplotlib's is left as it is."""
    found = _objects(pdf)
    if found is None:
        return pdf
    objects, ending = found
    pages = {int(page[1]) for content in objects.values() if (page := _PAGE.search(content))}
    for number, content in list(objects.items()):
        stream = _STREAM.fullmatch(content)
        if stream is None or b"/FlateDecode" not in stream[1] or b"/Subtype /Image" in stream[1]:
            continue
        length = _LENGTH.search(stream[1])
        if length is None:
            continue
        dictionary, data = stream[1], zlib.decompress(stream[2])
        if b"/Length1" in dictionary:
            data = _font(data)
            dictionary = _LENGTH_OF_FONT.sub(b"/Length1 %d" % len(data), dictionary)
        elif (number in pages or _DRAWING.search(dictionary)) and b"/ShadingType" not in dictionary:
            data = _LONG_NUMBER.sub(_short, data)  # all others are no text: the triangles of a shading, say
        packed = zlib.compress(data, 9)
        if length[2]:  # the number of an object that holds it
            objects[int(length[1])] = b"%d" % len(packed)
        else:
            dictionary = _LENGTH.sub(b"/Length %d" % len(packed), dictionary)
        objects[number] = dictionary + b"\nstream\n" + packed + b"\nendstream"
    return _file(pdf[: pdf.index(b"1 0 obj")], objects, ending)


def _objects(pdf: bytes) -> tuple[dict[int, bytes], bytes] | None:
    """The objects by number, and the trailer's dictionary; None where the file is laid out otherwise."""
    table = re.search(rb"xref\n0 (\d+)\n(.*)trailer\n(<<.*>>)\nstartxref\n\d+\n%%EOF\n$", pdf, re.DOTALL)
    if table is None:
        return None
    places = {number: int(line[:10]) for number, line in enumerate(table[2].splitlines()) if line.endswith(b"n ")}
    ends = sorted([*places.values(), table.start()])
    found = {}
    for number, start in places.items():
        end = next(place for place in ends if place > start)
        whole = re.fullmatch(rb"%d 0 obj\n(.*)\nendobj\n" % number, pdf[start:end], re.DOTALL)
        if whole is None:
            return None
        found[number] = whole[1]
    return found, table[3]


def _file(header: bytes, objects: dict[int, bytes], trailer: bytes) -> bytes:
    """A file of objects that are numbered from 1."""
    file = io.BytesIO()
    file.write(header)
    lines = [b"0000000000 65535 f \n"]
    for number in range(1, max(objects) + 1):
        lines.append(b"%010d 00000 n \n" % file.tell())
        file.write(b"%d 0 obj\n%b\nendobj\n" % (number, objects[number]))
    start = file.tell()
    file.write(b"xref\n0 %d\n%btrailer\n%b\nstartxref\n%d\n%%%%EOF\n" % (len(lines), b"".join(lines), trailer, start))
    return file.getvalue()


def _short(number: re.Match[bytes]) -> bytes:
    rounded = (b"%.*f" % (DECIMALS, float(number[0]))).rstrip(b"0").rstrip(b".")
    return b"0" if rounded in (b"-0", b"") else rounded


def _font(data: bytes) -> bytes:
    """A TrueType font with its outlines and metrics alone."""
    from fontTools.ttLib import TTFont

    font = TTFont(io.BytesIO(data), recalcTimestamp=False, recalcBBoxes=False)
    for table in UNUSED:
        if table in font:
            del font[table]
    outlines = font["glyf"]
    for name in outlines.keys():  # noqa: SIM118 - a table, not a dictionary
        outlines[name].removeHinting()
    file = io.BytesIO()
    font.save(file)
    return file.getvalue()
