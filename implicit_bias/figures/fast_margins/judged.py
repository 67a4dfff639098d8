"""What the figure on fast margins is judged by."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from implicit_bias.analysis.runs import mean_and_spread, numbers
from implicit_bias.figures.base import Figure, Preset, one_line
from implicit_bias.figures.claims import Claim, Finding

#: Parts of the table, and methods of the race.
RACE, TABLE = "race", "table"
ACCELERATED, OVER_LOSS, NGD, GD = "dual_acceleration", "over_loss", "ngd", "gd"
#: Exponents of dual acceleration, and of the rows and columns of the heat map.
RACED, TABLED = (2.0, 1.5, 1.1), (1.1, 1.5, 2.0, 3.0, 6.0, 10.0)
#: With the labels of their own norms.
METHODS = (*((ACCELERATED, f"lp{p:g}") for p in RACED), (OVER_LOSS, "l2"), (NGD, "l2"), (GD, "l2"))
#: Slopes are fitted from this step on.
FIRST = 300
FAST, PROVEN = -1.9, 1e-5
OVER, SLOW = (-1.15, -0.8), -0.4
#: Of mirror descent: what it reaches for p <= 3, the slope at p = 3, and up to which p the diagonal is best.
REACHED, CUBE, DIAGONAL = 0.99, (-0.6, -0.4), 6.0
ANY_NORM = "Wang, Hu, Muthukumar and Abernethy, arXiv 2305.17544"
MIRROR = "Sun, Ahn, Thrampoulidis and Azizan, arXiv 2205.12808"


def slopes(table: pd.DataFrame) -> dict[tuple[str, str], NDArray[np.float64]]:
    """The slope of the logarithm of a gap against that of the step, from FIRST on, by method and own norm: one number a seed."""
    race = table[table["part"] == RACE]
    return {(method, own): _by_seed(race[(race["method"] == method) & (race["variant"] == own)]) for method, own in METHODS}


def _by_seed(rows: pd.DataFrame) -> NDArray[np.float64]:
    late = rows[(rows["step"] >= FIRST) & (rows["gap"] > 0)]
    return np.array([_slope(mine) if len(mine) > 1 else np.nan for _, mine in late.groupby("seed")])


def _slope(rows: pd.DataFrame) -> float:
    return float(np.polyfit(np.log(rows["step"]), np.log(rows["gap"]), 1)[0])


def claims(figure: Figure, table: pd.DataFrame, preset: Preset) -> list[Claim]:
    """The verdicts."""
    found = slopes(table)
    mirror = table[table["part"] == TABLE]
    return [
        *(
            _fast(figure, preset, found[ACCELERATED, f"lp{p:g}"], f"l{p:g}", figure.source if p == 2 else ANY_NORM)
            for p in RACED
            if len(found[ACCELERATED, f"lp{p:g}"])  # at preset=smoke some are not run
        ),
        _bound(figure, preset, table),
        _proven(figure, preset, table),
        _over_loss(figure, preset, found[OVER_LOSS, "l2"]),
        _constant(figure, preset, found[GD, "l2"]),
        *(judge(figure, preset, mirror) for judge in (_reached, _cube, _diagonal, _largest) if _all_tabled(mirror)),
    ]


def _all_tabled(mirror: pd.DataFrame) -> bool:
    """Whether there are all exponents of the heat map; a table at preset=smoke has some of them."""
    return set(TABLED) <= {float(own.removeprefix("l").removeprefix("p")) for own in mirror["variant"].dropna().unique()}


def _fast(figure: Figure, preset: Preset, found: NDArray[np.float64], norm: str, source: str) -> Claim:
    return figure.claim(
        preset,
        f"dual acceleration in {norm} closes the gap as 1 / t^2: fitted slope, by seed",
        expected="-2",
        measured=numbers(found),
        tolerance=f"<= {FAST:g} in every seed",
        holds=bool((found <= FAST).all()),
        source=source,
        kind="theorem",
    )


def _bound(figure: Figure, preset: Preset, table: pd.DataFrame) -> Claim:
    rows = table[table["bound"].notna()]
    share = rows["gap"] / rows["bound"]
    return figure.claim(
        preset,
        "the gap of dual acceleration in l2 is below the theorem's bound at every record: largest share of it",
        expected="4 (1 + log n) (1 + 2 log t) / (gamma* t^2), data with |x_i| <= 1",
        measured=f"{share.max():.2g}",
        tolerance="<= 1",
        holds=bool((share <= 1).all()),
    )


def _proven(figure: Figure, preset: Preset, table: pd.DataFrame) -> Claim:
    race = table[(table["part"] == RACE) & (table["method"] == ACCELERATED) & (table["variant"] == "lp2")]
    # At the last record the optimum's own proof takes the certificate's place.
    before = race[race["step"] < race["step"].max()].sort_values("step").groupby("seed").tail(1)
    t = int(before["step"].max())
    return figure.claim(
        preset,
        "dual acceleration in l2 proves its margin by the weights of its own steps, without a solver: upper bound less margin,"
        " relative, at the record before the last, by seed",
        source="this project's own check",
        kind="check",
        measured=" / ".join(f"{gap:.1e}" for gap in before["certified"]) + f" (step {t:,})",
        tolerance=f"<= {PROVEN:.0e}",
        holds=bool((before["certified"] <= PROVEN).all()),
    )


def _over_loss(figure: Figure, preset: Preset, found: NDArray[np.float64]) -> Claim:
    return figure.claim(
        preset,
        "gradient descent divided by the loss closes the gap as 1 / t: fitted slope, by seed",
        expected="-1",
        measured=numbers(found),
        tolerance=f"{OVER[0]:g} to {OVER[1]:g}",
        holds=bool(((OVER[0] <= found) & (found <= OVER[1])).all()),
    )


def _constant(figure: Figure, preset: Preset, found: NDArray[np.float64]) -> Claim:
    return figure.claim(
        preset,
        "gradient descent with a constant step closes it as 1 / log t, below every power: fitted slope, mean over seeds",
        expected="1 / log t",
        measured=f"{mean_and_spread(found)} ({numbers(found)})",
        tolerance=f"> {SLOW:g}",
        holds=float(found.mean()) > SLOW,
        reason=one_line("""
            the gap of 1 / log t has no slope of its own: from step 300 on a fitted one is about -1 / log t, less the part of
            the gap that falls faster at first
        """),
    )


def _ratios(mirror: pd.DataFrame) -> pd.DataFrame:
    """Ratios at the end: a row a (seed, p of the run), a column a norm."""
    last = mirror[mirror["step"] == mirror["step"].max()]
    ratios: pd.DataFrame = (1 - last.set_index(["seed", "variant", "norm"])["gap"]).unstack("norm")
    return ratios


def _own(mirror: pd.DataFrame, p: float) -> pd.Series:
    return _ratios(mirror)[f"lp{p:g}"].xs(f"lp{p:g}", level="variant")


def _reached(figure: Figure, preset: Preset, mirror: pd.DataFrame) -> Claim:
    worst = {p: _own(mirror, p).min() for p in TABLED if p <= 3}
    return figure.claim(
        preset,
        "p-GD reaches the certified l_p optimum for p <= 3: worst ratio over seeds, at p = 1.1, 1.5, 2, 3",
        expected="-> 1",
        measured=numbers(list(worst.values()), 4),
        tolerance=f">= {REACHED:g}",
        holds=min(worst.values()) >= REACHED,
        source=MIRROR,
        kind="theorem",
        setting=_setting(mirror),
    )


def _cube(figure: Figure, preset: Preset, mirror: pd.DataFrame) -> Claim:
    rows = mirror[(mirror["variant"] == "lp3") & (mirror["norm"] == "lp3")]
    found = _by_seed(rows)
    return figure.claim(
        preset,
        "norms of p-GD grow as t^(1/(p-1)), and the gap is one over the norm: fitted slope at p = 3, by seed",
        expected="-1/2",
        measured=numbers(found),
        tolerance=f"{CUBE[0]:g} to {CUBE[1]:g}",
        holds=bool(((CUBE[0] <= found) & (found <= CUBE[1])).all()),
        source="derived here",
        kind="derived",
        setting=_setting(mirror),
    )


def _diagonal(figure: Figure, preset: Preset, mirror: pd.DataFrame) -> Claim:
    small = [p for p in TABLED if p <= DIAGONAL]
    ahead = {p: _ahead(mirror, p) for p in small}
    return figure.claim(
        preset,
        "of all p-GD the one with p = q has the largest l_q margin for q <= 6: least lead in a seed, at q = 1.1, 1.5, 2, 3, 6",
        expected="smallest norm on the diagonal",
        measured=numbers([lead.min() for lead in ahead.values()], 4),
        tolerance="> 0 in every seed",
        holds=all((lead > 0).all() for lead in ahead.values()),
        source=MIRROR,
        kind="paper",
        setting=_setting(mirror),
    )


def _largest(figure: Figure, preset: Preset, mirror: pd.DataFrame) -> Claim:
    lead, own = _ahead(mirror, 10.0), _own(mirror, 10.0)
    return figure.claim(
        preset,
        "of all p-GD the one with p = 10 has the largest l_10 margin: lead by seed",
        expected="smallest norm on the diagonal",
        measured=f"{numbers(lead.to_numpy(), 4)} (ratio {mean_and_spread(own)})",
        tolerance="> 0 in every seed",
        holds=bool((lead > 0).all()),
        source=MIRROR,
        kind="paper",
        setting=_setting(mirror),
        reason=one_line("""
            at p = 10 the norm grows as t^(1/9) in the end, and the gap closes as slowly: ten times the steps leave 0.77 of it, so
            that p = 6, whose limit is another but near in l_10, is ahead at this length
        """),
    )


def _ahead(mirror: pd.DataFrame, q: float) -> pd.Series:
    """By how much the l_q ratio at p = q is above the best of the other p, by seed."""
    label = f"lp{q:g}"
    column = _ratios(mirror)[label].unstack("variant")
    return column[label] - column.drop(columns=label).max(axis=1)


def _setting(mirror: pd.DataFrame) -> str:
    steps, seeds = int(mirror["step"].max()), mirror["seed"].nunique()
    return (
        f"15 Gaussian samples with 100 features, labels of a linear teacher, seeds 1 to {seeds}; exponential loss, potential"
        f" |w|_p^p / p, from zero, {steps:,} steps"
    )


def findings(table: pd.DataFrame) -> list[Finding]:
    """Why the largest exponents are not there yet."""
    mirror = table[table["part"] == TABLE]
    told = []
    for p in TABLED[3:]:
        rows = mirror[(mirror["variant"] == f"lp{p:g}") & (mirror["norm"] == f"lp{p:g}")]
        slope = _by_seed(rows).mean()
        told.append(f"p = {p:g}: slope {slope:.2f} (law {-1 / (p - 1):.2f}), ratio {_own(mirror, p).mean():.4f}")
    return [
        Finding(
            "Tables of mirror descent at large p show where it is, not where it goes",
            one_line("""
                A step of p-GD adds to |w|^(p-1), so that weights grow as t^(1/(p-1)) and the margin's gap, one over the norm,
                falls as slowly, whatever the step size. At p = 10 that is no convergence at any affordable length. Ratios to
                certified optima say so; the order of the norms of classifiers, which such tables show, may come out right or
                wrong meanwhile.
            """),
            "; ".join(told),
        )
    ]
