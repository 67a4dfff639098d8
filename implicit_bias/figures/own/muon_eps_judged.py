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
#: The slope of the iteration at zero, 3.4445^5 = 485: what it makes of a gradient far below eps is 485 times it over eps.
SLOPE = float(np.prod([a for a, _, _ in triples(JORDAN, 5)]))
# log10 of the gradient where torch's steps are still normalised, and where they are short; the lengths there that one data set
# had, and what others may be off by.
WHOLE, SHORT = -8.2, -10.8
LENGTH_WHOLE, OFF_WHOLE, LENGTH_SHORT, OFF_SHORT = 1.05, 0.1, 0.052, 0.01
# The polynomials of singular values in place of matrices: the table has six digits of both numbers.
OFF_LAW = 1e-5
# log10 of the gradient at the end after 1e5 steps, and of the method without eps.
END, OFF_END, FREE = -12.9, 0.2, -1000.0
# The hand-over is where a step is half as long; the step that descent would make; its power of t.
HALF, FACTOR, DESCENT, POWER = 0.5, 2.0, 0.01, 0.05
# Means over matrices of the lengths of torch's own class, and of each of them over the law in float64. The latter's tolerance is
# empirical, as much as five roundings of bfloat16: no bound, since a step of the iteration rounds in three products and two sums
# whose terms all but cancel (3.44 - 4.78 + 2.03 at s = 1). The furthest of seeds 1 to 400 is .0194 off.
OFF_LENGTHS, OFF_TORCH = 0.1, 5 * 2.0**-8
TORCH_LENGTHS = (1.13, 1.13, 1.20, 0.241, 0.0024)
OWN = "this project's own check"
ONE_SEED = f"{OWN}: numbers of an earlier computation of one seed"


