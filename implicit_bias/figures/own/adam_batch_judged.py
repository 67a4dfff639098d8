"""What the figure on Adam's batch size is judged by."""

from __future__ import annotations

import pandas as pd

from implicit_bias.analysis.runs import numbers
from implicit_bias.figures.base import Figure, PerPreset, Preset, one_line
from implicit_bias.figures.claims import UNKNOWN, Claim, Finding

#: Parts of the table, and problems.
END, CURVE, PREDICTED, EXPONENT = "end", "curve", "predicted", "exponent"
LP = "lp"
BINARY, MULTICLASS = "two classes", "four classes"
# How far off the prediction a run may end, and how near its direction has to be.
OFF = PerPreset(smoke=1.0, default=0.03, paper=0.01)
NEAR = PerPreset(smoke=0.0, default=0.99, paper=0.995)
#: What is known of runs of single samples at preset=paper that are further off; of others it is not known.
MOVES = (
    "runs are still on their way: with two, four and eight times the sum of steps the distance at b = 1 is about halved each"
    " time, in every seed"
)
SHORT = (
    "in one seed margins move away from the prediction. It is not that beta2 is too far from one: nearer to it, with steps as"
    " much shorter, the run ends at the same point, and with shorter steps at the same beta2 further off. What it goes to is not"
    " known"
)


def claims(figure: Figure, table: pd.DataFrame, preset: Preset) -> list[Claim]:
    """The verdicts, problem by problem."""
    ends = table[table["part"] == END]
    found = []
    for problem, mine in ends.groupby("problem", sort=False):
        found += [
            _ratios(figure, str(problem), mine, "linf", preset),
            _ratios(figure, str(problem), mine, "l2", preset),
            _directions(figure, str(problem), mine, preset),
            _ordered(figure, str(problem), mine, preset),
            _slides(figure, str(problem), table[(table["part"] == EXPONENT) & (table["problem"] == problem)], preset),
        ]
    return found


def findings(table: pd.DataFrame) -> list[Finding]:
    """Which margin Adam maximises is a question of the batch."""
    ends = table[(table["part"] == END) & (table["problem"] == BINARY)]
    mean = ends.groupby(["norm", "batch"])["ratio"].mean()
    sizes = sorted(ends["batch"].unique())
    return [
        Finding(
            "Only with the full batch does Adam maximise the max-norm margin",
            one_line("""
                The mean of a mini-batch gradient's squares is not the square of the full gradient, whatever beta2: Adam divides
                by what the single samples are, and its limit is the optimum of a norm of the data, for every batch size another.
                It can be computed beforehand.
            """),
            f"{BINARY}, margin over optimum at b = {', '.join(map(str, sizes))}, means over seeds: max-norm"
            f" {numbers(mean['linf'][sizes].to_numpy())}, l2 {numbers(mean['l2'][sizes].to_numpy())}",
        )
    ]


def _ratios(figure: Figure, problem: str, ends: pd.DataFrame, norm: str, preset: Preset) -> Claim:
    """Every run against the prediction."""
    mine = ends[ends["norm"] == norm]
    off = (mine["ratio"] - mine["predicted"]).abs()
    means = mine.groupby("batch")[["ratio", "predicted"]].mean()
    name = {"linf": "max-norm", "l2": "l2"}[norm]
    worst = mine.iloc[int(off.to_numpy().argmax())]
    return figure.claim(
        preset,
        f"{problem}: the {name} margin over its optimum is the predicted one in every run, at b ="
        f" {', '.join(f'{b:g}' for b in means.index)} (means over seeds; run furthest off)",
        measured=f"{numbers(means['ratio'].to_numpy(), 4)}; {off.max():.4f} at b = {worst['batch']:g}, seed {worst['seed']:g}",
        expected=numbers(means["predicted"].to_numpy(), 4),
        tolerance=f"{OFF.at(preset):g}",
        holds=bool((off <= OFF.at(preset)).all()),
        reason=_reason(problem, float(worst["batch"]), preset),
    )


def _directions(figure: Figure, problem: str, ends: pd.DataFrame, preset: Preset) -> Claim:
    least = ends.groupby("batch")["cosine"].min()
    return figure.claim(
        preset,
        f"{problem}: the parameters point where the prediction does (least cosine over seeds, at b ="
        f" {', '.join(f'{b:g}' for b in least.index)})",
        measured=numbers(least.to_numpy(), 4),
        expected="1",
        tolerance=f">= {NEAR.at(preset):g}",
        holds=bool((least >= NEAR.at(preset)).all()),
        reason=_reason(problem, float(least.index[int(least.to_numpy().argmin())]), preset),
    )


def _reason(problem: str, batch: float, preset: Preset) -> str:
    """Why the run that is furthest off is so: longer and shorter runs were made of b = 1 alone, from preset=paper on."""
    if preset != "paper" or batch != 1:
        return UNKNOWN
    return MOVES if problem == BINARY else SHORT


def _ordered(figure: Figure, problem: str, ends: pd.DataFrame, preset: Preset) -> Claim:
    """The max-norm margin grows with the batch, in every seed."""
    steps = ends[ends["norm"] == "linf"].pivot(index="seed", columns="batch", values="ratio").diff(axis=1).iloc[:, 1:]
    return figure.claim(
        preset,
        f"{problem}: the larger the batch, the larger the max-norm margin, in every seed (least difference of neighbours)",
        measured=f"{steps.min().min():.3f}",
        tolerance="> 0",
        holds=bool((steps > 0).all(axis=None)),
    )


def _slides(figure: Figure, problem: str, found: pd.DataFrame, preset: Preset) -> Claim:
    """The exponent found slides from p = inf towards 2 as batches shrink, in every seed."""
    by_batch = found.pivot(index="seed", columns="batch", values="u")
    means = by_batch.mean()
    return figure.claim(
        preset,
        f"{problem}: the smaller the batch, the larger 1/p of the l_p margin that the parameters are nearest to, in every seed"
        f" (at b = {', '.join(f'{b:g}' for b in means.index)}, means over seeds; 0 is the max-norm, .5 is l2)",
        measured=numbers(means.to_numpy()),
        tolerance="falls with b in every seed",
        holds=bool((by_batch.diff(axis=1).iloc[:, 1:] < 0).all(axis=None)),
    )
