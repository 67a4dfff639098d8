"""Momentum makes up for small batches: what counts is over how many epochs gradients are averaged. So does reduced variance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from implicit_bias.analysis.runs import Run, numbers
from implicit_bias.analysis.weights import run_weights
from implicit_bias.figures.base import FIGURES, Figure, PerPreset, Preset, one_line
from implicit_bias.figures.claims import Claim, Finding
from implicit_bias.figures.papers import OWN
from implicit_bias.measures.adam_limits import batch_one_limit
from implicit_bias.measures.margins import cosine
from implicit_bias.norms import make_norm
from implicit_bias.plotting.style import GREY, Look, legend_below, log_axis, optimizer_look, panels

SAMPLES = 32
DATA = "32 Gaussian samples of 64 features, two random labels"
STEPS = PerPreset(smoke=2048, default=200_000, paper=1_000_000)
SEEDS = PerPreset(smoke=1, default=3, paper=3)
BATCHES = PerPreset[tuple[int, ...]](smoke=(1, 8), default=(1, 2, 4, 8, 16), paper=(1, 2, 4, 8, 16))
#: Averaging windows in epochs, b / (n (1 - beta)).
WINDOWS = (0.3125, 1.25, 5.0)
FULL_BETA = 0.9
#: By method the sum of all steps, about 40 over its maximum margin: the same for every seed, batch and number of steps.
LENGTHS: Mapping[str, float] = MappingProxyType({"signum": 3.5, "nmgd": 27.0})
#: The same without momentum, and the norm of their steps.
BARE: Mapping[str, str] = MappingProxyType({"signgd": "linf", "ngd": "l2"})
TWIN: Mapping[str, str] = MappingProxyType({"signgd": "signum", "ngd": "nmgd"})
MARKERS = {1: "o", 2: "s", 4: "D", 8: "^", 16: "v"}
ENDS, FULL, SINGLE, REDUCED = "ends", "full", "single", "reduced"
#: One sample a step without momentum, as it is and with its variance reduced: what it is drawn with and called.
BARE_LOOKS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {SINGLE: ("x", "b = 1, no momentum"), REDUCED: ("*", "the same, variance reduced")}
)
#: Of the claims: from which window equal ones give equal ratios, and how equal; from which nothing is lost, and how much that is;
#: how near single samples without momentum are to the closed form, and how far from the margin.
ONE_EPOCH, EQUAL = 1.0, PerPreset(smoke=1.0, default=0.02, paper=0.01)
LONG, KEPT = 3.0, 0.97
PARALLEL, LOST = 1e-9, 0.5


@FIGURES.register
class BatchMomentum(Figure):
    """Signum and NMGD reach their margins at any batch size if the average spans an epoch; equal windows, equal ratios."""

    name = "batch_momentum"
    headline = "equal windows give equal ratios"
    order = 81
    title = "Batch size and momentum: one number rules"
    source = "this project's own check"
    kind = "check"
    paper = OWN.key
    minutes = PerPreset(smoke=0.1, default=0.5, paper=2.5)

    def setting(self, preset: Preset) -> str:
        return (
            f"seeds 1 to {SEEDS.at(preset)}; {DATA}; linear model from zero, reshuffled, constant step,"
            f" {STEPS.at(preset):,} steps"
        )

    def caption(self, preset: Preset) -> str:
        return one_line(f"""
            Sign descent (Signum) and normalised gradient descent (NMGD) with momentum beta on {DATA},
            seeds 1 to {SEEDS.at(preset)}, reshuffled mini-batches, constant step, {STEPS.at(preset):,} steps of the same total
            length: margin in the method's own norm over its maximum, against the averaging window b / (n (1 - beta)) in epochs.
            A marker is a batch size's mean over seeds, the bar its range; dashed, the full batch with beta {FULL_BETA:g}. At one
            window the batch sizes lie on each other from about one epoch on. Without momentum (leftmost, SignGD and NGD) single
            samples forget the loss (crosses), unless their gradients' variance is reduced (stars; SVRG, an anchor every epoch).
        """)

    def sweeps(self, preset: Preset) -> list[list[str]]:
        steps = STEPS.at(preset)
        size = [f"experiment={self.name}", f"steps={steps}", f"seed=range(1,{SEEDS.at(preset) + 1})"]
        found = []
        for method, length in LENGTHS.items():
            rate = f"schedule.lr={length / steps:.6g}"
            for batch in BATCHES.at(preset):
                betas = ",".join(f"{1 - batch / (SAMPLES * window):.6g}" for window in WINDOWS if batch < SAMPLES * window)
                found.append([*size, f"optimizer={method}", rate, f"batch.size={batch}", f"optimizer.beta={betas}"])
            found.append([*size, f"optimizer={method}", rate, f"optimizer.beta={FULL_BETA:g}"])
        whole = steps // SAMPLES * SAMPLES
        single = [size[0], f"steps={whole}", size[2], "batch.size=1"]
        found += [[*single, f"optimizer={bare}", f"schedule.lr={LENGTHS[TWIN[bare]] / steps:.6g}"] for bare in BARE]
        return [*found, *([*words, "batch.variance_reduction=svrg"] for words in found[-len(BARE) :])]

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """part, method, batch, window, seed, ratio, away: the last margin in the method's own norm over its maximum.

        Parts: ``ends``; ``full``, the full batch; ``single``, one sample a step without momentum, where away is what the cosine
        with the closed form lacks to one; ``reduced``, the same with the variance of its gradients reduced.
        """
        rows = []
        for run in runs:
            last = run.trajectory[run.trajectory["norm"] == run.spec.own_label].iloc[-1]
            method, batch = run.spec.optimizer.name, run.spec.batch.size
            told = {"method": method, "seed": run.spec.seed, "ratio": last["margin"] / last["max_margin"]}
            if method in BARE and run.spec.batch.variance_reduction != "none":
                rows.append({**told, "part": REDUCED, "batch": 1, "window": 0.0})
            elif method in BARE:
                rows.append({**told, "part": SINGLE, "batch": 1, "window": 0.0, "away": _away(run)})
            elif batch is None:
                rows.append({**told, "part": FULL, "batch": SAMPLES, "window": 1 / (1 - FULL_BETA)})
            else:
                window = batch / (SAMPLES * (1 - run.spec.value("optimizer.beta")))
                rows.append({**told, "part": ENDS, "batch": batch, "window": min(WINDOWS, key=lambda w: abs(w - window))})
        return pd.DataFrame(rows).reindex(columns=["part", "method", "batch", "window", "seed", "ratio", "away"])

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        figure, axes = panels(1, len(LENGTHS), height=2.7)
        singles = {TWIN[bare]: bare for bare in BARE}
        for axis, method in zip(axes[0], LENGTHS, strict=True):
            look = optimizer_look(method)
            _draw(axis, table[(table["part"] == ENDS) & (table["method"] == method)], look)
            full = table[(table["part"] == FULL) & (table["method"] == method)]["ratio"].mean()
            axis.axhline(full, color=look.color, lw=0.9, ls="--")
            lowest = 0.0
            for part, (marker, _) in BARE_LOOKS.items():
                found = table[(table["part"] == part) & (table["method"] == singles[method])]["ratio"]
                _bar(axis, 1 / SAMPLES, found, look.color, marker)
                lowest = min(lowest, float(found.min()))
            axis.set_title(look.label, loc="left")
            axis.set_xlabel("averaging window in epochs")
            axis.set_ylim(lowest - 0.05, 1.03)
            log_axis(axis, "x")
            axis.set_xticks([1 / SAMPLES, *WINDOWS], [f"1/{SAMPLES}", *(f"{window:g}" for window in WINDOWS)])
            axis.minorticks_off()
        axes[0, 0].set_ylabel("margin / maximum margin")
        sizes = [Line2D([], [], color=GREY, ls="", marker=MARKERS[b], ms=4.5, label=f"b = {b}") for b in BATCHES.at(preset)]
        lines = [Line2D([], [], color=GREY, lw=0.9, ls="--", label="full batch")]
        bare = [Line2D([], [], color=GREY, ls="", marker=m, ms=5.5, label=label) for m, label in BARE_LOOKS.values()]
        legend_below(figure, [*sizes, *lines, *bare], ncols=4)
        return figure

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        if preset == "smoke":
            return []
        claims = [
            claim for method in LENGTHS for claim in (self._equal(table, method, preset), self._kept(table, method, preset))
        ]
        return [*claims, self._closed(table, preset), self._lost(table, preset), self._restored(table, preset)]

    def _equal(self, table: pd.DataFrame, method: str, preset: Preset) -> Claim:
        spread = _spread(table, method)
        long = spread[spread.index.get_level_values("window") >= ONE_EPOCH]
        widest = spread.groupby("window").max()
        return self.claim(
            preset,
            f"{optimizer_look(method).label}: from one epoch on equal windows give equal ratios, whatever the batch size: largest"
            f" spread over batch sizes of one seed, for windows of {', '.join(f'{w:g}' for w in widest.index)}",
            kind="check",
            measured=numbers(widest.to_numpy(), 4),
            tolerance=f"< {EQUAL.at(preset):g} from {ONE_EPOCH:g} on",
            holds=bool((long < EQUAL.at(preset)).all()),
            source="this project's own check",
        )

    def _kept(self, table: pd.DataFrame, method: str, preset: Preset) -> Claim:
        mine = table[table["method"] == method]
        full = mine[mine["part"] == FULL].set_index("seed")["ratio"]
        long = mine[(mine["part"] == ENDS) & (mine["window"] >= LONG)]
        share = long["ratio"] / long["seed"].map(full)
        return self.claim(
            preset,
            f"{optimizer_look(method).label}: a window of {LONG:g} epochs and more loses nothing: least share of the full batch's"
            " ratio, of all batch sizes and seeds",
            kind="check",
            measured=f"{share.min():.3f}",
            tolerance=f">= {KEPT:g}",
            holds=bool((share >= KEPT).all()),
            source="this project's own check",
        )

    def _closed(self, table: pd.DataFrame, preset: Preset) -> Claim:
        away = table.loc[table["part"] == SINGLE, "away"]
        return self.claim(
            preset,
            "without momentum, one sample a step: W is parallel to the sum of the samples' own directions (SignGD, NGD): largest"
            " 1 - cosine",
            kind="derived",
            expected="0",
            measured=f"{max(float(away.max()), 0.0):.0e}",
            tolerance=f"<= {PARALLEL:g}",
            holds=bool((away <= PARALLEL).all()),
            source="derived here",
        )

    def _lost(self, table: pd.DataFrame, preset: Preset) -> Claim:
        means = table[table["part"] == SINGLE].groupby("method")["ratio"].mean()[list(BARE)]
        return self.claim(
            preset,
            "and the margin in their own norm is lost: ratios of SignGD and NGD, means",
            kind="derived",
            measured=numbers(means.to_numpy()),
            tolerance=f"<= {LOST:g}",
            holds=bool((means <= LOST).all()),
            source="derived here",
        )

    def _restored(self, table: pd.DataFrame, preset: Preset) -> Claim:
        full = table[table["part"] == FULL].set_index(["method", "seed"])["ratio"]
        mine = table[table["part"] == REDUCED]
        share = mine["ratio"] / [full[TWIN[method], seed] for method, seed in zip(mine["method"], mine["seed"], strict=True)]
        least = share.groupby(mine["method"]).min()[list(BARE)]
        return self.claim(
            preset,
            "but variance reduction (SVRG) restores it at one sample a step: least share of the full batch's ratio over seeds"
            " (SignGD, NGD)",
            measured=numbers(least.to_numpy()),
            tolerance=f">= {KEPT:g}",
            holds=bool((least >= KEPT).all()),
            source="Li, Tang and Zou, arXiv 2602.11557 (its abstract)",
            kind="theorem",
        )

    def findings(self, table: pd.DataFrame, preset: Preset) -> list[Finding]:
        if preset == "smoke":
            return []
        spread = {method: _spread(table, method).groupby("window").max() for method in LENGTHS}
        return [
            Finding(
                "Batch size and momentum count as one number",
                one_line("""
                    An average of gradients over an epoch or more knows all samples, whatever the batches it is made of: the
                    margin depends on the window b / (n (1 - beta)) alone, and a method keeps the full batch's bias at any batch
                    size.
                """),
                "; ".join(
                    f"{optimizer_look(method).label}, windows {', '.join(f'{w:g}' for w in found.index)}: spread over batch sizes"
                    f" {numbers(found.to_numpy())}"
                    for method, found in spread.items()
                ),
            )
        ]


def _away(run: Run) -> float:
    """1 - cosine of a run's parameters with the closed form."""
    data = run.spec.dataset.load()
    (weights,) = run_weights([run])
    limit = batch_one_limit(data.x, data.y, make_norm(BARE[run.spec.optimizer.name]))
    return 1 - float(cosine({"W": weights.w[-1:]}, {"W": torch.from_numpy(limit)[None]})[0])


def _spread(table: pd.DataFrame, method: str) -> pd.Series:
    """Largest less smallest ratio over batch sizes, by window and seed."""
    mine = table[(table["part"] == ENDS) & (table["method"] == method)]
    found = mine.groupby(["window", "seed"])["ratio"]
    return found.max() - found.min()


def _bar(axis: Axes, at: float, found: pd.Series, color: str, marker: str) -> None:
    """Mean and range over seeds."""
    axis.vlines(at, found.min(), found.max(), color=color, lw=1.1)
    axis.plot(at, found.mean(), marker, color=color, ms=5.5, mfc="white", mew=1.1)


def _draw(axis: Axes, rows: pd.DataFrame, look: Look) -> None:
    """Batch sizes side by side at each window."""
    sizes = sorted(rows["batch"].unique())
    for place, batch in enumerate(sizes):
        found = rows[rows["batch"] == batch].groupby("window")["ratio"].agg(["mean", "min", "max"])
        at = found.index * 1.12 ** (place - (len(sizes) - 1) / 2)
        axis.vlines(at, found["min"], found["max"], color=look.color, lw=1.1)
        axis.plot(at, found["mean"], MARKERS[int(str(batch))], color=look.color, ms=4.5, mfc="white", mew=1.1)
