"""How far each optimizer's steps are from the gradient, and in which metric they are natural gradient descent."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from implicit_bias.analysis.runs import Run, numbers
from implicit_bias.figures.base import FIGURES, Figure, PerPreset, Preset, one_line
from implicit_bias.figures.claims import Claim, Finding
from implicit_bias.figures.natural.metrics import (
    DISCRETE,
    FOLLOWED,
    GAUSSIAN,
    LARGE,
    METRIC,
    POINTS,
    SMALL,
    discrete_rows,
    gaussian_rows,
    metric_rows,
)
from implicit_bias.plotting.explorer import STEP, Explorer, Quantity
from implicit_bias.plotting.style import legend_below, log_axis, log_spaced, optimizer_look, panels

RUN = "run"
CLASSES, DIM = 5, 15
DATA = f"a Gaussian mixture ({CLASSES} classes, {DIM} features, 10 samples a class, noise 1)"
RANK, ENTRIES = CLASSES - 1, CLASSES * DIM
#: Methods, with the least cosine that the norm of their steps allows: N_*(g) / (|g| |direction|); 0: there is none.
LEAST = {
    "gd": 1.0,
    "ngd": 1.0,
    "nmgd": 0.0,
    "signgd": ENTRIES**-0.5,
    "signum": 0.0,
    "adam": 0.0,
    "spectral_gd": RANK**-0.5,
    "muon": 0.0,
    "nucgd": RANK**-0.5,
    "coordinate_descent": ENTRIES**-0.5,
    "row_gd": CLASSES**-0.5,
}
#: Cosine and condition number of one step with a Gaussian gradient of 64 x 32, from an earlier computation of this project.
KNOWN = {"l2": (1.0, 1.0), "linf": (0.80, 3.99), "spectral": (0.93, 2.18), "nuclear": (0.285, 47.0)}
STEPS = PerPreset(smoke=100, default=10_000, paper=100_000)
SEEDS = PerPreset(smoke=1, default=5, paper=20)
PROBLEMS = PerPreset(smoke=3, default=50, paper=200)
TRIED = PerPreset(smoke=50, default=300, paper=2000)
DRAWN = PerPreset(smoke=10, default=100, paper=400)


@FIGURES.register
class NaturalGradient(Figure):
    """Every step that descends is natural gradient descent in some metric; its least condition number is that of an angle."""

    name = "natural_gradient"
    headline = "closed form"
    order = 150
    title = "The angle between steps and gradients, and the margin"
    source = "Shoji, Suzuki and Kozachkov, arXiv 2409.16422"
    kind = "theorem"
    paper = "natural"
    minutes = PerPreset(smoke=0.1, default=0.4, paper=1.0)

    def setting(self, preset: Preset) -> str:
        return f"{SEEDS.at(preset)} seeds of {DATA}; linear model, full batch, {STEPS.at(preset):,} steps"

    def caption(self, preset: Preset) -> str:
        return one_line(f"""
            {SEEDS.at(preset)} seeds of {DATA}, linear model, full batch, schedule.lr=auto (GD at its constant step, all others
            t^-1/2), geometric mean over seeds. Left: the least condition number of a metric in which the step is natural
            gradient descent, (1 + sin psi) / (1 - sin psi), psi being the angle between the step and the negative gradient where
            it was made; 1 is steepest descent in l2, GD and NGD lie there. Right: the margin in each method's own norm over its
            certified optimum (mean over seeds).
        """)

    def sweeps(self, preset: Preset) -> list[list[str]]:
        size = [f"experiment={self.name}", f"steps={STEPS.at(preset)}", f"seed=range(1,{SEEDS.at(preset) + 1})"]
        return [[*size, f"optimizer={method}"] for method in LEAST]

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """Rows of four parts, told by ``part``. run: method, seed, step, cos_psi, metric_condition, ratio in the own norm.

        The others are described in :mod:`implicit_bias.figures.natural.metrics`; they have columns x, y and value.
        """
        parts = [_trajectory(run) for run in runs]
        parts += [metric_rows(PROBLEMS.at(preset), TRIED.at(preset)), gaussian_rows(DRAWN.at(preset))]
        return pd.concat([*parts, discrete_rows(DRAWN.at(preset))], ignore_index=True)

    def explorer(self, table: pd.DataFrame) -> Explorer:
        rows = table[table["part"] == RUN]
        looks = {method: optimizer_look(method) for method in LEAST}
        quantities = (
            Quantity("metric_condition", "least condition number", log=True),
            Quantity("cos_psi", "cosine of step and gradient"),
            Quantity("ratio", "margin / maximum, own norm"),
        )
        return Explorer(rows, "method", looks, (STEP,), quantities)

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        rows = table[(table["part"] == RUN) & (table["step"] > 0)]
        figure, axes = panels(1, 2, height=2.9)
        left, right = axes[0]
        self._draw_conditions(left, rows)
        self._draw_ratios(right, rows)
        looks = [optimizer_look(method) for method in LEAST]
        legend_below(figure, [look.handle() for look in looks], ncols=6)
        return figure

    def _draw_conditions(self, axis: Axes, rows: pd.DataFrame) -> None:
        finite = rows[np.isfinite(rows["metric_condition"])]
        logs = finite.assign(log=np.log(finite["metric_condition"])).groupby(["method", "step"])["log"].mean()
        for method in LEAST:
            curve = np.exp(logs[method])
            axis.plot(curve.index, curve, **optimizer_look(method).plot(log_spaced(curve.index, 6)))
        axis.set(xlabel="step", ylabel="least condition number", title="Metric of each step")
        log_axis(axis, "x")
        log_axis(axis, "y")

    def _draw_ratios(self, axis: Axes, rows: pd.DataFrame) -> None:
        for method in LEAST:
            curve = rows[rows["method"] == method].groupby("step")["ratio"].mean()
            axis.plot(curve.index, curve, **optimizer_look(method).plot(log_spaced(curve.index, 6)))
        axis.set(xlabel="step", ylabel="margin / maximum margin", title="Margin in the method's own norm", ylim=(-0.02, 1.02))
        log_axis(axis, "x")

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        if preset == "smoke":
            return []
        rows = table[table["part"] == RUN]
        return [
            *self._metric_claims(table[table["part"] == METRIC], preset),
            self._discrete_claim(table[table["part"] == DISCRETE], preset),
            self._plain_claim(rows, preset),
            self._descent_claim(rows, preset),
            self._least_claim(rows, preset),
            *self._gaussian_claims(table[table["part"] == GAUSSIAN], preset),
            self.not_testable(
                preset,
                "the same holds in continuous time, with losses that change and with stochastic gradients; feedback alignment and"
                " a stable linear system are examples",
                "runs here are full batches of one loss in discrete time, and no model here has feedback of its own",
            ),
        ]

    def _metric_claims(self, rows: pd.DataFrame, preset: Preset) -> list[Claim]:
        where = f"{len(rows)} random gradients and descending steps of {SMALL[0]} x {SMALL[1]}"
        apart = (rows["x"] / rows["y"] - 1).abs().max()
        least = (rows["value"] / rows["x"]).min()
        closed = self.claim(
            preset,
            "closed form: by its eigenvalues the best metric has condition (1 + sin psi) / (1 - sin psi); relative difference",
            measured=f"at most {apart:.0e}",
            expected="0",
            tolerance="<= 1e-5, the digits of the table",
            holds=apart <= 1e-5,
            setting=where,
        )
        best = self.claim(
            preset,
            "no metric in which the step is natural gradient descent has a smaller condition: least of random ones over it",
            measured=f"{least:.3g}",
            expected=">= 1",
            tolerance=">= 1",
            holds=least >= 1,
            setting=f"{where}, {TRIED.at(preset):,} random metrics each",
        )
        return [closed, best]

    def _discrete_claim(self, rows: pd.DataFrame, preset: Preset) -> Claim:
        fell, exists = rows["x"] > 0, np.isfinite(rows["value"])
        apart = (rows["x"] - rows["y"]).abs().max()
        return self.claim(
            preset,
            "with the gradient averaged along the step there is a metric exactly where the loss fell",
            measured=f"{int((fell == exists).sum())} of {len(rows)} steps, of which {int(fell.sum())} fell; <ybar, step> is the"
            f" decrease to {apart:.0e}",
            expected="all",
            tolerance="all; 1e-4",
            holds=bool((fell == exists).all()) and apart <= 1e-4,
            setting=f"random steps from random points of a linear model with cross entropy, {POINTS} points of each step",
        )

    def _plain_claim(self, rows: pd.DataFrame, preset: Preset) -> Claim:
        plain = rows[rows["method"].isin([method for method, least in LEAST.items() if least == 1])]
        worst = float((plain["metric_condition"] - 1).abs().max())
        return self.claim(
            preset,
            "GD and NGD are natural gradient descent in the Euclidean metric: their condition number less 1",
            measured=f"at most {worst:.0e}",
            expected="0",
            tolerance="<= 1e-9",
            holds=worst <= 1e-9,
        )

    def _descent_claim(self, rows: pd.DataFrame, preset: Preset) -> Claim:
        later = rows[rows["step"] > 0]
        least = later.groupby("method")["cos_psi"].min()
        return self.claim(
            preset,
            "full batch: every recorded step of every method descends, cos psi > 0, momentum or not",
            kind="check",
            measured=f"{int((later['cos_psi'] <= 0).sum())} of {len(later)} do not; least {least.min():.3f} ({least.idxmin()})",
            tolerance="none",
            holds=bool((later["cos_psi"] > 0).all()),
            source="this project's own check",
        )

    def _least_claim(self, rows: pd.DataFrame, preset: Preset) -> Claim:
        bounded = [method for method, least in LEAST.items() if 0 < least < 1]
        shares = [float(rows[rows["method"] == method]["cos_psi"].min() / LEAST[method]) for method in bounded]
        return self.claim(
            preset,
            "cos psi is never below the least that the norm of the step allows, 1/sqrt(k d) for sign and coordinate steps, 1/sqrt"
            f" of the rank for spectral and nuclear ones, 1/sqrt(k) for rows: least cosine over it ({', '.join(bounded)})",
            kind="derived",
            measured=numbers(shares, 2),
            tolerance=">= 1",
            holds=min(shares) >= 1 - 1e-5,
            source="derived here from norm inequalities",
        )

    def _gaussian_claims(self, rows: pd.DataFrame, preset: Preset) -> list[Claim]:
        mean = rows.groupby("method")[["x", "y"]].mean().loc[list(FOLLOWED)]
        where = f"one step of steepest descent in {', '.join(FOLLOWED)} at a Gaussian gradient of {LARGE[0]} x {LARGE[1]}"
        return [
            self.near(
                preset,
                f"{where}: cosine",
                list(mean["x"]),
                [c for c, _ in KNOWN.values()],
                0.01,
                kind="check",
                source="this project's own check",
            ),
            self.near(
                preset,
                f"{where}: condition",
                list(mean["y"]),
                [k for _, k in KNOWN.values()],
                0.1,
                kind="check",
                relative=True,
                source="this project's own check",
            ),
            self.near(
                preset,
                "the sign of a Gaussian gradient has cosine sqrt(2 / pi) with it",
                [float(mean["x"]["linf"])],
                [math.sqrt(2 / math.pi)],
                0.005,
                kind="derived",
                source="derived here",
            ),
        ]

    def findings(self, table: pd.DataFrame, preset: Preset) -> list[Finding]:
        if preset == "smoke":
            return []
        rows = table[table["part"] == RUN]
        last = rows[rows["step"] == rows["step"].max()].groupby("method")[["cos_psi", "ratio"]].mean()
        return [
            Finding(
                "The angle to the gradient is no measure of how well a margin is maximised",
                "Methods whose steps are far from the gradient reach their own norm's optimum as those do that follow it.",
                "; ".join(f"{method}: cos {row['cos_psi']:.2f}, ratio {row['ratio']:.3f}" for method, row in last.iterrows()),
            )
        ]


def _trajectory(run: Run) -> pd.DataFrame:
    rows = run.trajectory[run.trajectory["norm"] == run.spec.working_norm.label]
    shown = {name: rows[name] for name in ("seed", "step", "cos_psi", "metric_condition")}
    return pd.DataFrame({"part": RUN, "method": run.spec.optimizer.name, **shown, "ratio": rows["margin"] / rows["max_margin"]})
