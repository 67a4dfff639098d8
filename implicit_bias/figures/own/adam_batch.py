"""Adam's limit at every batch size: the margin measured, and the one predicted from the data alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure as Drawing

from implicit_bias.analysis.identification import found_fingerprints
from implicit_bias.analysis.runs import Run
from implicit_bias.analysis.weights import run_weights
from implicit_bias.figures.base import FIGURES, Figure, PerPreset, Preset, one_line
from implicit_bias.figures.claims import Claim, Finding
from implicit_bias.figures.own import adam_batch_drawn as drawn
from implicit_bias.figures.own import adam_batch_judged as judged
from implicit_bias.figures.own.adam_batch_judged import BINARY, CURVE, END, EXPONENT, LP, MULTICLASS, PREDICTED
from implicit_bias.measures.adam_limits import AdamLimit, adam_limit
from implicit_bias.measures.margins import cosine
from implicit_bias.plotting.explorer import STEP, Explorer, Quantity
from implicit_bias.plotting.style import Look
from implicit_bias.storage.references import ReferenceCache

NORMS = ("linf", "l2")
STEPS = PerPreset(smoke=2_000, default=1_500_000, paper=6_000_000)
SEEDS = PerPreset(smoke=1, default=3, paper=3)
BETA2 = 0.9998
COLUMNS = ["part", "problem", "batch", "norm", "seed", "step", "epoch", "ratio", "predicted", "cosine", "u", "low", "high"]
#: Seconds for one optimum of the exponents.
TIMEOUT = 60.0


@dataclass(frozen=True)
class Problem:
    """A data set with the batch sizes that are run on it.

    Attributes:
        words: The data, as typed.
        told: The data, in words.
        samples: n.
        lengths: By batch size the sum of all steps, the same whatever their number: as much as the slowest direction needs.
        short: The batch sizes of the presets below paper; none where it is drawn at preset=paper alone.
    """

    words: tuple[str, ...]
    told: str
    samples: int
    lengths: Mapping[int, float]
    short: tuple[int, ...] = ()

    def sizes(self, preset: Preset) -> tuple[int, ...]:
        """The batch sizes of a preset."""
        return tuple(self.lengths) if preset == "paper" else self.short


#: With several classes one sample's gaps to two of them may differ by little: such directions need a far longer way, small
#: batches the longest.
PROBLEMS: Mapping[str, Problem] = MappingProxyType(
    {
        BINARY: Problem(
            ("dataset.num_classes=2", "dataset.dim=50", "dataset.samples=12"),
            "12 Gaussian samples of 50 features, two random labels",
            12,
            dict.fromkeys((1, 2, 3, 4, 6, 12), 6.6),
            (1, 3, 12),
        ),
        MULTICLASS: Problem(
            ("dataset=gaussian_mixture", "dataset.num_classes=4", "dataset.dim=12", "dataset.samples_per_class=6"),
            "a Gaussian mixture of 4 classes, 12 features, 6 samples a class",
            24,
            {1: 1000.0, 4: 500.0, 12: 120.0, 24: 60.0},
        ),
    }
)


CHOSEN = " With four classes the step lengths were chosen after runs had been seen."


@FIGURES.register
class AdamBatch(Figure):
    """Between the max-norm's optimum, for the full batch, and another one for single samples: each batch size has its own."""

    name = "adam_batch"
    headline = "two classes: the max-norm margin"
    order = 80
    title = "Adam's limit at every batch size is known before the run"
    source = "derived here: the law of implicit_bias/measures/adam_limits.py (at b = 1 Baek, Song and Yun, arXiv 2510.26303)"
    kind = "derived"
    minutes = PerPreset(smoke=0.1, default=0.6, paper=10.0)

    def setting(self, preset: Preset) -> str:
        data = "; ".join(PROBLEMS[name].told for name in drawn_problems(preset))
        return (
            f"seeds 1 to {SEEDS.at(preset)}; {data}; linear model from zero, Adam, beta1 .9, beta2 {BETA2:g}, eps 0, reshuffled,"
            f" constant step, {STEPS.at(preset):,} steps"
        )

    def caption(self, preset: Preset) -> str:
        data = "; ".join(f"{name}: {PROBLEMS[name].told}" for name in drawn_problems(preset))
        return one_line(f"""
            Adam (beta1 .9, beta2 {BETA2:g}, eps 0, reshuffled mini-batches, constant step) after {STEPS.at(preset):,} steps,
            seeds 1 to {SEEDS.at(preset)} ({data}). Left and middle: margin over its optimum in the max-norm and in l2 against the
            batch size, a marker a seed (shades); curves are the limit as the data tell it beforehand, at every size, nothing
            fitted. Right: how far the max-norm ratio is from the prediction against epochs, by batch size, mean over seeds. Steps
            are so small that the loss changes little within Adam's memory of 1 / (1 - beta2) steps.
        """) + (CHOSEN if MULTICLASS in drawn_problems(preset) else "")

    def sweeps(self, preset: Preset) -> list[list[str]]:
        steps = STEPS.at(preset)
        size = [
            f"experiment={self.name}",
            f"steps={steps}",
            f"seed=range(1,{SEEDS.at(preset) + 1})",
            f"optimizer.beta2={BETA2:g}",
        ]
        return [
            [*size, *PROBLEMS[name].words, f"batch.size={batch}", f"schedule.lr={PROBLEMS[name].lengths[batch] / steps:.6g}"]
            for name in drawn_problems(preset)
            for batch in PROBLEMS[name].sizes(preset)
        ]

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """part, problem, batch, norm, seed, step, epoch, ratio, predicted, cosine, u, low, high.

        Parts: ``end``, a run's last record in each norm, with the prediction and the cosine of its parameters with the predicted
        ones; ``curve``, the records of the max-norm ratio; ``predicted``, the limit at every batch size, run or not;
        ``exponent``, u = 1/p of the l_p margin that the last parameters are nearest to, its interval, and their ratio there.
        """
        frames = [frame for run in runs for frame in (_end(run), _curve(run))]
        for name in drawn_problems(preset):
            frames += [_limits(run, name) for run in runs if _problem(run) == name and run.spec.batch.size == 1]
        return pd.concat([*frames, _exponents(runs)], ignore_index=True).reindex(columns=COLUMNS)

    def explorer(self, table: pd.DataFrame) -> Explorer:
        rows = table[(table["part"] == CURVE) & (table["problem"] == BINARY)]
        sizes = sorted(rows["batch"].unique())
        looks = {b: Look(f"b = {b}", drawn.color_of(b, PROBLEMS[BINARY].samples), "") for b in sizes}
        epoch = Quantity("epoch", "epoch", log=True)
        return Explorer(rows, "batch", looks, (STEP, epoch), (Quantity("ratio", "max-norm margin / optimum"),))

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        return drawn.drawing(table, {name: problem.samples for name, problem in PROBLEMS.items()})

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        return [] if preset == "smoke" else judged.claims(self, table, preset)

    def findings(self, table: pd.DataFrame, preset: Preset) -> list[Finding]:
        return [] if preset == "smoke" else judged.findings(table)


