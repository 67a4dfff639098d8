"""Maximum margins of Gaussian data in closed form, beside certified optima at finite size: an oracle without a solver."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from implicit_bias.analysis.runs import Run, numbers
from implicit_bias.core.errors import NotSeparable
from implicit_bias.datasets.linear_teacher import LinearTeacher
from implicit_bias.engine.problem import silent
from implicit_bias.figures.base import FIGURES, Figure, PerPreset, Preset, one_line
from implicit_bias.figures.claims import Claim
from implicit_bias.measures.margin_limits import MarginLimit, label_error, logistic_label_limit, random_label_limit
from implicit_bias.norms import make_norm
from implicit_bias.plotting.style import GREY, legend_below, log_axis, norm_look, panels
from implicit_bias.storage.references import ReferenceCache
from implicit_bias.sweep.references import solve_all

RANDOM, LOGISTIC = "random", "logistic"
LIMIT, OPTIMUM = "limit", "optimum"
NORMS = ("l1", "l2", "linf")
SAMPLES = PerPreset(smoke=32, default=200, paper=800)
#: From this ratio on half as many samples: optima there take longest, and are nearest to the limit.
WIDE = 4.0
SEEDS = PerPreset(smoke=2, default=10, paper=20)
#: p / n, without and with a signal, and those at which claims are made.
RATIOS: dict[str, tuple[float, ...]] = {RANDOM: (0.75, 1.0, 2.0, 5.0), LOGISTIC: (1.0, 2.0, 4.0)}
JUDGED: dict[str, tuple[float, ...]] = {RANDOM: (1.0, 2.0, 5.0), LOGISTIC: (1.0, 2.0, 4.0)}
#: The curves' grids, which contain every ratio above.
GRID = {RANDOM: (0.55, 6.0), LOGISTIC: (0.4, 5.0)}
POINTS = {RANDOM: 24, LOGISTIC: 9}
STRENGTH = 5.0
#: From a weight vector a class to one vector, and to the scale that has a limit.
SCALES = {"l1": lambda p: math.sqrt(p), "l2": lambda p: 1 / math.sqrt(2), "linf": lambda p: 1 / (2 * math.sqrt(p))}
#: Relative to the largest coordinate: below the first one is zero, within the second of 1 it is at the bound.
ZERO, BOUND = 1e-5, 1e-5
#: Of the claims: standard errors and what is added to them, shares, test errors.
ERRORS, ADDED, SHARE, TEST = 3, 0.02, 0.02, 0.01


@FIGURES.register
class MarginLimits(Figure):
    """Certified optima at n = 200 lie on the closed-form limits of the maximum margin, in l1, l2 and the max-norm."""

    name = "margin_limits"
    headline = "max-norm margins"
    order = 190
    title = "Maximum margins of random data in closed form"
    source = "derived here by Gaussian comparison; the l1 ball in structure as Liang and Sur, arXiv 2002.01586"
    kind = "derived"
    paper = "liang_sur"
    minutes = PerPreset(smoke=0.1, default=0.9, paper=30.0)

    def setting(self, preset: Preset) -> str:
        return f"{SEEDS.at(preset)} seeds of {_sizes(preset)} Gaussian samples with random labels; certified optima"

    def caption(self, preset: Preset) -> str:
        return one_line(f"""
            Maximum margins of {_sizes(preset)} Gaussian samples in p dimensions, two classes. Lines: the limit for n, p to
            infinity. Markers: certified optima, mean of {SEEDS.at(preset)} seeds and two standard errors. (a) Labels by chance;
            margins scaled so that they have a limit (l1 by sqrt(p), max-norm by 1 / sqrt(p)); classes can be separated from
            p / n = 1/2, dotted, on.
            (b) Of the separator's coordinates, the share that is not zero (l1), or at its bound (max-norm). (c) Labels by chance
            along one direction, P(1) = 1 / (1 + exp(-{STRENGTH:g} u)): probability of a wrong label on a new sample for the l1
            separator, and the least that any has (dotted).
        """)

    def sweeps(self, preset: Preset) -> list[list[str]]:
        size = [f"experiment={self.name}", f"seed=range(1,{SEEDS.at(preset) + 1})"]
        random = ["dataset=random_labels", "dataset.num_classes=2", f"log.norms=[{','.join(NORMS)}]"]
        logistic = ["dataset=linear_teacher", f"dataset.strength={STRENGTH:g}", "log.norms=[l1]",
                    "optimizer=coordinate_descent"]  # fmt: skip
        return [
            [*words, *size, f"dataset.samples={_samples(ratio, preset)}", f"dataset.dim={round(ratio * _samples(ratio, preset))}"]
            for part, words in ((RANDOM, random), (LOGISTIC, logistic))
            for ratio in RATIOS[part]
        ]

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """part, kind, norm, x, seed, margin, share, cosine, error.

        x is p / n. kind is ``limit``, the formula, without a seed; or ``optimum``, the certified optimum of a run's data, margin
        in the same scale. error is exact for a separator of that cosine.
        """
        rows = [row for part in (RANDOM, LOGISTIC) for row in _limits(part)]
        rows += [row for run in runs for row in _optima(run)]
        return pd.DataFrame(rows)

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        figure, axes = panels(1, 3, height=2.6)
        margins, shares, errors = axes[0]
        for norm in NORMS:
            _draw(margins, table[(table["part"] == RANDOM) & (table["norm"] == norm)], "margin", norm)
        for norm in ("l1", "linf"):
            _draw(shares, table[(table["part"] == RANDOM) & (table["norm"] == norm)], "share", norm)
        _draw(errors, table[table["part"] == LOGISTIC], "error", "l1")
        for axis in (margins, shares):
            axis.axvline(0.5, color=GREY, lw=0.9, ls=":")
        errors.axhline(_least_error(), color=GREY, lw=0.9, ls=":")
        log_axis(margins, "y")
        margins.set_ylabel("scaled maximum margin")
        shares.set_ylabel("share of coordinates")
        shares.set_ylim(0, 1)
        shares.annotate("not zero", (0.72, 0.9), ha="left", size=7.5, color=norm_look("l1").color)
        shares.annotate("at the bound", (2.2, 0.86), ha="left", size=7.5, color=norm_look("linf").color)
        errors.set_ylabel("test error")
        errors.set_ylim(0, 0.5)
        errors.annotate("least possible", (5.0, _least_error()), xytext=(0, 2), textcoords="offset points", ha="right", size=7.5,
                        color=GREY)  # fmt: skip
        for axis, letter, title in zip(
            axes[0], "abc", ("random labels", "their separators", "labels with a signal"), strict=True
        ):
            axis.set_title(f"({letter}) {title}", loc="left")
            axis.set_xlabel("features / samples")
            axis.set_xscale("log")
            axis.set_xticks([0.5, 1, 2, 5], ["0.5", "1", "2", "5"])
            axis.minorticks_off()
        kinds = [
            Line2D([], [], color=GREY, label="limit"),
            Line2D([], [], color=GREY, marker="o", ls="", ms=4.5, label="certified optima"),
        ]
        legend_below(figure, [*(norm_look(norm).handle() for norm in NORMS), *kinds])
        return figure

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        if preset == "smoke":
            return []
        claims = [self._margins(table, RANDOM, norm, preset) for norm in NORMS]
        claims += [self._shares(table, norm, what, preset) for norm, what in (("l1", "non-zero"), ("linf", "clipped"))]
        return [*claims, self._margins(table, LOGISTIC, "l1", preset), self._errors(table, preset)]

    def _margins(self, table: pd.DataFrame, part: str, norm: str, preset: Preset) -> Claim:
        limits, means, errors = _compared(table, part, norm, "margin")
        name = "max-norm" if norm == "linf" else norm
        labels = "labels by chance" if part == RANDOM else f"labels by chance along a direction (strength {STRENGTH:g})"
        away = np.abs(means - limits)
        return self.claim(
            preset,
            f"{labels}: certified {name} margins, scaled, are at their limit for p / n = {_listed(JUDGED[part])}, means",
            measured=f"{numbers(means)} (standard errors {numbers(errors)})",
            expected=numbers(limits),
            tolerance=f"{ERRORS} standard errors + {ADDED:g}",
            holds=bool((away <= ERRORS * errors + ADDED).all()),
            setting=self._setting(part, preset),
        )

    def _shares(self, table: pd.DataFrame, norm: str, what: str, preset: Preset) -> Claim:
        limits, means, _ = _compared(table, RANDOM, norm, "share")
        return self.near(
            preset,
            f"labels by chance: share of {what} coordinates of the {'max-norm' if norm == 'linf' else norm} separator for"
            f" p / n = {_listed(JUDGED[RANDOM])}, means",
            means.tolist(),
            limits.tolist(),
            SHARE,
        )

    def _errors(self, table: pd.DataFrame, preset: Preset) -> Claim:
        limits, means, _ = _compared(table, LOGISTIC, "l1", "error")
        return self.claim(
            preset,
            f"labels by chance along a direction: test error of the l1 separator for p / n = {_listed(JUDGED[LOGISTIC])}, means",
            measured=numbers(means),
            expected=numbers(limits),
            tolerance=f"{TEST:g}",
            holds=bool((np.abs(means - limits) <= TEST).all()),
            setting=self._setting(LOGISTIC, preset),
        )

    def _setting(self, part: str, preset: Preset) -> str:
        if part == RANDOM:
            return self.setting(preset)
        return self.setting(preset).replace("random labels", f"logistic labels of strength {STRENGTH:g} along a random direction")


def _samples(ratio: float, preset: Preset) -> int:
    return SAMPLES.at(preset) // (2 if ratio >= WIDE else 1)


def _sizes(preset: Preset) -> str:
    return f"n = {SAMPLES.at(preset)} ({_samples(WIDE, preset)} from p / n = {WIDE:g} on)"


def _limits(part: str) -> list[dict[str, object]]:
    """The curves."""
    at = np.union1d(np.geomspace(*GRID[part], POINTS[part]), RATIOS[part])
    if part == LOGISTIC:
        return [_row(part, LIMIT, "l1", x, logistic_label_limit(x, STRENGTH)) for x in at]
    return [_row(part, LIMIT, norm, x, random_label_limit(norm, x)) for norm in NORMS for x in at]


def _row(part: str, kind: str, norm: str, x: float, found: MarginLimit, seed: int | None = None) -> dict[str, object]:
    told = {"margin": found.margin, "share": found.share, "cosine": found.cosine, "error": found.error}
    return {"part": part, "kind": kind, "norm": norm, "x": float(x), "seed": math.nan if seed is None else seed, **told}


def _optima(run: Run) -> list[dict[str, object]]:
    """What the certified optima of a run's data are like."""
    assert run.folder is not None
    cache, source = ReferenceCache(Path(run.folder).parents[1]), run.spec.dataset
    data = source.load()
    part = LOGISTIC if isinstance(source, LinearTeacher) else RANDOM
    norms = {label: make_norm(label) for label in (NORMS if part == RANDOM else NORMS[:1])}
    (found_optima,) = solve_all([(data, norms)], "exact", cache, silent)
    if isinstance(found_optima, NotSeparable):
        raise found_optima
    rows = []
    for norm, optimum in found_optima.items():
        separator = optimum.separator[1] - optimum.separator[0]
        cosine, error = 0.0, 0.5
        if isinstance(source, LinearTeacher):
            cosine = float(separator @ source.teacher() / np.linalg.norm(separator))
            error = label_error(cosine, STRENGTH)
        margin = optimum.lower * SCALES[norm](len(separator))
        found = MarginLimit(margin, _share(norm, separator), cosine, error)
        rows.append(_row(part, OPTIMUM, norm, len(separator) / len(data.y), found, run.spec.seed))
    return rows


