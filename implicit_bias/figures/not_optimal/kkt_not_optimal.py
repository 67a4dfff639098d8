"""KKT points that are no optima: flows end there, and noise makes them leave, the later the smaller it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from implicit_bias.analysis.runs import Run, numbers
from implicit_bias.figures.base import FIGURES, Figure, PerPreset, Preset, one_line
from implicit_bias.figures.claims import Claim
from implicit_bias.figures.not_optimal.kkt_examples import EXAMPLES, SHARE, better_points, blocks_of, flow, noisy
from implicit_bias.plotting.labels import titled
from implicit_bias.plotting.style import GREY, Look, legend_below, log_axis, panels

DECADES = PerPreset(smoke=1, default=5, paper=8)
DRAWS = PerPreset(smoke=3, default=20, paper=100)
STEPS = PerPreset(smoke=100, default=2000, paper=100_000)
SEEDS = PerPreset(smoke=3, default=10, paper=50)
# The norm of the flows from chosen starts grows by this factor, that of noisy ones by the second divided by the least noise.
REACH = PerPreset(smoke=2.0, default=300.0, paper=1000.0)
BEYOND_NOISE = PerPreset(smoke=0.2, default=30.0, paper=300.0)
#: A noisy run has left where the squared norm at margin one is this share below the KKT point's.
LEFT = 0.02
DELTAS = np.logspace(-3, math.log10(0.2), 24)
CHECKED_DELTA = 0.1
#: N^2 less that of the KKT point at CHECKED_DELTA, derived by hand.
GIVEN = {"D1": -0.654, "D2": -0.19, "D4": -0.2, "D5": 3.762787 - 3.779763}
LOOKS = {
    "D1": Look("D1", "#0072B2", "s"),
    "D2": Look("D2", "#E69F00", "o"),
    "D3": Look("D3", "#000000", "p", (0, (4, 1.6))),
    "D4": Look("D4", "#009E73", "D"),
    "D5": Look("D5", "#CC79A7", "^"),
}
FLOW, LOWER, NOISE, RANDOM = "flow", "lower", "noise", "random"
DERIVED = "derived here: constructions and numbers, after Vardi, Shamir and Srebro, arXiv 2110.02732"


@FIGURES.register
class KktNotOptimal(Figure):
    """Five small networks whose flow ends at a KKT point of the l2 margin problem that is not its optimum."""

    name = "kkt_not_optimal"
    headline = "ends at the stated KKT point"
    order = 130
    title = "KKT points that are no optima"
    source = "Vardi, Shamir and Srebro, arXiv 2110.02732"
    kind = "theorem"
    paper = "not_optimal"
    minutes = PerPreset(smoke=0.1, default=0.3, paper=20.0)

    def setting(self, preset: Preset) -> str:
        return one_line(f"""
            examples D1 to D5 of two to four weights, exponential loss, {DRAWS.at(preset)} draws of the noise; (d) ReLU network of
            width 8 on one Gaussian mixture, {SEEDS.at(preset)} seeds of the start, {STEPS.at(preset):,} steps
        """)

    def caption(self, preset: Preset) -> str:
        names = ", ".join(f"{e.name} ({e.label})" for e in EXAMPLES)
        return one_line(f"""
            Exponential loss, flow by normalised gradient steps of {SHARE:.0%} of the norm, so that they run in the logarithm of
            the norm. Examples: {names}. (a) From chosen starts: squared l2 norm at margin one over its least value (the global
            optimum). (b) Feasible points at distance parameter delta of the KKT point: what they gain in squared norm; D3 is a
            local optimum. (c) From the KKT point plus noise of relative norm s in {DRAWS.at(preset)} random directions:
            log(1/loss) when the squared norm at margin one has fallen {LEFT:.0%} below the KKT point's, every draw and the
            median over all draws (those that never leave count as late), with the predicted power laws in grey. (d) A ReLU
            network of width 8 on one Gaussian mixture (2 classes, 10 features, 20 samples) from {SEEDS.at(preset)} random
            starts (seeds), {STEPS.at(preset):,} steps of NGD: squared norm at margin one of the runs that separate.
        """)

    def sweeps(self, preset: Preset) -> list[list[str]]:
        return [[f"experiment={self.name}", f"steps={STEPS.at(preset)}", f"seed=range(1,{SEEDS.at(preset) + 1})"]]

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """part, example, run, x, norm2, value.

        flow: log10 log(1/loss), squared norm at margin one, KKT ratio. lower: delta, gain in squared norm, smallest gap. noise:
        size of the noise, least squared norm, log10 log(1/loss) at the escape. random: as flow, with log(1/loss) itself.
        """
        scales = np.logspace(-DECADES.at(preset), -1, DECADES.at(preset))
        parts = [_random_starts(run) for run in runs]
        for example in EXAMPLES:
            path = flow(example, blocks_of(example.start), math.log(REACH.at(preset)), kkt=True)
            parts.append(_part(FLOW, example.name, 0, path["log10_time"], path["norm2"], path["kkt_ratio"]))
            near = better_points(example, np.append(DELTAS, CHECKED_DELTA))
            parts.append(_part(LOWER, example.name, 0, near["delta"], example.norm2 - near["norm2"], near["gap"]))
            start, which = noisy(example, scales, DRAWS.at(preset))
            reach = math.log(BEYOND_NOISE.at(preset) / scales[0])
            threshold = (1 - LEFT) * example.norm2
            path = flow(example, start, reach, leaves_below=threshold)
            left = path[path["norm2"] < threshold].groupby("run")["log10_time"].first()
            least = path.groupby("run")["norm2"].min()
            parts.append(
                _part(NOISE, example.name, which["draw"], which["scale"], least.reindex(which.index), left.reindex(which.index))
            )
        return pd.concat(parts, ignore_index=True)

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        figure, axes = panels(2, 2, height=4.7)
        self._draw_flows(axes[0, 0], table[table["part"] == FLOW])
        self._draw_better(axes[0, 1], table[table["part"] == LOWER])
        self._draw_escapes(axes[1, 0], table[table["part"] == NOISE])
        self._draw_random(axes[1, 1], table[table["part"] == RANDOM])
        titled(
            axes,
            (
                "flows settle above the optimum",
                "points near the KKT point are better",
                "how long noise of size s takes to leave it",
                "random starts, width 8: ends differ",
            ),
            letters=True,
        )
        named = [replace(LOOKS[example.name], label=f"{example.name}: {example.label}") for example in EXAMPLES]
        legend_below(figure, [look.handle() for look in named], ncols=3)
        return figure

    def _draw_flows(self, axis: Axes, rows: pd.DataFrame) -> None:
        for example in EXAMPLES:
            curve = rows[rows["example"] == example.name]
            marked = [0, len(curve) - 1] if len(curve) else []
            axis.plot(10 ** curve["x"], curve["norm2"] / example.best, **LOOKS[example.name].plot(marked))
            axis.axhline(example.norm2 / example.best, color=GREY, lw=0.6, ls=":")
        axis.set_ylim(0.95, 2.9)
        log_axis(axis, "x")
        axis.axhline(1, color=GREY, lw=0.7)
        axis.set_xlabel("log(1/loss)")
        axis.set_ylabel("$N^2$ at margin 1 / optimum")

    def _draw_better(self, axis: Axes, rows: pd.DataFrame) -> None:
        for example in EXAMPLES:
            curve = rows[rows["example"] == example.name].sort_values("x")
            if len(curve):
                axis.plot(curve["x"], curve["norm2"], **LOOKS[example.name].plot([0, len(curve) // 2, len(curve) - 1]))
        log_axis(axis, "x")
        log_axis(axis, "y")
        axis.set_xlabel(r"distance parameter $\delta$")
        axis.set_ylabel("$N^2$ of the KKT point $-$ $N^2$")

    def _draw_escapes(self, axis: Axes, rows: pd.DataFrame) -> None:
        for example in EXAMPLES:
            if example.slope is None:
                continue
            look = LOOKS[example.name]
            mine = rows[rows["example"] == example.name]
            axis.plot(mine["x"], 10 ** mine["value"], look.marker, color=look.color, ms=2, alpha=0.35, mew=0)
            middle = medians(mine)
            known = middle[np.isfinite(middle)]
            axis.plot(known.index, 10**known, **look.plot(range(len(known))), zorder=3)
            if len(known) > 1:
                law = -example.slope * np.log10(known.index)
                axis.plot(known.index, 10 ** (law + (known - law).mean()), color=GREY, lw=0.8, zorder=1)
        axis.set_xlim(max(rows["x"].max(), 0.1) * 1.6, rows["x"].min() / 1.6)
        axis.set_yscale("log")
        log_axis(axis, "x")
        axis.set_xlim(max(rows["x"].max(), 0.1) * 1.6, rows["x"].min() / 1.6)
        log_axis(axis, "y")
        axis.set_xlabel("size $s$ of the noise")
        axis.set_ylabel("log(1/loss) at the escape")

    def _draw_random(self, axis: Axes, rows: pd.DataFrame) -> None:
        late = rows[rows["x"] > 5]
        for _, curve in late.groupby("run"):
            axis.plot(curve["x"], curve["norm2"], color="#56B4E9", lw=1)
            axis.plot(curve["x"].iloc[-1:], curve["norm2"].iloc[-1:], "o", color="#0072B2", ms=3)
        if len(late):
            least = late.groupby("run")["norm2"].last()
            axis.set_ylim(0.97 * least.min(), 1.4 * least.median())
        log_axis(axis, "x")
        axis.set_xlabel("log(1/loss)")
        axis.set_ylabel("$N^2$ at margin 1")

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        if preset == "smoke":
            return []
        ends = table[table["part"] == FLOW].groupby("example").last()
        names = [e.name for e in EXAMPLES]
        reached = self.near(
            preset,
            "the flow from the chosen starts ends at the stated KKT point: squared norm at margin one, D1 to D5",
            list(ends["norm2"].reindex(names)),
            [e.norm2 for e in EXAMPLES],
            1e-3,
            kind="derived",
            relative=True,
            digits=4,
            source=DERIVED,
        )
        kkt = table[(table["part"] == FLOW)].dropna(subset="value").groupby("example")["value"].last().reindex(names)
        ratio = self.claim(
            preset,
            "there the KKT ratio is one, D1 to D5",
            source=DERIVED,
            kind="derived",
            expected="1",
            measured=numbers(list(kkt), 5),
            tolerance=">= 0.9999",
            holds=bool((kkt >= 0.9999).all()),
        )
        return [
            reached,
            ratio,
            self._better_claim(table, preset),
            *self._escape_claims(table, preset),
            self._stays_claim(table, preset),
            self._random_claim(table, preset),
            self._linear(preset),
        ]

    def _linear(self, preset: Preset) -> Claim:
        return self.not_testable(
            preset,
            "in fully connected linear networks every KKT point is a global optimum",
            "all examples of the figure have ReLU or are diagonal, and examples could not show it",
            expected="proved",
        )

    def _better_claim(self, table: pd.DataFrame, preset: Preset) -> Claim:
        near = table[(table["part"] == LOWER) & np.isclose(table["x"], CHECKED_DELTA)].set_index("example")
        gains = [-float(near["norm2"].get(name, math.nan)) for name in GIVEN]
        where = f"at delta = {CHECKED_DELTA:g}, {', '.join(GIVEN)}"
        text = f"feasible points (smallest gap 1) near the KKT point have a smaller squared norm: difference {where}"
        judged = self.near(preset, text, gains, list(GIVEN.values()), 2e-3, kind="derived", digits=4, source=DERIVED)
        feasible = bool((table[table["part"] == LOWER]["value"] > 1 - 1e-5).all())
        return (
            judged if feasible else self.claim(preset, text, kind="derived", measured="not feasible", holds=False, source=DERIVED)
        )

    def _escape_claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        slopes, wanted, shares = [], [], []
        movable = [e for e in EXAMPLES if e.slope is not None]
        for example in movable:
            mine = table[(table["part"] == NOISE) & (table["example"] == example.name)]
            slopes.append(escape_slope(mine))
            wanted.append(float(example.slope or 0))
            shares.append(float(mine["value"].notna().mean()))
        names = ", ".join(e.name for e in movable)
        text = f"log(1/loss) at the escape grows as a power of 1/s, fitted to the medians ({names}): exponent"
        some = self.claim(
            preset,
            f"from the KKT points that are no local optima most noise leads away: share of all draws ({names})",
            source="this project's own check",
            kind="check",
            measured=numbers(shares, 2),
            tolerance="> 0.5 each",
            holds=min(shares) > 0.5,
        )
        return [self.near(preset, text, slopes, wanted, 0.15, kind="derived", digits=2, source=DERIVED), some]

    def _stays_claim(self, table: pd.DataFrame, preset: Preset) -> Claim:
        (local,) = [e for e in EXAMPLES if e.lower is None]
        mine = table[(table["part"] == NOISE) & (table["example"] == local.name)]
        left, least = int(mine["value"].notna().sum()), float(mine["norm2"].min())
        return self.claim(
            preset,
            f"{local.name} is a local optimum, if far from the global one: no noisy run leaves it",
            kind="derived",
            measured=f"{left} of {len(mine)} leave; least squared norm {least:.4f}",
            expected="0; 8",
            tolerance="none; >= 8 - 1e-3",
            holds=left == 0 and least >= local.norm2 - 1e-3,
            source=DERIVED,
        )

    def _random_claim(self, table: pd.DataFrame, preset: Preset) -> Claim:
        rows = table[(table["part"] == RANDOM) & (table["x"] > 10)]
        ends = rows.groupby("run").last()
        ratio = ends["value"]
        spread = float(ends["norm2"].max() / ends["norm2"].min())
        return self.claim(
            preset,
            "from random starts runs end at different margins: largest over least squared norm (d)",
            kind="derived",
            measured=f"{spread:.3f}; KKT ratio {ratio.mean():.3f} +- {ratio.std():.3f}, {len(ends)} runs separate",
            tolerance=">= 1.02",
            holds=spread >= 1.02,
            source=DERIVED,
        )


def medians(rows: pd.DataFrame) -> pd.Series:
    """For each size of noise the median over draws of log10 log(1/loss) at the escape; a draw that stays counts as infinite."""
    return rows["value"].fillna(np.inf).groupby(rows["x"]).median()


def escape_slope(rows: pd.DataFrame) -> float:
    """The slope of the medians against log10(1/s); nan where one is infinite."""
    middle = medians(rows)
    if not np.isfinite(middle).all() or len(middle) < 2:
        return float("nan")
    return float(np.polyfit(-np.log10(middle.index.to_numpy(float)), middle.to_numpy(float), 1)[0])


def _random_starts(run: Run) -> pd.DataFrame:
    """x: log(1/loss), norm2: 1 / margin, value: KKT ratio, of a run of the sweep where it separates."""
    rows = run.trajectory[(run.trajectory["norm"] == "l2") & (run.trajectory["margin"] > 0)]
    ratio = rows["kkt_ratio"] if "kkt_ratio" in rows else pd.Series(np.nan, index=rows.index)
    return _part(RANDOM, "width 8", run.spec.seed, -rows["log_loss"], 1 / rows["margin"], ratio)


def _part(part: str, example: str, run: object, x: object, norm2: object, value: object) -> pd.DataFrame:
    return pd.DataFrame({"part": part, "example": example, "run": run, "x": x, "norm2": norm2, "value": value})
