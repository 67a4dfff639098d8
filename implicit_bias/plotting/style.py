"""The common style of all plots: sizes, fonts, and a fixed colour, line and marker for each norm and each optimizer.

The colours of the norms are Okabe and Ito's, which colour-blind readers tell apart; the methods of one norm are shades of
its colour, told apart by line and marker as well. linf, l2 and spectral look as in the paper: blue squares, orange circles,
green diamonds.
"""

from __future__ import annotations

import colorsys
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator, ScalarFormatter
from numpy.typing import ArrayLike

from implicit_bias.plotting.pdf import compacted, glyphs_alone

if TYPE_CHECKING:
    from PIL.Image import Image

# Widths of a one-column and a two-column picture in a paper, inches.
SINGLE, DOUBLE = 3.3, 6.8
POINTS_PER_INCH = 72
#: Pixels an inch of a PNG.
DPI = 200
RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.2,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "pdf.fonttype": 42,
    "mathtext.fontset": "dejavusans",
}
#: Of a log axis with minor ticks.
MOST_DECADES = 12
TITLE_SIZE, NOTE_SIZE = 9.5, 7.0
FAILED = "#b3261e"
GREY = "#6b6b6b"


@dataclass(frozen=True)
class Look:
    """How a curve looks, and what it is called in words."""

    label: str
    color: str
    marker: str
    line: Any = "-"

    def plot(self, marked: Sequence[int] | None = None) -> dict[str, Any]:
        """Keywords of ``Axes.plot``, with markers on the points ``marked``; without any where it is None."""
        markers = {} if marked is None else {"marker": self.marker, "markevery": list(marked)}
        return {"color": self.color, "linestyle": self.line, "label": self.label, **markers}

    def handle(self, marker: bool = True) -> Line2D:
        """An entry of a legend."""
        return Line2D([], [], color=self.color, linestyle=self.line, label=self.label, marker=self.marker if marker else "")


NORM_LOOKS = {
    "linf": Look(r"$\ell_\infty$", "#0072B2", "s"),
    "l2": Look(r"$\ell_2$", "#E69F00", "o"),
    "spectral": Look("spectral", "#009E73", "D"),
    "nuclear": Look("nuclear", "#CC79A7", "^"),
    "l1": Look(r"$\ell_1$", "#D55E00", "v"),
    "row": Look("row", "#8C510A", "P"),
    "column": Look("column", "#7A7A00", "X"),
    "hybrid0.1": Look("hybrid", "#7B3294", "*"),
}

DASHED, DOTTED, DASHDOT = (0, (4, 1.6)), (0, (1, 1.3)), (0, (4, 1.4, 1, 1.4))
LINES: tuple[Any, ...] = ("-", DASHED, DASHDOT, DOTTED)
#: Lightness of the darkest and the lightest shade of a colour.
DARKEST, LIGHTEST = 0.25, 0.78
VARIANT_MARKERS = ("o", "^", "v", "P", "X", "s")
OPTIMIZER_LOOKS = {
    "signgd": Look("SignGD", "#0072B2", "s"),
    "signum": Look("Signum", "#00406B", "s", DASHED),
    "adam": Look("Adam", "#56B4E9", "X", DASHDOT),
    "ngd": Look("NGD", "#E69F00", "o"),
    "nmgd": Look("NMGD", "#9C6500", "o", DASHED),
    "gd": Look("GD", "#F2C14E", "h", DOTTED),
    "momentum_gd": Look("momentum GD", "#C9A227", "H", DASHDOT),
    "spectral_gd": Look("Spectral-GD", "#009E73", "D"),
    "muon": Look("Muon", "#00563F", "D", DASHED),
    "muon_ns": Look("Muon, Newton-Schulz", "#6CCB9F", "d", DASHDOT),
    "muon_signum": Look("Muon-Signum", "#1B7F9C", "D", DOTTED),
    "muon_adam": Look("Muon-Adam", "#3F51B5", "X", DOTTED),
    "shampoo": Look("Shampoo", "#8BC34A", "d", DOTTED),
    "nucgd": Look("NucGD", "#CC79A7", "^"),
    "coordinate_descent": Look("coordinate descent", "#D55E00", "v"),
    "row_gd": Look("RowGD", "#8C510A", "P"),
    "nsd": Look("NSD", "#000000", "p"),
    "nmd": Look("NMD", "#4D4D4D", "p", DASHED),
    "sd": Look("SD", "#999999", "p", DOTTED),
    "lion": Look("Lion", "#2E86AB", "s", DOTTED),
    "mvn_grad": Look("MVN-Grad", "#B8860B", "X", DASHED),
    "scion": Look("Scion", "#4CAF7A", "D", DASHDOT),
    "muon_max": Look("MuonMax", "#0E6B6B", "d"),
    "fromage": Look("Fromage", "#B5651D", "P", DASHED),
    "lars": Look("LARS", "#6B4226", "P", DOTTED),
    "soap": Look("SOAP", "#6A4C93", "d", DASHED),
    "prodigy": Look("Prodigy", "#9D8DC7", "X", DOTTED),
    "polar_grad": Look("PolarGrad", "#7FBF9F", "d", DASHED),
    "mirror": Look("mirror descent", "#2F3E9E", "h", DASHDOT),
    "dual_acceleration": Look("dual acceleration", "#B5179E", "*"),
    "torch": Look("torch class", "#7A7A7A", "*"),
}

