"""Shampoo without accumulation, with averages and with sums: which reach the spectral margin, and what a sum does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from implicit_bias.analysis.curves import over_seeds
from implicit_bias.analysis.runs import Run
from implicit_bias.figures.base import FIGURES, Figure, PerPreset, Preset, one_line
from implicit_bias.figures.claims import Claim, Finding
from implicit_bias.figures.own.torch_classes import TorchClass
from implicit_bias.figures.papers import MIXTURE, OWN
from implicit_bias.plotting.explorer import DEPTH, STEP, Explorer, Quantity
from implicit_bias.plotting.labels import titled
from implicit_bias.plotting.style import (
    DASHED,
    DOTTED,
    GREY,
    Look,
    legend_below,
    log_axis,
    log_spaced,
    norm_look,
    optimizer_look,
    panels,
    shade,
)

NORMS = ("spectral", "l2", "linf")
NONE, AVERAGE, SUM = "none", "average", "sum"
MEMORY = 0.95
_COLOR = optimizer_look("shampoo").color
LOOKS: Mapping[str, Look] = MappingProxyType(
    {
        NONE: Look("no accumulation (Spectral-GD)", optimizer_look("spectral_gd").color, "D"),
        AVERAGE: Look(rf"average, $\beta_2$ = {MEMORY:g}".replace("0.", "."), _COLOR, "d", DASHED),
        SUM: Look("sum, as published", shade(_COLOR, 0.15), "v", DOTTED),
    }
)
#: The package's class with the settings at which it is the algorithm as published, and the same of ours.
PACKAGE = TorchClass(
    Look("Shampoo of pytorch_optimizer", GREY, "x"),
    "pytorch_optimizer.Shampoo",
    {"momentum": 0.0, "preconditioning_compute_steps": 1},
    lr=0.1,
)
PAIR, RIDGE, PAIR_STEPS = "package", 1e-6, 150
STEPS = PerPreset(smoke=100, default=10_000, paper=100_000)
SEEDS = PerPreset(smoke=1, default=5, paper=20)
#: Of the claims: what averages reach; how large a loss the sum keeps, as a natural logarithm; how near its loss's slope is to
#: that of gradient descent, -1; how near the package's parameters are.
REACHED, KEPT, SLOPE, EQUAL = 0.95, -15.0, 0.1, 1e-10


@FIGURES.register
class ShampooAccumulation(Figure):
    """Averages of Gram matrices leave Shampoo its spectral margin; a sum as published makes it gradient descent."""

    name = "shampoo_accumulation"
    headline = "with averages of its Gram matrices"
    order = 62
    title = "Shampoo: what the accumulation of its Gram matrices does to the margin"
    source = "this project's own check; the algorithm is Gupta, Koren and Singer's, arXiv 1802.09568"
    kind = "check"
    paper = OWN.key
    minutes = PerPreset(smoke=0.05, default=0.5, paper=20.0)

    def setting(self, preset: Preset) -> str:
        return f"{_seeds(preset)} of {MIXTURE}; linear model from zero, lr=auto, {STEPS.at(preset):,} steps"

    def caption(self, preset: Preset) -> str:
        return one_line(f"""
            Shampoo with exponent 1/4 and no ridge on {_seeds(preset)} of {MIXTURE}, mean and range over {STEPS.at(preset):,}
            steps. Left: relative gap to the certified spectral margin. Middle: the depth of training. Right: margin over the
            certified maximum under three norms after the last step (marker and range). Rates are automatic: eta_t ~ t^-1/2, and a
            constant one for the sum, whose steps shrink by themselves.
        """)

    def sweeps(self, preset: Preset) -> list[list[str]]:
        size = [f"experiment={self.name}", f"steps={STEPS.at(preset)}", f"seed=range(1,{SEEDS.at(preset) + 1})"]
        pair = [f"experiment={self.name}", f"steps={PAIR_STEPS}", "model.init=gaussian", "schedule.power=0", "reference=none"]
        pair += ["log.weights=all", "log.norms=[spectral]"]
        ours = ["optimizer.accumulation=sum", f"optimizer.eps={RIDGE:g}", f"schedule.lr={PACKAGE.lr:g}"]
        return [
            [*size, "optimizer.accumulation=none"],
            [*size, "optimizer.accumulation=average", f"optimizer.beta2={MEMORY:g}"],
            [*size, "optimizer.accumulation=sum"],
            *([[*pair, *ours], [*pair, *PACKAGE.words("loss")]] if PACKAGE.installed and preset != "smoke" else []),
        ]

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """accumulation, seed, norm, step, ratio and log_loss after step 0; as accumulation ``package`` in `ratio` the largest
        difference of the parameters of ours and of the package at any record."""
        followed = runs[: 3 * SEEDS.at(preset)]
        parts = []
        for run in followed:
            rows = run.trajectory[(run.trajectory["step"] > 0) & run.trajectory["norm"].isin(NORMS)]
            how = run.spec.value("optimizer.accumulation")
            parts.append(rows.assign(accumulation=how, ratio=rows["margin"] / rows["max_margin"]))
        pair = runs[len(followed) :]
        if pair:
            ours, theirs = (_weights(run) for run in pair)
            parts.append(pd.DataFrame([{"accumulation": PAIR, "step": PAIR_STEPS, "ratio": float(np.abs(ours - theirs).max())}]))
        return pd.concat(parts, ignore_index=True)[["accumulation", "seed", "norm", "step", "ratio", "log_loss"]]

    def explorer(self, table: pd.DataFrame) -> Explorer:
        quantities = (
            Quantity("ratio", "margin / max margin"),
            Quantity("gap", "relative gap", log=True),
            Quantity("depth", DEPTH.label),
        )
        rows = _with_depth(table)
        norms = {norm: norm_look(norm).label for norm in NORMS}
        return Explorer(rows, "accumulation", LOOKS, (STEP, DEPTH), quantities, {"norm": ("norm", norms)})

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        figure, axes = panels(1, 3, height=2.6)
        rows = _with_depth(table)
        spectral = rows[rows["norm"] == "spectral"]
        for axis, column, label in zip(axes[0], ("gap", "depth"), ("spectral margin gap", r"$-\log_{10}$ loss"), strict=False):
            for how, look in LOOKS.items():
                curve = over_seeds(spectral[spectral["accumulation"] == how], column)
                axis.plot(curve.index, curve["mean"], **look.plot(log_spaced(curve.index, 6)))
                axis.fill_between(curve.index, curve["min"], curve["max"], color=look.color, alpha=0.18, lw=0)
            axis.set(xlim=(1, table["step"].max()), xlabel="step $t$", ylabel=label)
            log_axis(axis, "x")
            log_axis(axis, "y")
        _draw_ends(axes[0, 2], rows)
        titled(axes, ("gap of the spectral margin", "depth of the loss", "margins at the end"))
        legend_below(figure, [look.handle() for look in LOOKS.values()])
        return figure

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        if preset == "smoke":
            return []
        return [*self._reached(table, preset), *self._sum_claims(table, preset), self._package_claim(table, preset)]

    def _reached(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        ends = _ends(table, "ratio")
        average, plain = ends[AVERAGE, "spectral"], ends[NONE, "spectral"]
        return [
            self.claim(
                preset,
                f"with averages of its Gram matrices (beta2 {MEMORY:g}) Shampoo reaches the spectral margin: ratio, mean, worst"
                " data set",
                measured=f"{_told(average)}, {average.min():.3f} (without accumulation {_told(plain)})",
                tolerance=f">= {REACHED:g} in mean",
                holds=average.mean() >= REACHED,
            )
        ]

    def _sum_claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        losses, slopes = _ends(table, "log_loss")[SUM, "spectral"], _slopes(table)
        ratios = _ends(table, "ratio")
        best = max(NORMS, key=lambda norm: float(ratios[SUM, norm].mean()))
        return [
            self.claim(
                preset,
                "with their sum, as published, the loss hardly falls, and no margin is reached: log loss at the end, least; best"
                f" ratio of those under {', '.join(NORMS)}, mean",
                measured=f"{losses.min():.1f} (average {_ends(table, 'log_loss')[AVERAGE, 'spectral'].mean():.0f});"
                f" {_told(ratios[SUM, best])} ({best})",
                tolerance=f"> {KEPT:g}; < {REACHED:g}",
                holds=losses.min() > KEPT and ratios[SUM, best].mean() < REACHED,
            ),
            self.claim(
                preset,
                "the sum remembers the first gradients, a fixed metric, in which steps are gradient descent's, and the loss falls"
                " like 1/t: d log loss / d log t over the last decade, mean",
                measured=_told(slopes),
                tolerance=f"-1 within {SLOPE:g}",
                holds=abs(slopes.mean() + 1) <= SLOPE,
            ),
        ]

    def _package_claim(self, table: pd.DataFrame, preset: Preset) -> Claim:
        text = f"our sum with ridge {RIDGE:g} is the package's Shampoo: largest difference of a parameter over {PAIR_STEPS} steps"
        found = table[table["accumulation"] == PAIR]["ratio"]
        if found.empty:
            return self.not_testable(preset, text, "pytorch_optimizer was not installed where this was computed")
        return self.claim(
            preset,
            text,
            measured=f"{found.iloc[0]:.0e}",
            tolerance=f"<= {EQUAL:g}",
            holds=bool(found.iloc[0] <= EQUAL),
            setting=f"seed 1 of {MIXTURE}; linear model from a Gaussian start, rate {PACKAGE.lr:g}, {PACKAGE.look.label}",
        )

    def findings(self, table: pd.DataFrame, preset: Preset) -> list[Finding]:
        if preset == "smoke":
            return []
        ratios, losses = _ends(table, "ratio"), _ends(table, "log_loss")
        told = "; ".join(
            f"{how}: spectral {ratios[how, 'spectral'].mean():.3f}, log loss {losses[how, 'spectral'].mean():.0f}"
            for how in LOOKS
        )
        return [
            Finding(
                "Shampoo as published does not maximise the spectral margin; with a memory that fades it does",
                one_line("""
                    On separable data gradients vanish, and a sum of their Gram matrices is that of the first ones for ever: its
                    powers are a fixed metric, and a step is as small as the gradient. What makes the step that of spectral
                    descent is that the metric is the present gradient's own, without accumulation exactly and with an average
                    of fading weights nearly so.
                """),
                told,
            )
        ]


def _seeds(preset: Preset) -> str:
    count = SEEDS.at(preset)
    return "seed 1" if count == 1 else f"seeds 1 to {count}"


def _weights(run: Run) -> np.ndarray:
    """The parameters of every record, (records, k, d)."""
    assert run.folder is not None
    with np.load(Path(run.folder) / "final.npz") as kept:
        found: np.ndarray = kept["weight_all"] * np.exp(kept["log_scale"])
    return found


def _with_depth(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["accumulation"] != PAIR].assign(gap=1 - table["ratio"], depth=-table["log_loss"] / np.log(10))


def _ends(table: pd.DataFrame, column: str) -> pd.Series:
    """A column after the last step, by accumulation, norm and seed."""
    last = table[(table["step"] == table["step"].max()) & (table["accumulation"] != PAIR)]
    series: pd.Series = last.set_index(["accumulation", "norm", "seed"])[column].sort_index()
    return series


def _slopes(table: pd.DataFrame) -> pd.Series:
    """d log L / d log t of the sum over the last decade of steps, by seed."""
    last = table["step"].max()
    rows = table[(table["accumulation"] == SUM) & (table["norm"] == "spectral") & (table["step"] >= last / 10)]
    fitted = {seed: np.polyfit(np.log(r["step"]), r["log_loss"], 1)[0] for seed, r in rows.groupby("seed")}
    return pd.Series(fitted, dtype=float)


def _draw_ends(axis: Axes, rows: pd.DataFrame) -> None:
    """Ratios under the norms after the last step, a marker a kind of accumulation and the range over seeds."""
    ends = _ends(rows, "ratio")
    for i, (how, look) in enumerate(LOOKS.items()):
        places = np.arange(len(NORMS)) + 0.22 * (i - 1)
        found = [ends[how, norm] for norm in NORMS]
        axis.vlines(places, [f.min() for f in found], [f.max() for f in found], color=look.color, lw=1.6)
        axis.plot(places, [f.mean() for f in found], look.marker, color=look.color, ms=5)
    axis.axhline(1, color="#222222", lw=0.8)
    axis.set_xticks(range(len(NORMS)), [norm_look(norm).label for norm in NORMS])
    axis.set(xlim=(-0.5, len(NORMS) - 0.5), ylabel="margin / maximum margin", ylim=(None, 1.02))
    axis.grid(axis="x", visible=False)


def _told(values: pd.Series) -> str:
    return f"{values.mean():.3f} ± {values.std(ddof=0):.3f}"
