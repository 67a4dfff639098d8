"""What is left of the margin gap late in training: a constant over the size of the weights, and for l2 which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D
from scipy.special import entr

from implicit_bias.analysis.runs import Run
from implicit_bias.config.spec import RunSpec
from implicit_bias.figures.base import FIGURES, Figure, PerPreset, Preset, one_line
from implicit_bias.figures.claims import Claim, Finding
from implicit_bias.figures.own import last_constant_judged as judged
from implicit_bias.figures.own.last_constant_judged import METHODS
from implicit_bias.figures.own.loss_curves import read_off
from implicit_bias.measures.decay_laws import gap_constant
from implicit_bias.plotting.explorer import STEP, Explorer, Quantity
from implicit_bias.plotting.labels import titled
from implicit_bias.plotting.style import GREY, legend_below, log_axis, optimizer_look, panels
from implicit_bias.solvers.reference import solve_exact

DATA = "a Gaussian mixture (4 classes, 12 features, 6 samples a class, noise 1)"
STEPS = PerPreset(smoke=1000, default=100_000, paper=1_000_000)
SEEDS = PerPreset(smoke=2, default=5, paper=10)
# What is off by less is noise of the last digits.
LEAST_READ = 1e-8
COLUMNS = ["method", "norm", "seed", "step", "kappa", "constant", "offset", "gap", "read"]


@FIGURES.register
class LastConstant(Figure):
    """The relative margin gap of NGD is kappa / (gamma* N(W)) in the end, with kappa from the optimum's dual weights."""

    name = "last_constant"
    headline = "NGD: relative gap"
    order = 72
    title = "The last constant: what is left of the margin gap, and the optimum read off the loss curve"
    source = "derived here: the laws of implicit_bias/measures/decay_laws.py"
    kind = "derived"
    minutes = PerPreset(smoke=0.1, default=0.2, paper=2.0)

    def setting(self, preset: Preset) -> str:
        return f"{SEEDS.at(preset)} seeds of {DATA}; linear model, cross entropy, lr=auto, power .5, {STEPS.at(preset):,} steps"

    def caption(self, preset: Preset) -> str:
        return one_line(f"""
            Four methods, each in its own norm N, on {SEEDS.at(preset)} seeds of {DATA}; lr=auto, power .5,
            {STEPS.at(preset):,} steps. Left: relative margin gap times gamma* N(W) over kappa = H(w) + log max w of the optimum's
            dual weights w, each seed (thin) and mean; grey the law, 1. Middle: log loss + gamma* N(W), less H(w) - log n; grey
            the law, 0. Right: how far off the optimum is as it is read off the loss curve over the last decade, -d log L / d(sum
            of steps) (thick), and how far the margin itself is from it (thin), means of absolute values.
        """)

    def sweeps(self, preset: Preset) -> list[list[str]]:
        size = [f"steps={STEPS.at(preset)}", f"seed=range(1,{SEEDS.at(preset) + 1})"]
        return [[f"experiment={self.name}", f"optimizer={','.join(METHODS)}", *size]]

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """method, norm, seed, step, kappa, constant, offset, gap, read, of the records from step 10 on.

        constant is relative gap x gamma* x N(W), offset log L + gamma* N(W) - (H(w) - log n), gap the relative gap, read what the
        loss of the decade before shows, over gamma*, less 1.
        """
        laws = Laws()
        return pd.concat([_followed(run, laws) for run in runs], ignore_index=True).reindex(columns=COLUMNS)

    def explorer(self, table: pd.DataFrame) -> Explorer:
        rows = table.assign(over=table["constant"] / table["kappa"], off=table["read"].abs())
        quantities = (
            Quantity("over", "relative gap x gamma* x N(W) / kappa"),
            Quantity("offset", "log loss + gamma* N(W) - (H - log n)"),
            Quantity("off", "off the optimum, read off the loss", log=True),
            Quantity("gap", "relative gap, own norm", log=True),
        )
        return Explorer(rows, "method", {method: optimizer_look(method) for method in METHODS}, (STEP,), quantities)

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        figure, axes = panels(1, 3, height=2.6)
        rows = table.assign(over=table["constant"] / table["kappa"])
        _draw_seeds(axes[0, 0], rows, "over", law=1)
        axes[0, 0].set_ylim(0, 4.2)
        axes[0, 0].set_ylabel(r"gap $\gamma^*\,N(W)\,/\,\kappa$")
        _draw_seeds(axes[0, 1], rows, "offset", law=0)
        axes[0, 1].set_ylim(-0.5, 3)
        axes[0, 1].set_ylabel(r"$\log L + \gamma^* N(W) - (H - \log n)$")
        _draw_read(axes[0, 2], table)
        titled(axes, ("constant of the gap, over its law", "offset of the loss, less its law", "optimum, off by"))
        thick = [
            Line2D([], [], color=GREY, lw=1.5, label="read off the loss"),
            Line2D([], [], color=GREY, lw=0.7, label="the margin"),
        ]
        legend_below(figure, [*(optimizer_look(method).handle(marker=False) for method in METHODS), *thick], columnspacing=1.2)
        return figure

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        return [] if preset == "smoke" else judged.claims(self, table, preset)

    def findings(self, table: pd.DataFrame, preset: Preset) -> list[Finding]:
        return [] if preset == "smoke" else judged.findings(table)


