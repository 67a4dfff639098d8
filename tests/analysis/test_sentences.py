"""The sentence of a judgement: which exponent is called the nearest, and when none is."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from implicit_bias.analysis.exponents_found import Exponents, Unfinished
from implicit_bias.analysis.fingerprints import VERDICT_COLUMNS
from implicit_bias.analysis.sentences import nearest_exponent
from implicit_bias.measures.exponents import CANNOT_TELL, MAXIMISES, NEAREST, NONE_OF_THESE

Row = tuple[str, float, float, float, float, str]
NO = (math.nan,) * 3


def verdicts(*rows: Row) -> pd.DataFrame:
    return pd.DataFrame([("x", "x", 1, *row[:5], math.nan, row[5]) for row in rows], columns=list(VERDICT_COLUMNS))


LP3: Row = ("lp", 3.01, 2.7, 3.37, 0.9932, MAXIMISES)
SCHATTEN3: Row = ("schatten", 2.6, 1.74, 4.09, 0.9706, NEAREST)


@pytest.mark.parametrize(
    ("rows", "possible", "says"),
    [
        ([LP3, SCHATTEN3], ["lp"], "lp p = 3.01 in [2.7, 3.37] (maximises)"),
        ([LP3, ("schatten", 3.0, 2.5, 4.0, 0.999, NEAREST)], ["lp", "schatten"], "lp p = 3.01 in [2.7, 3.37] (maximises)"),
        ([("lp", 3.1, 2.8, 3.5, 0.96, NEAREST), SCHATTEN3], ["lp"], "lp p = 3.1 in [2.8, 3.5] (nearest so far)"),
        (
            [("lp", 3.1, 2.8, 3.5, 0.96, NEAREST), SCHATTEN3],
            ["lp", "schatten"],
            "schatten p = 2.6 in [1.74, 4.09] (nearest so far)",
        ),
        ([("lp", math.inf, 20.0, math.inf, 0.98, MAXIMISES)], ["lp"], "lp p = inf in [20, inf] (maximises)"),
        (
            [("lp", 2.0, 1.9, 2.1, 0.99, MAXIMISES), ("schatten", 2.01, 1.9, 2.1, 0.99, MAXIMISES)],
            ["lp", "schatten"],
            "lp p = 2 in [1.9, 2.1] (maximises), schatten p = 2.01 in [1.9, 2.1] (maximises)",
        ),
        (
            [("lp", *NO, 0.88, NONE_OF_THESE), ("schatten", *NO, 0.84, NONE_OF_THESE)],
            ["lp"],
            "none of these (largest kappa 0.880)",
        ),
        (
            [LP3, ("schatten", *NO, 0.99, CANNOT_TELL)],
            ["lp"],
            "lp p = 3.01 in [2.7, 3.37] (maximises), data cannot tell in schatten",
        ),
        (
            [("lp", *NO, 0.99, CANNOT_TELL), ("schatten", *NO, 0.99, CANNOT_TELL)],
            ["lp", "schatten"],
            "data cannot tell in lp and schatten",
        ),
    ],
)
def test_the_nearest_exponent(rows: list[Row], possible: list[str], says: str) -> None:
    assert nearest_exponent(Exponents(verdicts(*rows), possible)) == f"; nearest exponent: {says}"


def test_nothing_is_said_where_exponents_were_not_looked_for() -> None:
    assert nearest_exponent(Exponents()) == ""


@pytest.mark.parametrize(
    ("upper", "says"),
    [
        (0.893, "none of these (largest kappa in [0.880, 0.893])"),
        (0.94, "not found in the time given (the largest kappa lies in [0.880, 0.940])"),
    ],
)
def test_where_optima_ran_out_of_time_no_more_is_said_than_is_proven(upper: float, says: str) -> None:
    rows = verdicts(("lp", *NO, 0.88, NONE_OF_THESE), ("schatten", *NO, 0.84, NONE_OF_THESE))
    found = Exponents(rows, loose=[Unfinished("x", "lp", 6, 17, 0.88, upper)])
    assert nearest_exponent(found) == f"; nearest exponent: {says}"
    (note,) = found.notes("optima_timeout=600")
    assert note.startswith("6 of 17 lp optima ran out of time: ") and note.endswith("(optima_timeout=600 allows more)")


def test_families_that_there_was_no_time_for_are_named() -> None:
    found = Exponents(verdicts(LP3), left_out=["schatten"])
    assert nearest_exponent(found).endswith("(maximises); there was no time to look for an exponent in schatten")
    assert found.notes("optima_timeout=600") == [
        "exponents of schatten were left out, for want of time (optima_timeout=600 allows more)"
    ]
