"""Two linear layers on identity inputs: which optimizers reach the maximum margins that are known in closed form?"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from numpy.typing import NDArray

from implicit_bias.analysis.runs import Run, numbers
from implicit_bias.core.arrays import read_arrays
from implicit_bias.figures.base import FIGURES, Figure, PerPreset, Preset, one_line
from implicit_bias.figures.claims import Claim, Finding
from implicit_bias.plotting.style import legend_below, log_axis, optimizer_look, panels

NGD, SPECTRAL_GD, MUON, SIGNGD = METHODS = ("ngd", "spectral_gd", "muon", "signgd")
#: Classes and samples of each; the first is drawn, NGD alone runs on the others.
SIZES = ((4, 3), (8, 2))
STEPS = PerPreset(smoke=200, default=5000, paper=100_000)
SEEDS = PerPreset(smoke=1, default=3, paper=10)
#: Of the claims: how near NGD is to the optima (relative), how far it has collapsed, and by how much the others end below it.
NEAR, COLLAPSED, BELOW = {"l2": 1e-4, "spectral": 1e-3}, 0.02, 0.01
#: Of one less a ratio, six digits of which are kept.
LEAST_SHOWN = 3e-6


@FIGURES.register
class NeuralCollapse(Figure):
    """NGD reaches the l2 optimum of a network to four digits, and with it the spectral one, which Muon is far from."""

    name = "neural_collapse"
    headline = "in Muon's own norm"
    order = 220
    title = "Neural collapse: networks whose maximum margin is known"
    kind = "derived"
    source = "derived here: a closed form for the unconstrained features model of neural collapse"
    minutes = PerPreset(smoke=0.1, default=0.5, paper=2.0)
    records_a_decade = 6

    def setting(self, preset: Preset) -> str:
        (k, each), *_ = SIZES
        return (
            f"{SEEDS.at(preset)} seeds; identity inputs, {k} classes of {each}, two linear layers, width 16,"
            f" lr=auto, {STEPS.at(preset):,} steps"
        )

    def caption(self, preset: Preset) -> str:
        (k, each), *_ = SIZES
        return one_line(f"""
            Two linear layers (width 16) on identity inputs, {k} classes of {each} samples, {SEEDS.at(preset)} seeds (seeds 1 to
            {SEEDS.at(preset)}), cross entropy. (a), (b) What is missing to the maximum margin in the spectral norm (largest of
            the two layers), 1 / sqrt({each}), and in l2, 1 / (2 ({k} - 1) sqrt({each})), both in closed form. (c) Variability
            within classes: the share of the features' size that is not their class means'. Thin: every seed; thick: medians.
        """)

    def sweeps(self, preset: Preset) -> list[list[str]]:
        size = [f"experiment={self.name}", f"steps={STEPS.at(preset)}", f"seed=range(1,{SEEDS.at(preset) + 1})"]
        first, *others = SIZES
        return [
            [*size, *_words(*first), f"optimizer={','.join(METHODS)}"],
            *([*size, *_words(*sizes), f"optimizer={NGD}"] for sizes in others),
        ]

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """method, k, each, seed, step, norm, margin, ratio, spread, angle: the last two of the features, alike for both norms."""
        parts = []
        for run in runs:
            data, features = run.spec.dataset.load(), _features(run)
            collapse = pd.DataFrame(
                {step: collapse_of(h, data.y) for step, h in features.items()}, index=["spread", "angle"]
            ).T.rename_axis("step")
            rows = run.trajectory[run.trajectory["norm"].isin(["l2", "spectral"]) & (run.trajectory["step"] > 0)]
            found = rows[["seed", "step", "norm", "margin"]].assign(ratio=rows["margin"] / rows["max_margin"])
            sizes = {"k": data.num_classes, "each": int((data.y == 0).sum())}
            parts.append(found.assign(method=run.spec.optimizer.name, **sizes).join(collapse, on="step"))
        return pd.concat(parts, ignore_index=True)

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        figure, axes = panels(1, 3, height=2.6)
        k, each = SIZES[0]
        shown = table[(table["k"] == k) & (table["each"] == each)]
        spectral, l2 = (shown[shown["norm"] == norm] for norm in ("spectral", "l2"))
        for method in METHODS:
            for axis, rows, column in zip(
                axes[0], (_missing(spectral), _missing(l2), l2), ("missing", "missing", "spread"), strict=True
            ):
                _draw(axis, rows[rows["method"] == method], column, method)
        titles = ("spectral margin", r"$\ell_2$ margin", "collapse")
        labels = ("1 - margin / maximum", "1 - margin / maximum", "spread within classes")
        for axis, letter, title, label in zip(axes[0], "abc", titles, labels, strict=True):
            axis.set_title(f"({letter}) {title}", loc="left")
            axis.set(xlabel="step $t$", ylabel=label)
            log_axis(axis, "x")
            log_axis(axis, "y")
        for axis in axes[0, :2]:
            axis.set_ylim(bottom=max(LEAST_SHOWN, axis.get_ylim()[0]), top=1)
        legend_below(figure, [optimizer_look(method).handle() for method in METHODS])
        return figure

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        if preset == "smoke":
            return []
        last = _ends(table)
        return [
            *(self._reached(last, norm, preset) for norm in ("l2", "spectral")),
            self._collapsed(last, preset),
            self._below(last, preset),
        ]

    def _reached(self, last: Any, norm: str, preset: Preset) -> Claim:
        words = {"l2": "1 / (2 (k - 1) sqrt(n_c))", "spectral": "1 / sqrt(n_c), though it is not the norm it descends in"}[norm]
        found = [last.loc[(k, each, norm, NGD), "margin"] for k, each in SIZES]
        wanted = [each**-0.5 / (2 * (k - 1) if norm == "l2" else 1) for k, each in SIZES]
        away = [float((margins / best - 1).abs().max()) for margins, best in zip(found, wanted, strict=True)]
        named = ", ".join(f"{k} classes of {each}" for k, each in SIZES)
        return self.claim(
            preset,
            f"NGD reaches the maximum {norm} margin of the network, {words}: {named}, means",
            expected=numbers(wanted, 5),
            measured=numbers([margins.mean() for margins in found], 5),
            tolerance=f"{NEAR[norm]:.0e} relative on every seed",
            holds=max(away) <= NEAR[norm],
            source="derived here, in implicit_bias/solvers/formulas",
            kind="derived",
            setting=self.setting(preset).replace("{} classes of {}".format(*SIZES[0]), named),
        )

    def _collapsed(self, last: Any, preset: Preset) -> Claim:
        rows = last.loc[(*SIZES[0], "l2", NGD)]
        return self.claim(
            preset,
            "features collapse under NGD, to their class means, and these to a simplex: spread within classes, and the largest"
            " distance of a cosine of two centred means from -1 / (k - 1); largest of all seeds",
            expected="0 / 0",
            measured=numbers([rows["spread"].max(), rows["angle"].max()], 4),
            tolerance=f"{COLLAPSED:g}",
            holds=bool(rows[["spread", "angle"]].max().max() <= COLLAPSED),
            source="Papyan, Han and Donoho, arXiv 2008.08186 (NC1, NC2)",
            kind="paper",
        )

    def _below(self, last: Any, preset: Preset) -> Claim:
        ratios = {method: last.loc[(*SIZES[0], "spectral", method), "ratio"] for method in (NGD, SPECTRAL_GD, MUON)}
        return self.claim(
            preset,
            "spectral descent and Muon end below NGD in Muon's own norm after as many steps: spectral ratio of NGD, spectral"
            " descent and Muon, means",
            measured=numbers([ratio.mean() for ratio in ratios.values()], 4),
            tolerance=f"below NGD by {BELOW:g} on every seed",
            holds=all(bool((ratios[method] <= ratios[NGD] - BELOW).all()) for method in (SPECTRAL_GD, MUON)),
            reason="their gaps are larger than NGD's on every seed, but go on falling: after more steps those of some seeds are"
            " within the tolerance",
            source="this project's own check",
            kind="check",
        )

    def findings(self, table: pd.DataFrame, preset: Preset) -> list[Finding]:
        if preset == "smoke":
            return []
        last = _ends(table)
        ratios, spreads = (
            [last.loc[(*SIZES[0], "spectral", method), column].mean() for method in (NGD, MUON)] for column in ("ratio", "spread")
        )
        return [
            Finding(
                "NGD comes to the optimum of Muon's own norm, Muon does not",
                "On two linear layers with free features one and the same network, that of neural collapse, has the maximum"
                " margin in l2 and in the spectral norm. NGD goes there. Muon, whose norm is the spectral one, is far from it"
                " after as many steps: its gap still falls, slowly, and its features keep their variability within classes.",
                f"after {STEPS.at(preset):,} steps, NGD and Muon: spectral ratio {numbers(ratios, 4)}, spread within classes"
                f" {numbers(spreads, 4)}",
            )
        ]


def _ends(table: pd.DataFrame) -> Any:
    """The last records by k, each, norm, method and seed."""
    return table[table["step"] == table["step"].max()].set_index(["k", "each", "norm", "method", "seed"]).sort_index()


def collapse_of(features: NDArray[np.float64], y: NDArray[np.int64]) -> tuple[float, float]:
    """How far features are from neural collapse.

    Args:
        features: H, a column a sample, (m, n).
        y: Labels (n,).

    Returns:
        |H - class means|_F / |H|_F, and the largest |cos(mean_a - mean, mean_b - mean) + 1 / (k - 1)| over pairs of classes.
    """
    k = int(y.max()) + 1
    means = np.stack([features[:, y == c].mean(axis=1) for c in range(k)], axis=1)
    spread = np.linalg.norm(features - means[:, y]) / np.linalg.norm(features)
    centred = means - means.mean(axis=1, keepdims=True)
    unit = centred / np.linalg.norm(centred, axis=0)
    cosines = [float(unit[:, a] @ unit[:, b]) for a, b in itertools.combinations(range(k), 2)]
    return float(spread), float(np.abs(np.array(cosines) + 1 / (k - 1)).max())


def _features(run: Run) -> dict[int, NDArray[np.float64]]:
    """W_1, whose columns are the features of the samples, at every record."""
    path = Path(run.folder or "") / "final.npz"
    arrays = read_arrays(path, str(path), ["steps", "layer1_all"])
    return {int(step): h.astype(float) for step, h in zip(arrays["steps"], arrays["layer1_all"], strict=True)}


def _words(k: int, each: int) -> list[str]:
    return [f"dataset.num_classes={k}", f"dataset.samples_per_class={each}"]


def _missing(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(missing=1 - rows["ratio"])


def _draw(axis: Axes, rows: pd.DataFrame, column: str, method: str) -> None:
    """Every seed thin, the median over seeds thick."""
    look = optimizer_look(method)
    for _, curve in rows.groupby("seed"):
        axis.plot(curve["step"], curve[column], color=look.color, lw=0.5, alpha=0.4)
    median = rows.groupby("step")[column].median()
    axis.plot(median.index, median, **look.plot([len(median) * share // 5 for share in range(1, 5)]))
