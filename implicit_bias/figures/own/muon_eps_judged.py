"""What the figure on Muon's eps is judged by."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.optimize import brentq

from implicit_bias.analysis.runs import last_rows, numbers
from implicit_bias.figures.base import Figure, Preset, one_line
from implicit_bias.figures.claims import Claim, Finding
from implicit_bias.optimizers.muon_ns import JORDAN, triples

#: Parts of the table.
RUN, L2_OPTIMUM, TORCH = "run", "l2 optimum", "torch"
#: torch.optim.Muon's constant.
USUAL = 1e-7
# Classes of the data; points at which p is looked at for its bounds.
CLASSES, POINTS = 4, 1_000_001
#: The slope of the iteration at zero, 3.4445^5 = 485: what it makes of a gradient far below eps is 485 times it over eps.
SLOPE = float(np.prod([a for a, _, _ in triples(JORDAN, 5)]))
# log10 of the gradient where torch's steps are still normalised, and where they are short. The law of their length: the table has
# six digits of both numbers.
WHOLE, SHORT, OFF_LAW = -8.2, -10.8, 1e-5
# log10 of the gradient at the end after 1e5 steps, and of the method without eps.
END, OFF_END, FREE = -12.9, 0.2, -1000.0
# The hand-over is where a step is half as long as the polar factor. Between two records, a tenth of a power of ten of the loss
# apart, a chord of log length is off by less than OFF_HALF. The step that descent would make; its power of t.
HALF, OFF_HALF, DESCENT, POWER = 0.5, 0.02, 0.01, 0.05
# Five steps in bfloat16, of which each rounds by 2^-8 at most.
OFF_TORCH = 5 * 2.0**-8
ONE_SEED = "this project's own check: numbers of an earlier computation of one seed"
LAW = "derived here from the polynomials of torch.optim.Muon: a step has the singular values p(s / max(gradient, eps))"


def lifted(singular: np.ndarray) -> np.ndarray:
    """p(s), what five of Jordan's steps make of singular values: s <- a s + b s^3 + c s^5, five times.

    They touch no singular vector, so that the step of a gradient with singular values sigma_i and Frobenius norm r has the
    singular values p(sigma_i / max(r, eps)), whatever its shape. Below 1e-3 p is 485 s; from there to 1 it is anywhere from .68
    to 1.21, and .70 at 1, the step of a gradient of rank one.
    """
    lift = singular
    for a, b, c in triples(JORDAN, 5):
        lift = a * lift + b * lift**3 + c * lift**5
    return lift


def claims(figure: Figure, table: pd.DataFrame, preset: Preset) -> list[Claim]:
    """The verdicts."""
    rows = table[table["part"] == RUN]
    torch_rows = rows[rows["eps"] == USUAL]
    return [
        *_lengths(figure, rows, torch_rows, preset),
        _handed_over(figure, rows, preset),
        *_descends(figure, rows, torch_rows, preset),
        _gradients(figure, rows, preset),
        *_margins(figure, torch_rows, table[table["part"] == L2_OPTIMUM].set_index("seed"), preset),
        _class_of_torch(figure, table[table["part"] == TORCH], preset),
    ]


def findings(table: pd.DataFrame) -> list[Finding]:
    """How soon, and how far the gradient gets."""
    rows = table[table["part"] == RUN]
    ends, steps = last_rows(rows), int(rows["step"].max())
    free, kept = (ends.loc[ends["eps"] == eps, "log10_gradient"].mean() for eps in (0.0, USUAL))
    left = [_when(curve) for _, curve in rows[rows["eps"] == USUAL].groupby("seed")]
    return [
        Finding(
            "Muon as it ships stops being normalised, and goes on as gradient descent",
            one_line("""
                torch.optim.Muon divides by max(norm, 1e-7) before its Newton-Schulz steps. These lift a small matrix 485 times,
                so that steps stay about as long as before until the gradient is below 1e-7/485. From there on they are 485 lr /
                eps times the gradient, the loss falls like 1/t, and the direction moves to the l2 separator as slowly as that of
                gradient descent. The spectral margin may rise or fall on the way, as that separator's is larger or smaller.
            """),
            f"with eps {USUAL:g} steps are half as long at step {numbers(left, 0)} (by seed), and after {steps:,} steps the"
            f" gradient is 10^{kept:.1f}, without eps 10^{free:,.0f}",
        )
    ]


def _when(curve: pd.DataFrame) -> float:
    """The step at which a run's steps are half as long for good, by interpolation."""
    logs, lengths = np.log(curve["step"].to_numpy(float)), np.log(curve["length"].to_numpy())
    return float(np.exp(_crossing(logs, lengths, np.log(HALF))))


def _crossing(x: np.ndarray, falling: np.ndarray, level: float) -> float:
    """Where a curve is last above a level, between two points; nan where it never is or stays there."""
    above = np.flatnonzero(falling >= level)
    if len(above) == 0 or above[-1] + 1 == len(x):
        return float("nan")
    i = int(above[-1])
    share = (falling[i] - level) / (falling[i] - falling[i + 1])
    return float(x[i] + share * (x[i + 1] - x[i]))


