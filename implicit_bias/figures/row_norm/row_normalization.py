"""Which margin generalises: row, spectral and max-norm descent on Gaussian clusters, and what the axes have to do with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Drawing

from implicit_bias.analysis.runs import Run, last_rows
from implicit_bias.analysis.weights import run_weights
from implicit_bias.datasets.gaussian_clusters import GaussianClusters
from implicit_bias.figures.base import FIGURES, Figure, PerPreset, Preset, one_line
from implicit_bias.figures.claims import Claim, Finding
from implicit_bias.figures.row_norm import row_normalization_drawn as drawn
from implicit_bias.figures.row_norm import row_normalization_judged as judged
from implicit_bias.figures.row_norm.row_normalization_drawn import RULES
from implicit_bias.figures.row_norm.row_normalization_judged import (
    ALIGNED,
    ALIGNMENTS,
    CLASSES,
    CLOUDS,
    DECAY,
    DIM,
    FEWER,
    METHODS,
    ROTATED,
    RULE,
    TEST_NOISE,
    TURNED,
)
from implicit_bias.figures.row_norm.rules import class_means, mean_angle, rule_accuracy

STEPS = PerPreset(smoke=200, default=3000, paper=20_000)
ALIGNED_STEPS = PerPreset(smoke=200, default=3000, paper=1_000_000)
SEEDS = PerPreset(smoke=1, default=10, paper=30)
TESTS = PerPreset(smoke=1200, default=12_000, paper=120_000)
COLUMNS = ["part", "method", "seed", "x", "accuracy", "to_mean", "to_sign", "certified"]


@FIGURES.register
class RowNormalization(Figure):
    """The row margin generalises best on Gaussian clusters, until noise and means share their axes; a rotation brings it back."""

    name = "row_normalization"
    headline = "RowGD classifies"
    order = 185
    title = "Gaussian clusters: which margin generalises, and the axes' part in it"
    source = 'Kim, Song and Yun, "From Geometry to Generalization: Why Row Normalization Can Beat Adam and Muon"'
    kind = "paper"
    paper = "row_normalization"
    minutes = PerPreset(smoke=0.1, default=0.6, paper=400.0)

    def setting(self, preset: Preset) -> str:
        return one_line(f"""
            {SEEDS.at(preset)} seeds of Gaussian clusters, 3 samples a class, noise .2236, linear model from zero, lr=auto: 60
            classes in 20 dimensions, noise in the test 2.2361, {STEPS.at(preset):,} steps; aligned covariances: {CLASSES}
            classes in {DIM} dimensions, variances 1/j, noise in the test {TEST_NOISE:g}, {ALIGNED_STEPS.at(preset):,} steps
        """)

    def caption(self, preset: Preset) -> str:
        return one_line(f"""
            Gaussian clusters, {SEEDS.at(preset)} seeds, linear model from zero, cross entropy, lr=auto, power .5,
            {TESTS.at(preset):,} test samples. Left: test accuracy after {STEPS.at(preset):,} steps on the paper's recipe (60
            classes, means N(0, I/20), 3 samples a class, noise .2236, in the test 2.2361; a point a seed, bars are means), and
            the mean angle of the rows of W to the class means, dashed that between a normal vector and its signs. Right:
            {CLASSES} classes in {DIM} dimensions, means with variances proportional to 1/j in feature j (the paper's own are not
            known here), the noise's are (1 - lambda) I + lambda times these, in the test {TEST_NOISE:g} long,
            {ALIGNED_STEPS.at(preset):,} steps (paper: 10^6, and rates chosen by accuracy): means and range over seeds, open
            markers after a rotation; grey lines are rules that classify by the class means, without training.
        """)

    def sweeps(self, preset: Preset) -> list[list[str]]:
        size = [f"experiment={self.name}", f"seed=range(1,{SEEDS.at(preset) + 1})", f"dataset.test_samples={TESTS.at(preset)}"]
        other = [f"dataset.num_classes={CLASSES}", f"dataset.dim={DIM}", f"dataset.decay={DECAY}"]
        other += [f"dataset.test_noise={TEST_NOISE}", f"optimizer={','.join(FEWER)}", f"steps={ALIGNED_STEPS.at(preset)}"]
        return [
            [*size, f"optimizer={','.join(METHODS)}", f"steps={STEPS.at(preset)}"],
            [*size, *other, f"dataset.aligned={','.join(map(str, ALIGNMENTS))}"],
            [*size, *other, f"dataset.aligned={','.join(map(str, TURNED))}", "dataset.rotate=1"],
        ]

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """part, method, seed, x, accuracy, to_mean, to_sign, certified.

        Parts: ``clouds``, the paper's recipe; ``aligned`` and ``rotated``, with x = dataset.aligned; ``rule``, rules there.
        ``to_mean`` and ``to_sign`` are mean angles of rows of W to the class means and to their signs, in degrees; ``certified``
        is the own margin over its proven upper bound.
        """
        rows = [_of_run(run, one.w[-1].numpy()) for run, one in zip(runs, run_weights(runs), strict=True)]
        rows += [
            found
            for run in runs
            if _part(_source(run)) == ALIGNED and run.spec.optimizer.name == FEWER[0]
            for found in _of_rules(_source(run))
        ]
        return pd.DataFrame(rows).reindex(columns=COLUMNS)

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        return drawn.drawing(table)

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        return [] if preset == "smoke" else judged.claims(self, table, preset)

    def findings(self, table: pd.DataFrame, preset: Preset) -> list[Finding]:
        return [] if preset == "smoke" else judged.findings(table)


def _source(run: Run) -> GaussianClusters:
    source = run.spec.dataset
    assert isinstance(source, GaussianClusters)
    return source


def _part(source: GaussianClusters) -> str:
    if source.decay == 0:
        return CLOUDS
    return ALIGNED if source.rotate is None else ROTATED


def _of_run(run: Run, w: np.ndarray) -> dict[str, Any]:
    source, last = _source(run), last_rows(run.trajectory).iloc[-1]
    means = class_means(source)
    return {
        "part": _part(source),
        "method": run.spec.optimizer.name,
        "seed": run.spec.seed,
        "x": source.aligned,
        "accuracy": last["test_accuracy"],
        "to_mean": mean_angle(w, means),
        "to_sign": mean_angle(w, np.sign(means)),
        "certified": last["margin"] / last["upper_bound"],
    }


def _of_rules(source: GaussianClusters) -> list[dict[str, Any]]:
    means, dataset = class_means(source), source.load()
    rows = {"mean": means, "unit": means / np.linalg.norm(means, axis=1, keepdims=True), "sign": np.sign(means)}
    told = {"part": RULE, "seed": source.seed, "x": source.aligned}
    return [{**told, "method": rule, "accuracy": rule_accuracy(rows[rule], dataset)} for rule in RULES]