def drawn_problems(preset: Preset) -> list[str]:
    """The problems that a preset has batch sizes for."""
    return [name for name, problem in PROBLEMS.items() if problem.sizes(preset)]


def _problem(run: Run) -> str:
    return BINARY if run.spec.value("dataset.num_classes") == 2 else MULTICLASS


def _told(run: Run) -> dict[str, Any]:
    return {"problem": _problem(run), "batch": run.spec.batch.size, "seed": run.spec.seed}


def _epochs(run: Run, steps: Any) -> Any:
    """Epochs after so many steps, b steps / n."""
    return steps * run.spec.batch.size / PROBLEMS[_problem(run)].samples


def _end(run: Run) -> pd.DataFrame:
    """The last record in both norms, beside the limit."""
    (weights,) = run_weights([run])
    limit = _limit(run, int(run.spec.batch.size or 0))
    rows = run.trajectory[run.trajectory["step"] == run.trajectory["step"].max()].set_index("norm")
    near = float(cosine({"W": weights.w[-1:]}, {"W": torch.from_numpy(limit.separator)[None]})[0])
    ends = [
        {
            **_told(run),
            "part": END,
            "norm": norm,
            "step": run.spec.steps,
            "epoch": _epochs(run, run.spec.steps),
            "ratio": rows["margin"][norm] / rows["max_margin"][norm],
            "predicted": _ratio(limit, norm, rows["max_margin"][norm]),
            "cosine": near,
        }
        for norm in NORMS
    ]
    return pd.DataFrame(ends)


def _curve(run: Run) -> pd.DataFrame:
    """The max-norm ratio at every record, beside the limit's."""
    rows = run.trajectory[(run.trajectory["norm"] == "linf") & (run.trajectory["step"] > 0)]
    predicted = _ratio(_limit(run, int(run.spec.batch.size or 0)), "linf", rows["max_margin"].iloc[-1])
    ratio = (rows["margin"] / rows["max_margin"]).to_numpy()
    measured = pd.DataFrame({"step": rows["step"], "epoch": _epochs(run, rows["step"]), "ratio": ratio})
    return measured.assign(**_told(run), part=CURVE, norm="linf", predicted=predicted)


def _limits(run: Run, name: str) -> pd.DataFrame:
    """The limit at every batch size on the data of a run."""
    optima = run.trajectory.groupby("norm")["max_margin"].last()
    sizes = range(1, PROBLEMS[name].samples + 1)
    cells = [{"batch": b, "norm": norm, "predicted": _ratio(_limit(run, b), norm, optima[norm])} for b in sizes for norm in NORMS]
    return pd.DataFrame(cells).assign(part=PREDICTED, problem=name, seed=run.spec.seed)


def _exponents(runs: Sequence[Run]) -> pd.DataFrame:
    """The exponents that the last parameters show, of the runs that are separated."""
    folders = {run.folder.parents[1] for run in runs if run.folder is not None}
    cache = ReferenceCache(min(folders, default=Path()))
    found = found_fingerprints(run_weights(runs), (LP,), cache, TIMEOUT, "cpu", lambda text: None)
    rows = []
    for run, of in zip(runs, found, strict=True):
        fit = of[LP].fit
        if fit is not None:
            told = {"part": EXPONENT, "norm": LP, "step": run.spec.steps, "epoch": _epochs(run, run.spec.steps)}
            rows.append({**_told(run), **told, "ratio": fit.kappa, "u": fit.u, "low": fit.low, "high": fit.high})
    return pd.DataFrame(rows)


_found: dict[tuple[str, int], AdamLimit] = {}


def _limit(run: Run, batch: int) -> AdamLimit:
    """The fixed point on the run's data; runs of one data set share it."""
    key = run.spec.dataset_text, batch
    if key not in _found:
        data = run.spec.dataset.load()
        _found[key] = adam_limit(data.x, data.y, data.num_classes, batch)
    return _found[key]


def _ratio(limit: AdamLimit, norm: str, optimum: float) -> float:
    size = 1.0 if norm == "linf" else float(np.linalg.norm(limit.separator))
    return limit.margin / size / optimum