def _lengths(figure: Figure, rows: pd.DataFrame, usual: pd.DataFrame, preset: Preset) -> list[Claim]:
    off = (rows["length"] / rows["law"] - 1).abs().max()
    whole = usual.loc[(usual["log10_gradient"] >= WHOLE) & (usual["log10_gradient"] <= -1), "length"]
    # The largest singular value is at least the Frobenius norm over the root of the rank, which is below the number of classes.
    least = min(1.0, 10**WHOLE / USUAL) / np.sqrt(CLASSES - 1)
    bounds = lifted(np.geomspace(least, 1.0, POINTS)).min(), lifted(np.geomspace(1e-4, 1.0, POINTS)).max()
    short = np.array([_at(curve, "length", SHORT) for _, curve in usual.groupby("seed")])
    linear = SLOPE * 10**SHORT / USUAL * np.array([_at(curve, "share", SHORT) for _, curve in usual.groupby("seed")])
    return [
        figure.claim(
            preset,
            "at every eps, seed and record the spectral norm of the step is the largest p(s / max(gradient, eps)) of the"
            " gradient's singular values s, p five Newton-Schulz steps of one number (over that, furthest)",
            source=LAW,
            kind="derived",
            measured=f"{1 + off:.6f}",
            expected="1",
            tolerance=f"{OFF_LAW:g}",
            holds=bool(off <= OFF_LAW),
        ),
        figure.claim(
            preset,
            f"with torch's eps = {USUAL:g} steps are normalised from a gradient of .1 down to 10^{WHOLE:g}: their spectral norm"
            " is within the bounds of p there (least and largest of all records)",
            source=LAW,
            kind="derived",
            measured=numbers([whole.min(), whole.max()]),
            expected=" to ".join(numbers([bound]) for bound in bounds),
            tolerance="within",
            holds=bool(whole.min() >= bounds[0] - OFF_LAW and whole.max() <= bounds[1] + OFF_LAW),
        ),
        figure.near(
            preset,
            f"at a gradient of 10^{SHORT:g} they are short, those of gradient descent: 485 s_1 / eps, s_1 the gradient's largest"
            " singular value (spectral norm over that, by seed)",
            list(short / linear),
            [1.0] * len(short),
            DESCENT,
            source=LAW,
            kind="derived",
            beside=f"lengths {numbers([short.min()])} to {numbers([short.max()])}",
        ),
    ]


def _at(curve: pd.DataFrame, column: str, gradient: float) -> float:
    """A column where the gradient has a size, interpolated in logarithms."""
    ordered = curve.sort_values("log10_gradient")
    return float(np.exp(np.interp(gradient, ordered["log10_gradient"], np.log(ordered[column]))))


def _handed_over(figure: Figure, rows: pd.DataFrame, preset: Preset) -> Claim:
    """The size of the gradient's largest singular value at which steps are half as long, in units of eps/485."""
    sizes: dict[float, list[float]] = {float(eps): [] for eps in sorted(rows["eps"].unique()) if eps > 0}
    for eps, of_eps in sizes.items():
        for _, curve in rows[rows["eps"] == eps].groupby("seed"):
            spectral = (curve["log10_gradient"] + np.log10(curve["share"])).to_numpy()
            place = _crossing(spectral, np.log(curve["length"].to_numpy()), np.log(HALF))
            of_eps.append(10**place * SLOPE / eps)
    found = np.concatenate(list(sizes.values()))
    told = ", ".join(f"{eps:g}: {np.mean(of_eps):.3f}" for eps, of_eps in sizes.items())
    expected = SLOPE * brentq(lambda s: lifted(np.asarray(s)) - HALF, 0.0, 2 * HALF / SLOPE)
    return figure.claim(
        preset,
        "at every eps the hand-over, where the step is half as long, is where the gradient's largest singular value falls to the"
        " s eps of p(s) = 1/2 (in units of eps/485, mean over seeds)",
        source=LAW,
        measured=f"{told}; all from {found.min():.3f} to {found.max():.3f}",
        kind="derived",
        expected=f"{expected:.3f}",
        tolerance=f"{OFF_HALF:g} relative, every seed",
        holds=bool((np.abs(found / expected - 1) <= OFF_HALF).all()),
    )


def _descends(figure: Figure, rows: pd.DataFrame, usual: pd.DataFrame, preset: Preset) -> list[Claim]:
    last = int(rows["step"].max())
    ends = last_rows(rows)
    ratios = ends.loc[ends["eps"] > 0, "descent"]
    powers = []
    for _, curve in usual.groupby("seed"):
        late = curve[curve["step"] >= last / 10]
        few = len(late) < 2
        powers.append(float("nan") if few else float(np.polyfit(np.log(late["step"]), np.log(late["length"]), 1)[0]))
    return [
        figure.claim(
            preset,
            "at the end the step is that of gradient descent with 485 lr / eps, at every eps (its length over that, least and"
            " largest of the seeds)",
            measured=f"{ratios.min():.5f}, {ratios.max():.5f}",
            expected="1",
            tolerance=f"{DESCENT:g}",
            holds=bool(((ratios - 1).abs() <= DESCENT).all()),
        ),
        figure.claim(
            preset,
            f"with eps = {USUAL:g} the steps of the last decade shrink like 1/t (fitted power, by seed)",
            measured=numbers(powers),
            expected="-1",
            tolerance=f"{POWER:g}",
            holds=bool((np.abs(np.array(powers) + 1) <= POWER).all()),
        ),
    ]


