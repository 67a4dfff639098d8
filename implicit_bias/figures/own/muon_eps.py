"""The constant of torch.optim.Muon's normalisation: below eps/485 its steps are those of gradient descent, and so is its bias."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D
from torch import Tensor

from implicit_bias.analysis.runs import Run
from implicit_bias.analysis.weights import Weights, run_weights
from implicit_bias.figures.base import FIGURES, Figure, PerPreset, Preset, one_line
from implicit_bias.figures.claims import Claim, Finding
from implicit_bias.figures.own import muon_eps_judged as judged
from implicit_bias.figures.own.muon_eps_judged import L2_OPTIMUM, RUN, SLOPE, TORCH, USUAL, lifted
from implicit_bias.models import Data
from implicit_bias.norms import make_norm
from implicit_bias.plotting.explorer import STEP, Explorer, Quantity
from implicit_bias.plotting.labels import theory, titled
from implicit_bias.plotting.style import DASHED, GREY, Look, legend_below, log_axis, norm_look, optimizer_look, panels
from implicit_bias.solvers.reference import solve_exact

DATA = "a Gaussian mixture (4 classes, 12 features, 6 samples a class, noise 1)"
EPS = (0.0, 1e-10, USUAL, 1e-4)
STEPS = PerPreset(smoke=1000, default=100_000, paper=1_000_000)
SEEDS = PerPreset(smoke=2, default=5, paper=10)
NORMS = ("l2", "spectral")
LOOKS = {
    0.0: Look(r"$\epsilon = 0$", "#111111", "", DASHED),
    1e-10: Look(r"$10^{-10}$", "#5E2750", ""),
    USUAL: Look(r"$10^{-7}$ (torch)", optimizer_look("muon_ns").color, ""),
    1e-4: Look(r"$10^{-4}$", "#D55E00", ""),
}
# Scales of the gradients that torch's own class is handed, matrices of this shape.
SCALES, SHAPE = (1.0, 1e-8, 1e-9, 1e-10, 1e-12), (8, 16)
LEAST_GRADIENT, LN_10 = -14.0, float(np.log(10))
# Records of a power of ten of the loss: steps get short within two of them, and between records, a fifth of a power apart,
# lengths are interpolated.
LEVELS = 5
COLUMNS = ["part", "eps", "seed", "step", "log10_gradient", "share", "length", "law", "descent", *NORMS]


@FIGURES.register
class MuonEps(Figure):
    """With eps > 0 Newton-Schulz Muon stops being normalised below eps/485 and becomes gradient descent."""

    name = "muon_eps"
    headline = "at the end the gradient"
    order = 62
    title = "Muon's eps: normalised steps until the gradient falls to eps/485, gradient descent then"
    source = "derived here from 3.4445^5 = 485 of torch.optim.Muon"
    kind = "derived"
    minutes = PerPreset(smoke=0.1, default=0.2, paper=3.0)

    def setting(self, preset: Preset) -> str:
        return (
            f"{SEEDS.at(preset)} seeds of {DATA}; linear model, 5 Newton-Schulz steps of the gradient, constant lr .02,"
            f" {STEPS.at(preset):,} steps"
        )

    def caption(self, preset: Preset) -> str:
        return one_line(f"""
            Newton-Schulz Muon without momentum (5 of Jordan's steps, constant lr .02, {STEPS.at(preset):,} steps) on
            {SEEDS.at(preset)} seeds of {DATA}, with the gradient divided by max(its norm, eps). Left: spectral norm of the step
            against the norm of the gradient, each seed; dotted lines at eps/485. Middle: the same against steps, geometric means;
            the grey line falls like 1/t. Right: margin over its optimum under l2 and the spectral norm, means, with torch's eps
            (solid) and without (dashed).
        """)

    def sweeps(self, preset: Preset) -> list[list[str]]:
        free, *others = (f"{e:g}" for e in EPS)
        size = [f"steps={STEPS.at(preset)}", f"seed=range(1,{SEEDS.at(preset) + 1})"]
        kept = [f"optimizer.eps={','.join(others)}", f"log.levels={LEVELS}"]
        return [[f"experiment={self.name}", *own, *size] for own in ([f"optimizer.eps={free}"], kept)]

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """part, eps, seed, step, log10_gradient, share, length, law, descent, l2, spectral.

        Part ``run``, the records of every run after its start: log10 of the gradient's Frobenius norm, its largest singular value
        over that, spectral norm of the step that is taken there and the one that its law gives (:func:`lifted` of the singular
        values), Frobenius norm of the step over that of 485 gradient / eps, and margins over their optima. Part ``l2 optimum``:
        the same margins of the l2 separator, to which descent goes. Part ``torch``: the same of random gradients, and of the
        steps that torch.optim.Muon, without momentum, makes of them.
        """
        found = [_followed(run, weights) for run, weights in zip(runs, run_weights(runs), strict=True)]
        found += [_optimum(run) for run in runs if run.spec.value("optimizer.eps") == USUAL]
        return pd.concat([*found, _torch_steps(SEEDS.at(preset))], ignore_index=True).reindex(columns=COLUMNS)

    def explorer(self, table: pd.DataFrame) -> Explorer:
        rows = table[table["part"] == RUN]
        quantities = (
            Quantity("length", "spectral norm of the step", log=True),
            Quantity("log10_gradient", "log10 of the gradient's norm"),
            *(Quantity(norm, f"margin / max margin, {norm}") for norm in NORMS),
        )
        return Explorer(rows, "eps", LOOKS, (STEP,), quantities)

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        figure, axes = panels(1, 3, height=2.6)
        rows = table[table["part"] == RUN]
        self._draw_lengths(axes[0, 0], rows)
        self._draw_steps(axes[0, 1], rows)
        self._draw_margins(axes[0, 2], rows)
        titled(axes, ("length of a step, by gradient", "length of a step, by time", "margins (dashed: without eps)"))
        norms = [Line2D([], [], color=norm_look(norm).color, lw=1.4, label=f"{norm_look(norm).label} margin") for norm in NORMS]
        legend_below(
            figure, [*(look.handle(marker=False) for look in LOOKS.values()), *norms], handlelength=1.8, columnspacing=1.2
        )
        return figure

    def _draw_lengths(self, axis: Axes, rows: pd.DataFrame) -> None:
        for eps, look in LOOKS.items():
            for _, curve in rows[rows["eps"] == eps].groupby("seed"):
                seen = curve[curve["log10_gradient"] >= LEAST_GRADIENT - 1]
                axis.plot(seen["log10_gradient"], seen["length"], color=look.color, ls=look.line, lw=0.8)
            if eps > 0:
                axis.axvline(np.log10(eps / SLOPE), color=look.color, lw=0.9, ls=":")
        axis.set_xlim(0.3, LEAST_GRADIENT)
        axis.set_ylim(1e-4, 3)
        log_axis(axis, "y")
        axis.set_xlabel(r"$\log_{10}$ of the gradient's norm")
        axis.set_ylabel("spectral norm of the step")

    def _draw_steps(self, axis: Axes, rows: pd.DataFrame) -> None:
        # In the end all with eps > 0 are one curve: those beneath are wider.
        for (eps, look), width in zip(LOOKS.items(), (1.4, 3.2, 2.1, 1.0), strict=True):
            mine = _shared(rows[rows["eps"] == eps])
            mean = np.exp(np.log(mine["length"]).groupby(mine["step"]).mean())
            axis.plot(mean.index, mean, color=look.color, ls=look.line, lw=width)
        last = rows["step"].max()
        times = np.array([last / 30, last])
        theory(axis, times, 100 / times, "$1/t$", at=0, ha="left")
        axis.set_xlim(10, last)
        axis.set_ylim(1e-4, 3)
        log_axis(axis, "x")
        log_axis(axis, "y")
        axis.set_xlabel("step $t$")

    def _draw_margins(self, axis: Axes, rows: pd.DataFrame) -> None:
        for eps in (USUAL, 0.0):
            mine = _shared(rows[rows["eps"] == eps])
            for norm in NORMS:
                mean = mine.groupby("step")[norm].mean()
                axis.plot(mean.index, mean, color=norm_look(norm).color, ls="-" if eps else DASHED, lw=1.4)
        axis.axhline(1, color=GREY, lw=0.7, ls=":")
        axis.set_xlim(100, rows["step"].max())
        axis.set_ylim(0.7, 1.01)
        log_axis(axis, "x")
        axis.set_xlabel("step $t$")
        axis.set_ylabel("margin / optimum")

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        return [] if preset == "smoke" else judged.claims(self, table, preset)

    def findings(self, table: pd.DataFrame, preset: Preset) -> list[Finding]:
        return [] if preset == "smoke" else judged.findings(table)


def _shared(rows: pd.DataFrame) -> pd.DataFrame:
    """The records of steps at which every seed has one: those at levels of the loss are each seed's own."""
    seeds = rows.groupby("step")["seed"].transform("nunique")
    found: pd.DataFrame = rows[seeds == rows["seed"].nunique()]
    return found


def _followed(run: Run, weights: Weights) -> pd.DataFrame:
    """The records of a run: the gradient there, and the step that the optimizer takes from it."""
    data = Data(torch.from_numpy(weights.dataset.x)[None], torch.from_numpy(weights.dataset.y)[None], weights.dataset.num_classes)
    gradient = run.spec.model.objective(data, run.spec.loss).gradient(weights.blocks).blocks
    optimizer, eps = run.spec.optimizer, float(run.spec.value("optimizer.eps"))
    _, step = optimizer.update(optimizer.init(gradient), gradient, 1, optimizer.geometry(list(gradient), None))
    (g,), (direction,) = gradient.values(), step.direction.values()
    unit = g.unit()
    matrices = g.relative_to(unit)
    size = _frobenius(matrices)
    log_size = (unit + size.log()).flatten()
    singular = (torch.linalg.svdvals(matrices) / size[..., 0]).numpy()
    shown: dict[str, object] = {
        "log10_gradient": log_size / LN_10,
        "share": singular[:, 0],
        "length": torch.linalg.matrix_norm(direction, 2),
        "law": _law(singular, log_size.numpy(), eps),
    }
    if eps > 0:
        shown["descent"] = _frobenius(direction).flatten() / (SLOPE / eps * log_size.exp())
    rows = pd.DataFrame({"step": weights.steps, **{key: np.asarray(column) for key, column in shown.items()}})
    for norm in NORMS:
        mine = run.trajectory[run.trajectory["norm"] == norm]
        rows = rows.merge(pd.DataFrame({"step": mine["step"], norm: mine["margin"] / mine["max_margin"]}), how="left", on="step")
    return rows[rows["step"] > 0].assign(part=RUN, eps=eps, seed=run.spec.seed)


def _law(singular: np.ndarray, log_size: np.ndarray, eps: float) -> np.ndarray:
    """The spectral norm of the step, from singular values (R, r) in units of the Frobenius norm, and its logarithm (R,)."""
    inside = 1.0 if eps == 0 else np.exp(np.minimum(0.0, log_size - np.log(eps)))[:, None]
    longest: np.ndarray = lifted(singular * inside).max(-1)
    return longest


def _frobenius(matrices: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.matrix_norm(matrices, keepdim=True)
    return norms


def _optimum(run: Run) -> pd.DataFrame:
    """The margins of the l2 separator of a run's data, over their optima."""
    data = run.spec.dataset.load()
    best = {norm: solve_exact(data.x, data.y, data.num_classes, make_norm(norm)) for norm in NORMS}
    separator = torch.from_numpy(best["l2"].separator)[None]
    margin = {norm: best["l2"].lower / float(make_norm(norm).value(separator)) / best[norm].lower for norm in NORMS}
    return pd.DataFrame([{"part": L2_OPTIMUM, "seed": run.spec.seed, **margin}])


def _torch_steps(seeds: int) -> pd.DataFrame:
    """What torch.optim.Muon makes of random gradients of several sizes."""
    found = []
    for seed in range(1, seeds + 1):
        normal = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        singular = (torch.linalg.svdvals(normal) / normal.norm()).numpy()[None]
        for scale in SCALES:
            w = torch.zeros_like(normal).requires_grad_()
            w.grad = normal * (scale / normal.norm())
            torch.optim.Muon([w], lr=1.0, weight_decay=0.0, momentum=0.0, nesterov=False, eps=USUAL).step()
            law = _law(singular, np.log([scale]), USUAL)[0]
            found.append((seed, np.log10(scale), singular[0, 0], float(torch.linalg.matrix_norm(w.detach(), 2)), law))
    return pd.DataFrame(found, columns=["seed", "log10_gradient", "share", "length", "law"]).assign(part=TORCH, eps=USUAL)
