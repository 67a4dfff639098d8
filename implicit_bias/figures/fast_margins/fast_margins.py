"""How fast the margin is maximised: dual acceleration, steps over the loss and constant steps; mirror descent in l_p."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure as Drawing

from implicit_bias.analysis.runs import Run
from implicit_bias.figures.base import FIGURES, Figure, PerPreset, Preset, one_line
from implicit_bias.figures.claims import Claim, Finding
from implicit_bias.figures.fast_margins import judged
from implicit_bias.figures.fast_margins.judged import ACCELERATED, FIRST, GD, METHODS, NGD, OVER_LOSS, RACE, RACED, TABLE, TABLED
from implicit_bias.plotting.heat_map import FRAME, colour_bar, heat_map
from implicit_bias.plotting.style import DOUBLE, Look, curve_looks, legend_below, log_axis, log_spaced

STEPS = PerPreset(smoke=400, default=30_000, paper=300_000)
TABLE_STEPS = PerPreset(smoke=300, default=20_000, paper=200_000)
SEEDS = PerPreset(smoke=2, default=4, paper=10)
#: What is typed for each method.
TYPED: Mapping[str, tuple[str, ...]] = {
    ACCELERATED: ("norm=lp",),
    OVER_LOSS: ("optimizer=mirror", "norm=l2"),
    NGD: ("optimizer=ngd", "schedule=power"),
    GD: ("optimizer=gd", "schedule=constant"),
}
WORDS = {
    ACCELERATED: r"dual acceleration, $\ell_{NORM}$",
    OVER_LOSS: r"mirror descent, $\ell_2$: GD over the loss",
    NGD: "NGD",
    GD: "GD, constant step",
}
#: Samples of the heat map, and its lowest colour.
FEW, LEAST = 15, 0.8


@FIGURES.register
class FastMargins(Figure):
    """Dual acceleration closes the margin gap as 1 / t^2, steps over the loss as 1 / t, constant steps as 1 / log t."""

    name = "fast_margins"
    headline = "dual acceleration in l2"
    order = 220
    title = "How fast can the margin be maximised?"
    source = "Ji, Srebro and Telgarsky, arXiv 2107.00595"
    kind = "theorem"
    paper = "fast_margins"
    records_a_decade = 8
    minutes = PerPreset(smoke=0.1, default=0.7, paper=9.0)

    def setting(self, preset: Preset) -> str:
        return (
            f"60 Gaussian samples with 40 features, labels of a linear teacher, seeds 1 to {SEEDS.at(preset)}; exponential loss,"
            f" from zero, {STEPS.at(preset):,} steps"
        )

    def caption(self, preset: Preset) -> str:
        return one_line(f"""
            Two classes of 60 Gaussian samples with 40 features, labelled by a linear teacher; exponential loss, means over
            seeds 1 to {SEEDS.at(preset)}. (a) Relative gap to the certified maximum margin in the method's own norm; in the
            legend its slope, fitted from step {FIRST} on. (b) What is proven without the optimum: the certificate's upper bound
            less the margin. GD over the loss is mirror descent in l2, eta_t = 1 / (B^2 L); NGD has eta_t proportional to t^-1/2.
            (c) Mirror descent in the potential |w|_p^p / p, {FEW} samples with 100 features, {TABLE_STEPS.at(preset):,} steps:
            l_q margin over the certified maximum, mean and spread over the seeds; framed, q = p.
        """)

    def sweeps(self, preset: Preset) -> list[list[str]]:
        seeds = f"seed=range(1,{SEEDS.at(preset) + 1})"
        race = [f"experiment={self.name}", f"steps={STEPS.at(preset)}", seeds]
        exponents = TABLED[1:3] if preset == "smoke" else TABLED
        norms = f"log.norms=[{','.join(f'lp{p:g}' for p in exponents)}]"
        table = [
            f"experiment={self.name}", f"steps={TABLE_STEPS.at(preset)}", seeds, f"dataset.samples={FEW}", "dataset.dim=100",
            "optimizer=mirror", "norm=lp", f"norm.p={','.join(f'{p:g}' for p in exponents)}", norms, "log.points=30",
        ]  # fmt: skip
        raced = RACED[:2] if preset == "smoke" else RACED
        of_method = {ACCELERATED: [f"norm.p={','.join(f'{p:g}' for p in raced)}"]}
        return [*([*race, *typed, *of_method.get(method, [])] for method, typed in TYPED.items()), table]

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """part, method, variant, norm, seed, step, gap, certified, bound; variant is the run's own norm.

        Of the race at every record, of the table at every record in the own norm, in the others at the last. ``bound`` is the
        theorem's, relative.
        """
        parts = [_tabled(run) if run.spec.value("dataset.samples") == FEW else _raced(run) for run in runs]
        return pd.concat(parts, ignore_index=True)

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        figure = Drawing(figsize=(DOUBLE, 5.4), layout="constrained")
        axes = figure.subplot_mosaic([["gap", "proven"], ["table", "table"]], height_ratios=[1.15, 1])
        race, looks = table[table["part"] == RACE], _looks(table)
        for key, look in looks.items():
            _curve(axes["gap"], race, key, "gap", look)
            _curve(axes["proven"], race, key, "certified", look)
        for name, title, label in (
            ("gap", "(a) gap to the maximum", "relative margin gap"),
            ("proven", "(b) what is proven", "upper bound - margin, relative"),
        ):
            axes[name].set_title(title, loc="left")
            axes[name].set(xlabel="step", ylabel=label)
            log_axis(axes[name], "x")
            log_axis(axes[name], "y")
        _draw_table(figure, axes["table"], table[table["part"] == TABLE])
        legend_below(figure, [look.handle() for look in looks.values()], ncols=2)
        return figure

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        return [] if preset == "smoke" else judged.claims(self, table, preset)

    def findings(self, table: pd.DataFrame, preset: Preset) -> list[Finding]:
        return [] if preset == "smoke" else judged.findings(table)


def _raced(run: Run) -> pd.DataFrame:
    spec, own = run.spec, run.spec.own_label
    rows = run.trajectory[(run.trajectory["norm"] == own) & (run.trajectory["step"] > 0)]
    method = {"dual_acceleration": ACCELERATED, "mirror": OVER_LOSS, "ngd": NGD, "gd": GD}[spec.optimizer.name]
    found = _columns(rows).assign(part=RACE, method=method, variant=own)
    x = spec.dataset.load().x
    # In the theorem's units, |x_i| <= 1: a pair's gradient is (x_i, -x_i), of norm sqrt(2) |x_i|.
    gamma = rows["max_margin"] / (np.sqrt(2) * np.linalg.norm(x, axis=1).max())
    t = rows["step"].astype(float)
    bound = 4 * (1 + np.log(len(x))) * (1 + 2 * np.log(t)) / (gamma * t) ** 2
    return found.assign(bound=bound if method == ACCELERATED and own == "lp2" else np.nan)


def _tabled(run: Run) -> pd.DataFrame:
    """The gaps of p-GD in its own norm at every record, in the others at the last."""
    rows, own = run.trajectory[run.trajectory["step"] > 0], run.spec.own_label
    rows = rows[(rows["norm"] == own) | (rows["step"] == rows["step"].max())]
    return _columns(rows).assign(part=TABLE, method="mirror", variant=own, bound=np.nan)


def _columns(rows: pd.DataFrame) -> pd.DataFrame:
    proven = (rows["upper_bound"] - rows["margin"]) / rows["max_margin"]
    gap = 1 - rows["margin"] / rows["max_margin"]
    return rows[["seed", "step", "norm"]].assign(gap=gap, certified=proven)


def _looks(table: pd.DataFrame) -> dict[tuple[str, str], Look]:
    """The look of every curve, with its fitted slope, by method and own norm."""
    slopes = judged.slopes(table)
    named = {}
    for method, own in (key for key in METHODS if len(slopes[key])):
        words = WORDS[method].replace("NORM", own.removeprefix("lp"))
        named[f"{words} (slope {slopes[method, own].mean():.2f})".replace("-", "\N{MINUS SIGN}")] = (method, own)
    optimizers = {ACCELERATED: "dual_acceleration", OVER_LOSS: "mirror", NGD: "ngd", GD: "gd"}
    looks = curve_looks({label: optimizers[method] for label, (method, _) in named.items()})
    return {named[label]: look for label, look in looks.items()}


def _curve(axis: Axes, race: pd.DataFrame, key: tuple[str, str], column: str, look: Look) -> None:
    rows = race[(race["method"] == key[0]) & (race["variant"] == key[1])]
    mean = rows.groupby("step")[column].mean().clip(lower=1e-9)
    mean = mean[mean < 1]
    if len(mean):
        axis.plot(mean.index, mean, **look.plot(log_spaced(mean.index.to_numpy(), 7)))


def _draw_table(figure: Drawing, axis: Axes, rows: pd.DataFrame) -> None:
    last = rows[rows["step"] == rows["step"].max()]
    ratios = (1 - last["gap"]).groupby([last["variant"], last["norm"]])
    order = [f"lp{p:g}" for p in TABLED]
    mean = ratios.mean().unstack().reindex(index=order, columns=order).to_numpy()
    spread = ratios.std(ddof=0).unstack().reindex(index=order, columns=order).to_numpy()
    image = heat_map(
        axis,
        mean,
        spread,
        Normalize(LEAST, 1),
        {(i, i): FRAME for i in range(len(order))},
        rows=[f"p = {p:g}" for p in TABLED],
        columns=[rf"$\ell_{{{q:g}}}$" for q in TABLED],
        size=7.5,
    )
    axis.set_title("(c) mirror descent: margin over its maximum", loc="left")
    colour_bar(figure, image, axis, "ratio")
