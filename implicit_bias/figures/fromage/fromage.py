"""Fromage: the l2 margin that it reaches, norms that grow or stay, and layers whose composition does not matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from implicit_bias.analysis.curves import over_seeds
from implicit_bias.analysis.runs import Run
from implicit_bias.figures.base import FIGURES, Figure, PerPreset, Preset, one_line, one_thread
from implicit_bias.figures.claims import Claim, Finding
from implicit_bias.figures.fromage.measured import COMPOSITIONS, composed_rows, growth
from implicit_bias.figures.papers import MIXTURE
from implicit_bias.plotting.style import (
    DASHDOT,
    DASHED,
    DOTTED,
    GREY,
    Look,
    legend_below,
    log_axis,
    log_spaced,
    optimizer_look,
    panels,
    shade,
)

MARGIN, GROWTH, LAYERS = "margin", "growth", "layers"
DECAYING, CONSTANT = "decaying", "constant"
RATES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        DECAYING: ("schedule.lr=0.3", "schedule.power=0.5"),
        CONSTANT: ("schedule.lr=0.01", "schedule.power=0"),
    }
)
_COLOR = optimizer_look("fromage").color
RATE_LOOKS = {
    DECAYING: Look(r"$\eta_t = .3\, t^{-1/2}$", _COLOR, "P"),
    CONSTANT: Look(r"$\eta_t = .01$", shade(_COLOR, 0.8), "o", DASHED),
}
FROMAGE = "fromage"
LAYER_LOOKS = {
    "max": Look("max", "#0072B2", "s"),
    "l2": Look(r"$\ell_2$", "#E69F00", "o", DASHED),
    "max, 1:5": Look("max, 1:5", "#56B4E9", "v", DASHDOT),
    "l2, 5:1": Look(r"$\ell_2$, 5:1", "#9C6500", "^", DOTTED),
}
#: Steps of the two rules on a loss that is blind to size, their rate, and what the norm is to be by theory.
ETA, BLIND_STEPS = 0.1, PerPreset(smoke=100, default=1000, paper=1000)
STEPS = PerPreset(smoke=100, default=10_000, paper=100_000)
NETWORK_STEPS = PerPreset(smoke=50, default=2000, paper=20_000)
SEEDS = PerPreset(smoke=1, default=5, paper=20)
#: Levels of the loss down to 10^-EARLY are all kept.
EARLY = 20
NETWORK_SEEDS = PerPreset(smoke=1, default=3, paper=10)
NETWORK = ("dataset=digits", "dataset.task=parity", "dataset.samples=100", "model=mlp", "model.width=32", "reference=none")
LEVELS = 2
#: Of the claims: what the decaying rate reaches and the constant one does not; how near norms come to their law; how far apart
#: the margins of compositions are at the same loss.
REACHED, SAME_NORM, APART = 0.97, 1e-3, 0.05


@FIGURES.register
class Fromage(Figure):
    """Fromage maximises the l2 margin, layer by layer, where its rate falls; how layers' norms are composed matters little."""

    name = "fromage"
    headline = "LARS makes |W| grow"
    order = 150
    title = "Fromage: relative steps, their margin and their norms"
    source = "Bernstein, Vahdat, Yue and Liu, arXiv 2002.03432"
    kind = "paper"
    paper = "fromage"
    minutes = PerPreset(smoke=0.05, default=0.3, paper=17.0)
    records_a_decade = 20

    def setting(self, preset: Preset) -> str:
        return f"{_seeds(SEEDS.at(preset))} of {MIXTURE}; linear model from a Gaussian start, {STEPS.at(preset):,} steps"

    def caption(self, preset: Preset) -> str:
        return one_line(f"""
            (a) Relative gap of Fromage to the certified l2 margin, mean and range of {_seeds(SEEDS.at(preset))} of {MIXTURE};
            linear model from a Gaussian start. (b) |W_t| / |W_0| of LARS and of Fromage with rate {ETA:g} on a loss that
            depends on W / |W| alone (seed 1; dotted: (1 + eta^2)^(t/2) and 1). (c) {self._network_setting(preset)}: layer margin
            q / (|W_1|^2 |W_2|) of normalised momentum descent in four compositions of the two layers' Frobenius norms, over
            their mean at the same loss, each seed a line; grey: a width of {APART:.0%}. Numbers: the layers' weights.
        """)

    def _network_setting(self, preset: Preset) -> str:
        return one_line(f"""
            {_seeds(NETWORK_SEEDS.at(preset))} of 100 digits, even against odd, squared-ReLU network 64-32-1, momentum .9,
            {NETWORK_STEPS.at(preset):,} steps of the rate that is natural in each norm times t^-.8
        """)

    def sweeps(self, preset: Preset) -> list[list[str]]:
        size = [f"experiment={self.name}", f"steps={STEPS.at(preset)}", f"seed=range(1,{SEEDS.at(preset) + 1})"]
        network = [f"experiment={self.name}", *NETWORK, f"steps={NETWORK_STEPS.at(preset)}", f"log.levels={LEVELS}"]
        network += ["optimizer=nmd", "norm=l2", "log.norms=[l2]", "log.kkt_iters=0", "log.points=20", "log.weights=all"]
        network += [f"seed=range(1,{NETWORK_SEEDS.at(preset) + 1})"]
        return [*([*size, "model.init=gaussian", *words] for words in RATES.values()), network]

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """part, method, seed, step, ratio, log_loss, layer_margin, size.

        margin: the ratio to the certified l2 margin at every record. growth: in `size` |W_t| / |W_0|. layers: of each composition
        the layer margin, and in `size` |W_1| / |W_2|.
        """
        linear = [run for run in runs if run.spec.model.linear]
        networks = [run for run in runs if not run.spec.model.linear]
        parts = [_margins(run) for run in linear]
        parts += [_layers(run) for run in networks]
        with one_thread():
            parts.append(_grown(BLIND_STEPS.at(preset)))
            composed = composed_rows([run.spec for run in networks], NETWORK_STEPS.at(preset))
        parts.append(composed.assign(part=LAYERS))
        columns = ["part", "method", "seed", "step", "ratio", "log_loss", "layer_margin", "size"]
        return pd.concat(parts, ignore_index=True).reindex(columns=columns)

    def kept(self, table: pd.DataFrame, preset: Preset) -> pd.DataFrame:
        """Fewer records, but all of the networks' early levels of the loss, where layer margins change from one to the next."""
        numbered = table.assign(row=range(len(table)))
        early = (table["part"] == LAYERS) & (table["log_loss"] > -EARLY * np.log(10))
        few = early | numbered["row"].isin(super().kept(numbered, preset)["row"])
        kept: pd.DataFrame = table[few].reset_index(drop=True)
        return kept

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        figure, axes = panels(1, 3, height=2.9)
        _draw_margin(axes[0, 0], table[table["part"] == MARGIN])
        _draw_growth(axes[0, 1], table[table["part"] == GROWTH])
        _draw_layers(axes[0, 2], table)
        for axis, letter, title in zip(axes[0], "abc", (r"$\ell_2$ margin", "blind to size", "layer margins"), strict=True):
            axis.set_title(f"({letter}) {title}", loc="left")
        norms = [optimizer_look(name).handle() for name in ("lars", FROMAGE)]
        looks = [look.handle() for look in (*RATE_LOOKS.values(), *LAYER_LOOKS.values())]
        legend_below(figure, [*looks[:2], *norms, *looks[2:]], ncols=4)
        return figure

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        if preset == "smoke":
            return []
        depth = self.not_testable(
            preset,
            "Fromage trains networks at depths at which SGD and Adam fail, without a tuned rate",
            "not made: the paper's networks have mini-batches, and of depth 16 and more each run takes minutes here",
            expected="training accuracy at depth 30: .704, Adam and SGD .112",
        )
        return [self._margin_claim(table, preset), self._growth_claim(table, preset), self._layers_claim(table, preset), depth]

    def _margin_claim(self, table: pd.DataFrame, preset: Preset) -> Claim:
        ends = _ends(table[table["part"] == MARGIN], "ratio")
        decaying, constant = ends[DECAYING], ends[CONSTANT]
        return self.claim(
            preset,
            "Fromage reaches the l2 margin where its rate falls, and stays short of it with a constant one: ratios, mean",
            kind="check",
            measured=f"{_told(decaying)} with .3 t^-1/2, {_told(constant)} with .01",
            tolerance=f">= {REACHED:g}, <= {REACHED:g}",
            holds=decaying.mean() >= REACHED and constant.mean() <= REACHED,
            source="this project's own check",
        )

    def _growth_claim(self, table: pd.DataFrame, preset: Preset) -> Claim:
        sizes = _ends(table[table["part"] == GROWTH], "size")
        steps = BLIND_STEPS.at(preset)
        return self.near(
            preset,
            f"on a loss that is blind to the size of W, LARS makes |W| grow like (1 + eta^2)^(t/2) and Fromage leaves it: after"
            f" {steps:,} steps of rate {ETA:g}",
            [sizes["lars"].iloc[0], sizes[FROMAGE].iloc[0]],
            [_law(steps), 1.0],
            SAME_NORM,
            relative=True,
        )

    def _layers_claim(self, table: pd.DataFrame, preset: Preset) -> Claim:
        compared = compared_at_one_loss(table)
        deepest = compared[compared["level"] == compared.groupby("seed")["level"].transform("max")]
        by_seed = deepest.groupby("seed")["layer_margin"]
        spread = by_seed.max() / by_seed.min() - 1
        levels = ", ".join(f"10^-{float(level) / LEVELS:g}" for level in deepest.groupby("seed")["level"].first())
        sizes = deepest.groupby("method")["size"].mean()
        return self.claim(
            preset,
            "the KKT points of all compositions of the layers' norms are the same, and so are the layer margins at the same loss:"
            " how far the largest of four is above the least, by seed",
            kind="derived",
            measured=f"{' / '.join(f'{s:.1%}' for s in spread)} (at {levels}; |W_1| / |W_2| from {sizes.min():.2f} to"
            f" {sizes.max():.2f})",
            tolerance=f"<= {APART:.0%}",
            holds=bool(len(spread) and spread.max() <= APART),
            source="derived here",
            setting=self._network_setting(preset),
            reason="the differences arise while the loss is above about 10^-5, and hardly change after: the paths, with layers of"
            " other sizes, seem to come near different ones of the common KKT points, which is not shown here",
        )

    def findings(self, table: pd.DataFrame, preset: Preset) -> list[Finding]:
        if preset == "smoke":
            return []
        ends = _ends(table[table["part"] == LAYERS].dropna(subset=["size"]), "layer_margin").groupby("method").mean()
        sizes = _ends(table[table["part"] == LAYERS], "size").groupby("method").mean()
        told = ", ".join(f"{how}: {ends[how]:.3f} at |W_1| / |W_2| {sizes[how]:.2f}" for how in COMPOSITIONS)
        return [
            Finding(
                "How layers' norms are composed moves the layers' sizes, and the margin hardly",
                one_line("""
                    For a network that is homogeneous in every layer the conditions under a maximum, l2 or any weights are the
                    same, layer by layer. Descent in them differs in the sizes of the layers by more than an order of magnitude,
                    and in the layer margin by a few percent.
                """),
                told,
            )
        ]


