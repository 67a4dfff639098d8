"""Pictures small enough to stand inside the page."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image

#: Line drawings need no more; what lies between two is a step of an edge's smoothing.
COLOURS = 64
#: Sharp at twice the page's 700 pixels.
WIDEST = 1400
#: Two beside each other.
HALF = 850


@dataclass(frozen=True)
class Picture:
    """A lossless WebP, which every browser shows and is a quarter smaller than the same PNG, and its size in pixels."""

    webp: bytes
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
    few.convert("RGB").save(buffer, format="WEBP", lossless=True, quality=100, method=4)
    return Picture(buffer.getvalue(), small.width, small.height)
