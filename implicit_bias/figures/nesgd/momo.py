"""Steps that need no rate: Polyak's and Momo's in three norms, beside descent with a constant step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from implicit_bias.analysis.curves import over_seeds
from implicit_bias.analysis.runs import Run
from implicit_bias.figures.base import FIGURES, Figure, PerPreset, Preset, one_line
from implicit_bias.figures.claims import Claim, Finding
from implicit_bias.figures.papers import MIXTURE
from implicit_bias.plotting.explorer import STEP, Explorer, Quantity
from implicit_bias.plotting.style import DASHED, DOTTED, GREY, Look, legend_below, log_axis, log_spaced, norm_look, panels

NORMS = ("l2", "spectral", "linf")
TRUNCATED = ("optimizer.truncate=true", "schedule.lr=inf")
PLAIN, DECAYING, POLYAK, MOMO, STALE = "plain", "decaying", "polyak", "momo", "stale"
METHODS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        PLAIN: ("schedule.lr=auto",),
        DECAYING: ("schedule.lr=auto", "schedule.power=0.5"),
        POLYAK: (*TRUNCATED, "optimizer.beta=0"),
        MOMO: (*TRUNCATED, "optimizer.beta=0.95"),
        STALE: (*TRUNCATED, "optimizer.beta=0.95", "optimizer.stale=true"),
    }
)
#: What is shown in one norm alone: in l2 the step that is far behind there, in the spectral norm what saves a decomposition.
ONLY = {DECAYING: "l2", STALE: "spectral"}
LOOKS = {
    PLAIN: Look("constant step", GREY, "h"),
    DECAYING: Look(r"step $t^{-1/2}$", GREY, "H", DOTTED),
    POLYAK: Look("truncated, no momentum (Polyak)", "#E69F00", "o"),
    MOMO: Look(r"truncated, $\beta$ = .95 (Momo)", "#0072B2", "s"),
    STALE: Look("the same, stale nuclear norm", "#D55E00", "v", DASHED),
}
STEPS = PerPreset(smoke=100, default=10_000, paper=100_000)
SEEDS = PerPreset(smoke=1, default=5, paper=20)
#: Of the claims: what Polyak's steps reach in l2, where steps that decay are below the second; what Momo reaches in the spectral
#: norm; how near the stale norm comes to it; below what steps that are too long stay.
REACHED_L2, LEFT_BEHIND, REACHED_SPECTRAL, NEAR, STALLED = 0.99, 0.2, 0.985, 0.001, 0.9


@FIGURES.register
class Momo(Figure):
    """Truncated steps reach the l2 and the spectral margin without a rate; in a ball with corners only with momentum."""

    name = "momo"
    headline = "Momo reaches the spectral"
    order = 140
    title = "Truncated steps: the margin without a learning rate"
    source = (
        "this project's own check; the methods are those of Crawshaw et al., arXiv 2510.09827, section 4, and Schaipp et al.,"
        " arXiv 2305.07583"
    )
    kind = "check"
    paper = "nesgd"
    minutes = PerPreset(smoke=0.1, default=1.0, paper=20.0)

    def setting(self, preset: Preset) -> str:
        return f"{SEEDS.at(preset)} seeds of {MIXTURE}; linear model from zero, {STEPS.at(preset):,} steps"

    def caption(self, preset: Preset) -> str:
        return one_line(f"""
            Own-norm margin gap against the step, mean of {SEEDS.at(preset)} seeds of {MIXTURE} and their range. Grey:
            unnormalised steepest descent with the constant step of schedule.lr=auto (in l2, dotted, also times t^-1/2, which
            other methods have). The others have schedule.lr=inf and take a
            step as long as their linear model of the loss allows before it is zero: the tangent (Polyak's step size), or an
            average of the tangents so far with weights of momentum .95 (Momo), in the spectral norm also with the nuclear norm
            of the step before in place of this step's.
        """)

    def sweeps(self, preset: Preset) -> list[list[str]]:
        size = [f"steps={STEPS.at(preset)}", f"seed=range(1,{SEEDS.at(preset) + 1})"]
        return [
            [f"experiment={self.name}", f"norm={norm}", *words, *size]
            for norm in NORMS
            for method, words in METHODS.items()
            if norm == ONLY.get(method, norm)
        ]

    def table(self, runs: Sequence[Run], preset: Preset) -> pd.DataFrame:
        """norm, method, seed, step, ratio and log_loss after step 0."""
        parts = []
        for run in runs:
            rows = run.trajectory
            own = run.spec.working_norm.label
            rows = rows[(rows["norm"] == own) & (rows["step"] > 0)]
            parts.append(rows.assign(method=method_of(run), ratio=rows["margin"] / rows["max_margin"]))
        return pd.concat(parts, ignore_index=True)[["norm", "method", "seed", "step", "ratio", "log_loss"]]

    def explorer(self, table: pd.DataFrame) -> Explorer:
        quantities = (
            Quantity("gap", "relative gap, own norm", log=True),
            Quantity("ratio", "margin / max margin, own norm"),
            Quantity("log_loss", "log loss"),
        )
        norms = {norm: norm_look(norm).label for norm in NORMS}
        return Explorer(table.assign(gap=1 - table["ratio"]), "method", LOOKS, (STEP,), quantities, {"norm": ("norm", norms)})

    def draw(self, table: pd.DataFrame, preset: Preset) -> Drawing:
        figure, axes = panels(1, len(NORMS), height=2.7, sharey=True)
        rows = table.assign(gap=1 - table["ratio"])
        for axis, norm in zip(axes[0], NORMS, strict=True):
            _draw_panel(axis, rows[rows["norm"] == norm])
            axis.set_title(norm_look(norm).label)
            axis.set_xlim(1, table["step"].max())
        axes[0, 0].set_ylabel("own-norm margin gap")
        legend_below(figure, [look.handle() for look in LOOKS.values()], ncols=3)
        return figure

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        if preset == "smoke":
            return []
        last = last_ratios(table)
        return [self._reached_l2(last, preset), *self._momo_claims(last, preset), *self._stalled(last, preset)]

    def _reached_l2(self, last: pd.Series, preset: Preset) -> Claim:
        polyak, plain, decaying = (last["l2", method] for method in (POLYAK, PLAIN, DECAYING))
        return self.claim(
            preset,
            "Polyak's steps reach the l2 margin, nothing tuned, where gradient descent with t^-1/2 is far from it: ratios, mean",
            measured=f"{_told(polyak)} against {_told(decaying)} (constant step: {_told(plain)})",
            tolerance=f">= {REACHED_L2:g}, < {LEFT_BEHIND:g}",
            holds=polyak.mean() >= REACHED_L2 and decaying.mean() < LEFT_BEHIND,
        )

    def _momo_claims(self, last: pd.Series, preset: Preset) -> list[Claim]:
        momo, stale = last["spectral", MOMO], last["spectral", STALE]
        away = float((momo - stale).abs().max())
        return [
            self.claim(
                preset,
                "Momo reaches the spectral margin, nothing tuned: ratio, mean and worst data set",
                measured=f"{_told(momo)} / {momo.min():.4f}",
                tolerance=f">= {REACHED_SPECTRAL:g}",
                holds=momo.min() >= REACHED_SPECTRAL,
            ),
            self.claim(
                preset,
                "the nuclear norm of the step before does as well: largest difference of the spectral ratios",
                measured=f"{away:.1e}",
                kind="paper",
                source="Crawshaw et al., arXiv 2510.09827, section 4",
                expected="as good",
                tolerance=f"<= {NEAR:g}",
                holds=away <= NEAR,
            ),
        ]

    def _stalled(self, last: pd.Series, preset: Preset) -> list[Claim]:
        return [
            self.claim(
                preset,
                f"in the {norm} norm, whose ball has corners, Polyak's steps are too long without momentum: ratio, mean",
                measured=f"{_told(last[norm, POLYAK])}, with momentum {_told(last[norm, MOMO])}",
                tolerance=f"< {STALLED:g}",
                holds=last[norm, POLYAK].mean() < STALLED,
            )
            for norm in ("spectral", "linf")
        ]

    def findings(self, table: pd.DataFrame, preset: Preset) -> list[Finding]:
        if preset == "smoke":
            return []
        last, loss = last_ratios(table), last_ratios(table, "log_loss")
        told = ", ".join(f"{norm} {last[norm, MOMO].mean():.4f}" for norm in NORMS)
        return [
            Finding(
                "Truncated at a loss of zero, descent needs no step size, and its gap falls like 1 / t",
                one_line("""
                    Without a bound on the rate a step goes to where the model of the loss is zero, which is as long as the
                    loss over the gradient's dual norm: a constant length, one over the margin, however small both are. So
                    log t becomes 1 / t. In a ball with corners such steps jump from one to another, and the averaged model,
                    which is flatter, shortens them.
                """),
                f"Momo: {told}; log loss at the end {loss['spectral', MOMO].mean():.0f} with momentum,"
                f" {loss['spectral', POLYAK].mean():.0f} without (spectral)",
            )
        ]


def method_of(run: Run) -> str:
    """Which of the figure's methods a run is."""
    if not run.spec.value("optimizer.truncate"):
        return PLAIN if run.spec.schedule.constant else DECAYING
    if not run.spec.value("optimizer.beta"):
        return POLYAK
    return STALE if run.spec.value("optimizer.stale") else MOMO


def last_ratios(table: pd.DataFrame, column: str = "ratio") -> pd.Series:
    """A column after the last step, by norm, method and seed."""
    last = table[table["step"] == table["step"].max()]
    series: pd.Series = last.set_index(["norm", "method", "seed"])[column].sort_index()
    return series


def _draw_panel(axis: Axes, rows: pd.DataFrame) -> None:
    for method, look in LOOKS.items():
        curve = over_seeds(rows[rows["method"] == method], "gap")
        if curve.empty:
            continue
        axis.plot(curve.index, curve["mean"], lw=1.5, **look.plot(log_spaced(curve.index, 6)))
        axis.fill_between(curve.index, curve["min"], curve["max"], color=look.color, alpha=0.15, lw=0)
    log_axis(axis, "x")
    log_axis(axis, "y")
    axis.set_xlabel("step $t$")


def _told(ratios: pd.Series) -> str:
    return f"{ratios.mean():.4f} ± {ratios.std(ddof=0):.4f}"