def _share(norm: str, separator: np.ndarray) -> float:
    sizes = np.abs(separator) / np.abs(separator).max()
    return {"l1": float((sizes > ZERO).mean()), "linf": float((sizes > 1 - BOUND).mean())}.get(norm, math.nan)


def _compared(table: pd.DataFrame, part: str, norm: str, column: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Limits, means over seeds and their standard errors where claims are made."""
    mine = table[(table["part"] == part) & (table["norm"] == norm)]
    limits = mine[mine["kind"] == LIMIT].set_index("x")[column]
    found = mine[mine["kind"] == OPTIMUM].groupby("x")[column]
    at = list(JUDGED[part])
    return limits.loc[at].to_numpy(), found.mean().loc[at].to_numpy(), found.sem().loc[at].to_numpy()


def _listed(ratios: Sequence[float]) -> str:
    return ", ".join(f"{ratio:g}" for ratio in ratios)


def _least_error() -> float:
    """The error of the signal's own direction, all but for rounding."""
    return label_error(1 - 1e-12, STRENGTH)


def _draw(axis: Axes, rows: pd.DataFrame, column: str, norm: str) -> None:
    """A limit as a line and optima as markers with two standard errors."""
    look = norm_look(norm)
    line = rows[rows["kind"] == LIMIT]
    axis.plot(line["x"], line[column], color=look.color, lw=1.2)
    found = rows[rows["kind"] == OPTIMUM].groupby("x")[column].agg(["mean", "sem"])
    axis.errorbar(found.index, found["mean"], 2 * found["sem"].fillna(0), color=look.color, ls="", marker=look.marker, ms=4.5,
                  capsize=2)  # fmt: skip