def _gradients(figure: Figure, rows: pd.DataFrame, preset: Preset) -> Claim:
    ends, steps = last_rows(rows), int(rows["step"].max())
    kept, free = (ends.loc[ends["eps"] == eps, "log10_gradient"].to_numpy() for eps in (USUAL, 0.0))
    expected = END - np.log10(steps / 1e5)
    return figure.claim(
        preset,
        f"at the end the gradient is 10^{expected:.1f} with eps = {USUAL:g}, and without eps below 10^{FREE:g} (log10, by seed)",
        source=ONE_SEED,
        kind="check",
        measured=f"{numbers(kept, 1)}; {numbers(free, 0)}",
        expected=f"{expected:.1f}; -1218",
        tolerance=f"{OFF_END:g}; below {FREE:g}",
        holds=bool((np.abs(kept - expected) <= OFF_END).all() and (free < FREE).all()),
    )


def _margins(figure: Figure, rows: pd.DataFrame, optimum: pd.DataFrame, preset: Preset) -> list[Claim]:
    """What the two margins do from where steps are short to the end."""
    ends = pd.DataFrame([_from_short(curve) for _, curve in rows.groupby("seed")], index=sorted(rows["seed"].unique()))
    told = f"{numbers(ends['spectral short'].to_numpy())} to {numbers(ends['spectral'].to_numpy())}"
    moved, ahead = ends["spectral"] - ends["spectral short"], optimum["spectral"] - ends["spectral short"]
    against = list(moved.index[~(moved < 0)])
    return [
        figure.claim(
            preset,
            f"from a gradient of 10^{SHORT:g} to the end the l2 margin over its optimum rises, in every seed",
            source=ONE_SEED,
            kind="check",
            measured=f"{numbers(ends['l2 short'].to_numpy())} to {numbers(ends['l2'].to_numpy())}",
            expected="0.952 to 0.965",
            tolerance="rises",
            holds=bool((ends["l2"] > ends["l2 short"]).all()),
            reason="the l2 margin of gradient descent need not rise at every step",
        ),
        figure.claim(
            preset,
            f"from a gradient of 10^{SHORT:g} to the end the spectral margin over its optimum falls, in every seed",
            source=ONE_SEED,
            kind="check",
            measured=told,
            expected="0.938 to 0.933",
            tolerance="falls",
            holds=not against,
            reason=f"it rises in seeds {', '.join(map(str, against))}, where the l2 separator, to which descent goes, has a"
            f" larger one ({numbers(optimum.loc[against, 'spectral'].to_numpy())}) than the steps before have reached",
        ),
        figure.claim(
            preset,
            f"from a gradient of 10^{SHORT:g} to the end the spectral margin moves towards that of the l2 separator, in every"
            " seed (which in brackets)",
            source=ONE_SEED,
            kind="check",
            measured=f"{told} ({numbers(optimum['spectral'].to_numpy())})",
            tolerance="nearer",
            holds=bool((moved * ahead > 0).all() and (moved.abs() < ahead.abs()).all()),
            reason="the direction of descent need not move straight",
        ),
    ]


def _from_short(curve: pd.DataFrame) -> dict[str, float]:
    """The margins where steps are short first, and at the end."""
    short = curve[curve["log10_gradient"] <= SHORT]
    first = short.iloc[0] if len(short) else curve.iloc[-1]
    both = {norm: float(curve[norm].iloc[-1]) for norm in ("l2", "spectral")}
    return {**both, **{f"{norm} short": float(first[norm]) for norm in both}}


def _class_of_torch(figure: Figure, rows: pd.DataFrame, preset: Preset) -> Claim:
    sizes = rows.groupby("log10_gradient", sort=False)
    lengths, ratios = sizes["length"].mean(), (rows["length"] / rows["law"]).to_numpy()
    return figure.claim(
        preset,
        "torch.optim.Muon itself, in bfloat16, of random gradients of norm "
        + ", ".join(f"{10**size:.0e}" for size in lengths.index)
        + ": spectral norms of the steps are the largest p(s / max(norm, eps)) (mean lengths; over that, least and largest of"
        " all)",
        source=LAW,
        kind="derived",
        measured=f"{numbers(lengths.to_numpy(), 4)}; {numbers([ratios.min(), ratios.max()])}",
        expected=f"{numbers(sizes['law'].mean().to_numpy(), 4)}; 1",
        tolerance=f"{OFF_TORCH:.2g} relative, every matrix",
        holds=bool((np.abs(ratios - 1) <= OFF_TORCH).all()),
        setting=f"{rows['seed'].nunique()} Gaussian matrices of 8 x 16, without momentum",
    )
