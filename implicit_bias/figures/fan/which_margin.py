"""Which margin each optimizer maximises: every optimizer under every norm, as a heat map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as Drawing
from matplotlib.patches import Rectangle

from implicit_bias.analysis.runs import Run, last_rows
from implicit_bias.figures.base import FIGURES, Figure, PerPreset, Preset, one_line
from implicit_bias.figures.claims import Claim
from implicit_bias.figures.papers import MIXTURE
from implicit_bias.plotting.style import norm_look, optimizer_look, panels

#: Rows, with the norm that each maximises; in the order that puts the theorem on the diagonal.
OWN = {
    "signgd": "linf",
    "signum": "linf",
    "adam": "linf",
    "ngd": "l2",
    "nmgd": "l2",
    "spectral_gd": "spectral",
    "muon": "spectral",
    "nucgd": "nuclear",
    "coordinate_descent": "l1",
    "row_gd": "row",
}
NORMS = ("linf", "l2", "spectral", "nuclear", "l1", "row")
STEPS = PerPreset(smoke=300, default=20_000, paper=100_000)
SEEDS = PerPreset(smoke=3, default=20, paper=50)
#: Methods whose own ratio is asked to reach (mean, every seed).
REACHED = dict.fromkeys(("signgd", "signum", "ngd", "nmgd", "spectral_gd", "muon"), (0.98, 0.965)) | {"adam": (0.95, 0.92)}
LOWEST_SHOWN = 0.3


@FIGURES.register
class WhichMargin(Figure):
    """In every norm the best margin is reached by a method that descends in that norm."""

    name = "which_margin"
    headline = "Muon reaches its own norm's optimum"
    order = 20
    title = "Which optimizer maximises which margin"
    source = "Fan et al., arXiv 2502.04664, Theorems 1, 2 and 5"
    paper = "fan"
    minutes = PerPreset(smoke=0.3, default=1.8, paper=30.0)

    def setting(self, preset: Preset) -> str:
        return f"{SEEDS.at(preset)} seeds of {MIXTURE}; linear model, {STEPS.at(preset):,} steps"

    def caption(self, preset: Preset) -> str:
        return one_line(f"""
            Margin over the certified maximum margin of each norm after {STEPS.at(preset):,} steps, mean over
            {SEEDS.at(preset)} seeds of {MIXTURE} and, small, the standard
            deviation. Framed: the method's own norm; bold: best of the column. Every method uses schedule.lr=auto, power .5;
            Adam has eps 0 and beta2 .95.
        """)

    def sweeps(self, preset: Preset) -> list[list[str]]:
        size = [f"steps={STEPS.at(preset)}", f"seed=range(1,{SEEDS.at(preset) + 1})"]
        return [[f"experiment={self.name}", f"optimizer={method}", *size] for method in OWN]

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """optimizer, norm, seed, margin, max_margin, ratio after the last step."""
        parts = [last_rows(run.trajectory).assign(optimizer=run.spec.optimizer.name) for run in runs]
        table = pd.concat(parts, ignore_index=True)
        table["ratio"] = table["margin"] / table["max_margin"]
        return table[["optimizer", "norm", "seed", "margin", "max_margin", "ratio"]]

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        mean, spread = _over_seeds(table)
        figure, axes = panels(1, 1, height=4.1)
        axis = axes[0, 0]
        # Blues that stay light enough at the top for the orange frames to show.
        colours = LinearSegmentedColormap.from_list("ratio", ["#fbfcfd", "#cfe0ee", "#8db8d9", "#3f86bd", "#0b4f88"])
        image = axis.imshow(mean.clip(lower=LOWEST_SHOWN), cmap=colours, vmin=LOWEST_SHOWN, vmax=1, aspect="auto")
        means, spreads = mean.to_numpy(float), spread.to_numpy(float)
        best = means.argmax(axis=0)
        for i, method in enumerate(OWN):
            for j, norm in enumerate(NORMS):
                _write_cell(axis, i, j, means[i, j], spreads[i, j], best=best[j] == i)
                if OWN[method] == norm:
                    axis.add_patch(Rectangle((j - 0.47, i - 0.46), 0.94, 0.92, fill=False, ec="#D55E00", lw=1.8))
        axis.set_xticks(range(len(NORMS)), [norm_look(n).label for n in NORMS])
        axis.set_yticks(range(len(OWN)), [optimizer_look(m).label for m in OWN])
        axis.xaxis.tick_top()
        axis.tick_params(length=0)
        axis.grid(False)
        for side in axis.spines.values():
            side.set_visible(False)
        bar = figure.colorbar(image, ax=axis, pad=0.02, aspect=28, extend="min")
        bar.outline.set_visible(False)
        bar.set_label("margin / maximum margin")
        return figure

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        if preset == "smoke":
            return []
        mean, spread = _over_seeds(table)
        judged = [self._best_claim(mean[norm], spread[norm], norm, preset) for norm in NORMS]
        judged += [self._reached_claim(table, method, preset) for method in REACHED]
        return [*judged, self._other_losses(preset)]

    def _other_losses(self, preset: Preset) -> Claim:
        return self.not_testable(
            preset,
            "the same norms are maximised under the exponential loss and PairLogLoss",
            "all runs of the figure have cross entropy",
            source="Fan et al., arXiv 2502.04664, App. F",
        )

    def _best_claim(self, column: pd.Series, spread: pd.Series, norm: str, preset: Preset) -> Claim:
        own = column[[m for m in OWN if OWN[m] == norm]]
        others = column[[m for m in OWN if OWN[m] != norm]]
        best, other = str(own.idxmax()), str(others.idxmax())
        return self.claim(
            preset,
            f"under {norm} the best mean margin is reached by a method of that norm",
            measured=f"{best} {own.max():.3f} ± {spread[best]:.3f} against {other} {others.max():.3f} ± {spread[other]:.3f}",
            tolerance=">",
            holds=own.max() > others.max(),
        )

    def _reached_claim(self, table: pd.DataFrame, method: str, preset: Preset) -> Claim:
        own = table[(table["optimizer"] == method) & (table["norm"] == OWN[method])]["ratio"]
        mean, least = REACHED[method]
        return self.claim(
            preset,
            f"{optimizer_look(method).label} reaches its own norm's optimum ({OWN[method]}): ratio, mean and worst data set",
            measured=f"{own.mean():.4f} ± {own.std():.4f} / {own.min():.4f}",
            paper="-> 1",
            tolerance=f">= {mean:g} / {least:g}",
            holds=own.mean() >= mean and own.min() >= least,
        )


def _write_cell(axis: Axes, i: int, j: int, mean: float, spread: float, best: bool) -> None:
    style: dict[str, Any] = {"ha": "center", "va": "center", "color": "white" if mean > 0.78 else "#222222"}
    number = f"{mean:.3f}".replace("-", "\N{MINUS SIGN}")
    axis.text(j, i - 0.1, number, weight="bold" if best else "normal", size=8, **style)
    axis.text(j, i + 0.27, f"±{spread:.3f}", size=5.8, **style)


def _over_seeds(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean and standard deviation of the ratio, methods by norms."""
    cells = table.groupby(["optimizer", "norm"])["ratio"]
    mean, spread = cells.mean().unstack(), cells.std().fillna(0).unstack()
    return mean.reindex(index=list(OWN), columns=list(NORMS)), spread.reindex(index=list(OWN), columns=list(NORMS))
