"""Torch's optimizers and those of packages as they are shipped: margins they reach, exponents they come nearest to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pandas as pd
from matplotlib.figure import Figure as Drawing

from implicit_bias.analysis.fingerprints import Fingerprint
from implicit_bias.analysis.identification import found_fingerprints
from implicit_bias.analysis.runs import Run
from implicit_bias.analysis.study import study
from implicit_bias.analysis.weights import run_weights
from implicit_bias.figures.base import FIGURES, Figure, PerPreset, Preset, one_line
from implicit_bias.figures.claims import Claim, Finding
from implicit_bias.figures.own import atlas_judged as judged
from implicit_bias.figures.own.atlas_drawn import draw
from implicit_bias.figures.own.torch_classes import (
    ADAM,
    OF_LOG,
    OF_PACKAGES,
    OF_TORCH,
    SGD,
    SHAMPOO,
    TRUE,
    TorchClass,
    class_of,
    left_out,
)
from implicit_bias.figures.papers import MIXTURE
from implicit_bias.measures.exponents import FAMILIES
from implicit_bias.optimizers.foreign.base import Foreign
from implicit_bias.storage.references import ReferenceCache

CLASSES = (*OF_TORCH, *OF_PACKAGES)
USED = PerPreset(smoke=(SGD, ADAM), default=CLASSES, paper=CLASSES)
STEPS = PerPreset(smoke=100, default=2000, paper=20_000)
SEEDS = PerPreset(smoke=1, default=3, paper=5)
SMALL = ["dataset.num_classes=3", "dataset.dim=5", "dataset.samples_per_class=3"]
DATA = PerPreset("a Gaussian mixture (3 classes, 5 features, 3 samples a class, noise 1)", MIXTURE, MIXTURE)
#: The classes whose symmetries are claimed.
STUDIED = (ADAM, SHAMPOO)
#: Seconds for one optimum.
TIMEOUT = 60.0


@FIGURES.register
class Atlas(Figure):
    """Which margin each optimizer that one can install reaches, with true gradients and with those of log L."""

    name = "atlas"
    headline = "as it is shipped"
    order = 75
    title = "An atlas of optimizers, as they are shipped"
    source = "this project's own check; that steepest descent maximises its norm's margin is Fan et al., Theorem 1"
    kind = "check"
    minutes = PerPreset(smoke=0.1, default=2.2, paper=30.0)

    def setting(self, preset: Preset) -> str:
        return f"{SEEDS.at(preset)} seeds of {DATA.at(preset)}; linear model, {STEPS.at(preset):,} steps"

    def caption(self, preset: Preset) -> str:
        used = USED.at(preset)
        return one_line(f"""
            Every class of torch.optim that steps by dense gradients and without a closure, and classes of packages, as they are
            shipped. Left: the norm that steps at a constant gradient are steepest descent in (grey: nearest, alignment below
            .99). Then the margin over its certified optimum in five norms after {STEPS.at(preset):,} steps, mean of
            {SEEDS.at(preset)} seeds of {DATA.at(preset)}, linear model; framed: the class's own
            norm; and the exponent p whose margin it comes nearest to, l_p or Schatten (S), grey where kappa is below .9 and bold
            from .97 on. Rates are schedule.lr=auto where it means something, else {_rates(used)};
            Muon, SOAP without weight decay. The exponent found is that of the mean 1/p.
        """) + left_out(used)

    def sweeps(self, preset: Preset) -> list[list[str]]:
        small = SMALL if preset == "smoke" else []
        size = [f"experiment={self.name}", f"steps={STEPS.at(preset)}", f"seed=range(1,{SEEDS.at(preset) + 1})", *small]
        return [[*size, *one.words(feed)] for one in USED.at(preset) if one.installed for feed in (TRUE, OF_LOG)]

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """Rows of four parts, told by ``part``.

        ratio: margin over its optimum in the five norms. fit: found (1/p) and ratio of the peak in each family, and log_loss.
        static: found (1/p) and alignment of steps at a constant gradient. symmetry: difference under each transformation.
        """
        parents = {run.folder.parents[1] for run in runs if run.folder is not None}
        cache = ReferenceCache(min(parents, default=Path()))
        found = found_fingerprints(run_weights(runs), FAMILIES, cache, TIMEOUT, "cpu", lambda text: None)
        rows = [row for run, of in zip(runs, found, strict=True) for row in _reached(run, of)]
        optimizers = {class_of(CLASSES, run.spec): cast(Foreign, run.spec.optimizer) for run in runs}
        rows += [row for one, optimizer in optimizers.items() for row in _static(one, optimizer)]
        return pd.DataFrame(rows)

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        return draw(table, CLASSES)

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        return [] if preset == "smoke" else judged.claims(self, table, preset)

    def findings(self, table: pd.DataFrame, preset: Preset) -> list[Finding]:
        return [] if preset == "smoke" else judged.findings(table)


def _rates(classes: Sequence[TorchClass]) -> str:
    """The rates that are not automatic, in words."""
    given = [f"{one.label} lr {one.lr:g} t^-1/2" for one in classes if one.lr is not None]
    own = [one.label for one in classes if one.as_given]
    return ", ".join([*given, *([f"its own rate ({', '.join(own)})"] if own else [])]) or "given"


def _reached(run: Run, found: dict[str, Fingerprint]) -> Iterator[dict[str, Any]]:
    """What one run reached: its ratios in the named norms, and the peaks of both families."""
    keys = {"method": class_of(CLASSES, run.spec).label, "gradient": run.spec.value("optimizer.feed"), "seed": run.spec.seed}
    log_loss = run.trajectory["log_loss"].iloc[-1]
    for norm, (family, u) in judged.NORMS.items():
        fingerprint = found[family]
        yield {"part": "ratio", **keys, "norm": norm, "ratio": fingerprint.curves[-1].lower[fingerprint.us.index(u)]}
    for family, fingerprint in found.items():
        fit = fingerprint.fit
        u, kappa = (math.nan, math.nan) if fit is None else (fit.u, fit.kappa)
        yield {"part": "fit", **keys, "norm": family, "found": u, "ratio": kappa, "log_loss": log_loss}


def _static(one: TorchClass, optimizer: Foreign) -> Iterator[dict[str, Any]]:
    """What a class is before it sees data."""
    for family, exponent in (optimizer.constant.exponents or {}).items():
        yield {"part": "static", "method": one.label, "norm": family, "found": 1 / exponent.p, "alignment": exponent.alignment}
    if one in STUDIED:
        for name, difference in study(optimizer).symmetries.items():
            yield {"part": "symmetry", "method": one.label, "norm": name, "difference": difference}
