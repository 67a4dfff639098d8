"""Accelerated steepest descent in l_p: its theorem, where it gains, where it does not, and which margin it leads to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from implicit_bias.analysis.runs import Run, last_rows, numbers
from implicit_bias.datasets import Dataset
from implicit_bias.engine.record_times import record_steps
from implicit_bias.figures.acceleration.algorithm import Iterate, accelerated, bounds, hasd, steepest_descent
from implicit_bias.figures.acceleration.problems import Problem, classification, largest_residual, quadratic
from implicit_bias.figures.base import FIGURES, Figure, PerPreset, Preset, one_line, one_thread
from implicit_bias.figures.claims import Claim
from implicit_bias.figures.papers import MIXTURE
from implicit_bias.norms import make_norm
from implicit_bias.plotting.style import DASHED, DOTTED, GREY, Look, legend_below, log_axis, norm_look, panels

QUADRATIC, CONTROL, MARGIN = "quadratic", "control", "margin"
AGD, DESCENT = "agd", "descent"
#: Norms of HASD in the theorem's panels.
NORMS = ("l2", "lp4", "lp8", "linf")
#: The norm in which separable data are descended on, and those whose margins are looked at.
FOLLOWED, MEASURED = "lp8", ("l2", "lp4", "lp8")
LOOKS = {
    AGD: Look("AGD", "#000000", "p", DASHED),
    "l2": Look("HASD, $p=2$", "#E69F00", "o"),
    "lp4": Look("HASD, $p=4$", "#CC79A7", "^"),
    "lp8": Look("HASD, $p=8$", "#009E73", "D"),
    "linf": Look(r"HASD, $p=\infty$", "#0072B2", "s"),
    DESCENT: Look("steepest descent, p = 8", "#8C510A", "P", DOTTED),
}
MARGIN_COLORS = {"l2": norm_look("l2").color, "lp4": "#CC79A7", "lp8": "#009E73"}
DIM = PerPreset(smoke=40, default=400, paper=400)
ROWS = PerPreset(smoke=20, default=200, paper=200)
STEPS = PerPreset(smoke=60, default=600, paper=600)
LONG = PerPreset(smoke=100, default=4000, paper=40_000)
SEEDS = PerPreset(smoke=1, default=5, paper=10)
DATA_SEEDS = PerPreset(smoke=1, default=3, paper=10)
#: Records of a curve.
POINTS = 40
GAIN = 100


@FIGURES.register
class Hasd(Figure):
    """HASD in l_p keeps its theorem's bound, and gains on acceleration in l2 where smoothness in l_p is hardly larger."""

    name = "hasd"
    headline = "the gap never exceeds"
    order = 160
    title = r"Accelerated steepest descent in $\ell_p$ (HASD)"
    source = "Bai and Bullins, arXiv 2409.19200"
    kind = "theorem"
    paper = "acceleration"
    minutes = PerPreset(smoke=0.1, default=0.5, paper=3.0)

    def setting(self, preset: Preset) -> str:
        return one_line(f"""
            f = sum lambda_j (x_j - x*_j)^2 / 2 with d = {DIM.at(preset)}, lambda = (1, 1/d, ..., 1/d), x* ~ N(0, 1/d), x_0 = 0;
            {SEEDS.at(preset)} seeds, {STEPS.at(preset)} iterations
        """)

    def caption(self, preset: Preset) -> str:
        return one_line(f"""
            (a) A quadratic in {DIM.at(preset)} dimensions whose smoothness in l_p hardly depends on p: f - f* by iteration,
            {SEEDS.at(preset)} seeds (thin) and their geometric mean. (b) The same gaps over the bound of the theorem,
            324 L |x_0 - x*|^2 / (G T)^2; at one, dotted, it would be attained. (c) A smooth largest residual
            ({ROWS.at(preset)} x {2 * ROWS.at(preset)}), whose smoothness in l_p is much larger than in l2. (d) Separable data
            ({MIXTURE}, {DATA_SEEDS.at(preset)} seeds, linear model, cross entropy): margins over their certified maxima, HASD
            with p = 8 (lines) and steepest descent in l8 (dotted). Every iteration of HASD asks for 2 to 4 gradients, of the
            others for one.
        """)

    def sweeps(self, preset: Preset) -> list[list[str]]:
        # The runs bring the data and the certified optima.
        return [[f"experiment={self.name}", f"steps={LONG.at(preset)}", f"seed=range(1,{DATA_SEEDS.at(preset) + 1})"]]

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """part, method, seed, step, value, worst, evaluations, norm.

        quadratic and control: value is f - f*, worst the largest so far of its ratio to the theorem's bound. margin: value is the
        margin in ``norm`` over its maximum, worst is empty. evaluations: gradients so far.
        """
        with one_thread():
            return pd.concat([*self._theorem(preset), *_separable(runs, LONG.at(preset))], ignore_index=True)

    def _theorem(self, preset: Preset) -> list[pd.DataFrame]:
        steps, rows, parts = STEPS.at(preset), ROWS.at(preset), []
        for seed in range(SEEDS.at(preset)):
            parts += _compared(QUADRATIC, quadratic(DIM.at(preset), seed), seed, steps, NORMS)
            parts += _compared(CONTROL, largest_residual(rows, 2 * rows, seed), seed, steps, NORMS[2:])
        return parts

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        figure, axes = panels(2, 2, height=4.9)
        _draw_curves(axes[0, 0], table[table["part"] == QUADRATIC], "value", "$f - f^*$")
        _draw_curves(
            axes[0, 1], table[(table["part"] == QUADRATIC) & (table["method"] != AGD)], "worst", "largest gap / bound so far"
        )
        axes[0, 1].axhline(1, color=GREY, lw=0.9, ls=":")
        axes[0, 1].set_ylim(top=2)
        _draw_curves(axes[1, 0], table[table["part"] == CONTROL], "value", "$f - f^*$")
        _draw_margins(axes[1, 1], table[table["part"] == MARGIN])
        titles = (
            "quadratic",
            "the theorem's bound",
            "control: smoothness grows with p",
            "margins, p = 8 (dotted: not accelerated)",
        )
        for axis, letter, title in zip(axes.flat, "abcd", titles, strict=True):
            axis.set_title(f"({letter}) {title}", loc="left")
            axis.set_xlabel("iteration")
        methods = [LOOKS[method].handle() for method in (AGD, *NORMS)]
        legend_below(figure, methods)
        return figure

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        if preset == "smoke":
            return []
        known = table[table["part"] != MARGIN]
        ends = known[known["step"] == known["step"].max()].set_index(["part", "method", "seed"])["value"].sort_index()
        return [
            self._bound_claim(table, QUADRATIC, preset),
            self._bound_claim(table, CONTROL, preset),
            self._gain_claim(ends, preset),
            self._control_claim(ends, preset),
            self._margin_claim(table, preset),
            self._descent_claim(table, preset),
            self.not_testable(
                preset,
                "the rate improves on that of accelerated gradient descent by up to O(d^(1 - 2/p))",
                "a worst case over problems; the figure shows one problem on which it gains and one on which it does not",
                expected="O(d^(1 - 2/p))",
            ),
        ]

    def _bound_claim(self, table: pd.DataFrame, part: str, preset: Preset) -> Claim:
        rows = table[(table["part"] == part) & (table["method"] != AGD)]
        worst = rows.groupby("method")["worst"].max()
        return self.claim(
            preset,
            f"{part}: the gap never exceeds 324 L |x_0 - x*|^2 / (G T)^2, at every T and on every seed: largest ratio"
            f" ({', '.join(worst.index)})",
            kind="theorem",
            expected="<= 1",
            measured=numbers(worst.to_numpy(), 3),
            tolerance="<= 1",
            holds=bool((worst <= 1).all()),
            source="Bai and Bullins, arXiv 2409.19200, main theorem (p = inf: its limit)",
        )

    def _gain_claim(self, ends: pd.Series, preset: Preset) -> Claim:
        gains = (ends[QUADRATIC, AGD] / ends[QUADRATIC, "lp8"]).to_numpy()
        return self.claim(
            preset,
            f"HASD with p = 8 ends with a gap at least {GAIN} times below that of accelerated gradient descent after as many"
            " iterations, on every seed: least and median factor",
            kind="check",
            expected="1,700 on one seed",
            measured=f"{gains.min():,.0f}, {np.median(gains):,.0f}",
            tolerance=f">= {GAIN}",
            holds=bool(gains.min() >= GAIN),
            source="this project's own check: numbers of an earlier computation of it",
        )

    def _control_claim(self, ends: pd.Series, preset: Preset) -> Claim:
        factors = (ends[CONTROL, "linf"] / ends[CONTROL, AGD]).to_numpy()
        l2, linf = ([largest_residual(ROWS.at(preset), 2 * ROWS.at(preset), seed).smoothness(make_norm(label))
                     for seed in range(SEEDS.at(preset))] for label in ("l2", "linf"))  # fmt: skip
        return self.claim(
            preset,
            "where smoothness in linf is much larger than in l2, HASD gains nothing: its gap over that of accelerated gradient"
            " descent, least of the seeds",
            kind="check",
            measured=f"{factors.min():.0f}; smoothness {np.mean(linf):.0f} against {np.mean(l2):.0f}",
            expected="34 on another such problem",
            tolerance="> 1",
            holds=bool(factors.min() > 1),
            source="this project's own check: numbers of an earlier computation of it",
            setting=self._control_setting(preset),
        )

    def _control_setting(self, preset: Preset) -> str:
        rows = ROWS.at(preset)
        return one_line(f"""
            f = log sum_i 2 cosh(<a_i, x> - b_i) with Gaussian a_i, {rows} x {2 * rows}; {SEEDS.at(preset)} seeds,
            {STEPS.at(preset)} iterations
        """)

    def _margin_setting(self, preset: Preset) -> str:
        return f"{DATA_SEEDS.at(preset)} seeds of {MIXTURE}; linear model, cross entropy, {LONG.at(preset):,} iterations"

    def _margin_claim(self, table: pd.DataFrame, preset: Preset) -> Claim:
        ratios = _last_margins(table, FOLLOWED)
        order = bool(((ratios["l2"] > ratios["lp4"]) & (ratios["lp4"] > ratios["lp8"])).all())
        return self.claim(
            preset,
            "on separable data HASD with p = 8 goes to the l2 margin, not to that of l8, for v is a sum of gradients:"
            f" ratios under {', '.join(MEASURED)}, largest first on every seed",
            kind="check",
            measured=numbers(ratios.mean().to_numpy()),
            expected=".847 / .780 / .651 with another step size",
            tolerance="in this order",
            holds=order,
            source="derived here; numbers of an earlier computation of this project",
            setting=self._margin_setting(preset),
        )

    def _descent_claim(self, table: pd.DataFrame, preset: Preset) -> Claim:
        ratios = _last_margins(table, DESCENT)
        return self.claim(
            preset,
            f"steepest descent in l8 without acceleration goes to that of l8: ratios under {', '.join(MEASURED)}, smallest first"
            " on every seed",
            kind="derived",
            measured=numbers(ratios.mean().to_numpy()),
            tolerance="in this order",
            holds=bool(((ratios["l2"] < ratios["lp4"]) & (ratios["lp4"] < ratios["lp8"])).all()),
            source="derived here",
            setting=self._margin_setting(preset),
        )


