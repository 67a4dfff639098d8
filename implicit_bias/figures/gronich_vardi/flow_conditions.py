"""Outside the conditions of the theorems on networks: schedules, Adam's averages, Newton-Schulz, kinks in the activation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from implicit_bias.analysis.runs import Run, mean_and_spread
from implicit_bias.figures.base import FIGURES, Figure, PerPreset, Preset, one_line
from implicit_bias.figures.claims import Claim, Finding
from implicit_bias.figures.gronich_vardi.common import OUTSIDE, TARGET, last_record
from implicit_bias.plotting.bands import log_where_drawn, mean_and_range
from implicit_bias.plotting.explorer import DEPTH, STEP, Explorer, Quantity
from implicit_bias.plotting.style import DASHDOT, DASHED, DOTTED, GREY, Look, optimizer_look, panels

SEEDS = PerPreset(smoke=1, default=3, paper=10)
STEPS = PerPreset(smoke=40, default=3000, paper=10_000)
ADAM_SHARE = 2
SIZE = PerPreset(
    smoke=["dataset.samples=16", "dataset.pixels=4", "model.width=6"],
    default=["dataset.samples=48", "model.width=24"],
    paper=["dataset=mnist", "dataset.samples=2048", "model.width=64"],
)
SIZE_IN_WORDS = PerPreset(smoke="16 digits, width 6", default="48 digits, width 24", paper="2,048 of MNIST's digits, width 64")
SCHEDULES, BETAS, GROWTH, ITERATION, KINKS = "schedule", "betas", "growth", "iteration", "activation"

POWERS = (1.0, 0.8, 0.3, 0.0)
#: eta0 of power .8, as schedule.lr=auto has it here; the others travel as far in the first MATCHED steps.
ETA0, MATCHED = 0.5, 1000
#: With L = 3 the theorems ask for a power above this.
LEAST_POWER = 2 / 3
#: Adam's pairs that are trained to 1e-8. The theorem asks for beta1 <= beta2; the last two are outside.
PAIRS = ((0.9, 0.999), (0.9, 0.99), (0.9, 0.9), (0.9, 0.85), (0.9, 0.82))
ALLOWED = (0.9, 0.99)
# Where a gradient vanishes (a dead unit), m / sqrt(v) goes as (beta1 / sqrt(beta2))^t: bounded only for beta1^2 <= beta2.
GROWING = ((0.9, 0.99), (0.9, 0.85), (0.99, 0.9), (0.9, 0.7), (0.9, 0.5))
GROWTH_WINDOW = 0.6
GROWTH_STEPS = PerPreset(smoke=60, default=400, paper=400)
ACTIVATIONS = {
    "relu": ("ReLU", ["model.activation=relu"]),
    "leaky_relu": ("leaky ReLU", ["model.activation=leaky_relu"]),
    "relu^1.1": ("ReLU$^{1.1}$", ["model.activation=relu_power", "model.power=1.1"]),
    "relu^1.5": ("ReLU$^{1.5}$", ["model.activation=relu_power", "model.power=1.5"]),
    "squared_relu": ("ReLU$^2$", ["model.activation=squared_relu"]),
}
POWER_LOOKS = {
    1.0: Look("$t^{-1}$", "#0072B2", "s"),
    0.8: Look("$t^{-0.8}$", "#009E73", "o"),
    0.3: Look("$t^{-0.3}$", "#E69F00", "^", DASHED),
    0.0: Look("constant", "#D55E00", "v", DASHDOT),
}
PAIR_LOOKS = dict(
    zip(
        GROWING,
        (
            Look("(.9, .99)", "#0072B2", "s"),
            Look("(.9, .85)", "#56B4E9", "X", DASHDOT),
            Look("(.99, .9)", "#E69F00", "^"),
            Look("(.9, .7)", "#D55E00", "v", DASHED),
            Look("(.9, .5)", "#CC79A7", "D", DASHDOT),
        ),
        strict=True,
    )
)
ACTIVATION_LOOKS = {
    name: Look(ACTIVATIONS[name][0], colour, marker, line)
    for name, colour, marker, line in (
        ("relu", "#D55E00", "v", "-"),
        ("leaky_relu", "#CC79A7", "^", DOTTED),
        ("relu^1.1", "#E69F00", "s", DASHED),
        ("relu^1.5", "#56B4E9", "X", DASHDOT),
        ("squared_relu", "#0072B2", "o", "-"),
    )
}


@FIGURES.register
class FlowConditions(Figure):
    """What happens outside the conditions under which convergence to KKT directions is proved."""

    name = "flow_conditions"
    headline = "NMGD with t^-0.8"
    order = 113
    title = "Outside the theorems' conditions"
    source = "Gronich and Vardi, arXiv 2602.16340, Theorems 3.3 and 3.6: conditions on schedule, betas and smoothness"
    kind = "theorem"
    paper = "gronich_vardi"
    minutes = PerPreset(smoke=0.1, default=0.9, paper=1200.0)

    def setting(self, preset: Preset) -> str:
        return one_line(f"""
            two-layer squared ReLU network (unless said) on even against odd digits ({SIZE_IN_WORDS.at(preset)}),
            {SEEDS.at(preset)} seeds, {STEPS.at(preset):,} steps (Adam to 1e-8: {ADAM_SHARE * STEPS.at(preset):,}, its growth:
            {GROWTH_STEPS.at(preset)})
        """)

    def caption(self, preset: Preset) -> str:
        return one_line(f"""
            Two-layer network on even against odd digits ({SIZE_IN_WORDS.at(preset)}, {SEEDS.at(preset)} seeds),
            squared ReLU unless said. (a) NMGD (thick) and NGD (thin) with eta0 t^-p, eta0 {ETA0} for p = .8 and
            for the others such that all travel as far in {MATCHED:,} steps; {STEPS.at(preset):,} steps:
            alignment in l2 against the depth of the loss. The theory of momentum asks for p > 2/3. Outside,
            NMGD's margin falls as well, below its peak; NGD's goes on rising, and its alignment is lost to the
            finite step (a quarter of the step restores most of it). (b) Adam, eps 0, t^-.8: the largest
            parameter. The theory asks for beta1 <= beta2; with beta1^2 > beta2 Adam without eps blows up, as
            the step of a parameter whose gradient vanishes (a dead unit's) grows as (beta1 / sqrt(beta2))^t.
            (c) Muon with the exact polar factor and with 5 Newton-Schulz steps: spectral margin against the
            loss. (d) NMGD, t^-.8: 1 - cosine between the parameters and those after ten times the steps, for
            activations with and without a kink. Means (geometric in c and d) and ranges over seeds.
        """)

    def sweeps(self, preset: Preset) -> list[list[str]]:
        base = [f"experiment={self.name}", *SIZE.at(preset), f"steps={STEPS.at(preset)}", f"seed=range(1,{SEEDS.at(preset) + 1})"]
        stopping = [*base, f"stop_log10_loss={TARGET:g}", "log.levels=2"]
        schedules = [
            [*base, f"optimizer={m}", f"schedule.power={p:g}", f"schedule.lr={first_rate(p):.6g}"]
            for m in ("nmgd", "ngd")
            for p in POWERS
        ]
        # Adam is slow: more steps to the same loss.
        longer = f"steps={ADAM_SHARE * STEPS.at(preset)}"
        betas = [[*stopping, longer, "optimizer=adam", f"optimizer.beta1={b1}", f"optimizer.beta2={b2}"] for b1, b2 in PAIRS]
        short = [f"steps={GROWTH_STEPS.at(preset)}", "optimizer=adam"]
        growing = [[*base, *short, f"optimizer.beta1={b1}", f"optimizer.beta2={b2}"] for b1, b2 in GROWING]
        iteration = [[*stopping, f"optimizer={m}"] for m in ("muon", "muon_ns")]
        kinks = [[*base, "optimizer=nmgd", *overrides] for _, overrides in ACTIVATIONS.values()]
        return [*schedules, *betas, *growing, *iteration, *kinks]

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """part, variant, optimizer, seed, step, depth (log10 of 1 / loss), margin, alignment, param_norm,
        later_cosine: in the own norm.
        """
        parts = []
        for run in runs:
            part, variant = part_of(run)
            rows = last_record(run) if part == BETAS else run.trajectory
            rows = rows[(rows["norm"] == run.spec.working_norm.label) & (rows["step"] > 0)]
            parts.append(rows.assign(part=part, variant=variant, optimizer=run.spec.optimizer.name))
        table = pd.concat(parts, ignore_index=True)
        table["depth"] = -table["log_loss"] / np.log(10)
        columns = ["part", "variant", "optimizer", "seed", "step", "depth", "margin", "alignment", "param_norm", "later_cosine"]
        return table.reindex(columns=columns)

    def explorer(self, table: pd.DataFrame) -> Explorer:
        table = table[table["part"] != BETAS]
        # The runs of this part are recorded by loss, at steps that differ from seed to seed.
        half = (table["depth"] * 2).apply(np.floor) / 2
        rows = table.assign(
            run=table["variant"].astype(str) + " " + table["optimizer"],
            turn=1 - table["later_cosine"],
            at=half.where(table["part"] == ITERATION, table["step"]),
        ).drop_duplicates(["part", "run", "seed", "at"])
        parts = {
            SCHEDULES: "step sizes",
            GROWTH: "Adam's beta1, beta2",
            ITERATION: "polar factor and Newton-Schulz",
            KINKS: "activations",
        }
        return Explorer(
            rows,
            "run",
            _run_looks(),
            (replace(DEPTH, log=True), STEP),
            (
                Quantity("alignment", "alignment, own norm"),
                Quantity("margin", "margin, own norm"),
                Quantity("param_norm", "norm of the parameters", log=True),
                Quantity("turn", "1 - cosine with the parameters after ten times the steps", log=True),
            ),
            {"part": ("condition", parts)},
            at="at",
        )

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        figure, axes = panels(2, 2, height=4.8)
        self._draw_schedules(axes[0, 0], table[table["part"] == SCHEDULES])
        self._draw_growth(axes[0, 1], table[table["part"] == GROWTH])
        self._draw_iteration(axes[1, 0], table[table["part"] == ITERATION])
        self._draw_kinks(axes[1, 1], table[table["part"] == KINKS])
        return figure

    def _draw_schedules(self, axis: Axes, rows: pd.DataFrame) -> None:
        for p in POWERS:
            look = POWER_LOOKS[p]
            for name, width in (("nmgd", 1.6), ("ngd", 0.6)):
                curve = rows[(rows["variant"].astype(float) == p) & (rows["optimizer"] == name) & (rows["depth"] > 0)]
                mean = curve.groupby("step")[["depth", "alignment"]].mean()
                mean = mean[mean["depth"] > 1]
                marks: dict[str, Any] = {"marker": look.marker, "markevery": 3} if name == "nmgd" else {}
                axis.plot(mean["depth"], mean["alignment"], color=look.color, ls=look.line, lw=width, **marks)
        axis.set_ylim(-0.05, 1.05)
        log_where_drawn(axis, "x")
        axis.set_xlabel(r"$\log_{10}(1 / \mathrm{loss})$")
        axis.set_ylabel("alignment, $\\ell_2$")
        axis.set_title("(a) alignment under step sizes $t^{-p}$")
        widths = [Line2D([], [], color=GREY, lw=lw, label=name) for name, lw in (("NMGD", 1.6), ("NGD", 0.6))]
        axis.legend(handles=[*(POWER_LOOKS[p].handle() for p in POWERS), *widths], fontsize=6.5, loc="center right")

    def _draw_growth(self, axis: Axes, rows: pd.DataFrame) -> None:
        axis.set_yscale("log")
        for pair, look in PAIR_LOOKS.items():
            mean_and_range(axis, rows[rows["variant"] == pair_name(*pair)], "step", "param_norm", look, every=5)
        log_where_drawn(axis, "y")
        axis.set_xlabel("step $t$")
        axis.set_ylabel(r"$\|\theta_t\|_\infty$")
        axis.set_title(r"(b) Adam's parameters, by $(\beta_1, \beta_2)$")
        axis.legend(handles=[look.handle() for look in PAIR_LOOKS.values()], fontsize=6.5, loc="upper left", labelspacing=0.25)

    def _draw_iteration(self, axis: Axes, rows: pd.DataFrame) -> None:
        axis.set_yscale("log")
        for m in ("muon", "muon_ns"):
            mean_and_range(axis, first_below(rows[rows["optimizer"] == m]), "loss", "margin", optimizer_look(m))
        axis.set_xscale("log")
        axis.set_xlim(1, 10**TARGET / 2)
        axis.set_xticks([10.0**e for e in range(0, -9, -2)])
        axis.minorticks_off()
        log_where_drawn(axis, "y")
        axis.set_xlabel("loss, falling \N{RIGHTWARDS ARROW}")
        axis.set_ylabel("spectral margin")
        axis.set_title("(c) margin with the exact polar factor, and without")
        axis.legend(handles=[optimizer_look(m).handle() for m in ("muon", "muon_ns")], fontsize=6.5, loc="lower right")

    def _draw_kinks(self, axis: Axes, rows: pd.DataFrame) -> None:
        axis.set_yscale("log")
        for name, look in ACTIVATION_LOOKS.items():
            curve = rows[(rows["variant"] == name)].assign(turn=lambda r: 1 - r["later_cosine"]).dropna(subset=["turn"])
            mean_and_range(axis, curve, "step", "turn", look)
        axis.set_xscale("log")
        log_where_drawn(axis, "x")
        log_where_drawn(axis, "y")
        axis.set_xlabel("step $t$")
        axis.set_ylabel(r"$1 - \cos(\theta_t, \theta_{10 t})$")
        axis.set_title("(d) turn of NMGD's direction, by activation")
        axis.legend(handles=[look.handle() for look in ACTIVATION_LOOKS.values()], fontsize=6.5, loc="best", labelspacing=0.25)

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        if preset == "smoke":
            return []
        return [
            *self._schedule_claims(table[table["part"] == SCHEDULES], preset),
            *self._beta_claims(table[table["part"] == BETAS], preset),
            *self._growth_claims(table[table["part"] == GROWTH], preset),
            self._iteration_claim(table[table["part"] == ITERATION], preset),
            self._kink_claim(table[table["part"] == KINKS], preset),
        ]

    def findings(self, table: pd.DataFrame, preset: Preset) -> list[Finding]:
        if preset == "smoke":
            return []
        told = []
        for b1, b2 in GROWING:
            here = table[(table["part"] == GROWTH) & (table["variant"] == pair_name(b1, b2))]
            last = here[here["step"] == here["step"].max()]["param_norm"]
            told.append(f"({b1:g}, {b2:g}) {last.mean():.1e}")
        return [
            Finding(
                "Adam without eps blows up where beta1^2 > beta2",
                one_line("""
                    The theorem asks for beta1 <= beta2. Where a gradient vanishes, as a dead unit's does, both averages
                    decay, and the step m / sqrt(v) goes as (beta1 / sqrt(beta2))^t: while beta1^2 < beta2 < beta1 training still
                    works, and beyond it the parameters grow exponentially.
                """),
                f"largest parameter after {GROWTH_STEPS.at(preset)} steps, by (beta1, beta2): {', '.join(told)}",
            )
        ]

    def _schedule_claims(self, rows: pd.DataFrame, preset: Preset) -> list[Claim]:
        claims = []
        for p in POWERS:
            told = {}
            for m in ("nmgd", "ngd"):
                curve = rows[(rows["variant"].astype(float) == p) & (rows["optimizer"] == m)]
                early = curve[curve["depth"] <= -TARGET].sort_values("step").groupby("seed")["alignment"].last()
                ends = curve.sort_values("step").groupby("seed")[["alignment", "depth", "margin"]].last()
                kept = ends["margin"] / curve.groupby("seed")["margin"].max()
                told[m] = (early, ends["alignment"], ends["depth"].mean(), kept)
            before, after, depth, kept = told["nmgd"]
            plain_before, plain_after, _, plain_kept = told["ngd"]
            inside = p > LEAST_POWER
            drop = before.mean() - after.mean()
            claims.append(
                self.claim(
                    preset,
                    f"NMGD with {POWER_LOOKS[p].label.replace('$', '').replace('{', '').replace('}', '')}: alignment "
                    + ("does not fall" if inside else "falls")
                    + " after a loss of 1e-8"
                    + ("" if inside else ", the power being outside the condition p > 2/3"),
                    measured=f"{mean_and_spread(before, 2)} to {mean_and_spread(after, 2)} at 10^-{depth:.0f}; "
                    f"margin over its peak {mean_and_spread(kept, 2)}; NGD {mean_and_spread(plain_before, 2)} to "
                    f"{mean_and_spread(plain_after, 2)}, margin over its peak {mean_and_spread(plain_kept, 2)}",
                    expected="-> 1" if inside else "not covered",
                    kind="theorem" if inside else "check",
                    source=self.source if inside else OUTSIDE,
                    tolerance="fall < 0.02" if inside else "fall > 0.02",
                    holds=bool(drop < 0.02 if inside else drop > 0.02),
                )
            )
        return claims

    def _beta_claims(self, rows: pd.DataFrame, preset: Preset) -> list[Claim]:
        shares, claims = over_allowed(rows), []
        reference = rows[rows["variant"] == pair_name(*ALLOWED)]["alignment"]
        for b1, b2 in PAIRS:
            if b1 > b2:
                here = rows[rows["variant"] == pair_name(b1, b2)]
                claims.append(
                    self.claim(
                        preset,
                        f"Adam with beta1 {b1:g} > beta2 {b2:g}, beta1^2 < beta2, ends with the linf alignment of (.9, .99)",
                        source=OUTSIDE,
                        kind="check",
                        measured=f"{mean_and_spread(here['alignment'])} against {mean_and_spread(reference)}; linf margin "
                        f"{mean_and_spread(shares[pair_name(b1, b2)])} of its; loss 10^-{here['depth'].min():.1f}",
                        expected="not covered",
                        tolerance="means within 0.1, loss 1e-8 reached",
                        reason=f"not covered by the theorem, and near beta1^2 = beta2, where Adam blows up: the step of an entry "
                        f"whose gradient has vanished dies only as {b1 / b2**0.5:.3f}^t",
                        holds=bool(abs(here["alignment"].mean() - reference.mean()) < 0.1 and here["depth"].min() >= -TARGET),
                    )
                )
        return claims

    def _growth_claims(self, rows: pd.DataFrame, preset: Preset) -> list[Claim]:
        claims = []
        for b1, b2 in GROWING:
            if b1**2 > b2:
                here = rows[rows["variant"] == pair_name(b1, b2)]
                last = here[here["step"] == here["step"].max()]["param_norm"]
                claims.append(
                    self.near(
                        preset,
                        f"Adam with beta1 {b1:g}, beta2 {b2:g}, beta1^2 > beta2, blows up: "
                        "factor a step, against beta1 / sqrt(beta2)",
                        [growth(here)],
                        [b1 / b2**0.5],
                        0.01,
                        kind="derived",
                        beside=f"|theta|_inf {mean_and_spread(last, 2)} after {int(here['step'].max())} steps",
                        source="derived here: m / sqrt(v) of an entry whose gradient vanishes",
                    )
                )
        return claims

    def _iteration_claim(self, rows: pd.DataFrame, preset: Preset) -> Claim:
        last = rows.sort_values("step").groupby(["optimizer", "seed"])[["margin", "alignment"]].last()
        ratio = last.loc["muon_ns"]["margin"] / last.loc["muon"]["margin"]
        return self.claim(
            preset,
            "Muon with 5 Newton-Schulz steps ends with a smaller spectral margin than with the exact polar factor, on every seed",
            kind="reproduction",
            measured=f"ratio {mean_and_spread(ratio)}; alignment {mean_and_spread(last.loc['muon_ns']['alignment'])} "
            f"against {mean_and_spread(last.loc['muon']['alignment'])}",
            expected="on a linear model .917",
            tolerance="< 1 on every seed",
            holds=bool((ratio < 1).all()),
            source="a blog's experiment with Muon on a linear model, random labels, k = 4, d = 24, n = 40",
        )

    def _kink_claim(self, rows: pd.DataFrame, preset: Preset) -> Claim:
        turns = rows.dropna(subset=["later_cosine"]).sort_values("step").groupby(["variant", "seed"])["later_cosine"].last()
        turn = (1 - turns).unstack(0)
        return self.claim(
            preset,
            "1 - cosine over the last decade of steps is larger with ReLU than with squared ReLU (T2, T3 may fail)",
            source=OUTSIDE,
            kind="check",
            measured=", ".join(f"{name} {mean_and_spread(turn[name], 2)}" for name in ACTIVATIONS if name in turn) or "no record",
            expected="suspected",
            tolerance="> in the mean",
            reason="the seeds differ by more than the activations do: with so few of them nothing can be told",
            holds=bool(not turn.empty and turn["relu"].mean() > turn["squared_relu"].mean()),
        )


def first_rate(power: float) -> float:
    """eta0 with which eta0 t^-power travels as far in MATCHED steps as ETA0 t^-.8."""
    steps = np.arange(1, MATCHED + 1, dtype=float)
    return float(ETA0 * (steps**-0.8).sum() / (steps**-power).sum())


def growth(rows: pd.DataFrame) -> float:
    """The factor by which a step grows, from the parameters' norm over the last records, eta_t's own decay taken out."""
    norms = rows.groupby("step")["param_norm"].apply(lambda values: float(np.log(values).mean()))
    late = norms[norms.index >= GROWTH_WINDOW * norms.index.max()]
    steps = late.index.to_numpy(float)
    return float(np.exp(np.polyfit(steps, late.to_numpy(float) + 0.8 * np.log(steps), 1)[0])) if len(late) > 1 else float("nan")


def pair_name(beta1: float, beta2: float) -> str:
    """Adam's two averages as a variant's name."""
    return f"{beta1:g} {beta2:g}"


def part_of(run: Run) -> tuple[str, str]:
    """Which part of the figure a run belongs to, and its variant there."""
    spec, optimizer = run.spec, run.spec.optimizer.name
    if optimizer == "adam":
        betas = pair_name(spec.value("optimizer.beta1"), spec.value("optimizer.beta2"))
        return BETAS if spec.stop_log10_loss is not None else GROWTH, betas
    if optimizer in ("muon", "muon_ns"):
        return ITERATION, optimizer
    if spec.schedule.lr != "auto":
        return SCHEDULES, f"{spec.value('schedule.power'):g}"
    activation = spec.value("model.activation")
    return KINKS, f"relu^{spec.value('model.power'):g}" if activation == "relu_power" else str(activation)


def over_allowed(rows: pd.DataFrame) -> pd.DataFrame:
    """The margins of Adam's variants over that of the allowed pair, seeds by variants."""
    wide = rows.pivot(index="seed", columns="variant", values="margin")
    return wide.div(wide[pair_name(*ALLOWED)], axis=0)


def first_below(rows: pd.DataFrame) -> pd.DataFrame:
    """For every seed and half decade of loss the first row below it, with that `loss`."""
    levels = np.arange(0, -TARGET + 0.25, 0.5)
    parts = [
        rows[rows["depth"] >= level].sort_values("step").groupby("seed").head(1).assign(loss=10.0**-level) for level in levels
    ]
    return pd.concat(parts, ignore_index=True)


def _run_looks() -> dict[str, Look]:
    """The looks of all runs by `variant optimizer`; of two methods with one schedule, NGD is dotted."""
    looks = {}
    for power, look in POWER_LOOKS.items():
        for m, line in (("nmgd", "-"), ("ngd", DOTTED)):
            looks[f"{power:g} {m}"] = replace(look, label=f"{optimizer_look(m).label}, {look.label}", line=line)
    looks |= {f"{pair_name(*pair)} adam": look for pair, look in PAIR_LOOKS.items()}
    looks |= {f"{m} {m}": optimizer_look(m) for m in ("muon", "muon_ns")}
    return looks | {f"{name} nmgd": look for name, look in ACTIVATION_LOOKS.items()}
