"""The sentence of a judgement: which margin was reached, of which optimum, whether it still rises, and the nearest exponent."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from implicit_bias.analysis.exponents_found import Exponents, Unfinished
from implicit_bias.measures.exponents import CANNOT_TELL, MAXIMISES, NONE_OF_THESE, TIED

# From this size on an exponent is written in short.
LONG_NUMBER = 1e6
# A margin has come to rest where it changes by less than this part over the last half of the steps.
AT_REST = 1e-3


def sentence(
    trajectory: pd.DataFrame,
    summary: pd.DataFrame,
    own: str | None,
    exponents: Exponents,
    *,
    separable: bool | None,
) -> str:
    """What was reached, of which optimum, whether it still rises, and which exponent is nearest.

    Args:
        trajectory, summary: Of one run, with the columns of ``trajectory.csv`` and ``summary.csv``.
        own: The label of the norm that the optimizer steps in; None where none is known.
        exponents: What was found of them.
        separable: Whether a linear model separates the classes; None where that could not be told.
    """
    row = summary.iloc[0]
    depth = row["log_loss"] / math.log(10)
    loss = f"10^{depth:.1f}" if abs(depth) < LONG_NUMBER else f"10^{depth:.3g}"
    began = f"{row['optimizer']}, {row['step']:,} steps, loss {loss}"
    share = f"accuracy {row['accuracy']:.4f}"
    if separable is None and row["accuracy"] < 1:
        return f"{began}: not separated ({share}), and whether a linear model can separate the classes could not be told"
    if separable is None:
        return f"{began}: separated ({share}), but no optimum was found to compare with"
    if not separable:
        return f"{began}: the classes cannot be separated by a linear model, so there is no maximum margin ({share})"
    if row["accuracy"] < 1 or not (summary["margin"] > 0).all():
        return f"{began}: not separated yet ({share}), so no margin is positive; more steps, or another rate"
    exponent = nearest_exponent(exponents)
    best = summary.sort_values("ratio", ascending=False).iloc[0]  # those without a ratio are the last
    if own is None:
        return f"{began}: no norm of its own is known; the best ratio is {_reached(best)}, {_trend(trajectory, best)}{exponent}"
    mine = summary[summary["own"]].iloc[0]
    told = f"{began}: in {own}, the norm of its steps, it reached {_reached(mine)}, {_trend(trajectory, mine)}"
    beside = "" if best["norm"] == own or not best["ratio"] > mine["ratio"] else f"; the best ratio is {_reached(best)}"
    return f"{told}{beside}{exponent}"


def _reached(row: pd.Series) -> str:
    """A margin beside its optimum."""
    if math.isfinite(row["ratio"]):
        share = f"{100 * row['ratio']:.1f} % of the certified {row['norm']} optimum"
        return f"{share} ({row['margin']:.4g} of {row['max_margin']:.4g})"
    interval = f"[{row['optimum_lower']:.4g}, {row['optimum_upper']:.4g}]"
    return f"a margin of {row['margin']:.4g}, the {row['norm']} optimum being in {interval}"


def _trend(trajectory: pd.DataFrame, row: pd.Series) -> str:
    """Whether a margin changes over the last half of the steps."""
    rows = trajectory[trajectory["norm"] == row["norm"]]
    half = rows.loc[(rows["step"] - row["step"] / 2).abs().idxmin(), "margin"]
    change = (row["margin"] - half) / abs(row["margin"])
    return "still rising" if change > AT_REST else "falling" if change < -AT_REST else "at rest"


def nearest_exponent(exponents: Exponents) -> str:
    """The nearest exponent with its interval and verdict, or why none is named, as the end of a sentence.

    The nearest is that of a family that ``maximises`` before others, of one that symmetry allows before one that it rules out,
    and then of the one whose kappa is largest. A second family is named beside it only where both are p = 2, which is one norm,
    as far as can be told. Families in which an exponent may fit, for all that is proven, are not said to have none.

    Returns:
        Nothing where exponents were not looked for.
    """
    possible, loose = exponents.possible, exponents.loose
    rows = [row for _, row in exponents.verdicts.iterrows()]
    named = sorted((row for row in rows if pd.notna(row["p"])), key=lambda row: _nearness(row, possible), reverse=True)
    told = [_named(row) for row in named if row is named[0] or _one_norm(row, named[0])]
    blind = [row for row in rows if row["verdict"] == CANNOT_TELL]
    if not named:
        told += _none_named([row for row in rows if row["verdict"] == NONE_OF_THESE], loose)
    told += [f"{CANNOT_TELL} in {' and '.join(row['family'] for row in blind)}"] if blind else []
    late = f"; there was no time to look for an exponent in {' and '.join(exponents.left_out)}" if exponents.left_out else ""
    return (f"; nearest exponent: {', '.join(told)}" if told else "") + late


def _none_named(misfits: Sequence[pd.Series], loose: Sequence[Unfinished]) -> list[str]:
    """What is said of families none of whose exponents is proven to fit."""
    if not misfits:
        return []
    largest = max(row["kappa"] for row in misfits)
    upper = max((one.upper for one in loose), default=largest)
    if any(one.undecided for one in loose):
        return [f"not found in the time given (the largest kappa lies in [{largest:.3f}, {upper:.3f}])"]
    low, high = f"{largest:.3f}", f"{max(largest, upper):.3f}"
    known = f"largest kappa {low}" if low == high else f"largest kappa in [{low}, {high}]"
    return [f"{NONE_OF_THESE} ({known})"]


def _nearness(row: pd.Series, possible: Sequence[str]) -> tuple[bool, bool, float]:
    return row["verdict"] == MAXIMISES, row["family"] in possible, row["kappa"]


def _named(row: pd.Series) -> str:
    return f"{row['family']} p = {row['p']:.3g} in [{row['p_low']:.3g}, {row['p_high']:.3g}] ({row['verdict']})"


def _one_norm(row: pd.Series, nearest: pd.Series) -> bool:
    """Whether both are p = 2 as far as can be told, and the same is said of them."""
    two = all(one["p_low"] <= 2 <= one["p_high"] for one in (row, nearest))
    near = abs(row["kappa"] - nearest["kappa"]) <= TIED * (1 - max(row["kappa"], nearest["kappa"]))
    return two and near and row["verdict"] == nearest["verdict"]
