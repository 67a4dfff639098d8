"""The claims and findings of the atlas, judged on its table."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from implicit_bias.figures.base import Figure, Preset, one_line
from implicit_bias.figures.claims import Claim, Finding
from implicit_bias.figures.own.torch_classes import ADAGRAD, ADAM, LION, MADGRAD, OF_LOG, OF_TORCH, SGD, SHAMPOO, TRUE
from implicit_bias.measures.exponents import AT, NEAR

#: Columns: norm, with its family and 1/p.
NORMS = {"linf": ("lp", 0.0), "l2": ("lp", 0.5), "l1": ("lp", 1.0), "spectral": ("schatten", 0.0), "nuclear": ("schatten", 1.0)}
#: What steps at a constant gradient are steepest descent in: groups of classes, with family and 1/p.
STEPS_IN = (
    ("linf", "lp", 0.0, (ADAM.label, LION.label, "RMSprop", ADAGRAD.label)),
    ("l_4", "lp", 0.25, (MADGRAD.label,)),
    ("the spectral norm", "schatten", 0.0, (SHAMPOO.label,)),
    ("l2", "lp", 0.5, (SGD.label,)),
)
NO_NORM = ("Adafactor", "CAME", "SM3")
ALIGNED, NOT_ALIGNED, SAME_P = 0.9999, 0.98, 0.005
#: An own norm of an optimizer needs this alignment.
OWN = 0.99
CHANGED = 0.1
#: Peaks of two families that are not further apart than this tell no family.
APART = 1e-3


@dataclass(frozen=True)
class Symmetric:
    """What a class is claimed not to change under, to what difference, and what it is claimed to change under."""

    method: str
    same: tuple[str, ...]
    within: float
    other: tuple[str, ...]
    words: tuple[str, str]


ROTATIONS, ENTRIES = ("left", "right"), ("entries",)
SYMMETRIES = (
    Symmetric(ADAM.label, ENTRIES, 1e-12, ROTATIONS, ("signed permutations of entries", "rotations")),
    Symmetric(SHAMPOO.label, ROTATIONS, 1e-10, ENTRIES, ("rotations from the left and the right", "permutations of entries")),
)


def own_norms(table: pd.DataFrame) -> dict[str, str]:
    """The column of the norm that a class's steps at a constant gradient are steepest descent in, by class that has one."""
    rows = table[(table["part"] == "static") & (table["alignment"] >= OWN)]
    found: dict[str, str] = {}
    for norm, (family, u) in reversed(NORMS.items()):  # of several the first
        here = (rows["norm"] == family) & ((rows["found"] - u).abs() <= SAME_P)
        found |= dict.fromkeys(rows["method"][here], norm)
    return found


def aligned(table: pd.DataFrame, method: str) -> pd.DataFrame:
    """The rows of the families in which a class has a norm of its own."""
    return table[(table["part"] == "static") & (table["method"] == method) & (table["alignment"] >= OWN)]


def nearest(rows: pd.DataFrame, method: str) -> tuple[str, float, float]:
    """Family, 1/p and kappa of the exponent that a class comes nearest to: means over seeds.

    Of the family with the higher peak; of l_p where the peaks are as good as one, as they are at p = 2.
    """
    fits = rows[(rows["part"] == "fit") & (rows["method"] == method)]
    peaks = fits.groupby("norm")[["found", "ratio"]].mean().dropna()
    if not len(peaks):
        return "lp", float("nan"), float("nan")
    apart = peaks["ratio"].get("schatten", -math.inf) - peaks["ratio"].get("lp", -math.inf)
    family = "schatten" if apart > APART else "lp"
    return family, float(peaks["found"][family]), float(peaks["ratio"][family])


def claims(figure: Figure, table: pd.DataFrame, preset: Preset) -> list[Claim]:
    """What is claimed of a whole table; what a package that is not installed leaves out cannot be tested."""
    found = [_steps_in(figure, table, preset, *group) for group in STEPS_IN]
    found += [_in_none(figure, table, preset), *(_symmetries(figure, table, preset, claimed) for claimed in SYMMETRIES)]
    return [*found, _as_shipped(figure, table, preset), _of_log(figure, table, preset)]


def _missing(figure: Figure, preset: Preset, text: str) -> Claim:
    return figure.not_testable(preset, text, "the packages of these classes were not installed, and there are no runs")


def _steps_in(
    figure: Figure, table: pd.DataFrame, preset: Preset, norm: str, family: str, u: float, methods: tuple[str, ...]
) -> Claim:
    rows = table[(table["part"] == "static") & (table["norm"] == family) & table["method"].isin(methods)]
    text = f"at a constant gradient steps of {', '.join(methods)} are steepest descent in {norm}: alignment"
    if not len(rows):
        return _missing(figure, preset, text)
    return figure.claim(
        preset,
        text,
        measured=f">= {rows['alignment'].min():.5f}, 1/p within {(rows['found'] - u).abs().max():.4f}",
        tolerance=f">= {ALIGNED:g}",
        holds=rows["alignment"].min() >= ALIGNED and (rows["found"] - u).abs().max() <= SAME_P,
        setting="60 steps at one made-up gradient, 10 x 25, seed 0",
    )


