"""The claims and findings of the fingerprints, judged on their table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from implicit_bias.analysis.runs import mean_and_spread
from implicit_bias.figures.base import Figure, Preset, one_line
from implicit_bias.figures.claims import Claim, Finding
from implicit_bias.figures.own.torch_classes import (
    ADAM,
    ADAM_SHORT,
    ADAM_SHORT_WITHOUT_EPS,
    ADAM_WITHOUT_EPS,
    LION,
    MADGRAD,
    MUON,
    OF_LOG,
    SGD,
    TRUE,
    TorchClass,
)
from implicit_bias.measures.exponents import AT, FAMILIES
from implicit_bias.norms import Norm

FAMILY_WORDS = {"lp": "l_p", "schatten": "Schatten-p"}
#: How far 1/p may be off.
OFF = {"lp": 0.03, "schatten": 0.05}
#: The norms that networks are measured in, with their 1/p.
NETWORK_NORMS = {
    "lp": {"l2": 1 / 2, "lp3": 1 / 3, "lp4": 1 / 4, "lp6": 1 / 6},
    "schatten": {"l2": 1 / 2, "schatten3": 1 / 3, "schatten4": 1 / 4, "schatten8": 1 / 8},
}
#: Of peaks at 10,000 steps: how far apart those of two families are at least, and at p = 2 at most.
APART, TOGETHER = 0.0015, 2e-4
FALLS = 2.5
CANNOT_TELL = 1e-4
ADAM_LINF, ADAM_WITHIN, EPS_INNOCENT, SHORT_LINF = 0.59, 0.06, 1e-3, 0.93
LION_LINF, SGD_L2 = 0.97, 0.98
L4 = (0.21, 0.27)
#: Parameters that grow by less than this over the last nine tenths of the steps have stopped.
STOPPED = 1.1


def called(one: TorchClass, feed: str) -> str:
    """What the runs of a class are called in the table."""
    return one.label if feed == TRUE else f"{one.label}, log L"


def place(norm: Norm) -> float:
    """1/p of a norm of a family."""
    return 1 / float(getattr(norm, "p"))  # noqa: B009


def claims(figure: Figure, table: pd.DataFrame, preset: Preset) -> list[Claim]:
    """What is claimed of a whole table; what a package that is not installed leaves out cannot be tested."""
    found = [_exponents(figure, table, family, preset) for family in FAMILIES]
    found += [_intervals(figure, table, preset), _families(figure, table, preset), _at_two(figure, table, preset)]
    found += [_falling(figure, table, preset), _two_classes(figure, table, preset)]
    for one, feed, judge in (
        (ADAM, TRUE, _adam),
        (ADAM, TRUE, _adam_never),
        (ADAM_WITHOUT_EPS, TRUE, _eps),
        (ADAM_SHORT_WITHOUT_EPS, TRUE, _adam_short),
        (MUON, TRUE, _muon),
        (MADGRAD, TRUE, _madgrad),
        (MADGRAD, OF_LOG, _madgrad),
        (LION, OF_LOG, _lion),
        (SGD, OF_LOG, _sgd),
    ):
        if (table["method"] == called(one, feed)).any():
            found.append(judge(figure, table, called(one, feed), preset))
        else:
            text = f"{called(one, feed)}: its exponent is the one that is expected"
            found.append(figure.not_testable(preset, text, f"{one.package} was not installed, and there are no runs"))
    found += [_network(figure, table, family, preset) for family in FAMILIES]
    return list({claim.claim: claim for claim in found}.values())


def fits(table: pd.DataFrame, method: str = "") -> pd.DataFrame:
    """The rows of fits: of one method, or of all."""
    rows = table[table["part"] == "fit"]
    return rows[rows["method"] == method] if method else rows


def kappa_at(table: pd.DataFrame, method: str, family: str, x: float) -> pd.Series:
    """kappa of a method at one exponent, by seed."""
    rows = table[(table["part"] == "curve") & (table["method"] == method) & (table["norm"] == family)]
    return rows[np.isclose(rows["x"], x)].set_index("seed")["kappa"]


def _descent(table: pd.DataFrame, family: str) -> pd.DataFrame:
    """The fits of steepest descent in the norms of a family, in that family."""
    rows = fits(table)
    return rows[rows["method"].str.startswith(f"nsd {family}") & (rows["norm"] == family)]


def _worst(errors: pd.Series, rows: pd.DataFrame) -> str:
    """The largest of some numbers, and where it is."""
    where = rows.iloc[int(errors.to_numpy().argmax())]
    return f"{errors.max():.3f} ({where['method']}, seed {where['seed']})"


def _exponents(figure: Figure, table: pd.DataFrame, family: str, preset: Preset) -> Claim:
    rows = _descent(table, family)
    errors = (rows["found"] - rows["x"]).abs()
    return figure.claim(
        preset,
        f"steepest descent in {FAMILY_WORDS[family]}: the exponent found is that of its norm, in every seed; 1/p is off by",
        measured=f"at most {_worst(errors, rows)}, median {errors.median():.3f}, of {len(rows)} runs",
        expected="0",
        tolerance=f"<= {OFF[family]:g}",
        holds=bool((errors <= OFF[family]).all()),
    )


def _intervals(figure: Figure, table: pd.DataFrame, preset: Preset) -> Claim:
    rows = pd.concat([_descent(table, family) for family in FAMILIES])
    inside = (rows["low"] <= rows["x"] + 1e-9) & (rows["x"] - 1e-9 <= rows["high"])
    return figure.claim(
        preset,
        "steepest descent: the norm's exponent lies in the interval around the one that is found, in every seed",
        measured=f"{inside.sum()} of {len(rows)} runs; median width in 1/p {(rows['high'] - rows['low']).median():.2f}",
        tolerance="all",
        holds=bool(inside.all()),
    )


def _peaks(table: pd.DataFrame) -> pd.DataFrame:
    """The peaks of steepest descent in both families, a row a run, and the family of its norm."""
    rows = fits(table)
    rows = rows[rows["method"].str.startswith("nsd")]
    peaks = rows.pivot_table(index=["method", "x", "seed"], columns="norm", values="kappa").reset_index()
    own = np.where(peaks["method"].str.startswith("nsd lp"), peaks["lp"], peaks["schatten"])
    other = np.where(peaks["method"].str.startswith("nsd lp"), peaks["schatten"], peaks["lp"])
    return peaks.assign(more=own - other, two=np.isclose(peaks["x"], 0.5).astype(int))


def _families(figure: Figure, table: pd.DataFrame, preset: Preset) -> Claim:
    peaks = _peaks(table)
    peaks = peaks[peaks["two"] == 0]
    least = peaks.iloc[int(peaks["more"].to_numpy().argmin())]
    return figure.claim(
        preset,
        "steepest descent, p other than 2: the family of its norm has the higher peak, in every seed; by at least",
        measured=f"{least['more']:.4f} ({least['method']}, seed {least['seed']}), of {len(peaks)} runs",
        tolerance=f">= {APART:g}",
        holds=least["more"] >= APART,
    )


def _at_two(figure: Figure, table: pd.DataFrame, preset: Preset) -> Claim:
    peaks = _peaks(table)
    apart = peaks[peaks["two"] == 1]["more"].abs()
    return figure.claim(
        preset,
        "steepest descent in l_2 = Schatten-2: the peaks of both families agree, to",
        source="derived here",
        kind="derived",
        measured=f"{apart.max():.1e}, the largest of {len(apart)} runs",
        expected="0",
        tolerance=f"<= {TOGETHER:g}",
        holds=apart.max() <= TOGETHER,
    )


def _falling(figure: Figure, table: pd.DataFrame, preset: Preset) -> Claim:
    rows = pd.concat([_descent(table, family) for family in FAMILIES])
    falls = rows["trend"]
    return figure.claim(
        preset,
        "steepest descent: 1 - kappa of the peak falls over the last factor of ten in t, in every run, by a factor of",
        source="derived here",
        kind="derived",
        measured=f"{falls.min():.2f} to {falls.max():.2f}",
        expected="sqrt(10) = 3.16 for t^-1/2",
        tolerance=f">= {FALLS:g}",
        holds=falls.min() >= FALLS,
    )


def _two_classes(figure: Figure, table: pd.DataFrame, preset: Preset) -> Claim:
    rows = table[(table["part"] == "two classes") & (table["norm"] == "schatten")]
    return figure.claim(
        preset,
        "two classes: the data cannot tell Schatten norms apart, the optima of all of them are within",
        source="derived here",
        kind="derived",
        measured=f"{rows['resolution'].max():.1e} of each other",
        expected="0, the rows are w and -w",
        tolerance=f"< {CANNOT_TELL:g}",
        holds=rows["resolution"].max() < CANNOT_TELL,
        setting=f"{rows['seed'].nunique()} seeds of a Gaussian mixture of 2 classes, 25 features, 20 samples a class; Schatten-4 "
        f"steepest descent, {_steps(rows)} steps",
    )


def _steps(rows: pd.DataFrame) -> str:
    return f"{int(rows['step'].max()):,}"


def _ratio(figure: Figure, preset: Preset, text: str, values: pd.Series, **keywords: Any) -> Claim:
    """A claim on numbers that every seed gives."""
    return figure.claim(preset, text, measured=mean_and_spread(values), **keywords)


def _adam(figure: Figure, table: pd.DataFrame, method: str, preset: Preset) -> Claim:
    linf = kappa_at(table, method, "lp", 0)
    return _ratio(
        figure,
        preset,
        "Adam as it is shipped does not reach the optimum of its norm, linf: ratio",
        linf,
        expected=f"{ADAM_LINF:g}",
        tolerance=f"+- {ADAM_WITHIN:g}, every seed",
        holds=bool(len(linf)) and bool((linf - ADAM_LINF).abs().max() <= ADAM_WITHIN),
    )


def _adam_never(figure: Figure, table: pd.DataFrame, method: str, preset: Preset) -> Claim:
    best = fits(table, method)["kappa"]
    return figure.claim(
        preset,
        "Adam as it is shipped maximises no l_p and no Schatten margin: the largest kappa of all exponents and seeds",
        measured=f"{best.max():.3f}",
        tolerance=f"< {AT:g}",
        holds=best.max() < AT,
    )


def _eps(figure: Figure, table: pd.DataFrame, method: str, preset: Preset) -> Claim:
    curves = [kappa_at(table, one, "lp", 0) for one in (method, called(ADAM, TRUE))]
    apart = (curves[0] - curves[1]).abs()
    return figure.claim(
        preset,
        "and eps is innocent with betas (.9, .999): the linf ratios with eps 0 and 1e-8 differ by",
        measured=f"at most {apart.max():.1e}",
        tolerance=f"<= {EPS_INNOCENT:g}",
        holds=apart.max() <= EPS_INNOCENT,
    )


def _adam_short(figure: Figure, table: pd.DataFrame, method: str, preset: Preset) -> Claim:
    linf = kappa_at(table, method, "lp", 0)
    text = "with betas (.9, .95) and eps 0 Adam comes near the linf optimum: ratio"
    return _ratio(figure, preset, text, linf, tolerance=f">= {SHORT_LINF:g}, every seed", holds=linf.min() >= SHORT_LINF)


def growth(table: pd.DataFrame, method: str) -> pd.Series:
    """By what factor parameters grow from a tenth of the steps to their end, by seed."""
    rows = table[(table["part"] == "depth") & (table["method"] == method)]
    last = rows["step"].max()
    tenth = rows.loc[(np.log(rows["step"]) - math.log(last / 10)).abs().idxmin(), "step"]
    sizes = [rows[rows["step"] == step].set_index("seed")["size"] for step in (tenth, last)]
    found: pd.Series = sizes[1] / sizes[0]
    return found


def deepest(table: pd.DataFrame, method: str) -> pd.Series:
    """log L at the end, by seed."""
    rows = table[(table["part"] == "depth") & (table["method"] == method)]
    found: pd.Series = rows[rows["step"] == rows["step"].max()].set_index("seed")["log_loss"]
    return found


def _muon(figure: Figure, table: pd.DataFrame, method: str, preset: Preset) -> Claim:
    grows = growth(table, method)
    return _ratio(
        figure,
        preset,
        "Newton-Schulz Muon stops: over the last nine tenths of the steps its parameters grow by a factor of",
        grows,
        expected=f"steps of full length: {math.sqrt(10):.2f}",
        tolerance=f"<= {STOPPED:g}, every seed",
        holds=grows.max() <= STOPPED,
    )


def _madgrad(figure: Figure, table: pd.DataFrame, method: str, preset: Preset) -> Claim:
    rows = fits(table, method)
    found = rows[rows["norm"] == "lp"]["found"]
    fed = method != called(MADGRAD, TRUE)
    return _ratio(
        figure,
        preset,
        f"MADGRAD with {'gradients of log L' if fed else 'true gradients'} is nearest to l_4: 1/p",
        found,
        kind="derived",
        source="derived here: the exponent of its steps at a constant gradient",
        expected="1/4, as at a constant gradient",
        tolerance=f"{L4[0]:g} to {L4[1]:g}, every seed",
        holds=found.between(*L4).all(),
        setting=_fed(figure, rows, preset) if fed else "",
    )


def _fed(figure: Figure, rows: pd.DataFrame, preset: Preset) -> str:
    """The setting of runs by gradients of log L."""
    return f"{figure.setting(preset).partition(';')[0]}; linear model, gradients of log L, {_steps(rows)} steps"


def _lion(figure: Figure, table: pd.DataFrame, method: str, preset: Preset) -> Claim:
    linf = kappa_at(table, method, "lp", 0)
    return _reaches(figure, table, method, preset, "Lion reaches the linf optimum", linf, LION_LINF)


def _sgd(figure: Figure, table: pd.DataFrame, method: str, preset: Preset) -> Claim:
    return _reaches(figure, table, method, preset, "SGD reaches the l2 optimum", kappa_at(table, method, "lp", 0.5), SGD_L2)


def _reaches(
    figure: Figure, table: pd.DataFrame, method: str, preset: Preset, says: str, ratios: pd.Series, least: float
) -> Claim:
    return _ratio(
        figure,
        preset,
        f"with gradients of log L {says}: ratio",
        ratios,
        expected="-> 1",
        tolerance=f">= {least:g}, every seed",
        holds=ratios.min() >= least,
        setting=_fed(figure, fits(table, method), preset),
    )


def _network(figure: Figure, table: pd.DataFrame, family: str, preset: Preset) -> Claim:
    rows = table[(table["part"] == "network") & (table["norm"] == family)]
    ratios = rows.assign(p=(1 / rows["x"]).round().astype(int)).pivot_table(index="seed", columns="p", values="kappa")
    told = ", ".join(f"{p}: {mean:.3f}" for p, mean in ratios.mean().items())
    best = ratios.idxmax(axis=1) == 4
    return figure.claim(
        preset,
        f"a network by steepest descent in {'l_4' if family == 'lp' else 'Schatten-4'}: the KKT ratio is largest at 4, of p = "
        f"{', '.join(map(str, ratios.columns))}",
        measured=f"{best.sum()} of {len(ratios)} seeds; mean {told}",
        tolerance="every seed",
        holds=bool(best.all()),
        setting=f"{rows['seed'].nunique()} seeds of the same data; 2-layer ReLU network of width 20, {_steps(rows)} steps",
    )


def findings(table: pd.DataFrame) -> list[Finding]:
    """What surprises; each where its runs are there."""
    methods = set(table["method"])
    found = []
    if {called(one, TRUE) for one in (ADAM, ADAM_WITHOUT_EPS, ADAM_SHORT, ADAM_SHORT_WITHOUT_EPS)} | {
        called(ADAM, OF_LOG)
    } <= methods:
        found.append(_adam_finding(table))
    if {called(MADGRAD, feed) for feed in (TRUE, OF_LOG)} <= methods:
        found.append(_madgrad_finding(table))
    if {called(MUON, feed) for feed in (TRUE, OF_LOG)} <= methods:
        found.append(_muon_finding(table))
    return found


def _told(pairs: Sequence[tuple[str, pd.Series]]) -> str:
    return ", ".join(f"{name} {mean_and_spread(values)}" for name, values in pairs)


def _adam_finding(table: pd.DataFrame) -> Finding:
    named = (
        ("eps 1e-8", called(ADAM, TRUE)),
        ("eps 0", called(ADAM_WITHOUT_EPS, TRUE)),
        ("betas (.9, .95), eps 0", called(ADAM_SHORT_WITHOUT_EPS, TRUE)),
        ("betas (.9, .95), eps 1e-8", called(ADAM_SHORT, TRUE)),
        ("gradients of log L", called(ADAM, OF_LOG)),
    )
    ratios = _told([(name, kappa_at(table, method, "lp", 0)) for name, method in named])
    return Finding(
        "Adam as it is shipped is far from its own norm's margin, and not by its eps",
        one_line("""
            With beta2 = .999 the average of squares remembers gradients that were far larger, so that steps shrink as fast as
            the loss falls, and the max-norm margin is not reached in any usual number of steps. Without eps nothing changes.
            With a shorter memory the loss falls far enough for eps to act: without it the optimum is nearly reached, with it not.
            Gradients that do not shrink do without either.
        """),
        f"linf margin over its optimum: {ratios}; log loss at the end {mean_and_spread(deepest(table, called(ADAM, TRUE)))}",
    )


def _madgrad_finding(table: pd.DataFrame) -> Finding:
    told = []
    for name, feed in (("true gradients", TRUE), ("gradients of log L", OF_LOG)):
        rows = fits(table, called(MADGRAD, feed))
        rows = rows[rows["norm"] == "lp"]
        told.append(f"{name}: 1/p = {mean_and_spread(rows['found'])}, kappa {mean_and_spread(rows['kappa'])}")
    return Finding(
        "MADGRAD is a method of l_4",
        one_line("""
            It divides by the cube root of the second moment, not by the square root: at a constant gradient its steps are those
            of steepest descent in l_4, and the margin that it comes nearest to is that of an exponent close to 4.
        """),
        "; ".join(told),
    )


def _muon_finding(table: pd.DataFrame) -> Finding:
    true, fed = called(MUON, TRUE), called(MUON, OF_LOG)
    spectral = [(name, kappa_at(table, one, "schatten", 0)) for name, one in (("true gradients", true), ("of log L", fed))]
    peaks = fits(table, fed)
    peak = peaks[peaks["norm"] == "schatten"]["found"]
    return Finding(
        "Newton-Schulz Muon stops at its eps",
        one_line("""
            torch.optim.Muon divides the momentum by its norm plus an absolute 1e-7: once gradients are smaller, steps shrink with
            them, and the parameters come to a halt. With gradients of log L they go on, but to a Schatten norm of a finite p,
            since the iteration leaves singular values unequal.
        """),
        f"over the last nine tenths of the steps parameters grow by {mean_and_spread(growth(table, true))} (gradients of log L: "
        f"{mean_and_spread(growth(table, fed))}); log loss at the end {mean_and_spread(deepest(table, true))}; spectral margin "
        f"over its optimum: {_told(spectral)}; with gradients of log L 1/p = {mean_and_spread(peak)}",
    )
