"""Addition modulo p by quadratic units: who comes near the maximum margin, and with one frequency a unit?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Drawing
from numpy.typing import NDArray

from implicit_bias.analysis.runs import Run, mean_and_spread, numbers
from implicit_bias.core.arrays import read_arrays
from implicit_bias.figures.base import FIGURES, Figure, PerPreset, Preset, one_line
from implicit_bias.figures.claims import Claim, Finding
from implicit_bias.plotting.style import GREY, legend_below, log_axis, optimizer_look, panels

NSD, NGD, SPECTRAL_GD, SIGNGD = METHODS = ("nsd", "ngd", "spectral_gd", "signgd")
NORM = "neuron3"
MODULUS, WIDTH = 7, 48
#: What is typed for each method: descent in the norm itself has the step with which it was tried, the others lr=auto.
RATES = {NSD: ("norm=neuron", "schedule.lr=0.1", "schedule.power=0.3")}
OTHERS = ("schedule.power=0.5",)
STEPS = PerPreset(smoke=200, default=4000, paper=100_000)
SEEDS = PerPreset(smoke=1, default=3, paper=10)
#: Of the claims: what descent in the norm reaches, how pure its units are, and by how much the others stay below it.
REACHED, PURE, BELOW = 0.95, 0.9, 0.05


@FIGURES.register
class ModularAddition(Figure):
    """Steepest descent in the l_{2,3} norm comes near the proven maximum margin of a network, with one frequency a unit."""

    name = "modular_addition"
    headline = "its units have one frequency each"
    order = 230
    title = "Modular addition: a network with a proven maximum margin"
    source = "Morwani, Edelman, Oncescu, Zhao and Kakade, arXiv 2311.07568"
    kind = "theorem"
    paper = "morwani"
    minutes = PerPreset(smoke=0.1, default=0.5, paper=25.0)

    def setting(self, preset: Preset) -> str:
        return (
            f"{SEEDS.at(preset)} seeds; all {MODULUS**2} pairs modulo {MODULUS}, one hidden layer of {WIDTH} quadratic units,"
            f" cross entropy, {STEPS.at(preset):,} steps"
        )

    def caption(self, preset: Preset) -> str:
        return one_line(f"""
            One hidden layer of {WIDTH} quadratic units on all pairs (a, b), labelled a + b mod {MODULUS}, from
            {SEEDS.at(preset)} starts (seeds 1 to {SEEDS.at(preset)}), {STEPS.at(preset):,} steps. (a) The margin in the
            {NORM} norm (l3 over hidden units of the l2 norm of all of a unit's weights) over its maximum, sqrt(2/27) / (sqrt(p)
            (p - 1)), proven in closed form; NSD descends in that norm, the others in l2, the spectral and the max-norm. Thin:
            every seed; thick: medians. (b) At the end: that ratio, and the share of the power of a unit's weights that is in its
            strongest frequency, weighted by the cubes of the units' norms, for every seed.
        """)

    def sweeps(self, preset: Preset) -> list[list[str]]:
        size = [f"experiment={self.name}", f"dataset.modulus={MODULUS}", f"model.width={WIDTH}"]
        size += [f"steps={STEPS.at(preset)}", f"seed=range(1,{SEEDS.at(preset) + 1})"]
        return [[*size, f"optimizer={method}", *RATES.get(method, OTHERS)] for method in METHODS]

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """method, seed, step, margin, ratio, pure: the last of the parameters at the end, alike in all rows of a run."""
        parts = []
        for run in runs:
            rows = run.trajectory[(run.trajectory["norm"] == NORM) & (run.trajectory["step"] > 0)]
            found = rows[["seed", "step", "margin"]].assign(ratio=rows["margin"] / rows["max_margin"])
            path = Path(run.folder or "") / "final.npz"
            first, second = (array.astype(float) for array in read_arrays(path, str(path), ["layer1", "layer2"]).values())
            parts.append(found.assign(method=run.spec.optimizer.name, pure=purity(first, second)))
        return pd.concat(parts, ignore_index=True)

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        figure, axes = panels(1, 2, height=2.8)
        curves, ends = axes[0]
        last = table[table["step"] == table["step"].max()]
        for method in METHODS:
            look, rows = optimizer_look(method), table[table["method"] == method]
            for _, curve in rows.groupby("seed"):
                curves.plot(curve["step"], curve["ratio"], color=look.color, lw=0.5, alpha=0.4)
            median = rows.groupby("step")["ratio"].median()
            curves.plot(median.index, median, **look.plot([len(median) * share // 5 for share in range(1, 5)]))
            end = last[last["method"] == method]
            ends.plot(end["ratio"], end["pure"], color=look.color, marker=look.marker, linestyle="")
        curves.axhline(1, color=GREY, lw=0.9, ls=":")
        curves.set_ylim(-0.5, 1.05)
        curves.set(xlabel="step $t$", ylabel=f"{NORM} margin / maximum")
        log_axis(curves, "x")
        ends.set(xlabel=f"{NORM} margin / maximum", ylabel="power in one frequency", xlim=(0, 1.02), ylim=(0.5, 1.02))
        for axis, letter, title in zip(axes[0], "ab", ("margin", "frequencies of units at the end"), strict=True):
            axis.set_title(f"({letter}) {title}", loc="left")
        own = replace(optimizer_look(NSD), label=f"NSD, {NORM}")
        legend_below(figure, [own.handle(), *(optimizer_look(method).handle() for method in METHODS if method != NSD)])
        return figure

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        if preset == "smoke":
            return []
        last = _ends(table)
        return [self._reached(last, preset), self._frequencies(last, preset), self._others(last, preset)]

    def _reached(self, last: Any, preset: Preset) -> Claim:
        ratios = last.loc[NSD, "ratio"]
        return self.claim(
            preset,
            f"steepest descent in {NORM} comes near the proven maximum sqrt(2/27) / (sqrt(p) (p - 1)): ratios, all seeds",
            expected="1",
            measured=numbers(ratios, 4),
            tolerance=f">= {REACHED:g}",
            holds=bool((ratios >= REACHED).all() and (ratios <= 1).all()),
            source=f"{self.source} (the maximum, derived again here); the descent is this project's",
            kind="derived",
        )

    def _frequencies(self, last: Any, preset: Preset) -> Claim:
        shares = last.loc[NSD, "pure"]
        return self.claim(
            preset,
            "its units have one frequency each, as those of every network of maximum margin: share of power, all seeds",
            expected="1",
            measured=numbers(shares),
            tolerance=f">= {PURE:g}",
            holds=bool((shares >= PURE).all()),
            source=f"{self.source}, abstract",
            kind="theorem",
        )

    def _others(self, last: Any, preset: Preset) -> Claim:
        others = {method: last.loc[method, "ratio"] for method in METHODS if method != NSD}
        return self.claim(
            preset,
            f"descent in other norms is below it in {NORM} after as many steps: NGD, spectral and sign descent, means",
            measured=", ".join(mean_and_spread(ratios) for ratios in others.values()),
            tolerance=f"below by {BELOW:g} on every seed",
            holds=all(bool((ratios <= last.loc[NSD, "ratio"] - BELOW).all()) for ratios in others.values()),
            source="this project's own check",
            kind="check",
        )

    def findings(self, table: pd.DataFrame, preset: Preset) -> list[Finding]:
        if preset == "smoke":
            return []
        means = _ends(table).groupby("method")[["ratio", "pure"]].mean()
        return [
            Finding(
                "Descent in its own norm finds a network's proven maximum margin, from random starts",
                "The theory of networks promises KKT points. On modular addition, where the maximum is known, normalised steepest"
                f" descent in the {NORM} norm comes near the maximum itself, and its units take one frequency each.",
                f"ratio to the maximum and share of power in one frequency: NSD {numbers(means.loc[NSD])}, NGD"
                f" {numbers(means.loc[NGD])}, spectral descent {numbers(means.loc[SPECTRAL_GD])}, sign descent"
                f" {numbers(means.loc[SIGNGD])}",
            )
        ]


def purity(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """How near a network on modular addition is to one frequency a unit.

    Args:
        first: W_1, a unit's weights of a and of b in a row, (m, 2 p).
        second: W_2, a unit's weights of the outputs in a column, (p, m).

    Returns:
        The share of the power of a unit's three vectors, without their means, that is in its strongest frequency, averaged over
        units with the cubes of their l2 norms as weights.
    """
    p = len(second)
    units = np.stack([first[:, :p], first[:, p:], second.T], axis=1)  # (m, 3, p)
    # A real signal of odd length: frequency k and p - k together, the mean apart.
    power = (np.abs(np.fft.rfft(units, axis=2)[..., 1:]) ** 2).sum(axis=1)
    total, weights = power.sum(axis=1), np.sqrt((units**2).sum(axis=(1, 2))) ** 3
    shares = np.where(total > 0, power.max(axis=1) / np.where(total > 0, total, 1), 0)
    return float((weights * shares).sum() / weights.sum())


def _ends(table: pd.DataFrame) -> Any:
    """The last records by method and seed."""
    return table[table["step"] == table["step"].max()].set_index(["method", "seed"]).sort_index()
