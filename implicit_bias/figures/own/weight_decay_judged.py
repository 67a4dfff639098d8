"""What the figure on weight decay is judged by."""

from __future__ import annotations

import numpy as np
import pandas as pd

from implicit_bias.analysis.runs import mean_and_spread, numbers
from implicit_bias.figures.base import Figure, Preset, one_line
from implicit_bias.figures.claims import Claim, Finding
from implicit_bias.plotting.style import optimizer_look

#: Parts of the table.
END, CURVE, READ, SINGLE = "end", "curve", "read", "single"
#: The data of AdamW by single samples, and how near to the law its size is to be.
SINGLE_TOLD, SINGLE_NEAR = "12 Gaussian samples of 50 features, two random labels", 0.01
PLAIN, MOMENTUM, ADAM = ("signgd", "ngd", "spectral_gd"), ("signum", "nmgd", "muon"), "adam"
WORDS = {"linf": "max-norm", "l2": "l2", "spectral": "spectral"}
# At these decays the law is judged, and it is to be nearer at the second.
JUDGED, NEARER = 0.02, 0.005
# Max-norm steps are judged there alone: with larger decay few entries are at the bound, with smaller ones they are slow.
OF_SIGNS = 0.01
LAW, SIZE, REACHED, READ_OFF = 0.1, 1e-12, 1e-3, 1e-3
# Off the best point of the ball, of which no law is asked: from this decay on its loss is all but the exponential.
SOLVED, SOLVED_SIGNS, FROM = 0.01, 0.1, 0.05


def ends(table: pd.DataFrame) -> pd.DataFrame:
    """The last records of runs with decay, with `over` = measured gap over the law's."""
    rows = table[table["part"] == END]
    return rows.assign(over=rows["gap"] / rows["predicted"])


def claims(figure: Figure, table: pd.DataFrame, preset: Preset) -> list[Claim]:
    """The verdicts."""
    rows = ends(table)
    judged = [_law(figure, rows, method, preset) for method in ("ngd", "nmgd", "spectral_gd", "muon")]
    judged += [_law_of_signs(figure, rows, method, preset) for method in ("signgd", "signum", ADAM)]
    judged.append(_in_the_ball(figure, rows, preset))
    judged += [_as_solved(figure, rows, norm, preset) for norm in WORDS]
    judged.append(_single(figure, table, preset))
    return [*judged, *(_read(figure, table, method, preset) for method in (*PLAIN, "muon"))]


def findings(table: pd.DataFrame) -> list[Finding]:
    """How far the law is off where it is not yet the limit, and how slow max-norm steps are."""
    rows = ends(table)
    muon = rows[rows["method"] == "muon"].sort_values("weight_decay", ascending=False)
    judged = muon[muon["weight_decay"] == JUDGED]
    worst = int(judged.iloc[int((judged["over"] - 1).abs().to_numpy().argmax())]["seed"])
    curve = muon[muon["seed"] == worst]
    signs = rows[(rows["method"] == "signgd") & (rows["weight_decay"] == OF_SIGNS)]["over"]
    slow = rows[(rows["weight_decay"] == NEARER)].groupby("norm")["fw_gap"].median()
    return [
        Finding(
            "Weight decay stops the margin at a distance that the optimum's dual weights tell beforehand",
            one_line("""
                The law is the limit of small decay, and how small depends on the data: where a dual weight is small, its sample
                is no support vector yet at a larger wd. The best point of the ball itself, by a solver, has no such limit. The
                certificate fw_gap tells a run that has not arrived from one that has: the ball of the max-norm is a polytope, on
                whose faces steps of Frank and Wolfe are slow, and slowest without momentum.
            """),
            f"Muon, seed {worst}, the one furthest off at wd = {JUDGED:g}: measured over predicted"
            f" {numbers(curve['over'].to_numpy())} at wd = {', '.join(f'{decay:g}' for decay in curve['weight_decay'])};"
            f" SignGD at wd = {OF_SIGNS:g}:"
            f" {mean_and_spread(signs)}; median fw_gap at wd = {NEARER:g}: "
            + ", ".join(f"{WORDS[norm]} {slow[norm]:.1e}" for norm in WORDS),
        )
    ]


def _law(figure: Figure, rows: pd.DataFrame, method: str, preset: Preset) -> Claim:
    """Near in the mean at one decay, and nearer at a smaller one."""
    over = rows[rows["method"] == method].groupby("weight_decay")["over"]
    far, near = abs(over.mean()[JUDGED] - 1), abs(over.mean()[NEARER] - 1)
    return figure.claim(
        preset,
        f"{optimizer_look(method).label}: the relative margin gap is wd kappa / gamma*, mean over seeds at wd = {JUDGED:g}, and"
        f" nearer at {NEARER:g} (measured over predicted)",
        measured=f"{mean_and_spread(over.get_group(JUDGED))}; {mean_and_spread(over.get_group(NEARER))}",
        expected="1",
        tolerance=f"{LAW:g}",
        holds=far <= LAW and near < far,
    )


