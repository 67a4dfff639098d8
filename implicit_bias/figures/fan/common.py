"""What the four figures after Fan, Schmidt and Thrampoulidis have in common: methods on the published data, one panel each."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from implicit_bias.analysis.runs import Run, last_rows
from implicit_bias.figures.base import Figure, PerPreset, Preset
from implicit_bias.figures.papers import PUBLISHED
from implicit_bias.plotting.explorer import STEP, Explorer, Quantity
from implicit_bias.plotting.labels import End, end_labels, published, published_handle
from implicit_bias.plotting.style import DOTTED, GREY, legend_below, log_spaced, norm_look, optimizer_look, panels

#: The order of the paper's curves and of every triple of numbers here.
NORMS = ("linf", "l2", "spectral")
STEPS = PerPreset(smoke=400, default=10_000, paper=10_000)
#: Written for this project, without the package: agreement says that the package computes what it should, no more.
MEASURED_BY = "a numpy script of this project, apart from the package, at the settings of Fan et al., arXiv 2502.04664, Figs. 1-2"

#: Why the published spectral curves are other than ours.
UNTRUNCATED = (
    "an untruncated polar factor, which adds an arbitrary null direction of the gradient, errs to the same side; here it is "
    "truncated, as the theory has it"
)


@dataclass(frozen=True)
class Method:
    """A panel: an optimizer at the step size of the paper's curves, and the numbers that a numpy script measured there.

    Attributes:
        label: Title of the panel; names the method in the table.
        overrides: What sets it apart from the experiment's defaults.
        own: The norm whose margin it maximises.
        gaps, first_gaps: Relative gaps under linf, l2 and spectral after the last and after the first step.
        correlations: Cosines with the three max-margin separators after the last step.
        separation: The first step at which every sample is classified.
        published: Last gaps read off the paper's Figure 1, to about 2 %.
        published_correlations: Last cosines read off its Figure 2, likewise.
    """

    label: str
    overrides: tuple[str, ...]
    own: str
    gaps: tuple[float, float, float]
    correlations: tuple[float, float, float] | None = None
    first_gaps: tuple[float, float, float] | None = None
    separation: int | None = None
    published: tuple[float, float, float] | None = None
    published_correlations: tuple[float, float, float] | None = None

    @property
    def optimizer(self) -> str:
        """The name of the optimizer."""
        return dict(override.split("=") for override in self.overrides)["optimizer"]


# The within-class noise and SignGD's step size are those that reproduce the published curves, not those printed in the paper
# (noise .1, lr .1: separated after ten steps, where the figure shows 600).
PRINTED_NOISE, PRINTED_LR = 0.1, 0.1
PLAIN = (
    Method(
        "SignGD",
        ("optimizer=signgd", "schedule.lr=0.01"),
        own="linf",
        gaps=(0.167, 0.313, 0.430),
        correlations=(0.984, 0.871, 0.835),
        first_gaps=(4.87, 3.40, 3.14),
        separation=610,
        published=(0.171, 0.316, 0.435),
        published_correlations=(0.983, 0.871, 0.835),
    ),
    Method(
        "NGD",
        ("optimizer=ngd", "schedule.lr=0.1"),
        own="l2",
        gaps=(0.544, 0.176, 0.336),
        correlations=(0.863, 0.983, 0.908),
        first_gaps=(1.90, 2.48, 2.31),
        separation=890,
        published=(0.544, 0.177, 0.334),
        published_correlations=(0.862, 0.983, 0.908),
    ),
    Method(
        "Spectral-GD",
        ("optimizer=spectral_gd", "schedule.lr=0.05"),
        own="spectral",
        gaps=(0.618, 0.285, 0.150),
        correlations=(0.834, 0.903, 0.981),
        first_gaps=(1.81, 2.23, 2.54),
        separation=660,
        published=(0.626, 0.300, 0.151),
        published_correlations=(0.806, 0.884, 0.958),
    ),
    Method(
        "Muon",
        ("optimizer=muon", "optimizer.beta=0.9", "schedule.lr=0.05"),
        own="spectral",
        gaps=(0.617, 0.285, 0.150),
        correlations=(0.834, 0.903, 0.981),
        first_gaps=(1.81, 2.23, 2.54),
        separation=670,
        published=(0.64, 0.31, 0.151),
        published_correlations=(0.788, 0.872, 0.945),
    ),
)
ADAM = ("optimizer=adam", "optimizer.beta1=0.9", "optimizer.bias_correction=false", "schedule.lr=0.01")
MOMENTUM = (
    Method("Signum", ("optimizer=signum", "optimizer.beta=0.9", "schedule.lr=0.01"), own="linf", gaps=(0.167, 0.313, 0.430)),
    Method("NMGD", ("optimizer=nmgd", "optimizer.beta=0.9", "schedule.lr=0.1"), own="l2", gaps=(0.544, 0.176, 0.336)),
    Method(
        "Adam, beta2 = 0.9",
        (*ADAM, "optimizer.beta2=0.9"),
        own="linf",
        gaps=(0.168, 0.313, 0.430),
        correlations=(0.985, 0.872, 0.834),
    ),
    Method("Adam, beta2 = 0.99", (*ADAM, "optimizer.beta2=0.99"), own="linf", gaps=(0.231, 0.314, 0.426)),
)


class FanFigure(Figure):
    """One panel a method, three curves a panel; subclasses say which quantity."""

    methods: ClassVar[tuple[Method, ...]]
    quantity: ClassVar[str]
    #: What can be explored, in the columns of :meth:`measured`.
    quantities: ClassVar[tuple[Quantity, ...]]

    def setting(self, preset: Preset) -> str:
        return f"{PUBLISHED}; linear model from zero, lr t^-1/2, {STEPS.at(preset):,} steps"

    def sweeps(self, preset: Preset) -> list[list[str]]:
        size = [f"steps={STEPS.at(preset)}"]
        return [[f"experiment={self.name}", *method.overrides, *size] for method in self.methods]

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """method, optimizer, norm, step, and the quantity; `max_margin` too."""
        parts = []
        for method, run in zip(self.methods, runs, strict=True):
            rows = run.trajectory[run.trajectory["step"] > 0]
            last = rows["step"] == rows["step"].max()
            rows = rows[rows["norm"].isin(NORMS) | last]  # of further norms only where they end
            parts.append(rows.assign(method=method.label, optimizer=method.optimizer))
        table = pd.concat(parts, ignore_index=True)
        shown: pd.DataFrame = table[["method", "optimizer", "norm", "step", self.quantity, "max_margin"]]
        return shown

    def explorer(self, table: pd.DataFrame) -> Explorer:
        # Adam is there twice: the second one dotted.
        seen: dict[str, int] = Counter()
        looks = {}
        for method in self.methods:
            look = optimizer_look(method.optimizer)
            looks[method.label] = replace(look, label=method.label, line=DOTTED if seen[method.optimizer] else look.line)
            seen[method.optimizer] += 1
        norms = {norm: norm_look(norm).label for norm in NORMS}
        return Explorer(self.measured(table), "method", looks, (STEP,), self.quantities, {"norm": ("norm", norms)})

    def measured(self, table: pd.DataFrame) -> pd.DataFrame:
        """The table with what else can be said from it."""
        return table

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        figure, axes = panels(2, 2, height=4.6, sharex=True, sharey=True)
        for axis, method in zip(axes.flat, self.methods, strict=True):
            rows = table[table["method"] == method.label]
            for norm in NORMS:
                curve = rows[rows["norm"] == norm]
                look = norm_look(norm)
                own = norm == method.own
                emphasis = {"zorder": 3, "lw": 2.2} if own else {"zorder": 2, "lw": 1.3}
                axis.plot(curve["step"], curve[self.quantity], **emphasis, **look.plot(log_spaced(curve["step"])))
            axis.set_title(method.label.replace("beta2", r"$\beta_2$"))
            axis.set_xlim(0.9, table["step"].max() * 1.12)
            self.finish_panel(axis, rows, method)
        for axis in axes[-1]:
            axis.set_xlabel("step $t$")
        self.finish(axes)
        # The published curves are of the steps of the paper alone.
        whole = preset != "smoke"
        for axis, method in zip(axes.flat, self.methods, strict=True):
            self._name_ends(axis, table[table["method"] == method.label], method, whole)
        handles = [norm_look(norm).handle() for norm in NORMS]
        handles.append(Line2D([], [], color=GREY, lw=2.2, label="own norm"))
        if whole and any(self.printed(method) for method in self.methods):
            handles.append(published_handle("published, where it ends"))
        legend_below(figure, handles)
        return figure

    def printed(self, method: Method) -> tuple[float, float, float] | None:
        """Where the paper's own curves end under the three norms; None where that could not be read."""
        return None

    def _name_ends(self, axis: Axes, rows: pd.DataFrame, method: Method, whole: bool) -> None:
        """Names of norms at the ends of their lines, and the published ends as open markers."""
        last = float(rows["step"].max())
        ends = dict(zip(NORMS, self.at_end(rows, method), strict=True))
        for norm, value in zip(NORMS, (self.printed(method) or ()) if whole else ()):  # noqa: B905 - or none at all
            published(axis, last, value, norm_look(norm))
        end_labels(
            axis,
            [
                End(last, ends[norm], norm_look(norm).label, norm_look(norm).color, "bold" if norm == method.own else "normal")
                for norm in NORMS
            ],
        )

    @abstractmethod
    def finish_panel(self, axis: Axes, rows: pd.DataFrame, method: Method) -> None:
        """Scales and guides of one panel, after its curves."""

    @abstractmethod
    def finish(self, axes: np.ndarray) -> None:
        """Labels and limits that the panels share."""

    def at_end(self, table: pd.DataFrame, method: Method) -> list[float]:
        """The quantity under the three norms after the last step."""
        return _under_norms(last_rows(table[table["method"] == method.label]), self.quantity)

    def at_first(self, table: pd.DataFrame, method: Method) -> list[float]:
        """The quantity under the three norms after the first step."""
        rows = table[table["method"] == method.label]
        return _under_norms(rows[rows["step"] == 1], self.quantity)


def _under_norms(rows: pd.DataFrame, quantity: str) -> list[float]:
    return [float(value) for value in rows.set_index("norm")[quantity].reindex(list(NORMS))]


def bound(power: float, steps: np.ndarray, adam: bool = False) -> np.ndarray:
    """The proven shape of the gap, sum_{s<=t} eta_s^2 / sum_{s<=t} eta_s with eta_s = s^-power; for Adam with eta^(3/2)."""
    eta = np.arange(1, int(steps.max()) + 1, dtype=float) ** -power
    ratio: np.ndarray = np.cumsum(eta ** (1.5 if adam else 2.0)) / np.cumsum(eta)
    shape: np.ndarray = ratio[steps.astype(int) - 1]
    return shape