# For what has no look of its own: at least 9 apart in CIE Lab from the looks above, and 12 from each other, as readers with
# and without red-green blindness see them.
FREE_COLORS = ("#D6009A", "#661100", "#F4A6C8", "#5E2750", "#A50026")
FREE_MARKERS = ("<", ">", "8", "d")


def norm_look(label: str) -> Look:
    """The look of a norm; norms without one of their own are grey and go by their label."""
    return NORM_LOOKS.get(label, Look(label, GREY, "x"))


def optimizer_look(name: str) -> Look:
    """The look of an optimizer; an optimizer without one of its own is grey and goes by its name."""
    return OPTIMIZER_LOOKS.get(name, Look(name, GREY, "x"))


def curve_looks(curves: Mapping[str, str]) -> dict[str, Look]:
    """A look for every curve of one picture, by its label, no two of them equal.

    A known optimizer looks as everywhere; several curves of it are shades of its colour, none of them black, each in a line and
    with a marker of its own. Others take the free colours in turn, and so do several curves of one that is black or grey.

    Args:
        curves: Label to the name of its optimizer.
    """
    looks: dict[str, Look] = {}
    names = list(curves.values())
    several = {name for name in names if names.count(name) > 1}
    strangers = [label for label, name in curves.items() if name not in OPTIMIZER_LOOKS or (name in several and _is_grey(name))]
    for label, name in curves.items():
        place = sum(curves[before] == name for before in looks)
        if label in strangers:
            turn, free = divmod(strangers.index(label), len(FREE_COLORS))
            line, marker = LINES[turn % len(LINES)], FREE_MARKERS[free % len(FREE_MARKERS)]
            looks[label] = Look(label, FREE_COLORS[free], marker, line)
        elif name not in several:
            looks[label] = replace(OPTIMIZER_LOOKS[name], label=label)
        else:
            color = tint(OPTIMIZER_LOOKS[name].color, place / (names.count(name) - 1))
            marker = VARIANT_MARKERS[place % len(VARIANT_MARKERS)]
            looks[label] = Look(label, color, marker, LINES[place % len(LINES)])
    return looks


def _is_grey(name: str) -> bool:
    return len(set(to_rgb(OPTIMIZER_LOOKS[name].color))) == 1


def shade(color: str, place: float) -> str:
    """A colour between nearly black (``place`` 0), itself and a light tint (1)."""
    white, keep = max(0.0, 2 * place - 1) * 0.6, 1 - max(0.0, 1 - 2 * place) * 0.65
    red, green, blue = (white + (1 - white) * keep * part for part in to_rgb(color))
    return to_hex((red, green, blue))


def tint(color: str, place: float) -> str:
    """A colour of the same hue, from itself (``place`` 0), if it is no darker than DARKEST, to a light one (1)."""
    hue, light, saturation = colorsys.rgb_to_hls(*to_rgb(color))
    low = min(max(light, DARKEST), LIGHTEST - 0.3)
    high = min(low + 0.4, LIGHTEST)
    return to_hex(colorsys.hls_to_rgb(hue, low + (high - low) * place, max(saturation, 0.45)))


@contextmanager
def drawing(dpi: int = DPI) -> Iterator[None]:
    """Matplotlib with this module's settings alone, without the user's, and so many pixels an inch of a PNG."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({**RC, "figure.dpi": dpi, "savefig.dpi": dpi})
        yield


def panels(rows: int, columns: int, *, width: float = DOUBLE, height: float, **keywords: Any) -> tuple[Figure, np.ndarray]:
    """A figure with a grid of axes, (rows, columns); :func:`header` adds the title later."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **keywords)
    return figure, axes


def legend_below(figure: Figure, handles: Sequence[Line2D], **keywords: Any) -> None:
    """One legend for all panels, in one row under them, where it covers no curve."""
    figure.legend(handles=list(handles), loc="outside lower center", **{"ncols": len(handles), "columnspacing": 1.6, **keywords})


def log_spaced(steps: ArrayLike, count: int = 10) -> list[int]:
    """The places of about ``count`` steps at equal distances on a log axis."""
    logs = np.log(np.asarray(steps, dtype=float))
    wanted = np.linspace(logs[0], logs[-1], count)
    return sorted({int(np.abs(logs - w).argmin()) for w in wanted})


