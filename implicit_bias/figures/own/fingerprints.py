"""Which exponent's margin: steepest descent in sixteen norms, and the classes of torch's and of packages as they are shipped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Drawing

from implicit_bias.analysis.fingerprints import Fingerprint
from implicit_bias.analysis.identification import found_fingerprints
from implicit_bias.analysis.runs import Run, last_rows
from implicit_bias.analysis.weights import run_weights
from implicit_bias.figures.base import FIGURES, Figure, PerPreset, Preset, one_line
from implicit_bias.figures.claims import Claim, Finding
from implicit_bias.figures.own import fingerprints_judged as judged
from implicit_bias.figures.own.fingerprints_drawn import draw
from implicit_bias.figures.own.torch_classes import (
    ADAGRAD,
    ADAM,
    ADAM_SHORT,
    ADAM_SHORT_WITHOUT_EPS,
    ADAM_WITHOUT_EPS,
    LION,
    MADGRAD,
    MUON,
    OF_LOG,
    SGD,
    SHAMPOO,
    TRUE,
    class_of,
    left_out,
)
from implicit_bias.figures.papers import MIXTURE
from implicit_bias.measures.exponents import FAMILIES
from implicit_bias.storage.references import ReferenceCache

EXPONENTS = PerPreset(smoke=(4,), default=(1, 1.5, 2, 3, 4, 6, 8, math.inf), paper=(1, 1.5, 2, 3, 4, 6, 8, math.inf))
CLASSES = (SGD, ADAGRAD, LION, MADGRAD, SHAMPOO, MUON, ADAM_SHORT, ADAM_SHORT_WITHOUT_EPS, ADAM_WITHOUT_EPS, ADAM)
#: Classes that run with gradients of log L, too.
FED = (SGD, LION, MADGRAD, MUON, ADAM)
USED = PerPreset(smoke=((SGD, ADAM), (SGD,)), default=(CLASSES, FED), paper=(CLASSES, FED))
STEPS = PerPreset(smoke=100, default=10_000, paper=100_000)
FED_STEPS = PerPreset(smoke=100, default=5000, paper=50_000)
NETWORK_STEPS = PerPreset(smoke=20, default=3000, paper=30_000)
SEEDS = PerPreset(smoke=1, default=3, paper=5)
SMALL = ["dataset.num_classes=3", "dataset.dim=5", "dataset.samples_per_class=3"]
DATA = PerPreset("a Gaussian mixture (3 classes, 5 features, 3 samples a class, noise 1)", MIXTURE, MIXTURE)
TWO = PerPreset(
    smoke=["dataset.num_classes=2", "dataset.dim=3", "dataset.samples_per_class=2"],
    default=["dataset.num_classes=2", "dataset.samples_per_class=20"],
    paper=["dataset.num_classes=2", "dataset.samples_per_class=20"],
)
#: Seconds for one optimum.
TIMEOUT = 60.0


@FIGURES.register
class Fingerprints(Figure):
    """The margin over its optimum, exponent by exponent, peaks at the exponent that an optimizer descends in."""

    name = "fingerprints"
    headline = "steepest descent in l_p"
    order = 70
    title = "Fingerprints: which exponent's margin"
    source = "this project's own check; that steepest descent maximises its norm's margin is Fan et al., Theorem 1"
    kind = "check"
    minutes = PerPreset(smoke=0.1, default=3.2, paper=25.0)

    def setting(self, preset: Preset) -> str:
        return f"{SEEDS.at(preset)} seeds of {DATA.at(preset)}; linear model, t^-1/2, {STEPS.at(preset):,} steps"

    def caption(self, preset: Preset) -> str:
        exponents = ", ".join("inf" if math.isinf(p) else f"{p:g}" for p in EXPONENTS.at(preset))
        classes, _ = USED.at(preset)
        return one_line(f"""
            Margin over the certified optimum, kappa, against p (spaced by 1/p), mean of {SEEDS.at(preset)} seeds of
            {DATA.at(preset)}, linear model. Top: normalised steepest descent in l_p and in Schatten-p,
            p = {exponents}, {STEPS.at(preset):,} steps; dots are the exponents that were found, dotted lines those of the
            norms. Bottom, with the range over seeds:
            classes of torch.optim and of packages as they are shipped, by true gradients; dashed, by gradients of
            log L for {FED_STEPS.at(preset):,} steps. Rates are schedule.lr=auto with the power that goes with it (MADGRAD: lr
            .001 t^-1/2); Muon without weight decay; Adam
            (.9, .999) with eps 0 is not drawn, it lies on the curve with eps 1e-8.
        """) + left_out(classes)

    def sweeps(self, preset: Preset) -> list[list[str]]:
        small = SMALL if preset == "smoke" else []
        seeds = [f"experiment={self.name}", f"seed=range(1,{SEEDS.at(preset) + 1})"]
        size = [*seeds, f"steps={STEPS.at(preset)}", *small]
        exponents = ",".join(map(str, EXPONENTS.at(preset)))
        true, fed = USED.at(preset)
        descent = [[*size, "optimizer=nsd", f"norm={family}", f"norm.p={exponents}"] for family in FAMILIES]
        classes = [[*size, *one.words(TRUE)] for one in true if one.installed]
        fed_ones = [[*size, *one.words(OF_LOG), f"steps={FED_STEPS.at(preset)}"] for one in fed if one.installed]
        two = [*seeds, *TWO.at(preset), f"steps={STEPS.at(preset)}", "optimizer=nsd", "norm=schatten", "norm.p=4"]
        return [*classes, *fed_ones, *descent, two, *self._networks(preset, seeds)]

    def _networks(self, preset: Preset, seeds: list[str]) -> list[list[str]]:
        size = [*seeds, "model=mlp", "model.width=20", f"steps={NETWORK_STEPS.at(preset)}", "log.points=2", "log.weights=last"]
        return [
            [
                *size,
                "log.kkt_iters=60",
                "optimizer=nsd",
                f"norm={family}",
                "norm.p=4",
                f"log.norms=[{','.join(judged.NETWORK_NORMS[family])}]",
            ]
            for family in FAMILIES
        ]

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """Rows of five parts, told by ``part``; ``norm`` is a family, ``x`` is 1/p.

        curve: kappa at x. fit: found, low, high, kappa (of the peak), trend, resolution; x is the exponent of the method.
        depth: log_loss and size of the parameters. two classes: resolution. network: kappa, the KKT ratio, at x.
        """
        linear = [run for run in runs if run.spec.model.linear]
        parents = {run.folder.parents[1] for run in linear if run.folder is not None}
        cache = ReferenceCache(min(parents, default=Path()))
        found = found_fingerprints(run_weights(linear), FAMILIES, cache, TIMEOUT, "cpu", lambda text: None)
        parts = [_depth(run) for run in linear if run.spec.norm is None]
        for run, of in zip(linear, found, strict=True):
            parts += [_shown(run, family, fingerprint) for family, fingerprint in of.items()]
        parts += [_network(run) for run in runs if not run.spec.model.linear]
        return pd.concat(parts, ignore_index=True)

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        return draw(table, CLASSES)

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        return [] if preset == "smoke" else judged.claims(self, table, preset)

    def findings(self, table: pd.DataFrame, preset: Preset) -> list[Finding]:
        return [] if preset == "smoke" else judged.findings(table)


def _method(run: Run) -> str:
    """What a run is called in the table: nsd and its norm, or the class and what it is fed with."""
    if run.spec.norm is not None:
        return f"nsd {run.spec.norm.label}"
    return judged.called(class_of(CLASSES, run.spec), run.spec.value("optimizer.feed"))


def _depth(run: Run) -> pd.DataFrame:
    rows = run.trajectory[run.trajectory["step"] > 0].drop_duplicates("step")
    columns = {"log_loss": rows["log_loss"], "size": rows["param_norm"]}
    return pd.DataFrame({"part": "depth", "method": _method(run), "seed": run.spec.seed, "step": rows["step"], **columns})


def _shown(run: Run, family: str, found: Fingerprint) -> pd.DataFrame:
    """The rows of one run in one family: its fit, and its curve where that is drawn."""
    norm, fit = run.spec.norm, found.fit
    keys = {"method": _method(run), "norm": family, "seed": run.spec.seed, "step": run.spec.steps}
    if run.spec.value("dataset.num_classes") == 2:
        return pd.DataFrame([{"part": "two classes", **keys, "resolution": np.ptp(found.ideal)}])
    own = math.nan if norm is None else judged.place(norm)
    names = {"found": "u", "low": "low", "high": "high", "kappa": "kappa", "trend": "trend"}
    shown = {name: math.nan if fit is None else getattr(fit, attribute) for name, attribute in names.items()}
    rows = pd.DataFrame([{"part": "fit", **keys, "x": own, **shown, "resolution": np.ptp(found.ideal)}])
    if norm is not None and not norm.label.startswith(family):
        return rows
    curve = pd.DataFrame({"part": "curve", **keys, "x": np.array(found.us), "kappa": found.curves[-1].lower})
    return pd.concat([rows, curve], ignore_index=True)


def _network(run: Run) -> pd.DataFrame:
    """The KKT ratios of a network after its last step."""
    assert run.spec.norm is not None
    family = "lp" if run.spec.norm.label.startswith("lp") else "schatten"
    rows = last_rows(run.trajectory).set_index("norm")["kkt_ratio"]
    return pd.DataFrame(
        {
            "part": "network",
            "method": _method(run),
            "norm": family,
            "seed": run.spec.seed,
            "step": run.spec.steps,
            "x": list(judged.NETWORK_NORMS[family].values()),
            "kappa": [rows[label] for label in judged.NETWORK_NORMS[family]],
        }
    )
