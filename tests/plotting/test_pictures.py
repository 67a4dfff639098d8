"""Every picture, as it is drawn from its committed table: nothing empty, clipped, covered or overlapping, in one style."""

import ast
import re
from collections.abc import Iterator
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import Collection
from matplotlib.figure import Figure as Drawing
from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.ticker import NullFormatter, NullLocator
from matplotlib.transforms import Bbox
from PIL import Image

from implicit_bias import figures
from implicit_bias.figures import FIGURES
from implicit_bias.plotting.style import RC, drawing, header, lay_out
from implicit_bias.report.files import failed_mark
from implicit_bias.report.page import read_claims
from implicit_bias.storage.files import read_table

RESULTS = Path(__file__).resolve().parents[2] / "results" / "figures"
NAMES = FIGURES.names()
#: What may stick out, in pixels: the rounding of a renderer.
SLACK = 1.0
DPI = 200
COLORBAR = "<colorbar>"


@pytest.fixture(scope="module")
def marks() -> dict[str, str]:
    """What the title of a figure says of its claims; that those that are committed are those of its table is tested of them."""
    claims = read_claims(RESULTS.parent / "claims.csv")
    return {name: failed_mark([claim for claim in claims if claim.figure == name]) for name in NAMES}


def drawn(name: str, mark: str, plainly: bool = False) -> Drawing:
    """The picture of the committed table, laid out; ``plainly``: as matplotlib itself does it when it draws.

    Else it is not rendered: boxes around axes give their texts the places that they have in the file; legends are drawn. Minor
    ticks without labels are left out. No fault is found or hidden by them: marks of ticks are in none of the boxes that are
    looked at.
    """
    figure = FIGURES.get(name)()
    with drawing():
        picture: Drawing = figure.draw(read_table(RESULTS / f"{name}.csv"), "default")
        header(picture, figure.title, mark)
        if plainly:
            FigureCanvasAgg(picture)
            picture.draw_without_rendering()
            return picture
        for axes in picture.axes:
            for axis in (axes.xaxis, axes.yaxis):
                if isinstance(axis.get_minor_formatter(), NullFormatter):
                    axis.set_minor_locator(NullLocator())
        lay_out(picture)
        assert isinstance(picture.canvas, FigureCanvasAgg)
        for axes in picture.axes:
            axes.get_tightbbox()
        for legend in picture.findobj(Legend):
            legend.draw(picture.canvas.get_renderer())
    return picture


def extent(artist: object) -> Bbox:
    box: Bbox = artist.get_window_extent()  # type: ignore[attr-defined]
    return box


def overlapping(one: Bbox, other: Bbox) -> bool:
    wide, high = min(one.x1, other.x1) - max(one.x0, other.x0), min(one.y1, other.y1) - max(one.y0, other.y0)
    return bool(min(wide, high) > SLACK)


def curves(axes: Axes) -> list[np.ndarray]:
    """The lines of data in display coordinates; guides across the whole axes are none."""
    lines = [line for line in axes.lines if line.get_visible() and line.get_transform() == axes.transData]
    paths = [np.asarray(line.get_transform().transform(line.get_xydata()), dtype=float) for line in lines]
    return [path[np.isfinite(path).all(axis=1)] for path in paths]


def seen(axes: Axes) -> bool:
    """Whether anything but guides is drawn inside the axes' limits."""
    box = axes.bbox
    points = [*curves(axes)]
    for collection in axes.collections:
        points += collection_points(axes, collection)
    inside = any(len(p) and box.count_contains(p) > 0 for p in points)
    return inside or bool(axes.images)


def collection_points(axes: Axes, collection: Collection) -> list[np.ndarray]:
    """Markers of a scatter, or the corners of bands and meshes."""
    offsets: np.ndarray = np.ma.filled(np.ma.asarray(collection.get_offsets(), dtype=float), np.nan)
    if len(offsets) > 1 or collection.get_offset_transform() == axes.transData:
        return [collection.get_offset_transform().transform(offsets)]
    return [collection.get_transform().transform(path.vertices) for path in collection.get_paths()]


def crossed(box: Bbox, paths: list[np.ndarray]) -> bool:
    """Whether a curve runs through a box; between two points it runs straight."""
    inner = box.padded(-SLACK)
    for path in paths:
        low, high = np.minimum(path[:-1], path[1:]), np.maximum(path[:-1], path[1:])
        near = ((high >= inner.min) & (low <= inner.max)).all(axis=1)
        start, way = path[:-1][near], (path[1:] - path[:-1])[near]
        if any(inner.count_contains(start + way * share) for share in np.linspace(0, 1, 9)):
            return True
    return False


def shown_texts(picture: Drawing) -> list[Text]:
    texts = [text for text in picture.findobj(Text) if text.get_visible() and text.get_text().strip()]
    hidden = {label for axes in picture.axes for label in outside_ticks(axes)}
    return [text for text in texts if text not in hidden]


def outside_ticks(axes: Axes) -> list[Text]:
    """Labels of ticks outside of the axes' limits, which are not drawn."""
    labels: list[Text] = []
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not (axis.get_visible() and low <= tick.get_loc() <= high):
                labels += [tick.label1, tick.label2]
    return labels


