"""A sigmoid network on MNIST: the spectral margin grows fastest under Spectral-GD and Muon."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Drawing

from implicit_bias.analysis.curves import at_end, means, over_seeds, tidy, told
from implicit_bias.analysis.runs import Run, last_rows
from implicit_bias.figures.base import FIGURES, Figure, PerPreset, Preset, one_line
from implicit_bias.figures.claims import Claim
from implicit_bias.plotting.curves import band, trajectories
from implicit_bias.plotting.explorer import Explorer
from implicit_bias.plotting.labels import End, end_labels
from implicit_bias.plotting.style import GREY, legend_below, log_axis, optimizer_look, panels

PLAIN, MOMENTUM = ("signgd", "ngd", "spectral_gd"), ("signum", "nmgd", "muon")
#: None are printed. Between a tenth and a sixth of the norm of the initial point under the method's own norm, and with it the
#: start's scale: with smaller ones a network with W fixed does not fit all samples within the default's steps.
LR = {"signgd": 0.05, "signum": 0.05, "ngd": 2.5, "nmgd": 2.5, "spectral_gd": 0.5, "muon": 0.5}
STEPS = PerPreset(smoke=30, default=1000, paper=10_000)
SEEDS = PerPreset(smoke=2, default=3, paper=3)
SAMPLES = PerPreset(smoke=2, default=20, paper=100)
WIDTH = PerPreset(smoke=10, default=50, paper=100)
PIXELS = PerPreset(smoke=7, default=14, paper=28)
FIRST, BOTH = "V", "both"
TRAINED = {FIRST: "model.frozen=[layer2]", BOTH: "model.frozen=null"}
#: Where the first two panels turn from a linear to a logarithmic scale.
NEAR_ZERO = 0.02
PANELS = ((FIRST, PLAIN), (FIRST, MOMENTUM), (BOTH, PLAIN), (BOTH, MOMENTUM))


@FIGURES.register
class FanFig3(Figure):
    """Margins over the spectral norm of a two-layer sigmoid network."""

    name = "fan_fig3"
    headline = "V and W trained: Muon's margin ends highest"
    order = 14
    title = "A two-layer sigmoid network on MNIST"
    source = "Fan et al., arXiv 2502.04664, Fig. 3"
    kind = "paper"
    paper = "fan"
    minutes = PerPreset(smoke=0.1, default=0.3, paper=240.0)

    def setting(self, preset: Preset) -> str:
        return one_line(f"""
            {SAMPLES.at(preset)} MNIST images a class ({PIXELS.at(preset)} x {PIXELS.at(preset)} pixels), W sigmoid(V h) of width
            {WIDTH.at(preset)}, {SEEDS.at(preset)} seeds, {STEPS.at(preset):,} steps
        """)

    def caption(self, preset: Preset) -> str:
        return one_line(f"""
            W sigmoid(V h) of width {WIDTH.at(preset)} on MNIST ({SAMPLES.at(preset)} images a class, {PIXELS.at(preset)} x
            {PIXELS.at(preset)} pixels), cross entropy, lr t^-1/2 with a tenth to a sixth of the initial
            norm as lr (sign .05, l2 2.5, spectral .5), {STEPS.at(preset):,} steps, mean of
            {SEEDS.at(preset)} seeds and their range; initial entries normal with deviation two over the root of the inputs.
            (a, b) V
            trained, W fixed: least gap over the spectral norm of V. (c, d) both trained: over the larger spectral norm. The
            paper: 100 images a class, 28 x 28 pixels, width 100, 10,000 steps; its step sizes and start are not printed.
        """)

    def sweeps(self, preset: Preset) -> list[list[str]]:
        size = [f"steps={STEPS.at(preset)}", f"seed=range(1,{SEEDS.at(preset) + 1})", f"model.width={WIDTH.at(preset)}"]
        size += [f"dataset.samples_per_class={SAMPLES.at(preset)}", f"dataset.pixels={PIXELS.at(preset)}"]
        return [
            [f"experiment={self.name}", trained, f"optimizer={method}", f"schedule.lr={LR[method]}", *size]
            for trained in TRAINED.values()
            for method in (*PLAIN, *MOMENTUM)
        ]

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """method (trained part, optimizer), seed, norm, step, and the columns of :func:`tidy`."""
        methods = [f"{FIRST if run.spec.value('model.frozen') else BOTH} {run.spec.optimizer.name}" for run in runs]
        return tidy(runs, methods, ["spectral"])

    def explorer(self, table: pd.DataFrame) -> Explorer:
        parts = table["method"].str.split(" ", expand=True)
        looks = {m: optimizer_look(m) for m in (*PLAIN, *MOMENTUM)}
        words = {FIRST: "V, with W fixed", BOTH: "V and W"}
        return trajectories(table.assign(trained=parts[0], method=parts[1]), looks, {"trained": ("trained", words)})

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        figure, axes = panels(2, 2, height=4.4, sharex=True)
        for axis, letter, (trained, methods) in zip(axes.flat, "abcd", PANELS, strict=True):
            for method in methods:
                band(axis, table[table["method"] == f"{trained} {method}"], "margin", optimizer_look(method))
            axis.axhline(0, color=GREY, lw=0.7)
            axis.set_xlim(0.9, table["step"].max() * 1.1)
            log_axis(axis, "x")
            if trained == FIRST:  # all end a little above zero, after values 50 times as large below it
                axis.set_yscale("symlog", linthresh=NEAR_ZERO)
                axis.set_yticks([-1, -0.1, 0, 0.02, 0.05], ["\N{MINUS SIGN}1", "\N{MINUS SIGN}0.1", "0", "0.02", "0.05"])
                axis.minorticks_off()
            momentum = ", with momentum" if methods == MOMENTUM else ""
            axis.set_title(f"({letter}) {'V trained' if trained == FIRST else 'V and W trained'}{momentum}", loc="left")
            end_labels(axis, [self._end(table, trained, method) for method in methods])
        for row, label in zip(axes, (r"$q / \|V\|$", r"$q / \max(\|V\|, \|W\|)$"), strict=True):
            row[0].set_ylabel(label)
        for axis in axes[-1]:
            axis.set_xlabel("step $t$")
        legend_below(figure, [optimizer_look(m).handle() for m in (*PLAIN, *MOMENTUM)], columnspacing=1.0)
        return figure

    def _end(self, table: pd.DataFrame, trained: str, method: str) -> End:
        last = last_rows(table[table["method"] == f"{trained} {method}"])
        look = optimizer_look(method)
        return End(float(last["step"].max()), float(last["margin"].mean()), look.label, look.color)

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        if preset == "smoke":
            return []
        judged = [claim for trained, methods in PANELS for claim in self._panel_claims(table, trained, methods, preset)]
        return [*judged, self._ranges(preset)]

    def _ranges(self, preset: Preset) -> Claim:
        return self.not_testable(
            preset,
            "the margins after 10,000 steps lie in the panels' ranges: up to .2 with V trained, up to 6 with both",
            "the paper's step sizes, start, preprocessing and seeds are not printed, and margins scale with them",
        )

    def _panel_claims(self, table: pd.DataFrame, trained: str, methods: Sequence[str], preset: Preset) -> list[Claim]:
        """The last method of a panel, the spectral one, ends highest and is the first to separate."""
        words = {f"{trained} {m}": optimizer_look(m).label for m in methods}
        winner = f"{trained} {methods[-1]}"
        where = "V trained" if trained == FIRST else "V and W trained"
        ends = at_end(table[table["method"].isin(words)], "margin").xs("spectral", level="norm").unstack("method")
        measured = means(at_end(table, "margin"), "spectral")
        others = ends.drop(columns=winner).max(axis="columns")
        crossing = {method: first_positive(table[table["method"] == method]) for method in words}
        by_seed = {method: seeds_positive(table[table["method"] == method]) for method in words}
        ordered = sorted(crossing.items(), key=lambda item: item[1])
        told_crossing = ", ".join(f"{words[m]} {s:.0f} (seeds {by_seed[m]})" for m, s in ordered)
        return [
            self.claim(
                preset,
                f"{where}: {words[winner]}'s margin ends highest, in every seed",
                tolerance="largest in every seed",
                measured=told({m: v for m, v in measured.items() if m in words}, words),
                holds=bool((ends[winner] > others).all()),
            ),
            self.claim(
                preset,
                f"{where}: {words[winner]}'s margin grows fastest: first step with a positive mean margin",
                measured=told_crossing,
                tolerance="least",
                holds=all(crossing[winner] < crossing[m] for m in words if m != winner),
                reason="the paper's step sizes are not printed, and they set when a method separates; here seeds differ by more "
                "than methods do, and the first one is ahead by less than "
                f"{records_between(table, min(crossing.values()), crossing[winner]) + 1} record(s) of the logarithmic grid",
            ),
        ]


def first_positive(rows: pd.DataFrame) -> float:
    """The first recorded step at which the mean margin is positive; infinite where there is none."""
    mean = over_seeds(rows, "margin")["mean"]
    positive = mean.index[mean > 0]
    return float(positive[0]) if len(positive) else float("inf")


def records_between(table: pd.DataFrame, first: float, second: float) -> int:
    """How many records there are from one step, left out, to another."""
    steps = table["step"].drop_duplicates()
    return int(((steps > first) & (steps <= second)).sum())


def seeds_positive(rows: pd.DataFrame) -> str:
    """The first recorded step with a positive margin, seed by seed."""
    steps = rows[rows["margin"] > 0].groupby("seed")["step"].min().reindex(sorted(rows["seed"].unique()))
    return " ".join("never" if np.isnan(step) else f"{step:.0f}" for step in steps)
