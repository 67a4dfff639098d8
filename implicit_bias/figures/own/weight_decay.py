"""The margin that decoupled weight decay leaves, beside the number that is known before the run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Drawing

from implicit_bias.analysis.runs import Run
from implicit_bias.config.spec import RunSpec
from implicit_bias.figures.base import FIGURES, Figure, PerPreset, Preset, one_line
from implicit_bias.figures.claims import Claim, Finding
from implicit_bias.figures.own import weight_decay_drawn as drawn
from implicit_bias.figures.own import weight_decay_judged as judged
from implicit_bias.figures.own.loss_curves import read_off
from implicit_bias.figures.own.weight_decay_judged import ADAM, CURVE, END, MOMENTUM, PLAIN, READ, SINGLE, SINGLE_TOLD
from implicit_bias.measures.adam_limits import adam_limit
from implicit_bias.measures.decay_laws import decay_gap
from implicit_bias.plotting.explorer import STEP, Explorer, Quantity
from implicit_bias.plotting.style import optimizer_look
from implicit_bias.solvers.constrained import constrained_optimum

DATA = "a Gaussian mixture (4 classes, 12 features, 6 samples a class, noise 1)"
DECAYS = (0.3, 0.1, 0.05, 0.02, 0.01, 0.005)
# Of the runs that are followed step by step.
FOLLOWED = 0.02
READERS = (*PLAIN, "muon")
STEPS = PerPreset(smoke=1000, default=250_000, paper=1_000_000)
SEEDS = PerPreset(smoke=2, default=5, paper=10)
# The sum of eta_t weight_decay: of a start outside of the limit e^-TOTAL is left.
TOTAL = 12.0
# AdamW by single samples, whose size is known before the run as well: steps are so many that each is small, its memory is short.
SINGLE_DECAYS, SINGLE_BETA2 = (0.3, 0.1), 0.99
SINGLE_STEPS = PerPreset(smoke=2000, default=1_000_000, paper=4_000_000)
SINGLE_SEEDS = PerPreset(smoke=1, default=3, paper=10)
SINGLE_DATA = ("dataset.num_classes=2", "dataset.dim=50", "dataset.samples=12")
COLUMNS = ["part", "method", "norm", "seed", "weight_decay", "step", "gap", "predicted", "path", "size", "fw_gap", "read"]


@FIGURES.register
class WeightDecay(Figure):
    """With weight decay wd the margin falls short of its optimum by wd kappa / gamma*, kappa from the optimum's dual weights."""

    name = "weight_decay"
    headline = "AdamW, full batch"
    order = 70
    title = "Weight decay: the margin that it leaves is known before the run"
    source = "derived here: the law of implicit_bias/measures/decay_laws.py"
    kind = "derived"
    minutes = PerPreset(smoke=0.1, default=0.6, paper=5.0)

    def setting(self, preset: Preset) -> str:
        return (
            f"{SEEDS.at(preset)} seeds of {DATA}; linear model, cross entropy, eta_t wd = c t^-1/2 with sum {TOTAL:g} over"
            f" {STEPS.at(preset):,} steps"
        )

    def caption(self, preset: Preset) -> str:
        return one_line(f"""
            Decoupled weight decay wd on {SEEDS.at(preset)} seeds of {DATA}: step sizes c t^-1/2 / wd that sum to {TOTAL:g} / wd
            over {STEPS.at(preset):,} steps. Top: relative margin gap at the end in the method's own norm, means over seeds; solid
            line the law wd kappa / gamma* with kappa = H(w) + log max w of the optimum's dual weights, nothing fitted; dotted the
            best point of the ball N(W) <= 1 / wd, by a solver. Bottom: measured gap over the law for each seed (methods with
            momentum), lines the solver's; the grey band is 10 %. Right, top: the certificate fw_gap at wd = {FOLLOWED:g},
            geometric means; max-norm steps are slow there. Right, bottom, without decay and with lr=auto: how far off the optimum
            is as it is read off the loss curve over the last decade, -d log L / d(sum of steps) (thick), and how far the margin
            itself is from it (thin). Not drawn, but in the table and judged: AdamW (beta1 .9, beta2 {SINGLE_BETA2:g}, eps 0) by
            single samples of {SINGLE_TOLD}, {SINGLE_SEEDS.at(preset)} seeds.
        """)

    def sweeps(self, preset: Preset) -> list[list[str]]:
        steps, seeds = STEPS.at(preset), f"seed=range(1,{SEEDS.at(preset) + 1})"
        size = [f"experiment={self.name}", f"steps={steps}", seeds]
        rate = TOTAL / float(np.sum(np.arange(1, steps + 1, dtype=float) ** -0.5))
        held, free = ",".join((*PLAIN, *MOMENTUM, ADAM)), ",".join(READERS)
        return [
            *(
                [*size, f"optimizer={held}", f"optimizer.weight_decay={decay}", f"schedule.lr={rate / decay:.6g}"]
                for decay in DECAYS
            ),
            [*size, f"optimizer={free}"],
            *(self._single(decay, preset) for decay in SINGLE_DECAYS),
        ]

    def _single(self, decay: float, preset: Preset) -> list[str]:
        steps = SINGLE_STEPS.at(preset)
        return [
            "experiment=adam_batch",
            *SINGLE_DATA,
            f"steps={steps}",
            f"seed=range(1,{SINGLE_SEEDS.at(preset) + 1})",
            f"optimizer.beta2={SINGLE_BETA2:g}",
            "batch.size=1",
            f"optimizer.weight_decay={decay}",
            f"schedule.lr={TOTAL / steps / decay:.6g}",
        ]

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """part, method, norm, seed, weight_decay, step, gap, predicted, path, size, fw_gap, read.

        Parts: ``end``, the last record of every run with decay: relative gap, what the law and the solver say, the largest
        N(W) wd - 1 of all records (its digits would be lost beside the 1); ``curve``, the records of those with the decay that
        is followed; ``single``, the last records of AdamW by single samples: max|W| wd (``size``) and what it is to be;
        ``read``, runs without decay: what the loss shows over the decade before a record is off the optimum by, relative.
        """
        found = [_rows(run) for run in runs]
        return pd.concat(found, ignore_index=True).reindex(columns=COLUMNS)

    def explorer(self, table: pd.DataFrame) -> Explorer:
        methods = (*PLAIN, *MOMENTUM, ADAM)
        quantities = (Quantity("fw_gap", "fw_gap", log=True), Quantity("gap", "relative gap, own norm", log=True))
        rows = table[(table["part"] == CURVE) & (table["step"] > 0)]
        return Explorer(rows, "method", {method: optimizer_look(method) for method in methods}, (STEP,), quantities)

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        return drawn.drawing(table, FOLLOWED)

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        return [] if preset == "smoke" else judged.claims(self, table, preset)

    def findings(self, table: pd.DataFrame, preset: Preset) -> list[Finding]:
        return [] if preset == "smoke" else judged.findings(table)


