"""The loss that Muon's variants end at, by learning rate: with steps truncated by Momo, and without."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from implicit_bias.analysis.runs import Run, last_rows
from implicit_bias.figures.base import FIGURES, Figure, PerPreset, Preset, one_line
from implicit_bias.figures.claims import Claim, Finding
from implicit_bias.plotting.style import DASHED, DOTTED, Look, legend_below, log_axis, panels

FULL, MINI = "full batch", "mini-batches"
BATCHES: Mapping[str, str] = MappingProxyType({FULL: "null", MINI: "20"})
#: The learning rates, half a decade apart.
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
ADAM, MAX = "muon_adam", "muon_max"
MOMO, STALE = "momo", "stale"
_TRUNCATED = ("optimizer.truncate=true",)
_ADAM = (
    "optimizer=muon_adam", "optimizer.published=true", "optimizer.beta=0.95", "optimizer.beta1=0.95", "optimizer.eps=1e-8",
)  # fmt: skip
_MAX = ("optimizer=muon_max", "optimizer.eps=1e-8", "optimizer.first=gradient")
METHODS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        ADAM: _ADAM,
        f"{ADAM}-{MOMO}": (*_ADAM, *_TRUNCATED),
        MAX: _MAX,
        f"{MAX}-{MOMO}": (*_MAX, *_TRUNCATED),
        f"{MAX}-{STALE}": (*_MAX, *_TRUNCATED, "optimizer.stale=true"),
    }
)
PLAIN = (ADAM, MAX)
LOOKS = {
    ADAM: Look("MuonAdam", "#009E73", "o", DASHED),
    f"{ADAM}-{MOMO}": Look("MuonAdam, truncated (Momo)", "#009E73", "s"),
    MAX: Look("MuonMax", "#D55E00", "^", DASHED),
    f"{MAX}-{MOMO}": Look("MuonMax, truncated (Momo)", "#D55E00", "v"),
    f"{MAX}-{STALE}": Look("MuonMax, truncated, stale norms", "#000000", "x", DOTTED),
}
STEPS = PerPreset(smoke=3, default=100, paper=500)
SEEDS = PerPreset(smoke=1, default=3, paper=10)
SAMPLES, WIDTH, SIZE = 100, 16, 20
#: Of the claims, in decades of loss: what a loss is below where a rate is called good; how near the stale norm comes.
GOOD, NEAR = -1.0, 0.15
#: What is below is off the picture: single runs fit the digits to losses that leave no room for the others'.
LOWEST = -14


@FIGURES.register
class LrRobustness(Figure):
    """Truncated by Momo, Muon's variants train at rates that are too large without; at the best rate they are behind."""

    name = "lr_robustness"
    headline = "as many learning rates"
    order = 145
    title = "Learning rates: the loss after training, with truncated steps and without"
    source = "Crawshaw et al., arXiv 2510.09827, Figure 1, on language models there"
    kind = "paper"
    paper = "nesgd"
    minutes = PerPreset(smoke=0.1, default=0.8, paper=20.0)

    def setting(self, preset: Preset) -> str:
        return (
            f"seeds 1 to {SEEDS.at(preset)}; {SAMPLES} digits, ReLU MLP 64-{WIDTH}-{WIDTH}-10, {STEPS.at(preset)} steps with a"
            f" constant rate; matrices' factor 10, momentum .95, eps 1e-8, lower bound of the loss 0; full batch, and"
            f" mini-batches of {SIZE}"
        )

    def caption(self, preset: Preset) -> str:
        return one_line(f"""
            Cross entropy of all {SAMPLES} digits (base 10) after {STEPS.at(preset)} steps by learning rate, mean of seeds 1 to
            {SEEDS.at(preset)} and their range; ReLU MLP 64-{WIDTH}-{WIDTH}-10. MuonAdam and MuonMax as published: Muon's factor
            10, momentum .95, eps 1e-8. Dashed: steps of the rate given. Lines: steps cut off where an averaged linear model of
            the loss meets its lower bound 0 (Momo); dotted with nuclear norms of the step before. The loss of chance is
            0.36; what is below 10^{LOWEST} is not shown. The paper's own figure is of language models; the small
            network is this project's.
        """)

    def sweeps(self, preset: Preset) -> list[list[str]]:
        rates = ",".join(f"{rate:g}" for rate in (RATES[::3] if preset == "smoke" else RATES))
        size = [f"steps={STEPS.at(preset)}", f"seed=range(1,{SEEDS.at(preset) + 1})", f"schedule.lr={rates}"]
        return [
            [f"experiment={self.name}", *words, f"batch.size={batch}", *size]
            for batch in BATCHES.values()
            for words in METHODS.values()
        ]

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """batch, method, lr, seed, log10_loss after the last step; inf where the run diverged."""
        return pd.DataFrame([_row(run) for run in runs])

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        figure, axes = panels(1, len(BATCHES), height=2.8, sharey=True)
        for axis, batch in zip(axes[0], BATCHES, strict=True):
            _draw_panel(axis, table[table["batch"] == batch])
            axis.set_title(batch if batch == FULL else f"mini-batches of {SIZE}")
        axes[0, 0].set_ylabel(r"$\log_{10}$ of the loss")
        if axes[0, 0].get_ylim()[0] < LOWEST:
            axes[0, 0].set_ylim(LOWEST, 1)
        legend_below(figure, [look.handle() for look in LOOKS.values()], ncols=3)
        return figure

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        if preset == "smoke":
            return []
        return [
            *(self._largest_rate(table, batch, preset) for batch in BATCHES),
            *(self._good_rates(table, batch, preset) for batch in BATCHES),
            self._stale(table, preset),
            self._untruncated(table, preset),
            self._price(table, preset),
        ]

    def _largest_rate(self, table: pd.DataFrame, batch: str, preset: Preset) -> Claim:
        ends = {method: _by_rate(table, batch, method)[max(_rates(table))] for method in METHODS}
        momo = [f"{name}-{MOMO}" for name in PLAIN]
        seeds = len(ends[PLAIN[0]])
        below = {name: int((ends[f"{name}-{MOMO}"] < ends[name]).sum()) for name in PLAIN}
        so_many = " and ".join(f"{count} of {seeds} seeds ({LOOKS[name].label})" for name, count in below.items())
        return self.claim(
            preset,
            f"{batch}: at the largest rate both truncated methods end below the same methods without truncation, in every seed:"
            " log10 loss, mean (MuonAdam, MuonMax)",
            measured=f"{_told(ends, momo)} against {_told(ends, PLAIN)}",
            expected="low loss over a wide range of rates",
            tolerance="below",
            holds=all(lower == seeds for lower in below.values()),
            reason=f"it is so in {so_many}; in the others training without truncation gets past its large steps, and then on"
            " faster than with it",
        )

    def _good_rates(self, table: pd.DataFrame, batch: str, preset: Preset) -> Claim:
        counts = {method: sum(mean < GOOD for mean in _means(table, batch, method).values()) for method in METHODS}
        momo = [f"{name}-{MOMO}" for name in PLAIN]
        return self.claim(
            preset,
            f"{batch}: truncated methods have at least as many learning rates with a good loss (MuonAdam, MuonMax)",
            measured=f"{_counted(counts, momo)} of {len(_rates(table))} against {_counted(counts, PLAIN)}",
            expected="more",
            tolerance=f"good: mean log10 loss below {GOOD:g}",
            holds=all(counts[m] >= counts[name] for m, name in zip(momo, PLAIN, strict=True)),
        )

    def _stale(self, table: pd.DataFrame, preset: Preset) -> Claim:
        pairs = [[_means(table, batch, f"{MAX}-{norms}") for norms in (MOMO, STALE)] for batch in BATCHES]
        away = max(abs(now[rate] - before[rate]) for now, before in pairs for rate in now)
        return self.claim(
            preset,
            "nuclear norms of the step before do as well at every rate: largest difference of mean log10 losses",
            measured=f"{away:.2f}",
            expected="as good",
            tolerance=f"<= {NEAR:g}",
            holds=away <= NEAR,
            reason="a loss that falls or jumps within one step makes the norm of the step before another one",
        )

    def _untruncated(self, table: pd.DataFrame, preset: Preset) -> Claim:
        good = {method: [rate for rate, mean in _means(table, FULL, method).items() if mean < GOOD] for method in PLAIN}
        return self.claim(
            preset,
            "full batch: MuonMax without truncation has more learning rates with a good loss than MuonAdam",
            measured=f"{len(good[MAX])} against {len(good[ADAM])}",
            expected="less sensitive to the rate",
            tolerance=f"more; good: mean log10 loss below {GOOD:g}",
            holds=len(good[MAX]) > len(good[ADAM]),
            reason=f"its good rates are shifted to larger ones ({_span(good[MAX])} against {_span(good[ADAM])}), as its steps"
            " shrink with the gradient",
        )

    def _price(self, table: pd.DataFrame, preset: Preset) -> Claim:
        best = {method: min(_means(table, FULL, method).values()) for method in METHODS}
        return self.claim(
            preset,
            "full batch: at their best rates truncated methods end above the same without truncation: mean log10 loss (MuonAdam,"
            " MuonMax)",
            measured="; ".join(f"{best[f'{name}-{MOMO}']:.1f} against {best[name]:.1f}" for name in PLAIN),
            tolerance="above",
            holds=all(best[f"{name}-{MOMO}"] > best[name] for name in PLAIN),
            source="this project",
            kind="check",
        )

    def findings(self, table: pd.DataFrame, preset: Preset) -> list[Finding]:
        if preset == "smoke":
            return []
        ends = {m: _by_rate(table, MINI, m)[max(_rates(table))].mean() for m in METHODS}
        return [
            Finding(
                "Momo trades the depth of the loss for a choice of rates",
                one_line("""
                    Truncated steps end nowhere near the loss of chance at any rate above the smallest, and at the best rate
                    their loss is higher: the averaged model lags behind a loss that falls geometrically, and cuts steps that
                    would have been good.
                """),
                f"mini-batches, largest rate: MuonAdam {ends[ADAM]:.1f}, truncated {ends[f'{ADAM}-{MOMO}']:.1f} (log10 loss)",
            )
        ]


