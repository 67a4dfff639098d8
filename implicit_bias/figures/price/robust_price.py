"""Robust training: the price of an implicit bias that does not suit the perturbation, and what more samples leave of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure as Drawing

from implicit_bias.analysis.runs import Run
from implicit_bias.figures.base import FIGURES, Figure, PerPreset, Preset, one_line
from implicit_bias.figures.claims import Claim, Finding
from implicit_bias.figures.price import robust_price_judged as judged
from implicit_bias.figures.price.measured import accuracies, certificates, l2_identity, optimum, vector_of
from implicit_bias.models.perturbations import Perturbed
from implicit_bias.plotting.heat_map import heat_map
from implicit_bias.plotting.labels import End, end_labels
from implicit_bias.plotting.style import DASHED, DOTTED, GREY, Look, legend_below, log_axis, panels, shade

GD, CD, DIAGONAL, CLEAN, L2, L1 = "gd", "cd", "diagonal", "clean", "l2", "l1"
LOOKS = {
    GD: Look("GD", "#F2C14E", "h"),
    CD: Look("coordinate descent", "#D55E00", "v"),
    DIAGONAL: Look("GD, diagonal network", "#0072B2", "o"),
    CLEAN: Look("GD, plain loss", "#9C6500", "x", DASHED),
    L2: Look(r"$\ell_2$ optimum", GREY, "", DOTTED),
    L1: Look(r"$\ell_1$ optimum", "#000000", "", DOTTED),
}
DIM = PerPreset(smoke=16, default=128, paper=512)
SEEDS = PerPreset(smoke=1, default=3, paper=3)
TEST = PerPreset(smoke=200, default=4000, paper=20_000)
#: By the number of samples the largest radius of a max-norm ball, the l1 maximum margin: its mean over these seeds.
LARGEST: PerPreset[Mapping[int, float]] = PerPreset(
    smoke={16: 0.2366},
    default={16: 0.4853, 32: 0.307, 64: 0.1774, 128: 0.1035},
    paper={64: 0.2425, 128: 0.1456, 256: 0.0867, 512: 0.0498},
)
#: The radius of training, and those of the map, as shares of it.
SHARE, SHARES = 0.5, (0.0, 0.25, 0.5, 0.75)
STEPS = PerPreset(smoke=20, default=3000, paper=20_000)
#: Sum of the worst losses at which training ends, as in the paper's program.
STOP = 1e-3
#: And of the plain loss, which the worst ones reach later.
STOP_PLAIN = 1e-6
DIAGONAL_STEPS = PerPreset(smoke=20, default=1500, paper=10_000)
GD_RATE, CD_RATE, CD_RATE_MANY, DIAGONAL_RATE, DIAGONAL_START = 0.1, 0.3, 1.0, 0.1, 0.01
#: Of the panel of margins: sizes, seeds, largest radius, steps.
MARGIN_SIZES = PerPreset(smoke=(12, 16), default=(40, 60), paper=(40, 60))
MARGIN_SEEDS = PerPreset(smoke=1, default=3, paper=10)
MARGIN_LARGEST = PerPreset(smoke=0.2981, default=0.2042, paper=0.2042)
MARGIN_STEPS = PerPreset(smoke=20, default=2200, paper=25_000)
MARGIN_RATES = {GD: 0.2, CD: 0.6}
CHECKED = (0.3, 0.8)


@FIGURES.register
class RobustPrice(Figure):
    """With few samples GD's l2 bias costs robustness to max-norm perturbations, which coordinate descent's l1 bias keeps."""

    name = "robust_price"
    headline = "coordinate descent is ahead"
    order = 220
    title = "The price of implicit bias in robust training"
    source = (
        "Tsilivis, Frank, Srebro and Kempe, arXiv 2406.04981, Figure 1 (which is better; sizes and thresholds are chosen here)"
    )
    kind = "paper"
    paper = "price"
    minutes = PerPreset(smoke=0.1, default=0.8, paper=7.0)

    def setting(self, preset: Preset) -> str:
        return (
            f"dense Gaussian teacher in {DIM.at(preset)} dimensions, two classes, {SEEDS.at(preset)} seeds, {TEST.at(preset):,}"
            " test samples; exponential loss, max-norm perturbations"
        )

    def caption(self, preset: Preset) -> str:
        n, d = MARGIN_SIZES.at(preset)
        return one_line(f"""
            Linear classification of Gaussian samples in {DIM.at(preset)} dimensions labelled by a Gaussian direction, every
            feature perturbed by up to eps; seeds 1 to {SEEDS.at(preset)}, {TEST.at(preset):,} test samples. (a, b) Robust
            accuracy in training less that on test samples, by samples over dimensions, means: (a) eps = 0, (b) eps half of the
            largest there is; trained until the summed worst loss is {STOP:g} (plain loss {STOP_PLAIN:g}), or {STEPS.at(preset):,}
            steps (network {DIAGONAL_STEPS.at(preset):,}, too few for it to fit all of the most samples). Dotted: certified robust
            optima. "Plain loss": GD without eps in its gradient.
            (c) Robust test accuracy of the l1 optimum less that of the l2 optimum.
            (d) By how much the robust margin in the own norm falls short of its certified maximum, of GD (l2) and coordinate
            descent (l1), {MARGIN_SEEDS.at(preset)} seeds of {n} samples in {d} dimensions, means; at the curves' ends eps as a
            share of the largest.
        """)

    def sweeps(self, preset: Preset) -> list[list[str]]:
        seeds, dim = f"seed=range(1,{SEEDS.at(preset) + 1})", DIM.at(preset)
        rules = {GD: ["optimizer=gd"], CD: ["optimizer=sd", "norm=l1"]}
        found = []
        for m, largest in LARGEST.at(preset).items():
            data = [f"experiment={self.name}", seeds, f"dataset.dim={dim}", f"dataset.samples={m}",
                    f"dataset.test_samples={TEST.at(preset)}", f"steps={STEPS.at(preset)}"]  # fmt: skip
            stop, plain = (f"stop_log10_loss={math.log10(least / m):.4f}" for least in (STOP, STOP_PLAIN))
            eps = _radius(SHARE, largest)
            for method, words in rules.items():
                rate = GD_RATE if method == GD else CD_RATE if m < dim else CD_RATE_MANY
                found.append([*data, *words, f"schedule.lr={rate:g}", plain])
                found.append([*data, *words, f"schedule.lr={rate:g}", stop, "model.perturbation=linf", f"model.eps={eps:g}"])
            network = ["model=diagonal", f"model.init_scale={DIAGONAL_START:g}", f"schedule.lr={DIAGONAL_RATE:g}"]
            found.append([*data[:-1], f"steps={DIAGONAL_STEPS.at(preset)}", *network, stop, "model.perturbation=linf",
                          f"model.eps=0,{eps:g}"])  # fmt: skip
        n, d = MARGIN_SIZES.at(preset)
        radii = ",".join(f"{_radius(share, MARGIN_LARGEST.at(preset)):g}" for share in SHARES)
        for method, words in rules.items():
            found.append([f"experiment={self.name}", f"seed=range(1,{MARGIN_SEEDS.at(preset) + 1})", f"dataset.samples={n}",
                          f"dataset.dim={d}", f"steps={MARGIN_STEPS.at(preset)}", *words,
                          f"schedule.lr={MARGIN_RATES[method]:g}", "model.perturbation=linf",
                          f"model.eps={radii}"])  # fmt: skip
        return found

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """part, method, m, share, seed, step, train, test, value, other.

        ``accuracy``: robust accuracies. ``margins``: value is the own-norm robust margin over its maximum. ``l2``: value is the
        optimum under l2 perturbations of l2 norm, other by how much it differs from what the identity says. ``certificate``:
        by how much the least and the largest upper bound of a robust run before its last record exceed its optimum, relative.
        """
        of_margins = [run for run in runs if run.spec.value("dataset.dim") == MARGIN_SIZES.at(preset)[1] and _tests(run) == 0]
        trained = [run for run in runs if run not in of_margins]
        rows = [row for run in trained for row in _accuracy(run, LARGEST.at(preset))]
        plain = [run for run in trained if _method(run) == GD and not run.spec.model.robust]
        rows += [row for run in plain for row in _optima(run, LARGEST.at(preset))]
        rows += l2_identity([run for run in plain if run.spec.value("dataset.samples") == min(LARGEST.at(preset))], CHECKED)
        rows += certificates([run for run in runs if run.spec.model.robust and run.spec.model.linear])
        followed = [_followed(run, MARGIN_LARGEST.at(preset)) for run in of_margins]
        return pd.concat([pd.DataFrame(rows), *followed], ignore_index=True)

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        figure, axes = panels(2, 2, height=5.2)
        accuracy = table[table["part"] == "accuracy"]
        for axis, share, methods in ((axes[0, 0], 0.0, (GD, CD, DIAGONAL, L2, L1)), (axes[0, 1], SHARE, tuple(LOOKS))):
            for method in methods:
                _draw_gap(axis, accuracy[(accuracy["method"] == method) & (accuracy["share"] == share)], LOOKS[method], preset)
            axis.set_ylabel("robust accuracy, train - test")
            axis.set_ylim(0, 1)
        _draw_map(axes[1, 0], accuracy, preset)
        _draw_margins(axes[1, 1], table[table["part"] == "margins"])
        titles = ("eps = 0", f"eps = {SHARE:g} of the largest", r"test accuracy, $\ell_1$ - $\ell_2$ optimum", "own-norm margin")
        for axis, letter, title in zip(axes.flat, "abcd", titles, strict=True):
            axis.set_title(f"({letter}) {title}", loc="left")
        legend_below(figure, [look.handle() for look in LOOKS.values()], ncols=3)
        return figure

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        return [] if preset == "smoke" else judged.claims(self, table, preset, DIM.at(preset))

    def findings(self, table: pd.DataFrame, preset: Preset) -> list[Finding]:
        return [] if preset == "smoke" else judged.findings(table)


def _radius(share: float, largest: float) -> float:
    return float(f"{share * largest:.4g}")


def _tests(run: Run) -> int:
    return int(run.spec.value("dataset.test_samples"))


def _method(run: Run) -> str:
    return DIAGONAL if run.spec.model.name == "diagonal" else GD if run.spec.optimizer.name == "gd" else CD


def _share(run: Run, largest: float) -> float:
    perturbed = run.spec.model.perturbed
    eps = 0.0 if perturbed is None else perturbed.eps
    return min(SHARES, key=lambda share: abs(share * largest - eps))


def _accuracy(run: Run, largest: Mapping[int, float]) -> list[dict[str, object]]:
    """Robust accuracies of a run's last weights at the radius that it was trained with; of GD on the plain loss at both."""
    m, w, data = run.spec.value("dataset.samples"), vector_of(run), run.spec.dataset.load()
    share, method = _share(run, largest[m]), _method(run)
    cases = [(method, share)] + ([(CLEAN, SHARE)] if method == GD and not run.spec.model.robust else [])
    told = {"part": "accuracy", "m": m, "seed": run.spec.seed, "step": int(run.trajectory["step"].max())}
    return [{**told, "method": name, "share": at, **accuracies(w, data, _radius(at, largest[m]))} for name, at in cases]


