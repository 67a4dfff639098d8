"""Rare classes: when each class is learned, against its frequency."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from implicit_bias.analysis.runs import Run
from implicit_bias.analysis.weights import Weights, run_weights
from implicit_bias.figures.base import FIGURES, Figure, PerPreset, Preset, one_line
from implicit_bias.figures.claims import Claim, Finding
from implicit_bias.figures.imbalance.one_hot import flow_times, normalised_flow_times, sign_time, spectral_time
from implicit_bias.plotting.style import GREY, legend_below, log_axis, optimizer_look, panels

# Constant steps by method: on one-hot inputs, and on features that say nothing, where GD is stable below 16 / features.
RATES = {"gd": "1", "ngd": "0.2", "signgd": "0.01", "adam": "0.01", "spectral_gd": "0.05"}
GROUP_RATES = {"gd": "0.02", "ngd": "0.03", "signgd": "0.001", "adam": "0.001", "spectral_gd": "0.01"}
METHODS = tuple(RATES)
ONE_HOT, GROUPS = "one-hot", "groups"
#: A class is learned when its mean loss is below this.
LEARNED = 0.5
CLASSES = PerPreset(smoke=16, default=64, paper=64)
STEPS = PerPreset(smoke=1000, default=2500, paper=2500)
HALVINGS = PerPreset(smoke=4, default=5, paper=6)
SEEDS = PerPreset(smoke=1, default=3, paper=10)
GROUP_STEPS = PerPreset(smoke=4000, default=4000, paper=20_000)
#: Records, whose iterates are kept; times are interpolated between them.
POINTS = PerPreset(smoke=40, default=150, paper=300)
# Steps that are enough for the methods that are not slow: so many times fewer than GD's.
SHARE = 5
#: Slopes of log time in log frequency: gradient flow's; those of an earlier computation of this project, for the other three.
SLOPES = {"gd": -0.998, "ngd": -0.431, "signgd": 0.0, "spectral_gd": -0.010}
SLOPE_TOLERANCE, LAW_TOLERANCE = 0.05, 0.03
# In the groups: how much later than the most frequent class the rarest are learned by GD, at least, and by the others, at most.
LATER, NO_LATER = 1.3, 1.0
COLUMNS = ["part", "method", "seed", "label", "frequency", "time", "law"]
MEASURED = "this project's own check: numbers of an earlier computation of it"


@FIGURES.register
class ClassFrequency(Figure):
    """GD learns a class in a time inversely as its frequency; sign and spectral descent learn all at once."""

    name = "class_frequency"
    headline = "GD learns the rarest group"
    order = 180
    title = "Rare classes: the time until a class is learned"
    source = "Kunstner, Yadav, Milligan, Schmidt and Bietti, arXiv 2402.19449"
    kind = "paper"
    paper = "imbalance"
    minutes = PerPreset(smoke=0.1, default=0.3, paper=20.0)

    def setting(self, preset: Preset) -> str:
        k, m = CLASSES.at(preset), HALVINGS.at(preset)
        return one_line(f"""
            one-hot inputs, {k} classes of frequency 1/c, nothing random, one run of {STEPS.at(preset):,} steps; or {m} groups of
            halving frequency, {2**m - 1} classes, {m * 2**m} samples of {(m + 1) * 2**m} uniform features,
            {SEEDS.at(preset)} seeds, {GROUP_STEPS.at(preset):,} steps; linear model from zero, constant steps
        """)

    def caption(self, preset: Preset) -> str:
        k, m = CLASSES.at(preset), HALVINGS.at(preset)
        return one_line(f"""
            Steps until the mean loss of a class is below {LEARNED}, linear model from zero, cross entropy, full batch, constant
            steps. Left: one-hot inputs, {k} classes of frequency 1/c, where nothing is random (one run a method); lines are the
            closed forms of the flows, with nothing fitted (spectral: of equal frequencies). Right: {m} groups of 1, 2, 4, ...
            classes of halving frequency with {2**m} samples each and {(m + 1) * 2**m} uniform features that say nothing about the
            class, after Kunstner et al.; the time of each group over that of the most frequent class, means and range of
            {SEEDS.at(preset)} seeds.
        """)

    def sweeps(self, preset: Preset) -> list[list[str]]:
        k, m = CLASSES.at(preset), HALVINGS.at(preset)
        seeds = f"seed=range(1,{SEEDS.at(preset) + 1})"
        kept = [f"experiment={self.name}", f"log.points={POINTS.at(preset)}"]
        one_hot = [*kept, f"dataset.num_classes={k}"]
        groups = [*kept, "dataset.law=halving", "dataset.rarest=2", f"dataset.num_classes={2**m - 1}"]
        groups += [f"dataset.dim={(m + 1) * 2**m}", seeds]
        found = []
        for method in METHODS:
            share = 1 if method == "gd" else SHARE
            steps, longer = STEPS.at(preset) // share, GROUP_STEPS.at(preset) // share
            found += [
                [*one_hot, f"optimizer={method}", f"schedule.lr={RATES[method]}", f"steps={steps}"],
                [*groups, f"optimizer={method}", f"schedule.lr={GROUP_RATES[method]}", f"steps={longer}"],
            ]
        return found

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """part, method, seed, label, frequency, time, law: a row a class of one-hot inputs (seed 0), and a row a group.

        ``label`` is the class, or the group's number, from the most frequent on; ``frequency`` that of one class; ``time`` the
        steps until its mean loss is below LEARNED, empty where it never is; ``law`` the closed form's time.
        """
        weights = run_weights(runs)
        found = [
            _of_groups(run, one) if run.spec.value("dataset.law") == "halving" else _of_classes(run, one)
            for run, one in zip(runs, weights, strict=True)
        ]
        return pd.concat(found, ignore_index=True)[COLUMNS]

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        figure, axes = panels(1, 2, height=2.7)
        _draw_classes(axes[0, 0], table[table["part"] == ONE_HOT])
        _draw_groups(axes[0, 1], table[table["part"] == GROUPS])
        law = Line2D([], [], color=GREY, lw=1.0, label="closed form")
        looks = [optimizer_look(method) for method in METHODS]
        points = [Line2D([], [], color=look.color, ls="", marker=look.marker, label=look.label) for look in looks]
        legend_below(figure, [*points, law])
        return figure

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        if preset == "smoke":
            return []
        one_hot, groups = table[table["part"] == ONE_HOT], table[table["part"] == GROUPS]
        slopes = [self._slope(preset, one_hot[one_hot["method"] == method], method) for method in SLOPES]
        laws = [self._law(preset, one_hot[one_hot["method"] == method], method) for method in ("gd", "ngd", "signgd")]
        return [*slopes, *laws, *self._groups(preset, groups), self._language(preset)]

    def findings(self, table: pd.DataFrame, preset: Preset) -> list[Finding]:
        if preset == "smoke":
            return []
        late = _lateness(table[table["part"] == GROUPS])
        told = ", ".join(f"{optimizer_look(m).label} {late[m].mean():.2f}" for m in METHODS)
        return [
            Finding(
                "Where features say nothing about the class, sign and spectral descent learn rare classes first",
                one_line("""
                    Not only are they not slow there: classes of two samples are learned before the one of many. Gradient descent
                    and its normalised form learn them last, NGD by less than GD.
                """),
                f"time of the rarest group over that of the most frequent class, mean over seeds: {told}",
            )
        ]

    def _slope(self, preset: Preset, rows: pd.DataFrame, method: str) -> Claim:
        look = optimizer_look(method)
        return self.near(
            preset,
            f"{look.label}: slope of the time until a class of one-hot inputs is learned in its frequency, log-log",
            [slope(rows["frequency"], rows["time"])],
            [SLOPES[method]],
            SLOPE_TOLERANCE,
            kind="check",
            source=MEASURED,
            beside=f"from {rows['time'].min():,.0f} to {rows['time'].max():,.0f} steps",
        )

    def _law(self, preset: Preset, rows: pd.DataFrame, method: str) -> Claim:
        off = (rows["time"] / rows["law"] - 1).abs()
        return self.claim(
            preset,
            f"{optimizer_look(method).label}: the closed form gives every class's time: largest relative difference",
            kind="derived",
            measured=f"{off.max():.3f} of {len(rows)} classes",
            tolerance=f"<= {LAW_TOLERANCE:g}",
            holds=bool((off <= LAW_TOLERANCE).all()),
            source="derived here: the closed form of implicit_bias/figures/imbalance/one_hot.py",
        )

    def _groups(self, preset: Preset, rows: pd.DataFrame) -> list[Claim]:
        late = _lateness(rows)
        quick = [method for method in METHODS if method not in ("gd", "ngd")]
        told = ", ".join(f"{optimizer_look(m).label} {late[m].max():.2f}" for m in quick)
        return [
            self.claim(
                preset,
                "GD learns the rarest group later than the most frequent class: least ratio of the times over seeds",
                expected="GD is slow on rare classes",
                measured=f"{late['gd'].min():.2f}",
                tolerance=f">= {LATER:g}",
                holds=bool((late["gd"] >= LATER).all()),
            ),
            self.claim(
                preset,
                "sign descent, Adam and spectral descent do not: largest ratio over seeds",
                expected="sign-like methods are not",
                measured=told,
                tolerance=f"<= {NO_LATER:g}",
                holds=all(bool((late[m] <= NO_LATER).all()) for m in quick),
            ),
        ]

    def _language(self, preset: Preset) -> Claim:
        return self.not_testable(
            preset,
            "on language models the gap between Adam and SGD is that of the rare words",
            "no language model is trained here",
        )


def slope(frequencies: pd.Series, times: pd.Series) -> float:
    """Of log time in log frequency, by least squares."""
    fitted = float(np.polyfit(np.log(frequencies), np.log(times), 1)[0])
    return round(fitted, 9) + 0.0  # no -0.000


def learning_times(steps: NDArray[np.float64], losses: NDArray[np.float64], level: float = LEARNED) -> NDArray[np.float64]:
    """When each loss first falls below ``level``, (c,); nan where it never does.

    Args:
        steps: Of the records, ascending, (s,).
        losses: At the records, (s, c); between two of them log loss is taken as linear in the step.
    """
    times = np.full(losses.shape[1], np.nan)
    below = losses < level
    for c in np.flatnonzero(below.any(axis=0)):
        place = int(below[:, c].argmax())
        if place == 0:
            times[c] = steps[0]
            continue
        before, after = np.log(losses[place - 1 : place + 1, c] / level)
        times[c] = steps[place - 1] + (steps[place] - steps[place - 1]) * before / (before - after)
    return times


def class_losses(weights: Weights) -> NDArray[np.float64]:
    """The mean cross entropy of the samples of each class at each record, (s, k)."""
    x, y = torch.from_numpy(weights.dataset.x), torch.from_numpy(weights.dataset.y)
    scores = weights.w @ x.T
    losses = torch.logsumexp(scores, dim=1) - scores[:, y, torch.arange(len(y))]
    counts = torch.bincount(y, minlength=weights.dataset.num_classes)
    sums = losses.new_zeros(len(losses), weights.dataset.num_classes).index_add_(1, y, losses)
    found: NDArray[np.float64] = (sums / counts).numpy()
    return found


def _of_classes(run: Run, weights: Weights) -> pd.DataFrame:
    counts = np.bincount(weights.dataset.y)
    frequencies, method = counts / counts.sum(), run.spec.optimizer.name
    return pd.DataFrame(
        {
            "part": ONE_HOT,
            "method": method,
            "seed": 0,
            "label": np.arange(len(counts)),
            "frequency": frequencies,
            "time": learning_times(np.array(weights.steps, dtype=float), class_losses(weights)),
            "law": _law_times(method, frequencies, float(RATES[method])),
        }
    )


def _law_times(method: str, frequencies: NDArray[np.float64], rate: float) -> NDArray[np.float64]:
    """The closed form's times, (k,); nan for Adam, which has none of its own but steps nearly as sign descent does."""
    k = len(frequencies)
    if method == "gd":
        return flow_times(frequencies, rate, LEARNED)
    if method == "ngd":
        return normalised_flow_times(frequencies, rate, LEARNED)
    same = {"signgd": sign_time, "spectral_gd": spectral_time}.get(method)
    return np.full(k, np.nan if same is None else same(k, rate, LEARNED))