class Laws:
    """kappa and H(w) - log n of data under a norm; methods of one norm share them."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[float, float]] = {}

    def of(self, spec: RunSpec) -> tuple[float, float]:
        """Both for a run's data under its own norm."""
        assert spec.own_norm is not None
        key = spec.dataset_text, spec.own_norm.label
        if key not in self._known:
            data = spec.dataset.load()
            weights = solve_exact(data.x, data.y, data.num_classes, spec.own_norm).weights
            w = weights / weights.sum()
            self._known[key] = gap_constant(w), float(entr(w).sum() - np.log(len(data.y)))
        return self._known[key]


def _followed(run: Run, laws: Laws) -> pd.DataFrame:
    kappa, entropy = laws.of(run.spec)
    rows = run.trajectory[run.trajectory["norm"] == run.spec.own_label]
    length = rows["max_margin"] * rows["param_norm"]
    shown = {"constant": rows["relative_gap"] * length, "offset": rows["log_loss"] + length - entropy}
    return read_off(run).merge(pd.DataFrame({"step": rows["step"], **shown}), on="step").assign(kappa=kappa)


def _draw_seeds(axis: Axes, rows: pd.DataFrame, column: str, law: float) -> None:
    axis.axhline(law, color=GREY, lw=2.5, alpha=0.5)
    for method in METHODS:
        mine, look = rows[rows["method"] == method], optimizer_look(method)
        for _, curve in mine.groupby("seed"):
            axis.plot(curve["step"], curve[column], color=look.color, lw=0.4, alpha=0.6)
        mean = mine.groupby("step")[column].mean()
        axis.plot(mean.index, mean, **look.plot())
    axis.set_xlim(min(100, rows["step"].max() / 3), rows["step"].max())
    log_axis(axis, "x")
    axis.set_xlabel("step $t$")


def _draw_read(axis: Axes, rows: pd.DataFrame) -> None:
    for method in METHODS:
        mine, look = rows[rows["method"] == method], optimizer_look(method)
        off = mine["read"].abs().groupby(mine["step"]).mean().clip(lower=LEAST_READ)
        gap = mine.groupby("step")["gap"].mean()
        axis.plot(off.index, off, **look.plot())
        axis.plot(gap.index, gap, color=look.color, lw=0.7)
    axis.set_xlim(10, rows["step"].max())
    axis.set_xlabel("step $t$")
    axis.set_ylabel("off the optimum, relative")
    log_axis(axis, "x")
    log_axis(axis, "y")