def _law_of_signs(figure: Figure, rows: pd.DataFrame, method: str, preset: Preset) -> Claim:
    mine = rows[(rows["method"] == method) & (rows["weight_decay"] == OF_SIGNS)]
    over, gap = mine["over"], mine["fw_gap"].median()
    name = "AdamW, full batch" if method == ADAM else optimizer_look(method).label
    return figure.claim(
        preset,
        f"{name}: the relative margin gap is wd kappa / gamma*, mean over seeds at wd = {OF_SIGNS:g} (measured over predicted)",
        measured=mean_and_spread(over),
        expected="1",
        tolerance=f"{LAW:g}",
        holds=abs(over.mean() - 1) <= LAW,
        reason=f"it has not arrived: entries of the gradient change sign from step to step, and fw_gap is still {gap:.2g}",
    )


def _single(figure: Figure, table: pd.DataFrame, preset: Preset) -> Claim:
    """By the law, and nearer to it at the smaller decay."""
    rows = table[table["part"] == SINGLE]
    off = (rows["size"] / rows["predicted"] - 1).abs().groupby(rows["weight_decay"]).max()
    mine = rows[rows["weight_decay"] == rows["weight_decay"].min()].sort_values("seed")
    steps = int(rows["step"].max())
    return figure.claim(
        preset,
        "AdamW by single samples stops at a size that its fixed point tells beforehand, not at 1: max|W| wd at the smaller decay,"
        " by seed",
        measured=numbers(mine["size"].to_numpy(), 4),
        expected=numbers(mine["predicted"].to_numpy(), 4),
        tolerance=f"{SINGLE_NEAR:g} relative, and nearer than at the larger decay",
        holds=off.loc[off.index.min()] <= min(SINGLE_NEAR, off.loc[off.index.max()]),
        setting=f"seeds 1 to {rows['seed'].max()}; {SINGLE_TOLD}; linear model from zero, cross entropy, AdamW, eps 0,"
        f" reshuffled, constant step, wd {numbers(sorted(off.index, reverse=True), 1).replace(' / ', ' and ')}, {steps:,} steps",
        source="derived here: `decayed` in implicit_bias/measures/adam_limits.py",
        kind="derived",
    )


def _in_the_ball(figure: Figure, rows: pd.DataFrame, preset: Preset) -> Claim:
    sizes = rows[rows["method"].isin((*PLAIN, *MOMENTUM))]["size"]
    return figure.claim(
        preset,
        "N(W) wd <= 1 at every record of every run without Adam, and it comes to the bound (N(W) wd - 1, largest and least of all"
        " runs)",
        kind="theorem",
        measured=f"{sizes.max():.1e}, {sizes.min():.1e}",
        expected="0",
        tolerance=f"{SIZE:.0e} above, {REACHED:g} below",
        holds=sizes.max() <= SIZE and sizes.min() >= -REACHED,
        source="Frank and Wolfe; Xie and Li, arXiv 2404.04454",
    )


def _as_solved(figure: Figure, rows: pd.DataFrame, norm: str, preset: Preset) -> Claim:
    """Against the best point of the ball, in every seed and at every decay from which the two losses are one."""
    signs = norm == "linf"
    allowed, least = (SOLVED_SIGNS, OF_SIGNS) if signs else (SOLVED, NEARER)
    mine = rows[(rows["norm"] == norm) & rows["method"].isin(MOMENTUM) & rows["weight_decay"].between(least, FROM)]
    over = (mine["gap"] / mine["path"]).to_numpy()
    return figure.claim(
        preset,
        f"{WORDS[norm]}, with momentum: in every seed and at wd from {FROM:g} to {least:g} the gap is that of the best point of"
        " the ball (worst of measured over solved)",
        measured=f"{over[np.abs(over - 1).argmax()]:.4f}",
        expected="1",
        tolerance=f"{allowed:g}",
        holds=bool((np.abs(over - 1) <= allowed).all()),
    )


def _read(figure: Figure, table: pd.DataFrame, method: str, preset: Preset) -> Claim:
    rows = table[(table["part"] == READ) & (table["method"] == method)]
    last = rows[rows["step"] == rows["step"].max()]
    read, margin = last["read"].to_numpy(), 1 - last["gap"]
    return figure.claim(
        preset,
        f"{optimizer_look(method).label}, without decay: the optimum is read off the loss curve, -d log L / d(sum of steps) over"
        " the last decade over gamma* (seed furthest off; margin over gamma* then)",
        measured=f"{1 + read[np.abs(read).argmax()]:.5f}; {margin.min():.4f} to {margin.max():.4f}",
        expected="1",
        tolerance=f"{READ_OFF:g}",
        holds=bool((np.abs(read) <= READ_OFF).all()),
        setting=f"{last['seed'].nunique()} seeds of the same data; lr=auto, power .5, {int(last['step'].max()):,} steps",
    )