def _compared(part: str, problem: Problem, seed: int, steps: int, labels: Sequence[str]) -> list[pd.DataFrame]:
    """Gaps of accelerated gradient descent and of HASD in several norms."""
    parts = [_gaps(part, AGD, seed, problem, accelerated(problem, make_norm("l2"), steps), 0.0)]
    for label in labels:
        norm = make_norm(label)
        parts.append(_gaps(part, label, seed, problem, hasd(problem, norm, steps), problem.smoothness(norm)))
    return parts


def _gaps(part: str, method: str, seed: int, problem: Problem, iterates: Iterable[Iterate], smooth: float) -> pd.DataFrame:
    found = list(iterates)
    gaps = torch.tensor([problem.gap(iterate.x) for iterate in found], dtype=torch.float64)
    ratios = torch.tensor([iterate.ratio for iterate in found], dtype=torch.float64)
    worst = (gaps / bounds(smooth, problem.distance, ratios)).cummax(dim=0).values
    evaluations = np.cumsum([iterate.evaluations for iterate in found])
    kept = [t for t in record_steps(len(found), POINTS) if t]
    at = np.array(kept) - 1
    return pd.DataFrame(
        {"part": part, "method": method, "seed": seed, "step": kept, "value": gaps.numpy()[at], "worst": worst.numpy()[at],
         "evaluations": evaluations[at]}
    )  # fmt: skip


