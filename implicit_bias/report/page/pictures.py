"""Pictures small enough to stand inside the page."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image

#: Line drawings need no more; what lies between two is a step of an edge's smoothing.
COLOURS = 48
#: Sharp at one and a half times the page's 700 pixels; more would make a page of this many pictures too large to be sent about.
WIDEST = 1050
#: Two beside each other.
HALF = 700


@dataclass(frozen=True)
class Picture:
    """A PNG and its size in pixels."""

    png: bytes
    width: int
    height: int


def compact(png: bytes, widest: int = WIDEST) -> Picture:
    """A picture with at most COLOURS colours and ``widest`` pixels across; equal pictures give equal bytes."""
    with Image.open(io.BytesIO(png)) as image:
        small = image.convert("RGB")
    if small.width > widest:
        small = small.resize((widest, round(small.height * widest / small.width)), Image.Resampling.LANCZOS)
    few = small.quantize(COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    few.save(buffer, format="PNG", compress_level=9)
    return Picture(buffer.getvalue(), small.width, small.height)
