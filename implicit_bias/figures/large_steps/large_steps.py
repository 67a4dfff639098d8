"""Gradient descent with large constant steps: the loss rises first, then follows 1 / (gamma^2 eta t), or falls far below it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from implicit_bias.analysis.runs import Run, mean_and_spread, numbers
from implicit_bias.figures.base import FIGURES, Figure, PerPreset, Preset, one_line
from implicit_bias.figures.claims import Claim, Finding
from implicit_bias.plotting.style import GREY, Look, legend_below, log_axis, norm_look, panels, shade

SIZES, NORMS = "sizes", "norms"
#: eta of gradient descent.
RATES = (0.1, 1.0, 10.0, 100.0)
SMALL, LARGE = RATES[:2], RATES[2:]
MEASURED = ("l2", "linf", "spectral")
STEPS = PerPreset(smoke=1000, default=100_000, paper=1_000_000)
SEEDS = PerPreset(smoke=2, default=5, paper=10)
DATA = "40 Gaussian samples in 36 dimensions with 2 random labels"
MIXTURE = "a Gaussian mixture (4 classes, 12 features, 6 samples a class, noise 1)"
WORDS = {
    SIZES: ["dataset=random_labels", "dataset.num_classes=2", "dataset.dim=36", "dataset.samples=40"],
    NORMS: ["dataset=gaussian_mixture", "dataset.num_classes=4", "dataset.dim=12", "dataset.samples_per_class=6"],
}
SAMPLES = 40
LOOKS = {
    rate: Look(rf"$\eta$ = {rate:g}", shade("#6A3D9A", place), marker)
    for rate, place, marker in zip(RATES, (0.15, 0.4, 0.65, 0.95), "osD^", strict=True)
}
#: Of the claims: how near the law is with small steps, and in other norms; how far below it, and below the optimum, large
#: steps end.
NEAR, SLOWER, BELOW, SHORT = 0.01, 0.15, 0.1, 0.5


@FIGURES.register
class LargeSteps(Figure):
    """With small steps gamma^2 eta t L tends to 1; large ones soon separate the data, end far below, and far from the margin."""

    name = "large_steps"
    headline = "the loss rises with large steps only"
    order = 200
    title = "Large constant steps: the loss, and the margin it costs"
    source = "derived here; phases as stated by Wu, Bartlett, Telgarsky and Yu, arXiv 2402.15926"
    kind = "theorem"
    paper = "large_steps"
    records_a_decade = 8
    minutes = PerPreset(smoke=0.1, default=0.3, paper=4.0)

    def setting(self, preset: Preset) -> str:
        return f"{SEEDS.at(preset)} seeds of {DATA}; linear model from zero, gradient descent, {STEPS.at(preset):,} steps"

    def caption(self, preset: Preset) -> str:
        return one_line(f"""
            Gradient descent with a constant step eta on {SEEDS.at(preset)} seeds of {DATA}, cross entropy. (a) The loss.
            (b) gamma^2 eta t L, gamma the certified maximum l2 margin: 1 is the law of small steps, L' = -eta |grad L|^2 with
            |grad L| = gamma L. (c) The l2 margin over its maximum: after large steps the loss, and with it every further step, is
            small before the margin is large. (d) The same law for steepest descent in three norms on {SEEDS.at(preset)} seeds of
            {MIXTURE}, lr=auto. Thin: every seed; thick: medians.
        """)

    def sweeps(self, preset: Preset) -> list[list[str]]:
        size = [f"experiment={self.name}", f"steps={STEPS.at(preset)}", f"seed=range(1,{SEEDS.at(preset) + 1})"]
        rates = ",".join(f"{rate:g}" for rate in RATES)
        return [
            [*WORDS[SIZES], *size, "optimizer=gd", f"schedule.lr={rates}"],
            *([*WORDS[NORMS], *size, "optimizer=sd", f"norm={norm}"] for norm in MEASURED),
        ]

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """part, norm, lr, seed, step, log_loss, law, ratio: of the norm that is descended in; law is gamma^2 eta t L."""
        parts = []
        for run in runs:
            rows = run.trajectory[(run.trajectory["norm"] == run.spec.own_label) & (run.trajectory["step"] > 0)]
            law = rows["max_margin"] ** 2 * rows["lr"] * rows["step"] * np.exp(rows["log_loss"])
            part = SIZES if run.spec.optimizer.name == "gd" else NORMS
            found = rows[["norm", "lr", "seed", "step", "log_loss"]]
            if part == SIZES:  # as it was typed: a record has it through a logarithm
                found = found.assign(lr=float(run.spec.value("schedule.lr")))
            parts.append(found.assign(part=part, law=law, ratio=rows["margin"] / rows["max_margin"]))
        return pd.concat(parts, ignore_index=True)

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        figure, axes = panels(2, 2, height=4.8)
        sizes, norms = (table[table["part"] == part] for part in (SIZES, NORMS))
        loss, law, ratio, others = axes.flat
        for rate, look in LOOKS.items():
            rows = sizes[np.isclose(sizes["lr"], rate)]
            _draw(loss, rows.assign(loss=np.exp(rows["log_loss"])), "loss", look)
            _draw(law, rows, "law", look)
            _draw(ratio, rows, "ratio", look)
        for norm in MEASURED:
            _draw(others, norms[norms["norm"] == norm], "law", norm_look(norm))
        for axis in (law, others, ratio):
            axis.axhline(1, color=GREY, lw=0.9, ls=":")
        for axis in (loss, law):
            log_axis(axis, "y")
        loss.set_ylim(bottom=1e-10)
        law.set_ylim(1e-3, 1e3)
        loss.set_ylabel("loss $L$")
        law.set_ylabel(r"$\gamma^2 \eta t L$")
        ratio.set_ylabel(r"$\ell_2$ margin / maximum")
        ratio.set_ylim(-0.5, 1.05)
        others.set_ylabel(r"$\gamma^2 \eta t L$")
        others.set_ylim(0, 1.1)
        titles = ("loss", "the law of small steps", "margin", "steepest descent in three norms")
        for axis, letter, title in zip(axes.flat, "abcd", titles, strict=True):
            axis.set_title(f"({letter}) {title}", loc="left")
            axis.set_xlabel("step $t$")
            axis.set_xlim(1, table["step"].max())
            log_axis(axis, "x")
        legend_below(figure, [*(look.handle() for look in LOOKS.values()), *(norm_look(norm).handle() for norm in MEASURED)])
        return figure

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        if preset == "smoke":
            return []
        sizes, norms = (table[table["part"] == part] for part in (SIZES, NORMS))
        ends = _ends(sizes, "lr")
        return [
            self._small(ends, preset),
            self._norms(_ends(norms, "norm"), preset),
            self._phase(sizes, preset),
            self._below(ends, preset),
            self._short(ends, preset),
        ]

    def _small(self, ends: pd.DataFrame, preset: Preset) -> Claim:
        law = pd.concat([_at(ends["law"], rate) for rate in SMALL])
        return self.claim(
            preset,
            f"with small steps (eta = {_listed(SMALL)}) gamma^2 eta t L tends to 1: least and largest of all runs, last step",
            kind="derived",
            expected="1",
            measured=numbers([law.min(), law.max()], 4),
            tolerance=f"{NEAR:g}",
            holds=bool(((law - 1).abs() <= NEAR).all()),
            source="derived here",
        )

    def _norms(self, ends: pd.DataFrame, preset: Preset) -> Claim:
        means = ends["law"].groupby("norm").mean().reindex(list(MEASURED))
        return self.claim(
            preset,
            f"so it does for steepest descent in {', '.join(MEASURED)}, gamma the maximum margin in that norm, from below: means",
            kind="derived",
            expected="1",
            measured=numbers(means.to_numpy()),
            tolerance=f"{SLOWER:g}",
            holds=bool(means.between(1 - SLOWER, 1).all()),
            source="derived here",
            setting=f"{SEEDS.at(preset)} seeds of {MIXTURE}; linear model, steepest descent, lr=auto, {STEPS.at(preset):,} steps",
        )

    def _phase(self, sizes: pd.DataFrame, preset: Preset) -> Claim:
        found = _last_rises(sizes)
        share = (found["last"] / found["allowed"]).groupby("lr").max()
        rises = found["last"].groupby("lr").max()
        return self.claim(
            preset,
            f"the loss rises with large steps only (eta = {_listed(LARGE)}), and for the last time before step"
            " max(eta, n) / gamma^2: last record of all seeds, for every eta; and its largest share of that",
            kind="theorem",
            expected="O(eta) steps (abstract)",
            measured=f"{numbers(rises.to_numpy(), 0)}; {share.max():.2f}",
            tolerance="0 for the small, <= 1 of it",
            source="Wu, Bartlett, Telgarsky and Yu, arXiv 2402.15926, abstract; max(eta, n) / gamma^2 is chosen here",
            holds=bool((rises.iloc[: len(SMALL)] == 0).all() and (rises.iloc[len(SMALL) :] > 0).all() and share.max() <= 1),
        )

    def _below(self, ends: pd.DataFrame, preset: Preset) -> Claim:
        law = _at(ends["law"], RATES[-1])
        return self.claim(
            preset,
            f"with eta = {RATES[-1]:g} the loss ends far below the law, the step that separates the data leading so far:"
            " gamma^2 eta t L, mean",
            kind="check",
            expected="O(1) (an upper bound)",
            measured=mean_and_spread(law),
            tolerance=f"<= {BELOW:g} on every seed",
            holds=bool((law <= BELOW).all()),
            source="this project's own check",
        )

    def _short(self, ends: pd.DataFrame, preset: Preset) -> Claim:
        large, small = (_at(ends["ratio"], rate) for rate in (RATES[-1], SMALL[-1]))
        return self.claim(
            preset,
            f"and the margin is short of its maximum after as many steps: l2 margin over its maximum with eta = {RATES[-1]:g} and"
            f" {SMALL[-1]:g}, means",
            kind="check",
            measured=f"{mean_and_spread(large)} and {mean_and_spread(small)}",
            tolerance=f"<= {SHORT:g} of the other on every seed",
            holds=bool((large <= SHORT * small).all()),
            source="this project's own check",
        )

    def findings(self, table: pd.DataFrame, preset: Preset) -> list[Finding]:
        if preset == "smoke":
            return []
        ends = _ends(table[table["part"] == SIZES], "lr")
        losses, ratios = ([_at(ends[key], rate).mean() for rate in (RATES[-1], SMALL[-1])] for key in ("log_loss", "ratio"))
        return [
            Finding(
                "Large steps buy loss, not margin",
                "A step so large that it separates the data by itself leaves a loss far below 1 / (gamma^2 eta t), and as steps"
                " are in proportion to the loss, the direction then hardly moves: the margin is short of its maximum where"
                " small steps have long come near it.",
                f"after {STEPS.at(preset):,} steps with eta = {RATES[-1]:g} and {SMALL[-1]:g}: log10 L"
                f" {losses[0] / np.log(10):.1f} and {losses[1] / np.log(10):.1f}, l2 ratio {ratios[0]:.2f} and {ratios[1]:.2f}",
            )
        ]


def _ends(rows: pd.DataFrame, key: str) -> pd.DataFrame:
    """The last record of every run, by ``key`` and seed."""
    last = rows[rows["step"] == rows["step"].max()]
    found: pd.DataFrame = last.set_index([key, "seed"]).sort_index()
    return found


def _at(values: pd.Series, rate: float) -> pd.Series:
    """Those of a rate, by seed."""
    found: pd.Series = values[values.index.get_level_values("lr") == rate].droplevel("lr")
    return found


def _last_rises(sizes: pd.DataFrame) -> pd.DataFrame:
    """By rate and seed: ``last``, the last record with a larger loss than the one before it (0: none), and ``allowed``,
    max(eta, n) / gamma^2."""
    found = []
    for (rate, seed), group in sizes.groupby(["lr", "seed"]):
        lr, rows = float(str(rate)), group.sort_values("step")
        rises = rows["step"][rows["log_loss"].diff() > 0]
        first = rows.iloc[0]
        gamma2 = first["law"] / (lr * first["step"] * np.exp(first["log_loss"]))
        last = float(rises.max()) if len(rises) else 0.0
        found.append({"lr": lr, "seed": seed, "last": last, "allowed": max(lr, SAMPLES) / gamma2})
    return pd.DataFrame(found).set_index(["lr", "seed"])


def _listed(rates: Sequence[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)


def _draw(axis: Axes, rows: pd.DataFrame, column: str, look: Look) -> None:
    """Every seed thin, the median over seeds thick."""
    for _, curve in rows.groupby("seed"):
        axis.plot(curve["step"], curve[column], color=look.color, lw=0.5, alpha=0.4)
    median = rows.groupby("step")[column].median()
    marked = [len(median) * share // 5 for share in range(1, 5)]
    axis.plot(median.index, median, **look.plot(marked))
