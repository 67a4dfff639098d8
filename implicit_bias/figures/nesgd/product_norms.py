"""Which product norm's margin descent in a product norm maximises: methods by norms, on a linear model of two blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.colors import Normalize
from matplotlib.figure import Figure as Drawing

from implicit_bias.analysis.runs import Run, last_rows
from implicit_bias.core.registry import hyper_values
from implicit_bias.core.scaled import Scaled
from implicit_bias.figures.base import FIGURES, Figure, PerPreset, Preset, one_line
from implicit_bias.figures.claims import Claim, Finding
from implicit_bias.measures.margins import cosine
from implicit_bias.norms import format_number, make_norm, over_blocks
from implicit_bias.norms.column_blocks import block_names
from implicit_bias.norms.hybrid import Hybrid
from implicit_bias.optimizers import OPTIMIZERS
from implicit_bias.plotting.heat_map import colour_bar, heat_map
from implicit_bias.plotting.style import panels

BLOCKS = (12, 13)
STEPS = PerPreset(smoke=100, default=5000, paper=50_000)
SEEDS = PerPreset(smoke=1, default=5, paper=20)
CLASSES = PerPreset(smoke=3, default=10, paper=10)
#: Columns: the label of a norm, and its words in the picture.
NORMS = {
    "hybrid1": "max\n$r=1$",
    "hybrid1-l2-linf": "$\\ell_2$\n$r=1$",
    "hybrid5": "max\n$r=5$",
    "hybrid5-l2-linf": "$\\ell_2$\n$r=5$",
    "hybrid0.2": "max\n$r=0.2$",
    "hybrid0.2-l2-linf": "$\\ell_2$\n$r=0.2$",
    "hybrid1-l2-l2": "$\\ell_2$, rest $\\ell_2$\n$r=1$",
}
#: One colour for what composes the parts, in frames and words.
COLORS = {"max": "#D55E00", "l2": "#D6009A"}
#: Method and norm of the measurement that is no run: 1 - cosine of the steps of nsd and sd from one gradient.
ANGLE = "angle"
#: Norms that are the norm of one part alone, but for a factor, and how that part is called in the table.
PARTS = {"hybrid1000": "W1", "hybrid0.001": "W2"}
#: Rows of the table with how much a part has grown from the record next to EARLY to the last one.
GROWTH, EARLY = "growth", 300
FIXED, GROWN = 0.05, 5.0
#: Draws of that measurement for each norm.
DRAWS = 20
LOWEST_SHOWN = 0.2
_OWN_FINDING = "this project's own check; the method is that of Crawshaw et al., arXiv 2510.09827, section 3"
REACHED = 0.93


@dataclass(frozen=True)
class Method:
    """A row.

    Attributes:
        words: What it is called in the picture.
        overrides: What its runs are.
        own: The label of the norm that it descends in; None where it has none among the columns.
    """

    words: str
    overrides: tuple[str, ...]
    own: str | None = None


def _descent(optimizer: str, label: str, words: str, *more: str) -> Method:
    """An optimizer that reads the norm, in the one that a label says."""
    hybrid = make_norm(label)
    keys = [
        f"norm.{key}={value if isinstance(value, str) else format_number(value)}"
        for key, value in hyper_values(hybrid).items()
        if value is not None
    ]
    return Method(words.format(NORMS[label].replace("\n", ", ")), (f"optimizer={optimizer}", *keys, *more), label)


#: The pair of norms in which a maximum and l2 are told apart: here their optima are far from each other.
MAX, L2 = "hybrid5", "hybrid5-l2-linf"
#: Unnormalised descent, with the loss as its clock: steps of size lr N_*(grad log L), no smaller as the loss falls.
CLOCK = ("schedule=loss_based", "schedule.lr=0.003")
#: Rows, by what a run's specification calls its method: descent in each of the norms, then others.
METHODS = {
    **{f"nsd {label}": _descent("nsd", label, "NSD {}") for label in NORMS},
    **{f"sd {label}": _descent("sd", label, "SD {}, 1/loss", *CLOCK) for label in (MAX, L2)},
    "scion": Method("Scion, $r=5$", ("norm=null", "optimizer=scion", "optimizer.ratio=5"), MAX),
    "muon_max": Method("MuonMax", ("norm=null", "optimizer=muon_max", "optimizer.scale=1", "schedule.lr=0.1")),
}
#: MuonMax, and descent in a norm that differs from its own by the rest's, which is fixed.
ADAPTIVE, WITH_FIXED_REST = "muon_max", ("nsd hybrid1-l2-linf", "nsd hybrid1-l2-l2")
#: By how much each of the pair has to be ahead of the other in its own norm.
AHEAD = {MAX: 0.1, L2: 0.02}
SAME_DIRECTION, BEHIND = 1e-12, 0.03


@FIGURES.register
class ProductNorms(Figure):
    """Steepest descent in a product norm maximises the margin of that product norm, a maximum and l2 apart."""

    name = "product_norms"
    headline = "told apart"
    order = 50
    title = "Descent in a product norm maximises that product norm's margin"
    source = "this project's own check; the norms are those of Crawshaw et al., arXiv 2510.09827, section 3"
    kind = "check"
    paper = "nesgd"
    minutes = PerPreset(smoke=0.1, default=1.2, paper=6.0)

    def setting(self, preset: Preset) -> str:
        first, second = BLOCKS
        return one_line(f"""
            {SEEDS.at(preset)} seeds of a Gaussian mixture ({CLASSES.at(preset)} classes, {first + second} features, 10 samples a
            class, noise 1); linear model [W1 | W2] of {first} and {second} features, {STEPS.at(preset):,} steps
        """)

    def caption(self, preset: Preset) -> str:
        return one_line(f"""
            Margin over the certified maximum margin in seven product norms, outer(r ‖W1‖, ‖W2‖) with the spectral norm of W1 and
            the max-norm of W2 (in the last column its l2 norm), composed by a maximum or in l2, after {STEPS.at(preset):,} steps:
            mean over {SEEDS.at(preset)} seeds and, small, the standard deviation. The linear model W = [W1 | W2] has blocks
            of {BLOCKS[0]} and {BLOCKS[1]} features. Framed: the method's own norm; bold: best of the column. NSD makes steps of
            length eta_t in its norm (schedule.lr=auto, power .5), SD of length .003 N_*(grad L) / L (schedule=loss_based).
            Scion (momentum .95) descends in the maximum, MuonMax as published (scale 1, lr .1 t^-1/2) in none of them: the
            part of its norm that W2 has is scaled by the root of the average of squared gradients.
        """)

    def sweeps(self, preset: Preset) -> list[list[str]]:
        size = [f"steps={STEPS.at(preset)}", f"seed=range(1,{SEEDS.at(preset) + 1})"]
        size += [f"dataset.num_classes={CLASSES.at(preset)}"]
        return [[f"experiment={self.name}", *method.overrides, *size] for method in METHODS.values()]

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """method, norm, seed, margin, max_margin, ratio after the last step; and as method `angle` in `ratio` 1 - cosine of
        the steps that nsd and sd take in a norm from one gradient. `part` is empty there, and `growth` where the row says in
        `ratio` how many times as large a part, W1 or W2 in place of the norm, is at the end as at step 300, or the record next
        to it."""
        table = pd.concat([last_rows(run.trajectory).assign(method=run.spec.method) for run in runs], ignore_index=True)
        table = table[table["norm"].isin(list(NORMS))].assign(ratio=table["margin"] / table["max_margin"])
        columns = ["method", "norm", "seed", "margin", "max_margin", "ratio"]
        grown = pd.concat([_growth(run) for run in runs], ignore_index=True)
        return pd.concat([table[columns], _angles(), grown], ignore_index=True)

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        mean, spread = _over_seeds(table)
        figure, axes = panels(1, 1, height=0.6 + 0.36 * len(METHODS))
        axis = axes[0, 0]
        framed = {
            (i, list(NORMS).index(method.own)): _color(method.own)
            for i, method in enumerate(METHODS.values())
            if method.own is not None
        }
        image = heat_map(
            axis, mean.to_numpy(float), spread.to_numpy(float), Normalize(LOWEST_SHOWN, 1), framed,
            rows=[method.words for method in METHODS.values()], columns=list(NORMS.values()),
        )  # fmt: skip
        # What is no normalised descent stands apart.
        axis.axhline(len(NORMS) - 0.5, color="white", lw=1.8)
        for words, norm in zip(axis.get_xticklabels(), NORMS, strict=True):
            words.set_color(_color(norm))
        for words, method in zip(axis.get_yticklabels(), METHODS.values(), strict=True):
            words.set_color(_color(method.own))
        colour_bar(figure, image, axis, "margin / maximum margin")
        return figure

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        if preset == "smoke":
            return []
        mean, spread = _over_seeds(table)
        judged = [self._best_claim(mean[norm], spread[norm], norm, preset) for norm in NORMS]
        judged += [self._ahead_claim(mean, spread, norm, preset) for norm in AHEAD]
        judged += [self._direction_claim(table, preset), *(self._clock_claim(mean, spread, n, preset) for n in AHEAD)]
        return [*judged, self._frozen_claim(table, mean, preset), self._not_frozen_claim(table, preset)]

    def _best_claim(self, column: pd.Series, spread: pd.Series, norm: str, preset: Preset) -> Claim:
        own, others = f"nsd {norm}", column[[name for name, method in METHODS.items() if method.own != norm]]
        other = str(others.idxmax())
        return self.claim(
            preset,
            f"descent in {_in_words(norm)} reaches the best mean margin under that norm, of all methods of other norms",
            measured=f"{column[own]:.3f} ± {spread[own]:.3f} against {other} {others.max():.3f} ± {spread[other]:.3f}",
            tolerance=f"best, >= {REACHED:g}",
            holds=column[own] > others.max() and column[own] >= REACHED,
        )

    def _ahead_claim(self, mean: pd.DataFrame, spread: pd.DataFrame, norm: str, preset: Preset) -> Claim:
        own, other = f"nsd {norm}", f"nsd {L2 if norm == MAX else MAX}"
        column, deviations = mean[norm], spread[norm]
        return self.claim(
            preset,
            f"a maximum and l2 are told apart: under {_in_words(norm)} descent in it is ahead of descent in the other",
            measured=f"{column[own]:.3f} ± {deviations[own]:.3f} against {column[other]:.3f} ± {deviations[other]:.3f}",
            tolerance=f"by >= {AHEAD[norm]:g}",
            holds=column[own] - column[other] >= AHEAD[norm],
        )

    def _direction_claim(self, table: pd.DataFrame, preset: Preset) -> Claim:
        largest = float(table[table["method"] == ANGLE]["ratio"].max())
        return self.claim(
            preset,
            "regularised and constrained descent (sd, nsd) in one norm step in the same direction from one gradient",
            source="Crawshaw et al., arXiv 2510.09827, section 3",
            kind="theorem",
            measured=f"largest 1 - cosine {largest:.1e} of {DRAWS} random gradients in each of {len(NORMS)} norms",
            expected="0",
            tolerance=f"<= {SAME_DIRECTION:g}",
            holds=largest <= SAME_DIRECTION,
            setting=f"blocks of {BLOCKS[0]} and {BLOCKS[1]} columns, 10 rows, Gaussian entries",
        )

    def _clock_claim(self, mean: pd.DataFrame, spread: pd.DataFrame, norm: str, preset: Preset) -> Claim:
        measured = [f"{mean[norm][name]:.3f} ± {spread[norm][name]:.3f}" for name in (f"sd {norm}", f"nsd {norm}")]
        return self.claim(
            preset,
            f"with the loss as its clock sd in {_in_words(norm)} is as far as nsd after as many steps: the norm decides which"
            " margin, the clock how fast",
            measured=" against ".join(measured),
            tolerance=f"at most {BEHIND:g} behind",
            holds=mean[norm][f"sd {norm}"] >= mean[norm][f"nsd {norm}"] - BEHIND,
        )

    def _frozen_claim(self, table: pd.DataFrame, mean: pd.DataFrame, preset: Preset) -> Claim:
        first, second = (_grown(table, ADAPTIVE, part) for part in ("W1", "W2"))
        best = mean.loc[ADAPTIVE]
        return self.claim(
            preset,
            f"MuonMax freezes its matrix while the rest goes on, and reaches no product norm's margin: from step {EARLY} on ‖W1‖"
            " grows by, max|W2| times (furthest seed of each); best mean ratio",
            kind="check",
            measured=f"{first.max() - 1:.1%}, {second.min():.1f}; {best.max():.3f} under {_in_words(str(best.idxmax()))}",
            tolerance=f"< {FIXED:.0%}, > {GROWN:g}; < 0.9",
            holds=bool(first.max() - 1 < FIXED and second.min() > GROWN and best.max() < 0.9),
            source=_OWN_FINDING,
            reason="the matrix freezes all the same; with the rest ever larger, the best ratio comes to that which descent in the"
            " maximum with r = 5 has under the l2 of r = 5, and stays behind that of descent in that norm",
        )

    def _not_frozen_claim(self, table: pd.DataFrame, preset: Preset) -> Claim:
        grown = [_grown(table, method, "W1").min() for method in WITH_FIXED_REST]
        return self.claim(
            preset,
            f"with a fixed norm on the rest, max-norm or l2, the matrix does not freeze: ‖W1‖ from step {EARLY} on grows (least"
            " of all seeds)",
            kind="check",
            measured=" / ".join(f"{value:.1f} times" for value in grown),
            tolerance="> 2 times",
            holds=min(grown) > 2,
            source=_OWN_FINDING,
        )

    def findings(self, table: pd.DataFrame, preset: Preset) -> list[Finding]:
        if preset == "smoke":
            return []
        mean, _ = _over_seeds(table)
        under = [
            f"{_in_words(norm)}: NSD max {mean[norm][f'nsd {MAX}']:.3f}, NSD l2 {mean[norm][f'nsd {L2}']:.3f}" for norm in AHEAD
        ]
        return [
            Finding(
                "What composes the layers' norms decides which margin is maximised",
                one_line("""
                    Where optima are certified, descent in a product norm goes to the maximum margin of that product norm, and a
                    maximum and l2 over the same two parts are different problems with different solutions. Whether the step is
                    normalised or proportional to the gradient changes the time that it takes, and nothing else.
                """),
                "; ".join(under),
            ),
            Finding(
                "MuonMax as published maximises no product norm's margin: its matrices freeze",
                one_line("""
                    The norm on the parameters that are no matrices is scaled by the root of the average of their squared
                    gradients: the square of the dual norm adds a term of second order to one of first order. As the loss falls,
                    steps of the matrices, proportional to their nuclear norm, vanish beside those of the rest, which keep
                    their length. With the max-norm or l2 in that place both go on.
                """),
                f"from step {EARLY} to the end ‖W1‖ of MuonMax grows {_grown(table, ADAPTIVE, 'W1').mean():.3f} times and max|W2|"
                f" {_grown(table, ADAPTIVE, 'W2').mean():.1f} times; with the max-norm on the rest ‖W1‖ grows"
                f" {_grown(table, WITH_FIXED_REST[0], 'W1').mean():.1f} times",
            ),
        ]


def _growth(run: Run) -> pd.DataFrame:
    """How many times as large as at an early record each part is at the end."""
    sizes = run.trajectory.pivot(index="step", columns="norm", values="param_norm")
    early = int(sizes.index[np.abs(sizes.index.to_numpy() - EARLY).argmin()])
    seed = int(run.trajectory["seed"].iloc[0])
    rows = [(run.spec.method, part, seed, sizes[label].iloc[-1] / sizes[label][early]) for label, part in PARTS.items()]
    return pd.DataFrame(rows, columns=["method", "norm", "seed", "ratio"]).assign(part=GROWTH)


def _grown(table: pd.DataFrame, method: str, part: str) -> pd.Series:
    """That number of every seed."""
    return table[(table["part"] == GROWTH) & (table["method"] == method) & (table["norm"] == part)]["ratio"]


def _color(norm: str | None) -> str:
    return "#222222" if norm is None else COLORS["l2" if "-l2-" in norm else "max"]


def _in_words(norm: str) -> str:
    """``max(5 ‖W1‖, ‖W2‖_inf)``."""
    hybrid = make_norm(norm)
    assert isinstance(hybrid, Hybrid)
    factor = "" if hybrid.ratio == 1 else f"{format_number(hybrid.ratio)} "
    return f"{hybrid.outer}({factor}‖W1‖, ‖W2‖_{hybrid.rest.removeprefix('l')})"


def _over_seeds(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean and standard deviation of the ratio, methods by norms."""
    cells = table[(table["method"] != ANGLE) & table["part"].isna()].groupby(["method", "norm"])["ratio"]
    mean, spread = cells.mean().unstack(), cells.std().fillna(0).unstack()
    return mean.reindex(index=list(METHODS), columns=list(NORMS)), spread.reindex(index=list(METHODS), columns=list(NORMS))


def _angles() -> pd.DataFrame:
    """1 - cosine of the steps of nsd and sd in each norm, the largest of some draws of a gradient."""
    rng = torch.Generator().manual_seed(0)
    names = block_names(BLOCKS)
    rows = [torch.randn(DRAWS, 10, size, generator=rng, dtype=torch.float64) for size in BLOCKS]
    gradient = {name: Scaled(block, torch.zeros_like(block[..., :1])) for name, block in zip(names, rows, strict=True)}
    found = []
    for label in NORMS:
        norm = over_blocks(make_norm(label), names, None, names[:1])
        steps = [OPTIMIZERS.get(name)().update({}, gradient, 1, norm)[1] for name in ("nsd", "sd")]
        taken = [{n: d * (1.0 if s.log_size is None else s.log_size.exp()) for n, d in s.direction.items()} for s in steps]
        found.append((ANGLE, label, float((1 - cosine(*taken)).abs().max())))
    return pd.DataFrame(found, columns=["method", "norm", "ratio"])