def _separable(runs: Sequence[Run], steps: int) -> list[pd.DataFrame]:
    parts = []
    for run in runs:
        ends = last_rows(run.trajectory).set_index("norm")["max_margin"]
        parts += _margins(run.spec.dataset.load(), run.spec.seed, steps, {n: float(ends[n]) for n in MEASURED})
    return parts


def _margins(data: Dataset, seed: int, steps: int, maxima: dict[str, float]) -> list[pd.DataFrame]:
    problem, norm = classification(data), make_norm(FOLLOWED)
    x, y = torch.tensor(data.x, dtype=torch.float64), torch.tensor(data.y)
    kept = {t for t in record_steps(steps, POINTS) if t}
    parts = []
    for method, iterates in ((FOLLOWED, hasd(problem, norm, steps)), (DESCENT, steepest_descent(problem, norm, steps))):
        evaluations = 0
        for t, iterate in enumerate(iterates, 1):
            evaluations += iterate.evaluations
            if t in kept:
                scores = x @ iterate.x[0].T
                others = scores.scatter(1, y[:, None], -torch.inf).amax(dim=1)
                least = float((scores.gather(1, y[:, None])[:, 0] - others).min())
                values = {n: least / float(make_norm(n).value(iterate.x)) / maxima[n] for n in MEASURED}
                rows = {"part": MARGIN, "method": method, "seed": seed, "step": t, "evaluations": evaluations}
                parts.append(pd.DataFrame([{**rows, "norm": n, "value": value} for n, value in values.items()]))
    return parts


