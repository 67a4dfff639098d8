"""Adam's stability constant: the max-norm margin grows until the gradient falls to eps, then the l2 margin takes over."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from implicit_bias.analysis.runs import Run, last_rows
from implicit_bias.figures.base import FIGURES, Figure, PerPreset, Preset, one_line
from implicit_bias.figures.claims import Claim, Finding
from implicit_bias.figures.papers import MIXTURE
from implicit_bias.figures.two_faces import throttle
from implicit_bias.plotting.explorer import STEP, Explorer, Quantity
from implicit_bias.plotting.labels import theory as theory_line
from implicit_bias.plotting.labels import titled
from implicit_bias.plotting.style import GREY, Look, legend_below, log_axis, norm_look, panels

#: Of the table's rows on eps; those of the throttle are that file's.
EPS_PART = "eps"
EPS = (0.0, 1e-12, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2)
STEPS = PerPreset(smoke=300, default=20_000, paper=1_000_000)
SEEDS = PerPreset(smoke=2, default=5, paper=10)
# The max-norm phase is left where the ratio has fallen this far below that of eps = 0.
DEPARTED = 0.02
# The theory's law is for small eps: log(1/eps)^(1/(1-a)) steps, a = .5.
LARGEST_FITTED = 1e-4
EXPONENT = 2.0
#: The default of every library.
USUAL = 1e-8


@FIGURES.register
class AdamEps(Figure):
    """With eps > 0 Adam leaves the max-norm's direction for that of l2, the earlier the larger eps."""

    name = "adam_eps"
    headline = "fitted exponent"
    order = 50
    title = "Adam's eps: from the max-norm to the $\\ell_2$ margin"
    source = "Fan and Szepesvari, arXiv 2609.33904"
    kind = "theorem"
    paper = "two_faces"
    minutes = PerPreset(smoke=0.1, default=0.2, paper=32.0)

    def setting(self, preset: Preset) -> str:
        return f"{SEEDS.at(preset)} seeds of {MIXTURE}; linear model, Adam, lr .03 t^-1/2, {STEPS.at(preset):,} steps"

    def caption(self, preset: Preset) -> str:
        return one_line(f"""
            Adam (beta1 .9, beta2 .95, bias-corrected, lr .03 t^-1/2, {STEPS.at(preset):,} steps) for several eps, mean of
            {SEEDS.at(preset)} seeds of {MIXTURE}. Left and middle: margin
            over its optimum under linf and l2. Third: the step at which the linf ratio has fallen {DEPARTED} below that of eps
            = 0, against log(1/eps), with the theory's power 1/(1-a) = 2 as a grey line. With eps > 0 late Adam is momentum
            gradient descent with lr / eps, whose direction moves as log t: the l2 ratio is still rising at the end. Right: by how
            much log L falls in a step of length eta, constant, without eps, in the second half of
            {throttle.STEPS.at(preset):,} steps, a point a seed; curves the law, nothing fitted, dotted its cap log(1/beta2) / 2,
            grey an unthrottled step.
        """)

    def sweeps(self, preset: Preset) -> list[list[str]]:
        eps = ",".join(f"{e:g}" for e in EPS)
        size = [f"steps={STEPS.at(preset)}", f"seed=range(1,{SEEDS.at(preset) + 1})"]
        throttled = [f"experiment={self.name}", *throttle.words(preset)]
        return [[f"experiment={self.name}", f"optimizer.eps={eps}", *size], throttled]

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """part, eps, norm, step, ratio: mean over seeds, with the least and the largest; and the throttle's rows, one a run."""
        parts = [run.trajectory.assign(eps=run.spec.value("optimizer.eps")) for run in runs if not throttle.is_one(run)]
        rows = pd.concat(parts, ignore_index=True)
        rows = rows[rows["step"] > 0]
        ratio = (rows["margin"] / rows["max_margin"]).groupby([rows["eps"], rows["norm"], rows["step"]])
        ratios = ratio.agg(ratio="mean", least="min", largest="max").reset_index()
        ratios.insert(0, "part", EPS_PART)
        return pd.concat([ratios, *(throttle.rows(run) for run in runs if throttle.is_one(run))], ignore_index=True)

    def explorer(self, table: pd.DataFrame) -> Explorer:
        looks = {eps: Look(_label(eps), to_hex(_colour(eps)), "") for eps in EPS}
        norms = {norm: norm_look(norm).label for norm in ("linf", "l2")}
        ratio = Quantity("ratio", "margin / max margin", spread=("least", "largest"))
        rows = table[table["part"] == EPS_PART].dropna(axis="columns", how="all")  # which are the throttle's
        return Explorer(rows, "eps", looks, (STEP,), (ratio,), {"norm": ("norm", norms)})

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        figure, axes = panels(1, 4, height=2.5, width_ratios=(1.1, 1.1, 1, 1.15))
        throttle.draw(axes[0, 3], table)
        table = table[table["part"] == EPS_PART]
        for axis, norm in zip(axes[0], ("linf", "l2"), strict=False):
            for eps in EPS:
                curve = _curve(table, eps, norm)
                axis.plot(curve["step"], curve["ratio"], color=_colour(eps), lw=2.2 if eps == 0 else 1.4)
                axis.fill_between(curve["step"], curve["least"], curve["largest"], color=_colour(eps), alpha=0.12, lw=0)
            axis.axhline(1, color=GREY, lw=0.7, ls=":")
            axis.set_xlim(10, table["step"].max())
            axis.set_ylim(0, 1.03)
            log_axis(axis, "x")
            axis.set_xlabel("step $t$")
            axis.set_ylabel(f"{norm_look(norm).label} margin / optimum")
        self._draw_departures(axes[0, 2], departures(table))
        titled(axes, ("max-norm margin", r"$\ell_2$ margin", "time of departure", "speed of the loss"))
        handles = [Line2D([], [], color=_colour(eps), lw=1.8, label=_label(eps)) for eps in EPS]
        legend_below(figure, handles, columnspacing=1.2, handlelength=1.6)
        return figure

    def _draw_departures(self, axis: Axes, steps: dict[float, float]) -> None:
        known = {eps: t for eps, t in steps.items() if np.isfinite(t)}
        for eps, t in known.items():
            axis.plot(np.log(1 / eps), t, "o", color=_colour(eps), ms=5)
        fitted = {eps: t for eps, t in known.items() if eps <= LARGEST_FITTED}
        if fitted:
            theory = np.log(1 / np.array(list(fitted))) ** EXPONENT
            scale = np.exp((np.log(list(fitted.values())) - np.log(theory)).mean())
            theory_line(axis, theory ** (1 / EXPONENT), scale * theory, f" slope {EXPONENT:g}", at=0.5, below=True, ha="left")
        axis.set_xlabel(r"$\log(1/\epsilon)$")
        axis.set_ylabel("step of departure")
        axis.set_xlim(3.8, 34)
        if known:
            axis.set_ylim(min(known.values()) / 1.6, max(known.values()) * 1.6)
        log_axis(axis, "x")
        log_axis(axis, "y")

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        if preset == "smoke":
            return []
        throttled = throttle.claims(self, table, preset)
        table = table[table["part"] == EPS_PART]
        ends = last_rows(table).set_index(["norm", "eps"])["ratio"]
        steps = departures(table)
        ordered = [steps[eps] for eps in sorted(steps, reverse=True)]
        crossed = [ends["l2", eps] - ends["linf", eps] for eps in EPS if eps > 0]
        free = ends["linf", 0.0], ends["l2", 0.0]
        fell = [float(_curve(table, eps, "linf")["ratio"].max() - ends["linf", eps]) for eps in EPS if eps > 0]
        return [
            self.claim(
                preset, "with eps = 0 Adam maximises the max-norm margin, and is far from the l2 one",
                measured=f"linf {_with_range(table, 'linf')}, l2 {_with_range(table, 'l2')}", tolerance="linf >= 0.92 and > l2",
                holds=free[0] >= 0.92 and free[0] > free[1],
            ),
            self.claim(
                preset, "with any of these eps > 0 the run ends nearer to the l2 optimum than to the linf one",
                measured=f"l2 - linf ratio >= {min(crossed):.3f}", tolerance="> 0", holds=min(crossed) > 0,
            ),
            self.claim(
                preset, "with any of these eps the max-norm ratio first rises and then falls",
                measured=f"falls by >= {min(fell):.3f} from its peak", tolerance="> 0", holds=min(fell) > 0,
            ),
            self.claim(
                preset, "the larger eps, the earlier the max-norm phase ends",
                measured="steps " + ", ".join(f"{t:.0f}" for t in ordered), tolerance="increasing as eps falls",
                holds=bool(np.all(np.diff(ordered) > 0)),
            ),
            self._exponent_claim(steps, preset),
            self._settled_claim(preset),
            *throttled,
        ]  # fmt: skip

    def _settled_claim(self, preset: Preset) -> Claim:
        return self.not_testable(
            preset,
            "Adam reaches a fixed l2 margin only after eps^-c steps, with c of the order of 1 / (1 - a)",
            f"a power of 1 / eps is more steps than {STEPS.at(preset):,} for most of these eps: at the end l2 ratios still rise",
        )

    def findings(self, table: pd.DataFrame, preset: Preset) -> list[Finding]:
        if preset == "smoke":
            return []
        table = table[table["part"] == EPS_PART]
        steps = departures(table)
        told = ", ".join(f"{eps:g}: {steps[eps]:,.0f}" for eps in sorted(steps, reverse=True))
        ends = last_rows(table).set_index(["norm", "eps"])["ratio"]
        usual = f"eps = {USUAL:g} ends at {ends['linf', USUAL]:.2f} of the linf and {ends['l2', USUAL]:.2f} of the l2 optimum"
        return [
            Finding(
                "Adam as it ships does not keep the max-norm's direction",
                one_line(f"""
                    The theorem for Adam is for eps = 0. With any eps > 0 the gradient falls to eps in the end, and Adam
                    goes on as momentum gradient descent, towards the l2 margin. With the usual {USUAL:g} that happens within an
                    ordinary number of steps, and an eps of 1e-20 in place of 0 only moves it.
                """),
                f"step at which the linf ratio has fallen {DEPARTED:g} below that of eps = 0, by eps: {told}; {usual}",
            )
        ]

    def _exponent_claim(self, steps: dict[float, float], preset: Preset) -> Claim:
        small = {eps: t for eps, t in steps.items() if eps <= LARGEST_FITTED}
        logs, times = np.log(np.log(1 / np.array(list(small)))), np.log(list(small.values()))
        slope = float(np.polyfit(logs, times, 1)[0]) if np.isfinite(times).all() else float("nan")
        text = f"the max-norm phase ends after about log(1/eps)^2 steps for eps <= {LARGEST_FITTED:g}: fitted exponent"
        return self.near(preset, text, [slope], [EXPONENT], 0.4, digits=2)