def compared_at_one_loss(table: pd.DataFrame) -> pd.DataFrame:
    """seed, level, method, layer_margin, size: of every composition the first record below 10^(-level / LEVELS), at the levels
    that all of them reach with a positive margin."""
    rows = table[(table["part"] == LAYERS) & table["method"].isin(list(COMPOSITIONS))].sort_values("step")
    parts = []
    for seed, mine in rows.groupby("seed"):
        curves = {str(method): curve for method, curve in mine.groupby("method")}
        depths = {how: np.maximum.accumulate(-np.nan_to_num(c["log_loss"], nan=np.inf)) for how, c in curves.items()}
        if len(curves) < len(COMPOSITIONS) or not all(np.isfinite(depth[-1]) for depth in depths.values()):
            continue
        deepest = int(min(depth[-1] for depth in depths.values()) / np.log(10) * LEVELS)
        levels = np.arange(1, deepest + 1)
        for how, curve in curves.items():
            places = np.searchsorted(depths[how], levels / LEVELS * np.log(10))
            first = curve[["layer_margin", "size"]].bfill().iloc[places]
            parts.append(first.assign(seed=seed, level=levels, method=how))
    if not parts:
        return pd.DataFrame({"seed": [], "level": [], "method": [], "layer_margin": [], "size": []})
    found = pd.concat(parts, ignore_index=True)
    positive = found.groupby(["seed", "level"])["layer_margin"].transform("min") > 0
    kept: pd.DataFrame = found[positive].sort_values(["seed", "level", "method"], ignore_index=True)
    return kept