def _optima(run: Run, largest: Mapping[int, float]) -> list[dict[str, object]]:
    """Robust accuracies of the certified optima of a run's data, at all radii."""
    m, data, rows = run.spec.value("dataset.samples"), run.spec.dataset.load(), []
    for share in SHARES:
        eps = _radius(share, largest[m])
        for norm in (L2, L1):
            best = optimum(run, norm, Perturbed("linf", eps) if eps > 0 else None)
            told = {"part": "accuracy", "m": m, "seed": run.spec.seed, "method": norm, "share": share, "value": best.gap}
            rows.append({**told, **accuracies(best.separator[1] - best.separator[0], data, eps)})
    return rows


def _followed(run: Run, largest: float) -> pd.DataFrame:
    rows = run.trajectory[(run.trajectory["norm"] == run.spec.own_label) & (run.trajectory["step"] > 0)]
    found = rows[["seed", "step"]].assign(value=rows["margin"] / rows["max_margin"], part="margins", method=_method(run))
    return found.assign(share=_share(run, largest), m=run.spec.value("dataset.samples"))


def _draw_gap(axis: Axes, rows: pd.DataFrame, look: Look, preset: Preset) -> None:
    gap = (rows["train"] - rows["test"]).groupby(rows["m"]).agg(["mean", "min", "max"])
    x = gap.index.to_numpy() / DIM.at(preset)
    optimal = look.line == DOTTED
    axis.plot(x, gap["mean"], color=look.color, ls=look.line, marker=look.marker, lw=1.8 if optimal else 1.2, ms=5)
    axis.set_xlabel("samples / dimensions")
    log_axis(axis, "x")
    axis.set_xticks(x, [f"{place:g}" for place in x])
    axis.minorticks_off()


