"""Remarks that qualify the numbers of a printed table, one line each."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

# Own-norm alignment below which a network's steps were too large for statements about flows: with rates 6 to 17 times too large
# a numpy script apart from the package met .53 and less, with small ones .78 and more.
LOW_ALIGNMENT = 0.6


# Of float32.
ROUNDING_UNIT = 2.0**-24


def network_notes(summary: pd.DataFrame, homogeneous: bool) -> list[str]:
    """What limits the reading of a network's table."""
    row = _own_row(summary)
    notes = []
    if not homogeneous:
        notes.append("the model is not homogeneous: margins are q / N, and are not comparable at different N")
    if row["accuracy"] < 1:
        notes.append("not separated yet: margins are negative, and no KKT ratio is defined; more steps, or a larger schedule.lr")
    elif homogeneous and row["own"] and row["alignment"] < LOW_ALIGNMENT:
        notes.append(
            f"warning: alignment {row['alignment']:.2f} in the own norm: steps were too large for a theory about flows;"
            " try a smaller schedule.lr"
        )
    return notes


def _own_row(summary: pd.DataFrame) -> pd.Series:
    """The row of the optimizer's own norm; the first one where it has none."""
    own = summary[summary["own"]]
    return (own if len(own) else summary).iloc[0]


def batch_notes(size: int, samples: int, epochs: float, variance_reduction: str = "none") -> list[str]:
    """What a table of a run by mini-batches is of."""
    corrected = "" if variance_reduction == "none" else f", corrected ({variance_reduction})"
    return [f"updates from {size} of {samples:,} samples{corrected}, {epochs:,.4g} epochs; what is measured is of all samples"]


def precision_notes(precision: str, summary: pd.DataFrame | None = None, in_double: float | None = None) -> list[str]:
    """What float32 costs. A gap of g is known to g rounding units, and the weights of a gradient are exponentials of gaps.

    Args:
        precision: ``float64``, of which there is nothing to say, or ``float32``.
        summary: Of a single run.
        in_double: The margin in the own norm of its last parameters, computed in float64.
    """
    if precision != "float32":
        return []
    depth = f"{ROUNDING_UNIT:.0e} times the log loss, so that below e^{-1 / ROUNDING_UNIT:,.0f} no digit is right"
    if summary is None or not in_double:
        return [
            f"float32: margins and the intervals proven for them have about 6 digits; gradients are off by up to about {depth}"
        ]
    own = _own_row(summary)
    error = max(abs(own["margin"] / in_double - 1), ROUNDING_UNIT)
    return [
        (
            f"float32: the {own['norm']} margin is off by {error:.0e} (float64, same parameters), proofs hold up to that;"
            f" gradients by up to about {ROUNDING_UNIT * max(1.0, abs(own['log_loss'])):.0e} ({depth})"
        )
    ]


def slow_notes(optimizers: Sequence[str]) -> list[str]:
    """How the margin grows under the ``optimizers`` that take constant steps as long as their gradient, on linear models."""
    if not optimizers:
        return []
    names = ", ".join(dict.fromkeys(optimizers))
    return [f"{names}: with a constant step the margin nears its optimum like 1 / log t, with schedule=loss_based polynomially"]


def linear_notes(summary: pd.DataFrame, unscaled: bool = False) -> list[str]:
    """What limits the reading of a linear model's table.

    Args:
        unscaled: Whether features could be given one scale by a key.
    """
    notes = []
    if "optimum_lower" in summary and (summary["max_margin"].isna() & summary["optimum_lower"].notna()).any():
        notes.append(
            "an interval in the place of an optimum holds it: no more is proven within reference_timeout, or in double precision"
        )
    if summary["accuracy"].iloc[0] < 1:
        # A positive lower end of an optimum is a separator.
        separable = "optimum_lower" in summary and bool((summary["optimum_lower"] > 0).any())
        unless = ", though the classes can be separated" if separable else ""
        advice = f"try {'dataset.standardize=true, ' * unscaled}more steps or another schedule.lr"
        reason = "" if separable else " (or the classes cannot be separated)"
        notes.append(f"not separated yet{unless}: margins are negative; {advice}{reason}")
    return notes
