"""Relative margin gaps against the step, and the claims about them: Figure 1 of Fan et al."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from implicit_bias.analysis.runs import last_rows
from implicit_bias.figures.base import Preset
from implicit_bias.figures.claims import Claim
from implicit_bias.figures.fan.common import MEASURED_BY, NORMS, UNTRUNCATED, FanFigure, Method, bound
from implicit_bias.plotting.explorer import Quantity
from implicit_bias.plotting.labels import theory
from implicit_bias.plotting.style import GREY, log_axis

OPTIMA = {"linf": 4.00182, "l2": 0.407561, "spectral": 0.980568, "nuclear": 0.146659}
#: From here on the line of the proven rate is drawn, and this far under the curve of the own norm.
LATE, BESIDE = 1000, 0.3
OPTIMA_FROM = "CVXPY optima that stand beside a public reproduction of Fan et al., arXiv 2502.04664, Fig. 1"
IN_FIGURE = "Fan et al., arXiv 2502.04664, Fig. 1, read off the picture"


class GapFigure(FanFigure):
    """Relative gap |max margin - margin| / max margin, each curve under its norm; at a gap of 1 the margin turns positive."""

    quantity = "relative_gap"
    quantities = (
        Quantity("relative_gap", "relative gap", log=True),
        Quantity("ratio", "margin / max margin"),
        Quantity("margin", "margin"),
    )

    def measured(self, table: pd.DataFrame) -> pd.DataFrame:
        ratio = 1 - table["relative_gap"]  # no margin is above the maximum, so the gap has a sign
        return table.assign(ratio=ratio, margin=ratio * table["max_margin"])

    def finish_panel(self, axis: Axes, rows: pd.DataFrame, method: Method) -> None:
        axis.axhline(1, color=GREY, lw=0.8, ls=":", zorder=1)
        own = rows[rows["norm"] == method.own]
        late = own[own["step"] >= LATE]
        if len(late) and method.optimizer != "adam":  # whose proven rate at lr t^-1/2 is another
            steps = late["step"].to_numpy(float)
            shape = bound(0.5, steps)
            start = BESIDE * float(late["relative_gap"].iloc[0])
            theory(axis, steps, start / shape[0] * shape, "proven rate", at=0.5, below=True, ha="right")

    def printed(self, method: Method) -> tuple[float, float, float] | None:
        return method.published

    def finish(self, axes: np.ndarray) -> None:
        for axis in axes.flat:
            axis.set_ylim(0.05, 7)
            log_axis(axis, "x")
            log_axis(axis, "y")
        for axis in axes[:, 0]:
            axis.set_ylabel("relative margin gap")
        axes[0, 0].annotate("separated below", (1.2, 0.94), va="top", size=6.5, color=GREY)

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        claims = [self.optima_claim(table, preset)]
        claims += [self.first_claim(table, m, preset) for m in self.methods if m.first_gaps]
        if preset == "smoke":
            return claims
        claims += [self.last_claim(table, m, preset) for m in self.methods]
        claims += [self.own_claim(table, m, preset) for m in self.methods]
        claims += [self.separation_claim(table, m, preset) for m in self.methods if m.separation]
        return claims + [self.published_claim(table, m, preset) for m in self.methods if m.published]

    def optima_claim(self, table: pd.DataFrame, preset: Preset) -> Claim:
        """The maximum margins of the published data."""
        found = last_rows(table).groupby("norm")["max_margin"].first()
        return self.near(
            preset, f"the maximum margins of the published data under {', '.join(OPTIMA)} are the published ones",
            [found.get(label, np.nan) for label in OPTIMA], list(OPTIMA.values()), 1e-4,
            kind="reproduction", relative=True, digits=6, source=OPTIMA_FROM,
        )  # fmt: skip

    def first_claim(self, table: pd.DataFrame, method: Method, preset: Preset) -> Claim:
        """The gaps after one step; the script printed them to two decimals."""
        assert method.first_gaps is not None
        text = f"{method.label}: relative gaps ({', '.join(NORMS)}) after the first step"
        return self.near(
            preset, text, self.at_first(table, method), method.first_gaps, 0.01, kind="check", digits=2, source=MEASURED_BY
        )

    def last_claim(self, table: pd.DataFrame, method: Method, preset: Preset) -> Claim:
        """The gaps after the last step."""
        text = f"{method.label}: relative gaps ({', '.join(NORMS)}) after 10,000 steps"
        return self.near(preset, text, self.at_end(table, method), method.gaps, 0.003, kind="check", source=MEASURED_BY)

    def own_claim(self, table: pd.DataFrame, method: Method, preset: Preset) -> Claim:
        """The paper's message: the own norm ends lowest."""
        ends = dict(zip(NORMS, self.at_end(table, method), strict=True))
        others = min(gap for norm, gap in ends.items() if norm != method.own)
        text = f"{method.label}: the gap under its own norm ({method.own}) ends lowest"
        return self.claim(
            preset, text, measured=f"{ends[method.own]:.3f} against {others:.3f}", holds=ends[method.own] < others, tolerance="<"
        )

    def separation_claim(self, table: pd.DataFrame, method: Method, preset: Preset) -> Claim:
        """Where the gap first falls below one."""
        assert method.separation is not None
        found = separation_step(table[(table["method"] == method.label) & (table["norm"] == method.own)])
        text = f"{method.label}: the step at which the data are first separated"
        return self.near(
            preset, text, [found], [method.separation], 0.05, kind="check", relative=True, digits=0, source=MEASURED_BY
        )

    def published_claim(self, table: pd.DataFrame, method: Method, preset: Preset) -> Claim:
        """The same gaps against the published picture itself."""
        assert method.published is not None
        text = f"{method.label}: the curves end where the published ones do ({', '.join(NORMS)})"
        got = self.at_end(table, method)
        return self.near(
            preset, text, got, method.published, 0.03, kind="paper", relative=True, source=IN_FIGURE, reason=UNTRUNCATED
        )


def separation_step(curve: pd.DataFrame) -> float:
    """Where a gap's curve first crosses 1, between two records by interpolation in log t; nan where it never does."""
    steps, gaps = curve["step"].to_numpy(float), curve["relative_gap"].to_numpy(float)
    below = np.flatnonzero(gaps < 1)
    if len(below) == 0:
        return float("nan")
    i = int(below[0])
    if i == 0:
        return float(steps[0])
    share = (gaps[i - 1] - 1) / (gaps[i - 1] - gaps[i])
    return float(np.exp(np.log(steps[i - 1]) + share * np.log(steps[i] / steps[i - 1])))
