"""Pictures small enough to stand inside the page."""

from __future__ import annotations

import inspect
import io
from base64 import b64decode, b64encode
from dataclasses import dataclass
from pathlib import Path

import PIL
from PIL import Image

from implicit_bias.plotting.style import of_few_colours

#: Line drawings need no more; what lies between two is a step of an edge's smoothing.
COLOURS = 48
#: Pixels, of some hundred thousand, that may still be a little nearer to another colour: to move the last takes most of the time.
CHANGES = 1000
#: How hard the encoder looks for fewer bytes; twice the time would save a fiftieth of them.
EFFORT = 50
#: Sharp at a fifth more than the page's 700 pixels; more would make a page of this many pictures too large to be sent about.
WIDEST = 840
#: Two beside each other.
HALF = 700
#: What a compact picture depends on beside its PNG: this file, the choice of colours, and the library that encodes it.
MADE_BY = f"{PIL.__version__} {Path(__file__).read_text()} {inspect.getsource(of_few_colours)}"


@dataclass(frozen=True)
class Picture:
    """A lossless WebP, which every browser shows and is a quarter smaller than the same PNG, and its size in pixels."""

    webp: bytes
    width: int
    height: int

    def as_text(self) -> tuple[str, int, int]:
        """What JSON can hold; :meth:`from_text` is its inverse."""
        return b64encode(self.webp).decode("ascii"), self.width, self.height

    @classmethod
    def from_text(cls, webp: str, width: int, height: int) -> Picture:
        """From what :meth:`as_text` gave."""
        return cls(b64decode(webp), width, height)


def compact(png: bytes, widest: int = WIDEST) -> Picture:
    """A picture with at most COLOURS colours and ``widest`` pixels across; equal pictures give equal bytes."""
    with Image.open(io.BytesIO(png)) as image:
        small = image.convert("RGB")
    if small.width > widest:
        small = small.resize((widest, round(small.height * widest / small.width)), Image.Resampling.LANCZOS)
    few = of_few_colours(small, COLOURS, CHANGES)
    buffer = io.BytesIO()
    few.convert("RGB").save(buffer, format="WEBP", lossless=True, quality=EFFORT, method=4)
    return Picture(buffer.getvalue(), small.width, small.height)
