"""What figure robust_price claims and finds."""

from __future__ import annotations

import numpy as np
import pandas as pd

from implicit_bias.analysis.runs import numbers
from implicit_bias.figures.base import Figure, Preset
from implicit_bias.figures.claims import Claim, Finding

#: Tolerances: the identity, ratios of GD and coordinate descent, accuracies.
EXACT, GD_RATIO, CD_RATIO = 1e-6, 0.99, 0.95
NOT_BEHIND, AHEAD, LEVEL, GD_NEAR, CD_NEAR, LOST = 0.01, 0.06, 0.03, 0.015, 0.025, 0.05
HALF = 0.5


def claims(figure: Figure, table: pd.DataFrame, preset: Preset, dim: int) -> list[Claim]:
    """The seven claims.

    Args:
        figure: Whose claims they are.
        table: Its table.
        preset: Its sizes.
        dim: The dimension of the accuracies' data.
    """
    accuracy = table[table["part"] == "accuracy"]
    means = accuracy.groupby(["share", "method", "m"])["test"].mean()
    return [
        _identity(figure, table, preset),
        _margins(figure, table, preset),
        _clean(figure, means, preset),
        _ahead(figure, means, preset, dim),
        _near(figure, means, preset),
        _lost(figure, means, preset, dim),
        _bounds(figure, table, preset),
    ]


def _identity(figure: Figure, table: pd.DataFrame, preset: Preset) -> Claim:
    rows = table[table["part"] == "l2"]
    away = float(rows["other"].max())
    return figure.claim(
        preset,
        "l2 perturbations, l2 norm: the robust maximum margin of w is the plain one less eps, largest difference",
        measured=f"{away:.1e}",
        tolerance=f"{EXACT:g}",
        holds=away <= EXACT,
        source="derived here",
        kind="derived",
    )


def _margins(figure: Figure, table: pd.DataFrame, preset: Preset) -> Claim:
    rows = table[(table["part"] == "margins") & (table["share"] <= HALF)]
    ends = rows[rows["step"] == rows["step"].max()].groupby(["method", "share"])["value"].mean()
    gd, cd = ends.loc["gd"], ends.loc["cd"]
    return figure.claim(
        preset,
        "GD ends at the robust l2 maximum margin, coordinate descent near the robust l1 one, for eps up to half of the largest:"
        " ratios by eps",
        measured=f"GD {numbers(gd.to_numpy())}, coordinate descent {numbers(cd.to_numpy())}",
        tolerance=f"GD >= {GD_RATIO:g}, coordinate descent >= {CD_RATIO:g}",
        holds=bool(gd.min() >= GD_RATIO and cd.min() >= CD_RATIO),
        source="derived here",
        kind="check",
    )


def _clean(figure: Figure, means: pd.Series, preset: Preset) -> Claim:
    lead = means.loc[0.0, "gd"] - means.loc[0.0, "cd"]
    return figure.claim(
        preset,
        "without perturbations GD is not behind coordinate descent: its test accuracy less the other's, by samples",
        measured=numbers(lead.to_numpy()),
        tolerance=f">= -{NOT_BEHIND:g}",
        holds=bool(lead.min() >= -NOT_BEHIND),
    )


def _ahead(figure: Figure, means: pd.Series, preset: Preset, dim: int) -> Claim:
    lead = means.loc[HALF, "cd"] - means.loc[HALF, "gd"]
    few, many = lead[lead.index <= dim / 4], lead[lead.index >= dim]
    return figure.claim(
        preset,
        "at eps half of the largest coordinate descent is ahead of GD in robust test accuracy with a quarter of the dimension in"
        " samples or fewer, and level with it with as many samples as dimensions",
        measured=f"{numbers(few.to_numpy())} ahead; {numbers(many.to_numpy())}",
        tolerance=f">= {AHEAD:g}; within {LEVEL:g}",
        holds=bool(few.min() >= AHEAD and many.abs().max() <= LEVEL),
    )


def _near(figure: Figure, means: pd.Series, preset: Preset) -> Claim:
    away = {
        method: max(float((means.loc[share, method] - means.loc[share, norm]).abs().max()) for share in (0.0, HALF))
        for method, norm in (("gd", "l2"), ("cd", "l1"))
    }
    return figure.claim(
        preset,
        "robust test accuracy of GD is that of the certified l2 optimum, of coordinate descent that of the l1 optimum: largest"
        " differences",
        measured=f"{away['gd']:.3f} / {away['cd']:.3f}",
        tolerance=f"{GD_NEAR:g} / {CD_NEAR:g}",
        holds=away["gd"] <= GD_NEAR and away["cd"] <= CD_NEAR,
        source="derived here",
        kind="check",
    )


def _lost(figure: Figure, means: pd.Series, preset: Preset, dim: int) -> Claim:
    lost = _losses(means, dim)
    return figure.claim(
        preset,
        "without eps in the gradient GD loses robust test accuracy with up to half as many samples as dimensions, by samples",
        measured=numbers(lost),
        tolerance=f">= {LOST:g}",
        holds=bool(lost.min() >= LOST),
        source="derived here",
        kind="check",
    )


def _losses(means: pd.Series, dim: int) -> np.ndarray:
    lost = means.loc[HALF, "gd"] - means.loc[HALF, "clean"]
    return np.asarray(lost[lost.index <= dim / 2])


def _bounds(figure: Figure, table: pd.DataFrame, preset: Preset) -> Claim:
    rows = table[table["part"] == "certificate"]
    least = float(rows["value"].min())
    return figure.claim(
        preset,
        "certificates of robust runs are never below the robust optimum: how far above, relative, at least",
        measured=f"{least:.1e}, before the last record of {len(rows)} runs",
        tolerance=">= 0",
        holds=least >= 0,
        source="derived here",
        kind="check",
    )


def findings(table: pd.DataFrame) -> list[Finding]:
    """That the published program leaves eps out of the gradient.

    Args:
        table: The figure's.
    """
    accuracy = table[(table["part"] == "accuracy") & (table["share"] == HALF)]
    means = accuracy.groupby(["method", "m"])["test"].mean()
    sizes = list(means.loc["gd"].index)
    return [
        Finding(
            "The published program of the price of implicit bias differentiates the plain loss",
            "In the authors' program for linear models the loss whose gradient is taken is sum_i exp(-y_i f(x_i)), without the"
            " term eps |w|_1; eps enters the step size, the rule by which training stops, and the evaluation alone. Trained so,"
            " GD goes to the plain l2 separator, and its price is exaggerated where samples are few. In its sparse setting,"
            " further, samples that have no feature in common with the teacher all get the label -1.",
            f"Robust test accuracy of GD at half of the largest eps, with {', '.join(map(str, sizes))} samples:"
            f" {numbers(means.loc['gd'].to_numpy())} with eps in the gradient, {numbers(means.loc['clean'].to_numpy())} without.",
        )
    ]