def _row(run: Run) -> dict[str, object]:
    value = run.spec.value
    method = str(run.spec.optimizer.name)
    if value("optimizer.truncate"):
        method += f"-{STALE if value('optimizer.stale') else MOMO}"
    log_loss = float(last_rows(run.trajectory)["log_loss"].iloc[0])
    batch = FULL if value("batch.size") is None else MINI
    return {"batch": batch, "method": method, "lr": float(run.spec.schedule.lr), "seed": run.spec.seed,
            "log10_loss": log_loss / math.log(10)}  # fmt: skip


def _by_rate(table: pd.DataFrame, batch: str, method: str) -> dict[float, np.ndarray]:
    """log10 losses by rate, one a seed in their order."""
    rows = table[(table["batch"] == batch) & (table["method"] == method)].sort_values("seed")
    return {rate: rows[rows["lr"] == rate]["log10_loss"].to_numpy() for rate in _rates(table)}


def _means(table: pd.DataFrame, batch: str, method: str) -> dict[float, float]:
    """Means over seeds of the log10 losses, by rate."""
    return {rate: float(losses.mean()) for rate, losses in _by_rate(table, batch, method).items()}


def _rates(table: pd.DataFrame) -> list[float]:
    return sorted({float(rate) for rate in table["lr"]})


def _told(ends: Mapping[str, np.ndarray], methods: Sequence[str]) -> str:
    return " / ".join(f"{ends[method].mean():.2f}" for method in methods)


def _counted(counts: Mapping[str, int], methods: Sequence[str]) -> str:
    return " / ".join(str(counts[method]) for method in methods)


def _span(rates: Sequence[float]) -> str:
    return f"{min(rates):g} to {max(rates):g}" if rates else "none"


def _draw_panel(axis: Axes, rows: pd.DataFrame) -> None:
    for method, look in LOOKS.items():
        ends = rows[rows["method"] == method].groupby("lr")["log10_loss"].agg(["mean", "min", "max"])
        axis.plot(ends.index, ends["mean"], lw=2.4 if method.endswith(MOMO) else 1.3, **look.plot(list(range(len(ends)))))
        axis.fill_between(ends.index, ends["min"], ends["max"], color=look.color, alpha=0.15, lw=0)
    log_axis(axis, "x")
    axis.set_xlabel("learning rate")
