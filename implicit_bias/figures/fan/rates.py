"""How fast the own-norm margin gap closes under step sizes lr t^-a, beside the exponents that the theorems prove."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from implicit_bias.analysis.runs import Run, mean_and_spread
from implicit_bias.figures.base import FIGURES, Figure, PerPreset, Preset, one_line
from implicit_bias.figures.claims import Claim, Finding
from implicit_bias.figures.fan.common import bound
from implicit_bias.figures.papers import MIXTURE
from implicit_bias.plotting.explorer import STEP, Explorer, Quantity
from implicit_bias.plotting.style import GREY, legend_below, log_axis, optimizer_look, panels

PLAIN = ("signgd", "ngd", "spectral_gd")
METHODS = (*PLAIN, "signum", "nmgd", "muon", "adam")
POWERS = (0.3, 0.5, 0.7, 1.0)
STEPS = PerPreset(smoke=300, default=30_000, paper=1_000_000)
SEEDS = PerPreset(smoke=2, default=3, paper=10)
# Slopes are fitted to the last decades, where the transient before separation is over.
FITTED_DECADES = 1.5
TOLERANCE = 0.05
# How much faster than proven counts as faster.
CLEARLY = 0.1
#: The theorems have a = 1/2, and for Adam 2/3; their proofs have the sums for all of them.
FROM_THE_SUMS = "derived here from the sums of step sizes in the proofs of Fan et al., arXiv 2502.04664, Theorems 1, 2 and 5"
RATES = {
    "descent": {0.3: "t^-0.3", 0.5: "log t / t^0.5", 0.7: "t^-0.3", 1.0: "1 / log t"},
    "adam": {0.3: "t^-0.15", 0.5: "t^-0.25", 0.7: "t^-0.3", 1.0: "1 / log t"},
}


@FIGURES.register
class Rates(Figure):
    """The gap closes as fast as one over the sum of the step sizes, which is at least as fast as proven."""

    name = "rates"
    headline = "Spectral-GD, a = 0.5"
    order = 30
    title = "Rates: the own-norm gap falls at least as fast as proven"
    source = "Fan et al., arXiv 2502.04664, Theorems 1, 2 and 5"
    kind = "theorem"
    paper = "fan"
    minutes = PerPreset(smoke=0.2, default=0.3, paper=120.0)

    def setting(self, preset: Preset) -> str:
        return f"{SEEDS.at(preset)} seeds of {MIXTURE}; linear model, lr t^-a, {STEPS.at(preset):,} steps"

    def caption(self, preset: Preset) -> str:
        return one_line(f"""
            Top: own-norm margin gap against the step under step sizes lr t^-a (lr=auto), geometric mean of
            {SEEDS.at(preset)} seeds of {MIXTURE}; the grey line has the
            bound's shape for descent, sum eta^2 / sum eta. Bottom: slopes fitted to the last {FITTED_DECADES} decades, with
            their range over the data sets; solid grey line the slope of the descent bound (dotted: of Adam's) in the same
            window, dashed the slope of 1 / sum eta. For a < 1/2 the gap falls faster than the theorems promise: without momentum
            it follows 1 / sum eta throughout. (With momentum and a = .3 the steps are so large that the gap is still catching up
            in this window.)
        """)

    def sweeps(self, preset: Preset) -> list[list[str]]:
        powers = ",".join(map(str, POWERS))
        size = [f"steps={STEPS.at(preset)}", f"seed=range(1,{SEEDS.at(preset) + 1})"]
        return [[f"experiment={self.name}", f"optimizer={method}", f"schedule.power={powers}", *size] for method in METHODS]

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """optimizer, power, seed, step, relative_gap under the own norm."""
        parts = []
        for run in runs:
            rows = run.trajectory
            rows = rows[(rows["norm"] == run.spec.working_norm.label) & (rows["step"] > 0)]
            parts.append(rows.assign(optimizer=run.spec.optimizer.name, power=run.spec.value("schedule.power")))
        table = pd.concat(parts, ignore_index=True)[["optimizer", "power", "seed", "step", "relative_gap"]]
        return thinned(table) if preset == "paper" else table

    def explorer(self, table: pd.DataFrame) -> Explorer:
        rows = table.assign(ratio=1 - table["relative_gap"])
        powers = {power: f"t^-{power:g}" for power in POWERS}
        return Explorer(
            rows,
            "optimizer",
            {method: optimizer_look(method) for method in METHODS},
            (STEP,),
            (Quantity("relative_gap", "relative gap, own norm", log=True), Quantity("ratio", "margin / max margin, own norm")),
            {"power": ("step size", powers)},
        )

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        figure, axes = panels(2, len(POWERS), height=4.5, height_ratios=(1.5, 1), sharey="row")
        slopes = fitted_slopes(table)
        for column, power in enumerate(POWERS):
            self._draw_gaps(axes[0, column], table[table["power"] == power], power)
            self._draw_slopes(axes[1, column], slopes[slopes["power"] == power], power, window_of(table))
        axes[0, 0].set_ylabel("own-norm gap")
        axes[1, 0].set_yticks(range(len(METHODS)), [optimizer_look(m).label for m in METHODS])
        axes[1, 0].set_ylim(len(METHODS) - 0.5, -0.5)
        lines = [
            Line2D([], [], color=GREY, lw=2.2, alpha=0.7, label="proven, descent"),
            Line2D([], [], color=GREY, lw=1.1, ls=":", label="proven, Adam"),
            Line2D([], [], color=GREY, lw=1.1, ls="--", label=r"$1 / \Sigma\,\eta$"),
        ]
        methods = [optimizer_look(m).handle(marker=False) for m in METHODS]
        legend_below(figure, [*methods, *lines], ncols=5, columnspacing=1.3, handlelength=2.2)
        return figure

    def _draw_gaps(self, axis: Axes, rows: pd.DataFrame, power: float) -> None:
        for method in METHODS:
            mine = rows[rows["optimizer"] == method]
            curve, look = _mean_gap(mine), optimizer_look(method)
            axis.plot(curve.index, curve.to_numpy(), **look.plot())
            seeds = mine.groupby("step")["relative_gap"].agg(["min", "max"])
            axis.fill_between(seeds.index, seeds["min"], seeds["max"], color=look.color, alpha=0.13, lw=0)
        steps = curve.index.to_numpy(float)
        late = steps >= window_of(rows)[0]
        guide = bound(power, steps)[late]
        end = _mean_gap(rows).to_numpy()[late]
        axis.plot(steps[late], guide * (end[0] / guide[0]) * 2.5, color=GREY, lw=2.5, alpha=0.6, solid_capstyle="butt")
        axis.set_title(f"gap, steps $t^{{-{power:g}}}$")
        axis.set_xlabel("step $t$")
        axis.set_xlim(1, steps[-1])
        axis.set_ylim(4e-4, 4)
        log_axis(axis, "x")
        log_axis(axis, "y")

    def _draw_slopes(self, axis: Axes, slopes: pd.DataFrame, power: float, window: tuple[float, float]) -> None:
        axis.axvline(bound_slope(power, window), color=GREY, lw=1.6, alpha=0.7)
        axis.axvline(bound_slope(power, window, adam=True), color=GREY, lw=1.1, ls=":")
        axis.axvline(inverse_sum_slope(power, window), color=GREY, lw=1.1, ls="--")
        for i, method in enumerate(METHODS):
            values = slopes.loc[slopes["optimizer"] == method, "slope"].to_numpy()
            look = optimizer_look(method)
            axis.plot([values.min(), values.max()], [i, i], color=look.color, lw=1.4)
            axis.plot(values.mean(), i, look.marker, color=look.color, ms=4.5)
        axis.set_xlim(-1.5, 0.1)
        axis.set_xticks([-1, -0.5, 0])
        axis.set_xlabel("fitted slope of the gap")

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        if preset == "smoke":
            return []
        slopes, window = fitted_slopes(table), window_of(table)
        fitted = dict(list(slopes.groupby(["optimizer", "power"])["slope"]))
        judged = [self._bound_claim(m, a, fitted[m, a], window, preset) for m in METHODS for a in POWERS]
        judged += [self._faster_claim(m, fitted[m, POWERS[0]], window, preset) for m in PLAIN]
        return [*judged, self._dimension_claim(preset)]

    def _dimension_claim(self, preset: Preset) -> Claim:
        return self.not_testable(
            preset,
            "the factor d in the rates of momentum and Adam is an artefact of the proof",
            "all runs of the figure have one dimension, and fitted slopes do not show constants",
        )

    def findings(self, table: pd.DataFrame, preset: Preset) -> list[Finding]:
        if preset == "smoke":
            return []
        window, power = window_of(table), POWERS[0]
        mean = fitted_slopes(table).groupby(["optimizer", "power"])["slope"].mean()
        told = ", ".join(f"{optimizer_look(m).label} {mean[m, power]:.2f}" for m in PLAIN)
        return [
            Finding(
                "With step sizes that decay slowly the gap closes faster than proven",
                one_line("""
                    For a < 1/2 the theorem's bound, sum eta^2 / sum eta, falls as t^-a. The measured gap falls as 1 / sum eta,
                    that is as t^-(1-a), as if the bound's second-order term were not there.
                """),
                f"a = {power:g}: slopes {told}; proven {bound_slope(power, window):.2f}, 1 / sum eta "
                f"{inverse_sum_slope(power, window):.2f}",
            )
        ]

    def _bound_claim(self, method: str, power: float, fitted: pd.Series, window: tuple[float, float], preset: Preset) -> Claim:
        proven = bound_slope(power, window, adam=method == "adam")
        rate = RATES["adam" if method == "adam" else "descent"][power]
        stated = power == 0.5 and method != "adam"
        slope = fitted.mean()
        return self.claim(
            preset,
            f"{optimizer_look(method).label}, a = {power:g}: the own-norm gap falls at least as fast as the proven {rate}",
            measured=f"slope {mean_and_spread(fitted)}",
            kind="theorem" if stated else "derived",
            source=self.source if stated else FROM_THE_SUMS,
            expected=f"slope {proven:.3f}",
            tolerance=f"at most {TOLERANCE:g} above",
            holds=slope <= proven + TOLERANCE,
        )

    def _faster_claim(self, method: str, fitted: pd.Series, window: tuple[float, float], preset: Preset) -> Claim:
        proven = bound_slope(POWERS[0], window, adam=method == "adam")
        inverse = inverse_sum_slope(POWERS[0], window)
        return self.claim(
            preset,
            f"{optimizer_look(method).label}, a = {POWERS[0]:g}: clearly faster than proven (1 / sum eta: slope {inverse:.3f})",
            kind="derived",
            measured=f"slope {mean_and_spread(fitted)}",
            expected=f"slope {proven:.3f}",
            tolerance=f"at least {CLEARLY:g} below",
            holds=fitted.mean() <= proven - CLEARLY,
            source="derived here: 1 / sum eta, beyond the theorems",
        )


def bound_slope(power: float, window: tuple[float, float], adam: bool = False) -> float:
    """The log-log slope of :func:`bound` over a window of steps."""
    steps = np.unique(np.geomspace(*window, 40).astype(int))
    return slope_of(steps.astype(float), bound(power, steps, adam))


def inverse_sum_slope(power: float, window: tuple[float, float]) -> float:
    """The log-log slope of 1 / sum_{s<=t} s^-power over a window of steps."""
    steps = np.unique(np.geomspace(*window, 40).astype(int))
    total = np.cumsum(np.arange(1, steps.max() + 1, dtype=float) ** -power)
    return slope_of(steps.astype(float), 1 / total[steps - 1])


def slope_of(steps: np.ndarray, values: np.ndarray) -> float:
    """Least-squares slope of log values against log steps."""
    return float(np.polyfit(np.log(steps), np.log(values), 1)[0])


def thinned(table: pd.DataFrame) -> pd.DataFrame:
    """Every third record before the window that slopes are fitted to: those are drawn only, and the table is half as long."""
    steps = sorted(table["step"].unique())
    early = [step for step in steps if step < window_of(table)[0]]
    kept = {*early[::3], *steps[len(early) :]}
    return table[table["step"].isin(kept)].reset_index(drop=True)


def window_of(table: pd.DataFrame) -> tuple[float, float]:
    """The steps that slopes are fitted to."""
    last = float(table["step"].max())
    return last / 10**FITTED_DECADES, last


def fitted_slopes(table: pd.DataFrame) -> pd.DataFrame:
    """optimizer, power, seed, slope."""
    late = table[table["step"] >= window_of(table)[0]]
    rows = [
        (*key, slope_of(part["step"].to_numpy(float), part["relative_gap"].to_numpy()))
        for key, part in late.groupby(["optimizer", "power", "seed"])
    ]
    return pd.DataFrame(rows, columns=["optimizer", "power", "seed", "slope"])


def _mean_gap(rows: pd.DataFrame) -> pd.Series:
    """Geometric mean over runs, by step."""
    mean: pd.Series = np.exp(np.log(rows["relative_gap"]).groupby(rows["step"]).mean())
    return mean
