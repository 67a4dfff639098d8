"""The claims and findings of the figure on row normalisation."""

from __future__ import annotations

import pandas as pd

from implicit_bias.datasets.gaussian_clusters import GaussianClusters
from implicit_bias.figures.base import Figure, Preset, one_line
from implicit_bias.figures.claims import Claim, Finding
from implicit_bias.figures.row_norm.rules import SIGN_ANGLE, critical_alignment, crossing
from implicit_bias.plotting.style import optimizer_look

METHODS = ("row_gd", "ngd", "spectral_gd", "adam", "signgd")
#: On aligned covariances.
FEWER = ("row_gd", "adam", "signgd")
CLOUDS, ALIGNED, ROTATED, RULE = "clouds", "aligned", "rotated", "rule"
#: Of the second panel: fewer classes in more dimensions, so that rows come nearer to the class means than with 60 in 20.
CLASSES, DIM, DECAY, TEST_NOISE = 20, 50, 1.0, 3.0
ALIGNMENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
TURNED = (0.25, 1.0)
#: Degrees, and alignments.
ANGLE_TOLERANCE, CROSSING_TOLERANCE = 2.0, 0.1
#: Of accuracies of runs that differ in round-off alone: some of the test samples.
SAME = 1e-3


def claims(figure: Figure, table: pd.DataFrame, preset: Preset) -> list[Claim]:
    """The statements of the paper that the runs can judge, and those that they cannot."""
    clouds = table[table["part"] == CLOUDS]
    return [
        _best(figure, preset, clouds.pivot(index="seed", columns="method", values="accuracy")),
        *_angles(figure, preset, clouds),
        *_reversal(figure, preset, table),
        _turned(figure, preset, table),
        _rules(figure, preset, table),
        *_others(figure, preset),
    ]


def findings(table: pd.DataFrame) -> list[Finding]:
    """How far rows are from what they tend to in many dimensions, and where trained methods change places."""
    clouds, aligned = table[table["part"] == CLOUDS], table[table["part"] == ALIGNED]
    angles = clouds.groupby("method")[["to_mean", "to_sign"]].mean()
    told = [f"{optimizer_look(m).label} {angles['to_mean'][m]:.1f} / {angles['to_sign'][m]:.1f}" for m in METHODS]
    apart = aligned.pivot_table(index="x", columns="method", values="accuracy")
    adam, sign = (crossing(apart.index.to_numpy(), (apart[m] - apart["row_gd"]).to_numpy()) for m in FEWER[1:])
    unit, plain = _crossing_of_rules(table, "unit"), _crossing_of_rules(table, "mean")
    least = aligned.groupby("method")["certified"].min()
    return [
        Finding(
            "With 60 classes in 20 dimensions rows are far from what they tend to in many dimensions",
            one_line("""
                RowGD's rows are not the class means, and those of max-norm methods not their signs. The angle of Adam's and
                SignGD's rows to the means is the predicted one all the same, and NGD's rows, not RowGD's, are nearest to them.
            """),
            f"mean angles to the means / to their signs, degrees: {', '.join(told)}",
        ),
        Finding(
            "Trained methods change places later than the rules of high dimension do",
            one_line("""
                The alignment from which on Adam and SignGD classify better than RowGD is larger than that from which on the signs
                of the class means are a better rule than the means. RowGD's rows have one length in its norm; means scaled to
                length one are a better rule than the means, and for longer. Adam is above SignGD, being further from their common
                limit: shares of the own margin are least values over seeds, by certificates.
            """),
            f"crossing at lambda {adam:.2f} (Adam), {sign:.2f} (SignGD), {unit:.2f} (means of length one), {plain:.2f} (means),"
            f" {_predicted():.2f} (formula); own margin: "
            + ", ".join(f"{optimizer_look(m).label} {least[m]:.2f}" for m in FEWER),
        ),
    ]


def _best(figure: Figure, preset: Preset, accuracy: pd.DataFrame) -> Claim:
    others = [method for method in METHODS if method != "row_gd"]
    wins = accuracy["row_gd"] > accuracy[others].max(axis=1)
    told = ", ".join(f"{optimizer_look(method).label} {accuracy[method].mean():.3f}" for method in METHODS)
    return figure.claim(
        preset,
        "RowGD classifies new samples best of all five methods, in every seed",
        expected="30 of 30",
        measured=f"{wins.sum()} of {len(wins)}; means {told}",
        tolerance="every seed",
        holds=bool(wins.all()),
    )