def _draw_map(axis: Axes, accuracy: pd.DataFrame, preset: Preset) -> None:
    mean = accuracy.groupby(["method", "share", "m"])["test"].mean()
    by_seed = accuracy.set_index(["method", "share", "m", "seed"])["test"]
    spread = (by_seed.loc[L1] - by_seed.loc[L2]).groupby(["share", "m"]).std().unstack("m")
    difference = (mean.loc[L1] - mean.loc[L2]).unstack("m")
    size = float(np.abs(difference.to_numpy()).max())
    columns = [f"{m / DIM.at(preset):g}" for m in difference.columns]
    heat_map(axis, difference.to_numpy(), spread.to_numpy(), Normalize(-size / 4, size), {}, columns=columns,
             rows=[f"eps {share:g}" for share in difference.index])  # fmt: skip
    axis.set_xlabel("samples / dimensions")


def _draw_margins(axis: Axes, rows: pd.DataFrame) -> None:
    ends = []
    for method in (GD, CD):
        # The names of the light curves are darker than these, so that they can be read.
        color = LOOKS[method].color
        ink = shade(color, 0.25) if method == GD else color
        for share in SHARES:
            mine = rows[(rows["method"] == method) & (rows["share"] == share)].groupby("step")["value"].mean()
            mine = 1 - mine[mine < 1]
            axis.plot(mine.index, mine, color=color, lw=1.2, alpha=1 - 0.7 * share)
            ends.append(End(float(mine.index[-1]), float(mine.iloc[-1]), f"eps {share:g}", ink))
    axis.set_xlabel("step")
    axis.set_ylabel("1 - robust margin / maximum")
    axis.set_xlim(rows["step"].min(), rows["step"].max())
    axis.set_ylim(min(1e-3, 0.7 * min((end.y for end in ends if end.y > 0), default=1)), 1)
    for which in ("x", "y"):
        log_axis(axis, which)
    end_labels(axis, ends)
