"""Adam's throttle: how fast a constant step can lower the loss, beside the law."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from implicit_bias.analysis.runs import Run
from implicit_bias.figures.base import Figure, PerPreset, Preset
from implicit_bias.figures.claims import Claim
from implicit_bias.figures.papers import MIXTURE
from implicit_bias.measures.adam_limits import throttled_rate
from implicit_bias.plotting.labels import theory
from implicit_bias.plotting.style import DOTTED, NOTE_SIZE, log_axis, optimizer_look, shade

#: Of the table's rows.
PART = "throttle"
SOURCE = "derived here: the law of implicit_bias/measures/adam_limits.py"
BETA1 = 0.9
BETA2 = (0.95, 0.99, 0.999)
RATES = (0.0003, 0.001, 0.003, 0.03)
SEEDS = PerPreset(smoke=1, default=3, paper=10)
STEPS = PerPreset(smoke=100, default=20_000, paper=100_000)
# Relative: of the mean where steps are largest, and of every run, at small steps not yet in its limit's direction.
LARGEST, EVERY = 1e-3, 0.02


def words(preset: Preset) -> list[str]:
    """What its runs are, beside seeds and experiment: without eps, with a constant step."""
    rates, beta2 = ",".join(f"{rate:g}" for rate in RATES), ",".join(f"{beta:g}" for beta in BETA2)
    return [
        "schedule=constant",
        f"schedule.lr={rates}",
        f"optimizer.beta2={beta2}",
        f"steps={STEPS.at(preset)}",
        "log.norms=[linf]",
        "log.points=30",
        f"seed=range(1,{SEEDS.at(preset) + 1})",
    ]


def is_one(run: Run) -> bool:
    """Whether a run of the figure is one of these."""
    return run.spec.schedule.name == "constant"


def rows(run: Run) -> pd.DataFrame:
    """The row of a run: its step length gamma* eta, by how much log L fell in a step of its second half, and the law's number."""
    spec, records = run.spec, run.trajectory[run.trajectory["norm"] == "linf"]
    late = pd.concat([records[records["step"] <= spec.steps / 2].tail(1), records.tail(1)])
    rate, beta2 = float(spec.value("schedule.lr")), float(spec.value("optimizer.beta2"))
    length = rate * float(late["max_margin"].iloc[-1])
    told = {"part": PART, "eps": 0.0, "norm": "linf", "step": spec.steps, "seed": spec.seed, "beta2": beta2, "lr": rate}
    fell = -float(np.diff(late["log_loss"])[0] / np.diff(late["step"])[0])
    return pd.DataFrame([{**told, "length": length, "fell": fell, "law": throttled_rate(length, BETA1, beta2)}])


def draw(axis: Axes, table: pd.DataFrame) -> None:
    """The law's curve by beta2, its cap, and a point a run."""
    mine = table[table["part"] == PART]
    lengths = np.geomspace(mine["length"].min() / 1.5, mine["length"].max() * 1.5, 60)
    for i, beta2 in enumerate(BETA2):
        color = shade(optimizer_look("adam").color, i / (len(BETA2) - 1) * 0.8)
        axis.plot(lengths, [throttled_rate(length, BETA1, beta2) for length in lengths], color=color, lw=1.2)
        axis.axhline(-np.log(beta2) / 2, color=color, lw=0.8, ls=DOTTED, zorder=1)
        points = mine[mine["beta2"] == beta2]
        axis.plot(points["length"], points["fell"], optimizer_look("adam").marker, color=color, ms=3.4, mew=0.5)
        cap = -np.log(beta2) / 2
        axis.text(lengths[-1], cap * 1.08, rf"$\beta_2 = {beta2:g}$", color=color, fontsize=NOTE_SIZE, va="bottom", ha="right")
    theory(axis, lengths, lengths, "not throttled ", at=0.6, ha="right")
    axis.set_xlim(lengths[0], lengths[-1])
    axis.set_ylim(-np.log(max(BETA2)) / 4, -np.log(min(BETA2)) * 1.5)
    axis.set_xlabel(r"step length $\gamma^*\eta$")
    axis.set_ylabel(r"$-\Delta\,\log L$ a step")
    log_axis(axis, "x")
    log_axis(axis, "y")


def claims(figure: Figure, table: pd.DataFrame, preset: Preset) -> list[Claim]:
    """The law where steps are largest, and in every run."""
    mine = table[table["part"] == PART]
    largest = mine[mine["lr"] == max(RATES)].groupby("beta2")[["fell", "law"]].mean().loc[list(BETA2)]
    over = (mine["fell"] / mine["law"]).to_numpy()
    setting = f"{SEEDS.at(preset)} seeds of {MIXTURE}; linear model, Adam, eps 0, constant lr, {STEPS.at(preset):,} steps"
    law = "r = gamma* eta (1 - beta1) / (1 - beta1 e^r) sqrt((1 - beta2 e^2r) / (1 - beta2)) < log(1 / beta2) / 2"
    told = ", ".join(f"{beta:g}" for beta in BETA2)
    by_law, fell = largest["law"].to_numpy(), largest["fell"].to_numpy()
    return [
        figure.claim(
            preset,
            f"Adam's throttle: log loss falls per step by {law}, for beta2 {told}, means over seeds at the largest step",
            kind="derived",
            measured=" / ".join(f"{value:.4g}" for value in fell),
            expected=" / ".join(f"{value:.4g}" for value in by_law),
            tolerance=f"{LARGEST:g} relative",
            holds=bool((np.abs(fell / by_law - 1) <= LARGEST).all()),
            source=SOURCE,
            setting=setting,
        ),
        figure.claim(
            preset,
            f"the same law for steps from {min(RATES):g} to {max(RATES):g}, throttled or not: worst run, measured over law",
            kind="derived",
            measured=f"{over[np.abs(over - 1).argmax()]:.4f}",
            expected="1",
            tolerance=f"{EVERY:g}",
            holds=bool((np.abs(over - 1) <= EVERY).all()),
            source=SOURCE,
            setting=setting,
            reason="small steps have not arrived: their direction is not yet the limit's",
        ),
    ]