def _of_groups(run: Run, weights: Weights) -> pd.DataFrame:
    counts = np.bincount(weights.dataset.y)
    sizes = np.unique(counts)[::-1]
    losses = class_losses(weights)
    of_group = np.stack([losses[:, counts == size].mean(axis=1) for size in sizes], axis=1)
    return pd.DataFrame(
        {
            "part": GROUPS,
            "method": run.spec.optimizer.name,
            "seed": run.spec.seed,
            "label": np.arange(len(sizes)),
            "frequency": sizes / counts.sum(),
            "time": learning_times(np.array(weights.steps, dtype=float), of_group),
            "law": np.nan,
        }
    )


def _lateness(groups: pd.DataFrame) -> dict[str, pd.Series]:
    """By method, the time of the rarest group over that of the most frequent class, by seed."""
    found = {}
    for method, rows in groups.groupby("method"):
        times = rows.pivot(index="seed", columns="label", values="time")
        found[str(method)] = times[times.columns.max()] / times[times.columns.min()]
    return found


def _draw_classes(axis: Axes, rows: pd.DataFrame) -> None:
    for method in METHODS:
        look, mine = optimizer_look(method), rows[rows["method"] == method].sort_values("frequency")
        axis.plot(mine["frequency"], mine["law"], color=look.color, lw=1.0)
        # Rare classes of one frequency lie upon each other.
        mine = mine.drop_duplicates("frequency")
        # Sign descent and Adam lie upon each other.
        face = {"mfc": "none", "ms": 6} if method == "signgd" else {"ms": 4}
        axis.plot(mine["frequency"], mine["time"], look.marker, color=look.color, **face)
    log_axis(axis, "x")
    log_axis(axis, "y")
    axis.set(xlabel="frequency of the class", ylabel=f"steps until its loss < {LEARNED}", title="one-hot inputs, frequency 1/c")


def _draw_groups(axis: Axes, rows: pd.DataFrame) -> None:
    first = rows[rows["label"] == 0].set_index(["method", "seed"])["time"]
    rows = rows.assign(ratio=rows["time"] / first.reindex(pd.MultiIndex.from_frame(rows[["method", "seed"]])).to_numpy())
    for place, method in enumerate(METHODS):
        look = optimizer_look(method)
        found = rows[rows["method"] == method].groupby("frequency")["ratio"].agg(["mean", "min", "max"])
        beside = found.index.to_numpy() * 1.04 ** (place - 2)
        axis.vlines(beside, found["min"], found["max"], color=look.color, lw=1.2)
        axis.plot(beside, found["mean"], look.marker, color=look.color, ls="-", lw=0.8)
    axis.axhline(1, color="#222222", lw=0.6)
    log_axis(axis, "x")
    axis.set(xlabel="frequency of one class", ylabel="time / that of the most frequent", title="groups of halving frequency")
