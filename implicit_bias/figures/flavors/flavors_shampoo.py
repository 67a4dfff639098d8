"""Shampoo, Adam and gradient descent on two digits: the spectral margin and the max-norm's."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure as Drawing

from implicit_bias.analysis.curves import at_end, means, separated, tidy, told
from implicit_bias.analysis.runs import Run
from implicit_bias.figures.base import FIGURES, Figure, PerPreset, Preset, one_line
from implicit_bias.figures.claims import Claim, Finding
from implicit_bias.plotting.curves import band, log_loss_axis, trajectories
from implicit_bias.plotting.explorer import Explorer
from implicit_bias.plotting.labels import titled
from implicit_bias.plotting.style import legend_below, log_axis, norm_look, optimizer_look, panels

METHODS = {
    "gd": ("optimizer=gd",),
    "adam": ("optimizer=adam", "optimizer.beta1=0", "optimizer.beta2=0.999", "optimizer.eps=1e-8"),
    "shampoo": ("optimizer=shampoo",),
}
NORMS = ("spectral", "linf")
SAMPLES = 100
#: The margin has fallen where it is below this share of its peak.
FALLEN = 0.9
PRINTED_RATE = 20
STEPS = PerPreset(smoke=60, default=2000, paper=10_000)
SEEDS = PerPreset(smoke=2, default=3, paper=3)
WIDTH = PerPreset(smoke=16, default=32, paper=128)
PIXELS = PerPreset(smoke=7, default=14, paper=28)


def learning_rate(method: str, preset: Preset) -> float:
    """The paper's, scaled so that a step changes the gaps of a smaller network on smaller images by as much as there.

    GD: 10 on the sum of 100 losses, 1,000 on their mean, a step changes gaps by lr times |u|^2 |x|^2. Adam: .01 an entry, by
    |u|_1 |x|_1. Shampoo without accumulation: the paper's 20 is for another form; 1, of the size that Adam's
    steps have in the spectral norm, by |u| |x|. The entries of u fall with the root of the width.
    """
    pixels, width = (PIXELS.paper / PIXELS.at(preset)) ** 2, WIDTH.paper / WIDTH.at(preset)
    rate: float = {"gd": 1000 * pixels, "adam": 0.01 * pixels * width**0.5, "shampoo": pixels**0.5}[method]
    return rate


@FIGURES.register
class FlavorsShampoo(Figure):
    """Shampoo reaches the largest spectral margin, Adam the largest max-norm margin."""

    name = "flavors_shampoo"
    headline = "Shampoo ends with the largest"
    order = 121
    title = "Shampoo, Adam and GD: spectral and max-norm margins"
    source = "Tsilivis, Gronich, Kempe and Vardi, arXiv 2410.22069, Fig. 3"
    kind = "paper"
    paper = "flavors"
    minutes = PerPreset(smoke=0.05, default=0.2, paper=10.0)

    def setting(self, preset: Preset) -> str:
        return one_line(f"""
            {SAMPLES} MNIST digits 3 and 6 ({PIXELS.at(preset)} x {PIXELS.at(preset)} pixels), ReLU network of width
            {WIDTH.at(preset)} with its second layer frozen, {SEEDS.at(preset)} seeds, {STEPS.at(preset):,} steps
        """)

    def caption(self, preset: Preset) -> str:
        return one_line(f"""
            ReLU network of width {WIDTH.at(preset)} with its second layer frozen (degree 1), initial entries of scale .01, on
            {SAMPLES} MNIST digits 3 and 6 ({PIXELS.at(preset)} x {PIXELS.at(preset)} pixels), logistic loss; constant step
            sizes: GD {learning_rate("gd", preset):g} on the mean loss, Adam {learning_rate("adam", preset):g} (beta1 0, beta2
            .999, eps 1e-8), Shampoo without accumulation {learning_rate("shampoo", preset):g} (the paper's GD and Adam,
            scaled with the size); {STEPS.at(preset):,} full-batch steps, mean of {SEEDS.at(preset)} seeds (data and start)
            and their range. The paper: width 128, 28 x 28 pixels, and a Shampoo with accumulation. Its gamma_1 is the margin
            under the max-norm.
        """)

    def sweeps(self, preset: Preset) -> list[list[str]]:
        size = [f"steps={STEPS.at(preset)}", f"seed=range(1,{SEEDS.at(preset) + 1})"]
        size += [f"model.width={WIDTH.at(preset)}", f"dataset.pixels={PIXELS.at(preset)}"]
        return [
            [f"experiment={self.name}", *overrides, f"schedule.lr={learning_rate(method, preset):g}", *size]
            for method, overrides in METHODS.items()
        ]

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """method, seed, norm, step, and the columns of :func:`tidy`."""
        return tidy(runs, [run.spec.optimizer.name for run in runs], NORMS)

    def explorer(self, table: pd.DataFrame) -> Explorer:
        return trajectories(
            table, {m: optimizer_look(m) for m in METHODS}, {"norm": ("norm", {n: norm_look(n).label for n in NORMS})}
        )

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        figure, axes = panels(1, 3, height=2.5)
        begins = table["step"].max() / 20
        for method in METHODS:
            mine = table[table["method"] == method]
            loss = mine[mine["norm"] == NORMS[0]].assign(log10_loss=lambda t: t["log_loss"] / 2.302585)
            band(axes[0, 0], loss, "log10_loss", optimizer_look(method))
            for axis, norm in zip(axes[0, 1:], NORMS, strict=True):
                shown = mine[(mine["norm"] == norm) & (mine["step"] >= begins)]
                band(axis, separated(shown), "margin", optimizer_look(method))
        log_loss_axis(axes[0, 0])
        for axis, norm in zip(axes[0, 1:], NORMS, strict=True):
            axis.set_ylabel(f"{norm_look(norm).label} margin")
            log_axis(axis, "y")
            axis.set_xlim(begins, table["step"].max() * 1.05)
        axes[0, 0].set_xlim(1, table["step"].max() * 1.05)
        for axis in axes[0]:
            log_axis(axis, "x")
            axis.set_xlabel("step $t$")
        titled(axes, ("training loss", "spectral margin", "max-norm margin"))
        legend_below(figure, [optimizer_look(method).handle() for method in METHODS])
        return figure

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        if preset == "smoke":
            return []
        ends = at_end(table, "margin")
        words = {method: optimizer_look(method).label for method in METHODS}
        printed = {
            "spectral": ("shampoo", "Shampoo 6e-3, Adam 5e-3, GD 4.6e-3"),
            "linf": ("adam", "Adam .5 (peak .75), GD .14, Shampoo .047"),
        }
        found = []
        for norm, (winner, paper) in printed.items():
            pivot = ends.xs(norm, level="norm").unstack("method")
            others = pivot.drop(columns=winner).max(axis="columns")
            found.append(
                self.claim(
                    preset,
                    f"{words[winner]} ends with the largest {norm} margin of the three, in every seed",
                    expected=paper,
                    measured=told(means(ends, norm), words),
                    tolerance="largest in every seed",
                    holds=bool((pivot[winner] > others).all()),
                )
            )
        return [*found, self._decline(table, preset)]

    def _decline(self, table: pd.DataFrame, preset: Preset) -> Claim:
        """How far Adam's max-norm margin falls below its peak, seed by seed."""
        rows = table[(table["method"] == "adam") & (table["norm"] == "linf")].sort_values("step").groupby("seed")["margin"]
        kept = rows.last() / rows.max()
        return self.claim(
            preset,
            "Adam's linf margin peaks and then falls: its end over its peak",
            expected=".5 / .75 = .67",
            measured=f"{kept.mean():.2f} +- {kept.std(ddof=0):.1g}",
            tolerance=f"<= {FALLEN} in every seed",
            holds=bool((kept <= FALLEN).all()),
            reason="Adam's eps is felt only where the gradient has fallen to it, and it has not within these steps",
        )

    def findings(self, table: pd.DataFrame, preset: Preset) -> list[Finding]:
        if preset == "smoke":
            return []
        ends = means(at_end(table, "margin"), "spectral")
        return [
            Finding(
                f"The printed step size {PRINTED_RATE} of Shampoo is for another Shampoo",
                one_line(f"""
                    The paper's experiment used a library's Shampoo, which accumulates its preconditioners: its steps shrink
                    as one over the root of the steps made. Steepest descent in the spectral norm, which the theory is about,
                    has none, and takes {learning_rate("shampoo", preset):g} here, of the size that Adam's steps have in that
                    norm.
                """),
                f"spectral margins at the end: {told(ends, {method: optimizer_look(method).label for method in METHODS})}",
            )
        ]
