"""Known optimizers as steepest descent in a norm: every statement of the anthology on random matrices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from implicit_bias.analysis.runs import Run, last_rows, numbers
from implicit_bias.figures.anthology.iterations import (
    CUBIC,
    FIRST,
    LINEAR,
    POLAR,
    PRODIGY,
    QUINTIC,
    RANGE,
    SIDE,
    STARTS,
    polar_rows,
    prodigy_rows,
)
from implicit_bias.figures.anthology.statements import (
    EQUAL,
    LAYERS,
    MATRIX,
    MINIMUM,
    OVER_LAYERS,
    SMALLEST,
    TABLE,
    equal_rows,
    minimum_rows,
    smallest_rows,
)
from implicit_bias.figures.base import FIGURES, Figure, PerPreset, Preset, one_line, one_thread
from implicit_bias.figures.claims import Claim
from implicit_bias.figures.papers import MIXTURE
from implicit_bias.plotting.style import DASHDOT, DASHED, DOTTED, GREY, Look, log_axis, panels

MARGIN = "margin"
#: Norms in which the solutions of Table 1 are followed on data.
FOLLOWED = ("linf", "l2", "spectral")
STEPS = PerPreset(smoke=50, default=2000, paper=20_000)
SEEDS = PerPreset(smoke=1, default=3, paper=20)
DRAWS = PerPreset(smoke=2, default=20, paper=100)
TRIED = PerPreset(smoke=20, default=200, paper=1000)
INEQUALITIES = PerPreset(smoke=20, default=1000, paper=10_000)
KEPT_DRAWS = 100
ITERATIONS, LINEAR_STEPS, QUADRATIC_STEPS, DIM = 20, 15, 120, 1000
LOOKS = {
    "l2": Look(r"$\ell_2$", "#E69F00", "o"),
    "linf": Look(r"$\ell_\infty$", "#0072B2", "s"),
    "Frobenius": Look("Frobenius", "#9C6500", "o", DASHED),
    "spectral": Look("spectral", "#009E73", "D"),
    "max linf": Look(r"max of layers' $\ell_\infty$", "#56B4E9", "s", DASHED),
    "max spectral": Look("max of layers' spectral", "#6CCB9F", "d", DASHED),
    "modular": Look("modular", "#000000", "p", DOTTED),
}
ITERATIVE = {
    CUBIC: Look("cubic", "#0072B2", "s"),
    QUINTIC: Look("Jordan's quintic", "#D55E00", "v", DASHED),
}
RATES = {
    f"{first:.0e}": Look(rf"$\eta_0 = 10^{{{math.log10(first):.0f}}}$", color, "o", line)
    for first, color, line in zip(FIRST, ("#0072B2", "#CC79A7", "#009E73"), ("-", DASHED, DASHDOT), strict=True)
}
#: What each equality of two things is, with the proposition that states it.
EQUALITIES = {
    ("Adam",): ("Adam with beta1 = beta2 = 0 is sign descent", "on Adam, and Proposition 2"),
    ("max of max", "max linf"): (
        "the largest entry of all layers is a maximum over rows, and steepest descent in it signs of length sum |G_ij| / lambda",
        "Proposition 3",
    ),
    ("Shampoo", "polar"): (
        "Shampoo without accumulation, (G G^T)^(-1/4) G (G^T G)^(-1/4), is U V^T",
        "on Shampoo",
    ),
    ("max spectral",): (
        "steepest descent in the largest spectral norm of a layer is U V^T in each, of length sum of nuclear norms / lambda",
        "Proposition 5",
    ),
    ("l1 to lp", "lp to linf", "l2 to linf"): (
        "the l1 -> lp norm is the largest lp norm of a column, lp -> linf the largest dual norm of a row (p = 3; row norm)",
        "Proposition 8",
    ),
}


@FIGURES.register
class OldOptimizerNewNorm(Figure):
    """Table 1 and Propositions 1 to 8 hold to rounding; Prodigy's rate grows by Fibonacci's numbers."""

    name = "old_optimizer_new_norm"
    headline = "Table 1"
    order = 170
    title = "Old optimizers, new norms: steepest descent in each"
    source = "Bernstein and Newhouse, arXiv 2409.20325"
    kind = "theorem"
    paper = "anthology"
    minutes = PerPreset(smoke=0.1, default=0.4, paper=1.5)

    def setting(self, preset: Preset) -> str:
        layers = ", ".join(f"{p} x {q}" for p, q in LAYERS.values())
        return f"{DRAWS.at(preset)} Gaussian matrices of {MATRIX[0]} x {MATRIX[1]}, and sets of layers {layers}"

    def caption(self, preset: Preset) -> str:
        return one_line(f"""
            Left: the model <g, D> + lambda N(D)^2 / 2 at the best of {TRIED.at(preset)} random perturbations of the closed-form
            step, less its value there, relative to it, against the size of the perturbation; the least of {DRAWS.at(preset)}
            Gaussian g: no step is better. Norms of one matrix, of all layers, and a modular norm with weights. Middle: distance
            |X - U V^T|_F / sqrt n of Newton-Schulz iterates to the polar factor of a Gaussian {SIDE} x {SIDE} matrix, from
            G / |G|_F. Right: Prodigy's learning rate without averages on a quadratic in {DIM} dimensions (eigenvalues .1 to 10),
            from three eta_0; in grey Fibonacci's numbers times 1e-8.
        """)

    def sweeps(self, preset: Preset) -> list[list[str]]:
        size = [f"experiment={self.name}", f"steps={STEPS.at(preset)}", f"seed=range(1,{SEEDS.at(preset) + 1})"]
        return [[*size, f"norm={norm}"] for norm in FOLLOWED]

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """part, method, seed, x, value; what they are is said in the functions that measure them.

        margin: the ratio that steepest descent in ``method`` ends with in the norm ``norm``.
        """
        with one_thread():
            measured = [
                minimum_rows(DRAWS.at(preset), TRIED.at(preset)),
                equal_rows(DRAWS.at(preset)),
                smallest_rows(INEQUALITIES.at(preset)),
                polar_rows(ITERATIONS, SEEDS.at(preset)),
                prodigy_rows(LINEAR_STEPS, QUADRATIC_STEPS, DIM, SEEDS.at(preset)),
            ]
        return pd.concat([*map(_ends, runs), *measured], ignore_index=True)

    def kept(self, table: pd.DataFrame, preset: Preset) -> pd.DataFrame:
        """Of the inequalities' draws the least are judged, and kept at the papers' sizes."""
        draws = table[table["part"] == SMALLEST].sort_values("value").groupby("method").cumcount()
        return table.drop(index=draws.index[draws >= KEPT_DRAWS]).reset_index(drop=True) if preset == "paper" else table

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        figure, axes = panels(1, 3, height=3.1)
        left, middle, right = axes[0]
        _draw_least(left, table[(table["part"] == MINIMUM) & (table["x"] > 0)])
        _draw_polar(middle, table[table["part"] == POLAR])
        _draw_rates(right, table[table["part"] == PRODIGY])
        for axis, looks in ((left, LOOKS), (middle, ITERATIVE), (right, RATES)):
            _legend_under(axis, looks)
        return figure

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        if preset == "smoke":
            return []
        return [
            *self._minimum_claims(table[table["part"] == MINIMUM], preset),
            *self._equality_claims(table[table["part"] == EQUAL], preset),
            *self._inequality_claims(table[table["part"] == SMALLEST], preset),
            *self._polar_claims(table, preset),
            *self._prodigy_claims(table[table["part"] == PRODIGY], preset),
            self._margin_claim(table[table["part"] == MARGIN], preset),
            self.not_testable(
                preset,
                "embeddings want the l1 -> RMS norm, linear layers RMS -> RMS",
                "advice; the paper has no experiment, and no model here has embeddings",
                kind="paper",
                source="Bernstein and Newhouse, arXiv 2409.20325, advice",
            ),
        ]

    def _minimum_claims(self, rows: pd.DataFrame, preset: Preset) -> list[Claim]:
        stated = (
            ("Table 1 and Proposition 1", list(TABLE), "Table 1: in each of its norms"),
            ("Propositions 3, 5 and 7", list(OVER_LAYERS), "in a maximum over layers, with weights too (modular norm),"),
        )
        claims = []
        for where, names, text in stated:
            mine = rows[rows["method"].isin(names)]
            apart, least = mine[mine["x"] == 0]["value"].abs().max(), mine[mine["x"] > 0]["value"].min()
            claims.append(
                self.claim(
                    preset,
                    f"{text} steepest descent attains -N_*(g)^2 / (2 lambda), and no random step is better ({', '.join(names)})",
                    kind="theorem",
                    measured=f"{apart:.0e} off; perturbed by 1e-4 to 1 the model is larger by at least {least:.0e}",
                    expected="0; > 0",
                    tolerance="1e-9; > 0",
                    holds=apart <= 1e-9 and least > 0,
                    source=f"{self.source}, {where}",
                )
            )
        return claims

    def _equality_claims(self, rows: pd.DataFrame, preset: Preset) -> list[Claim]:
        worst = rows.groupby("method")["value"].max()
        return [
            self.claim(
                preset,
                f"{text}: largest relative difference",
                kind="theorem",
                measured=f"{worst[list(names)].max():.0e}",
                expected="0",
                tolerance="<= 1e-9",
                holds=bool(worst[list(names)].max() <= 1e-9),
                source=f"{self.source}, {where}",
            )
            for names, (text, where) in EQUALITIES.items()
        ]

    def _inequality_claims(self, rows: pd.DataFrame, preset: Preset) -> list[Claim]:
        least = rows.groupby("method")["value"].min()
        drawn = f"{INEQUALITIES.at(preset):,} draws"
        stated = {
            "nearest": (
                "no semi-orthogonal matrix is nearer to G than U V^T: squared distance beyond its, over |G|^2, least",
                "Proposition 4",
            ),
            "square loss": (
                "the square loss is below its model with (d_in / d_out) |D|_2^2 / 2: what is left, over that term, least",
                "Proposition 6",
            ),
        }
        return [
            self.claim(
                preset,
                text,
                kind="theorem",
                measured=f"{least[name]:.1e}",
                expected=">= 0",
                tolerance=">= 0",
                holds=bool(least[name] >= 0),
                source=f"{self.source}, {where}",
                setting=f"{drawn}, matrices of {MATRIX[0]} x {MATRIX[1]}",
            )
            for name, (text, where) in stated.items()
        ]

    def _polar_claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        mean = table[table["part"] == POLAR].groupby(["method", "x"])["value"].mean()
        ends = table[table["part"] == RANGE].groupby("x")["value"].agg(["min", "max"])
        inside = ends.loc[[x for x in STARTS if x < 3**0.5], "max"].max()
        outside = ends.loc[[x for x in STARTS if x > 3**0.5], "min"].min()
        where = f"{SEEDS.at(preset)} Gaussian matrices of {SIDE} x {SIDE}, from G / |G|_F"
        source = f"{self.source}, App. A"
        return [
            self.claim(
                preset,
                "the cubic iteration converges to the polar factor exactly where all singular values are in (0, sqrt 3): distance"
                f" after {ITERATIONS} steps from largest values of {', '.join(map(str, STARTS))}",
                kind="theorem",
                measured=f"at most {inside:.0e} inside, at least {outside:.2g} outside",
                expected="0 inside",
                tolerance="1e-9 inside; > 0.1 outside",
                holds=inside <= 1e-9 and outside > 0.1,
                source=source,
                setting=where,
            ),
            self.near(
                preset,
                "distance to the polar factor after 5 and 10 cubic steps, and 5 of Jordan's quintic, which does not converge",
                [mean[CUBIC, 5.0], mean[CUBIC, 10.0], mean[QUINTIC, 5.0]],
                [0.498, 0.186, 0.211],
                0.02,
                kind="check",
                source="this project's own check: numbers of an earlier computation of it",
            ),
        ]

    def _prodigy_claims(self, rows: pd.DataFrame, preset: Preset) -> list[Claim]:
        linear = rows[rows["method"] == LINEAR].sort_values("x")["value"].to_numpy()
        known = fibonacci(len(linear))
        last = rows[(rows["method"] != LINEAR) & (rows["x"] == QUADRATIC_STEPS - 1)].pivot(
            index="seed", columns="method", values="value"
        )
        rates = last.to_numpy(float)
        apart = float(np.abs(rates / rates.mean(axis=1, keepdims=True) - 1).max())
        return [
            self.claim(
                preset,
                "Prodigy without averages on a linear loss: eta_t / eta_0 are Fibonacci's numbers 1, 1, 1, 2, 3, 5, 8, ...",
                kind="derived",
                measured=f"{np.abs(linear / known - 1).max():.0e} off in {len(linear)} steps",
                expected="1, 1, 1, 2, 3, 5, 8, ...",
                tolerance="1e-5, the digits of the table",
                holds=bool(np.abs(linear / known - 1).max() <= 1e-5),
                source="derived here from Prodigy's rule",
            ),
            self.claim(
                preset,
                f"on a quadratic its final rate does not depend on eta_0 = {', '.join(RATES)}: mean rates, and largest distance"
                " from the mean of a problem",
                kind="check",
                measured=f"{numbers(last[list(RATES)].mean().to_numpy())}; {apart:.1%}",
                expected="0.476 / 0.475 / 0.483",
                tolerance="within 5%",
                holds=apart <= 0.05,
                source="this project's own check: numbers of an earlier computation of it, on another draw",
                setting=f"{SEEDS.at(preset)} random quadratics, {DIM} dimensions, eigenvalues .1 to 10, {QUADRATIC_STEPS} steps",
            ),
        ]

    def _margin_claim(self, rows: pd.DataFrame, preset: Preset) -> Claim:
        mean = rows.groupby(["method", "norm"])["value"].mean().unstack()
        ratios = mean.loc[list(FOLLOWED), list(FOLLOWED)].to_numpy(float)
        own = np.diag(ratios)
        return self.claim(
            preset,
            f"on separable data each solution of Table 1 goes to its own norm's margin: ratio of steepest descent in"
            f" {', '.join(FOLLOWED)} under that norm, beside its largest under another",
            kind="theorem",
            measured=f"{numbers(own)} beside {numbers((ratios - np.diag(own)).max(axis=1))}",
            tolerance="the largest is under its own",
            holds=bool((own >= ratios.max(axis=1)).all()),
            source="Fan et al., arXiv 2502.04664, on the steps of the anthology",
            setting=f"{SEEDS.at(preset)} seeds of {MIXTURE}; linear model, schedule=loss_based, {STEPS.at(preset):,} steps",
        )


def fibonacci(count: int) -> np.ndarray:
    """1, 1, 1, 2, 3, 5, ...: eta_t / eta_0 of Prodigy on a linear loss, (count,)."""
    found = [1.0, 1.0, 1.0]
    while len(found) < count:
        found.append(found[-1] + found[-2])
    return np.array(found[:count])


def _ends(run: Run) -> pd.DataFrame:
    rows = last_rows(run.trajectory)
    rows = rows[rows["norm"].isin(FOLLOWED)]
    ratio = rows["margin"] / rows["max_margin"]
    method = run.spec.working_norm.label
    return pd.DataFrame({"part": MARGIN, "method": method, "seed": rows["seed"], "x": rows["step"], "value": ratio,
                         "norm": rows["norm"]})  # fmt: skip


def _draw_least(axis: Axes, rows: pd.DataFrame) -> None:
    for name, look in LOOKS.items():
        least = rows[rows["method"] == name].groupby("x")["value"].min()
        axis.plot(least.index, least, **look.plot(range(0, len(least), 2)))
    log_axis(axis, "x")
    log_axis(axis, "y")
    axis.set(xlabel="size of the perturbation", ylabel="model above its minimum", title="No step is better")


def _draw_polar(axis: Axes, rows: pd.DataFrame) -> None:
    for name, look in ITERATIVE.items():
        mean = rows[rows["method"] == name].groupby("x")["value"].mean()
        axis.plot(mean.index, mean, **look.plot(range(0, len(mean), 5)))
    log_axis(axis, "y")
    axis.set(xlabel="iteration", ylabel="distance to the polar factor", title="Newton-Schulz")


def _draw_rates(axis: Axes, rows: pd.DataFrame) -> None:
    known = fibonacci(40) * FIRST[0]
    axis.plot(range(40), known, color=GREY, lw=0.9, ls=":")
    for name, look in RATES.items():
        for _, curve in rows[rows["method"] == name].groupby("seed"):
            axis.plot(curve["x"], curve["value"], color=look.color, ls=look.line, lw=1.1)
    axis.set_xlim(0, 80)
    log_axis(axis, "y")
    axis.set(xlabel="step", ylabel=r"learning rate $\eta_t$", title="Prodigy without averages")


def _legend_under(axis: Axes, looks: Mapping[str, Look]) -> None:
    """A legend of one panel, under it."""
    handles = [look.handle(marker=look not in RATES.values()) for look in looks.values()]
    axis.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.24), ncols=1 if len(handles) < 4 else 2,
                columnspacing=0.8, handlelength=2, fontsize=6.5)  # fmt: skip