def _rows(run: Run) -> pd.DataFrame:
    if run.spec.batch.size is not None:
        return _single_samples(run)
    return _free(run) if run.spec.value("optimizer.weight_decay") == 0 else _held(run)


def _single_samples(run: Run) -> pd.DataFrame:
    """Where max|W| wd has ended, and where the law puts it."""
    spec, decay = run.spec, float(run.spec.value("optimizer.weight_decay"))
    data = spec.dataset.load()
    last = run.trajectory[run.trajectory["norm"] == "linf"].iloc[-1]
    told = {"part": SINGLE, "method": spec.optimizer.name, "norm": "linf", "seed": spec.seed, "weight_decay": decay}
    size = float(last["param_norm"]) * decay
    law = adam_limit(data.x, data.y, data.num_classes, 1).decayed
    return pd.DataFrame([{**told, "step": last["step"], "size": size, "predicted": law}])


def _held(run: Run) -> pd.DataFrame:
    """The rows of a run with decay."""
    spec, decay = run.spec, float(run.spec.value("optimizer.weight_decay"))
    rows = run.trajectory[run.trajectory["norm"] == spec.own_label]
    told: dict[str, Any] = {"method": spec.optimizer.name, "norm": spec.own_label, "seed": spec.seed, "weight_decay": decay}
    last = rows.iloc[-1]
    optimum = float(last["max_margin"])
    end = {
        "part": END,
        "step": last["step"],
        "gap": last["relative_gap"],
        "predicted": float(decay_gap(decay, _constant(run), optimum)),
        "path": 1 - _margin_of_ball(spec, decay) / optimum,
        "size": float((rows["param_norm"] * decay - 1).max()),
        "fw_gap": last["fw_gap"],
    }
    frames = [pd.DataFrame([{**told, **end}])]
    if decay == FOLLOWED:
        curve = rows[["step", "fw_gap"]].assign(gap=rows["relative_gap"])
        frames.append(curve.assign(part=CURVE, **told))
    return pd.concat(frames, ignore_index=True)


def _constant(run: Run) -> float:
    """``gap_constant`` of the run's own norm, from its summary."""
    assert run.folder is not None
    summary = pd.read_csv(Path(run.folder) / "summary.csv")
    return float(summary.loc[summary["norm"] == run.spec.own_label, "gap_constant"].iloc[0])


_margins: dict[tuple[str, str, float], float] = {}


def _margin_of_ball(spec: RunSpec, decay: float) -> float:
    """The margin of the best point of the ball; methods of one norm share it."""
    assert spec.own_norm is not None
    key = spec.dataset_text, spec.own_norm.label, decay
    if key not in _margins:
        dataset = spec.dataset.load()
        _margins[key] = constrained_optimum(dataset.x, dataset.y, dataset.num_classes, spec.own_norm, 1 / decay).margin
    return _margins[key]


def _free(run: Run) -> pd.DataFrame:
    """The rows of a run without decay."""
    return read_off(run).assign(part=READ, weight_decay=0.0)
