"""Grokking: from a large start with weight decay a diagonal network first interpolates, and generalises log(alpha) / wd later."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from numpy.typing import NDArray

from implicit_bias.analysis.runs import Run, mean_and_spread, numbers
from implicit_bias.core.arrays import read_arrays
from implicit_bias.core.errors import NotSeparable
from implicit_bias.datasets import Dataset
from implicit_bias.engine.problem import silent
from implicit_bias.figures.base import FIGURES, Figure, PerPreset, Preset, one_line
from implicit_bias.figures.claims import Claim
from implicit_bias.norms import make_norm
from implicit_bias.plotting.style import DASHED, Look, legend_below, norm_look, panels, shade
from implicit_bias.storage.references import ReferenceCache
from implicit_bias.sweep.references import solve_all

#: alpha, the size of the start, and wd, the decay; (a) is drawn of the first, (b) of the second.
SCALES, DECAYS = (1.0, 2.0, 4.0, 8.0), (0.004, 0.008)
RATE = 0.25
STEPS = PerPreset(smoke=300, default=4500, paper=45_000)
SEEDS = PerPreset(smoke=1, default=3, paper=10)
NORMS = ("l2", "l1")
#: In units of 1 / wd: where the accuracy before the transition is read.
BEFORE = (0.1, 0.5)
LOOKS = {
    scale: Look(rf"$\alpha$ = {scale:g}", shade("#6A3D9A", place), marker)
    for scale, place, marker in zip(SCALES, (0.9, 0.6, 0.35, 0.05), "osD^", strict=True)
}
MARGINS = {"l2": norm_look("l2"), "l1": norm_look("l1")}
#: Of the claims: the slope, what wd t may differ by at two decays, accuracies, and what l2 margin early and l1 margin late are at
#: least.
SLOPE, SAME, LOW, HIGH, LARGE = 0.05, 0.1, 0.8, 0.99, 0.8


#: Of wd eta t: the transition is over long before.
LAST_SHOWN = 10.0


@FIGURES.register
class Grokking(Figure):
    """The time at which a diagonal network generalises is linear in log(alpha), with slope 1 / wd: l2 margin first, l1 later."""

    name = "grokking"
    headline = "linear in log(alpha)"
    order = 240
    title = "Grokking: early and late margins of a diagonal network"
    source = "Lyu, Jin, Li, Du, Lee and Hu, arXiv 2311.18817"
    kind = "paper"
    paper = "grokking"
    minutes = PerPreset(smoke=0.1, default=0.5, paper=10.0)

    def setting(self, preset: Preset) -> str:
        return (
            f"{SEEDS.at(preset)} seeds of 100 samples of 300 random signs, labelled by the majority of 3; diagonal network"
            f" u^2 - v^2, cross entropy, gradient descent, eta = {RATE:g}, {STEPS.at(preset):,} steps"
        )

    def caption(self, preset: Preset) -> str:
        scales = ", ".join(f"{scale:g}" for scale in SCALES)
        return one_line(f"""
            Gradient descent (eta = {RATE:g}) on f(x) = (u^2 - v^2) x from u = v = alpha with weight decay wd, on
            {SEEDS.at(preset)} data sets (seeds 1 to {SEEDS.at(preset)}) of 100 samples of 300 random signs, labelled by the
            majority of 3 of them. (a) Accuracy on 2,000 further samples for alpha = {scales} and wd = {DECAYS[0]:g}; training
            accuracy is 1 from the left end on. (b) Margins of the linear function w = u^2 - v^2 over their certified maxima, for
            alpha = {SCALES[-1]:g} and wd = {DECAYS[1]:g}: first l2, as if lazy, then l1. (c) wd t at half the rise of the
            accuracy, for both wd; the
            line has slope 1. Thin: every seed; thick: medians.
        """)

    def sweeps(self, preset: Preset) -> list[list[str]]:
        lists = {"model.init_scale": SCALES, "optimizer.weight_decay": DECAYS}
        swept = [f"{key}={','.join(f'{value:g}' for value in values)}" for key, values in lists.items()]
        size = [f"steps={STEPS.at(preset)}", f"schedule.lr={RATE:g}", f"seed=range(1,{SEEDS.at(preset) + 1})"]
        return [[f"experiment={self.name}", *size, *swept]]

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """scale, decay, seed, step, time, accuracy, test_accuracy, l2, l1: time is wd eta t, the last two are margin ratios of
        w = u^2 - v^2."""
        parts, known = [], {}
        for run in runs:
            seed, decay = run.spec.seed, float(run.spec.value("optimizer.weight_decay"))
            if seed not in known:
                data = run.spec.dataset.load()
                known[seed] = data, _maxima(data, Path(run.folder or "").parents[1])
            rows = run.trajectory.drop_duplicates("step")
            found = rows[["seed", "step", "accuracy", "test_accuracy"]]
            ratios = pd.DataFrame(_ratios(run, *known[seed])).set_index("step")
            scale = float(run.spec.value("model.init_scale"))
            parts.append(
                found.assign(scale=scale, decay=decay, time=decay * RATE * found["step"])
                .join(ratios, on="step")
                .query("step > 0")
            )
        return pd.concat(parts, ignore_index=True)

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        figure, axes = panels(1, 3, height=2.7)
        accuracy, margins, times = axes[0]
        table = table[table["time"] > 0.01]
        shown = table[table["time"] <= LAST_SHOWN]
        slow, fast = (shown[np.isclose(shown["decay"], decay)] for decay in DECAYS)
        for scale, look in LOOKS.items():
            _draw(accuracy, slow[slow["scale"] == scale], "test_accuracy", look)
        for norm, look in MARGINS.items():
            _draw(margins, fast[fast["scale"] == SCALES[-1]], norm, look)
        accuracy.set(ylabel="test accuracy", ylim=(0.45, 1.03))
        margins.set(ylabel="margin / maximum", ylim=(-0.1, 1.05))
        for axis in (accuracy, margins):
            axis.set(xlabel=r"$\mathrm{wd}\,\eta t$", xlim=(0, None))
        _draw_times(times, transitions(table))
        titles = ("generalisation", f"margins, $\\alpha$ = {SCALES[-1]:g}", "transition")
        for axis, letter, title in zip(axes[0], "abc", titles, strict=True):
            axis.set_title(f"({letter}) {title}", loc="left")
        legend_below(
            figure,
            [*(look.handle() for look in LOOKS.values()), *(look.handle() for look in MARGINS.values()),
             *(_decay_look(decay).handle() for decay in DECAYS)], ncols=4,
        )  # fmt: skip
        return figure

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        if preset == "smoke":
            return []
        found: Any = transitions(table).set_index(["decay", "seed", "scale"]).sort_index()
        return [
            self._rises(found, preset),
            self._linear(found, preset),
            self._by_decay(found, preset),
            self._margins(table, found, preset),
        ]

    def _rises(self, found: Any, preset: Preset) -> Claim:
        return self.claim(
            preset,
            "training accuracy is 1 long before the network generalises: largest test accuracy before, least at the end",
            measured=numbers([found["before"].max(), found["after"].min()]),
            tolerance=f"<= {LOW:g} / >= {HIGH:g}, fitted before half of the time",
            holds=bool(
                found["before"].max() <= LOW and found["after"].min() >= HIGH and (found["fitted"] <= found["time"] / 2).all()
            ),
        )

    def _linear(self, found: Any, preset: Preset) -> Claim:
        slopes = [_slope(rows.droplevel(["decay", "seed"])["time"]) for _, rows in found.groupby(["decay", "seed"])]
        return self.claim(
            preset,
            "the time t* of half the rise of test accuracy is linear in log(alpha), with slope 1 / wd: slope of wd t* in"
            " log(alpha), least and largest of all seeds and decays",
            expected="1",
            measured=numbers([min(slopes), max(slopes)]),
            tolerance=f"{SLOPE:g}",
            holds=bool(np.abs(np.array(slopes) - 1).max() <= SLOPE),
            source=f"{self.source}: a sharp transition at log(alpha) / wd",
            kind="paper",
        )

    def _by_decay(self, found: Any, preset: Preset) -> Claim:
        first, second = (found["time"].loc[decay] for decay in DECAYS)
        return self.claim(
            preset,
            f"at one alpha wd t* is the same at wd = {DECAYS[0]:g} and {DECAYS[1]:g}: mean of either, and the largest difference",
            expected="equal",
            measured=f"{mean_and_spread(first)} and {mean_and_spread(second)}; {(first - second).abs().max():.3f}",
            tolerance=f"{SAME:g}",
            holds=bool((first - second).abs().max() <= SAME),
            source=f"{self.source}: a sharp transition at log(alpha) / wd",
            kind="paper",
        )

    def _margins(self, table: pd.DataFrame, found: Any, preset: Preset) -> Claim:
        rows = table[(table["scale"] == SCALES[-1]) & np.isclose(table["decay"], DECAYS[1])]
        margins = pd.DataFrame({seed: _two_margins(run) for seed, run in rows.groupby("seed")}).T
        transition = found["time"].loc[DECAYS[1]].xs(SCALES[-1], level="scale")
        ordered = (margins["peak"] < transition) & (transition < margins["crossing"])
        return self.claim(
            preset,
            "the linear function has its largest l2 margin before the transition, and after it the l1 margin comes nearer to its"
            f" maximum than the l2 margin: largest l2 ratio and last l1 ratio, least of all seeds (alpha = {SCALES[-1]:g},"
            f" wd = {DECAYS[1]:g})",
            expected="1 / 1, in the limit of large alpha and small wd",
            measured=numbers(margins[["l2", "l1"]].min().to_numpy()),
            tolerance=f"in this order on every seed, >= {LARGE:g}",
            holds=bool(ordered.all() and margins[["l2", "l1"]].min().min() >= LARGE),
            source=f"{self.source}: kernel bias early, margin bias late",
            kind="paper",
        )


def transitions(table: pd.DataFrame) -> pd.DataFrame:
    """Of every run: ``time``, wd eta t at which test accuracy has risen by half, between records by a straight line; ``before``
    and ``after``, the accuracies that it rises from and to; ``fitted``, the time from which on training accuracy is 1."""
    found = []
    for (scale, decay, seed), rows in table.groupby(["scale", "decay", "seed"]):
        run = rows.sort_values("step")
        time, accuracy = run["time"].to_numpy(), run["test_accuracy"].to_numpy()
        flat = (time >= BEFORE[0]) & (time <= BEFORE[1])
        before, after = float(accuracy[flat].mean()), float(accuracy[-1])
        half = (before + after) / 2
        last = int(np.flatnonzero(accuracy < half)[-1]) if (accuracy < half).any() else 0
        crossing = time[-1]
        if last + 1 < len(time):
            crossing = np.interp(half, accuracy[last : last + 2], time[last : last + 2])
        wrong = np.flatnonzero(run["accuracy"].to_numpy() < 1)
        fitted = time[min(int(wrong[-1]) + 1, len(time) - 1)] if len(wrong) else time[0]
        row = {"time": float(crossing), "before": before, "after": after, "fitted": float(fitted)}
        found.append({"scale": scale, "decay": decay, "seed": seed, **row})
    return pd.DataFrame(found)


def _two_margins(run: pd.DataFrame) -> dict[str, float]:
    """Of one run: ``l2`` and ``peak``, the largest l2 ratio and its time; ``l1``, the last l1 ratio; ``crossing``, the first time
    after the peak at which it is above the l2 ratio, nan where there is none."""
    rows = run.sort_values("step")
    time, l2, l1 = (rows[key].to_numpy() for key in ("time", "l2", "l1"))
    top = int(l2.argmax())
    above = np.flatnonzero(l1[top:] > l2[top:])
    crossing = time[top + above[0]] if len(above) else np.nan
    return {"l2": float(l2[top]), "peak": float(time[top]), "l1": float(l1[-1]), "crossing": float(crossing)}


def _slope(times: pd.Series) -> float:
    """The least-squares slope in the logarithm of the index."""
    return float(np.polyfit(np.log(times.index.to_numpy(float)), times.to_numpy(), 1)[0])


def _maxima(data: Dataset, results_dir: Path) -> dict[str, float]:
    """The certified maximum margins of w = w_1 - w_0 in l2 and l1, by norm.

    The solver's W has a row a class: of the pairs of rows with a difference w, (-w / 2, w / 2) is the shortest in l2, where its
    norm is |w| / sqrt(2), and none is shorter than |w| in l1.
    """
    (optima,) = solve_all([(data, {norm: make_norm(norm) for norm in NORMS})], "exact", ReferenceCache(results_dir), silent)
    if isinstance(optima, NotSeparable):
        raise optima
    factors = {"l2": 1 / np.sqrt(2), "l1": 1.0}
    return {norm: optima[norm].lower * factors[norm] for norm in NORMS}


def _ratios(run: Run, data: Dataset, maxima: dict[str, float]) -> dict[str, NDArray[Any]]:
    """Margins of w = u^2 - v^2 at every record, over the largest."""
    path = Path(run.folder or "") / "final.npz"
    arrays = {name: array.astype(float) for name, array in read_arrays(path, str(path)).items()}
    w = arrays["plus_all"][:, 0] ** 2 - arrays["minus_all"][:, 0] ** 2
    q = ((2 * data.y - 1) * (w @ data.x.T)).min(axis=1)
    sizes = {"l2": np.sqrt((w**2).sum(axis=1)), "l1": np.abs(w).sum(axis=1)}
    with np.errstate(invalid="ignore"):  # w is 0 at the start
        return {"step": arrays["steps"].astype(int), **{norm: q / sizes[norm] / maxima[norm] for norm in NORMS}}


def _decay_look(decay: float) -> Look:
    return Look(f"wd = {decay:g}", "#333333", "o", "") if decay == DECAYS[0] else Look(f"wd = {decay:g}", "#999999", "x", "")


def _draw(axis: Axes, rows: pd.DataFrame, column: str, look: Look) -> None:
    """Every seed thin, the median over seeds thick."""
    for _, curve in rows.groupby("seed"):
        axis.plot(curve["time"], curve[column], color=look.color, lw=0.5, alpha=0.4)
    median = rows.groupby("time")[column].median()
    marked = [int(np.abs(median.index - median.index[-1] * share / 5).argmin()) for share in range(1, 5)]
    axis.plot(median.index, median, **look.plot(marked))


def _draw_times(axis: Axes, found: pd.DataFrame) -> None:
    """Transition times against alpha, and the line of slope 1 through their mean."""
    for decay in DECAYS:
        rows = found[np.isclose(found["decay"], decay)]
        beside = 0.94 if decay == DECAYS[0] else 1.06
        axis.plot(
            rows["scale"] * beside, rows["time"], linestyle="", marker=_decay_look(decay).marker, color=_decay_look(decay).color
        )
    offset = float((found["time"] - np.log(found["scale"])).mean())
    scales = np.array([SCALES[0] * 0.8, SCALES[-1] * 1.25])
    axis.plot(scales, np.log(scales) + offset, color="#333333", lw=0.9, linestyle=DASHED)
    axis.set_xscale("log", base=2)
    axis.set_xticks(SCALES, [f"{scale:g}" for scale in SCALES])
    axis.set(xlabel=r"$\alpha$", ylabel=r"$\mathrm{wd}\,\eta t$ at half the rise", ylim=(0, None))