def empty_axes(picture: Drawing) -> Iterator[str]:
    for i, axes in enumerate(picture.axes):
        if axes.get_visible() and axes.get_label() != COLORBAR:
            words = axes.get_label() == "words" and axes.texts  # a column of a table
            if not (words or seen(axes)):
                yield f"axes {i}: {axes.get_title()}"


def clipped_or_small_texts(picture: Drawing) -> Iterator[str]:
    canvas = picture.bbox.padded(SLACK)
    for text in shown_texts(picture):
        box = extent(text)
        inside = all(map(canvas.containsx, box.intervalx)) and all(map(canvas.containsy, box.intervaly))
        if not (inside and float(text.get_fontsize()) >= 5.5 and text.get_fontfamily() == [RC["font.family"]]):
            yield text.get_text()


def overlapping_axes(picture: Drawing) -> Iterator[str]:
    """Axes with their labels, and the picture's legends."""
    found = {f"axes {i}": axes.get_tightbbox() for i, axes in enumerate(picture.axes) if axes.get_visible()}
    boxes = {name: box for name, box in found.items() if box is not None}
    yield from found.keys() - boxes.keys()
    legends = {f"legend {i}": extent(legend) for i, legend in enumerate(picture.legends)}
    pairs = [*combinations(boxes.items(), 2), *product(boxes.items(), legends.items())]
    yield from (f"{one}, {other}" for (one, box), (other, its) in pairs if overlapping(box, its))


def overlapping_tick_labels(picture: Drawing) -> Iterator[str]:
    shown = set(shown_texts(picture))
    for axes in picture.axes:
        for axis in (axes.xaxis, axes.yaxis):
            boxes = [(label.get_text(), extent(label)) for label in axis.get_ticklabels(which="both") if label in shown]
            yield from (f"{one}, {other}" for (one, box), (other, its) in combinations(boxes, 2) if overlapping(box, its))


def covered_curves(picture: Drawing) -> Iterator[str]:
    """By legends and notes."""
    for i, axes in enumerate(picture.axes):
        paths = curves(axes)
        for covering in (*axes.findobj(Legend), *axes.texts):
            if crossed(extent(covering), paths):
                yield f"axes {i}"


FAULTS = (empty_axes, clipped_or_small_texts, overlapping_axes, overlapping_tick_labels, covered_curves)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_picture_has_no_faults_and_is_that_of_the_file(name: str, marks: dict[str, str]) -> None:
    """In one test, since drawing it is what takes long."""
    picture = drawn(name, marks[name])
    found = {fault.__name__: list(fault(picture)) for fault in FAULTS}
    assert not {kind: places for kind, places in found.items() if places}
    with Image.open(RESULTS / f"{name}.png") as image:
        inches = np.array(image.size) / DPI
    assert inches == pytest.approx(picture.get_size_inches(), abs=0.02), "not of the committed table"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["exact_tail"])
def test_everything_has_the_places_that_it_has_when_matplotlib_draws(name: str, marks: dict[str, str]) -> None:
    """What is looked for faults is what is in the file: texts, axes with what belongs to them, and legends."""

    def places(picture: Drawing) -> list[tuple[str, Bbox | None]]:
        texts = [(text.get_text(), extent(text)) for text in shown_texts(picture)]
        axes = [(each.get_title(), each.get_tightbbox()) for each in picture.axes]
        return [*texts, *axes, *(("legend", extent(legend)) for legend in picture.findobj(Legend))]

    ours, plain = places(drawn(name, marks[name])), places(drawn(name, marks[name], plainly=True))
    assert [what for what, _ in ours] == [what for what, _ in plain] and len(ours) > 20
    for (what, box), (_, other) in zip(ours, plain, strict=True):
        assert box is not None and other is not None and np.allclose(box.extents, other.extents, rtol=0, atol=0.01), what


@pytest.mark.parametrize("name", NAMES)
def test_files_have_the_resolution_and_their_fonts(name: str) -> None:
    with Image.open(RESULTS / f"{name}.png") as image:
        assert image.info["dpi"] == pytest.approx((DPI, DPI), abs=0.1)
    pdf = (RESULTS / f"{name}.pdf").read_bytes()
    assert b"/Subtype /Type3" not in pdf and len(re.findall(rb"/FontFile2 ", pdf)) == len(
        re.findall(rb"/Type /FontDescriptor", pdf)
    )
    assert b"/FontFile2 " in pdf


def test_looks_come_from_one_file() -> None:
    """No figure sets sizes of paper, fonts or matplotlib's own settings."""
    (folder,) = figures.__path__
    forbidden = {
        "rcParams",
        "rc_context",
        "pyplot",
        "figsize",
        "set_dpi",
        "fontfamily",
        "family",
        "add_axes",
        "Figure(",
        "rcdefaults",
    }
    for path in sorted(Path(folder).glob("*.py")):
        if path.name != "style.py":
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
            names |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg}
            names |= {
                alias.name for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names
            }
            assert not names & forbidden, path.name
