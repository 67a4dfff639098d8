"""What the figures of homogeneous networks have in common: their problems, how runs are read at a loss, how spreads are drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from implicit_bias.analysis.runs import Run
from implicit_bias.figures.base import PerPreset, Preset

#: The loss at which every method is compared, as in the paper: log10.
TARGET = -8.0
#: Loss levels, a decade.
LEVELS = 2
NORMS = ("l2", "linf", "spectral", "hybrid0.1")
SEEDS = PerPreset(smoke=1, default=4, paper=10)
#: Steps after which a run that has not reached the target is given up.
STEPS = PerPreset(smoke=60, default=20_000, paper=100_000)
#: Adam's averages as in a numpy script of this project.
ADAM = "optimizer.beta2=0.99"
#: Written for this project: not the paper's numbers.
SCRIPT = "a numpy script of this project, apart from the package, after Gronich and Vardi, arXiv 2602.16340"
CONDITION = "this project's own check: the condition of the comparisons after Gronich and Vardi, arXiv 2602.16340"
THEOREMS = "Gronich and Vardi, arXiv 2602.16340, Theorem 3.3 with its corollaries, and Theorems 3.6 and 3.7"
OUTSIDE = "this project's own check: outside the conditions of Gronich and Vardi, arXiv 2602.16340, Theorems 3.3 and 3.6"

_DATA = PerPreset(
    smoke=["dataset=digits", "dataset.samples=24", "dataset.pixels=4", "model.width=8"],
    default=["dataset=mnist", "dataset.samples=200", "dataset.pixels=14", "model.width=32"],
    paper=["dataset=mnist", "dataset.samples=2048", "model.width=64"],
)
_DATA_IN_WORDS = PerPreset(
    smoke="24 digits of 4 x 4 pixels, width 8",
    default="200 of MNIST's digits (14 x 14 pixels; the paper: 2,048 of 28 x 28), width 32",
    paper="2,048 of MNIST's digits, width 64 (the paper's is not known)",
)


def problem(preset: Preset) -> list[str]:
    """The two-layer network of the paper's Figure 1 on even against odd digits. Equal lists make equal runs, which are shared."""
    return [*_DATA.at(preset), f"steps={STEPS.at(preset)}", f"seed=range(1,{SEEDS.at(preset) + 1})"]


def problem_in_words(preset: Preset) -> str:
    """Data, width and seeds, for captions."""
    return f"{_DATA_IN_WORDS.at(preset)}, {SEEDS.at(preset)} seeds (data and start)"


def setting(preset: Preset) -> str:
    """Model, data, seeds and steps of :func:`problem`, for claims."""
    return (
        f"two-layer squared ReLU network on even against odd digits, {problem_in_words(preset)}; to a loss of 1e{TARGET:.0f}, "
        f"at most {STEPS.at(preset):,} steps"
    )


def method(name: str) -> list[str]:
    """The overrides of an optimizer as all these figures use it."""
    return [f"optimizer={name}", *([ADAM] if name in ("adam", "muon_adam") else [])]


def at_levels(run: Run, deepest: float = TARGET) -> pd.DataFrame:
    """The first row of each norm below every loss level down to ``deepest``, with the columns `level` (log10) and `optimizer`.

    Levels that were jumped over or never reached are left out.
    """
    rows = run.trajectory
    depth = -rows["log_loss"].to_numpy() / np.log(10)
    parts = []
    for j in range(round(-deepest * LEVELS) + 1):
        below = rows[depth >= j / LEVELS]
        if len(below):
            first = below[below["step"] == below["step"].min()]
            parts.append(first.assign(level=-j / LEVELS))
    whole: pd.DataFrame = pd.concat(parts, ignore_index=True)
    whole["optimizer"], whole["own"] = run.spec.optimizer.name, run.spec.working_norm.label
    return whole


def last_record(run: Run) -> pd.DataFrame:
    """The rows of a run's last record, with `optimizer`, its `own` norm and `log10_loss`."""
    last = run.trajectory[run.trajectory["step"] == run.trajectory["step"].max()]
    log10_loss = last["log_loss"] / np.log(10)
    rows: pd.DataFrame = last.assign(optimizer=run.spec.optimizer.name, own=run.spec.working_norm.label, log10_loss=log10_loss)
    return rows


def mean_and_std(
    table: pd.DataFrame, column: str, *, by: Sequence[str] = ("optimizer", "norm")
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean and standard deviation over seeds, as tables of the first key by the second."""
    cells = table.groupby(list(by))[column]
    return cells.mean().unstack(), cells.std().fillna(0).unstack()


def shares(table: pd.DataFrame, column: str = "margin") -> pd.DataFrame:
    """``table`` with `share`: the margin over the best of its norm and seed, which makes hard and easy data comparable."""
    best = table.groupby(["norm", "seed"])[column].transform("max")
    return table.assign(share=table[column] / best)


def winners(table: pd.DataFrame, norm: str) -> list[str]:
    """The optimizer of the largest margin under a norm, seed by seed."""
    rows = table[table["norm"] == norm]
    wide = rows.pivot(index="seed", columns="optimizer", values="margin").dropna(how="all")
    return [str(name) for name in wide.idxmax(axis=1)]