def departures(table: pd.DataFrame) -> dict[float, float]:
    """For each eps > 0 the step at which its mean linf ratio has fallen DEPARTED below that of eps = 0; nan where it has not.

    Steps before eps = 0 separates the data are left out; between two records it is interpolated in log t.
    """
    exact = _curve(table, 0.0, "linf")
    separated = exact["ratio"].to_numpy() > 0
    steps = exact["step"].to_numpy(float)[separated]
    found = {}
    for eps in EPS:
        if eps > 0:
            behind = (exact["ratio"].to_numpy() - _curve(table, eps, "linf")["ratio"].to_numpy())[separated]
            found[eps] = _crossing(np.log(steps), behind)
    return found


def _crossing(log_steps: np.ndarray, behind: np.ndarray) -> float:
    below = np.flatnonzero(behind < DEPARTED)
    i = int(below[-1]) + 1 if len(below) else 0
    if i >= len(behind):
        return float("nan")
    if i == 0:
        return float(np.exp(log_steps[0]))
    share = (DEPARTED - behind[i - 1]) / (behind[i] - behind[i - 1])
    return float(np.exp(log_steps[i - 1] + share * (log_steps[i] - log_steps[i - 1])))


def _curve(table: pd.DataFrame, eps: float, norm: str) -> pd.DataFrame:
    return table[(table["eps"] == eps) & (table["norm"] == norm)].sort_values("step")


def _with_range(table: pd.DataFrame, norm: str) -> str:
    """Where eps = 0 ends under a norm: the mean and, over the seeds, the least and the largest."""
    end = _curve(table, 0.0, norm).iloc[-1]
    return f"{end['ratio']:.3f} ({end['least']:.3f} to {end['largest']:.3f})"


def _label(eps: float) -> str:
    return r"$\epsilon = 0$" if eps == 0 else rf"$10^{{{round(np.log10(eps))}}}$"


def _colour(eps: float) -> str | tuple[float, float, float, float]:
    """Black for 0; for the others from dark (small) to light (large)."""
    if eps == 0:
        return "#111111"
    positive = sorted(e for e in EPS if e > 0)
    shade: tuple[float, float, float, float] = colormaps["plasma"](0.1 + 0.75 * positive.index(eps) / (len(positive) - 1))
    return shade
