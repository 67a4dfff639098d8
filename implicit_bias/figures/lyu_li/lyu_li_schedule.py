"""A CNN under constant and under loss-based step sizes: how far the loss falls, and what the margin gains."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure as Drawing

from implicit_bias.analysis.curves import at_end, means, separated, tidy, told
from implicit_bias.analysis.runs import Run
from implicit_bias.figures.base import FIGURES, Figure, PerPreset, Preset, one_line
from implicit_bias.figures.claims import Claim, Finding
from implicit_bias.plotting.curves import trajectories
from implicit_bias.plotting.explorer import Explorer
from implicit_bias.plotting.labels import titled
from implicit_bias.plotting.style import Look, legend_below, log_axis, panels

SCHEDULES = {"loss-based": ("schedule=lyu_li", "schedule.lr=0.1"), "constant": ("schedule=constant", "schedule.lr=0.01")}
LOOKS = {"loss-based": Look("loss-based step size", "#0072B2", "s"), "constant": Look("constant step size", "#D55E00", "o")}
STEPS = PerPreset(smoke=20, default=700, paper=10_000)
SEEDS = PerPreset(smoke=2, default=3, paper=3)
DIGITS = PerPreset(smoke="[3,6]", default="[3,6]", paper="null")
SAMPLES = PerPreset(smoke=3, default=10, paper=5421)
PIXELS = PerPreset(smoke=14, default=14, paper=28)
CHANNELS = PerPreset(smoke="[2,2]", default="[4,8]", paper="[32,64]")
# A margin may fall, between two records, by this share of its largest value so far.
DIP = 0.1
# Orders of magnitude that the loss-based run is to be ahead, where the paper's depth takes too many steps.
AHEAD = 30.0
PAPER_DEPTH = -800.0


@FIGURES.register
class LyuLiSchedule(Figure):
    """Step sizes divided by the loss reach losses far below any double, and a larger margin."""

    name = "lyu_li_schedule"
    headline = "their margin is several times"
    order = 120
    title = "Loss-based step sizes on a CNN"
    source = "Lyu and Li, arXiv 1906.05890, Fig. 1"
    kind = "paper"
    paper = "lyu_li"
    minutes = PerPreset(smoke=0.05, default=0.2, paper=15_000.0)

    def setting(self, preset: Preset) -> str:
        return one_line(f"""
            CNN with {CHANNELS.at(preset)} channels, {SAMPLES.at(preset)} MNIST images a class of {_digits(preset)}
            ({PIXELS.at(preset)} x {PIXELS.at(preset)} pixels), {SEEDS.at(preset)} seeds, {STEPS.at(preset):,} full-batch steps
        """)

    def caption(self, preset: Preset) -> str:
        return one_line(f"""
            CNN with {CHANNELS.at(preset)} channels (3 x 3 kernels, max pooling, ReLU, a bias in the first layer, He-normal
            start) on {SAMPLES.at(preset)} samples each of {_digits(preset)} of MNIST ({PIXELS.at(preset)} x
            {PIXELS.at(preset)} pixels), full-batch GD, {STEPS.at(preset):,} steps, cross entropy: step size .01 against
            alpha_t / loss with back-off, alpha_1 = .1, where a step that is taken back counts a run ends below 1e-800;
            {SEEDS.at(preset)} seeds as thin lines. Left: loss. Middle and right: least gap over the third power of the
            parameters' l2 norm, from where it is positive. The paper: 60,000 samples, 32 and 64 channels, a hidden layer of
            1,024, SGD, 10,000 epochs.
        """)

    def sweeps(self, preset: Preset) -> list[list[str]]:
        size = [
            f"experiment={self.name}",
            f"steps={STEPS.at(preset)}",
            f"stop_log10_loss={PAPER_DEPTH:g}",
            f"seed=range(1,{SEEDS.at(preset) + 1})",
        ]
        size += [f"dataset.classes={DIGITS.at(preset)}", f"dataset.samples_per_class={SAMPLES.at(preset)}"]
        size += [f"dataset.pixels={PIXELS.at(preset)}", f"model.channels={CHANNELS.at(preset)}"]
        return [[*size, *overrides] for overrides in SCHEDULES.values()]

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """method (the schedule), seed, norm, step, and the columns of :func:`tidy`."""
        names = {"lyu_li": "loss-based", "constant": "constant"}
        return tidy(runs, [names[run.spec.schedule.name] for run in runs], ["l2"])

    def explorer(self, table: pd.DataFrame) -> Explorer:
        return trajectories(table, LOOKS)

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        figure, axes = panels(1, 3, height=2.5)
        left, middle, right = axes[0]
        for method, look in LOOKS.items():
            for _, rows in table[table["method"] == method].groupby("seed"):
                style = {"color": look.color, "lw": 1.1}
                below_one = rows[rows["log_loss"] < 0]
                left.plot(below_one["step"], -below_one["log_loss"] / math.log(10), **style)
                positive = separated(rows)
                middle.plot(positive["step"], positive["margin"], **style)
                right.plot(-positive["log_loss"] / math.log(10), positive["margin"], **style)
        for axis in (left, middle):
            axis.set_xlabel("step $t$")
            axis.set_xlim(10, table["step"].max() * 1.05)
            log_axis(axis, "x")
        left.set_yscale("log")
        log_axis(left, "y")
        left.set_ylabel(r"$\log_{10}(1 / \mathrm{loss})$")
        right.set_xlabel(r"$\log_{10}(1 / \mathrm{loss})$")
        right.set_xscale("log")
        log_axis(right, "x")
        for axis in (middle, right):
            axis.set_ylabel(r"normalised $\ell_2$ margin")
            axis.set_ylim(bottom=0)
        titled(axes, ("depth of the loss", "margin", "margin at equal loss"))
        legend_below(figure, [look.handle(marker=False) for look in LOOKS.values()])
        return figure

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        if preset == "smoke":
            return []
        losses = (at_end(table, "log_loss").xs("l2", level="norm") / math.log(10)).unstack("method")
        margins = at_end(table, "margin").xs("l2", level="norm").unstack("method")
        ratio = margins["loss-based"] / margins["constant"].clip(lower=0)
        depth = losses["loss-based"]
        ahead = depth - losses["constant"]
        deep = preset == "paper"
        dips = [largest_dip(rows) for _, rows in table[table["method"] == "loss-based"].groupby("seed")]
        return [
            self.claim(
                preset,
                "loss-based step sizes take the loss far below the constant ones', log10 loss"
                + (": below 1e-800" if deep else ""),
                expected="-800 after 9,000 epochs",
                measured=", ".join(f"{a:.1f} / {b:.1f}" for a, b in losses[["loss-based", "constant"]].to_numpy()),
                tolerance="<= -800" if deep else f"by {AHEAD:g} orders of magnitude, every seed",
                holds=bool((depth <= PAPER_DEPTH).all()) if deep else bool((ahead <= -AHEAD).all()),
            ),
            self.claim(
                preset,
                "at its end their margin is several times what the constant ones have after all steps",
                expected="about 7 to 10 (10,000 epochs)",
                measured=f"{told(means(at_end(table, 'margin'), 'l2'))}; ratios " + ", ".join(f"{r:.1f}" for r in ratio),
                tolerance=">= 3 in every seed",
                holds=bool((ratio >= 3).all()),
            ),
            self.claim(
                preset,
                "once positive the loss-based margin rises up to small dips: largest dip over the peak before it, each seed",
                expected="rises",
                measured=", ".join(f"{d:.3f}" for d in dips),
                tolerance=f"<= {DIP:g}",
                holds=max(dips) <= DIP,
                reason="the theorem is for the smoothed margin along small steps; the least gap may fall, and alpha_t grows "
                "until a step raises the loss. How much of the dips each makes is not known",
            ),
            *self._not_testable(preset),
        ]

    def _not_testable(self, preset: Preset) -> list[Claim]:
        statements = (
            ("the relative step size alpha_t stays in [1e-9, 1]", "the figure's table has no step sizes", "Fig. 4"),
            (
                "margins rise on CIFAR-10 with a VGG network too",
                "there is no CIFAR-10 dataset and no VGG network here",
                "Figs. 5, 6",
            ),
            ("test accuracy hardly moves while the margin grows", "the figure's runs have no test set", "Fig. 7"),
            (
                "training to a smaller loss makes the network more robust to small perturbations",
                "there is no adversarial attack here",
                "Fig. 8 and Table 1",
            ),
        )
        return [
            self.not_testable(preset, text, why, kind="paper", source=f"Lyu and Li, arXiv 1906.05890, {where}")
            for text, why, where in statements
        ]

    def findings(self, table: pd.DataFrame, preset: Preset) -> list[Finding]:
        if preset == "smoke":
            return []
        ends = at_end(table, "log_loss").xs("l2", level="norm").unstack("method") / math.log(10)
        told = [f"{-a:.0f} against {-b:.1f}" for a, b in ends[["loss-based", "constant"]].to_numpy()]
        return [
            Finding(
                "With a constant step size a network never gets to the regime that the theory describes",
                one_line("""
                    The margin grows as a power of log(1/loss), and gradient descent lowers the loss as one over the number of
                    steps: ten times the steps add one decade. Step sizes divided by the loss reach losses far below any double.
                """),
                f"log10(1/loss) after at most {STEPS.at(preset):,} steps, loss-based / constant, by seed: {', '.join(told)}",
            )
        ]


def _digits(preset: Preset) -> str:
    return "all digits" if DIGITS.at(preset) == "null" else "the digits 3 and 6"


def largest_dip(rows: pd.DataFrame) -> float:
    """The largest relative fall of a run's margin below its peak so far, from where it stays positive on."""
    margin = separated(rows).sort_values("step")["margin"]
    if margin.empty:
        return float("nan")
    return float((1 - margin / margin.cummax()).max())