def log_axis(axes: Axes, which: str) -> None:
    """A log axis with plain numbers where it spans little, powers of ten where it spans much."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    low, high = sorted(axes.get_xlim() if which == "x" else axes.get_ylim())
    axis.set_minor_formatter(NullFormatter())
    decades = np.log10(high / low)
    if decades < 1.6:
        ticks = [m * 10.0**e for e in range(-12, 13) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
        axis.set_major_locator(FixedLocator(ticks))
        formatter = ScalarFormatter()
        formatter.set_scientific(False)
        axis.set_major_formatter(formatter)
    else:
        axis.set_major_locator(LogLocator(base=10, numticks=7))
    # Over many decades they would run together into a bar.
    minor = LogLocator(base=10, subs=tuple(range(2, 10)), numticks=100) if decades <= MOST_DECADES else NullLocator()
    axis.set_minor_locator(minor)
    axes.tick_params(axis=which, which="minor", length=1.6, width=0.5)  # type: ignore[arg-type]
    axes.grid(False, which="minor")


def header(figure: Figure, title: str, mark: str = "", tag: str = "") -> None:
    """Put the title on top, and small at its right a mark in red and a tag; where all is too wide they stand in a line of their
    own. The figure grows by their room."""
    width, height = figure.get_size_inches()
    told = [text for text in (mark, tag) if text]
    aside = "   ".join(told)
    fits = 0.62 * TITLE_SIZE * len(title) + 0.56 * NOTE_SIZE * len(aside) < 0.97 * width * POINTS_PER_INCH
    title_inches = 1.9 * TITLE_SIZE / POINTS_PER_INCH
    top = title_inches + (0 if fits or not told else 1.5 * NOTE_SIZE / POINTS_PER_INCH)
    total = height + top
    figure.set_size_inches(width, total)
    figure.text(0.012, 1 - 0.5 * title_inches / total, title, va="center", size=TITLE_SIZE, weight="bold")
    y = 1 - (0.5 * title_inches if fits else title_inches + 0.6 * NOTE_SIZE / POINTS_PER_INCH) / total
    if tag:
        figure.text(0.988, y, tag, va="center", ha="right", size=NOTE_SIZE, color=GREY)
    if mark:
        left_of_tag = 0.988 - (0.56 * NOTE_SIZE * (len(tag) + 3) / POINTS_PER_INCH / width if tag else 0)
        figure.text(left_of_tag, y, mark, va="center", ha="right", size=NOTE_SIZE, color=FAILED)
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.set(rect=(0, 0, 1, height / total))  # type: ignore[call-arg]


def lay_out(figure: Figure) -> None:
    """Give everything its place, for good, at the resolution of PNGs.

    Minor ticks without labels take no room, and to place each of them again and again would be half of the work: they are left
    out until the places are found. The canvas stays, since it keeps the sizes of texts for the PNG.
    """
    engine = figure.get_layout_engine()
    if engine is None:
        return
    FigureCanvasAgg(figure)
    axes = [axis for each in figure.axes for axis in (each.xaxis, each.yaxis)]
    bare = {axis: axis.get_minor_locator() for axis in axes if isinstance(axis.get_minor_formatter(), NullFormatter)}
    for axis in bare:
        axis.set_minor_locator(NullLocator())
    engine.execute(figure)
    for axis, locator in bare.items():
        axis.set_minor_locator(locator)
    figure.set_layout_engine(None)


#: Colours of a picture: those of its curves and cells, and shades between them and white that smooth their edges.
PALETTE = 64


def saved(figure: Figure, kind: str) -> bytes:
    """The picture as png or pdf; equal figures give equal bytes (no date, no version in the file).

    It is laid out once: what is saved next has everything in the same places.
    """
    lay_out(figure)
    buffer = io.BytesIO()
    metadata: dict[str, Any] = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Producer": None, "Creator": None}}[kind]
    with glyphs_alone():
        figure.savefig(buffer, format=kind, metadata=metadata)
    return _of_few_colours(buffer.getvalue()) if kind == "png" else compacted(buffer.getvalue())


def of_few_colours(image: Image, colours: int, changes: int = 1) -> Image:
    """A picture with a palette of at most ``colours``, chosen to be near all of its own; equal pictures give equal ones.

    Args:
        image: The picture.
        colours: Most colours.
        changes: The palette's colours are moved to the means of their pixels until no more than so many pixels change theirs.
    """
    from PIL.Image import Dither, Quantize

    return image.convert("RGB").quantize(colours, Quantize.MAXCOVERAGE, kmeans=1 + changes, dither=Dither.NONE)


def _of_few_colours(png: bytes) -> bytes:
    """The same picture with a palette, in a fifth of the bytes: what lies between its colours is smoothing of edges."""
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        few = of_few_colours(image, PALETTE)
        few.save(buffer, format="PNG", optimize=True, dpi=image.info.get("dpi"))
    return buffer.getvalue()
