"""PDF files made smaller: nothing that a reader sees is others."""

from __future__ import annotations

import re
import zlib

import numpy as np
import pytest
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from implicit_bias.plotting.pdf import compacted
from implicit_bias.plotting.style import drawing, panels, saved


def picture(meshed: bool) -> Figure:
    figure, grid = panels(1, 1, height=2.0)
    axes = grid[0, 0]
    axes.plot([0.123456, 1 / 3, 2 / 7], [1 / 9, 5 / 3, 2 / 11])
    axes.set_title(r"$\|W\|_\infty$ fi ffl")
    axes.bar([0.2], [1.3], hatch="//")
    axes.scatter([1 / 7, 2 / 7], [1 / 3, 2 / 3])
    if meshed:  # each vertex of its triangles ends in a colour that reads as digits, some after a coordinate that ends as a dot
        digits = ListedColormap([(49 / 255, 50 / 255, 51 / 255)])
        axes.pcolormesh(*np.random.default_rng(0).random((3, 30, 30)), shading="gouraud", cmap=digits)
    return figure


def streams(pdf: bytes) -> list[tuple[bytes, bytes]]:
    """The dictionary and the content of each stream, found by the file's own table of objects and lengths."""
    start = int(re.search(rb"startxref\n(\d+)", pdf)[1])  # type: ignore[index]
    places = [int(line[:10]) for line in pdf[start:].split(b"trailer")[0].splitlines() if line.endswith(b"n ")]
    found = []
    for number, place in enumerate(places, 1):
        assert pdf[place:].startswith(b"%d 0 obj\n" % number)
        whole = pdf[place : pdf.index(b"\nendobj\n", place)]
        head = re.match(rb"\d+ 0 obj\n(<<.*?>>)\nstream\n", whole, re.DOTALL)
        if head is None:
            continue
        length = re.search(rb"/Length (\d+)( 0 R)?", head[1])
        assert length is not None
        size = int(length[1])
        if length[2]:
            held = re.match(rb"\d+ 0 obj\n(\d+)\n", pdf[places[size - 1] :])
            assert held is not None
            size = int(held[1])
        begin = place + head.end()
        assert pdf[begin + size :].startswith(b"\nendstream")
        found.append((head[1], zlib.decompress(pdf[begin : begin + size])))
    return found


@pytest.mark.parametrize(("meshed", "share"), [(False, 0.75), (True, 1.0)])
def test_a_compacted_file_has_the_same_drawing_and_outlines_in_fewer_bytes(
    meshed: bool, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    with drawing():
        small = saved(picture(meshed), "pdf")
        monkeypatch.setattr("implicit_bias.plotting.style.compacted", lambda pdf: pdf)
        whole = saved(picture(meshed), "pdf")
    assert compacted(whole) == small == compacted(small) and len(small) < share * len(whole)
    number = rb"-?\d*\.?\d+"
    for (kind, before), (_, after) in zip(streams(whole), streams(small), strict=True):
        if b"/Length1" in kind:
            assert after[:4] == before[:4] == b"\0\1\0\0" and len(after) < 0.8 * len(before)
            continue
        if b"/ShadingType" in kind:
            assert before == after and re.search(rb"\.\d{3}", before)
            continue
        # The same operators, their numbers within half of the last decimal that is kept.
        assert re.sub(number, b"#", before) == re.sub(number, b"#", after)
        pairs = zip(re.findall(number, before), re.findall(number, after), strict=True)
        assert all(abs(float(a) - float(b)) <= 0.005 + 1e-9 for a, b in pairs)


def test_a_file_that_is_laid_out_otherwise_is_left_as_it_is() -> None:
    for other in (b"", b"%PDF-1.7\nxref\n", b"no pdf"):
        assert compacted(other) == other