def _seeds(count: int) -> str:
    return "seed 1" if count == 1 else f"seeds 1 to {count}"


def _law(steps: float) -> float:
    return float((1 + ETA**2) ** (steps / 2))


def _margins(run: Run) -> pd.DataFrame:
    rows = run.trajectory[(run.trajectory["norm"] == "l2") & (run.trajectory["step"] > 0)]
    method = CONSTANT if run.spec.schedule.constant else DECAYING
    return rows[["seed", "step", "log_loss"]].assign(part=MARGIN, method=method, ratio=rows["margin"] / rows["max_margin"])


def _layers(run: Run) -> pd.DataFrame:
    """The records of the composition in l2."""
    rows = run.trajectory[run.trajectory["norm"] == "l2"].set_index("step")
    kept = pd.DataFrame({column: rows.get(column, np.nan) for column in ("log_loss", "layer_margin")})
    found = kept.join(_sizes(run)).rename_axis("step").reset_index()
    return found.assign(part=LAYERS, method="l2", seed=run.spec.seed)


def _sizes(run: Run) -> pd.Series:
    """|W_1| / |W_2| by step."""
    path = Path(run.folder or "") / "final.npz"
    if not path.exists():
        return pd.Series(dtype=float, name="size")
    with np.load(path) as kept:
        first, last = (np.linalg.norm(kept[f"layer{layer}_all"], axis=(-2, -1)) for layer in (1, 2))
        return pd.Series(first / last, index=kept["steps"], name="size")


