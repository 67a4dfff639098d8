"""Lion, MVN-Grad and clipped descent: which of three margins each comes near, beside the methods that they vary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from implicit_bias.analysis.runs import Run, last_rows
from implicit_bias.figures.base import FIGURES, Figure, PerPreset, Preset, one_line
from implicit_bias.figures.claims import Claim
from implicit_bias.figures.papers import MIXTURE, OWN
from implicit_bias.plotting.labels import titled
from implicit_bias.plotting.style import legend_below, norm_look, panels

NORMS = ("linf", "l2", "spectral")
CLIP = 1
#: What is typed for every method, by the name that the table has; in the order of the rows.
METHODS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "Signum": ("optimizer=signum",),
        "Lion (.9, .9)": ("optimizer=lion", "optimizer.beta2=0.9"),
        "Lion (.9, .99)": ("optimizer=lion",),
        "Adam": ("optimizer=adam",),
        "MVN-Grad": ("optimizer=mvn_grad",),
        "SD": ("optimizer=sd", "norm=linf"),
        "SD, clipped": ("optimizer=sd", "norm=linf", f"optimizer.clip={CLIP}"),
    }
)
STEPS = PerPreset(smoke=100, default=10_000, paper=100_000)
SEEDS = PerPreset(smoke=1, default=5, paper=20)
#: Of the claims: how near equal rules come in the table's six digits; what a short and a long memory of Lion reach and do not;
#: how far apart two norms' ratios are to be; how near the clipped method is to end to the other.
SAME, REACHED, LEFT_BEHIND, APART, NEAR = 1e-5, 0.98, 0.85, 0.15, 0.02


@FIGURES.register
class MoreMethods(Figure):
    """Lion's second memory delays its max-norm margin; MVN-Grad is nearer to l2's; clipping ends before it matters."""

    name = "more_methods"
    headline = "MVN-Grad"
    order = 60
    title = "Lion, MVN-Grad and clipped descent under three norms"
    source = "this project's own check"
    kind = "check"
    paper = OWN.key
    minutes = PerPreset(smoke=0.1, default=0.5, paper=10.0)

    def setting(self, preset: Preset) -> str:
        return f"{SEEDS.at(preset)} seeds of {MIXTURE}; linear model from zero, lr=auto, {STEPS.at(preset):,} steps"

    def caption(self, preset: Preset) -> str:
        return one_line(f"""
            Margin over the certified maximum margin of three norms after {STEPS.at(preset):,} steps, mean of {SEEDS.at(preset)}
            seeds of {MIXTURE} and their range. Every method has its automatic rate and power; Signum has momentum .9, Adam and
            MVN-Grad eps 0. SD is unnormalised steepest descent in the max-norm with a constant step, clipped where the gradient's
            dual norm is above {CLIP}.
        """)

    def sweeps(self, preset: Preset) -> list[list[str]]:
        size = [f"steps={STEPS.at(preset)}", f"seed=range(1,{SEEDS.at(preset) + 1})"]
        return [[f"experiment={self.name}", *words, *size] for words in METHODS.values()]

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """method, norm, seed and ratio after the last step."""
        parts = []
        for i, run in enumerate(runs):
            rows = last_rows(run.trajectory)
            method = list(METHODS)[i // SEEDS.at(preset)]
            parts.append(rows[rows["norm"].isin(NORMS)].assign(method=method, ratio=rows["margin"] / rows["max_margin"]))
        return pd.concat(parts, ignore_index=True)[["method", "norm", "seed", "ratio"]]

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        figure, axes = panels(1, 1, height=2.9)
        axis = axes[0, 0]
        for j, norm in enumerate(NORMS):
            _draw_norm(axis, table[table["norm"] == norm], norm, shift=0.2 * (j - 1))
        axis.set_yticks(range(len(METHODS)), list(METHODS))
        axis.set_ylim(len(METHODS) - 0.5, -0.5)
        axis.set_xlim(min(0.2, table["ratio"].min() - 0.02), 1.02)
        axis.axvline(1, color="#222222", lw=0.8)
        axis.set_xlabel("margin / maximum margin")
        titled(axes, ("where each method ends under three norms: mean and range over seeds",))
        axis.grid(axis="y", visible=False)
        for row in range(len(METHODS) - 1):
            axis.axhline(row + 0.5, color="#e4e4e4", lw=0.6)
        legend_below(figure, [norm_look(norm).handle() for norm in NORMS])
        return figure

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        if preset == "smoke":
            return []
        ratio = table.set_index(["method", "norm", "seed"])["ratio"].sort_index()
        return [*self._lion(ratio, preset), *self._mvn_grad(ratio, preset), self._clipped(ratio, preset)]

    def _lion(self, ratio: pd.Series, preset: Preset) -> list[Claim]:
        away = float((ratio["Lion (.9, .9)"] - ratio["Signum"]).abs().max())
        short, long = ratio["Lion (.9, .9)", "linf"], ratio["Lion (.9, .99)", "linf"]
        return [
            self.claim(
                preset,
                "Lion with one memory is Signum: largest difference of the ratios over norms and seeds",
                measured=f"{away:.0e}",
                tolerance=f"<= {SAME:g}",
                holds=away <= SAME,
            ),
            self.claim(
                preset,
                "Lion with one memory reaches the linf margin, with the usual second one of .99 it does not: ratios, mean",
                measured=f"{_told(short)} and {_told(long)}",
                tolerance=f">= {REACHED:g}, < {LEFT_BEHIND:g}",
                holds=short.mean() >= REACHED and long.mean() < LEFT_BEHIND,
                reason="the longer memory delays it only: with shorter steps later on it comes to that margin, too",
            ),
        ]

    def _mvn_grad(self, ratio: pd.Series, preset: Preset) -> list[Claim]:
        found = []
        for method, better, worse in (("MVN-Grad", "l2", "linf"), ("Adam", "linf", "l2")):
            more = ratio[method, better] - ratio[method, worse]
            found.append(
                self.claim(
                    preset,
                    f"{method} comes nearer to the {better} margin than to that of {worse}: difference of the ratios, mean",
                    measured=f"{_told(more)} ({better} {_told(ratio[method, better])})",
                    tolerance=f">= {APART:g}",
                    holds=more.mean() >= APART,
                    reason="the gap between the two closes with more steps: its linf ratio rises, and that of l2 hardly changes"
                    if method == "MVN-Grad"
                    else "",
                )
            )
        return found

    def _clipped(self, ratio: pd.Series, preset: Preset) -> Claim:
        away = float((ratio["SD, clipped", "linf"] - ratio["SD", "linf"]).abs().max())
        return self.claim(
            preset,
            "clipped descent ends where descent does, gradients being soon below the clip: largest difference of the linf ratios",
            measured=f"{away:.1e} (of {_told(ratio['SD', 'linf'])})",
            tolerance=f"<= {NEAR:g}",
            holds=away <= NEAR,
        )


def _draw_norm(axis: Axes, rows: pd.DataFrame, norm: str, shift: float) -> None:
    """A marker a method, with the range over seeds."""
    look = norm_look(norm)
    ratios = rows.groupby("method")["ratio"].agg(["mean", "min", "max"]).reindex(list(METHODS))
    places = np.arange(len(METHODS)) + shift
    axis.hlines(places, ratios["min"], ratios["max"], color=look.color, lw=1.6)
    axis.plot(ratios["mean"], places, look.marker, color=look.color, ms=5)


def _told(ratios: pd.Series) -> str:
    return f"{ratios.mean():.3f} ± {ratios.std(ddof=0):.3f}"
