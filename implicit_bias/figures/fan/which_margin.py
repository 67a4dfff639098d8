"""Which margin each optimizer maximises: every optimizer under every norm, as a heat map."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import pandas as pd
from matplotlib.colors import Normalize
from matplotlib.figure import Figure as Drawing

from implicit_bias.analysis.runs import Run, last_rows
from implicit_bias.figures.base import FIGURES, Figure, PerPreset, Preset, one_line
from implicit_bias.figures.claims import Claim
from implicit_bias.figures.papers import MIXTURE
from implicit_bias.plotting.heat_map import FRAME, colour_bar, heat_map
from implicit_bias.plotting.labels import LABEL_SIZE
from implicit_bias.plotting.matrix import Matrix
from implicit_bias.plotting.style import norm_look, optimizer_look, panels

#: Rows, with the norm that each maximises; in the order that puts the theorem on the diagonal.
OWN = {
    "signgd": "linf",
    "signum": "linf",
    "adam": "linf",
    "ngd": "l2",
    "nmgd": "l2",
    "spectral_gd": "spectral",
    "muon": "spectral",
    "nucgd": "nuclear",
    "coordinate_descent": "l1",
    "row_gd": "row",
}
NORMS = ("linf", "l2", "spectral", "nuclear", "l1", "row")
STEPS = PerPreset(smoke=300, default=20_000, paper=100_000)
#: A power of ten, so that the methods above the line have a record there; and of Prodigy, whose weights have grown so much by
#: then that the logarithm of the loss soon has no digits left for what its rate is estimated from.
FURTHER_STEPS = PerPreset(smoke=100, default=10_000, paper=100_000)
PRODIGY_STEPS = PerPreset(smoke=100, default=1000, paper=1000)
SEEDS = PerPreset(smoke=3, default=20, paper=50)


@dataclass(frozen=True)
class Further:
    """A row below the line.

    Attributes:
        words: What it is called in the picture.
        overrides: What is typed for it.
        own: The norm whose margin it maximises, if there is one.
        base: Of a method that varies a row above, that row.
        steps: How many it takes.
    """

    words: str
    overrides: tuple[str, ...]
    own: str | None = None
    base: str | None = None
    steps: PerPreset[int] = FURTHER_STEPS


def _averaging(norm: str, base: str) -> Further:
    words = f"NSD {norm_look(norm).label}, schedule-free"
    return Further(words, ("optimizer=nsd", f"norm={norm}", "optimizer.average=schedule_free"), norm, base)


CLIP = 1
#: Rows below the line, by what a run's specification calls its method: fewer steps of methods that take plain ones.
FURTHER: Mapping[str, Further] = MappingProxyType(
    {
        "lion": Further("Lion", ("optimizer=lion",), "linf"),
        "mvn_grad": Further("MVN-Grad", ("optimizer=mvn_grad",)),
        "nsd linf": _averaging("linf", "signgd"),
        "nsd spectral": _averaging("spectral", "spectral_gd"),
        "sd linf": Further(
            f"SD {norm_look('linf').label}, clipped", ("optimizer=sd", "norm=linf", f"optimizer.clip={CLIP}"), "linf"
        ),
        "prodigy": Further(
            "Prodigy, signs", ("optimizer=prodigy", "optimizer.ema=false", "schedule.power=0"), steps=PRODIGY_STEPS
        ),
    }
)
#: Methods whose own ratio is asked to reach (mean, every seed).
REACHED = dict.fromkeys(("signgd", "signum", "ngd", "nmgd", "spectral_gd", "muon"), (0.98, 0.965)) | {"adam": (0.95, 0.92)}
#: How near averaging is to leave its base; what Prodigy's signs are to stay below in every norm, and max|W| to come above.
KEPT, REACHES_NONE, RUNS_AWAY = 0.01, 0.7, 1e6
LOWEST_SHOWN = 0.3


@FIGURES.register
class WhichMargin(Figure):
    """In every norm the best margin is reached by a method that descends in that norm."""

    name = "which_margin"
    headline = "Muon reaches its own norm's optimum"
    order = 20
    title = "Which optimizer maximises which margin"
    source = "Fan et al., arXiv 2502.04664, Theorems 1, 2 and 5"
    kind = "theorem"
    paper = "fan"
    minutes = PerPreset(smoke=0.4, default=2.5, paper=50.0)

    def setting(self, preset: Preset) -> str:
        return f"{SEEDS.at(preset)} seeds of {MIXTURE}; linear model, {STEPS.at(preset):,} steps"

    def caption(self, preset: Preset) -> str:
        return one_line(f"""
            Margin over the certified maximum margin of each norm after {STEPS.at(preset):,} steps, below the line after
            {FURTHER_STEPS.at(preset):,} (Prodigy {PRODIGY_STEPS.at(preset):,}),
            mean over {SEEDS.at(preset)} seeds of {MIXTURE} and, small, the standard
            deviation. Framed: the method's own norm; bold: best of the column. Every method uses schedule.lr=auto, power .5;
            Adam has eps 0 and beta2 .95, Lion betas .9 and .99. Of schedule-free NSD the margin is that of its average. SD is
            unnormalised, with a constant step, clipped where the dual norm of the gradient is above {CLIP}. Prodigy's steps
            are signs of the gradient without averages, at a constant factor of the rate that it estimates.
        """)

    def sweeps(self, preset: Preset) -> list[list[str]]:
        seeds = f"seed=range(1,{SEEDS.at(preset) + 1})"
        above = [[f"optimizer={method}", f"steps={STEPS.at(preset)}"] for method in OWN]
        below = [[*further.overrides, f"steps={further.steps.at(preset)}"] for further in FURTHER.values()]
        return [[f"experiment={self.name}", *typed, seeds] for typed in (*above, *below)]

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """optimizer, norm, seed, step, margin, max_margin, ratio and N(W) after the last step; of the bases of methods below the
        line also after as many steps as those take, in their own norm. ``optimizer`` is the method of a run, with its norm."""
        bases = {further.base for further in FURTHER.values()}
        parts = []
        for run in runs:
            method, rows = run.spec.method, run.trajectory
            parts.append(last_rows(rows).assign(optimizer=method))
            if method in bases:
                early = (rows["step"] == FURTHER_STEPS.at(preset)) & (rows["norm"] == OWN[method])
                parts.append(rows[early].assign(optimizer=method))
        table = pd.concat(parts, ignore_index=True).drop_duplicates(["optimizer", "norm", "seed", "step"])
        table["ratio"] = table["margin"] / table["max_margin"]
        return table[["optimizer", "norm", "seed", "step", "margin", "max_margin", "ratio", "param_norm"]]

    def matrix(self, table: pd.DataFrame, preset: Preset) -> Matrix:
        own = [*OWN.values(), *(further.own for further in FURTHER.values())]
        names = [*map(_label, OWN), *(further.words for further in FURTHER.values())]
        typed = [f"python -m implicit_bias.run -m {shlex.join(sweep)}" for sweep in self.sweeps(preset)]
        numbers = _at_the_end(table).groupby(["optimizer", "norm"])["ratio"].agg(list)
        methods = [*OWN, *FURTHER]
        return Matrix(
            rows=dict(zip(names, typed, strict=True)),
            columns=tuple(norm_look(norm).label for norm in NORMS),
            values={
                (i, j): tuple(numbers[method, norm])
                for i, method in enumerate(methods)
                for j, norm in enumerate(NORMS)
                if (method, norm) in numbers
            },
            framed=frozenset((i, NORMS.index(norm)) for i, norm in enumerate(own) if norm is not None),
            lowest=LOWEST_SHOWN,
            quantity="margin / maximum margin",
            about=one_line(f"""
                Share of the certified maximum margin, mean over {SEEDS.at(preset)} data sets after {STEPS.at(preset):,} steps,
                below the line {FURTHER_STEPS.at(preset):,} (Prodigy {PRODIGY_STEPS.at(preset):,}). Framed: the norm in which the
                method descends; bold: best of the column.
            """),
            rule=len(OWN),
        )

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        mean, spread = _over_seeds(table)
        own = [*OWN.values(), *(further.own for further in FURTHER.values())]
        figure, axes = panels(1, 1, height=0.3 + 0.38 * len(own))
        axis = axes[0, 0]
        image = heat_map(
            axis, mean.to_numpy(float), spread.to_numpy(float), Normalize(LOWEST_SHOWN, 1),
            {(i, NORMS.index(norm)): FRAME for i, norm in enumerate(own) if norm is not None},
            rows=[*map(_label, OWN), *(further.words for further in FURTHER.values())],
            columns=[norm_look(norm).label for norm in NORMS],
        )  # fmt: skip
        axis.axhline(len(OWN) - 0.5, color="white", lw=2.4)
        colour_bar(figure, image, axis, "margin / maximum margin")
        axis.xaxis.set_label_position("bottom")
        axis.set_xlabel(
            f"{SEEDS.at(preset)} data sets, mean ± standard deviation after {STEPS.at(preset):,} steps,\nbelow the line"
            f" {FURTHER_STEPS.at(preset):,} (Prodigy {PRODIGY_STEPS.at(preset):,}); framed: the method's own norm",
            size=LABEL_SIZE,
        )
        return figure

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        if preset == "smoke":
            return []
        mean, spread = _over_seeds(table)
        judged = [self._best_claim(mean[norm], spread[norm], norm, preset) for norm in NORMS]
        judged += [self._reached_claim(table, method, preset) for method in REACHED]
        judged += [self._kept_claim(table, method, preset) for method, further in FURTHER.items() if further.base]
        return [*judged, self._signs_claim(table, mean, preset), self._other_losses(preset)]

    def _kept_claim(self, table: pd.DataFrame, method: str, preset: Preset) -> Claim:
        further, steps = FURTHER[method], FURTHER_STEPS.at(preset)
        rows = table[(table["step"] == steps) & (table["norm"] == further.own)]
        averaged, plain = (rows[rows["optimizer"] == name]["ratio"] for name in (method, further.base))
        assert further.base is not None
        return self.claim(
            preset,
            f"schedule-free averaging of descent in {further.own} keeps the {further.own} margin of {_label(further.base)}: mean"
            f" ratios after {steps:,} steps",
            kind="check",
            measured=f"{averaged.mean():.4f} ± {averaged.std():.4f} against {plain.mean():.4f} ± {plain.std():.4f}",
            tolerance=f"within {KEPT:g}",
            holds=abs(averaged.mean() - plain.mean()) <= KEPT,
            source="this project's own check; the averages are those of Defazio et al., arXiv 2405.15682",
            setting=_setting_below(preset, steps),
        )

    def _signs_claim(self, table: pd.DataFrame, mean: pd.DataFrame, preset: Preset) -> Claim:
        ends = _at_the_end(table)
        largest = ends[(ends["optimizer"] == "prodigy") & (ends["norm"] == "linf")]["param_norm"]
        column = mean.loc["prodigy", list(NORMS[:3])]
        return self.claim(
            preset,
            "sign descent with Prodigy's estimate of its rate reaches the margin of none of linf, l2 and spectral, and its"
            " weights run away: best mean ratio, median of max|W| over seeds",
            kind="check",
            measured=f"{column.max():.3f} ({column.idxmax()}), {largest.median():.0e}"
            f" ({int((largest > RUNS_AWAY).sum())} of {len(largest)} seeds beyond {RUNS_AWAY:.0e})",
            tolerance=f"< {REACHES_NONE:g}, > {RUNS_AWAY:.0e}",
            holds=bool(column.max() < REACHES_NONE and largest.median() > RUNS_AWAY),
            source="this project's own check; the rule is that of Bernstein and Newhouse, arXiv 2409.20325, section 4",
            setting=f"{_setting_below(preset, PRODIGY_STEPS.at(preset))}, constant rate",
        )

    def _other_losses(self, preset: Preset) -> Claim:
        return self.not_testable(
            preset,
            "the same norms are maximised under the exponential loss and PairLogLoss",
            "all runs of the figure have cross entropy",
            kind="theorem",
            source="Fan et al., arXiv 2502.04664, App. F",
        )

    def _best_claim(self, column: pd.Series, spread: pd.Series, norm: str, preset: Preset) -> Claim:
        own = column[[m for m in OWN if OWN[m] == norm]]
        others = column[[m for m in OWN if OWN[m] != norm]]
        stated = norm != "row"
        best, other = str(own.idxmax()), str(others.idxmax())
        return self.claim(
            preset,
            f"under {norm} the best mean margin is reached by a method of that norm",
            kind="theorem" if stated else "check",
            source=self.source if stated else "this project's own check: the theorems are about entrywise and Schatten norms",
            measured=f"{best} {own.max():.3f} ± {spread[best]:.3f} against {other} {others.max():.3f} ± {spread[other]:.3f}",
            tolerance=">",
            holds=own.max() > others.max(),
        )

    def _reached_claim(self, table: pd.DataFrame, method: str, preset: Preset) -> Claim:
        own = _at_the_end(table)[lambda rows: (rows["optimizer"] == method) & (rows["norm"] == OWN[method])]["ratio"]
        mean, least = REACHED[method]
        return self.claim(
            preset,
            f"{_label(method)} reaches its own norm's optimum ({OWN[method]}): ratio, mean and worst data set",
            measured=f"{own.mean():.4f} ± {own.std():.4f} / {own.min():.4f}",
            expected="-> 1",
            tolerance=f">= {mean:g} / {least:g}",
            holds=own.mean() >= mean and own.min() >= least,
        )


def _setting_below(preset: Preset, steps: int) -> str:
    return f"{SEEDS.at(preset)} seeds of {MIXTURE}; linear model, {steps:,} steps"


def _label(method: str) -> str:
    return optimizer_look(method).label


def _at_the_end(table: pd.DataFrame) -> pd.DataFrame:
    """The rows after the last step of each method."""
    return table[table["step"] == table.groupby("optimizer")["step"].transform("max")]


def _over_seeds(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean and standard deviation of the ratio at the end, methods by norms."""
    cells = _at_the_end(table).groupby(["optimizer", "norm"])["ratio"]
    mean, spread = cells.mean().unstack(), cells.std().fillna(0).unstack()
    rows, columns = [*OWN, *FURTHER], list(NORMS)
    return mean.reindex(index=rows, columns=columns), spread.reindex(index=rows, columns=columns)