def _grown(steps: int) -> pd.DataFrame:
    sizes = {method: growth(method, ETA, steps, 1) for method in ("lars", FROMAGE)}
    kept = [int(t) for t in np.linspace(0, steps, 11)]
    rows = [(GROWTH, method, 1, t, sizes[method][t]) for method in sizes for t in kept]
    return pd.DataFrame(rows, columns=["part", "method", "seed", "step", "size"])


def _ends(rows: pd.DataFrame, column: str) -> pd.Series:
    """A column after the last step, by method and seed."""
    last = rows[rows["step"] == rows.groupby(["method", "seed"])["step"].transform("max")]
    series: pd.Series = last.set_index(["method", "seed"])[column].sort_index()
    return series


def _draw_margin(axis: Axes, rows: pd.DataFrame) -> None:
    for method, look in RATE_LOOKS.items():
        curve = over_seeds(rows[rows["method"] == method].assign(gap=lambda r: 1 - r["ratio"]), "gap")
        axis.plot(curve.index, curve["mean"], **look.plot(log_spaced(curve.index, 6)))
        axis.fill_between(curve.index, curve["min"], curve["max"], color=look.color, alpha=0.18, lw=0)
    axis.set(xlabel="step $t$", ylabel=r"relative $\ell_2$ margin gap")
    log_axis(axis, "x")
    log_axis(axis, "y")


def _draw_growth(axis: Axes, rows: pd.DataFrame) -> None:
    steps = np.linspace(0, rows["step"].max(), 50)
    axis.plot(steps, [_law(t) for t in steps], color=GREY, ls=":", lw=1)
    axis.axhline(1, color=GREY, ls=":", lw=1)
    for method in ("lars", FROMAGE):
        mine, look = rows[rows["method"] == method], optimizer_look(method)
        axis.plot(mine["step"], mine["size"], **look.plot(range(0, len(mine), 2)))
    axis.set(xlabel="step $t$", ylabel="$|W_t| / |W_0|$")
    log_axis(axis, "y")


def _draw_layers(axis: Axes, table: pd.DataFrame) -> None:
    rows = compared_at_one_loss(table)
    axis.axhspan(1 - APART / 2, 1 + APART / 2, color="#eeeeee", lw=0)
    if rows.empty:
        # Runs that are too short to separate their data have no margins to compare.
        axis.text(0.5, 0.5, "not separated", ha="center", va="center", transform=axis.transAxes)
    rows = rows.assign(relative=rows["layer_margin"] / rows.groupby(["seed", "level"])["layer_margin"].transform("mean"))
    for method, look in LAYER_LOOKS.items():
        for _, curve in rows[rows["method"] == method].groupby("seed"):
            places = curve["level"].to_numpy() / LEVELS
            axis.plot(places, curve["relative"], **{**look.plot(range(0, len(curve), max(1, len(curve) // 4))), "lw": 1.0})
    axis.set(xlabel=r"$-\log_{10}$ loss", ylabel="layer margin / mean of four")


def _told(values: pd.Series) -> str:
    return f"{values.mean():.3f} ± {values.std(ddof=0):.3f}"
