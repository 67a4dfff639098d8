"""Files of pictures: what is done to write them faster changes no byte."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import permutations

import numpy as np
import pytest
from matplotlib.figure import Figure

from implicit_bias.plotting import style
from implicit_bias.plotting.style import SINGLE, drawing, header, legend_below, log_axis, panels, saved

KINDS = ("png", "pdf")


def picture() -> Figure:
    """With minor ticks that have no labels, and legends inside and below."""
    figure, grid = panels(1, 1, width=SINGLE, height=1.6)
    axes, x = grid[0, 0], np.geomspace(1, 1e4, 9)
    axes.semilogx(x, x**-0.37, label="fi")
    axes.semilogx(x, 3 * x**-0.9, label="ffl")
    axes.set(title="a title", xlabel="steps", ylabel="gap")
    log_axis(axes, "x")
    axes.legend()
    legend_below(figure, axes.get_legend_handles_labels()[0])
    header(figure, "A title", "1 of 4")
    return figure


@pytest.mark.slow
def test_files_have_the_bytes_of_matplotlibs_own_layout_and_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Laid out while the PNG is drawn; whichever file is written first, everything has these places."""
    with drawing():
        found = [{kind: saved(figure, kind) for kind in kinds} for kinds in permutations(KINDS) for figure in [picture()]]
        monkeypatch.setattr(style, "lay_out", lambda figure: None)
        monkeypatch.setattr(style, "glyphs_alone", nullcontext)
        figure, plain = picture(), {}
        for kind in KINDS:
            plain[kind] = saved(figure, kind)
            figure.set_layout_engine(None)
    for files in found:
        assert {kind: files[kind] == plain[kind] for kind in KINDS} == dict.fromkeys(KINDS, True)