def lifted(singular: np.ndarray) -> np.ndarray:
    """p(s), what five of Jordan's steps make of singular values: s <- a s + b s^3 + c s^5, five times.

    They touch no singular vector, so that the step of a gradient with singular values sigma_i and Frobenius norm r has the
    singular values p(sigma_i / max(r, eps)), whatever its shape. Up to 5e-4 p is 485 s within a hundredth, at 1e-3 3 % less,
    from .0016 to 1 anywhere from .68 to 1.203, and .70 at 1, the step of a gradient of rank one.
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
        _law(figure, rows, preset),
        *_lengths(figure, torch_rows, preset),
        _handed_over(figure, rows, preset),
        *_descends(figure, rows, torch_rows, preset),
        _gradients(figure, rows, preset),
        *_margins(figure, torch_rows, table[table["part"] == L2_OPTIMUM].set_index("seed"), preset),
        *_class_of_torch(figure, table[table["part"] == TORCH], preset),
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


def _law(figure: Figure, rows: pd.DataFrame, preset: Preset) -> Claim:
    off = (rows["length"] / rows["law"] - 1).abs().max()
    return figure.claim(
        preset,
        "the steps' matrices are what the polynomials make of their singular values, as algebra has it: at every eps, seed and"
        " record the spectral norm is the largest p(s / max(gradient, eps)) (over that, furthest)",
        source=f"{OWN}, of its computation alone: U p(S) V' is the polynomial of U S V'",
        kind="check",
        measured=f"{1 + off:.6f}",
        expected="1",
        tolerance=f"{OFF_LAW:g}",
        holds=bool(off <= OFF_LAW),
    )


def _lengths(figure: Figure, usual: pd.DataFrame, preset: Preset) -> list[Claim]:
    whole = usual[(usual["log10_gradient"] >= WHOLE) & (usual["log10_gradient"] <= -1)].groupby("seed")
    lengths = whole["length"].mean()
    curves = list(usual.groupby("seed"))
    short = pd.Series({seed: _at(curve, "length", SHORT) for seed, curve in curves})
    largest = pd.Series({seed: _at(curve, "share", SHORT) for seed, curve in curves})
    return [
        figure.claim(
            preset,
            f"with torch's eps = {USUAL:g} steps are normalised from a gradient of .1 down to 10^{WHOLE:g} (spectral norm, mean"
            " of all records there, by seed)",
            source=ONE_SEED,
            kind="check",
            measured=numbers(lengths.to_numpy()),
            expected=f"{LENGTH_WHOLE:g}",
            tolerance=f"{OFF_WHOLE:g}",
            holds=bool((lengths - LENGTH_WHOLE).abs().max() <= OFF_WHOLE),
            reason=_of_rank_one(whole["share"].mean()[(lengths - LENGTH_WHOLE).abs() > OFF_WHOLE]),
        ),
        figure.claim(
            preset,
            f"at a gradient of 10^{SHORT:g} they are short (spectral norm, by seed)",
            source=ONE_SEED,
            kind="check",
            measured=numbers(short.to_numpy()),
            expected=f"{LENGTH_SHORT:g}",
            tolerance=f"{OFF_SHORT:g}",
            holds=bool((short - LENGTH_SHORT).abs().max() <= OFF_SHORT),
            reason=_of_rank_one(largest[(short - LENGTH_SHORT).abs() > OFF_SHORT]),
        ),
    ]


def _of_rank_one(largest: pd.Series) -> str:
    """Why lengths differ from one data set's: with the largest singular values of the seeds' gradients, over their norms."""
    told = ", ".join(f"{share:.3f} in seed {seed}" for seed, share in largest.items())
    return (
        "the length depends on the data set: it is max_i p(sigma_i / max(|G|_F, eps)) of the gradient's singular values, and the"
        f" largest over |G|_F is {told} (1 is rank one): where p is linear the length is in proportion to it, and p(1) is"
        f" {lifted(np.array(1.0)):.2f}"
    )


def _at(curve: pd.DataFrame, column: str, gradient: float) -> float:
    """A column where the gradient has a size, interpolated in logarithms."""
    ordered = curve.sort_values("log10_gradient")
    return float(np.exp(np.interp(gradient, ordered["log10_gradient"], np.log(ordered[column]))))


def _handed_over(figure: Figure, rows: pd.DataFrame, preset: Preset) -> Claim:
    """The size of the gradient at which steps are half as long, in units of eps/485."""
    sizes: dict[float, list[float]] = {float(eps): [] for eps in sorted(rows["eps"].unique()) if eps > 0}
    for eps, of_eps in sizes.items():
        for _, curve in rows[rows["eps"] == eps].groupby("seed"):
            place = _crossing(curve["log10_gradient"].to_numpy(), np.log(curve["length"].to_numpy()), np.log(HALF))
            of_eps.append(10**place * SLOPE / eps)
    found = np.concatenate(list(sizes.values()))
    told = ", ".join(f"{eps:g}: {np.mean(of_eps):.2f}" for eps, of_eps in sizes.items())
    half = SLOPE * brentq(lambda s: float(lifted(np.array(s))) - HALF, 0.0, 2 * HALF / SLOPE)
    return figure.claim(
        preset,
        "at every eps the hand-over, where the step is half as long, is at a gradient of eps/485 (in that unit, mean over seeds)",
        measured=f"{told}; all from {found.min():.2f} to {found.max():.2f}",
        expected="1",
        tolerance=f"a factor {FACTOR:g}, every seed",
        holds=bool((found >= 1 / FACTOR).all() and (found <= FACTOR).all()),
        reason=f"it is where the gradient's largest singular value is {half:.3f} eps/485, and how much of the gradient that is"
        " depends on the data set",
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


def _class_of_torch(figure: Figure, rows: pd.DataFrame, preset: Preset) -> list[Claim]:
    sizes = rows.groupby("log10_gradient", sort=False)
    lengths, ratios = sizes["length"].mean(), (rows["length"] / rows["law"]).to_numpy()
    named = ", ".join(f"{10**size:.0e}" for size in lengths.index)
    setting = f"{rows['seed'].nunique()} Gaussian matrices of 8 x 16, without momentum"
    earlier = np.array(TORCH_LENGTHS)
    # What the smallest gradients have: SLOPE times the largest singular value over eps.
    least = 10 ** float(lengths.index[-1]) * SLOPE / USUAL
    return [
        figure.claim(
            preset,
            f"torch.optim.Muon itself, of gradients of norm {named}: spectral norm of the step, mean",
            source=ONE_SEED,
            kind="check",
            measured=numbers(lengths.to_numpy(), 4),
            expected=numbers(TORCH_LENGTHS, 4),
            tolerance=f"{OFF_LENGTHS:g} relative",
            holds=bool((np.abs(lengths.to_numpy() / earlier - 1) <= OFF_LENGTHS).all()),
            reason="the lengths depend on the matrices: short ones are 485 s_1 / eps, the largest singular value s_1 being"
            f" {numbers([rows['share'].min()])} to {numbers([rows['share'].max()])} of the norm,"
            f" {numbers([rows['share'].mean()])} on average, and {earlier[-1] / least:.2f} in the one of the earlier number",
            setting=setting,
        ),
        figure.claim(
            preset,
            f"torch.optim.Muon itself, in bfloat16, of random gradients of norm {named}: spectral norms of the steps are the"
            " largest p(s / max(norm, eps)) in float64 (mean lengths; over that, least and largest of all)",
            source=f"{OWN}: the tolerance is empirical, five roundings of bfloat16",
            kind="check",
            measured=f"{numbers(lengths.to_numpy(), 4)}; {numbers([ratios.min(), ratios.max()])}",
            expected=f"{numbers(sizes['law'].mean().to_numpy(), 4)}; 1",
            tolerance=f"{OFF_TORCH:.2g} relative, every matrix",
            holds=bool((np.abs(ratios - 1) <= OFF_TORCH).all()),
            setting=setting,
        ),
    ]
