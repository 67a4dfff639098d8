"""A reconstruction of Infinite Descent: the evaluations that one step hides, how often it arrives, and separable data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from implicit_bias.analysis.runs import Run, last_rows, numbers
from implicit_bias.figures.base import FIGURES, Figure, PerPreset, Preset, one_line, one_thread
from implicit_bias.figures.claims import Claim
from implicit_bias.figures.infinite.reconstruction import (
    NEAR,
    SOLVED,
    Arrived,
    infinite_descent,
    logistic,
    neuron,
    newton_cg,
    starts,
    steepest_descent,
)
from implicit_bias.plotting.style import DASHED, DOTTED, Look, legend_below, log_axis, panels

INFINITE, NEWTON, STEEPEST = "infinite_descent", "newton_cg", "steepest_descent"
DRAWS = ("near", "wide")
MARGIN = "margin"
LOOKS = {
    INFINITE: Look("infinite descent (reconstruction), one step", "#D55E00", "o"),
    NEWTON: Look("Newton-CG", "#0072B2", "s", DASHED),
    STEEPEST: Look("steepest descent, line search", "#000000", "^", DOTTED),
}
SEEDS = PerPreset(smoke=1, default=3, paper=10)
STARTS = PerPreset(smoke=3, default=20, paper=50)
STEPS = PerPreset(smoke=50, default=1000, paper=10_000)
DATA = "a Gaussian mixture (2 classes, 10 features, 10 samples a class, noise 1)"
#: Of the claims: evaluations that a single one of would be a step as other methods count.
ONE = 1


@FIGURES.register
class InfiniteDescent(Figure):
    """One step of Infinite Descent, as reconstructed, is an inner search; Newton's method arrives more often."""

    name = "infinite_descent"
    headline = "is reached in one outer step"
    order = 190
    title = "Infinite Descent, a reconstruction: evaluations behind the one step"
    source = "reconstruction from the abstract of Batley and Saha, arXiv 2510.05489; the network is guessed"
    kind = "paper"
    paper = "infinite"
    minutes = PerPreset(smoke=0.1, default=0.2, paper=2.0)

    def setting(self, preset: Preset) -> str:
        return one_line(f"""
            reconstruction: u = A exp(alpha x) sin(omega x + phi) on 60 points of [0, 2], mean square loss, data of the neuron
            (1.5, -0.5, 3, 0.4); {STARTS.at(preset)} starts a draw, draws of seeds 1 to {SEEDS.at(preset)}; arrived where
            L < {SOLVED:g}
        """)

    def caption(self, preset: Preset) -> str:
        return one_line(f"""
            A reconstruction: of the paper only the abstract could be read, and the neuron u = A exp(alpha x) sin(omega x + phi)
            is a guess from the names of its parameters. A step solves grad L(theta + Delta) = 0, here by Levenberg's and
            Marquardt's method from Delta = 0. Share of starts that have arrived (L < {SOLVED:g}) by evaluations of gradients and
            Hessians, {STARTS.at(preset)} starts for each of seeds 1 to {SEEDS.at(preset)}: within {NEAR:.0%} of the true
            parameters (left), and within (.6, .5, .8, .6) of them (right). Infinite descent takes one step in all of them, the
            curve shows what its inner search costs.
        """)

    def sweeps(self, preset: Preset) -> list[list[str]]:
        # The runs bring separable data, their certified optimum and what normalised gradient descent makes of them.
        return [[f"experiment={self.name}", f"steps={STEPS.at(preset)}", f"seed=range(1,{SEEDS.at(preset) + 1})"]]

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """part, method, seed, start, steps, evaluations, value.

        near and wide: value is L where the method ended. margin: value is the l2 margin over its certified maximum.
        """
        with one_thread():
            fitted = [row for seed in range(1, SEEDS.at(preset) + 1) for row in _fitted(seed, STARTS.at(preset))]
            return pd.DataFrame([*fitted, *(row for run in runs for row in _separable(run))])

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        figure, axes = panels(1, len(DRAWS), height=2.6, sharey=True)
        for axis, draw in zip(axes[0], DRAWS, strict=True):
            _draw_arrivals(axis, table[table["part"] == draw])
            axis.set_title(f"starts near the truth (within {NEAR:.0%})" if draw == "near" else "starts further away")
        axes[0, 0].set_ylabel("share of starts that arrived")
        legend_below(figure, [look.handle(marker=False) for look in LOOKS.values()], ncols=3)
        return figure

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        if preset == "smoke":
            return []
        return [
            self._one_step(table, preset),
            self._hidden(table, preset),
            self._newton_arrives(table, preset),
            self._newton_cheaper(table, preset),
            self._margin(table, preset),
            self.not_testable(
                preset,
                "a network of the paper's class reaches its optimum in a single descent step",
                "only the abstract could be read: neither the network nor the equation that is solved is known",
                expected="one step",
            ),
        ]

    def _one_step(self, table: pd.DataFrame, preset: Preset) -> Claim:
        arrived = _arrived(table, "near", INFINITE)
        return self.claim(
            preset,
            "reconstruction: from every start near the truth the optimum is reached in one outer step: starts that arrive",
            measured=f"{int(arrived.sum())} of {len(arrived)}",
            expected="one step, in a simple test problem",
            tolerance="all",
            holds=bool(arrived.all()),
            reason="from the others the inner search ends at another root of the gradient, or at none",
        )

    def _hidden(self, table: pd.DataFrame, preset: Preset) -> Claim:
        counts = _evaluations(table, "near", INFINITE)
        return self.claim(
            preset,
            "reconstruction: the one step hides an inner search: evaluations of gradients and Hessians where it arrives, least,"
            " median and most",
            measured=f"{counts.min():.0f} / {counts.median():.0f} / {counts.max():.0f}",
            tolerance=f"> {ONE}",
            holds=bool(counts.min() > ONE),
            source="this project's reconstruction",
            kind="check",
        )

    def _newton_arrives(self, table: pd.DataFrame, preset: Preset) -> Claim:
        ours, newtons = (_arrived(table, "wide", method) for method in (INFINITE, NEWTON))
        return self.claim(
            preset,
            "reconstruction: from starts further away Newton-CG, which has the loss to go by, arrives more often",
            measured=f"{int(newtons.sum())} against {int(ours.sum())} of {len(ours)}",
            expected="20 against 13 of 20",
            tolerance="more",
            holds=int(newtons.sum()) > int(ours.sum()),
            source="this project's reconstruction",
            kind="check",
        )

    def _newton_cheaper(self, table: pd.DataFrame, preset: Preset) -> Claim:
        told, cheaper = [], True
        for draw in DRAWS:
            ours, newtons = (_evaluations(table, draw, method).median() for method in (INFINITE, NEWTON))
            told.append(f"{newtons:.0f} against {ours:.0f}")
            cheaper = cheaper and newtons <= ours
        return self.claim(
            preset,
            "reconstruction: Newton-CG asks for no more gradients and Hessians where both arrive: medians near, and further away",
            measured=", ".join(told),
            tolerance="no more",
            holds=bool(cheaper),
            source="this project's reconstruction",
            kind="check",
        )

    def _margin(self, table: pd.DataFrame, preset: Preset) -> Claim:
        rows = table[table["part"] == MARGIN].pivot(index="seed", columns="method", values="value")
        return self.claim(
            preset,
            "on separable data the gradient has no root; the search for one runs off, and the l2 margin where it stops is below"
            " that of normalised gradient descent, in every seed: ratios (search; NGD)",
            measured=f"{numbers(rows[INFINITE].to_numpy())}; {numbers(rows['ngd'].to_numpy())}",
            tolerance="below",
            holds=bool((rows[INFINITE] < rows["ngd"]).all()),
            source="this project's reconstruction",
            kind="check",
            setting=f"seeds 1 to {SEEDS.at(preset)} of {DATA}; linear model from zero, logistic loss, NGD with"
            f" {STEPS.at(preset):,} steps",
        )