def _angles(figure: Figure, preset: Preset, clouds: pd.DataFrame) -> list[Claim]:
    angles = clouds.pivot(index="seed", columns="method", values="to_mean")
    nearer = angles["row_gd"] < angles[["adam", "signgd"]].min(axis=1)
    return [
        figure.near(
            preset,
            "rows of max-norm methods are arccos sqrt(2/pi) = 37.1 degrees from the class means: Adam, SignGD, means",
            [angles["adam"].mean(), angles["signgd"].mean()],
            [SIGN_ANGLE] * 2,
            ANGLE_TOLERANCE,
            kind="theorem",
            digits=1,
        ),
        figure.claim(
            preset,
            "RowGD's rows are nearer to the class means than those of Adam and of SignGD, in every seed",
            kind="theorem",
            expected="tend to the class mean",
            measured=f"{nearer.sum()} of {len(nearer)}; RowGD {angles['row_gd'].mean():.1f} degrees",
            tolerance="every seed",
            holds=bool(nearer.all()),
        ),
    ]


def _reversal(figure: Figure, preset: Preset, table: pd.DataFrame) -> list[Claim]:
    own = "this project's own control: the limit of Adam's steps, nearer"
    cases = (
        (ALIGNED, 0.25, "adam", True, "above in 30 of 30", ""),
        (ALIGNED, 1.0, "adam", False, "above in 0 of 30", ""),
        (ROTATED, 1.0, "adam", True, "above in 30 of 30", ""),
        (ALIGNED, 1.0, "signgd", False, "", own),
    )
    return [_case(figure, preset, table, *case) for case in cases]


def _case(
    figure: Figure, preset: Preset, table: pd.DataFrame, part: str, x: float, other: str, above: bool, expected: str, source: str
) -> Claim:
    """Whether RowGD's accuracy is above, or below, another method's in every seed."""
    accuracy, turned = _accuracies(table, part, x), ", rotated" if part == ROTATED else ""
    wins, means = accuracy["row_gd"] > accuracy[other], accuracy.mean()
    share = table[(table["part"] == part) & (table["x"] == x)].groupby("method")["certified"].mean()
    where = f"{'above' if above else 'below'} {optimizer_look(other).label}"
    return figure.claim(
        preset,
        f"aligned covariances, lambda = {x:g}{turned}: RowGD is {where} in every seed",
        expected=expected,
        measured=f"above in {wins.sum()} of {len(wins)}; means {means['row_gd']:.3f} and {means[other]:.3f}",
        tolerance="every seed",
        holds=bool(wins.all() if above else not wins.any()),
        kind="check" if source else "paper",
        source=source,
        reason=f"nearer to the limit ({share[other]:.2f} of the own margin at least, mean; Adam {share['adam']:.2f}) the lead is"
        f" smaller ({means[other] - means['row_gd']:.3f}; Adam {means['adam'] - means['row_gd']:.3f}), and seeds differ",
    )


def _turned(figure: Figure, preset: Preset, table: pd.DataFrame) -> Claim:
    pairs = [[_accuracies(table, part, x)["row_gd"] for part in (ALIGNED, ROTATED)] for x in TURNED]
    away = max(float((straight - turned).abs().max()) for straight, turned in pairs)
    return figure.claim(
        preset,
        "a rotation leaves RowGD's accuracy alone, whose norm has no axes: largest difference over seeds and alignments",
        kind="check",
        measured=f"{away:.1e}",
        tolerance=f"<= {SAME:g}",
        holds=away <= SAME,
        source="this project's own control",
    )


def _rules(figure: Figure, preset: Preset, table: pd.DataFrame) -> Claim:
    return figure.near(
        preset,
        "signs of the class means classify better than the means from lambda_c on: crossing of the rules' mean accuracies",
        [_crossing_of_rules(table, "mean")],
        [_predicted()],
        CROSSING_TOLERANCE,
        kind="theorem",
        digits=2,
        source=f"{figure.source}; its formula for lambda_c, on variances chosen here",
    )


def _others(figure: Figure, preset: Preset) -> list[Claim]:
    return [
        figure.not_testable(
            preset,
            "error exponents: (r^2 / d) log(error of Adam / error of Row) tends to (pi - 2) / (4 pi)",
            "errors at these sizes are no small ones, where exponents could be read",
            kind="theorem",
            expected="0.0908",
        ),
        figure.not_testable(
            preset,
            "the same order with momentum and with batches of one sample",
            "the runs are of the full batch, without momentum",
        ),
    ]


def _accuracies(table: pd.DataFrame, part: str, x: float) -> pd.DataFrame:
    """Test accuracy by seed (rows) and method (columns)."""
    rows = table[(table["part"] == part) & (table["x"] == x)]
    return rows.pivot(index="seed", columns="method", values="accuracy")


def _crossing_of_rules(table: pd.DataFrame, rule: str) -> float:
    """The alignment from which on signs are better than another rule, means over seeds."""
    accuracy = table[table["part"] == RULE].pivot_table(index="x", columns="method", values="accuracy")
    return crossing(accuracy.index.to_numpy(), (accuracy["sign"] - accuracy[rule]).to_numpy())


def _predicted() -> float:
    return critical_alignment(GaussianClusters(dim=DIM, decay=DECAY).variances()[0])
