"""Which margin each optimizer maximises on a network: optimizers by norms as a heat map, and the alignments beside it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure as Drawing

from implicit_bias.analysis.runs import Run, mean_and_spread
from implicit_bias.figures.base import FIGURES, Figure, PerPreset, Preset, one_line
from implicit_bias.figures.claims import Claim
from implicit_bias.figures.gronich_vardi.common import (
    CONDITION,
    TARGET,
    THEOREMS,
    last_record,
    mean_and_std,
    method,
    problem,
    problem_in_words,
    setting,
    shares,
)
from implicit_bias.plotting.heat_map import FRAME, colour_bar, heat_map
from implicit_bias.plotting.style import norm_look, optimizer_look, panels

#: Rows, with the norm that each maximises; in the order that puts the theorem on the diagonal.
OWN = {
    "ngd": "l2",
    "nmgd": "l2",
    "signgd": "linf",
    "signum": "linf",
    "adam": "linf",
    "spectral_gd": "spectral",
    "muon": "spectral",
    "muon_signum": "hybrid0.1",
    "muon_adam": "hybrid0.1",
}
NORMS = ("l2", "linf", "spectral", "hybrid0.1")
LOWEST_SHOWN = 1e-3


@FIGURES.register
class MarginMatrixNetworks(Figure):
    """On a network too the best margin of every norm is reached by a method that descends in it."""

    name = "margin_matrix_networks"
    headline = "under spectral the best margin"
    order = 112
    title = "Which optimizer maximises which margin of a network"
    source = THEOREMS
    kind = "theorem"
    paper = "gronich_vardi"
    minutes = PerPreset(smoke=0.1, default=2.4, paper=700.0)

    def setting(self, preset: Preset) -> str:
        return setting(preset)

    def caption(self, preset: Preset) -> str:
        return one_line(f"""
            Two-layer squared ReLU network on even against odd digits ({problem_in_words(preset)}), eta0 t^-.8
            with eta0 = auto, at the first step with a loss below 1e-8. Left: margin over the best optimizer's
            on the same data, mean over seeds and, small, the standard deviation; the colour is logarithmic.
            Right: alignment of parameters and negative gradient in each norm, 1 at a KKT direction of that
            norm. Framed: the method's own norm; bold: best of the column. Coordinate descent is left out: it
            moves one parameter a step and would need many times the steps of the others.
        """)

    def sweeps(self, preset: Preset) -> list[list[str]]:
        return [[f"experiment={self.name}", *method(m), *problem(preset)] for m in OWN]

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """optimizer, norm, seed, step, log10_loss, margin, share (of the best on that seed), alignment where the runs end."""
        table = shares(pd.concat([last_record(run) for run in runs], ignore_index=True))
        table = table[table["norm"].isin(NORMS)]
        return table.reindex(columns=["optimizer", "norm", "seed", "step", "log10_loss", "margin", "share", "alignment"])

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        figure, axes = panels(1, 2, height=4.3, sharey=True)
        framed = {(i, NORMS.index(OWN[m])): FRAME for i, m in enumerate(OWN)}
        for axis, column, scale, title in (
            (axes[0, 0], "share", LogNorm(LOWEST_SHOWN, 1), "margin / best optimizer's"),
            (axes[0, 1], "alignment", Normalize(0, 1), "alignment"),
        ):
            mean, spread = (part.reindex(index=list(OWN), columns=list(NORMS)) for part in mean_and_std(table, column))
            image = heat_map(
                axis, mean.to_numpy(float), spread.to_numpy(float), scale, framed,
                columns=[norm_look(norm).label for norm in NORMS], told=number, size=7.5,
            )  # fmt: skip
            axis.set_title(title, pad=20)
            colour_bar(figure, image, axis, "share of the best, log scale" if column == "share" else "alignment", below=True)
        axes[0, 0].set_yticks(range(len(OWN)), [optimizer_look(m).label for m in OWN])
        return figure

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        if preset == "smoke":
            return []
        return [
            self._reached(table, preset),
            *(self._best(table, norm, "share", preset) for norm in NORMS),
            *(self._best(table, norm, "alignment", preset) for norm in NORMS),
            self._momentum(table, preset),
        ]

    def _reached(self, table: pd.DataFrame, preset: Preset) -> Claim:
        ends = table[table["norm"] == NORMS[0]]
        late = ends[ends["log10_loss"] > TARGET]
        return self.claim(
            preset,
            "every run reaches a loss of 1e-8 (other claims compare runs where they end)",
            source=CONDITION,
            kind="check",
            measured=f"{len(ends) - len(late)} of {len(ends)}; steps {int(ends['step'].min()):,} to {int(ends['step'].max()):,}",
            tolerance="all",
            holds=late.empty,
        )

    def _best(self, table: pd.DataFrame, norm: str, column: str, preset: Preset) -> Claim:
        """The best optimizer of each norm, in the mean and seed by seed."""
        wide = table[table["norm"] == norm].pivot(index="seed", columns="optimizer", values=column)
        own = [m for m in OWN if OWN[m] == norm]
        others = wide.drop(columns=own)
        best, other = wide[own].mean().idxmax(), others.mean().idxmax()
        won = wide[own].max(axis=1) > others.max(axis=1)
        what = "the best margin" if column == "share" else "the highest alignment"
        return self.claim(
            preset,
            f"under {norm} {what} is reached by a method of that norm",
            measured=f"{best} {mean_and_spread(wide[best])} against {other} {mean_and_spread(wide[other])}; "
            f"{int(won.sum())} of {len(won)} seeds",
            expected="best" if column == "share" else "",
            kind="paper" if column == "share" else "theorem",
            source="Gronich and Vardi, arXiv 2602.16340, Figures 1 and 2" if column == "share" else self.source,
            tolerance="in the mean and on every seed",
            reason="at this loss no alignment has converged, and the two differ by less than the seeds do",
            holds=bool(wide[best].mean() > wide[other].mean() and won.all()),
        )

    def _momentum(self, table: pd.DataFrame, preset: Preset) -> Claim:
        own = table[table["norm"] == table["optimizer"].map(OWN)]
        wide = own.pivot(index="seed", columns="optimizer", values="margin")
        pairs = {"nmgd": "ngd", "signum": "signgd", "muon": "spectral_gd"}
        ratios = {m: wide[m] / wide[plain] for m, plain in pairs.items()}
        return self.claim(
            preset,
            "momentum changes the own-norm margin by less than a quarter: NMGD / NGD, Signum / SignGD, Muon / Spectral-GD",
            source="Gronich and Vardi, arXiv 2602.16340, Figure 1",
            kind="paper",
            measured=", ".join(mean_and_spread(r) for r in ratios.values()),
            expected="negligible",
            tolerance="mean ratios within 0.25 of 1",
            holds=all(abs(r.mean() - 1) < 0.25 for r in ratios.values()),
        )


def number(value: float) -> str:
    """Two significant digits below a tenth, two decimals above: ``0.83``, ``0.013``, ``2e-4``."""
    if not np.isfinite(value):
        return ""
    if value == 0 or abs(value) >= 0.1:
        text = f"{value:.2f}"
    elif abs(value) >= 1e-3:
        text = f"{value:.2g}"
    else:
        text = f"{value:.0e}".replace("e-0", "e-")
    return text.replace("-", "\N{MINUS SIGN}") if value < 0 else text