def _fitted(seed: int, count: int) -> Iterator[dict[str, object]]:
    fit = neuron()
    for place, (draw, start) in enumerate(starts(seed, count)):
        found: dict[str, Arrived] = {
            INFINITE: infinite_descent(fit.gradient, fit.hessian, start),
            NEWTON: newton_cg(fit, start),
            STEEPEST: steepest_descent(fit, start),
        }
        for method, end in found.items():
            yield {"part": draw, "method": method, "seed": seed, "start": place, "steps": end.steps,
                   "evaluations": end.evaluations, "value": fit.loss(end.theta)}  # fmt: skip


def _separable(run: Run) -> Iterator[dict[str, object]]:
    data = run.spec.dataset.load()
    z = (2 * data.y - 1)[:, None] * data.x
    end = infinite_descent(*logistic(z), np.zeros(z.shape[1]))
    last = last_rows(run.trajectory).set_index("norm")
    # Class scores +-<w, x> / 2 have the gap <w, x>, and Frobenius norm |w| / sqrt(2).
    margin = float((z @ end.theta).min() / np.linalg.norm(end.theta) * np.sqrt(2))
    rows = {INFINITE: (1, end.evaluations, margin), "ngd": (run.spec.steps, run.spec.steps, float(last["margin"]["l2"]))}
    for method, (steps, evaluations, value) in rows.items():
        yield {"part": MARGIN, "method": method, "seed": run.spec.seed, "start": 0, "steps": steps, "evaluations": evaluations,
               "value": value / float(last["max_margin"]["l2"])}  # fmt: skip


def _of(table: pd.DataFrame, draw: str, method: str) -> pd.DataFrame:
    return table[(table["part"] == draw) & (table["method"] == method)]


def _arrived(table: pd.DataFrame, draw: str, method: str) -> pd.Series:
    found: pd.Series = _of(table, draw, method)["value"] < SOLVED
    return found


def _evaluations(table: pd.DataFrame, draw: str, method: str) -> pd.Series:
    """Of the starts that arrive."""
    found: pd.Series = _of(table, draw, method)["evaluations"][_arrived(table, draw, method)]
    return found


def _draw_arrivals(axis: Axes, rows: pd.DataFrame) -> None:
    last = 3 * rows["evaluations"][rows["value"] < SOLVED].max()
    for method, look in LOOKS.items():
        mine = rows[rows["method"] == method]
        counts = np.sort(mine["evaluations"][mine["value"] < SOLVED].to_numpy())
        shares = np.arange(1, len(counts) + 1) / len(mine)
        ends = shares[-1] if len(shares) else 0.0
        axis.step([1, *counts, last], [0, *shares, ends], where="post", lw=1.8, **look.plot())
    axis.set_xlim(1, last)
    axis.set_ylim(0, 1.03)
    log_axis(axis, "x")
    axis.set_xlabel("evaluations of gradients and Hessians")