def _in_none(figure: Figure, table: pd.DataFrame, preset: Preset) -> Claim:
    rows = table[(table["part"] == "static") & table["method"].isin(NO_NORM)]
    best = rows.groupby("method")["alignment"].max()
    return figure.claim(
        preset,
        f"at a constant gradient steps of {', '.join(NO_NORM)} are steepest descent in no l_p or Schatten norm: best alignment",
        measured=", ".join(f"{name} {value:.3f}" for name, value in best.items()) or "no rows",
        tolerance=f"< {NOT_ALIGNED:g}",
        holds=best.max() < NOT_ALIGNED,
        setting="60 steps at one made-up gradient, 10 x 25, seed 0",
    )


def _symmetries(figure: Figure, table: pd.DataFrame, preset: Preset, claimed: Symmetric) -> Claim:
    rows = table[(table["part"] == "symmetry") & (table["method"] == claimed.method)].set_index("norm")["difference"]
    same, other = claimed.words
    text = f"{claimed.method} does not change under {same}, as its norm does not, and does under {other}: difference"
    if not len(rows):
        return _missing(figure, preset, text)
    kept, changed = rows[list(claimed.same)].max(), rows[list(claimed.other)].min()
    return figure.claim(
        preset,
        text,
        measured=f"{kept:.0e}; {changed:.2f}",
        tolerance=f"< {claimed.within:g}; > {CHANGED:g}",
        holds=kept < claimed.within and changed > CHANGED,
        setting="30 steps on made-up gradients, 10 x 25, seed 0",
    )


def best_ratios(table: pd.DataFrame, feed: str) -> pd.Series:
    """The largest kappa of both families by class: mean over seeds."""
    fits = table[(table["part"] == "fit") & (table["gradient"] == feed)]
    return fits.groupby(["method", "norm"])["ratio"].mean().groupby("method").max()


def own_ratios(table: pd.DataFrame, feed: str) -> pd.Series:
    """The ratio in its own norm, by class, of those whose own norm is one of the columns: mean over seeds."""
    rows = table[(table["part"] == "ratio") & (table["gradient"] == feed)]
    means = rows.groupby(["method", "norm"])["ratio"].mean()
    owns = own_norms(table)
    return pd.Series({method: means[method, owns[method]] for method in rows["method"].unique() if method in owns}, dtype=float)


def _as_shipped(figure: Figure, table: pd.DataFrame, preset: Preset) -> Claim:
    names = [one.label for one in OF_TORCH]
    best = own_ratios(table, TRUE)
    best = best[best.index.isin(names)]
    return figure.claim(
        preset,
        "as it is shipped and with true gradients no class of torch.optim reaches its own norm's optimum: the largest ratio",
        measured=f"{best.max():.3f} ({best.idxmax()}), of {len(best)} classes with a norm of their own",
        tolerance=f"< {NEAR:g}",
        holds=best.max() < NEAR,
    )


def _of_log(figure: Figure, table: pd.DataFrame, preset: Preset) -> Claim:
    true, fed = own_ratios(table, TRUE), own_ratios(table, OF_LOG)
    gains = fed - true
    more, lost = gains.dropna().sort_values(), ", ".join(gains.index[gains.isna()])
    return figure.claim(
        preset,
        "gradients of log L bring every class that separates the data by them nearer to its own norm's optimum: least gain",
        measured=f"{more.iloc[0]:.3f} ({more.index[0]}), median {more.median():.3f}, of {len(more)} classes; not separated: "
        f"{lost or 'none'}",
        tolerance="> 0",
        holds=more.iloc[0] > 0,
    )


def findings(table: pd.DataFrame) -> list[Finding]:
    """What surprises."""
    true, fed = (own_ratios(table, feed) for feed in (TRUE, OF_LOG))
    best = best_ratios(table, OF_LOG).sort_values(ascending=False)
    return [
        Finding(
            "What keeps optimizers from their norm is that gradients shrink",
            one_line("""
                Of most classes steps at a constant gradient are steepest descent in a known norm, and yet with the gradients of
                training hardly one comes near that norm's optimum. With gradients of log L, the same directions at a constant
                size, the same code comes much nearer.
            """),
            f"ratio in the own norm, mean of {len(true)} classes: true gradients {true.mean():.3f} (most: {true.idxmax()} "
            f"{true.max():.3f}), "
            f"of log L {fed.mean():.3f}; at {AT:g} or more of some exponent's optimum: "
            f"{', '.join(best.index[best >= AT]) or 'none'}; nearest: {best.index[0]} {best.iloc[0]:.3f}",
        )
    ]