def _last_margins(table: pd.DataFrame, method: str) -> pd.DataFrame:
    """Ratios after the last iteration, seeds by norms."""
    rows = table[(table["part"] == MARGIN) & (table["method"] == method)]
    last = rows[rows["step"] == rows["step"].max()]
    found: pd.DataFrame = last.pivot(index="seed", columns="norm", values="value")[list(MEASURED)]
    return found


def _draw_curves(axis: Axes, rows: pd.DataFrame, column: str, label: str) -> None:
    for method in (AGD, *NORMS):
        mine, look = rows[rows["method"] == method], LOOKS[method]
        if not len(mine):
            continue
        for _, curve in mine.groupby("seed"):
            axis.plot(curve["step"], curve[column], color=look.color, lw=0.5, alpha=0.4)
        mean = np.exp(np.log(mine.set_index("step")[column]).groupby("step").mean())
        axis.plot(mean.index, mean, **look.plot([len(mean) * share // 5 for share in range(1, 5)]))
    log_axis(axis, "x")
    log_axis(axis, "y")
    axis.set_ylabel(label)


def _draw_margins(axis: Axes, rows: pd.DataFrame) -> None:
    for method, line in ((FOLLOWED, "-"), (DESCENT, DOTTED)):
        for norm in MEASURED:
            curve = rows[(rows["method"] == method) & (rows["norm"] == norm)].groupby("step")["value"].mean()
            axis.plot(curve.index, curve, color=MARGIN_COLORS[norm], ls=line)
            if method == FOLLOWED:
                axis.annotate(norm_label(norm), (curve.index[-1], curve.iloc[-1]), xytext=(3, 0), textcoords="offset points",
                              va="center", color=MARGIN_COLORS[norm], size=7.5, annotation_clip=False)  # fmt: skip
    axis.set_xlim(10, 1.9 * rows["step"].max())
    log_axis(axis, "x")
    axis.set_ylim(0, 1)
    axis.set_ylabel("margin / maximum margin")


def norm_label(label: str) -> str:
    """l_p in a picture."""
    return {"l2": r"$\ell_2$", "lp4": r"$\ell_4$", "lp8": r"$\ell_8$"}[label]
